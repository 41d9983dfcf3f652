"""Tuning curves, and the two rules by which a unit is called a curve or a high–low frequency detector.

A tuning curve is a unit's answer over equal steps of direction, all around. Both rules were written down before any
network was read with them.

>>> import torch
>>> curve = torch.tensor([[0.0, 1.0, 4.0, 1.0, 0.0, 0.0, 0.0, 0.0]])  # eight directions, 45° apart
>>> float(peak_direction(curve)), round(float(width(curve)), 1), float(opposite(curve))
(90.0, 60.0, 0.0)
>>> largest_gap([0, 90, 200])
160.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.vision.sets import CUES, DIRECTIONS, Stimuli

Curves = Float[Tensor, "*some direction"]


def apart(a: Tensor | float | int, b: Tensor | float | int) -> Tensor | float:
    """The angle between two directions `a` and `b`, 0 to 180 degrees."""
    return abs((a - b + 180) % 360 - 180)


def peak_direction(curves: Curves) -> Float[Tensor, "*some"]:
    """The direction of Σ r(θ) (cos θ, sin θ), in degrees from 0 to 360: where the answers of `curves` [… direction] point.

    It uses all answers, so it is finer than the steps. Nothing firing gives 0.
    """
    angles = torch.arange(curves.shape[-1]) * (2 * math.pi / curves.shape[-1])
    x, y = (curves * angles.cos()).sum(-1), (curves * angles.sin()).sum(-1)
    return torch.rad2deg(torch.atan2(y, x)).round(decimals=4) % 360


def from_the_peak(curves: Curves) -> Curves:
    """`curves` [… direction] turned so that each begins at its largest answer."""
    n = curves.shape[-1]
    turned = (curves.argmax(-1, keepdim=True) + torch.arange(n)) % n
    return curves.gather(-1, turned)


def opposite(curves: Curves) -> Float[Tensor, "*some"]:
    """The answer half a turn from the peak, divided by the peak, of `curves` [… direction]; 1 where nothing fires."""
    turned = from_the_peak(curves)
    return torch.where(turned[..., 0] > 0, turned[..., curves.shape[-1] // 2] / turned[..., 0], 1.0)


def beyond(curves: Curves, degrees: float | int) -> Float[Tensor, "*some"]:
    """The largest answer further than so many `degrees` from the peak, divided by the peak, of `curves` [… direction]."""
    turned = from_the_peak(curves)
    steps = torch.arange(curves.shape[-1]) * (360 / curves.shape[-1])
    far = turned[..., apart(steps, 0) > degrees].amax(-1)
    return torch.where(turned[..., 0] > 0, far / turned[..., 0], 1.0)


def width(curves: Curves) -> Float[Tensor, "*some"]:
    """Full width at half height around the peak of `curves` [… direction], in degrees, with straight lines between steps.

    From the peak outwards, on each side, to the first crossing of one half. A cosine that is cut at 0 has 120°, a unit
    that answers to everything 360°. Derived in notebook 14.
    """
    turned = from_the_peak(curves)
    turned = turned / turned[..., :1].clamp(min=1e-12)
    n, total = curves.shape[-1], 0.0
    for side in (turned, torch.cat([turned[..., :1], turned[..., 1:].flip(-1)], -1)):
        half = side[..., : n // 2 + 1]
        below = half < 0.5
        first = torch.where(below.any(-1), below.int().argmax(-1), n // 2)
        before = (first - 1).clamp(min=0)
        high, low = (half.gather(-1, at[..., None])[..., 0] for at in (before, first))
        step = before + ((high - 0.5) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        total = total + torch.where(below.any(-1), step, n / 2.0) * (360 / n)
    return total


def largest_gap(directions: Sequence[float | int] | Float[Tensor, "n"]) -> float:
    """The largest angle between neighbours among `directions` (degrees) on the circle; 360 for one or none."""
    angles = sorted(float(a) % 360 for a in directions)
    if len(angles) < 2:
        return 360.0
    return max((b - a) % 360 for a, b in zip(angles, angles[1:] + [angles[0] + 360]))


def _checked(stimuli: Stimuli, answers: Tensor) -> None:
    if len(answers) != len(stimuli):
        raise CourseError(
            f"{len(answers)} answers do not fit {len(stimuli)} stimuli: one row for each is wanted."
        )


def _most(stimuli: Stimuli, answers: Tensor, **wanted) -> Tensor:
    """The largest answer of each unit to the stimuli that show all of `wanted`."""
    return answers[torch.from_numpy(stimuli.where(**wanted))].amax(0)


def arc_curves(
    stimuli: Stimuli, answers: Float[Tensor, "stimulus unit"]
) -> Float[Tensor, "cue radius unit direction"]:
    """Tuning curves to arcs by cue and radius, each at the best of its shifts, from all `answers` to `stimuli`."""
    _checked(stimuli, answers)
    radii = sorted({radius for radius in stimuli.shows["radius"][stimuli.where(kind="arc")]})
    one = lambda cue, radius, d: _most(stimuli, answers, kind="arc", cue=cue, radius=radius, direction=d)
    return torch.stack(
        [
            torch.stack([torch.stack([one(cue, radius, d) for d in DIRECTIONS], -1) for radius in radii])
            for cue in CUES
        ]
    )


@dataclass(frozen=True)
class CurveUnits:
    """What a rule says of every unit of one hook.

    Args:
        passes: [unit].
        direction: [unit], degrees, where its curves open to.
        peak: [unit], its largest answer to an arc.
        width: [unit], degrees, of its mean tuning curve.
        curves: [unit direction], that mean curve.
    """

    passes: Bool[Tensor, "unit"]
    direction: Float[Tensor, "unit"]
    peak: Float[Tensor, "unit"]
    width: Float[Tensor, "unit"]
    curves: Float[Tensor, "unit direction"]


@dataclass(frozen=True)
class CurveRule:
    """A unit is a curve detector if …

    Args:
        least: its peak over all arcs is at least this much.
        weakest: a tuning curve counts if its own peak is at least this share of the unit's,
        opposite: its answer half a turn away is below this share of its own peak,
        beyond: its answers beyond 65° are below this share of it,
        widths: and its width at half height lies between these two, in degrees.
        radii: a cue counts if so many radii count,
        agree: two of them within so many degrees.
        cues: so many of the four cues count, each within 45° of the unit's direction.
        straight: lines and edges get less than this share of the unit's peak,
        corners: and corners less than this one; gratings, noise and rings less than the whole.
    """

    least: float | int = 0.5
    weakest: float | int = 0.25
    opposite: float | int = 0.25
    beyond: float | int = 0.5
    widths: tuple = (30, 120)
    radii: int = 2
    agree: float | int = 30
    cues: int = 3
    straight: float | int = 0.5
    corners: float | int = 0.75

    def judge(self, stimuli: Stimuli, answers: Float[Tensor, "stimulus unit"]) -> CurveUnits:
        """The rule on every unit, from its `answers` to all `stimuli`."""
        curves = arc_curves(stimuli, answers)  # cue radius unit direction
        peak = curves.amax((0, 1, 3))
        own = curves.amax(-1)
        good = (own >= self.weakest * peak) & (own > 0) & (opposite(curves) < self.opposite)
        good &= (beyond(curves, 65) < self.beyond) & self._wide(width(curves))
        towards = peak_direction(curves)  # cue radius unit
        mean = (curves * good[..., None]).sum((0, 1)) / good.sum((0, 1)).clamp(min=1)[:, None]
        direction = peak_direction(mean)
        near = apart(towards[:, :, None], towards[:, None]) <= self.agree  # cue radius radius unit
        pairs = near & good[:, :, None] & good[:, None]
        enough = pairs.sum((1, 2)) - good.sum(1) >= self.radii * (
            self.radii - 1
        )  # without a radius and itself
        of_cue = peak_direction((curves * good[..., None]).sum(1))
        cues = (enough & (apart(of_cue, direction) <= 45)).sum(0)
        passes = (peak >= self.least) & (cues >= self.cues)
        for kinds, share in ((["line", "edge"], self.straight), ("corner", self.corners)):
            passes &= _most(stimuli, answers, kind=kinds) < share * peak
        passes &= _most(stimuli, answers, kind=["grating", "noise", "ring", "blank"]) < peak
        return CurveUnits(passes, direction, peak, width(mean), mean)

    def _wide(self, degrees: Tensor) -> Tensor:
        return (degrees >= self.widths[0]) & (degrees <= self.widths[1])


@dataclass(frozen=True)
class BorderUnits:
    """What the rule for borders says of every unit of one hook; the last three are shares of the peak.

    Args:
        passes: [unit].
        direction: [unit], degrees, where the fine side lies.
        peak: [unit], of the mean tuning curve.
        curves: [unit direction], that curve.
        uniform: [unit], the answer to the best grain without a border.
        brightness: [unit], the answer to borders of brightness in the best direction.
        colour: [unit], the same for colour.
    """

    passes: Bool[Tensor, "unit"]
    direction: Float[Tensor, "unit"]
    peak: Float[Tensor, "unit"]
    curves: Float[Tensor, "unit direction"]
    uniform: Float[Tensor, "unit"]
    brightness: Float[Tensor, "unit"]
    colour: Float[Tensor, "unit"]


@dataclass(frozen=True)
class BorderRule:
    """A unit is a high–low frequency detector if …

    Args:
        least: the peak of its mean tuning curve over all pairs of fine and coarse is at least this much,
        opposite: with fine and coarse exchanged it is below this share of the peak,
        widths: its width lies between these two, in degrees,
        looks: noise and gratings alone both reach this share of the peak,
        agree: both within so many degrees of its direction,
        uniform: the best grain without a border stays below this share of the peak,
        brightness: and so do borders of brightness. Borders of colour are not asked.
    """

    least: float | int = 0.5
    opposite: float | int = 0.25
    widths: tuple = (30, 180)
    looks: float | int = 0.5
    agree: float | int = 45
    uniform: float | int = 0.5
    brightness: float | int = 0.5

    def judge(self, stimuli: Stimuli, answers: Float[Tensor, "stimulus unit"]) -> BorderUnits:
        """The rule on every unit, from its `answers` to all `stimuli`. All kinds are read alike: mean over variants."""
        _checked(stimuli, answers)
        mean = lambda **wanted: answers[torch.from_numpy(stimuli.where(**wanted))].mean(0)
        around = lambda **wanted: torch.stack([mean(direction=d, **wanted) for d in DIRECTIONS], -1)
        curves = around(kind="fine–coarse")  # unit direction
        peak, direction = curves.amax(-1), peak_direction(curves)
        share = lambda x: torch.where(peak > 0, x / peak.clamp(min=1e-12), 1e9)
        grains = sorted(set(stimuli.shows["wavelength"][stimuli.where(kind="uniform")]))
        uniform = torch.stack([mean(kind="uniform", wavelength=w) for w in grains]).amax(0)
        brightness, colour = (around(kind=kind).amax(-1) for kind in ("brightness", "colour"))
        passes = (peak >= self.least) & (opposite(curves) < self.opposite)
        passes &= (width(curves) >= self.widths[0]) & (width(curves) <= self.widths[1])
        for look in ("noise", "grating"):
            alone = around(kind="fine–coarse", look=look)
            passes &= share(alone.amax(-1)) >= self.looks
            passes &= apart(peak_direction(alone), direction) <= self.agree
        passes &= (share(uniform) < self.uniform) & (share(brightness) < self.brightness)
        return BorderUnits(passes, direction, peak, curves, share(uniform), share(brightness), share(colour))
