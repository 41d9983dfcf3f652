"""A circuit of edges: each head of it reads some heads as they run, and all others as they were in another run.

Knocking out nodes lets every head of the circuit read every other one. Edges are finer: (sender, receiver), where
sender is a head and receiver (head, letter), letter one of q, k, v, or "logits". Derived in notebook 08.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching import Experiment, Run
from mi_course.patching.forward import Forward

Head = tuple[int, int]
Receiver = tuple[Head, str] | str


@torch.no_grad()
def run_edges(
    experiment: Experiment, edges: Collection[tuple[Head, Receiver]], source: Run
) -> Float[Tensor, "batch"]:
    """Each prompt's score when only these `edges` carry the clean run of the `experiment`, and all others the `source`.

    The embedding reaches everybody. Attention-only models: with MLPs in between, what they pass on would need edges of
    its own.
    """
    forward, clean = experiment.engine, experiment.clean
    if not isinstance(forward, Forward) or forward.has_mlp:
        raise CourseError("Edges are run in attention-only models with a plain pre-norm forward.")
    senders: dict[Receiver, set[Head]] = {}
    for sender, receiver in edges:
        senders.setdefault(receiver, set()).add(sender)
    ids, hidden = clean.layout.ids, clean.layout.hidden(clean.tokens.shape[1])
    start = clean.acts["resid_pre", 0]
    ablated = [forward.head_writes(i, source.acts["z", i]) for i in range(forward.n_layers)]
    biases = [0 if layer.b_O is None else layer.b_O for layer in forward.layers]
    running: dict[Head, Tensor] = {}

    def stream(receiver: Receiver, layer: int) -> Tensor:
        total = start
        for i in range(layer):
            total = total + ablated[i].sum(2) + biases[i]
        for head in senders.get(receiver, ()):
            if head[0] < layer:
                total = total + running[head] - ablated[head[0]][:, :, head[1]]
        return total

    for head in sorted({sender for sender, _ in edges}):
        running[head] = head_run(forward, head, {x: stream((head, x), head[0]) for x in "qkv"}, ids, hidden)
    final = stream("logits", forward.n_layers)[torch.arange(experiment.n_batch), experiment.pos]
    return experiment.question.score(forward.readout(final, experiment.question.columns))


def head_run(
    forward: Forward, head: Head, read: dict[str, Tensor], ids, hidden
) -> Float[Tensor, "batch pos d"]:
    """What one head writes if its queries, keys and values read these streams."""
    layer, number = head
    q, k, v = (forward.project(layer, read[x], ids, x)[0] for x in "qkv")
    q, k = forward.turned(layer, q, k, ids)
    k, v = forward.shared(k)[:, :, number], forward.shared(v)[:, :, number]
    scores = q[:, :, number] @ k.mT * forward.layers[layer].scale
    z = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    W_O = forward.layers[layer].W_O.unflatten(0, (forward.n_heads, forward.d_head))[number]
    return z @ W_O


def all_edges(heads: Collection[Head]) -> list[tuple[Head, Receiver]]:
    """Every edge among these heads and to the logits: with them, edges and nodes are the same circuit."""
    among = [((a, (b, x))) for a in heads for b in heads if a[0] < b[0] for x in "qkv"]
    return [*among, *((head, "logits") for head in heads)]
