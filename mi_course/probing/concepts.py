"""Testing with concept activation vectors (TCAV, Kim et al. 2018): does a class answer to a concept? Derived in notebook 10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.probing.checked import rows_of
from mi_course.probing.probes import logistic_probe


class ConceptTest(NamedTuple):
    """What a concept scores, and what random sets score that were treated as concepts."""

    score: float  # mean over the counter-sets
    random_scores: Float[Tensor, "set"]
    p: float  # two-sided, by rank among the random ones


def concept_vector(concept, counter, l2: float | int = 1.0) -> Float[Tensor, "d"]:
    """The unit normal of a logistic probe that tells examples of the concept from a counter-set."""
    concept, counter = rows_of(concept, "concept"), rows_of(counter, "counter")
    x = torch.cat([concept, counter])
    w = logistic_probe(x, torch.arange(len(x)) < len(concept), l2).w
    return w / w.norm()


def tcav_score(gradients, vector: Float[Tensor, "d"]) -> float:
    """Share of a class's inputs whose logit would rise along the vector: ½ for a vector of no account.

    Only the sign counts: a concept that hardly matters, but always in one direction, scores 1.
    """
    return float((rows_of(gradients, "gradients") @ vector > 0).double().mean())


def concept_test(
    gradients, concept, counters: Sequence, randoms: Sequence, l2: float | int = 1.0
) -> ConceptTest:
    """TCAV score of a concept, and its p-value among random sets that take the concept's part.

    The concept meets every counter-set, and so does every random set; p = (1 + how many random sets lie as far from ½) /
    (1 + how many there are). With 50 of them p is at least 1/51. The paper's own test is a t-test of the concept's scores
    against random ones; its p shrinks as counter-sets are added, since they all share one concept.

    Args:
        gradients: of the class's logit at the activations of its inputs [row d].
        concept: activations of the examples [row d].
        counters: sets of activations [row d] to tell them from.
        randoms: sets of activations [row d] that are put in the concept's place.
        l2: the probes' penalty.
    """
    if len(randoms) < 19:
        raise CourseError(f"Among {len(randoms)} random sets no p-value gets below .05: take at least 19.")
    against = lambda rows: (
        sum(tcav_score(gradients, concept_vector(rows, counter, l2)) for counter in counters) / len(counters)
    )
    score, chance = against(concept), torch.tensor([against(rows) for rows in randoms]).double()
    as_far = int(((chance - 0.5).abs() >= abs(score - 0.5) - 1e-12).sum())
    return ConceptTest(score, chance, (1 + as_far) / (1 + len(randoms)))
