"""The fast forward where it gives the model's own logits, else the hooked one."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.patching.edits import HOOKS, Activations, embedding
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked

UNFORESEEN = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@torch.no_grad()
def engine(model, tokens: Int[Tensor, "batch pos"], embed=None) -> tuple[Forward | Hooked, Activations]:
    """`Forward` where it gives the model's own logits, else `Hooked`; and the activations of this run."""
    try:
        forward = Forward(model)
        acts = forward.trace(forward.embed(tokens, embed))
        if agrees(forward, acts, tokens, embed):
            return forward, acts
    except UNFORESEEN:  # a weight is missing or of another shape: the architecture is none we know
        pass
    return Hooked(model), record(Hooked(model), tokens, embed)


def agrees(forward: Forward, acts: Activations, tokens: Int[Tensor, "batch pos"], embed=None) -> bool:
    """Whether the trace ends in the model's own logits, at the last position of the first prompt."""
    hooks = embedding(None if embed is None else embed[:1])
    theirs = forward.model.run_with_hooks(tokens[:1], fwd_hooks=hooks)[0, -1]
    ours = forward.readout(acts["resid_post", forward.n_layers - 1][:1, -1])[0]
    close = 100 * torch.finfo(theirs.dtype).eps * (1 + theirs.abs().max())
    return bool((theirs - ours).abs().max() <= close)


@torch.no_grad()
def record(forward: Forward | Hooked, tokens: Int[Tensor, "batch pos"], embed=None) -> Activations:
    """Every activation of one run, detached."""
    if isinstance(forward, Forward):
        return forward.trace(forward.embed(tokens, embed))
    model, acts = forward.model, {}
    names = {f"blocks.{i}.{hook}": (site, i) for site, hook in HOOKS.items() for i in range(forward.n_layers)}
    note = lambda x, hook: acts.__setitem__(names[hook.name], x.detach().clone())  # noqa: E731
    hooks = embedding(embed) + [(name, note) for name in names if name in model.hook_dict]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    return acts
