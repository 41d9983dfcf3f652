"""What is minimised: reconstruction, sparsity, and the auxiliary loss of dead features."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.sae import step as sae_step
from mi_course.sae.dictionary import Dictionary, SparseAutoencoder

# -- the loss ------------------------------------------------------------------------------------


def loss(
    sae: Dictionary,
    x: Float[Tensor, "batch d"],
    share: float | int = 1.0,
    dead: Bool[Tensor, "d_sae"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_sae"]]:
    """‖scale · (x − x̂)‖², a mean over the batch, plus what keeps f sparse; `share` of the penalty while it rises.

    relu λ Σ f_i · relu_norm λ Σ f_i ‖d_i‖ (Conerly et al. 2024) · jumprelu λ ‖f‖₀ · gated λ Σ ReLU(gate) and the
    error of the gate's own reconstruction (Rajamanoharan et al. 2024a) · topk, batchtopk the auxiliary error of
    `dead` features on what is left (Gao et al. 2024). Returns the loss and f. `sae` reads the activations `x`; a
    transcoder reads their first part and rebuilds the rest.
    """
    t, target = sae.pair(x)
    pre = sae.read(t)
    f = sae.activate(pre)
    error = target - sae.rebuilt(f)
    total = error.square().sum(-1).mean()
    penalty, extra = sae.kind.penalty(sae, pre, f), sae.kind.extra(sae, t, pre, target, error, dead)
    if penalty is not None:
        total = total + share * sae.cfg.l1 * sae.parts.add(penalty.sum(-1)).mean()
    if extra is not None:
        total = total + extra
    return total, f


def fast_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    share: float | int,
    dead: Bool[Tensor, "d_sae"],
    work: sae_step.Work,
) -> tuple[Float[Tensor, ""], Bool[Tensor, "d_sae"]]:
    """`loss` of an autoencoder whose kind has one by the step of `sae.step`; returns it and who was active.

    `x` is a batch of activations, `share` the share of the penalty while it rises, `dead` says which features are;
    `work` holds the step's arrays.
    """
    return sae.kind.fast_loss(sae, sae.scaled(x), share, dead, work)


def projected(
    grad: Float[Tensor, "d_sae d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """The gradient without each row's part along that decoder row, which would only change its length.

    `grad` is the gradient of the decoder `W_dec`, whose rows have length 1.
    """
    product = grad * W_dec
    return torch.addcmul(grad, product.sum(1, keepdim=True), W_dec, value=-1, out=product)
