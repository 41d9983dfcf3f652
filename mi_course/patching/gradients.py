"""Patching estimated by gradients: one backward pass scores every node, and every edge between nodes.

effect ≈ (a_source − a_host) · ∂metric/∂a at the host (Nanda 2023). It is a first-order estimate: where the metric
saturates between the two runs, above all in a softmax, it lies. Two remedies: `softmax_effects` recomputes the softmax
of changed queries and keys exactly (AtP*, Kramár et al. 2024), and gradients averaged along the line between the two
runs' embeddings (EAP-IG, Hanna et al. 2024). Derived in notebook 06.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.edits import Activations
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.patching.nodes import HEADS


def gradients(
    engine: Forward | Hooked, run, start: Float[Tensor, "batch pos d_model"], at, columns, measure: Callable,
    wanted: Collection[tuple[str, int]],
) -> tuple[Activations, Activations]:  # fmt: skip
    """Activations, and the metric's gradient with respect to them, of the run that starts with stream `start`."""
    if torch.is_inference_mode_enabled():
        raise CourseError("No gradient flows inside torch.inference_mode(): leave it for attribution.")
    with torch.enable_grad():
        start = start.detach().clone().requires_grad_()
        logits, acts = run_open(engine, run, start, at, columns)
        score = measure(logits)
        if not score.requires_grad:
            raise CourseError(
                "This metric has no gradient (it counts or compares): take logit_diff, log_prob, prob or kl."
            )
        tracked = [acts[key if key in acts else ("attn_out", key[1])] for key in wanted]
        found = torch.autograd.grad(score.sum(), tracked, allow_unused=True)
    for (site, _), slope in zip(wanted, found):
        if slope is None:
            raise CourseError(f"No gradient flows through this model's hook of {site}: patch it instead.")
    return {key: value.detach() for key, value in acts.items()}, dict(zip(wanted, found))


def run_open(engine: Forward | Hooked, run, start: Tensor, at, columns) -> tuple[Tensor, Activations]:
    """Logits at the answers and all activations, still in the graph.

    Through hooks resid_mid has no tensor of its own that everything above reads: its gradient is that of attn_out.
    """
    prompts = torch.arange(len(at), device=at.device)
    if isinstance(engine, Forward):
        acts = engine.trace(start, run.layout)
        return engine.readout(acts["resid_post", engine.n_layers - 1][prompts, at], columns), acts
    acts: Activations = {}
    hooks = [(engine.names["resid_pre", 0], lambda x, hook: start), *engine.noting(acts)]
    logits = engine.run(run.tokens, run.layout, run.embed, hooks)[prompts, at]
    acts = {key: value for key, value in acts.items() if key[0] != "resid_mid"}
    return logits if columns is None else logits.gather(-1, columns), acts


def along(host: Tensor, source: Tensor, steps: int) -> list[Tensor]:
    """Where gradients are taken: at the host, or at the midpoints (i − ½)/steps of the way to the source."""
    return [host] if steps == 1 else [host + (i + 0.5) / steps * (source - host) for i in range(steps)]


def first_order(
    kind: str, positions, host: Tensor, source: Tensor, slope: Tensor, sae
) -> Float[Tensor, "batch *rest"]:
    """The effects of one layer's nodes, [batch unit? pos]; of single weights [batch head query key]."""
    if kind == "feature":
        encoder, directions = sae[0], sae[0].directions().detach()
        with torch.no_grad():
            change = encoder.encode(source.flatten(2)) - encoder.encode(host.flatten(2))
        return (change * (slope.flatten(2).to(directions.dtype) @ directions.T)).mT
    effect = (source - host) * slope
    if kind == "neuron":
        return effect.mT
    if kind == "pattern":
        return effect if positions == "pairs" else effect.sum(-1)
    effect = effect.sum(-1)
    return effect.mT if kind in HEADS else effect


def softmax_effects(
    forward: Forward, host: Activations, source: Activations, layer: int, kind: str,
    slope: Float[Tensor, "batch head query key"], hidden, jointly: bool,
) -> Float[Tensor, "batch part pos"]:  # fmt: skip
    """Effects of changed queries or keys: the pattern recomputed exactly, the metric linear in the pattern.

    A query changes its own row. A key changes one column, and with it every later row's softmax: one pass a key.
    """
    names = {letter: (forward.seen(layer, letter), layer) for letter in "qk"}
    q, k, pattern = host[names["q"]], host[names["k"]], host["pattern", layer]
    if kind == "q":
        effects = ((forward.scores(layer, source[names["q"]], k, hidden).softmax(-1) - pattern) * slope).sum(
            -1
        )
        return effects
    scores, new = (forward.scores(layer, q, keys, hidden) for keys in (k, source[names["k"]]))
    if jointly:
        effects = ((new.softmax(-1) - pattern) * slope).sum(-1)
        return effects.unflatten(1, (k.shape[2], -1)).sum(2)  # one key may serve several heads
    effects = []
    for key in range(scores.shape[-1]):
        changed = scores.clone()
        changed[..., key] = new[..., key]
        effects.append(((changed.softmax(-1) - pattern) * slope).sum((-1, -2)))
    return torch.stack(effects, -1).unflatten(1, (k.shape[2], -1)).sum(2)


# -- edges ---------------------------------------------------------------------------------------


def senders(forward: Forward, host: Activations, source: Activations) -> dict[str, Tensor]:
    """What each part writes more in the source: "embed", every head, every MLP, [batch pos d_model]."""
    found = {"embed": source["resid_pre", 0] - host["resid_pre", 0]}
    for i in range(forward.n_layers):
        writes = forward.head_writes(i, source["z", i] - host["z", i])
        found |= {f"z {i}.{h}": writes[:, :, h] for h in range(forward.n_heads)}
        if forward.has_mlp:
            found[f"mlp_out {i}"] = source["mlp_out", i] - host["mlp_out", i]
    return found


def receivers(forward: Forward, acts: Activations, slopes: Activations, ids: Tensor) -> dict[str, Tensor]:
    """The metric's gradient with respect to each part's own copy of the stream that it reads."""
    found = {}
    for i in range(forward.n_layers):
        for letter in "qkv":
            slope = slopes[forward.read(i, letter), i]
            n = slope.shape[2]
            copies = acts["resid_pre", i].expand(n, *acts["resid_pre", i].shape)
            alone = torch.eye(n).to(slope)[:, None, None, :, None]  # one head's slope at a time
            project = lambda x, i=i, letter=letter: forward.project(i, x, ids, letter)[0]  # noqa: E731
            found |= {
                f"{letter} {i}.{h}": g for h, g in enumerate(pulled_back(project, copies, alone * slope))
            }
        if forward.has_mlp:
            mlp = lambda x, i=i: forward.mlp_write(i, forward.neurons(i, x))  # noqa: E731
            read = "resid_pre" if forward.parallel else "resid_mid"
            found[f"mlp_in {i}"] = pulled_back(mlp, acts[read, i], slopes["mlp_out", i])
    return found | {"logits": slopes["resid_post", forward.n_layers - 1]}


def pulled_back(function: Callable, x: Tensor, slope: Tensor) -> Tensor:
    """The gradient at x of a quantity whose gradient at function(x) is `slope`."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x), x, slope)[0]


def order(name: str, parallel: bool = False) -> float:
    """When a part reads or writes: attention of block i at i, its MLP at i + ½, or beside it in a parallel block."""
    if name in ("embed", "logits"):
        return -1.0 if name == "embed" else torch.inf
    kind, where = name.split()
    return int(where.split(".")[0]) + (0.5 if kind.startswith("mlp") and not parallel else 0.0)


def edge_effects(
    sent: dict[str, Tensor], read: dict[str, Tensor], parallel: bool = False
) -> Float[Tensor, "sender receiver batch"]:
    """(sender's change) · (receiver's gradient), summed over positions; 0 where the receiver does not come later."""
    writes = torch.stack(list(sent.values()))
    columns = [torch.einsum("sbtd,btd->sb", writes, slope) for slope in read.values()]
    later = [[order(r, parallel) > order(s, parallel) for r in read] for s in sent]
    return torch.stack(columns, 1) * torch.tensor(later, device=writes.device)[..., None]
