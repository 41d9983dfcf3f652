"""Path patching, first step: what receivers would read if some senders wrote what they write in the other run.

Wang et al. (2022): every other head is held at the host run, so the change travels along the residual stream alone,
and through MLPs only where they are not frozen. The second step patches what the receivers read. Derived in
notebook 06.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.edits import Activations
from mi_course.patching.forward import Forward
from mi_course.patching.nodes import Node

SENDERS = ("resid_pre", "z", "result", "mlp_out")
RECEIVERS = ("q", "k", "v", "mlp_in")


def check_paths(senders: Sequence[Node], receivers: Sequence[Node] | str) -> None:
    """One sentence for what can neither send nor receive."""
    for node in senders:
        if node.kind not in SENDERS or (node.kind == "resid_pre" and node.layer):
            raise CourseError(
                f"{node} cannot send: senders are heads (z), mlp_out, and resid_pre 0, the embedding."
            )
    if isinstance(receivers, str):
        if receivers != "logits":
            raise CourseError(f"receivers={receivers!r}: pass nodes, or 'logits' for the direct effect.")
        return
    for node in receivers:
        if node.kind not in RECEIVERS:
            raise CourseError(f"{node} cannot receive: receivers are a head's q, k or v, and mlp_in.")
    if not any(below(sender, receiver) for sender in senders for receiver in receivers):
        raise CourseError("No sender stands below a receiver: nothing can travel between them.")


def below(sender: Node, receiver: Node) -> bool:
    """Whether the receiver reads a stream that the sender has written to."""
    if sender.kind == "resid_pre":
        return True
    same_block = receiver.kind == "mlp_in" and sender.kind != "mlp_out"
    return sender.layer < receiver.layer or (same_block and sender.layer == receiver.layer)


def sending(cells: Sequence[Sequence[Node]], kinds: tuple, layer: int, n_units: int, host: Tensor):
    """1 where a cell sends: [cell unit pos]."""
    mask = host.new_zeros(len(cells), n_units, host.shape[1])
    for number, cell in enumerate(cells):
        for node in cell:
            if node.kind in kinds and node.layer == layer:
                mask[number, node.head or 0, slice(None) if node.pos is None else node.pos] = 1
    return mask


@torch.no_grad()
def carried(
    forward: Forward,
    host: Activations,
    source: Activations,
    cells: Sequence[Sequence[Node]],
    wanted: set[tuple[str, int]],
    freeze_mlps: bool,
) -> dict[tuple[str, int], Float[Tensor, "cell batch pos *rest"]]:
    """What each wanted receiver computes in each cell: q, k, v by (letter, layer), an MLP's output by ("mlp_in", layer).

    The last residual stream is under ("logits", n_layers).
    """
    values, pos = {}, torch.arange(host["resid_pre", 0].shape[1], device=forward.W_E.device)
    moved = lambda site, i: source[site, i] - host[site, i]  # noqa: E731
    embedded = sending(cells, ("resid_pre",), 0, 1, host["resid_pre", 0])
    stream = torch.einsum(
        "cut,btd->cbtd", embedded, moved("resid_pre", 0)
    )  # what all senders add: cell batch pos d
    for i in range(forward.n_layers):
        if any((letter, i) in wanted for letter in "qkv"):
            values |= receive(forward, i, host["resid_pre", i] + stream, pos)
        mask = sending(cells, ("z", "result"), i, forward.n_heads, host["resid_pre", 0])
        if bool(mask.any()):
            stream = stream + torch.einsum("cht,bthd->cbtd", mask, forward.head_writes(i, moved("z", i)))
        if forward.act is None:
            continue
        if ("mlp_in", i) in wanted or not freeze_mlps:
            out = forward.mlp_write(i, forward.neurons(i, host["resid_mid", i] + stream))
            values["mlp_in", i] = out
        change = torch.zeros_like(stream) if freeze_mlps else out - host["mlp_out", i]
        mask = sending(cells, ("mlp_out",), i, 1, host["resid_pre", 0]).bool()[:, 0, None, :, None]
        stream = stream + torch.where(mask, moved("mlp_out", i), change)
    values["logits", forward.n_layers] = host["resid_post", forward.n_layers - 1] + stream
    return values


def receive(forward: Forward, i: int, x: Float[Tensor, "cell batch pos d_model"], pos: Tensor) -> dict:
    """q, k and v of block i for streams x."""
    q, k, v = forward.project(i, x, pos)
    if forward.turns(i):
        q, k = forward.turn(i, q, False), forward.turn(i, k, True)
    return {("q", i): q, ("k", i): k, ("v", i): v}
