"""Checks of notebook 10, probing and erasing."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_course.checks import check
from mi_course.checks.circuits import check_through, random


def spread(x: Tensor, z: Tensor) -> Tensor:
    return x[z].mean(0) - x[~z].mean(0)


def labels(n: int, seed: int, share: float = 0.4) -> Tensor:
    """Labels of which some are True and some False, not as many of each."""
    z = torch.zeros(n, dtype=torch.bool)
    z[: max(1, round(share * n))] = True
    return z[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]


def check_difference(function: object) -> None:
    """Exercise 1: the difference of means and the threshold half way."""
    cases = [(random(n, d, seed=n) + 1.0, labels(n, n)) for n, d in ((7, 3), (12, 5), (20, 2))]

    def both(x, z, w=None, middle=None):
        w = spread(x, z) if w is None else w
        middle = (x[z].mean(0) + x[~z].mean(0)) / 2 if middle is None else middle
        return torch.cat([w, -(w @ middle)[None]])

    def unit(x, z):
        return spread(x, z) / spread(x, z).norm()

    mistakes = {
        "the direction points from the rows with the concept to those without.": lambda x, z: -both(x, z),
        "the threshold is at the mean of all rows: the classes are not equally large.":
            lambda x, z: both(x, z, middle=x.mean(0)),
        "the threshold is at the origin: there is a b.": lambda x, z: both(x, z, middle=0 * x[0]),
        "the threshold lies at the mean of the rows with the concept: half way is wanted.":
            lambda x, z: both(x, z, middle=x[z].mean(0)),
        "the threshold lies at the mean of the rows without it: half way is wanted.":
            lambda x, z: both(x, z, middle=x[~z].mean(0)),
        "b has the wrong sign: w · x + b is 0 half way.": lambda x, z: both(x, z, middle=-(x[z].mean(0) + x[~z].mean(0)) / 2),
        "the two means are added for b, and not halved.": lambda x, z: both(x, z, middle=x[z].mean(0) + x[~z].mean(0)),
        "sums are compared, not means.": lambda x, z: both(x, z, w=x[z].sum(0) - x[~z].sum(0)),
        "the mean of all rows is taken away, not that of the rows without.": lambda x, z: both(x, z, w=x[z].mean(0) - x.mean(0)),
        "the direction is scaled to length 1: take the difference as it is.": lambda x, z: both(x, z, w=unit(x, z)),
    }  # fmt: skip

    def flat(answer):
        try:
            w, b = answer
            return torch.cat([torch.as_tensor(w).flatten().float(), torch.as_tensor(b).reshape(1).float()])
        except (TypeError, ValueError, RuntimeError):
            return answer

    say = "no fitting, two means"
    check_through(flat, "difference of means", function, both, cases, mistakes, atol=1e-4, say=say)


def selectivity(scores: Tensor, z: Tensor, control_scores: Tensor, coin: Tensor) -> Tensor:
    accuracy = lambda s, y: ((s > 0) == y).float().mean()
    return accuracy(scores, z) - accuracy(control_scores, coin)


def check_selectivity(function: object) -> None:
    """Exercise 2: accuracy on the task less accuracy on the control task."""
    cases = []
    for n, s in ((8, 1), (15, 2), (40, 3)):
        z, coin = labels(n, s), labels(n, s + 20, 0.6)
        scores, others = random(n, seed=s) + z.float(), random(n, seed=s + 50) + 0.4 * coin.float()
        scores[::4], others[1::4] = 0.0, 0.0  # at the threshold: not above it
        cases.append((scores, z, others, coin))
    right = lambda s, y: ((s > 0) == y).float().mean()
    mistakes = {
        "this is the accuracy on the task alone.": lambda s, z, c, k: right(s, z),
        "this is the accuracy on the control task alone.": lambda s, z, c, k: right(c, k),
        "the control task is added: take it away.": lambda s, z, c, k: right(s, z) + right(c, k),
        "the two are exchanged: the task comes first.": lambda s, z, c, k: right(c, k) - right(s, z),
        "one half is taken away: the control task is a probe's own score, not chance.": lambda s, z, c, k: right(s, z) - 0.5,
        "one probe is asked for both: the control task has a probe of its own.": lambda s, z, c, k: right(s, z) - right(s, k),
        "the probe of the task is read against the coins.": lambda s, z, c, k: right(s, k) - right(c, z),
        "a score of 0 is not above 0.": lambda s, z, c, k: right(s + 1e-6, z) - right(c + 1e-6, k),
        "it is divided: a difference is wanted.": lambda s, z, c, k: right(s, z) / right(c, k),
        "only rows with the concept are counted (recall).": lambda s, z, c, k: (s[z] > 0).float().mean() - (c[k] > 0).float().mean(),
        "right answers are counted, not their share.": lambda s, z, c, k: len(z) * selectivity(s, z, c, k),
    }  # fmt: skip
    check("selectivity", function, selectivity, cases, mistakes, say="what is read beyond what is memorised")


def erased(x: Tensor, z: Tensor, reads=None, moves=None, mean=None) -> Tensor:
    """LEACE for labels, with other directions where they are given."""
    bit = z.double() - z.double().mean()
    mean = x.mean(0) if mean is None else mean
    centred = (x - x.mean(0)).double()
    Sigma_xz = centred.T @ bit / len(x)
    reads = (
        torch.linalg.solve(centred.T @ centred / len(x), Sigma_xz)
        if reads is None
        else reads(centred, Sigma_xz)
    )
    moves = Sigma_xz if moves is None else moves(centred, Sigma_xz)
    amount = (x.double() - mean.double()) @ reads / (Sigma_xz @ reads)
    return (x.double() - amount[:, None] * moves).to(x)


def check_erase(function: object) -> None:
    """Exercise 3: LEACE for two classes."""
    cases = []
    for n, d, s in ((30, 3, 1), (60, 5, 2), (25, 2, 3)):
        z = labels(n, s)
        x = (
            random(n, d, seed=s) @ (torch.eye(d) + 0.4 * random(d, d, seed=s + 5))
            + z[:, None] * random(d, seed=s + 9)
        ).double()
        cases.append((x + 2.0, z))
    inverse = lambda c, s: torch.linalg.solve(c.T @ c / len(c), s)
    mistakes = {
        "it reads with the direction along which it moves (the mean-difference projection): divide by Σ_xx.":
            lambda x, z: erased(x, z, reads=lambda c, s: s),
        "it moves along the direction that it reads with.": lambda x, z: erased(x, z, moves=lambda c, s: inverse(c, s) * (s @ inverse(c, s)) / (inverse(c, s) @ inverse(c, s))),
        "rows are read from the origin: take the mean away first.": lambda x, z: erased(x, z, mean=0 * x[0]),
        "it is multiplied by Σ_xx and not by its inverse.": lambda x, z: erased(x, z, reads=lambda c, s: c.T @ c / len(c) @ s),
        "each column is divided by its own variance: columns are correlated, invert the whole matrix.":
            lambda x, z: erased(x, z, reads=lambda c, s: s / c.square().mean(0)),
        "the amount is added: take it away.": lambda x, z: 2 * x - erased(x, z),
        "each class loses its own mean (the oracle): the label may not be used on a row.":
            lambda x, z: x - torch.where(z[:, None], x[z].mean(0), x[~z].mean(0)) + x.mean(0),
        "only half of it is taken away.": lambda x, z: (x + erased(x, z)) / 2,
        "what was taken away is returned: what is left is wanted.": lambda x, z: x - erased(x, z),
        "the mean is gone as well: only the concept should be.": lambda x, z: erased(x, z) - x.mean(0),
        "Σ_xx is measured from the origin: it is a covariance.":
            lambda x, z: erased(x, z, reads=lambda c, s: torch.linalg.solve(x.T @ x / len(x), s)),
    }  # fmt: skip
    say = "moves along the difference of means, reads with Σ⁻¹ of it"
    check("erase", function, erased, cases, mistakes, atol=1e-4, say=say)


def tcav(gradients: Tensor, vector: Tensor) -> Tensor:
    return (gradients @ vector > 0).float().mean()


def check_tcav(function: object) -> None:
    """Exercise 4: the TCAV score."""
    cases = [(random(n, d, seed=n) + 0.2, random(d, seed=n + 1)) for n, d in ((5, 3), (9, 4), (31, 6))]
    cases.append(
        (torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]), torch.tensor([1.0, 0.0]))
    )  # one derivative is 0
    mistakes = {
        "this is the mean derivative: the share of positive ones is wanted.": lambda g, v: (g @ v).mean(),
        "they are counted, not their share.": lambda g, v: (g @ v > 0).float().sum(),
        "a derivative of 0 does not rise.": lambda g, v: (g @ v >= 0).float().mean(),
        "the negative ones are counted.": lambda g, v: (g @ v < 0).float().mean(),
        "every coordinate is counted by itself: the derivative along v is one number an input.":
            lambda g, v: (g * v > 0).float().mean(),
        "the mean gradient is taken first: then there is one derivative, and no share.": lambda g, v: (g.mean(0) @ v > 0).float(),
        "the vector is not used.": lambda g, v: (g.sum(1) > 0).float().mean(),
        "signs are averaged: those below 0 count −1 here.": lambda g, v: (g @ v).sign().mean(),
    }  # fmt: skip
    check("TCAV score", function, tcav, cases, mistakes, say="a share of signs: it has no size")


def precision(base_rate: float, hits: float, false_alarms: float) -> float:
    alarms = base_rate * hits + (1 - base_rate) * false_alarms
    return base_rate * hits / alarms


def check_precision(function: object) -> None:
    """Exercise 5: the share of alarms that are right."""
    cases = [(0.5, 0.9, 0.1), (0.01, 0.95, 0.05), (1e-4, 1.0, 0.01), (0.2, 0.4, 0.3)]
    mistakes = {
        "this is the share of unsafe cases that are found (recall): count among the alarms.": lambda p, t, f: t,
        "the base rate is left out: so it is only where half of all cases are unsafe.": lambda p, t, f: t / (t + f),
        "false alarms come from the 1 − π that are harmless.": lambda p, t, f: p * t / (p * t + f),
        "both kinds of case are weighted with the base rate.": lambda p, t, f: p * t / (p * t + p * f),
        "this is the share of false alarms: the right ones are wanted.": lambda p, t, f: 1 - precision(p, t, f),
        "one less the false alarms is not the share of alarms that are right.": lambda p, t, f: 1 - f,
        "this is how often there is an alarm.": lambda p, t, f: p * t + (1 - p) * f,
        "false alarms are taken as quiet ones (1 − f).": lambda p, t, f: precision(p, t, 1 - f),
        "base rate and its rest are exchanged.": lambda p, t, f: precision(1 - p, t, f),
        "the weight of the unsafe cases is missing above the bar.": lambda p, t, f: t / (p * t + (1 - p) * f),
    }  # fmt: skip
    say = "of rare things nearly every alarm is false"
    check("precision", function, precision, cases, mistakes, atol=1e-6, say=say)


def leak(gap_before, gap_after, gap_again):
    return (gap_again - gap_after) / (gap_before - gap_after)


def check_leak(function: object) -> None:
    """Exercise 6: the share of a gap that leaks back."""
    cases = []
    for n, s in ((12, 1), (25, 2), (40, 3)):
        group = labels(n, s)
        outs = [
            (random(n, seed=s + i) + shift * group.float()).sigmoid()
            for i, shift in ((1, 2.0), (2, 0.2), (3, 1.0))
        ]
        cases.append((*outs, group))
    gap = lambda out, group: out[group].mean() - out[~group].mean()
    gaps = lambda a, b, c, g: (gap(a, g), gap(b, g), gap(c, g))
    right = lambda a, b, c, g: leak(*gaps(a, b, c, g))
    mistakes = {
        "this is the gap that came back, in itself: divide by what had been closed.":
            lambda a, b, c, g: gap(c, g) - gap(b, g),
        "the gap that is there again is divided by the first: what was never closed did not leak back.":
            lambda a, b, c, g: gap(c, g) / gap(a, g),
        "what came back is divided by the whole first gap: only a part of it had been closed.":
            lambda a, b, c, g: (gap(c, g) - gap(b, g)) / gap(a, g),
        "this is what stayed closed: one less it is what leaked back.": lambda a, b, c, g: 1 - right(a, b, c, g),
        "this is the share that was closed: nothing came back yet.":
            lambda a, b, c, g: (gap(a, g) - gap(b, g)) / gap(a, g),
        "first and second are exchanged.": lambda a, b, c, g: right(b, a, c, g),
        "it is turned over: what came back stands above the bar.": lambda a, b, c, g: 1 / right(a, b, c, g),
        "means over everybody are compared: a gap is between groups.":
            lambda a, b, c, g: leak(a.mean(), b.mean(), c.mean()),
        "sums over groups are compared: groups differ in size.":
            lambda a, b, c, g: leak(*(out[g].sum() - out[~g].sum() for out in (a, b, c))),
        "group 1 alone is looked at: a gap has two sides.":
            lambda a, b, c, g: leak(*(out[g].mean() for out in (a, b, c))),
        "group 0 alone is looked at: a gap has two sides.":
            lambda a, b, c, g: leak(*(out[~g].mean() for out in (a, b, c))),
    }  # fmt: skip
    say = "of what was closed, so much is open again"
    check("leak", function, right, cases, mistakes, atol=1e-4, say=say)


def folds(documents: Tensor, z: Tensor, chosen: set[int] | list[int]) -> str:
    """What is wrong with a split, or "sound"."""
    held = torch.tensor([int(d) in set(chosen) for d in documents.tolist()])
    if len(z[held].unique()) < 2 or len(z[~held].unique()) < 2:
        return "one class"
    pure = all(len(z[documents == d].unique()) == 1 for d in documents.unique())
    return "document" if pure else "sound"


def check_folds(function: object) -> None:
    """Exercise 7: which of three splits may be believed."""
    T = torch.tensor
    cases = [
        (T([0, 0, 1, 1, 2, 2]), T([0, 1, 0, 1, 1, 0]), [2]),
        (T([0, 0, 1, 1, 2, 2]), T([0, 1, 0, 1, 1, 1]), [2]),
        (T([0, 0, 1, 1, 2, 2]), T([1, 1, 1, 1, 0, 1]), [2]),
        (T([5, 5, 7, 7, 8, 8, 9, 9]), T([0, 0, 1, 1, 0, 0, 1, 1]), [5, 7]),
        (T([5, 5, 7, 7, 8, 8, 9, 9]), T([0, 0, 1, 1, 0, 0, 1, 0]), [5, 7]),
        (T([5, 5, 7, 7, 8, 8, 9, 9]), T([0, 0, 1, 1, 0, 0, 1, 1]), [5, 8]),
        (T([5, 7, 5, 7, 8, 9, 8, 9]), T([0, 1, 0, 1, 0, 1, 0, 1]), [8, 9]),
    ]
    one = lambda d, z, k: len(z[d == k].unique()) == 1
    pure = lambda d, z, how: "document" if how(one(d, z, k) for k in d.unique()) else "sound"
    mistakes = {
        "only the rows to test on are looked at: both parts need both classes.":
            lambda d, z, c: "one class" if len(z[torch.isin(d, T(c))].unique()) < 2 else pure(d, z, all),
        "only the rows to train on are looked at: both parts need both classes.":
            lambda d, z, c: "one class" if len(z[~torch.isin(d, T(c))].unique()) < 2 else pure(d, z, all),
        "documents of one class each are not noticed.": lambda d, z, c: (
            "sound" if folds(d, z, c) == "document" else folds(d, z, c)),
        "a part with one class is not noticed.": lambda d, z, c: pure(d, z, all),
        "one pure document is no harm yet: it is where all of them are pure.":
            lambda d, z, c: "one class" if folds(d, z, c) == "one class" else pure(d, z, any),
        "the order is wrong: a part with one class comes first.":
            lambda d, z, c: "document" if pure(d, z, all) == "document" else folds(d, z, c),
        "everything is sound here.": lambda d, z, c: "sound",
    }  # fmt: skip
    check("folds", function, folds, cases, mistakes, say="a split is part of the measurement")


def relative(moves: list[int], cells: int) -> list[int]:
    owner = [0] * cells
    for turn, cell in enumerate(moves):
        owner[cell] = 1 if turn % 2 == 0 else -1
    mover = 1 if len(moves) % 2 == 0 else -1
    return [o * mover for o in owner]


def check_mine_and_yours(function: object) -> None:
    """Exercise 8: the board as the next player sees it."""
    cases = [
        ([0], 3),
        ([0, 0], 3),
        ([2, 0, 0, 1], 4),
        ([1, 3, 3, 1, 0], 4),
        ([], 3),
        ([0, 1, 2, 0, 1, 2, 0], 3),
    ]

    def board(moves, cells, keep=False):
        owner = [0] * cells
        for turn, cell in enumerate(moves):
            if not (keep and owner[cell]):
                owner[cell] = 1 if turn % 2 == 0 else -1
        return owner

    mistakes = {
        "this is black and white: it does not depend on whose turn it is.": lambda m, n: board(m, n),
        "this is how the player sees it who has just moved: the next one is asked.":
            lambda m, n: [-v for v in relative(m, n)],
        "white's view: it is right after an odd number of moves only.": lambda m, n: [-v for v in board(m, n)],
        "a cell once taken can be taken from its owner.":
            lambda m, n: [v * (1 if len(m) % 2 == 0 else -1) for v in board(m, n, keep=True)],
        "empty cells are nobody's: they are 0.": lambda m, n: [v or -1 for v in relative(m, n)],
        "this says what is legal: not what is whose.": lambda m, n: [int(v != 1) for v in relative(m, n)],
        "this says what is mine, and leaves yours out.": lambda m, n: [max(v, 0) for v in relative(m, n)],
    }  # fmt: skip

    def listed(answer):
        try:
            return [int(v) for v in (answer.tolist() if isinstance(answer, Tensor) else answer)]
        except (TypeError, ValueError):
            return answer

    say = "one board, two codes"
    check_through(listed, "mine and yours", function, relative, cases, mistakes, say=say)
