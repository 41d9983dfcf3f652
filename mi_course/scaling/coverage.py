"""What a dictionary has a feature for, and what it misses: coverage, the frequency at one half, neighbours, absorption.

>>> import torch
>>> from mi_course import scaling
>>> f = torch.eye(4).repeat(5, 1)
>>> scaling.covered(f, f[:, :3]).tolist()
[True, True, True]
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.sae import correlations

FOUND = 0.7  # correlation from which on a feature is a concept's own


def covered(
    f: Float[Tensor, "sample d_sae"], truth: Float[Tensor, "others concept"], least: float | int = FOUND
) -> Bool[Tensor, "concept"]:
    """Which concepts have a feature of their own: some feature correlates with the concept's strength at `least`.

    Args:
        f: the features' activations.
        truth: strength of each concept, 0 where it is not there.
        least: the correlation that is asked for.
    """
    return owners(f, truth)[0] >= least


def owners(
    f: Float[Tensor, "sample d_sae"], truth: Float[Tensor, "others concept"]
) -> tuple[Float[Tensor, "concept"], Int[Tensor, "concept"]]:
    """For each concept the feature that follows it best: the correlation, and the feature's number.

    Args:
        f: the features' activations.
        truth: strength of each concept.
    """
    if len(f) != len(truth):
        raise CourseError(f"The same samples, please: {len(f)} activations and {len(truth)} truths.")
    return tuple(correlations(truth, f).max(dim=1))


def half_point(
    frequency: Float[Tensor, "concept"],
    has: Bool[Tensor, "concept"],
    ridge: float | int = 1e-2,
) -> float:
    """The frequency at which a concept is as likely to have a feature as not: logistic regression on log₁₀ frequency.

    Solved by scikit-learn, with a small ridge on the slope so that a clean step has a finite one. NaN where all have one or
    none has.

    Args:
        frequency: of each concept, above 0, and not all the same.
        has: whether it has a feature.
        ridge: on the slope.
    """
    if bool(has.all()) or not bool(has.any()):
        return float("nan")
    if not bool((frequency > 0).all()) or len(frequency.unique()) < 2:
        raise CourseError("A half point needs frequencies above 0 that are not all the same.")
    at = frequency.double().log10()
    middle, spread = at.mean(), at.std()
    scaled = ((at - middle) / spread)[:, None].numpy()
    found = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-8).fit(scaled, has.numpy())
    return float(10 ** (middle - spread * found.intercept_[0] / found.coef_[0, 0]))


def same_topic_auc(rows: Float[Tensor, "feature d"], topic: Int[Tensor, "feature"]) -> float:
    """How well the cosine of two decoder rows tells pairs of one topic from others: the area under the ROC curve.

    Args:
        rows: decoder rows.
        topic: of each feature.
    """
    unit = torch.nn.functional.normalize(rows, dim=1)
    i, j = torch.triu_indices(len(rows), len(rows), 1)
    cosine, same = (unit @ unit.T)[i, j], topic[i] == topic[j]
    if bool(same.all()) or not bool(same.any()):
        raise CourseError("There must be pairs of one topic and pairs of two.")
    return float(roc_auc_score(same.numpy(), cosine.detach().numpy()))


def splitting(
    small: Float[Tensor, "few d"], large: Float[Tensor, "many d"], least: float | int = 0.4
) -> tuple[Int[Tensor, "few"], Bool[Tensor, "many"]]:
    """How many rows of a larger dictionary lie near each row of a smaller one, and which lie near none.

    A row of the larger belongs to the nearest of the smaller, if their cosine is at least `least`; else it is new.

    Args:
        small: decoder rows of the smaller dictionary.
        large: of the larger.
        least: cosine of a child with its parent.
    """
    unit = torch.nn.functional.normalize
    cosine, nearest = (unit(large, dim=1) @ unit(small, dim=1).T).max(dim=1)
    near = cosine >= least
    return torch.bincount(nearest[near], minlength=len(small)), ~near


def absorption(
    f: Float[Tensor, "sample d_sae"],
    rows: Float[Tensor, "d_sae d"],
    truth: Float[Tensor, "sample concept"],
    directions: Float[Tensor, "concept d"],
    parent: Int[Tensor, "concept"],
) -> Float[Tensor, "child"]:
    """Of each child, the share of its samples in which its parent's feature is silent, though the parent is there.

    The parent's feature is the one whose decoder row is nearest to the parent's direction. 0 is no absorption, 1 a
    parent that is never seen beside this child; NaN where no row has a cosine of `FOUND` with the parent.

    Args:
        f: the features' activations.
        rows: decoder rows.
        truth: strength of each concept.
        directions: of the concepts.
        parent: of each concept its parent's number, −1 for parents.
    """
    unit = torch.nn.functional.normalize
    cosine, own = (unit(directions, dim=1) @ unit(rows, dim=1).T).max(dim=1)
    result = []
    for child in (parent >= 0).nonzero()[:, 0].tolist():
        above = int(parent[child])
        silent = (f[truth[:, child] > 0, own[above]] == 0).float()
        known = cosine[above] >= FOUND and len(silent)
        result.append(silent.mean() if known else torch.tensor(torch.nan))
    return torch.stack(result)


def f1(active: Float[Tensor, "sample n"], there: Float[Tensor, "sample m"]) -> Float[Tensor, "n m"]:
    """F1 of every detector for every concept: the harmonic mean of precision and recall; 0 where nothing is hit.

    Args:
        active: 1 where a detector is active, else 0.
        there: 1 where a concept is there.
    """
    hits = active.T @ there
    return 2 * hits / (active.sum(0)[:, None] + there.sum(0)[None]).clamp_min(1)
