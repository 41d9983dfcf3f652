"""Every check of notebook 10: the solution and another right answer pass, wrong ones hear what went wrong."""

import torch

from mi_course.checks import probing as checks
from tests.answers import *  # noqa: F403 — the tests themselves, over RIGHT and WRONG below

# -- right answers: the notebook's, and another one ---------------------------------------------------


def mean_difference(x, z):
    there, absent = x[z].mean(0), x[~z].mean(0)
    w = there - absent
    return w, -(w @ (there + absent)) / 2


def mean_difference_by_weights(x, z):
    y = z.double()
    w = x.double().T @ (y / y.sum() - (1 - y) / (1 - y).sum())
    middle = x.double().T @ (y / y.sum() + (1 - y) / (1 - y).sum()) / 2
    return [w.tolist(), -float(w @ middle)]


def selectivity(scores, z, control_scores, coin):
    return ((scores > 0) == z).float().mean() - ((control_scores > 0) == coin).float().mean()


def selectivity_by_errors(scores, z, control_scores, coin):
    wrong = lambda s, y: sum(bool(a > 0) != bool(b) for a, b in zip(s, y)) / len(y)
    return wrong(control_scores, coin) - wrong(scores, z)


def erase(x, z):
    centred, bit = x - x.mean(0), z.to(x) - z.to(x).mean()
    Sigma_xx, Sigma_xz = centred.T @ centred / len(x), centred.T @ bit / len(x)
    reads = torch.linalg.solve(Sigma_xx, Sigma_xz)
    return x - (centred @ reads / (Sigma_xz @ reads))[:, None] * Sigma_xz


def erase_by_whitening(x, z):
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    W, W_inv = vectors * values.rsqrt() @ vectors.T, vectors * values.sqrt() @ vectors.T
    u = torch.nn.functional.normalize(W @ (x[z].mean(0) - x[~z].mean(0)), dim=0)
    white = (x - mean) @ W
    return mean + (white - (white @ u)[:, None] * u) @ W_inv


def tcav(gradients, vector):
    return (gradients @ vector > 0).float().mean()


def tcav_by_loop(gradients, vector):
    return sum(float((g * vector).sum()) > 0 for g in gradients) / len(gradients)


def precision(base_rate, hits, false_alarms):
    return base_rate * hits / (base_rate * hits + (1 - base_rate) * false_alarms)


def precision_by_odds(base_rate, hits, false_alarms):
    odds = base_rate / (1 - base_rate) * hits / false_alarms
    return torch.tensor(odds / (1 + odds), dtype=torch.double)


def leaked(first, closed, again, group):
    a, b, c = (out[group].mean() - out[~group].mean() for out in (first, closed, again))
    return (c - b) / (a - b)


def leaked_by_differences(first, closed, again, group):
    gap = lambda out: float(out[group].mean() - out[~group].mean())
    return 1 - gap(first - again) / gap(first - closed)


def judge(documents, z, chosen):
    held = torch.isin(documents, torch.tensor(chosen))
    if len(z[held].unique()) < 2 or len(z[~held].unique()) < 2:
        return "one class"
    return "document" if all(len(z[documents == d].unique()) == 1 for d in documents.unique()) else "sound"


def judge_by_sets(documents, z, chosen):
    rows = list(zip(documents.tolist(), z.tolist()))
    parts = [{label for d, label in rows if (d in chosen) == inside} for inside in (True, False)]
    if any(len(part) == 1 for part in parts):
        return "one class"
    mixed = [d for d, label in rows if (d, 1 - label) in rows]
    return "sound" if mixed else "document"


def mine(moves, cells):
    board, player = [0] * cells, 1
    for cell in moves:
        board[cell], player = player, -player
    return [owner * player for owner in board]


def mine_by_turning(moves, cells):
    board = torch.zeros(cells)
    for cell in moves:
        board[cell] = 1.0  # the mover's; then the board is turned
        board = -board
    return board


RIGHT = [
    (checks.check_difference, mean_difference, mean_difference_by_weights),
    (checks.check_selectivity, selectivity, selectivity_by_errors),
    (checks.check_erase, erase, erase_by_whitening),
    (checks.check_tcav, tcav, tcav_by_loop),
    (checks.check_precision, precision, precision_by_odds),
    (checks.check_leak, leaked, leaked_by_differences),
    (checks.check_folds, judge, judge_by_sets),
    (checks.check_mine_and_yours, mine, mine_by_turning),
]


# -- wrong answers, and what they hear ---------------------------------------------------------------

WRONG = [
    (checks.check_difference, lambda x, z: tuple(-part for part in mean_difference(x, z)), "from the rows with the concept"),
    (checks.check_difference, lambda x, z: (mean_difference(x, z)[0], -(mean_difference(x, z)[0] @ x.mean(0))), "mean of all rows"),
    (checks.check_difference, lambda x, z: (mean_difference(x, z)[0], torch.tensor(0.0)), "there is a b"),
    (checks.check_selectivity, lambda s, z, c, k: ((s > 0) == z).float().mean() - 0.5, "not chance"),
    (checks.check_selectivity, lambda s, z, c, k: ((s > 0) == z).float().mean(), "task alone"),
    (checks.check_selectivity, lambda s, z, c, k: ((s > 0) == z).float().mean() - ((s > 0) == k).float().mean(), "of its own"),
    (checks.check_erase, lambda x, z: checks.erased(x, z, reads=lambda c, s: s), "mean-difference projection"),
    (checks.check_erase, lambda x, z: checks.erased(x, z, mean=0 * x[0]), "take the mean away"),
    (checks.check_erase, lambda x, z: 2 * x - erase(x, z), "is added"),
    (checks.check_tcav, lambda g, v: (g @ v).mean(), "mean derivative"),
    (checks.check_tcav, lambda g, v: (g @ v >= 0).float().mean(), "does not rise"),
    (checks.check_tcav, lambda g, v: (g * v > 0).float().mean(), "every coordinate"),
    (checks.check_precision, lambda p, t, f: t / (t + f), "base rate is left out"),
    (checks.check_precision, lambda p, t, f: t, "recall"),
    (checks.check_precision, lambda p, t, f: p * t / (p * t + f), "1 − π"),
    (checks.check_leak, lambda a, b, c, g: (c[g].mean() - c[~g].mean()) / (a[g].mean() - a[~g].mean()), "never closed"),
    (checks.check_leak, lambda a, b, c, g: 1 - leaked(a, b, c, g), "stayed closed"),
    (checks.check_leak, lambda a, b, c, g: (c[g].mean() - b[g].mean()) / (a[g].mean() - b[g].mean()), "two sides"),
    (checks.check_folds, lambda d, z, c: "sound", "everything is sound"),
    (checks.check_folds, lambda d, z, c: "sound" if judge(d, z, c) == "document" else judge(d, z, c), "are not noticed"),
    (checks.check_folds, lambda d, z, c: "document" if all(len(z[d == k].unique()) == 1 for k in d.unique()) else "sound", "with one class is not noticed"),
    (checks.check_mine_and_yours, lambda m, n: [-v for v in mine(m, n)], "just moved"),
    (checks.check_mine_and_yours, lambda m, n: [v * (1 if len(m) % 2 == 0 else -1) for v in mine(m, n)], "black and white"),
    (checks.check_mine_and_yours, lambda m, n: [max(v, 0) for v in mine(m, n)], "leaves yours out"),
]  # fmt: skip
