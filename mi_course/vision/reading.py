"""Reading units of an image network: where a unit looks, what it answers in the middle of a picture, its whole map.

A *unit* is one channel of one hook. What is read is the hook before ReLU6, with negative values as 0: ReLU6's ceiling would
make strong answers look alike.

>>> import torch
>>> from mi_course import pretrained, vision
>>> model = pretrained.EfficientNetLite().eval()
>>> answers = vision.in_the_middle(model, torch.zeros(2, 3, 64, 64), ["blocks.3.hook_depthwise_pre"])
>>> answers["blocks.3.hook_depthwise_pre"].shape
torch.Size([2, 144])
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_course.activations import Reached
from mi_course.errors import CourseError, nearest


def unit_hooks(blocks: Sequence[int] = range(3, 11)) -> list[str]:
    """The hooks before ReLU6 in these `blocks` of an EfficientNet: after widening, and after looking around."""
    return [f"blocks.{i}.hook_{step}_pre" for i in blocks for step in ("expanded", "depthwise")]


def known_hooks(model: nn.Module, hooks: Sequence[str]) -> None:
    """A sentence if the `model` lacks one of these `hooks`."""
    there = getattr(model, "hook_dict", {})
    for name in hooks:
        if name not in there:
            raise CourseError(f"This network has no {name!r}.{nearest(name, there)}")


def checked_images(images: Tensor) -> None:
    """A sentence if `images` is no batch of square pictures in the network's range."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise CourseError(f"Images are [n, 3, side, side], not {list(images.shape)}.")
    if images.shape[2] < 32:
        raise CourseError(
            f"Pictures of {images.shape[2]} pixels are too small: from 32 on a map has a middle."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= -1.1 and high <= 1.1):  # also NaN
        raise CourseError(
            f"Images run from {low:.3g} to {high:.3g}, and the network reads −1 to 1: bytes b become (b − 127) / 128."
        )


def centre_of(stride: int, index: int) -> int:
    """The pixel at the centre of the field of unit `index` along one axis of a map with this `stride`.

    TensorFlow's padding puts what is odd to the right and below, so that every halving moves centres by half a step:
    the unit sees around pixel stride · (index + 1) − 1. Derived in notebook 14.
    """
    return stride * (index + 1) - 1


def run_until(model: nn.Module, images: Tensor, hooks: Sequence[tuple[str, Callable]]) -> None:
    """The hooked `model` on `images` until one of `hooks` raises `Reached`: what comes after is not computed."""
    try:
        model.run_with_hooks(images, fwd_hooks=list(hooks))
    except Reached:
        pass


@torch.no_grad()
def visit(model: nn.Module, images: Tensor, see: dict[str, Callable], batch: int = 32) -> dict[str, Tensor]:
    """hook → what `see[hook]` makes of its activations, for all `images` in batches; the network runs no further.

    `model` is hooked; `batch` images run together.
    """
    known_hooks(model, list(see))
    found: dict[str, list] = {name: [] for name in see}

    def note(x, hook):
        found[hook.name].append(see[hook.name](x))
        if len({len(seen) for seen in found.values()}) == 1:
            raise Reached

    for some in images.split(batch):
        run_until(model, some, [(name, note) for name in see])
    return {name: torch.cat(seen) for name, seen in found.items()}


def middle(x: Float[Tensor, "batch channel row column"]) -> Float[Tensor, "batch channel"]:
    """What the unit in the middle of a map `x` answers, negative values as 0.

    The middle is index (side − 1) // 2, which looks at pixel size / 2 − 1: there stimuli are drawn.
    """
    i = (x.shape[-1] - 1) // 2
    return x[..., i, i].relu()


def in_the_middle(
    model: nn.Module, images: Float[Tensor, "n channel row column"], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "n units"]]:
    """For each of `hooks` of the `model` the answers [image unit] of the units in the middle of `images`."""
    checked_images(images)
    return visit(model, images, dict.fromkeys(hooks, middle))


def maps(
    model: nn.Module, images: Float[Tensor, "n channel row column"], hook: str, channels: Sequence[int]
) -> Float[Tensor, "n units rows columns"]:
    """The whole maps of some `channels` of one `hook` of the `model` on `images`, negative values as 0."""
    checked_images(images)
    known_channels(model, hook, channels)
    return visit(model, images, {hook: lambda x: x[:, list(channels)].relu()}, batch=16)[hook]


def known_channels(model: nn.Module, hook: str, channels: Sequence[int]) -> None:
    """A sentence if one of `channels` does not exist at this `hook` of the `model`."""
    there = visit(model, torch.zeros(1, 3, 32, 32), {hook: lambda x: x})[hook].shape[1]
    for channel in channels:
        if not 0 <= channel < there:
            raise CourseError(f"{hook} has {there} units, 0 to {there - 1}: there is no unit {channel}.")


def folded(model: nn.Module) -> nn.Module:
    """A copy of an EfficientNet, `model`, with its batch norms in its convolutions and no slopes of weights.

    W' = γ / √(σ² + ε) · W, b' = β − γ μ / √(σ² + ε): the same function, a fifth to a third quicker, for pictures that are
    made by hundreds of steps.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for part in model.modules():
        if hasattr(part, "folded"):
            kernel, bias = part.folded()
            part.conv.weight = nn.Parameter(kernel, requires_grad=False)
            part.conv.bias = nn.Parameter(bias, requires_grad=False)
            part.norm = nn.Identity()
    return model
