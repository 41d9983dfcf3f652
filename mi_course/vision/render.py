"""Pictures made to please a unit: gradient ascent on the input, in pixels or in Fourier coefficients.

Olah, Mordvintsev & Schubert (2017). A picture is sigmoid(C z), each pixel's colours mixed by C; z is free pixels, or the
inverse Fourier transform of coefficients that weigh 1/f as much as their frequency f is high: then a step of Adam moves
slow waves more than fast ones, as in photographs. With transformations the picture is shifted, turned and scaled a little
before every look, so that only what survives that is worth drawing.

>>> import torch
>>> from mi_course import pretrained, vision
>>> model = vision.folded(pretrained.EfficientNetLite())
>>> made = vision.visualise(model, "blocks.1.hook_depthwise_pre", [3, 5], size=32, steps=2)
>>> made.images.shape, bool((made.images.abs() <= 1.01).all())
(torch.Size([2, 3, 32, 32]), True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mi_course.activations import Reached
from mi_course.errors import CourseError
from mi_course.vision.reading import known_channels, run_until

TRIES = 16  # starts of a picture, until one has a slope
LOGITS = "logits"  # the network's output, where a hook's name is asked for
Pictures = Float[Tensor, "n channel size size"]


def frequencies(size: int) -> Float[Tensor, "size half"]:
    """The frequency of every coefficient of a real Fourier transform of `size` × `size` pixels, in waves a pixel."""
    return torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size))


def one_over_f(size: int) -> Float[Tensor, "size half"]:
    """Weights proportional to 1/f for a picture of `size` pixels a side, 0 for its mean.

    They are scaled so that coefficients of standard deviation 1 give a picture of standard deviation 1.
    """
    f = frequencies(size)
    weights = torch.where(f > 0, 1 / f.clamp(min=1 / size), 0.0)
    twice = torch.full_like(f, 2.0)  # a coefficient stands for itself and its mirror image
    twice[:, 0] = twice[:, -1] = 1.0
    return weights / ((weights**2 * twice).sum() / size**2).sqrt() / math.sqrt(2)


def from_coefficients(coefficients: Float[Tensor, "n channel size half two"], size: int) -> Pictures:
    """z from real and imaginary parts (last axis of `coefficients`), each weighted by 1/f; `size` pixels a side."""
    return torch.fft.irfft2(
        torch.view_as_complex(coefficients) * one_over_f(size), s=(size, size), norm="ortho"
    )


def colour_matrix(images: Float[Tensor, "n channel row column"]) -> Float[Tensor, "3 3"]:
    """C with C Cᵀ ∝ the covariance of the colours of `images`: independent z then have colours that go together."""
    colours = images.transpose(0, 1).flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(colours))
    C = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return C / C.norm(dim=1).max()


def moved(pictures: Pictures, rng: torch.Generator) -> Pictures:
    """Each of `pictures` shifted by up to 5% of its side, turned by up to 8°, scaled by up to 8%; grey from outside.

    `rng` draws by how much.
    """
    n = len(pictures)
    draw = lambda most: (2 * torch.rand(n, generator=rng) - 1) * most
    angle, scale = draw(math.radians(8)), 1 + draw(0.08)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    dx, dy = draw(0.1), draw(0.1)  # of the half side
    affine = torch.stack([torch.stack([cos, -sin, dx], -1), torch.stack([sin, cos, dy], -1)], 1)
    grid = F.affine_grid(affine, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)


def answers(model: nn.Module, images: Pictures, hook: str) -> Tensor:
    """What the hook `hook` of the `model` holds for `images`, or its logits; the network runs no further than that."""
    if hook == LOGITS:
        return model(images)
    kept = []

    def keep(x, hook):
        kept.append(x)
        raise Reached

    run_until(model, images, [(hook, keep)])
    return kept[0]


def wanted_of(x: Tensor, channels: Tensor) -> Float[Tensor, "n"]:
    """For each picture its own one of `channels`: the unit in the middle of the map `x`, or the logit."""
    own = x[torch.arange(len(x)), channels]
    return own if own.ndim == 1 else own[:, (own.shape[-2] - 1) // 2, (own.shape[-1] - 1) // 2]


def alike(x: Float[Tensor, "n channel row column"]) -> Float[Tensor, ""]:
    """How alike pictures are in style: mean cosine between their Gram matrices of the map `x`, over pairs."""
    features = x.flatten(2)
    grams = F.normalize((features @ features.transpose(1, 2)).flatten(1), dim=1)
    return ((grams @ grams.T).sum() - len(x)) / max(1, len(x) * (len(x) - 1))


@dataclass(frozen=True, eq=False)
class Made:
    """Pictures that were made.

    Args:
        images: [n 3 size size], in the network's range.
        activation: [n], what the unit or class says of each, unmoved.
        start: [n 3 size size], before the first step.
        start_activation: [n], what it said then.
        start_sd: [n], each start's standard deviation; larger than asked for where that one had no slope.
        flat: [n], where no start had a slope: these pictures are their starts (only where that is allowed).
    """

    images: Pictures
    activation: Float[Tensor, "n"]
    start: Pictures
    start_activation: Float[Tensor, "n"]
    start_sd: Float[Tensor, "n"]
    flat: Bool[Tensor, "n"]


@torch.enable_grad()
def visualise(
    model: nn.Module,
    hook: str,
    channels: Sequence[int],
    *,
    size: int = 128,
    steps: int = 128,
    fourier: bool = True,
    transform: bool = True,
    colours: Float[Tensor, "3 3"] | None = None,
    diversity: float | int = 0.0,
    lr: float = 0.05,
    start_sd: float = 0.3,
    seed: int = 0,
    strict: bool = True,
) -> Made:
    """One picture for each of `channels` of `hook` (a unit's activation before ReLU6, or LOGITS), by gradient ascent.

    Args:
        model: an image network, best one that is `folded`.
        hook: the hook's name, or `LOGITS` for classes.
        channels: one a picture; the same one several times for several pictures of it.
        size: pixels a side.
        steps: of Adam.
        fourier: whether coefficients with 1/f are changed, or pixels.
        transform: whether the picture is moved a little before every look.
        colours: C, from `colour_matrix`; none leaves the three colours independent.
        diversity: how much pictures should differ in style, against the activation.
        lr: Adam's rate.
        start_sd: standard deviation of the start; where that has no slope, others up to 16 times as large are tried.
        seed: of the start and of the moves.
        strict: whether a unit without any slope is an error; otherwise its picture stays as it starts.

    A start without any slope, such as grey where every ReLU is off, is tried again with a larger `start_sd`, and an
    error says so where that does not help. Derived in notebook 14.
    """
    if size < 32 or size % 2:
        raise CourseError(f"A picture has an even number of pixels a side, 32 or more, not {size}.")
    if hook != LOGITS:
        known_channels(model, hook, channels)
    elif any(not 0 <= channel < len(model.labels) for channel in channels):
        raise CourseError(f"There are {len(model.labels)} classes, 0 to {len(model.labels) - 1}.")
    C = torch.eye(3) if colours is None else colours
    channels = torch.as_tensor(list(channels))

    def look(z):  # sigmoid: between 0 and 1, then bytes, then the network's range
        return (255 * torch.einsum("ij,njrc->nirc", C, z).sigmoid() - 127) / 128

    shown = lambda z: look(from_coefficients(z, size) if fourier else z)
    wanted = lambda image: wanted_of(answers(model, image, hook), channels)
    rng = torch.Generator().manual_seed(seed)
    shape = (len(channels), 3, size, size // 2 + 1, 2) if fourier else (len(channels), 3, size, size)
    free, start, sds, flat = with_a_slope(lambda z: wanted(shown(z)), shape, start_sd, rng)
    if strict and flat.any():
        named = ", ".join(str(int(channel)) for channel in channels[flat])
        raise CourseError(
            f"{hook}, {named}: no slope at the start, with standard deviations up to {16 * start_sd:g}: off, "
            "whatever changes a little. Try another start_sd or another seed."
        )
    first = shown(free).detach()
    optimizer = torch.optim.Adam([free], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        seen = moved(shown(free), rng) if transform else shown(free)
        x = answers(model, seen, hook)
        loss = -wanted_of(x, channels).sum()
        if diversity and x.ndim == 4:
            loss = loss + diversity * len(x) * alike(x)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        images = shown(free)
        return Made(images, wanted(images), first, start, sds, flat)


def with_a_slope(
    wanted: Callable[[Tensor], Float[Tensor, "n"]],
    shape: Sequence[int],
    start_sd: float | int,
    rng: torch.Generator,
) -> tuple[Tensor, Float[Tensor, "n"], Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """A random start at which each of n activations changes a little with it: where one has no slope it is drawn again.

    Args:
        wanted: start → the activations.
        shape: of a start, n first.
        start_sd: its standard deviation; where that has no slope, up to 16 times as much.
        rng: what it is drawn with.

    Returns:
        The start, a leaf; the activations there; the standard deviation of each; who has no slope after all.
    """
    free = (start_sd * torch.randn(shape, generator=rng)).requires_grad_()
    sds = torch.full((shape[0],), float(start_sd))
    for attempt in range(TRIES + 1):
        start = wanted(free)
        (slope,) = torch.autograd.grad(start.sum(), free)
        flat = slope.flatten(1).abs().amax(1) == 0
        if attempt == TRIES or not flat.any():
            return free, start.detach(), sds, flat
        sds[flat] = start_sd * 2 ** (attempt % 4 + 1)
        again = torch.randn(shape, generator=rng) * sds.view(-1, *[1] * (len(shape) - 1))
        free.data[flat] = again[flat]


def fourier_power(
    images: Float[Tensor, "n channel size size"],
) -> tuple[Float[Tensor, "size size"], Float[Tensor, "n size size"]]:
    """(frequency in waves a pixel, energy) of every coefficient of `images`, colours summed, the mean left out."""
    images = images - images.mean((-1, -2), keepdim=True)
    rows = torch.fft.fftfreq(images.shape[-1], dtype=torch.float64)
    power = torch.fft.fft2(images.double()).abs().square().sum(1)
    return torch.hypot(rows[:, None], rows), power


def spectrum(images: Float[Tensor, "n channel size size"], bins: int = 24) -> tuple[Tensor, Tensor]:
    """(frequency in waves a pixel [bin], energy [n bin]) of `images`, colours summed, the mean left out.

    Energy is averaged over all directions in rings up to Nyquist, ½; `bins` rings of equal width.
    """
    frequency, power = (part.flatten(-2) for part in fourier_power(images))
    ring = (frequency * 2 * bins).long()
    inside = ring < bins
    member = F.one_hot(ring[inside], bins).double()
    return (torch.arange(bins) + 0.5) / (2 * bins), power[:, inside] @ member / member.sum(0)


def high_share(images: Float[Tensor, "n channel size size"]) -> Float[Tensor, "n"]:
    """The share of the energy of each of `images`, colours summed, above half Nyquist (¼ wave a pixel).

    White noise has .80 of it there, a photograph a few hundredths. The mean counts for nothing.
    """
    frequency, power = fourier_power(images)
    return (power * (frequency > 0.25)).sum((-1, -2)) / power.sum((-1, -2)).clamp(min=1e-12)
