"""How good an autoencoder is: variance unexplained, L0, density, dead features, loss recovered."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.activations import HUGE, sinks
from mi_course.errors import CourseError
from mi_course.sae.dictionary import Dictionary, as_rows, checked_autoencoder

Loss = float | int | Tensor

# -- measures: one definition each ---------------------------------------------------------------


@torch.no_grad()
def fvu(x: Float[Tensor, "*sample d_in"], x_hat: Float[Tensor, "..."]) -> float:
    """Fraction of variance unexplained, E‖x − x̂‖² / E‖x − E x‖²: 0 is perfect, 1 is no better than the mean.

    Sums are taken in 32-bit floats at least, over all axes but the last. A few rows of huge norm (the first position
    of real models) hold nearly all of the variance, and then FVU is about them alone: a warning gives the value
    without them. `x` are activations, `x_hat` their reconstructions, of the same shape. Rows that are all the same have no
    variance that could be explained, and are refused.
    """
    if x.shape != x_hat.shape:
        raise CourseError(f"x and x̂ need one shape, not {list(x.shape)} and {list(x_hat.shape)}.")
    x, x_hat = as_rows(x), as_rows(x_hat)
    if not len(x) or bool((x == x[0]).all()):
        raise CourseError("FVU needs rows that differ: these have no variance that could be explained.")
    few = sinks(x)
    if few is not None and not bool(few.all()):
        rest = unexplained(x[~few], x_hat[~few])
        share = (x - x.mean(0))[few].square().sum() / (x - x.mean(0)).square().sum()
        warnings.warn(
            f"{int(few.sum()):,} of {len(x):,} rows are over {HUGE} times as long as the median and hold {share:.0%} of "
            f"the variance; without them FVU is {rest:.4g}. In real models they stand at the first position: leave it out.",
            stacklevel=2,
        )
    return unexplained(x, x_hat)


def unexplained(x: Float[Tensor, "row d_in"], x_hat: Float[Tensor, "row d_in"]) -> float:
    """FVU of the reconstructions `x_hat` of rows `x`, as they are: nothing is warned of."""
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@torch.no_grad()
def l0(f: Float[Tensor, "*sample d_sae"]) -> float:
    """The mean number of active features an input; `f` are activations, above 0 where active."""
    return float((f > 0).float().sum(-1).mean())


@torch.no_grad()
def density(f: Float[Tensor, "*sample d_sae"]) -> Float[Tensor, "d_sae"]:
    """The share of inputs on which each feature is active; 0 is dead, below 1e-6 ultralow (on enough inputs).

    `f` are the features' activations, above 0 where active.
    """
    return (f.reshape(-1, f.shape[-1]) > 0).float().mean(0)


@torch.no_grad()
def dead_share(f: Float[Tensor, "*sample d_sae"]) -> float:
    """The share of features that were never active in `f`."""
    return float((density(f) == 0).float().mean())


def loss_recovered(loss: Loss, spliced: Loss, baseline: Loss) -> float:
    """(L_baseline − L_spliced) / (L_baseline − L): 1 is nothing lost, 0 no better than the ablation named by the baseline.

    Zero ablation is the paper's baseline and, as its authors say, an overestimate; always print mean and resample
    ablation beside it. Each loss is a number, or a tensor of single tokens' losses, whose mean is taken.

    Args:
        loss: of the model as it is.
        spliced: with x̂ in the place of x.
        baseline: with the layer ablated.
    """
    loss, spliced, baseline = (
        float(v.detach().double().mean()) if isinstance(v, Tensor) else float(v)
        for v in (loss, spliced, baseline)
    )
    if baseline == loss:
        raise CourseError("The ablation changes nothing: there is no loss to recover.")
    return (baseline - spliced) / (baseline - loss)


def splice(sae: Dictionary, edit: Callable[[Tensor], Tensor] | None = None, keep_error: bool = False):
    """A hook that puts x̂ in the place of x; `edit(f)` may change the features first.

    It comes out in the model's own format. With `keep_error` what the autoencoder misses, x − x̂, is added back, so that without an edit nothing changes.

    Args:
        sae: what stands in.
        edit: features → features.
        keep_error: add x − x̂ back.
    """
    checked_autoencoder(sae)

    def hook(x, hook=None):
        f = sae.encode(x)
        x_hat = sae.decode(f if edit is None else edit(f))
        return (x_hat + (x - sae.decode(f)) if keep_error else x_hat).to(x.dtype)

    return hook
