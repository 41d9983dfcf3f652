"""Every check of notebook 07: the solution and another right answer pass, wrong ones hear what went wrong."""

import numpy as np
import torch

from mi_course.checks import scaling as checks
from tests.answers import *  # noqa: F403 — the tests themselves, over RIGHT and WRONG below

# -- right answers: the notebook's, and another one ---------------------------------------------------


def loss_with_norms(t, f, W_dec, b_dec, lam):
    error = (t - f @ W_dec - b_dec).square().sum(1).mean()
    return error + lam * (f @ W_dec.norm(dim=1)).mean()


def loss_by_loop(t, f, W_dec, b_dec, lam):
    total = 0.0
    for x, active in zip(t, f):
        total += float((x - active @ W_dec - b_dec).norm() ** 2)
        total += lam * sum(float(a) * float(row.norm()) for a, row in zip(active, W_dec))
    return total / len(t)


def dead_from_log(last_active, seen, window):
    silent = torch.where(last_active < 0, seen, seen - last_active)
    return (silent >= window).float().mean()


def dead_by_loop(last_active, seen, window):
    silent = [seen if at < 0 else seen - at for at in last_active.tolist()]
    return sum(s >= window for s in silent) / len(silent)


def half_frequency(frequency, share):
    i = int((share >= 0.5).int().argmax())
    part = (0.5 - share[i - 1]) / (share[i] - share[i - 1])
    low, high = frequency[i - 1].log(), frequency[i].log()
    return (low + part * (high - low)).exp()


def half_by_powers(frequency, share):
    q, s = frequency.tolist(), share.tolist()
    i = next(i for i, v in enumerate(s) if v >= 0.5)
    return q[i - 1] * (q[i] / q[i - 1]) ** ((0.5 - s[i - 1]) / (s[i] - s[i - 1]))


def frontier_slope(compute, loss, draws):
    order = compute.argsort()
    a, b = compute[order].log(), loss[order].log()
    best = torch.cat([torch.tensor([True]), b[1:] < b.cummin(0).values[:-1]])
    a, b = a[best], b[best]

    def slope(x, y):
        x = x - x.mean()
        return (x * (y - y.mean())).sum() / x.square().sum()

    picks = [row[: len(a)] % len(a) for row in draws]
    slopes = torch.stack([slope(a[p], b[p]) for p in picks if len(p.unique()) > 1])
    return slope(a, b), slopes.quantile(0.025), slopes.quantile(0.975)


def frontier_by_numpy(compute, loss, draws):
    runs, lowest = [], np.inf
    for c, v in sorted(zip(compute.tolist(), loss.tolist())):
        if v < lowest:
            runs.append((np.log10(c), np.log10(v)))
            lowest = v
    a, b = np.array(runs).T
    slopes = []
    for row in draws.numpy():
        p = row[: len(a)] % len(a)
        if len(set(p)) > 1:
            slopes.append(np.polyfit(a[p], b[p], 1)[0])
    return [np.polyfit(a, b, 1)[0], *np.quantile(slopes, [0.025, 0.975])]


def clamp_with_error(x, encode, decode, feature, value, limit):
    f = encode(x)
    changed = f.clone()
    changed[:, feature] = value
    new = decode(changed) + x - decode(f)
    return torch.where(x.norm(dim=1, keepdim=True) > limit, x, new)


def clamp_along_a_row(x, encode, decode, feature, value, limit):
    f = encode(x)
    one = torch.zeros_like(f[:1])
    one[0, feature] = 1.0
    row = decode(one) - decode(0 * one)
    out = x.clone()
    for i in range(len(x)):
        if x[i].norm() <= limit:
            out[i] = x[i] + (value - f[i, feature]) * row[0]
    return out


def two_pages(f, truth):
    strong = f > f.max(0).values / 2
    return (strong & truth[:, None]).sum(0) / strong.sum(0)


def two_pages_by_loop(f, truth):
    shares = []
    for column in f.T.tolist():
        strong = [bool(t) for v, t in zip(column, truth) if v > max(column) / 2]
        shares.append(sum(strong) / len(strong))
    return shares


def nested_loss(t, f, W_dec, b_dec, prefixes):
    ends = [*prefixes, f.shape[1]]
    errors = [(t - f[:, :m] @ W_dec[:m] - b_dec).square().sum(1).mean() for m in ends]
    return sum(errors) / len(errors)


def nested_by_masks(t, f, W_dec, b_dec, prefixes):
    total = 0.0
    for m in set(prefixes) | {f.shape[1]}:
        first = (torch.arange(f.shape[1]) < m).float()
        total += float((t - (f * first) @ W_dec - b_dec).norm(dim=1).square().mean())
    return torch.tensor(total / (len(prefixes) + 1))


def sent_on(f, W_dec, out_scale, W_enc, scale):
    connection = W_dec @ W_enc * scale / out_scale
    return f[:, :, None] * connection


def sent_by_loop(f, W_dec, out_scale, W_enc, scale):
    written = [[float(a) * row / out_scale for a, row in zip(active, W_dec)] for active in f]
    return torch.stack([torch.stack([w * scale @ W_enc for w in one]) for one in written])


RIGHT = [
    (checks.check_loss, loss_with_norms, loss_by_loop),
    (checks.check_dead, dead_from_log, dead_by_loop),
    (checks.check_half, half_frequency, half_by_powers),
    (checks.check_frontier, frontier_slope, frontier_by_numpy),
    (checks.check_clamp, clamp_with_error, clamp_along_a_row),
    (checks.check_page, two_pages, two_pages_by_loop),
    (checks.check_nested, nested_loss, nested_by_masks),
    (checks.check_sent, sent_on, sent_by_loop),
]

# -- wrong answers, and what they hear ---------------------------------------------------------------


def every_run(compute, loss, draws):
    return checks.frontier_and_interval(
        compute, loss, draws, keep=lambda c, v: torch.ones(len(c), dtype=torch.bool)
    )


WRONG = [
    (checks.check_loss, lambda t, f, W, b, lam: checks.squared(t, f, W, b) + lam * f.sum(1).mean(), "where is its row's length"),
    (checks.check_loss, lambda t, f, W, b, lam: checks.squared(t, f, W, b) + lam * (f @ W.square().sum(1)).mean(), "are squared"),
    (checks.check_loss, lambda t, f, W, b, lam: (t - f @ W - b).square().mean() + lam * (f @ W.norm(dim=1)).mean(), "mean over dimensions"),
    (checks.check_loss, lambda t, f, W, b, lam: checks.squared(t, f, W, b), "penalty is missing"),
    (checks.check_dead, lambda last, s, w: (s - last >= w).float().mean(), "−1 is taken for a time"),
    (checks.check_dead, lambda last, s, w: (last < 0).float().mean(), "only those"),
    (checks.check_dead, lambda last, s, w: ((s - last >= w) | (last < 0)).float().mean(), "however few"),
    (checks.check_dead, lambda last, s, w: float("nan"), "NaN"),
    (checks.check_half, lambda q, s: checks.half(q, s, log=False), "not in its logarithm"),
    (checks.check_half, lambda q, s: q[int((s >= 0.5).int().argmax())], "go back along the line"),
    (checks.check_half, lambda q, s: q[(s - 0.5).abs().argmin()], "nearest point"),
    (checks.check_frontier, every_run, "not the frontier"),
    (checks.check_frontier, lambda c, v, d: checks.frontier_and_interval(c, v, d, log=lambda x: x), "not in logs"),
    (checks.check_frontier, lambda c, v, d: checks.frontier_and_interval(c, v, d, inner=0.9), "90%"),
    (checks.check_clamp, lambda *a: checks.clamp(*a, error=0.0), "error term is lost"),
    (checks.check_clamp, lambda *a: checks.clamp(*a[:-1], torch.inf), "huge rows are changed"),
    (checks.check_clamp, lambda *a: checks.clamp(*a, add=True), "to \\*become\\*"),
    (checks.check_clamp, lambda x, e, d, i, v, limit: x.mul_(1.0).add_(1.0), "in place"),
    (checks.check_page, lambda f, t: torch.stack([t[f[:, i] > 0].float().mean() for i in (0, 1)]), "weak activity drifts"),
    (checks.check_page, lambda f, t: t[f.argmax(0)].float(), "single best example"),
    (checks.check_page, lambda f, t: (t[:, None] & (f > f.max(0).values / 2)).sum(0) / t.sum(), "this is recall"),
    (checks.check_page, lambda f, t: (t[:, None] & (f > f.max(0).values / 2)).sum(0), "these are counts"),
    (checks.check_nested, lambda *a: checks.nested(*a, ends=lambda p, s: p), "whole is missing"),
    (checks.check_nested, lambda *a: checks.nested(*a, total=sum), "take their mean"),
    (checks.check_nested, lambda t, f, W, b, p: checks.squared(t, f, W, b), "whole alone"),
    (checks.check_sent, lambda *a: checks.sent(*a).sum(1), "keep them apart"),
    (checks.check_sent, lambda f, W, o, E, s: checks.sent(torch.ones_like(f), W, o, E, s), "sends nothing"),
    (checks.check_sent, lambda f, W, o, E, s: checks.sent(f, W, 1 / o, E, s), "it is divided"),
    (checks.check_sent, lambda f, W, o, E, s: checks.sent(f, W, o, E, 1.0), "scale is forgotten"),
    (checks.check_sent, lambda *a: checks.sent(*a).mT, "changed places"),
]  # fmt: skip
