"""Weights, neurons and logits in the Fourier basis of the numbers modulo p.

A frequency k stands for the pair cos(w n), sin(w n) with w = 2πk/p, k = 1 … (p − 1)/2. Derived in notebook 09.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError, nearest

KEY = 0.25  # a key frequency has at least this share of the largest norm
PARTS = ("sums", "products", "blocks")


def fourier_basis(p: int) -> Float[Tensor, "wave p"]:
    """p orthonormal waves: the constant, then cos and sin of frequency 1, of frequency 2, and so on.

    `p` is odd.
    """
    n, k = torch.arange(p).double(), torch.arange(1, (p - 1) // 2 + 1).double()
    angle = 2 * torch.pi / p * k[:, None] * n
    waves = torch.stack([angle.cos(), angle.sin()], dim=1).flatten(0, 1) * (2 / p) ** 0.5
    return torch.cat([torch.full((1, p), p**-0.5).double(), waves])


def frequency_norms(M: Float[Tensor, "*rows p"]) -> Float[Tensor, "frequency"]:
    """How much of `M`, read along its last axis, lies in each frequency: ‖M cos_k‖² + ‖M sin_k‖², then the root.

    Entry k − 1 belongs to frequency k; the constant is left out. W_E is read along the numbers as `W_E[:p].T`.
    """
    waves = M.double() @ fourier_basis(M.shape[-1]).T
    power = waves[..., 1:].unflatten(-1, (-1, 2)).square().sum(-1)
    return power.reshape(-1, power.shape[-1]).sum(0).sqrt()


def key_frequencies(norms: Float[Tensor, "frequency"], share: float | int = KEY) -> list[int]:
    """Frequencies whose norm is at least `share` of the largest, in rising order.

    The paper gives no threshold; ours is a quarter, written into the ledger before any run. `norms` are those of
    `frequency_norms`, here taken of W_L.
    """
    if not 0 < share <= 1:
        raise CourseError(f"share = {share} must lie above 0 and be 1 at most.")
    return ((norms >= share * norms.max()).nonzero()[:, 0] + 1).tolist()


def power_in(norms: Float[Tensor, "frequency"], n: int = 6) -> float:
    """The share of the power (squared norms) in the `n` largest of `norms`; n / all of them where it is level."""
    power = norms.square()
    return float(power.topk(n).values.sum() / power.sum())


def gini(x: Float[Tensor, "n"]) -> float:
    """Gini coefficient of sizes `x`: 0 where all are equal, near 1 where one has everything."""
    ordered, n = x.double().sort().values, len(x)
    weight = 2 * torch.arange(1, n + 1).double() - n - 1
    return float((weight * ordered).sum() / (n * ordered.sum()))


def directions(p: int, frequencies: list[int], parts: str = "sums") -> Float[Tensor, "direction pair"]:
    """Orthonormal functions of the pair (a, b), number a p + b, that belong to some frequencies.

    "sums": cos w(a+b) and sin w(a+b), two a frequency: what the trigonometric algorithm needs, and no more.
    "products": the 2 × 2 block of cos or sin of a times cos or sin of b, four a frequency; among them both sums.
    "blocks": the 3 × 3 block with the constant for either, less the constant itself: eight a frequency.

    Args:
        p: the modulus.
        frequencies: from 1 to (p − 1)/2.
        parts: which of the three.
    """
    if parts not in PARTS:
        raise CourseError(f"There are no parts {parts!r}.{nearest(parts, PARTS)}")
    checked_frequencies(p, frequencies)
    waves, found = fourier_basis(p), []
    for k in frequencies:
        one, cos, sin = waves[0], waves[2 * k - 1], waves[2 * k]
        if parts == "sums":
            found.append((torch.outer(cos, cos) - torch.outer(sin, sin)) / 2**0.5)
            found.append((torch.outer(sin, cos) + torch.outer(cos, sin)) / 2**0.5)
            continue
        sides = (cos, sin) if parts == "products" else (one, cos, sin)
        block = [torch.outer(x, y) for x in sides for y in sides]
        found += block if parts == "products" else block[1:]
    return torch.stack(found).flatten(1) if found else torch.zeros(0, p * p).double()


def checked_frequencies(p: int, frequencies: list[int]) -> None:
    """One sentence where one of the `frequencies` does not exist modulo `p`."""
    if wrong := [k for k in frequencies if not 1 <= k <= (p - 1) // 2]:
        raise CourseError(f"Frequencies modulo {p} go from 1 to {(p - 1) // 2}: {wrong[0]} is none.")


def component(
    logits: Float[Tensor, "pair out"], frequencies: list[int], parts: str = "sums"
) -> Float[Tensor, "pair out"]:
    """The part of the logits, as a function of (a, b), that lies in those directions.

    Args:
        logits: of all p² pairs, in order.
        frequencies: whose directions.
        parts: see `directions`.
    """
    D = directions(modulus(logits), frequencies, parts)
    return D.T @ (D @ logits.double())


def constant(logits: Float[Tensor, "pair out"]) -> Float[Tensor, "1 out"]:
    """The part of the `logits` that is the same for every pair."""
    return logits.double().mean(0, keepdim=True)


def modulus(logits: Float[Tensor, "pair out"]) -> int:
    """p, from `logits` that must hold all p² pairs."""
    p = round(len(logits) ** 0.5)
    if p * p != len(logits):
        raise CourseError(
            f"{len(logits)} pairs are not all p² of any p: the Fourier transform needs every one."
        )
    return p


def neuron_shares(
    post: Float[Tensor, "pair neuron"],
) -> tuple[Float[Tensor, "neuron"], Int[Tensor, "neuron"]]:
    """For each neuron the largest share of its variance over all pairs in the 3 × 3 block of one frequency, and which.

    A neuron that never changes has share 0. `post` are activations of all p² pairs.
    """
    p = modulus(post)
    waves = fourier_basis(p)
    grid = (post.double() - post.double().mean(0)).view(p, p, -1)
    along_a = torch.tensordot(waves, grid, dims=1)  # wave b neuron
    power = torch.tensordot(waves, along_a, dims=([1], [1])).transpose(0, 1).square()  # of a, of b, neuron
    alone = torch.cat([power[0, 1:], power[1:, 0]]).view(2, -1, 2, power.shape[-1]).sum((0, 2))
    both = power[1:, 1:].view((p - 1) // 2, 2, (p - 1) // 2, 2, -1).sum((1, 3)).diagonal().T
    share = (alone + both) / power.sum((0, 1)).clamp_min(1e-12)
    best = share.max(0)
    return best.values, best.indices + 1


def cosine_fit(
    logits: Float[Tensor, "pair out"],
) -> tuple[Float[Tensor, "frequency"], Float[Tensor, "frequency"]]:
    """Least squares of the logits on cos w(a + b − c): the coefficient of each frequency, and its share of the variance.

    Cosines of different frequencies are orthogonal over all p³ entries, so that each coefficient stands alone and
    shares add. Logits are taken less their mean over c, which no softmax sees. `logits` are those of all p² pairs.
    """
    p = modulus(logits)
    centred = (logits.double() - logits.double().mean(1, keepdim=True)).view(p, p, p)
    n = torch.arange(p)
    away = (n[:, None, None] + n[None, :, None] - n) % p  # a + b − c
    by_distance = torch.zeros(p).double().index_add_(0, away.flatten(), centred.flatten())
    waves = fourier_basis(p)[1::2] * (p / 2) ** 0.5  # cos(w d), each of squared norm p/2
    alpha = waves @ by_distance / (p * p * p / 2)
    return alpha, alpha.square() * (p**3 / 2) / centred.square().sum()
