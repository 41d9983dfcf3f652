"""Every check of notebook 13: the solution and another right answer pass, wrong ones hear what went wrong."""

import itertools
import math

import pytest
import torch

from mi_course.checks import CheckFailed
from mi_course.checks import explanations as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def two_features(neither, a, b, both):
    return ((a - neither) + (both - b)) / 2, ((b - neither) + (both - a)) / 2


def two_features_by_the_rest(neither, a, b, both):
    first = 0.5 * (a + both - b - neither)
    return torch.tensor([first, both - neither - first])


def shapley(v):
    n = v.ndim
    credit = torch.zeros(n)
    for known in itertools.product((0, 1), repeat=n):
        size = sum(known)
        for j in range(n):
            if not known[j]:
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                credit[j] += weight * (v[known[:j] + (1,) + known[j + 1 :]] - v[known])
    return credit


def shapley_by_orders(v):
    n = v.ndim
    credit = torch.zeros(n)
    for order in itertools.permutations(range(n)):
        inside = [0] * n
        for j in order:
            before = v[tuple(inside)]
            inside[j] = 1
            credit[j] += v[tuple(inside)] - before
    return credit / math.factorial(n)


def rise(model, X, y, columns, order):
    shuffled = X.clone()
    shuffled[:, columns] = X[order][:, columns]
    return ((model(shuffled) - y) ** 2).mean() - ((model(X) - y) ** 2).mean()


def rise_by_columns(model, X, y, columns, order):
    parts = [X[order, j] if j in columns else X[:, j] for j in range(X.shape[1])]
    return float((model(torch.stack(parts, 1)) - y).square().mean() - (model(X) - y).square().mean())


def slope(steps, outputs, width):
    w = (-(steps**2) / width**2).exp()
    w = w / w.sum()
    centre, level = (w * steps).sum(), (w * outputs).sum()
    return (w * (steps - centre) * (outputs - level)).sum() / (w * (steps - centre) ** 2).sum()


def slope_by_least_squares(steps, outputs, width):
    root = (-(steps**2) / (2 * width**2)).exp()
    A = torch.stack([root, root * steps], 1)
    return torch.linalg.lstsq(A, root * outputs).solution[1]


def integrated(gradient, x, baseline, n):
    slopes = [gradient(baseline + (i + 0.5) / n * (x - baseline)) for i in range(n)]
    return (x - baseline) * sum(slopes) / n


def integrated_stepwise(gradient, x, baseline, n):
    step, total = (x - baseline) / n, torch.zeros(len(x))
    for i in range(n):
        total = total + step * gradient(baseline + step * i + step / 2)
    return total


def divergence(p, q):
    m = (p + q) / 2
    kl = lambda a: (torch.xlogy(a, a) - torch.xlogy(a, m)).sum()
    return (kl(p) + kl(q)) / 2


def divergence_by_entropies(p, q):
    H = lambda a: -sum(x * math.log(x) for x in a.tolist() if x > 0)
    return H((p + q) / 2) - (H(p) + H(q)) / 2


def moved(pattern, values):
    w = pattern * values.norm(dim=-1)
    return w / w.sum(-1, keepdim=True)


def moved_by_loop(pattern, values):
    norms = [float((value**2).sum() ** 0.5) for value in values]
    rows = [[a * norm for a, norm in zip(row, norms)] for row in pattern.tolist()]
    return [[a / sum(row) for a in row] for row in rows]


def cube(model, x, baseline):
    known = torch.tensor(list(itertools.product((0, 1), repeat=len(x))))
    return model(torch.where(known > 0, x, baseline)).view([2] * len(x))


def which_lie(model, x, baseline, credits):
    v, n = cube(model, x, baseline), len(x)

    def fair(credit):
        if abs(credit.sum() - (v.flatten()[-1] - v.flatten()[0])) > 1e-4:
            return False
        for j in range(n):
            if (v.select(j, 1) - v.select(j, 0)).abs().max() < 1e-6 and abs(credit[j]) > 1e-4:
                return False
        pairs = itertools.combinations(range(n), 2)
        alike = [(i, j) for i, j in pairs if (v - v.transpose(i, j)).abs().max() < 1e-6]
        return all(abs(credit[i] - credit[j]) <= 1e-4 for i, j in alike)

    return [i for i, credit in enumerate(credits) if not fair(credit)]


def which_lie_as_a_set(model, x, baseline, credits):
    """By swapping features of the instance itself, coalition by coalition."""
    n = len(x)
    at = lambda known: float(model(torch.where(torch.tensor(known) > 0, x, baseline)[None])[0])
    every = list(itertools.product((0, 1), repeat=n))
    flip = lambda known, j, to: known[:j] + (to,) + known[j + 1 :]
    liars = set()
    for row, credit in enumerate(credits.tolist()):
        bad = abs(sum(credit) - at((1,) * n) + at((0,) * n)) > 1e-4
        for j in range(n):
            idle = all(abs(at(flip(k, j, 1)) - at(flip(k, j, 0))) < 1e-6 for k in every)
            bad |= idle and abs(credit[j]) > 1e-4
            for i in range(j):
                same = all(
                    abs(at(flip(flip(k, i, 1), j, 0)) - at(flip(flip(k, i, 0), j, 1))) < 1e-6 for k in every
                )
                bad |= same and abs(credit[i] - credit[j]) > 1e-4
        if bad:
            liars.add(row)
    return liars


RIGHT = [
    (checks.check_two_features, [two_features, two_features_by_the_rest]),
    (checks.check_shapley_values, [shapley, shapley_by_orders]),
    (checks.check_rise_of_group, [rise, rise_by_columns]),
    (checks.check_local_slope, [slope, slope_by_least_squares]),
    (checks.check_integrated, [integrated, integrated_stepwise]),
    (checks.check_divergence, [divergence, divergence_by_entropies]),
    (checks.check_by_what_is_moved, [moved, moved_by_loop]),
    (checks.check_which_lie, [which_lie, which_lie_as_a_set]),
]


@pytest.mark.parametrize(
    "check, function", [(c, f) for c, answers in RIGHT for f in answers], ids=lambda v: v.__name__
)
def test_right_answers_pass(check, function, capsys):
    check(function)
    assert capsys.readouterr().out.startswith("✔ ")


# -- wrong answers: what each is told ------------------------------------------------------------------


def only_the_sum(model, x, baseline, credits):
    v = cube(model, x, baseline).flatten()
    return [i for i, credit in enumerate(credits) if abs(credit.sum() - (v[-1] - v[0])) > 1e-4]


def not_the_shapley_value(model, x, baseline, credits):
    fair = shapley(cube(model, x, baseline))
    return [i for i, credit in enumerate(credits) if (credit - fair).abs().max() > 1e-4]


def unweighted(steps, outputs, width):
    return slope(steps, outputs, 1e6)


WRONG = [
    (checks.check_two_features, lambda n, a, b, both: (a - n, b - n), "second is left out"),
    (checks.check_two_features, lambda n, a, b, both: (both - b, both - a), "first is missing"),
    (checks.check_two_features, lambda n, a, b, both: (a - n, both - a), "one order only"),
    (checks.check_two_features, lambda n, a, b, both: ((both - n) / 2,) * 2, "half of the whole"),
    (checks.check_shapley_values, lambda v: checks.shapley(v, lambda s, n: 2.0 ** (1 - n)), "Banzhaf"),
    (checks.check_shapley_values, lambda v: checks.one_order(v, list(range(v.ndim))), "one order"),
    (
        checks.check_shapley_values,
        lambda v: torch.stack([v.flatten()[-1] - v.select(j, 0).flatten()[-1] for j in range(v.ndim)]),
        "leaving it out",
    ),
    (checks.check_shapley_values, lambda v: math.factorial(v.ndim) * shapley(v), "n!"),
    (checks.check_rise_of_group, lambda f, X, y, c, o: rise(f, X, y, [0, 1, 2], o), "whole rows"),
    (
        checks.check_rise_of_group,
        lambda f, X, y, c, o: sum(rise(f, X, y, [j], o) for j in c),
        "belong together",
    ),
    (checks.check_rise_of_group, lambda f, X, y, c, o: rise(f, X, f(X), c, o), "its own output"),
    (checks.check_local_slope, unweighted, "not weighted"),
    (checks.check_local_slope, lambda t, y, h: slope(t, y, h**0.5), "not squared"),
    (checks.check_local_slope, lambda t, y, h: slope(t, y, h * 2**0.5), "doubled"),
    (checks.check_integrated, lambda g, x, b, n: x * integrated(g, x, b, n) / (x - b), "multiplied by x"),
    (checks.check_integrated, lambda g, x, b, n: integrated(g, x, 0 * b, n), "starts at 0"),
    (checks.check_integrated, lambda g, x, b, n: x * g(x), "gradient × input"),
    (checks.check_integrated, lambda g, x, b, n: n * integrated(g, x, b, n), "summed"),
    (checks.check_divergence, lambda p, q: divergence(p, q) / math.log(2), "bits"),
    (checks.check_divergence, lambda p, q: 2 * divergence(p, q), "mean"),
    (checks.check_divergence, lambda p, q: divergence(p, q).sqrt(), "root"),
    (checks.check_by_what_is_moved, lambda A, v: A * v.norm(dim=-1), "not divided"),
    (checks.check_by_what_is_moved, lambda A, v: moved(A, 1 / v.norm(dim=-1, keepdim=True)), "gains weight"),
    (checks.check_by_what_is_moved, lambda A, v: A, "not used"),
    (checks.check_which_lie, only_the_sum, "only the sum"),
    (checks.check_which_lie, not_the_shapley_value, "may keep the three axioms"),
    (checks.check_which_lie, lambda f, x, b, c: [], "nobody"),
    (
        checks.check_which_lie,
        lambda f, x, b, c: set(range(len(c))) - set(which_lie(f, x, b, c)),
        "keep all axioms",
    ),
]


@pytest.mark.parametrize("check, function, keyword", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, function, keyword):
    with pytest.raises(CheckFailed) as failed:
        check(function)
    assert keyword in str(failed.value)
    assert len(str(failed.value)) < 220


@pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "function, keyword",
    [(lambda: 0, "arguments"), (lambda *case: print("12"), "nothing"), (lambda *case: "twelve", ": ")],
)
def test_unusable_answers_get_a_sentence(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(function)


def test_an_explanation_may_keep_the_axioms_without_being_the_shapley_value():
    """Else exercise 8 would only ask for the Shapley values."""
    found = 0
    for case in ((checks.spare, 3, 2), (checks.pooled, 4, 3)):
        model, n, s = case
        x, baseline = torch.ones(n), torch.zeros(n)
        credits = checks.suspects(model, x, baseline, s)
        found += len(
            set(not_the_shapley_value(model, x, baseline, credits))
            - set(which_lie(model, x, baseline, credits))
        )
    assert found > 0
