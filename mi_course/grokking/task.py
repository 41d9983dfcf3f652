"""Tables of arithmetic modulo a prime, and which of their cells a network is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a² + b²": lambda a, b: a * a + b * b,
}
SMALLEST = 11  # below, the table has too few cells to hold any out


@dataclass(frozen=True)
class Task:
    """What (a, b) is mapped to modulo p, and the part of all p² pairs that is trained on.

    Args:
        p: a prime, 11 or more.
        fraction: of the pairs, trained on; the rest is for testing.
        operation: a key of OPERATIONS.
        shuffled: the answers are dealt out anew over the pairs, so that there is no rule to find (the control).
        seed: of which pairs are trained on, and of the shuffling.
    """

    p: int = 113
    fraction: float | int = 0.3
    operation: str = "a + b"
    shuffled: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.operation not in OPERATIONS:
            raise CourseError(
                f"There is no operation {self.operation!r}.{nearest(self.operation, OPERATIONS)}"
            )
        if self.p < 2 or any(self.p % k == 0 for k in range(2, math.isqrt(self.p) + 1)):
            raise CourseError(
                f"p = {self.p} is not prime: then some frequencies w and multiples of w have shorter periods, and the "
                "Fourier analysis of notebook 09 counts them twice. Primes: 31, 59, 97, 113."
            )
        if self.p < SMALLEST:
            raise CourseError(
                f"p = {self.p} is too small: {self.p**2} pairs are memorised and nothing is left to generalise to. "
                "Known to work: 113 with weight decay 1; 53 needed 5 in the paper. Below 11 nothing was seen to."
            )
        if not 0 < self.fraction < 1:
            raise CourseError(
                f"fraction = {self.fraction} must lie between 0 and 1, both left out: pairs to train on, and pairs to test."
            )
        if not 0 < int(self.train.sum()) < self.p**2:
            raise CourseError(
                f"fraction = {self.fraction} of {self.p**2} pairs leaves nothing to train on, or to test."
            )

    @cached_property
    def pairs(self) -> Int[Tensor, "pair 2"]:
        """All (a, b), row after row: pair number a p + b."""
        numbers = torch.arange(self.p)
        return torch.cartesian_prod(numbers, numbers)

    @cached_property
    def answers(self) -> Int[Tensor, "pair"]:
        """What each pair is mapped to."""
        answers = OPERATIONS[self.operation](*self.pairs.T) % self.p
        if self.shuffled:
            answers = answers[torch.randperm(self.p**2, generator=generator(self.seed, 91))]
        return answers

    @cached_property
    def train(self) -> Bool[Tensor, "pair"]:
        """Which pairs are trained on: the first `fraction` of a random order."""
        chosen = torch.zeros(self.p**2, dtype=torch.bool)
        order = torch.randperm(self.p**2, generator=generator(self.seed, 90))
        chosen[order[: int(self.fraction * self.p**2)]] = True
        return chosen

    @cached_property
    def mirrored(self) -> Bool[Tensor, "pair"]:
        """Pairs (a, b) whose mirror (b, a) is trained on: a network that is blind to order knows those."""
        return self.train.view(self.p, self.p).T.flatten()

    @property
    def tokens(self) -> Int[Tensor, "pair 3"]:
        """Every pair as the network reads it: a, b and "=", which is token p."""
        return torch.cat([self.pairs, torch.full((self.p**2, 1), self.p)], dim=1)

    @property
    def guessing(self) -> float:
        """The loss of one who knows nothing: ln p."""
        return math.log(self.p)
