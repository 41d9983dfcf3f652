"""Checks of notebook 13, classic explanations."""

from __future__ import annotations

import math
from itertools import combinations, product

import torch
from torch import Tensor

from mi_course.checks import check
from mi_course.checks.circuits import check_through, random


def two(neither, a, b, both) -> tuple:
    return ((a - neither) + (both - b)) / 2, ((b - neither) + (both - a)) / 2


def check_two_features(function: object) -> None:
    """Exercise 1: the Shapley values of two features from four outputs."""
    cases = [(0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 1.0, 1.0), (1.0, 3.0, -2.0, 4.5), (0.5, 0.5, 2.0, -1.0)]
    mistakes = {
        "this is what each adds to nothing: the order in which it comes second is left out.":
            lambda n, a, b, both: (a - n, b - n),
        "this is what each adds last (leaving it out): the order in which it comes first is missing.":
            lambda n, a, b, both: (both - b, both - a),
        "the two are exchanged.": lambda *c: two(*c)[::-1],
        "the two orders are added up: take their mean.": lambda *c: tuple(2 * x for x in two(*c)),
        "each gets half of the whole, whatever it does alone.": lambda n, a, b, both: ((both - n) / 2, (both - n) / 2),
        "in one order a comes in before anything is known, in the other when b is: subtract what was there before.":
            lambda n, a, b, both: ((a + both - b) / 2, (b + both - a) / 2),
        "this is one order only: a first, then b.": lambda n, a, b, both: (a - n, both - a),
        "this is one order only: b first, then a.": lambda n, a, b, both: (both - b, b - n),
    }  # fmt: skip
    check("two features", function, two, cases, mistakes, say="two orders, and the mean of what is added")


def shapley(v: Tensor, weight=None) -> Tensor:
    """Over coalitions; `weight(size, n)` may be a wrong one."""
    n = v.ndim
    right = lambda size, n: math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
    weight = weight or right
    credit = torch.zeros(n, dtype=v.dtype)
    for known in product((0, 1), repeat=n):
        for j in range(n):
            if not known[j]:
                joined = known[:j] + (1,) + known[j + 1 :]
                credit[j] += weight(sum(known), n) * (v[joined] - v[known])
    return credit


def one_order(v: Tensor, order: list[int]) -> Tensor:
    inside, credit = [0] * v.ndim, torch.zeros(v.ndim)
    for j in order:
        before = v[tuple(inside)]
        inside[j] = 1
        credit[j] = v[tuple(inside)] - before
    return credit


def check_shapley_values(function: object) -> None:
    """Exercise 2: Shapley values from a cube of coalition values."""
    both = torch.zeros(2, 2, 2)
    both[1, 1, 1] = 1.0
    cases = [(random(*[2] * n, seed=n),) for n in (1, 2, 3, 4, 5)] + [(both,)]
    last = lambda v: torch.stack([v.flatten()[-1] - v.select(j, 0).flatten()[-1] for j in range(v.ndim)])
    first = lambda v: torch.stack([v.select(j, 1).flatten()[0] - v.flatten()[0] for j in range(v.ndim)])
    mistakes = {
        "all coalitions count alike here (Banzhaf): those of one size share a weight of 1/n.":
            lambda v: shapley(v, lambda size, n: 1 / 2 ** (n - 1)),
        "the changes are summed with no weight.": lambda v: shapley(v, lambda size, n: 1.0),
        "the weight belongs to a coalition with j already in it: |S| is the size before.":
            lambda v: shapley(v, lambda size, n: math.factorial(size + 1) * math.factorial(n - size - 1) / math.factorial(n)),
        "it is not divided by n!.":
            lambda v: shapley(v, lambda size, n: math.factorial(size) * math.factorial(n - size - 1)),
        "this is what each adds to all the others (leaving it out).": last,
        "this is what each adds to nothing.": first,
        "this is one order alone.": lambda v: one_order(v, list(range(v.ndim))),
        "this is one order alone, backwards.": lambda v: one_order(v, list(range(v.ndim))[::-1]),
    }  # fmt: skip
    say = "they sum to v(all) − v(none)"
    check("Shapley values", function, shapley, cases, mistakes, atol=1e-4, say=say)


def group_rise(model, X: Tensor, y: Tensor, columns: list[int], order: Tensor) -> Tensor:
    shuffled = X.clone()
    shuffled[:, columns] = X[order][:, columns]
    return ((model(shuffled) - y) ** 2).mean() - ((model(X) - y) ** 2).mean()


def linear(rows: Tensor) -> Tensor:
    return rows[:, 0] + rows[:, 1] - 2 * rows[:, 2]


def bent(rows: Tensor) -> Tensor:
    return rows[:, 0] * rows[:, 1] + rows[:, 2] ** 2


def check_rise_of_group(function: object) -> None:
    """Exercise 3: the rise of the squared error when some columns are shuffled with one order."""
    cases = []
    for n, columns, model, s in (
        (6, [0, 1], linear, 1),
        (9, [2], bent, 2),
        (7, [0, 2], bent, 3),
        (5, [1, 0, 2], linear, 4),
    ):
        X = random(n, 3, seed=s)
        X[:, 1] = X[:, 0] if s == 1 else X[:, 1]
        order = torch.rand(n, generator=torch.Generator().manual_seed(s)).argsort()
        cases.append((model, X, model(X) + 0.5 * random(n, seed=s + 9), columns, order))

    def one_by_one(model, X, y, columns, order):
        return sum(group_rise(model, X, y, [j], order) for j in columns)

    def apart(model, X, y, columns, order):
        shuffled = X.clone()
        for i, j in enumerate(columns):
            shuffled[:, j] = X[order.roll(i), j]
        return ((model(shuffled) - y) ** 2).mean() - ((model(X) - y) ** 2).mean()

    mse = lambda model, X, y: ((model(X) - y) ** 2).mean()
    mistakes = {
        "each column is shuffled alone, and the rises added up: they belong together.": one_by_one,
        "every column has an order of its own: shuffle all of them with the same one.": apart,
        "whole rows are shuffled: only the columns of the group move.":
            lambda f, X, y, c, o: mse(f, X[o], y) - mse(f, X, y),
        "the error of the unshuffled rows is not taken away: the rise is wanted.":
            lambda f, X, y, c, o: group_rise(f, X, y, c, o) + mse(f, X, y),
        "the model's output is compared with its own output, not with y.":
            lambda f, X, y, c, o: group_rise(f, X, f(X), c, o),
        "the order is applied the wrong way round: row i gets what row order[i] had.":
            lambda f, X, y, c, o: group_rise(f, X, y, c, o.argsort()),
        "this is the absolute error: square it.":
            lambda f, X, y, c, o: (f(moved(X, c, o)) - y).abs().mean() - (f(X) - y).abs().mean(),
        "it is summed over rows: take the mean.": lambda f, X, y, c, o: len(X) * group_rise(f, X, y, c, o),
    }  # fmt: skip
    say = "what belongs together is shuffled together"
    check("rise of a group", function, group_rise, cases, mistakes, atol=1e-4, say=say)


def moved(X: Tensor, columns: list[int], order: Tensor) -> Tensor:
    shuffled = X.clone()
    shuffled[:, columns] = X[order][:, columns]
    return shuffled


def slope(steps: Tensor, outputs: Tensor, w: Tensor) -> Tensor:
    """Slope of the weighted line."""
    w = w / w.sum()
    centre, level = (w * steps).sum(), (w * outputs).sum()
    return (w * (steps - centre) * (outputs - level)).sum() / (w * (steps - centre) ** 2).sum()


def check_local_slope(function: object) -> None:
    """Exercise 4: LIME in one dimension, its slope."""
    cases = []
    for n, width, s in ((7, 1.0, 1), (12, 0.5, 2), (9, 3.0, 3)):
        steps = random(n, seed=s) + 0.3
        cases.append((steps, (2 * steps).sin() + 0.2 * steps**2 + 1, width))
    weight = lambda t, width: (-(t**2) / width**2).exp()
    mistakes = {
        "the draws are not weighted: this is the line through all of them.":
            lambda t, y, h: slope(t, y, torch.ones_like(t)),
        "the line is forced through the origin: it has an intercept.":
            lambda t, y, h: (weight(t, h) * t * y).sum() / (weight(t, h) * t * t).sum(),
        "plain means are taken away, and weighted ones are wanted.":
            lambda t, y, h: (weight(t, h) * (t - t.mean()) * (y - y.mean())).sum() / (weight(t, h) * (t - t.mean()) ** 2).sum(),
        "the width is not squared.": lambda t, y, h: slope(t, y, (-(t**2) / h).exp()),
        "the width's square is doubled, as in a normal density: here it is exp(−step²/width²).":
            lambda t, y, h: slope(t, y, (-(t**2) / (2 * h**2)).exp()),
        "the steps are not squared in the weight.": lambda t, y, h: slope(t, y, (-t.abs() / h).exp()),
        "far draws weigh most: the sign in the exponent is turned round.": lambda t, y, h: slope(t, y, (t**2 / h**2).exp()),
        "steps and outputs are exchanged.": lambda t, y, h: slope(y, t, weight(t, h)),
        "weights were squared: each counts once.": lambda t, y, h: slope(t, y, weight(t, h) ** 2),
        "the root of the weights is used, and nothing squares it again.": lambda t, y, h: slope(t, y, weight(t, h) ** 0.5),
    }  # fmt: skip
    right = lambda t, y, h: slope(t, y, weight(t, h))
    say = "the width belongs to the answer"
    check("local slope", function, right, cases, mistakes, atol=1e-4, say=say)


def integral(gradient, x: Tensor, baseline: Tensor, n: int, shift: float = 0.5) -> Tensor:
    """`shift` ½ takes the middles of the steps, 0 and 1 their ends."""
    points = [baseline + (i + shift) / n * (x - baseline) for i in range(n)]
    return (x - baseline) * torch.stack([gradient(p) for p in points]).mean(0)


def of_product(p: Tensor) -> Tensor:
    return torch.stack([p[1] * p[2], p[0] * p[2], p[0] * p[1]])


def of_cube(p: Tensor) -> Tensor:
    return 3 * p**2 + 1


def check_integrated(function: object) -> None:
    """Exercise 5: integrated gradients with the midpoint rule."""
    cases = []
    for gradient, n, s in ((of_product, 4, 1), (of_cube, 5, 2), (of_product, 1, 3), (of_cube, 2, 4)):
        cases.append((gradient, random(3, seed=s), random(3, seed=s + 20), n))
    mistakes = {
        "it is multiplied by x and not by how far each feature has moved.":
            lambda g, x, b, n: x * torch.stack([g(b + (i + 0.5) / n * (x - b)) for i in range(n)]).mean(0),
        "the path starts at 0 and not at the baseline.": lambda g, x, b, n: integral(g, x, 0 * b, n),
        "the gradients are summed and not averaged.": lambda g, x, b, n: n * integral(g, x, b, n),
        "the mean gradient is not multiplied by the way.":
            lambda g, x, b, n: torch.stack([g(b + (i + 0.5) / n * (x - b)) for i in range(n)]).mean(0),
        "the left ends of the steps are taken: their middles are wanted.": lambda g, x, b, n: integral(g, x, b, n, 0.0),
        "the right ends of the steps are taken: their middles are wanted.": lambda g, x, b, n: integral(g, x, b, n, 1.0),
        "this is gradient × input: one gradient, at x.": lambda g, x, b, n: x * g(x),
        "one gradient is taken, at x: follow the path.": lambda g, x, b, n: (x - b) * g(x),
        "the way runs from x to the baseline.": lambda g, x, b, n: (b - x) * integral(g, x, b, n) / (x - b),
        "the gradient is taken at the way itself: add it to the baseline.":
            lambda g, x, b, n: (x - b) * torch.stack([g((i + 0.5) / n * (x - b)) for i in range(n)]).mean(0),
    }  # fmt: skip
    say = "a curve's slope, summed along the way, is its rise"
    check("integrated gradients", function, integral, cases, mistakes, atol=1e-4, say=say)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def js(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


def check_divergence(function: object) -> None:
    """Exercise 6: Jensen–Shannon divergence in nats."""
    cases = [(random(n, seed=n).softmax(0), (2 * random(n, seed=n + 9)).softmax(0)) for n in (2, 4, 7)]
    cases += [(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5]))]
    cases += [(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.5, 0.5]))]
    zeroless = lambda p: p.clamp_min(1e-12)
    mistakes = {
        "this is in bits: nats are wanted.": lambda p, q: js(p, q) / math.log(2),
        "the two divergences are summed: take their mean.": lambda p, q: 2 * js(p, q),
        "this is KL of one to the other: both are compared with their mean.": lambda p, q: kl(zeroless(p), zeroless(q)),
        "this is the mean of KL both ways: compare each with the mean of the two.":
            lambda p, q: (kl(zeroless(p), zeroless(q)) + kl(zeroless(q), zeroless(p))) / 2,
        "only the first is compared with the mean.": lambda p, q: kl(p, (p + q) / 2),
        "only the second is compared with the mean.": lambda p, q: kl(q, (p + q) / 2),
        "this is the root of it (a distance): the divergence itself is wanted.": lambda p, q: js(p, q).sqrt(),
        "this is the total variation: half of the absolute differences.": lambda p, q: (p - q).abs().sum() / 2,
        "the sign is turned round: a divergence is never negative.": lambda p, q: -js(p, q),
    }  # fmt: skip
    check("divergence", function, js, cases, mistakes, say="0 for the same, ln 2 where nothing is shared")


def by_norm(pattern: Tensor, values: Tensor) -> Tensor:
    w = pattern * values.norm(dim=-1)
    return w / w.sum(-1, keepdim=True)


def check_by_what_is_moved(function: object) -> None:
    """Exercise 7: an attention pattern weighted by value norms, rows summing to 1."""
    cases = []
    for q, k, d, s in ((3, 3, 4, 1), (4, 6, 2, 2), (5, 5, 5, 3), (1, 4, 3, 4)):
        values = random(k, d, seed=s) * torch.linspace(0.1, 2, k)[:, None]
        cases.append((random(q, k, seed=s + 5).softmax(-1), values))
    scaled = lambda A, v, p: A * v.norm(dim=-1) ** p
    row = lambda w: w / w.sum(-1, keepdim=True)
    mistakes = {
        "the rows are not divided by their sums.": lambda A, v: scaled(A, v, 1),
        "the columns are divided by their sums, and each query shares out over keys.":
            lambda A, v: scaled(A, v, 1) / scaled(A, v, 1).sum(0, keepdim=True),
        "attention is divided by the norm: a tiny value then gains weight.": lambda A, v: row(scaled(A, v, -1)),
        "squared norms are taken: norms are wanted.": lambda A, v: row(scaled(A, v, 2)),
        "values are summed and not measured by their norm.": lambda A, v: row(A * v.sum(-1)),
        "sizes are summed (the 1-norm): the length of the vector is wanted.": lambda A, v: row(A * v.abs().sum(-1)),
        "the norms alone are left: attention is missing.": lambda A, v: row(v.norm(dim=-1).expand_as(A)),
        "nothing has changed: the values are not used.": lambda A, v: A,
        "norms belong to keys, and here they stand on the queries' side.":
            lambda A, v: row(A * v.norm(dim=-1)[: len(A), None]),
        "everything is divided by one number: every row has a sum of its own.":
            lambda A, v: scaled(A, v, 1) / scaled(A, v, 1).sum(),
    }  # fmt: skip
    say = "a glance at an empty value moves nothing"
    check("by what is moved", function, by_norm, cases, mistakes, say=say)


# -- exercise 8 ----------------------------------------------------------------------------------


def cube(model, x: Tensor, baseline: Tensor) -> Tensor:
    known = torch.tensor(list(product((0, 1), repeat=len(x)))).bool()
    return model(torch.where(known, x, baseline)).view([2] * len(x))


def broken(v: Tensor, credit: Tensor, signed: bool = False) -> set[str]:
    """The axioms that a credit breaks; `signed` forgets to take sizes."""
    size = (lambda t: t) if signed else torch.abs
    found = set()
    if size(credit.sum() - (v.flatten()[-1] - v.flatten()[0])) > 1e-4:
        found.add("efficiency")
    for j in range(v.ndim):
        if (v.select(j, 1) - v.select(j, 0)).abs().max() < 1e-6 and size(credit[j]) > 1e-4:
            found.add("dummy")
    for i, j in combinations(range(v.ndim), 2):
        if (v - v.transpose(i, j)).abs().max() < 1e-6 and size(credit[i] - credit[j]) > 1e-4:
            found.add("symmetry")
    return found


def liars(model, x: Tensor, baseline: Tensor, credits: Tensor) -> set[int]:
    v = cube(model, x, baseline)
    return {i for i, credit in enumerate(credits) if broken(v, credit)}


def gate(rows: Tensor) -> Tensor:
    """An AND of the first two, the third added, the fourth ignored."""
    return 2 * rows[:, 0] * rows[:, 1] - rows[:, 2] + 0 * rows[:, 3]


def spare(rows: Tensor) -> Tensor:
    """The larger of two, and a product that only the last one needs."""
    return torch.maximum(rows[:, 0], rows[:, 1]) + rows[:, 2] * rows[:, 0]


def pooled(rows: Tensor) -> Tensor:
    """A sum of three that counts from two upwards, and one that moves only beside the first."""
    return (rows[:, :3].sum(1) - 1).relu() - 0.5 * rows[:, 3] * rows[:, 0]


def mirrored(rows: Tensor) -> Tensor:
    """The last two alike, and each of them moves the output by itself."""
    return rows[:, 0] - 3 * (rows[:, 1] + rows[:, 2]).tanh()


def suspects(model, x: Tensor, baseline: Tensor, seed: int) -> Tensor:
    """Right credits, orders alone, and right ones that were changed a little in every way."""
    v = cube(model, x, baseline)
    right, n = shapley(v), len(x)
    e = torch.eye(n)
    found = [right, one_order(v, list(range(n))), one_order(v, list(range(n))[::-1]), right.roll(1)]
    found += [right + 0.3 * e[0], right - 0.3 * e[0]]
    found += [right + 0.2 * sign * (e[i] - e[j]) for i, j in combinations(range(n), 2) for sign in (1, -1)]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    return torch.stack(found)[order]


def rows_of(answer):
    """Row numbers in any container, as a set; anything else as it is."""
    try:
        return {int(row) for row in answer} if not isinstance(answer, (str, dict)) else answer
    except (TypeError, ValueError):
        return answer


def check_which_lie(function: object) -> None:
    """Exercise 8: the explanations that break efficiency, dummy or symmetry."""
    cases = []
    for model, n, s in ((gate, 4, 1), (spare, 3, 2), (pooled, 4, 3), (gate, 4, 4), (mirrored, 3, 5)):
        x, baseline = torch.ones(n), torch.zeros(n)
        if s == 4:  # the same gate away from 0 and 1: now its two inputs are not alike
            x, baseline = torch.tensor([2.0, 1.0, 3.0, 1.0]), torch.tensor([0.5, 0.0, 1.0, -1.0])
        cases.append((model, x, baseline, suspects(model, x, baseline, s)))

    def only(*axioms):
        def found(model, x, baseline, credits):
            v = cube(model, x, baseline)
            return {i for i, credit in enumerate(credits) if broken(v, credit) & set(axioms)}

        return found

    everyone = lambda f, x, b, c: set(range(len(c)))
    mistakes = {
        "only the sum is looked at: an order alone adds up, too.": only("efficiency"),
        "the sum is not looked at (efficiency).": only("dummy", "symmetry"),
        "features that do nothing are not looked at (dummy).": only("efficiency", "symmetry"),
        "features that can be exchanged are not looked at (symmetry).": only("efficiency", "dummy"),
        "these are the ones that keep all axioms: the others are wanted.": lambda *c: everyone(*c) - liars(*c),
        "whoever is not the Shapley value is named here: an explanation may keep the three axioms and differ.":
            lambda f, x, b, c: {k for k, credit in enumerate(c) if (credit - shapley(cube(f, x, b))).abs().max() > 1e-4},
        "an excess is found and a lack is not: compare sizes.":
            lambda f, x, b, c: {k for k, credit in enumerate(c) if broken(cube(f, x, b), credit, signed=True)},
        "an unknown feature has its value from `baseline`, not 0.": lambda f, x, b, c: liars(f, x, 0 * b, c),
        "everybody is named.": everyone,
        "nobody is named.": lambda *c: set(),
    }  # fmt: skip
    say = "a fair division keeps all three"
    check_through(rows_of, "which lie", function, liars, cases, mistakes, say=say)
