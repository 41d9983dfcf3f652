"""Checks of notebook 14, vision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mi_course.checks import check
from mi_course.checks.circuits import random


def grid(size: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(size, dtype=torch.float32) - size // 2
    return axis.expand(size, size).clone(), -axis[:, None].expand(size, size).clone()


def arc_of(x, y, direction, radius, sign=1, side=1, flip=1, wide=1.5, whole=False):
    angle = math.radians(direction)
    u, v = sign * radius * math.cos(angle), sign * flip * radius * math.sin(angle)
    near = ((x - u) * u + (y - v) * v) * side < 0
    on = (torch.hypot(x - u, y - v) - radius).abs() <= wide
    return on if whole else on & near


def half_a_turn(x, y, direction, radius):
    """As one would write it in 32 bits, where 180° is not exact."""
    angle = torch.deg2rad(torch.tensor(float(direction) + 180))
    u, v = radius * angle.cos(), radius * angle.sin()
    near = (x - u) * u + (y - v) * v < 0
    return ((torch.hypot(x - u, y - v) - radius).abs() <= 1.5) & near


def check_arc(function: object) -> None:
    """Exercise 1: an arc through the middle that opens to a direction."""
    cases = [
        (*grid(size), d, r) for size, d, r in ((25, 30, 6.2), (31, 100, 9.1), (33, 250, 7.3), (29, -40, 4.7))
    ]
    x, y = grid(33)
    cases.append(
        (x / 2, y / 2, 0, 3.0)
    )  # pixels exactly at 1.5 from the circle, and exactly beside its centre
    radians = lambda d: math.degrees(d)
    mistakes = {
        "it opens the wrong way, by half a turn: the centre lies in the direction.":
            lambda x, y, d, r: half_a_turn(x, y, d, r),
        "it opens the wrong way: the centre lies in the direction.": lambda x, y, d, r: arc_of(x, y, d, r, sign=-1),
        "this is the far half of the circle: the one nearer to the middle is wanted.": lambda x, y, d, r: arc_of(x, y, d, r, side=-1),
        "this is the whole circle.": lambda x, y, d, r: arc_of(x, y, d, r, whole=True),
        "y points downwards here: it is given upwards.": lambda x, y, d, r: arc_of(x, y, d, r, flip=-1),
        "the direction is in degrees, and sines want radians.": lambda x, y, d, r: arc_of(x, y, radians(d), r),
        "sine and cosine are exchanged.": lambda x, y, d, r: arc_of(x, y, 90 - d, r),
        "this is a disc: only what is near the circle is wanted.":
            lambda x, y, d, r: torch.hypot(x - r * math.cos(math.radians(d)), y - r * math.sin(math.radians(d))) <= r + 1.5,
        "the circle is around the middle: it passes through it.":
            lambda x, y, d, r: (torch.hypot(x, y) - r).abs() <= 1.5,
        "the stroke is too wide: at most 1.5 on either side.": lambda x, y, d, r: arc_of(x, y, d, r, wide=3.0),
        "the stroke is too thin: at most 1.5 on either side.": lambda x, y, d, r: arc_of(x, y, d, r, wide=0.75),
    }  # fmt: skip
    check("arc", function, arc_of, cases, mistakes, say="it opens to where its centre lies")


def width_of(
    curve: Tensor, level: float = 0.5, sides: int = 2, between: bool = True, smallest: float = 0.0
) -> float:
    turned = curve.roll(-int(curve.argmax()))
    turned = (turned - smallest * turned.min()) / (turned[0] - smallest * turned.min())
    total = 0.0
    for side in (turned, torch.cat([turned[:1], turned[1:].flip(0)]))[:sides]:
        low = int((side < level).int().argmax())
        total += low - 1 + (float((side[low - 1] - level) / (side[low - 1] - side[low])) if between else 0)
    return total * 360 / len(curve)


def check_width(function: object) -> None:
    """Exercise 2: full width at half height on a circle."""
    step = lambda n: torch.arange(n) * (2 * math.pi / n)
    cases = [
        ((0.2 + (step(16) - 1.0).cos().clamp(min=0) ** 2),),
        ((3 * (step(24) + 0.4).cos().clamp(min=0) ** 5),),
        (torch.tensor([1.0, 0.9, 0.3, 0.0, 0.0, 0.7, 0.2, 0.4, 0.8, 0.95]),),
        (torch.tensor([0.1, 0.1, 2.0, 1.2, 0.9, 0.1, 1.6, 0.0]),),
    ]
    mistakes = {
        "answers above one half are counted: put a line between steps.":
            lambda c: float((c >= c.max() / 2).sum()) * 360 / len(c),
        "whole steps only: put a line between the steps around one half.": lambda c: width_of(c, between=False),
        "one side only: both are wanted.": lambda c: width_of(c, sides=1),
        "one side is doubled: the other one may be different.": lambda c: 2 * width_of(c, sides=1),
        "half of the way from the smallest answer is taken, not half of the peak.": lambda c: width_of(c, smallest=1.0),
        "steps are given: the answer is in degrees.": lambda c: width_of(c) * len(c) / 360,
        "this is in radians.": lambda c: math.radians(width_of(c)),
        "one half itself is taken for the height, not half of the peak.": lambda c: width_of(c, level=0.5 / float(c.max())),
    }  # fmt: skip
    check(
        "tuning width",
        function,
        width_of,
        cases,
        mistakes,
        atol=1e-3,
        say="from the peak outwards, to one half",
    )


def gap_of(directions: list, closed: bool = True, turn: int = 360, of=max) -> float | int:
    angles = sorted(d % turn for d in directions)
    return of(b - a for a, b in zip(angles, angles[1:] + ([angles[0] + turn] if closed else [])))


def unturned(directions: list) -> float | int:
    angles = sorted(directions)
    return max(b - a for a, b in zip(angles, angles[1:] + [angles[0] + 360]))


def check_gap(function: object) -> None:
    """Exercise 3: the largest gap between directions."""
    cases = [
        ([10, 100, 350, 200],), ([300.0, 20.0, 80.0, 200.0, 170.0],), ([0, 90, 180],), ([720, 45, -90, 135.5],), ([5, 50, 100],),
    ]  # fmt: skip
    unsorted = lambda d: max(abs(b - a) for a, b in zip(d, d[1:]))
    mistakes = {
        "the circle is left open: the last one and the first one are neighbours, too.": lambda d: gap_of(d, closed=False),
        "largest less smallest: neighbours are wanted.": lambda d: max(d) - min(d),
        "these are neighbours in the list: sort them first.": unsorted,
        "this is the smallest gap.": lambda d: gap_of(d, of=min),
        "this is the mean gap, which is the same for any three.": lambda d: 360 / len(d),
        "directions are taken for orientations: half a turn makes a difference.": lambda d: gap_of(d, turn=180),
        "directions outside of 0 to 360 are not brought back.": unturned,
    }  # fmt: skip
    check("gap", function, gap_of, cases, mistakes, say="on a circle everybody has two neighbours")


def noisy(frequency: Tensor, energy: Tensor, ring=lambda f: f) -> Tensor:
    total = energy * ring(frequency)
    return (total[:, frequency > 0.25].sum(1) / total.sum(1)).argmax()


def check_noisiest(function: object) -> None:
    """Exercise 4: the picture with the largest share of high frequencies."""
    cases = []
    for seed in range(12):
        n = 16 + 4 * (seed % 3)
        f = (torch.arange(n) + (0.5 if seed % 2 else 1.0)) / (2 * n)  # on even seeds one ring lies at ¼
        slope = 0.3 + 2.0 * random(5, 1, seed=seed).abs()
        energy = (
            f ** (-slope)
            * (0.3 + random(5, n, seed=seed + 50).abs())
            * (0.1 + 9 * random(5, 1, seed=seed + 90).abs())
        )
        energy[0] += 0.25 / f[0] * (f < 0.06)
        energy[1] += 40 * energy[1].mean() * (f == 0.25)
        cases.append((f, energy))
    mistakes = {
        "the curve is summed: outer rings hold more coefficients.": lambda f, e: noisy(f, e, torch.ones_like),
        "energy is compared, not its share.": lambda f, e: (e * f)[:, f > 0.25].sum(1).argmax(),
        "mean energies are compared, not shares.": lambda f, e: e[:, f > 0.25].sum(1).argmax(),
        "this is the smoothest picture.": lambda f, e: ((e * f)[:, f > 0.25].sum(1) / (e * f).sum(1)).argmin(),
        "the area within a ring is taken for its length.": lambda f, e: noisy(f, e, torch.square),
        "it is divided by the low part only, which changes no order, or something else differs.":
            lambda f, e: (e * f)[:, f > 0.25].sum(1) / (e * f)[:, f <= 0.25].sum(1),
        "this is the largest share: which picture has it?":
            lambda f, e: ((e * f)[:, f > 0.25].sum(1) / (e * f).sum(1)).max(),
    }  # fmt: skip
    check("noisiest", function, noisy, cases, mistakes, say="a mean over a ring, and how long the ring is")


def slope_of(
    slope: Tensor, weights: Tensor, twice=None, weigh: bool = True, norm: str = "ortho", sign: int = 1
) -> Tensor:
    forwards = torch.fft.rfft2(slope, norm=norm) * (weights if weigh else 1)
    both = torch.full_like(weights, 2.0)
    both[:, 0] = both[:, -1] = 1.0
    found = torch.view_as_real(forwards * (both if twice is None else twice)).clone()
    found[..., 1] *= sign
    return found


def check_slope(function: object) -> None:
    """Exercise 5: the slope of the real and imaginary parts of coefficients."""
    cases = [(random(n, n, seed=n), 0.2 + random(n, n // 2 + 1, seed=n + 1).abs()) for n in (4, 6, 10)]
    only_first = lambda w: torch.cat([torch.ones_like(w[:, :1]), 2 * torch.ones_like(w[:, 1:])], 1)
    mistakes = {
        "columns that stand for two coefficients count twice.": lambda s, w: slope_of(s, w, twice=1.0),
        "the first and the last column stand for themselves only.": lambda s, w: slope_of(s, w, twice=2.0),
        "the last column, Nyquist, stands for itself only.": lambda s, w: slope_of(s, w, twice=only_first(w)),
        "the weights are left out.": lambda s, w: slope_of(s, w, weigh=False),
        "it is divided by the weights: they multiply on the way back, too.": lambda s, w: slope_of(s, 1 / w),
        "the weights are taken twice.": lambda s, w: slope_of(s, w * w),
        "norm=\"ortho\" is missing: the transform is not unitary without.": lambda s, w: slope_of(s, w, norm="backward"),
        "imaginary parts have the wrong sign.": lambda s, w: slope_of(s, w, sign=-1),
        "imaginary parts are left out.": lambda s, w: slope_of(s, w, sign=0),
    }  # fmt: skip
    check(
        "slope",
        function,
        slope_of,
        cases,
        mistakes,
        atol=1e-4,
        say="forwards again, and twice where two are meant",
    )


def joined(C: Tensor, H: Tensor) -> Tensor:
    plus, minus = H.chunk(2, dim=1)
    return C @ (plus - minus)


def check_factors(function: object) -> None:
    """Exercise 6: from the two halves of one-sided NMF to weights with signs."""
    cases = [
        (random(c, k, seed=c).abs(), random(k, 2 * p, seed=c + 9).abs())
        for c, k, p in ((4, 2, 3), (5, 3, 6), (3, 1, 4))
    ]
    mistakes = {
        "the halves are added: the second one describes what inhibits.": lambda C, H: C @ (H.chunk(2, 1)[0] + H.chunk(2, 1)[1]),
        "the sign is turned round: the first half excites.": lambda C, H: -joined(C, H),
        "the second half is left out.": lambda C, H: C @ H.chunk(2, 1)[0],
        "the first half is left out.": lambda C, H: C @ H.chunk(2, 1)[1],
        "both halves are still there, side by side.": lambda C, H: C @ H,
        "places of both halves are taken in turns: one half comes after the other.": lambda C, H: C @ (H[:, ::2] - H[:, 1::2]),
        "this is cut at 0: weights may be negative.": lambda C, H: joined(C, H).relu(),
    }  # fmt: skip
    check("factors", function, joined, cases, mistakes, say="channels without signs, places with them")


def spread_of(w: Tensor) -> Tensor:
    return (w**2).sum() ** 2 / (w**4).sum()


def check_spread(function: object) -> None:
    """Exercise 7: the participation ratio."""
    cases = [(random(n, seed=n),) for n in (3, 6, 11)] + [(torch.tensor([2.0, -2.0, 0.0, 0.0]),)]
    mistakes = {
        "this counts units that are not 0.": lambda w: (w != 0).sum().float(),
        "weights are not squared first: signs would cancel.": lambda w: w.sum() ** 2 / (w**2).sum(),
        "sizes are taken, not squares.": lambda w: w.abs().sum() ** 2 / (w**2).sum(),
        "it is upside down: this is 1 over the ratio.": lambda w: 1 / spread_of(w),
        "the sum is not squared.": lambda w: (w**2).sum() / (w**4).sum(),
        "it is divided by the number of units: this is a share.": lambda w: spread_of(w) / len(w),
        "units with a positive weight are counted.": lambda w: (w > 0).sum().float(),
    }  # fmt: skip
    check("spread", function, spread_of, cases, mistakes, say="1 for one, n for n equal ones")


def through(project: Tensor, g_project: Tensor, expand: Tensor, g_expand: Tensor) -> Tensor:
    return g_expand[:, None] * (expand @ (g_project[:, None] * project))


def check_through(function: object) -> None:
    """Exercise 8: the weight between units of two blocks through a linear stream."""
    cases = []
    for t, d, s in ((4, 3, 5), (6, 2, 3), (5, 4, 5), (3, 3, 3)):
        gains = [0.3 + random(n, seed=n + 40 + s).abs() for n in (d, t)]
        cases.append((random(d, s, seed=t), gains[0], random(t, d, seed=t + 20), gains[1]))
    mistakes = {
        "the gains are left out.": lambda p, gp, e, ge: e @ p,
        "the gain of the stream is left out.": lambda p, gp, e, ge: ge[:, None] * (e @ p),
        "the gain of the targets is left out.": lambda p, gp, e, ge: e @ (gp[:, None] * p),
        "a ReLU is put between: the stream is linear.": lambda p, gp, e, ge: ge[:, None] * (e @ (gp[:, None] * p).relu()),
        "it is [source target]: transposed.": lambda p, gp, e, ge: through(p, gp, e, ge).T,
        "it is divided by the gains.": lambda p, gp, e, ge: through(p, 1 / gp, e, 1 / ge),
        "it is divided by the targets' gain.": lambda p, gp, e, ge: through(p, gp, e, 1 / ge),
    }  # fmt: skip
    check(
        "through", function, through, cases, mistakes, atol=1e-4, say="no nonlinearity between, so one matrix"
    )
