"""The task solved by trigonometry alone, with no training."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.grokking.fourier import checked_frequencies


def trigonometric_logits(p: int, frequencies: list[int]) -> Float[Tensor, "pair p"]:
    """Σ_k cos w_k (a + b − c) for every pair, with w_k = 2πk/p: largest at c = a + b, where every cosine is 1.

    One frequency alone is right already, for p is prime; but the next c is nearly as good. Several frequencies are
    never nearly 1 together. Derived in notebook 09.

    Args:
        p: the modulus.
        frequencies: from 1 to (p − 1)/2; five of them leave a margin of 2.41 at p = 113.
    """
    checked_frequencies(p, frequencies)
    n = torch.arange(p)
    away = (n[:, None, None] + n[None, :, None] - n) % p  # a b c
    waves = sum((2 * torch.pi * k / p * n.double()).cos() for k in frequencies)
    return waves[away].view(p * p, p)


def margin(logits: Float[Tensor, "pair p"], answers: Int[Tensor, "pair"]) -> float:
    """The smallest lead of the right answer over the next, over all pairs; negative where some answer is wrong.

    Args:
        logits: of every number, for each pair.
        answers: the right one of each pair.
    """
    right = logits.gather(1, answers[:, None])
    rest = logits.scatter(1, answers[:, None], -torch.inf)
    return float((right[:, 0] - rest.max(1).values).min())
