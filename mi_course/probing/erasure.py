"""Erasing a concept: what is left cannot be read by any linear probe. Derived in notebook 10.

Every erasure here is affine, r(x) = x − (x − μ) R L with R [d k] what is read and L [k d] where it is taken away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.probing.checked import concept_matrix, few_rows, rows_of
from mi_course.probing.probes import logistic_probe


@dataclass(frozen=True)
class Erasure:
    """An affine map that takes something away; call it on rows [row d], or any tensor whose last axis is d.

    Args:
        mean: of the rows [d].
        read: what is read [d k].
        write: where it is taken away [k d].
    """

    mean: Float[Tensor, "d"]
    read: Float[Tensor, "d k"]
    write: Float[Tensor, "k d"]

    @property
    def rank(self) -> int:
        """How many directions are taken away."""
        return self.read.shape[1]

    def __call__(self, x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        mean, read, write = (part.to(x) for part in (self.mean, self.read, self.write))
        return x - (x - mean) @ read @ write


def cross_covariance(x, z) -> Float[Tensor, "d k"]:
    """Σ_xz = mean (x − μ_x)(z − μ_z)ᵀ. Zero exactly when all classes have the same mean."""
    x = rows_of(x)
    z = concept_matrix(z, len(x))
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


def covariance(x: Float[Tensor, "row d"]) -> Float[Tensor, "d d"]:
    """Σ_xx; shrunk towards a multiple of the identity where there are fewer rows than dimensions (with a warning).

    Args:
        x: activations [row d].
    """
    if few_rows(*x.shape):
        return torch.from_numpy(ledoit_wolf(x.numpy())[0])
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def leace(x, z) -> Erasure:
    """LEACE (Belrose et al. 2023): the affine map that erases z from these rows and changes them least.

    r(x) = x − W⁺ P W (x − μ): whiten (W = Σ_xx^{−1/2}), project away the columns of W Σ_xz (P), unwhiten (W⁺).
    Afterwards Σ_xz = 0, so no linear probe with a convex loss beats a constant *on the rows of the fit*; the theorem says
    nothing of other rows, nor of nonlinear probes. Directions in which nothing varies are left alone (W⁺ is a
    pseudo-inverse). With fewer rows than dimensions Σ_xx is shrunk: the guarantee stays, for P takes away W Σ_xz whatever W
    is; that the change is smallest does not.

    Args:
        x: rows [row d].
        z: labels [row], class numbers [row], or numbers [row k].
    """
    x = rows_of(x)
    z = concept_matrix(z, len(x))
    values, vectors = torch.linalg.eigh(covariance(x))
    kept = values > values.max() * 1e-10
    if not bool(kept.any()):
        raise CourseError("No column of x changes: there is nothing in it to erase.")
    basis, root = vectors[:, kept], values[kept].sqrt()
    W, W_inv = basis / root @ basis.T, basis * root @ basis.T  # Σ^{−1/2} and its pseudo-inverse
    U, size, _ = torch.linalg.svd(W @ cross_covariance(x, z), full_matrices=False)
    U = U[:, size > 1e-9 * max(1.0, float(size[0]))]  # columns that span what is to be erased
    return Erasure(x.mean(0), W @ U, U.T @ W_inv)


def mean_projection(x, z) -> Erasure:
    """The orthogonal projection that takes away the cross-covariance (for two classes, the difference of means).

    It guards as LEACE does, since both remove Σ_xz, but it reads with the same direction along which it moves, so
    whatever correlates with that direction goes as well.

    Args:
        x: activations [row d].
        z: labels [row], 0 and 1.
    """
    x = rows_of(x)
    U, size, _ = torch.linalg.svd(cross_covariance(x, z), full_matrices=False)
    U = U[:, size > 1e-12 * max(1.0, float(size[0]))]
    return Erasure(x.mean(0), U, U.T)


def inlp(x, z, most: int = 50, *, above: float = 0.01) -> Erasure:
    """Iterative nullspace projection (Ravfogel et al. 2020): fit a probe, project its direction away, again.

    Stops when a fresh logistic probe reads the rows of the fit no better than the larger class, up to `above`.

    Args:
        x: activations [row d].
        z: labels [row], 0 and 1.
        most: probes at most.
    """
    x = rows_of(x)
    z = concept_matrix(z, len(x))
    if z.shape[1] > 1:
        raise CourseError("inlp erases one concept, there or not, at a time.")
    z, mean, gone = z[:, 0] > 0, x.mean(0), torch.zeros(x.shape[1], 0).double()
    most_common = max(float(z.double().mean()), 1 - float(z.double().mean()))
    for _ in range(most):
        left = x - (x - mean) @ gone @ gone.T
        probe = logistic_probe(left, z)
        if probe.accuracy(left, z) <= most_common + above:
            break
        w = probe.w - gone @ (gone.T @ probe.w)
        gone = torch.linalg.qr(torch.cat([gone, w[:, None] / w.norm()], dim=1)).Q
    return Erasure(mean, gone, gone.T)


def random_projection(x, rank: int = 1, *, seed: int = 0) -> Erasure:
    """The control: as many random orthogonal directions, taken away.

    Args:
        x: activations [row d].
        rank: how many directions.
        seed: of everything drawn.
    """
    x = rows_of(x)
    if not 1 <= rank <= x.shape[1]:
        raise CourseError(f"rank={rank}: between 1 and {x.shape[1]} directions can be taken away.")
    U = torch.linalg.qr(torch.randn(x.shape[1], rank, generator=generator(seed, 13)).double()).Q
    return Erasure(x.mean(0), U, U.T)


def oracle_erase(x, z) -> Float[Tensor, "row d"]:
    """Oracle LEACE: x − Σ_xz Σ_zz⁺ (z − μ_z). Needs every row's label, so it is no map of x alone.

    It changes x even less (for classes it takes away each class's own mean), and it writes the label into x: a nonlinear
    probe may read more than before. Kept apart from `leace` for that reason.
    """
    x = rows_of(x)
    z = concept_matrix(z, len(x))
    centred = z - z.mean(0)
    Sigma_zz = centred.T @ centred / len(z)
    return x - centred @ torch.linalg.pinv(Sigma_zz) @ cross_covariance(x, z).T


def change(x, erased) -> float:
    """Mean squared change, E |r(x) − x|².

    Args:
        erased: what is left of them [row d].
    """
    x, erased = rows_of(x), rows_of(erased, "erased")
    if x.shape != erased.shape:
        raise CourseError(f"x is {list(x.shape)}, and what is left of it {list(erased.shape)}.")
    return float((x - erased).square().sum(1).mean())
