"""Every check of notebook 04: the solution and another right answer pass, wrong ones hear what went wrong."""

import math

import pytest
import torch

from mi_course import superposition as toy
from mi_course.checks import CheckFailed
from mi_course.checks import superposition as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def p_star(importance):
    if importance <= 1:
        return 4 * importance / (2 + 5 * importance)
    return 4 / (5 + 2 * importance)


def p_star_by_bisection(importance):
    low, high = 1e-6, 1.0
    for _ in range(60):
        p = (low + high) / 2
        pair = p**2 * (1 + importance) / 6
        alone = min(1, importance) * (p / 3 - p**2 / 4)
        low, high = (p, high) if pair < alone else (low, p)
    return torch.tensor([low])


def one_sparse_loss(w1, w2, output):
    W = torch.tensor([[w1, w2]])
    out = W.T @ W
    out = out.relu() if output == "relu" else out
    return (torch.eye(2) - out).square().sum() / 6


def one_sparse_by_chance(w1, w2, output):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(10**6, 1, generator=rng) * torch.eye(2)[torch.randint(2, (10**6,), generator=rng)]
    out = x @ torch.tensor([[w1], [w2]]) @ torch.tensor([[w1, w2]])
    return float(((out.relu() if output == "relu" else out) - x).square().sum(1).mean())


def D(W):
    norms = W.norm(dim=0)
    unit = W / norms.clamp_min(1e-9)
    return torch.where(norms > 0, norms**2 / (unit.T @ W).square().sum(1).clamp_min(1e-9), 0.0)


def D_by_column(W):
    found = []
    for w in W.T:
        length = math.sqrt(float(w @ w))
        found.append(0.0 if length == 0 else length**2 / sum(float(w @ v / length) ** 2 for v in W.T))
    return found


def attack(W, feature, norm):
    row = (W.T @ W)[feature]
    return norm * row / row.norm()


def attack_the_other_way(W, feature, norm):
    return -attack(W.double(), feature, norm)


def absolute():
    return torch.cat([torch.eye(3), -torch.eye(3)]), torch.cat([torch.eye(3), torch.eye(3)], 1)


def absolute_interleaved():
    W_in = [[2.0, 0, 0], [-0.5, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -3]]
    W_out = [[0.5, 2, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1 / 3]]
    return W_in, W_out


def sixth(densities, W):
    return max(p for p, k in zip(densities, (W.norm(dim=1) > 0.5).sum(1), strict=True) if k > 5)


def sixth_by_walking_down(densities, W):
    for p, one in zip(densities, W, strict=True):
        if sum(bool(column @ column > 0.25) for column in one.T) >= 6:
            return torch.tensor([p])


RIGHT = [
    (checks.check_crossover, [p_star, p_star_by_bisection]),
    (checks.check_linear_fails, [one_sparse_loss, one_sparse_by_chance]),
    (checks.check_sixth_feature, [sixth, sixth_by_walking_down]),
    (checks.check_feature_dimensionality, [D, D_by_column, toy.feature_dimensionality]),
    (checks.check_optimal_attack, [attack, attack_the_other_way, toy.optimal_attack]),
    (checks.check_absolute_value, [absolute, absolute_interleaved]),
]
FUNCTIONS = [check for check, _ in RIGHT]


@pytest.mark.parametrize(
    "check, function", [(c, f) for c, answers in RIGHT for f in answers], ids=lambda v: v.__name__
)
def test_right_answers_pass(check, function, capsys):
    check(function)
    out = capsys.readouterr().out
    assert out.startswith("✔ ") and out.count("\n") == 1


def test_the_right_crossover_is_that_of_the_course():
    for importance in (0.2, 1.0, 3.0):
        assert p_star(importance) == pytest.approx(float(toy.crossover(importance)))


# -- wrong answers: what each is told ------------------------------------------------------------------


def unit(W):
    return W / W.norm(dim=0).clamp_min(1e-9)


def zeroed(W, value):
    return torch.where(W.norm(dim=0) > 0, value, 0.0)


def row(W, i):
    return (W.T @ W)[i]


def loss_of(f, w1, w2):
    out = f(torch.outer(torch.tensor([w1, w2]), torch.tensor([w1, w2])))
    return (torch.eye(2) - out).square()


WRONG = [
    (checks.check_crossover, lambda i: 4 * i / (2 + 5 * i), "for I ≤ 1"),
    (checks.check_crossover, lambda i: 4 / (5 + 2 * i), "for I ≥ 1"),
    (checks.check_crossover, lambda i: 1 - p_star(i), "sparsity"),
    (checks.check_crossover, lambda i: min(2 * i, 2) / (1 + i), "no bias"),
    (checks.check_crossover, lambda i: 4 / 7, "weighed by I"),
    (checks.check_crossover, lambda i: 0.1, "by hand"),
    (checks.check_linear_fails, lambda a, b, out: one_sparse_loss(a, b, "linear"), "no ReLU"),
    (checks.check_linear_fails, lambda a, b, out: one_sparse_loss(a, b, "relu"), "even where output is 'linear'"),
    (checks.check_linear_fails, lambda a, b, out: 2 * one_sparse_loss(a, b, out), "half of the time"),
    (checks.check_linear_fails, lambda a, b, out: 3 * one_sparse_loss(a, b, out), "taken as 1"),
    (checks.check_linear_fails, lambda a, b, out: 0.75 * one_sparse_loss(a, b, out), "square of the mean"),
    (
        checks.check_linear_fails,
        lambda a, b, out: loss_of(torch.relu if out == "relu" else torch.clone, a, b).diagonal().sum() / 6,
        "not active has an error",
    ),
    (
        checks.check_linear_fails,
        lambda a, b, out: loss_of(torch.abs if out == "relu" else torch.clone, a, b).sum() / 6,
        "",
    ),
    (checks.check_sixth_feature, lambda p, W: p[(W.norm(dim=1) > 0.5).sum(1).tolist().index(5)], "fifth"),
    (checks.check_sixth_feature, lambda p, W: p[-1], "sparsest"),
    (checks.check_sixth_feature, lambda p, W: sixth(p, W.mT), "rows are counted"),
    (checks.check_sixth_feature, lambda p, W: sixth(p, W / 2**0.5), ""),
    (checks.check_sixth_feature, lambda p, W: p.index(sixth(p, W)), "place in the list"),
    (checks.check_feature_dimensionality, lambda W: D(W.T), "wrong axis"),
    (
        checks.check_feature_dimensionality,
        lambda W: zeroed(W, W.norm(dim=0) ** 2 / (unit(W).T @ W).abs().sum(1)),
        "not squared",
    ),
    (
        checks.check_feature_dimensionality,
        lambda W: zeroed(W, 1 / (unit(W).T @ unit(W)).square().sum(1)),
        "both directions",
    ),
    (
        checks.check_feature_dimensionality,
        lambda W: zeroed(W, W.norm(dim=0) ** 2 / (W.T @ W).square().sum(1)),
        "neither direction",
    ),
    (
        checks.check_feature_dimensionality,
        lambda W: zeroed(W, W.norm(dim=0) / (unit(W).T @ W).square().sum(1)),
        "above the line",
    ),
    (
        checks.check_feature_dimensionality,
        lambda W: zeroed(W, W.norm(dim=0) ** 2 / ((unit(W).T @ W).square().sum(1) - W.norm(dim=0) ** 2)),
        "leaves out j = i",
    ),
    (checks.check_feature_dimensionality, lambda W: len(W) / W.square().sum(), "dimensions per feature"),
    (
        checks.check_feature_dimensionality,
        lambda W: W.norm(dim=0) ** 2 / ((W / W.norm(dim=0)).T @ W).square().sum(1),
        "NaN",
    ),
    (checks.check_optimal_attack, lambda W, i, norm: norm * torch.eye(W.shape[1])[i], "honest change"),
    (checks.check_optimal_attack, lambda W, i, norm: row(W, i), "wrong length"),
    (checks.check_optimal_attack, lambda W, i, norm: attack(W, i, 1.0), "not used"),
    (checks.check_optimal_attack, lambda W, i, norm: norm * row(W, i).sign(), "L∞"),
    (checks.check_optimal_attack, lambda W, i, norm: norm * W[:, i] / W[:, i].norm(), "hidden space"),
    (checks.check_optimal_attack, lambda W, i, norm: norm * row(W, i), "divided out"),
    (checks.check_absolute_value, lambda: absolute()[::-1], "changed places"),
    (checks.check_absolute_value, lambda: (absolute()[0], absolute()[0].T), "negative inputs come out as 0"),
    (checks.check_absolute_value, lambda: (absolute()[0], -absolute()[1]), "every output is 0"),
    (checks.check_absolute_value, lambda: (2 * absolute()[0], absolute()[1]), "factor"),
    (checks.check_absolute_value, lambda: (absolute()[0], absolute()[1].roll(1, 1)), "wrong order"),
    (checks.check_absolute_value, lambda: (absolute()[0], absolute()[1] + 0.1), "other features"),
    (checks.check_absolute_value, lambda: absolute()[0], "in this order"),
    (checks.check_absolute_value, lambda: (absolute()[0], absolute()[1] * math.nan), "NaN"),
    (checks.check_absolute_value, lambda: (absolute()[0], "W_out"), "matrix"),
]  # fmt: skip


@pytest.mark.parametrize("check, function, keyword", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, function, keyword):
    with pytest.raises(CheckFailed) as failed:
        check(function)
    assert keyword in str(failed.value)
    assert len(str(failed.value)) < 220


def changes_its_input(W, *case):
    W += 1
    return W[0]


@pytest.mark.parametrize("check", FUNCTIONS, ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "function, keyword",
    [
        (lambda one, two, three, four, five: 0, "arguments"),
        (lambda *case: print("12"), "nothing"),
        (lambda *case: "twelve", ": "),
        (lambda *case: [][10**9], "raises"),
        (torch.eye(2), "function itself|one density"),
        (lambda *case: torch.full((3, 3), math.nan), ": "),
        (lambda *case: math.nan, ": "),
    ],
)
def test_unusable_answers_get_a_sentence(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(function)


@pytest.mark.parametrize("check", [checks.check_feature_dimensionality, checks.check_optimal_attack])
def test_inputs_stay_as_they_were(check):
    with pytest.raises(CheckFailed, match="in place"):
        check(changes_its_input)


@pytest.mark.parametrize("check", FUNCTIONS, ids=lambda c: c.__name__)
def test_unwritten_answers_are_told_so(check):
    def unwritten(*case):
        raise NotImplementedError

    with pytest.raises(CheckFailed, match="not written yet"):
        check(unwritten)


# -- the bipyramid ---------------------------------------------------------------------------------------

BIPYRAMID = toy.polytope("triangular bipyramid")
PARTS = [2 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 2]
TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double))[0]


@pytest.mark.parametrize(
    "W, predicted",
    [
        (BIPYRAMID, PARTS),
        (BIPYRAMID.float().tolist(), torch.tensor(PARTS)),
        ((TURN @ BIPYRAMID)[:, [3, 0, 1, 4, 2]], [0.5, 0.667, 0.667, 0.5, 0.667]),
        (BIPYRAMID * torch.tensor([2, 2, 2, 1, 1]), PARTS),
        (lambda: (BIPYRAMID, PARTS), None),
        (lambda: [BIPYRAMID.tolist(), tuple(PARTS)], None),
    ],
)
def test_a_right_bipyramid_passes(W, predicted, capsys):
    checks.check_bipyramid(W, predicted)
    assert capsys.readouterr().out.startswith("✔ bipyramid")


def without(column):
    W = BIPYRAMID.clone()
    W[:, column] = 0
    return W


def nudged(column, by):
    W = BIPYRAMID.clone()
    W[:, column] += torch.tensor(by, dtype=torch.double)
    return W


FLAT = torch.cat([toy.regular_polygon(5), torch.zeros(1, 5)])


@pytest.mark.parametrize(
    "W, predicted, keyword",
    [
        (BIPYRAMID, [0.6] * 5, "evenly"),
        (BIPYRAMID, [0.5, 0.5, 2 / 3, 2 / 3, 2 / 3], "another order"),
        (BIPYRAMID, [0.5, 0.5, 0.5, 2 / 3, 2 / 3], "other way round"),
        (BIPYRAMID, [1 / 3, 1 / 3, 1 / 3, 0.5, 0.5], "one dimension to share"),
        (BIPYRAMID, [1.0] * 5, "alone"),
        (BIPYRAMID, [0.4] * 5, "add up to 3"),
        (BIPYRAMID, [0.7, 0.7, 0.7, 0.45, 0.45], "which features share"),
        (BIPYRAMID, [2 / 3, 1 / 2], "five corners"),
        (BIPYRAMID, None, "nothing"),
        (BIPYRAMID, [math.nan] * 5, "NaN"),
        (BIPYRAMID, "all 3/5", "str"),
        (BIPYRAMID.T, PARTS, "transposed"),
        (toy.polytope("pentagon"), PARTS, r"\[2, 5\]"),
        (lambda: BIPYRAMID, PARTS, "call your function"),
        (lambda: BIPYRAMID, None, "in this order"),
        (lambda: (PARTS, BIPYRAMID), None, "shape"),
        (without(0), PARTS, "zero"),
        (FLAT, PARTS, "no two corners are opposite"),
        (nudged(0, [0.0, 0.0, 0.3]), PARTS, "perpendicular"),
        (nudged(0, [0.0, 0.3, 0.0]), PARTS, "120°"),
        (nudged(3, [0.0, 0.0, 0.3]), PARTS, "differ in length"),
        (nudged(3, [0.3, 0.0, 0.0]), PARTS, "opposite"),
    ],
)
def test_a_wrong_bipyramid_hears_what_went_wrong(W, predicted, keyword):
    with pytest.raises(CheckFailed, match=keyword) as failed:
        checks.check_bipyramid(W, predicted)
    assert len(str(failed.value)) < 220


@pytest.mark.parametrize("column", range(5))
def test_bipyramid_leaves_its_arguments_alone(column):
    W, predicted = BIPYRAMID.clone(), torch.tensor(PARTS)
    checks.check_bipyramid(W, predicted)
    assert torch.equal(W, BIPYRAMID) and torch.equal(predicted, torch.tensor(PARTS))
