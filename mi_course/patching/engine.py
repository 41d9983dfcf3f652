"""The fast forward where it gives the model's own logits, else the hooked one."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.errors import CourseError, first_line
from mi_course.patching.edits import Activations
from mi_course.patching.forward import Forward
from mi_course.patching.hooked import Hooked
from mi_course.patching.layout import Layout
from mi_course.patching.reach import near, unreached

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
    acts = by_hooks(hooked, tokens, layout, embed)
    check_padding(hooked, acts, tokens, layout, embed)
    if check:
        hooked.refused = unreached(hooked, layout.real(tokens, 0)[None])
    return hooked, acts


def by_hooks(hooked: Hooked, tokens: Tensor, layout: Layout, embed) -> Activations:
    """What the hooks record; one sentence for a make whose forward does not stand a hook."""
    try:
        return hooked.record(tokens, layout, embed)
    except CourseError:
        raise
    except UNFORESEEN as error:
        raise CourseError(
            f"This model's forward breaks off where its activations are recorded through hooks ({first_line(error)}), and "
            "is none that is rebuilt: patch a model of another make."
        ) from error


def tried(layout: Layout) -> set[int]:
    """Prompts that stand for all: rows do not see each other, so the first will do, and the one padded most."""
    return {0} if layout.mask is None else {0, int(layout.mask.sum(1).argmin())}


def alone(hooked: Hooked, prompt: int, tokens: Tensor, layout: Layout, embed, hooks=()) -> Tensor:
    """The model's own logits [pos d_vocab] of one prompt without its padding."""
    single = layout.real(tokens, prompt)[None]
    own = None if embed is None else layout.real(embed, prompt)[None]
    return hooked.run(single, Layout.of(single), own, list(hooks))[0]


def agrees(
    forward: Forward, acts: Activations, tokens: Int[Tensor, "batch pos"], layout: Layout, embed=None
) -> bool:
    """Whether the trace ends in the model's own logits, at every position of the prompts tried."""
    last = acts["resid_post", forward.n_layers - 1]
    hooked = Hooked(forward.model)
    return all(
        near(forward.readout(layout.real(last, prompt)), alone(hooked, prompt, tokens, layout, embed), 100)
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
    if not near(layout.real(acts[key], prompt), found["last"][0], 100):
        raise CourseError(
            "This make reads a padded prompt otherwise than alone: pass prompts of equal length."
        )
