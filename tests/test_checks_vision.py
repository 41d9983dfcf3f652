"""Every check of notebook 14: the solution and another right answer pass, wrong ones hear what went wrong."""

import math

import torch

from mi_course.checks import vision as checks
from tests.answers import *  # noqa: F403 — the tests themselves, over RIGHT and WRONG below

# -- right answers: the notebook's, and another one ---------------------------------------------------


def draw_arc(x, y, direction, radius):
    angle = torch.deg2rad(torch.tensor(float(direction)))
    u, v = radius * angle.cos(), radius * angle.sin()
    this_side = (x - u) * u + (y - v) * v < 0
    return ((torch.hypot(x - u, y - v) - radius).abs() <= 1.5) & this_side


def arc_by_turning(x, y, direction, radius):
    c, s = math.cos(math.radians(direction)), math.sin(math.radians(direction))
    along, across = x * c + y * s - radius, y * c - x * s  # from the centre
    return ((along**2 + across**2).sqrt() - radius).abs().le(1.5).logical_and(along < 0).float()


def tuning_width(curve):
    turned = curve.roll(-int(curve.argmax())) / curve.max()
    total = 0.0
    for side in (turned, torch.cat([turned[:1], turned[1:].flip(0)])):
        low = int((side < 0.5).int().argmax())
        total += low - 1 + float((side[low - 1] - 0.5) / (side[low - 1] - side[low]))
    return total * 360 / len(curve)


def width_by_walking(curve):
    values, n = curve.tolist(), len(curve)
    top = max(range(n), key=values.__getitem__)
    half, ends = values[top] / 2, []
    for way in (1, -1):
        k = 0
        while values[(top + way * (k + 1)) % n] >= half:
            k += 1
        a, b = values[(top + way * k) % n], values[(top + way * (k + 1)) % n]
        ends.append(k + (a - half) / (a - b))
    return torch.tensor(sum(ends) * 360 / n)


def gap(directions):
    angles = sorted(d % 360 for d in directions)
    angles.append(angles[0] + 360)
    return max(b - a for a, b in zip(angles, angles[1:]))


def gap_by_pairs(directions):
    angles = [d % 360 for d in directions]
    return max(min((b - a) % 360 or 360 for b in angles) for a in angles)


def noisiest(frequency, energy):
    total = energy * frequency
    return (total[:, frequency > 0.25].sum(1) / total.sum(1)).argmax()


def noisiest_by_loop(frequency, energy):
    shares = []
    for row in energy.tolist():
        parts = [e * f for e, f in zip(row, frequency.tolist())]
        high = sum(p for p, f in zip(parts, frequency.tolist()) if f > 0.25)
        shares.append(high / sum(parts))
    return shares.index(max(shares))


def slope(slope, weights):
    twice = torch.full_like(weights, 2.0)
    twice[:, 0] = twice[:, -1] = 1.0
    return torch.view_as_real(torch.fft.rfft2(slope, norm="ortho") * weights * twice)


def slope_by_autograd(slope, weights):
    parts = torch.zeros(*weights.shape, 2, requires_grad=True)
    z = torch.fft.irfft2(torch.view_as_complex(parts) * weights, s=slope.shape, norm="ortho")
    return torch.autograd.grad((z * slope).sum(), parts)[0]


def put_together(C, H):
    n = H.shape[1] // 2
    return C @ (H[:, :n] - H[:, n:])


def put_together_by_products(C, H):
    plus, minus = (C @ half for half in H.chunk(2, dim=1))
    return (plus - minus).tolist()


def spread_over(w):
    return (w**2).sum() ** 2 / (w**4).sum()


def spread_by_shares(w):
    share = w**2 / (w**2).sum()
    return 1 / float((share**2).sum())


def through(project, g_project, expand, g_expand):
    return g_expand[:, None] * (expand @ (g_project[:, None] * project))


def through_by_einsum(project, g_project, expand, g_expand):
    return torch.einsum("t,td,d,ds->ts", g_expand, expand, g_project, project)


RIGHT = [
    (checks.check_arc, draw_arc, arc_by_turning),
    (checks.check_width, tuning_width, width_by_walking),
    (checks.check_gap, gap, gap_by_pairs),
    (checks.check_noisiest, noisiest, noisiest_by_loop),
    (checks.check_slope, slope, slope_by_autograd),
    (checks.check_factors, put_together, put_together_by_products),
    (checks.check_spread, spread_over, spread_by_shares),
    (checks.check_through, through, through_by_einsum),
]


# -- wrong answers, and what they hear ---------------------------------------------------------------

WRONG = [
    (checks.check_arc, lambda x, y, d, r: draw_arc(x, y, d + 180, r), "wrong way"),
    (checks.check_arc, lambda x, y, d, r: draw_arc(x, -y, d, r), "upwards"),
    (checks.check_arc, lambda x, y, d, r: checks.arc_of(x, y, d, r, whole=True), "whole circle"),
    (checks.check_width, lambda c: float((c >= c.max() / 2).sum()) * 360 / len(c), "between steps"),
    (checks.check_width, lambda c: tuning_width(c) / 360 * len(c), "in degrees"),
    (checks.check_width, lambda c: tuning_width(c - c.min()), "smallest answer"),
    (checks.check_gap, lambda d: max(d) - min(d), "largest less smallest"),
    (checks.check_gap, lambda d: max(b - a for a, b in zip(s, s[1:])) if (s := sorted(x % 360 for x in d)) else 0, "left open"),
    (checks.check_gap, lambda d: 360 / len(d), "mean gap"),
    (checks.check_noisiest, lambda f, e: (e[:, f > 0.25].sum(1) / e.sum(1)).argmax(), "outer rings"),
    (checks.check_noisiest, lambda f, e: (e * f)[:, f > 0.25].sum(1).argmax(), "not its share"),
    (checks.check_noisiest, lambda f, e: ((e * f)[:, f > 0.25].sum(1) / (e * f).sum(1)).argmin(), "smoothest"),
    (checks.check_slope, lambda s, w: torch.view_as_real(torch.fft.rfft2(s, norm="ortho") * w), "count twice"),
    (checks.check_slope, lambda s, w: 2 * torch.view_as_real(torch.fft.rfft2(s, norm="ortho") * w), "themselves only"),
    (checks.check_slope, lambda s, w: slope(s, torch.ones_like(w)), "weights are left out"),
    (checks.check_factors, lambda C, H: C @ (H.chunk(2, 1)[0] + H.chunk(2, 1)[1]), "halves are added"),
    (checks.check_factors, lambda C, H: -put_together(C, H), "turned round"),
    (checks.check_factors, lambda C, H: C @ H, "side by side"),
    (checks.check_spread, lambda w: (w != 0).sum().float(), "counts units"),
    (checks.check_spread, lambda w: w.abs().sum() ** 2 / (w**2).sum(), "not squares"),
    (checks.check_spread, lambda w: spread_over(w) / len(w), "share"),
    (checks.check_through, lambda p, gp, e, ge: e @ p, "gains are left out"),
    (checks.check_through, lambda p, gp, e, ge: through(p, gp, e, ge).T, "transposed"),
    (checks.check_through, lambda p, gp, e, ge: ge[:, None] * (e @ (gp[:, None] * p).relu()), "stream is linear"),
]  # fmt: skip
