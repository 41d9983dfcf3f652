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
from mi_course.patching.edits import HOOKS, Activations
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
        found = torch.autograd.grad(score.sum(), [acts[key] for key in wanted], allow_unused=True)
    detached = {key: value.detach() for key, value in acts.items()}
    zeros = (torch.zeros_like(detached[key]) for key in wanted)
    return detached, {key: zero if g is None else g for key, g, zero in zip(wanted, found, zeros)}


def run_open(engine: Forward | Hooked, run, start: Tensor, at, columns) -> tuple[Tensor, Activations]:
    """Logits at the answers and all activations, still in the graph."""
    prompts = torch.arange(len(at), device=at.device)
    if isinstance(engine, Forward):
        acts = engine.trace(start)
        return engine.readout(acts["resid_post", engine.n_layers - 1][prompts, at], columns), acts
    names = {f"blocks.{i}.{hook}": (site, i) for site, hook in HOOKS.items() for i in range(engine.n_layers)}
    names = {name: key for name, key in names.items() if key in run.acts}
    acts: Activations = {}
    hooks = [("blocks.0.hook_resid_pre", lambda x, hook: start)]
    hooks += [(name, lambda x, hook, key=key: acts.__setitem__(key, x)) for name, key in names.items()]
    logits = engine.model.run_with_hooks(run.tokens, fwd_hooks=hooks)[prompts, at]
    return logits if columns is None else logits.gather(-1, columns), acts


def along(host: Tensor, source: Tensor, steps: int) -> list[Tensor]:
    """Where gradients are taken: at the host, or at the midpoints (i − ½)/steps of the way to the source."""
    return [host] if steps == 1 else [host + (i + 0.5) / steps * (source - host) for i in range(steps)]


def first_order(
    kind: str, positions, host: Tensor, source: Tensor, slope: Tensor, sae
) -> Float[Tensor, "batch *rest"]:
    """The effects of one layer's nodes, [batch unit? pos]; of single weights [batch head query key]."""
    if kind == "feature":
        encoder, W_dec = sae[0], sae[0].W_dec.detach()
        with torch.no_grad():
            change = encoder.encode(source.flatten(2)) - encoder.encode(host.flatten(2))
        return (change * (slope.flatten(2) @ W_dec.T) / encoder.scale).mT
    effect = (source - host) * slope
    if kind == "neuron":
        return effect.mT
    if kind == "pattern":
        return effect if positions == "pairs" else effect.sum(-1)
    effect = effect.sum(-1)
    return effect.mT if kind in HEADS else effect


def softmax_effects(
    forward: Forward, host: Activations, source: Activations, layer: int, kind: str,
    slope: Float[Tensor, "batch head query key"], jointly: bool,
) -> Float[Tensor, "batch head pos"]:  # fmt: skip
    """Effects of changed queries or keys: the pattern recomputed exactly, the metric linear in the pattern.

    A query changes its own row. A key changes one column, and with it every later row's softmax: one pass a key.
    """
    q, k, pattern = (host[site, layer] for site in ("q", "k", "pattern"))
    if kind == "q" or jointly:
        q, k = (source["q", layer], k) if kind == "q" else (q, source["k", layer])
        return ((forward.scores(q, k).softmax(-1) - pattern) * slope).sum(-1)
    scores, new = forward.scores(q, k), forward.scores(q, source["k", layer])
    effects = []
    for key in range(scores.shape[-1]):
        changed = scores.clone()
        changed[..., key] = new[..., key]
        effects.append(((changed.softmax(-1) - pattern) * slope).sum((-1, -2)))
    return torch.stack(effects, -1)


# -- edges ---------------------------------------------------------------------------------------


def senders(forward: Forward, host: Activations, source: Activations) -> dict[str, Tensor]:
    """What each part writes more in the source: "embed", every head, every MLP, [batch pos d_model]."""
    found = {"embed": source["resid_pre", 0] - host["resid_pre", 0]}
    for i in range(forward.n_layers):
        writes = forward.head_writes(i, source["z", i] - host["z", i])
        found |= {f"z {i}.{h}": writes[:, :, h] for h in range(forward.n_heads)}
        if forward.act is not None:
            found[f"mlp_out {i}"] = source["mlp_out", i] - host["mlp_out", i]
    return found


def receivers(forward: Forward, acts: Activations, slopes: Activations) -> dict[str, Tensor]:
    """The metric's gradient with respect to each part's own copy of the stream that it reads."""
    found = {}
    alone = torch.eye(forward.n_heads).to(acts["v", 0])[:, None, None, :, None]  # one head's slope at a time
    pos = torch.arange(acts["resid_pre", 0].shape[1], device=alone.device)
    for i in range(forward.n_layers):
        copies = acts["resid_pre", i].expand(forward.n_heads, *acts["resid_pre", i].shape)
        for letter in "qkv":
            project = lambda x, i=i, letter=letter: forward.project(i, x, pos, letter)[0]  # noqa: E731
            slope = slopes[f"{letter}_raw" if letter != "v" and forward.turns(i) else letter, i]
            found |= {
                f"{letter} {i}.{h}": g for h, g in enumerate(pulled_back(project, copies, alone * slope))
            }
        if forward.act is not None:
            mlp = lambda x, i=i: forward.mlp_write(i, forward.neurons(i, x))  # noqa: E731
            found[f"mlp_in {i}"] = pulled_back(mlp, acts["resid_mid", i], slopes["mlp_out", i])
    return found | {"logits": slopes["resid_post", forward.n_layers - 1]}


def pulled_back(function: Callable, x: Tensor, slope: Tensor) -> Tensor:
    """The gradient at x of a quantity whose gradient at function(x) is `slope`."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x), x, slope)[0]


def order(name: str) -> float:
    """When a part reads or writes: attention of block i at i, its MLP at i + ½."""
    if name in ("embed", "logits"):
        return -1.0 if name == "embed" else torch.inf
    kind, where = name.split()
    return int(where.split(".")[0]) + (0.5 if kind.startswith("mlp") else 0.0)


def edge_effects(sent: dict[str, Tensor], read: dict[str, Tensor]) -> Float[Tensor, "sender receiver batch"]:
    """(sender's change) · (receiver's gradient), summed over positions; 0 where the receiver does not come later."""
    writes = torch.stack(list(sent.values()))
    columns = [torch.einsum("sbtd,btd->sb", writes, slope) for slope in read.values()]
    later = torch.tensor([[order(r) > order(s) for r in read] for s in sent], device=writes.device)
    return torch.stack(columns, 1) * later[..., None]
