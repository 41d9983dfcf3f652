"""Weights taken apart: channel factors by one-sided NMF, how widely something is spread, kernels compared under turns.

>>> import torch
>>> spread(torch.tensor([1.0, 1.0, 0.0]))  # over two of three
tensor(2.)
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.superposition.geometry import participation_ratio


def spread(weights: Float[Tensor, "*some unit"]) -> Float[Tensor, "*some"]:
    """Over how many units something is spread: (Σ w²)² / Σ w⁴, the participation ratio of `weights`.

    1 for one unit, n for n equal ones, 0 where there is nothing; signs do not matter. Derived in notebook 14.
    """
    return participation_ratio(weights**2)


def one_sided_nmf(
    W: Float[Tensor, "channel *places"], k: int = 2, seed: int = 0
) -> tuple[Float[Tensor, "k channel"], Float[Tensor, "k *places"]]:
    """W ≈ Σ_k (channels of factor k) ⊗ (its places): channels are never negative, places have signs.

    `W` is split into max(W, 0) and max(−W, 0), side by side; scikit-learn's NMF with `k` factors reads both with the same
    channels; a factor's places are those of the first half less those of the second. `seed` draws the start. Channels of
    a factor have length 1. Derived in notebook 14.
    """
    from sklearn.decomposition import NMF

    if not 0 < k <= len(W):
        raise CourseError(f"{len(W)} channels have from 1 to {len(W)} factors, not {k}.")
    flat = W.detach().flatten(1).double().numpy()
    both = np.concatenate([flat.clip(min=0), (-flat).clip(min=0)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps left over
        model = NMF(k, init="nndsvda", random_state=seed, max_iter=1000)
        channels = torch.from_numpy(model.fit_transform(both).T)
    plus, minus = torch.from_numpy(model.components_).chunk(2, dim=1)
    size = channels.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (channels / size).float(), ((plus - minus) * size).float().reshape(k, *W.shape[1:])


def turned(
    kernels: Float[Tensor, "*some row column"], degrees: float | int
) -> Float[Tensor, "*some row column"]:
    """`kernels` turned by `degrees` against the clock, with straight lines between cells; multiples of 90° are exact."""
    if degrees % 90 == 0:
        return torch.rot90(kernels, int(degrees // 90) % 4, dims=(-2, -1))
    from scipy.ndimage import rotate

    flat = kernels.detach().numpy()
    return torch.from_numpy(rotate(flat, degrees, axes=(-1, -2), reshape=False, order=1).astype(flat.dtype))


def correlation(
    a: Float[Tensor, "*#some row column"], b: Float[Tensor, "*#some row column"]
) -> Float[Tensor, "*some"]:
    """Pearson's r of the cells of two kernels `a` and `b`; 0 where one of them is constant."""
    a, b = (x.flatten(-2) - x.flatten(-2).mean(-1, keepdim=True) for x in (a, b))
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp(min=1e-12)


def best_match(
    filters: Float[Tensor, "n row column"], others: Float[Tensor, "m row column"], shifts: int = 2
) -> Float[Tensor, "n"]:
    """For each of `filters` its largest correlation with one of `others`, turned by any eighth, shifted by up to `shifts`."""
    candidates = torch.cat([turned(others, 45 * i) for i in range(8)])
    moves = [(r, c) for r in range(-shifts, shifts + 1) for c in range(-shifts, shifts + 1)]
    best = torch.full((len(filters),), -1.0)
    for r, c in moves:
        moved = torch.zeros_like(candidates)
        rows, columns = candidates.shape[-2:]
        moved[:, max(r, 0) : rows + min(r, 0), max(c, 0) : columns + min(c, 0)] = candidates[
            :, max(-r, 0) : rows - max(r, 0), max(-c, 0) : columns - max(c, 0)
        ]
        best = torch.maximum(best, correlation(filters[:, None], moved[None]).amax(1))
    return best
