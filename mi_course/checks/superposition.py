"""Checks of notebook 04, toy models of superposition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mi_course import superposition as toy
from mi_course.checks import CheckFailed, answer, as_tensor, check, is_number, passed
from mi_course.checks.circuits import check_through, random


def value_of(exercise: str, value, what: str) -> Tensor:
    """An answer that is a value, as a finite tensor in double precision."""
    if callable(value) and not isinstance(value, Tensor):
        raise CheckFailed(f"{exercise}: call your function and give what it returns, {what}.")
    if value is None:
        raise CheckFailed(f"{exercise}: there is nothing here. Did you print where you meant to return?")
    if not is_number(value):
        raise CheckFailed(f"{exercise}: {what} is wanted, not {type(value).__name__}.")
    value = as_tensor(value)
    if not bool(value.isfinite().all()):
        raise CheckFailed(f"{exercise}: the answer holds NaN or infinity.")
    return value


# -- 1: where superposition begins to pay -----------------------------------------------------------


def by_side(below, above):
    """A guess with a rule for I ≤ 1 and another for I > 1."""
    return lambda importance: below(importance) if importance <= 1 else above(importance)


def check_crossover(p_star: object) -> None:
    """Exercise 3: p*(I), the density at which an antipodal pair and one dedicated dimension lose the same (n = 2, m = 1).

    `p_star(importance: float) -> float`, for the extra feature's importance I on either side of 1.
    """
    cases = [(i,) for i in (0.1, 0.3, 0.7, 1.0, 1.6, 4.0, 10.0)]
    below, above = lambda i: 4 * i / (2 + 5 * i), lambda i: 4 / (5 + 2 * i)
    right = by_side(below, above)
    mistakes = {
        "right for I ≤ 1. Above 1 it is the other feature that is left out: compare with that loss.": below,
        "right for I ≥ 1. Below 1 it is the extra feature that is left out: compare with that loss.": above,
        "the two sides of I = 1 have changed places.": by_side(above, below),
        "this is the sparsity S, and the density 1−S is wanted.": lambda i: 1 - right(i),
        "the ignored feature has no bias here: its best constant guess lowers the loss of ignoring it.":
            by_side(lambda i: 2 * i / (1 + i), lambda i: 2 / (1 + i)),
        "the ignored feature has no bias here, and above I = 1 it is the other one that is ignored.":
            lambda i: 2 * i / (1 + i),
        "the interference counts I only once too often or too rarely: of a pair, one error weighs 1 and one weighs I.":
            by_side(lambda i: 4 * i / (4 + 3 * i), lambda i: 4 / (4 + 3 * i)),
        "both errors of the pair are weighed by I: one of them belongs to the feature of importance 1.":
            lambda i: 4 / 7,
        "with both active only the smaller value is lost: the mean square of a minimum is not that of a uniform.":
            by_side(lambda i: 4 * i / (4 + 7 * i), lambda i: 4 / (7 + 4 * i)),
        "this is p² or a root of it: the losses share one factor p, which cancels.":
            lambda i: right(i) ** 0.5,
    }  # fmt: skip
    flat = lambda p: p.reshape(()) if isinstance(p, Tensor) and p.numel() == 1 else p
    say = "below this density the pair wins"
    check_through(flat, "crossover", p_star, right, cases, mistakes, atol=1e-4, say=say)


# -- 2: what a linear model cannot do ---------------------------------------------------------------


def one_sparse(w1: float, w2: float, output: str, *, mean=1 / 3, f=None, benefit=1.0, harm=1.0) -> float:
    f = f or (lambda v: max(v, 0.0) if output == "relu" else v)
    each = [benefit * (1 - f(a * a)) ** 2 + harm * f(a * b) ** 2 for a, b in ((w1, w2), (w2, w1))]
    return mean * sum(each) / 2


def check_linear_fails(one_sparse_loss: object) -> None:
    """Exercise 2: the loss of W = [[w1, w2]] without bias when exactly one of its two features is active.

    `one_sparse_loss(w1, w2, output) -> float`, output "relu" or "linear"; each feature is as likely to be the active
    one, its value is uniform on [0, 1], and the squared errors of both outputs are added. Monte Carlo is accurate
    enough from a million samples.
    """
    weights = ((1.0, -1.0), (1.0, 0.0), (0.8, -0.5), (0.6, 0.9), (-1.2, 0.7))
    cases = [(a, b, out) for a, b in weights for out in ("relu", "linear")]
    mistakes = {
        "there is no ReLU even where output is 'relu'.": lambda a, b, out: one_sparse(a, b, "linear"),
        "there is a ReLU even where output is 'linear': negative interference costs something there.":
            lambda a, b, out: one_sparse(a, b, "relu"),
        "the two outputs' names have changed places.":
            lambda a, b, out: one_sparse(a, b, "relu" if out == "linear" else "linear"),
        "the loss is added over which feature is active: each is active half of the time.":
            lambda a, b, out: 2 * one_sparse(a, b, out),
        "the active value is taken as 1: average over values uniform on [0, 1].":
            lambda a, b, out: one_sparse(a, b, out, mean=1.0),
        "the active value is taken as 1 and nothing is averaged.": lambda a, b, out: one_sparse(a, b, out, mean=2.0),
        "the mean of a square is not the square of the mean: E[x²] of a uniform value is wanted.":
            lambda a, b, out: one_sparse(a, b, out, mean=1 / 4),
        "errors grow with the square of the value, so E[x²] belongs here and not E[x].":
            lambda a, b, out: one_sparse(a, b, out, mean=1 / 2),
        "the feature that is not active has an error too: what leaks into its output.":
            lambda a, b, out: one_sparse(a, b, out, harm=0.0),
        "this is the interference alone: the active feature may come back too small or too large.":
            lambda a, b, out: one_sparse(a, b, out, benefit=0.0),
        "the errors are averaged over the two outputs, and their sum is wanted.":
            lambda a, b, out: one_sparse(a, b, out) / 2,
        "negative interference is turned positive: ReLU is not the absolute value.":
            lambda a, b, out: one_sparse(a, b, out, f=abs),
        "the ReLU sits on the hidden unit: it belongs to the output.": hidden_relu,
    }  # fmt: skip
    flat = lambda v: v.reshape(()) if isinstance(v, Tensor) and v.numel() == 1 else v
    say = "an antipodal pair is free with a ReLU and costs without"
    check_through(flat, "one-sparse loss", one_sparse_loss, one_sparse, cases, mistakes, atol=3e-3, say=say)


def hidden_relu(w1: float, w2: float, output: str) -> float:
    """The wrong model with ReLU(W x) in the middle."""
    if output == "linear":
        return one_sparse(w1, w2, output)
    total = 0.0
    for a, b in ((w1, w2), (w2, w1)):
        h = max(a, 0.0)
        total += (1 - a * h) ** 2 + (b * h) ** 2
    return total / 6


# -- 3: the sixth feature -----------------------------------------------------------------------------


def sweep(counts: list[int], m: int, n: int, seed: int) -> Tensor:
    """W [density m n] whose columns are longer than 0.5 for so many features at each density."""
    W = random(len(counts), m, n, seed=seed)
    length = torch.where(torch.arange(n) < torch.tensor(counts)[:, None], 0.52, 0.48)
    length[:, 0], length[:, -1] = 1.1, 0.1
    W = W / W.norm(dim=1, keepdim=True) * length[:, None]
    W[:, :, -2] = 0.5 * torch.eye(m)[0]  # exactly 0.5 is not longer
    return W[:, :, torch.arange(n).roll(seed)]  # the represented ones need not come first


def first_with(densities: list, represented: Tensor, least: int = 6):
    """The largest density with at least so many features."""
    return max(p for p, k in zip(densities, represented.sum(1), strict=True) if k >= least)


def check_sixth_feature(function: object) -> None:
    """Exercise 1: `function(densities, W [density m n])` → the first density, coming down, with more than five features.

    A feature is represented if ‖W_i‖ > 0.5; densities fall.
    """
    falling = ([1.0, 0.8, 0.5, 0.3, 0.1], [0.9, 0.6, 0.4, 0.2], [1.0, 0.7, 0.4, 0.1])
    counts = ([4, 5, 6, 9, 12], [5, 7, 5, 9], [3, 5, 5, 6])
    cases = [(list(p), sweep(k, m, 20, seed=m)) for p, k, m in zip(falling, counts, (7, 6, 8), strict=True)]
    long = lambda W: W.norm(dim=1) > 0.5
    mistakes = {
        "this is the sparsest model with a sixth feature: coming down from 1, the first one is wanted.":
            lambda p, W: min(d for d, k in zip(p, long(W).sum(1), strict=True) if k > 5),
        "this is where a fifth feature is represented: more than five are wanted.":
            lambda p, W: first_with(p, long(W), 5),
        "this is where a seventh feature is represented: one more than five is enough.":
            lambda p, W: first_with(p, long(W), 7),
        "rows are counted here: features are the columns of W[k], rows are hidden dimensions.":
            lambda p, W: first_with(p, W.norm(dim=2) > 0.5),
        "the squared length is compared with 0.5: the length is.":
            lambda p, W: first_with(p, W.square().sum(1) > 0.5),
        "this is the last density without a sixth feature.":
            lambda p, W: p[p.index(first_with(p, long(W))) - 1],
        "this is the place in the list: the density that stands there is wanted.":
            lambda p, W: p.index(first_with(p, long(W))),
        "this is the number of features, and the density where they first are more than five is wanted.":
            lambda p, W: long(W).sum(1)[p.index(first_with(p, long(W)))],
        "this is the first density of all: count the features before choosing.": lambda p, W: p[0],
    }  # fmt: skip
    one = lambda p: p.reshape(()) if isinstance(p, Tensor) and p.numel() == 1 else p
    say = "sparsity makes room for more features than dimensions"
    right = lambda p, W: first_with(p, long(W))
    check_through(one, "sixth feature", function, right, cases, mistakes, say=say)


# -- 4: feature dimensionality ------------------------------------------------------------------------


def dimensionality(W: Tensor) -> Tensor:
    return toy.feature_dimensionality(W)


def check_feature_dimensionality(D: object) -> None:
    """Exercise 4: D_i = ‖W_i‖² / Σ_j (Ŵ_i · W_j)² for W [m n] → [n], where a column of zeros gives 0."""
    one_missing = random(3, 5, seed=4)
    one_missing[:, 2] = 0
    cases = [
        (random(2, 4, seed=1),),
        (1.5 * random(3, 3, seed=2),),
        (0.5 * random(4, 7, seed=3),),
        (one_missing,),
    ]
    zero = lambda W, d: torch.where(W.norm(dim=0) > 0, d, 0.0)
    unit = lambda W: W / W.norm(dim=0).clamp_min(1e-12)
    length = lambda W: W.norm(dim=0)
    mistakes = {
        "wrong axis: features are the columns of W [m n], and these are its rows.": lambda W: dimensionality(W.T),
        "the overlaps are not squared.":
            lambda W: zero(W, length(W) ** 2 / (unit(W).T @ W).abs().sum(1)),
        "the overlaps are not squared, so positive and negative ones cancel.":
            lambda W: zero(W, length(W) ** 2 / (unit(W).T @ W).sum(1)),
        "both directions are scaled to length 1: only W_i is, so that a short feature in the way counts less.":
            lambda W: zero(W, 1 / (unit(W).T @ unit(W)).square().sum(1)),
        "neither direction is scaled to length 1: below the line stands Ŵ_i, a unit vector.":
            lambda W: zero(W, length(W) ** 2 / (W.T @ W).square().sum(1)),
        "the wrong one is scaled to length 1: Ŵ_i is the feature's own direction, W_j the others as they are.":
            lambda W: zero(W, length(W) ** 2 / (unit(W).T @ W).square().sum(0)),
        "above the line the length is not squared.":
            lambda W: zero(W, length(W) / (unit(W).T @ W).square().sum(1)),
        "the sum leaves out j = i: a feature overlaps with itself too, and alone it has D = 1.":
            lambda W: zero(W, length(W) ** 2 / ((unit(W).T @ W).square().sum(1) - length(W) ** 2)),
        "this is dimensions per feature, one number for all: D is asked for each feature.":
            lambda W: torch.tensor(len(W) / float(W.square().sum())),
        "this is the sum of all D: one number for each feature is wanted.": lambda W: dimensionality(W).sum(),
        "upside down: D is a share, at most 1.":
            lambda W: zero(W, (unit(W).T @ W).square().sum(1) / length(W) ** 2),
    }  # fmt: skip
    say = "the share of a dimension each feature has for itself"
    check("feature dimensionality", D, dimensionality, cases, mistakes, atol=1e-4, say=say)


# -- 5: a triangular bipyramid -------------------------------------------------------------------------

WANTED_W = "a W of shape [3, 5]"


def check_bipyramid(W: object, predicted: object = None) -> None:
    """Exercise 5: the triangular bipyramid as W [3 5], and the five D it will have, predicted, in column order.

    Both may come from one function without arguments. Columns may stand in any order and be turned in space; the two parts may differ in length.
    """
    exercise = "bipyramid"
    if callable(W) and predicted is None:
        W, predicted = pair_from(exercise, W)
    W, D = value_of(exercise, W, WANTED_W), value_of(exercise, predicted, "five predictions of D").flatten()
    if W.shape != (3, 5):
        turned = " It is transposed: a feature is a column." if W.shape == (5, 3) else ""
        raise CheckFailed(f"{exercise}: W has shape {list(W.shape)}, and [3, 5] is wanted.{turned}")
    if (wrong := not_a_bipyramid(W)) is not None:
        raise CheckFailed(f"{exercise}: {wrong}")
    true = toy.feature_dimensionality(W)
    if D.shape != (5,):
        raise CheckFailed(f"{exercise}: one D for each of the five corners is wanted, not {D.numel()}.")
    if not torch.allclose(D, true, atol=5e-3):
        raise CheckFailed(f"{exercise}: W is right. {wrong_prediction(D, true)}")
    passed(exercise, "two parts that do not interfere, each with its own dimensions")


def pair_from(exercise: str, function: Callable) -> tuple:
    """What a learner's function returns, once it is a pair."""
    pair = answer(exercise, function, ())
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise CheckFailed(
            f"{exercise}: return W and the five D, in this order; this is {type(pair).__name__}."
        )
    return tuple(pair)


def not_a_bipyramid(W: Tensor) -> str | None:
    """What keeps five columns from being a triangle and, perpendicular to it, a digon."""
    if bool((W.norm(dim=0) < 1e-3).any()):
        return "a column of W is zero: five corners are wanted."
    C = toy.cosines(W)
    opposite = (C < -0.999).nonzero().tolist()
    if not opposite:
        return "no two corners are opposite: the two tips lie on one line through the middle."
    tips = opposite[0]
    rest = [i for i in range(5) if i not in tips]
    if C[tips][:, rest].abs().max() > 1e-2:
        return "the two parts still overlap: the tips stand perpendicular on the plane of the triangle."
    triangle = C[rest][:, rest][~torch.eye(3, dtype=torch.bool)]
    if (triangle + 0.5).abs().max() > 1e-2:
        return "the other three corners are no regular triangle: the angles between them differ from 120°."
    lengths = W.norm(dim=0)
    if lengths[tips].std() > 1e-3 * lengths.mean() or lengths[rest].std() > 1e-3 * lengths.mean():
        return "corners of one part differ in length."
    return None


def wrong_prediction(D: Tensor, true: Tensor) -> str:
    """What was thought to arrive at these D."""
    if torch.allclose(D.sort().values, true.sort().values, atol=5e-3):
        return "So are the five values of D, in another order than your columns."
    if torch.allclose(D, torch.full_like(D, 3 / 5), atol=5e-3):
        return "These D share three dimensions evenly among five: do all five corners share all three?"
    if torch.allclose(D, torch.where(true > 0.6, true.new_tensor(0.5), true.new_tensor(2 / 3)), atol=5e-3):
        return "These D belong to the two parts the other way round."
    if torch.allclose(D, torch.where(true > 0.6, true.new_tensor(1 / 3), true.new_tensor(0.5)), atol=5e-3):
        return "These D give the triangle one dimension to share: how many does it lie in?"
    if torch.allclose(D, torch.ones_like(D), atol=5e-3):
        return "These D are those of features alone in their dimension, and there are five for three."
    if abs(float(D.sum()) - 3) > 0.02:
        return "The D of a packing without waste add up to its dimensions: yours do not add up to 3."
    return "Not the D: which features share which dimensions with which?"


# -- 6: the best attack --------------------------------------------------------------------------------


def check_optimal_attack(attack: object) -> None:
    """Exercise 6: `attack(W, feature, norm)` → δ [n] of length `norm` that moves output `feature` most, to first order.

    W [m n]; either sign is right.
    """
    cases = [
        (random(3, 6, seed=1), 0, 0.1), (random(3, 6, seed=1), 4, 2.0), (random(2, 5, seed=2), 1, 1.0),
        (toy.polytope("pentagon").float(), 3, 0.5),
    ]  # fmt: skip
    row = lambda W, i: W[:, i] @ W
    scaled = lambda v, norm: norm * v / v.norm()
    own = lambda W, i: torch.eye(W.shape[1])[i]
    mistakes = {
        "this changes x_i alone, which is an honest change and no attack: other inputs reach output i too.":
            lambda W, i, norm: norm * own(W, i),
        "input i is left out: a change of x_i moves output i as well, and the best attack uses it.":
            lambda W, i, norm: scaled(row(W, i) * (1 - own(W, i)), norm),
        "right direction, wrong length: scale δ to length `norm`.": lambda W, i, norm: row(W, i),
        "right direction, but its length was not divided out before multiplying by `norm`.":
            lambda W, i, norm: norm * row(W, i),
        "right direction with length 1: `norm` is not used.": lambda W, i, norm: scaled(row(W, i), 1.0),
        "right direction, divided by the squared length.":
            lambda W, i, norm: norm * row(W, i) / row(W, i).square().sum(),
        "this is the best attack on a bound for each single input (L∞): here the length of δ is bounded.":
            lambda W, i, norm: scaled(row(W, i).sign(), norm),
        "this is the L∞ attack: here the length of δ is bounded.": lambda W, i, norm: norm * row(W, i).sign(),
        "this puts everything on one input, the best attack for an L1 bound: here the length of δ is bounded.":
            lambda W, i, norm: norm * torch.eye(W.shape[1])[row(W, i).abs().argmax()] * row(W, i).sign(),
        "this is the feature's direction in the hidden space [m]: the attack is on the input [n].":
            lambda W, i, norm: scaled(W[:, i], norm),
        "this is a row of W, a neuron: features are columns, and output i reads row i of WᵀW.":
            lambda W, i, norm: scaled(W[i], norm),
        "rows and columns of W are mixed up: output i reads row i of WᵀW [n n].":
            lambda W, i, norm: scaled(W[i] @ W.T, norm),
    }  # fmt: skip
    say = "along row i of WᵀW, which is e_i only without superposition"
    right = lambda W, i, norm: unsigned(toy.optimal_attack(W, i, norm))
    check_through(unsigned, "optimal attack", attack, right, cases, signless(mistakes), atol=1e-4, say=say)


def unsigned(delta):
    """The same attack turned to one side of a fixed plane: δ and −δ are equally good."""
    if not is_number(delta) or as_tensor(delta).ndim != 1 or not len(delta):
        return delta
    delta = as_tensor(delta)
    return delta * (delta @ random(len(delta), seed=9).double()).sign()


def signless(functions: dict) -> dict:
    """Each function with `unsigned` after it."""
    return {sentence: (lambda *case, f=f: unsigned(f(*case))) for sentence, f in functions.items()}


# -- 7: |x| with six neurons ---------------------------------------------------------------------------


def check_absolute_value(build: object) -> None:
    """Exercise 7: `build()` → (W_in [6 3], W_out [3 6]) with ReLU(W_out ReLU(W_in x)) = |x| for x in [−1, 1]³."""
    exercise = "absolute value"
    x = torch.cartesian_prod(*[torch.linspace(-1, 1, 9)] * 3).T.double()
    W_in, W_out = (value.double() for value in built(exercise, build, ("W_in", "W_out"), ((6, 3), (3, 6))))
    y = (W_out @ (W_in @ x).relu()).relu()
    if not torch.allclose(y, x.abs(), atol=1e-4):
        raise CheckFailed(f"{exercise}: {not_absolute(x, y)}")
    passed(exercise, "one neuron for each sign of each feature")


def built(exercise: str, build: object, names: tuple[str, ...], shapes: tuple[tuple, ...]) -> list[Tensor]:
    """What `build()` returns: matrices of these shapes, or a sentence on what is wrong with them."""
    wanted = " and ".join(f"{name} {list(shape)}" for name, shape in zip(names, shapes, strict=True))
    pair = answer(exercise, build, ())
    if not isinstance(pair, (tuple, list)) or len(pair) != len(names):
        raise CheckFailed(f"{exercise}: return {wanted}, in this order; this is {type(pair).__name__}.")
    values = [
        value_of(exercise, value, f"{name} as a matrix") for value, name in zip(pair, names, strict=True)
    ]
    found = [tuple(value.shape) for value in values]
    if found != list(shapes):
        hint = " They have changed places." if found == list(shapes)[::-1] else ""
        shown = " and ".join(str(list(shape)) for shape in found)
        raise CheckFailed(f"{exercise}: the shapes are {shown}; {wanted} are wanted.{hint}")
    return values


def not_absolute(x: Tensor, y: Tensor) -> str:
    """What a network computes that should compute |x|."""
    near = lambda want: torch.allclose(y, want, atol=1e-4)
    if near(torch.zeros_like(y)):
        return (
            "every output is 0: after the first ReLU all is positive, and a negative W_out cannot come back."
        )
    if near(x.relu()):
        return (
            "negative inputs come out as 0: which neuron fires for them, and with which sign does it write?"
        )
    if near((-x).relu()):
        return (
            "positive inputs come out as 0: which neuron fires for them, and with which sign does it write?"
        )
    scale = float((y * x.abs()).sum() / x.square().sum())
    if near(scale * x.abs()):
        return f"right up to a factor: every output is {scale:.3g} times |x|. Follow one value through both layers."
    for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        if near(x.abs()[list(order)]):
            return "absolute values, in the wrong order: neurons must write where they read."
    alone = (x != 0).sum(0) == 1
    if torch.allclose(y[:, alone], x.abs()[:, alone], atol=1e-4):
        return "right with one feature active, wrong with several: each neuron should listen to one feature only."
    leaks = [float(y[i, alone & (x[i] == 0)].abs().max()) for i in range(3)]
    if max(leaks) > 1e-4:
        return "an input moves the outputs of other features: each neuron should read and write one feature only."
    return "not |x|. Try x = (1, 0, 0) and (−1, 0, 0) by hand."
