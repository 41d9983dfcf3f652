"""When a lens knows: from which layer on the first choice stays, and what stopping there would cost.

How far a lens is from the final answer, and where an answer stands, is measured by `patching.kl` and `patching.rank`.

Derived in notebook 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.errors import CourseError


def settled_at(choices: Int[Tensor, "layer row"]) -> Int[Tensor, "row"]:
    """The first layer from which on the first choice is the last layer's, for each token.

    Args:
        choices: first choices by layer, the model's own in the last row.
    """
    wrong = choices != choices[-1]
    numbered = torch.arange(1, len(choices) + 1)[:, None] * wrong
    return numbered.amax(0)


@dataclass(frozen=True)
class Exits:
    """What leaving early comes to.

    Args:
        layer: at which each token leaves [row]; n_layers where it does not.
        saved: mean share of layers that are not run.
        agreement: share of tokens whose first choice is the model's own.
    """

    layer: Int[Tensor, "row"]
    saved: float | int
    agreement: float | int


def early_exits(
    choices: Int[Tensor, "layer row"],
    sure: Float[Tensor, "layer row"],
    threshold: float | int,
    final: Int[Tensor, "row"],
) -> Exits:
    """Each token leaves at the first layer whose lens gives its first choice at least the probability `threshold`.

    Args:
        choices: first choices by layer, 0 … n_layers − 1.
        sure: their probabilities under the lens.
        threshold: from which on a token leaves.
        final: the model's own first choices.
    """
    n = len(choices)
    leaves: Bool[Tensor, "layer row"] = torch.cat(
        [sure >= threshold, torch.ones_like(final, dtype=torch.bool)[None]]
    )
    layer = leaves.int().argmax(0)
    said = torch.cat([choices, final[None]]).gather(0, layer[None])[0]
    return Exits(layer, float((n - layer).float().mean() / n), float((said == final).float().mean()))


def threshold_for(
    choices: Int[Tensor, "layer row"],
    sure: Float[Tensor, "layer row"],
    final: Int[Tensor, "row"],
    agreement: float | int,
) -> float:
    """The lowest threshold at which so large a share of these tokens still agrees with the model.

    Args:
        choices: first choices by layer.
        sure: their probabilities under the lens.
        final: the model's own first choices.
        agreement: the share that is asked for.
    """
    if not 0 < agreement <= 1:
        raise CourseError(f"agreement={agreement} is a share above 0, at most 1.")
    for threshold in torch.linspace(0, 1, 101).tolist():
        if early_exits(choices, sure, threshold, final).agreement >= agreement:
            return threshold
    return float("inf")  # nobody leaves
