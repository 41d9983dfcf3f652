"""The fast forward where it gives the model's own logits, else the hooked one."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.edits import Activations
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.patching.layout import Layout
from mi_course.patching.reach import unreached

UNFORESEEN = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@torch.no_grad()
def engine(
    model, tokens: Int[Tensor, "batch pos"], layout: Layout, embed=None, check: bool = True
) -> tuple[Forward | Hooked, Activations]:
    """`Forward` where it gives the model's own logits, else `Hooked`; and the activations of this run."""
    try:
        forward = Forward(model)
        acts = forward.record(tokens, layout, embed)
        if agrees(forward, acts, tokens, layout, embed):
            return forward, acts
    except UNFORESEEN:  # a weight is missing or of another shape: the architecture is none we know
        pass
    hooked = Hooked(model)
    if layout.mask is not None and not hasattr(model, "original_model"):
        raise CourseError("This model takes no attention mask: pass prompts of equal length.")
    acts = hooked.record(tokens, layout, embed)
    check_padding(hooked, acts, tokens, layout, embed)
    if check:
        hooked.refused = unreached(hooked, layout.alone(tokens, 0))
    return hooked, acts


def tried(layout: Layout) -> set[int]:
    """Prompts that stand for all: rows do not see each other, so the first will do, and the one padded most."""
    return {0} if layout.mask is None else {0, int(layout.mask.sum(1).argmin())}


def alone(hooked: Hooked, prompt: int, tokens: Tensor, layout: Layout, embed, hooks=()) -> Tensor:
    """The model's own logits [pos d_vocab] of one prompt without its padding."""
    single = layout.alone(tokens, prompt)
    own = None if embed is None else embed[prompt : prompt + 1] if layout.mask is None else embed[prompt, layout.mask[prompt]][None]  # fmt: skip
    return hooked.run(single, Layout(tuple(single.shape), single.device), own, list(hooks))[0]


def real(x: Tensor, prompt: int, layout: Layout) -> Tensor:
    """A prompt's rows without its padding."""
    return x[prompt] if layout.mask is None else x[prompt, layout.mask[prompt]]


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two computations of the same numbers differ by rounding alone."""
    bound = 100 * torch.finfo(ours.dtype).eps * (1 + theirs.abs().max())
    return bool((theirs - ours).abs().max() <= bound)


def agrees(
    forward: Forward, acts: Activations, tokens: Int[Tensor, "batch pos"], layout: Layout, embed=None
) -> bool:
    """Whether the trace ends in the model's own logits, at every position of the prompts tried."""
    last = acts["resid_post", forward.n_layers - 1]
    hooked = Hooked(forward.model)
    return all(
        close(forward.readout(real(last, prompt, layout)), alone(hooked, prompt, tokens, layout, embed))
        for prompt in tried(layout)
    )


def check_padding(hooked: Hooked, acts: Activations, tokens, layout: Layout, embed) -> None:
    """Refuse a make in which padding is not left out of account."""
    if layout.mask is None:
        return
    key, found = ("resid_post", hooked.n_layers - 1), {}
    prompt = max(tried(layout))
    note = lambda x, hook: found.setdefault("last", x)  # noqa: E731
    alone(hooked, prompt, tokens, layout, embed, [(hooked.names[key], note)])
    if not close(real(acts[key], prompt, layout), found["last"][0]):
        raise CourseError(
            "This make reads a padded prompt otherwise than alone: pass prompts of equal length."
        )
