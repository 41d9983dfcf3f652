"""Testing with concept activation vectors (TCAV, Kim et al. 2018): does a class answer to a concept? Derived in notebook 10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import ttest_ind
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.probing.checked import rows_of
from mi_course.probing.probes import logistic_probe


class ConceptTest(NamedTuple):
    """What a concept's vectors score, what as many random vectors score, and how surprising that is.

    Args:
        scores: of the concept's vectors [vector].
        random_scores: those of random vectors [vector].
        p: by rank.
        t_p: by the t-test.
    """

    scores: Float[Tensor, "vector"]
    random_scores: Float[Tensor, "vector"]
    p: float  # two-sided, by rank: how many random vectors lie as far from ½ as the concept's mean
    t_p: float  # two-sided, by the paper's t-test of the two sets of scores


def concept_vector(concept, counter, l2: float | int = 1.0) -> Float[Tensor, "d"]:
    """The unit normal of a logistic probe that tells examples of the concept from a counter-set.

    Args:
        l2: strength of the penalty.
    """
    concept, counter = rows_of(concept, "concept"), rows_of(counter, "counter")
    x = torch.cat([concept, counter])
    w = logistic_probe(x, torch.arange(len(x)) < len(concept), l2).w
    return w / w.norm()


def tcav_score(gradients, vector: Float[Tensor, "d"]) -> float:
    """Share of a class's inputs whose logit would rise along the vector: ½ for a vector of no account.

    Only the sign counts: a concept that hardly matters, but always in one direction, scores 1.

    Args:
        gradients: of the logit, one row an input [row d].
    """
    return float((rows_of(gradients, "gradients") @ vector > 0).double().mean())


def concept_test(
    gradients, concepts: Sequence, counters: Sequence, randoms: Sequence, l2: float | int = 1.0
) -> ConceptTest:
    """TCAV scores of a concept, tested against random vectors.

    Each set of examples meets a counter-set, and each random set the same one. p is (1 + how many random scores lie as
    far from ½ as the concept's mean) / (1 + how many there are): with 50 of them at least 1/51. The paper's t-test
    compares means, so it finds *any* difference as vectors are added, one without account too; and where all gradients
    point one way random scores are 0 or 1, and no rank can be extreme. Look at both, and at the scores.

    Args:
        gradients: of the class's logit at the activations of its inputs [row d].
        concepts: sets of activations [row d] of examples, fresh ones for each vector.
        counters: as many sets to tell them from.
        randoms: as many sets that are put in the examples' place.
        l2: the probes' penalty.
    """
    if not len(concepts) == len(counters) == len(randoms):
        raise CourseError("Give as many sets of examples as counter-sets and random sets: each meets one.")
    if len(randoms) < 19:
        raise CourseError(f"Among {len(randoms)} random vectors no p-value gets below .05: take at least 19.")
    scored = lambda sets: torch.tensor(
        [tcav_score(gradients, concept_vector(rows, other, l2)) for rows, other in zip(sets, counters)]
    ).double()
    scores, chance = scored(concepts), scored(randoms)
    as_far = int(((chance - 0.5).abs() >= (scores.mean() - 0.5).abs() - 1e-12).sum())
    spread = bool(scores.std() + chance.std() > 0)
    t_p = float(ttest_ind(scores + 0.0, chance, equal_var=False).pvalue) if spread else 1.0
    return ConceptTest(scores, chance, (1 + as_far) / (1 + len(chance)), t_p)
