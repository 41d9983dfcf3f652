"""What is minimised: reconstruction, sparsity, and the auxiliary loss of dead features."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.sae import step as sae_step
from mi_course.sae.dictionary import SparseAutoencoder, Step, keep_top

# -- the loss ------------------------------------------------------------------------------------


def loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    share: float | int = 1.0,
    dead: Bool[Tensor, "d_sae"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_sae"]]:
    """‖scale · (x − x̂)‖², a mean over the batch, plus what keeps f sparse; `share` of the penalty while it rises.

    relu λ Σ f_i · relu_norm λ Σ f_i ‖d_i‖ (Conerly et al. 2024) · jumprelu λ ‖f‖₀ · gated λ Σ ReLU(gate) and the error
    of the gate's own reconstruction (Rajamanoharan et al. 2024a) · topk, batchtopk the auxiliary error of `dead`
    features on what is left (Gao et al. 2024). Returns the loss and f.
    """
    cfg, pre = sae.cfg, sae.pre(x)
    f = sae.activate(pre)
    target = x * sae.scale
    error = target - (f @ sae.W_dec + sae.b_dec)
    total = error.square().sum(-1).mean()
    if cfg.kind == "relu":
        total = total + share * cfg.l1 * f.sum(-1).mean()
    elif cfg.kind == "relu_norm":
        total = total + share * cfg.l1 * (f * sae.W_dec.norm(dim=1)).sum(-1).mean()
    elif cfg.kind == "jumprelu":
        active = Step.apply(pre.relu(), sae.log_threshold.exp(), cfg.bandwidth)
        total = total + share * cfg.l1 * active.sum(-1).mean()
    elif cfg.kind == "gated":
        gate = pre.relu()
        by_gate = gate @ sae.W_dec.detach() + sae.b_dec.detach()
        total = total + share * cfg.l1 * gate.sum(-1).mean() + (target - by_gate).square().sum(-1).mean()
    elif dead is not None:
        total = total + cfg.aux * auxiliary_loss(sae, target, error.detach(), dead)
    return total, f


def auxiliary_loss(
    sae: SparseAutoencoder,
    target: Float[Tensor, "batch d_in"],
    error: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, "d_sae"],
) -> Float[Tensor, ""]:
    """How well the dead features' largest pre-activations explain the error: a gradient for what gets none."""
    which = dead.nonzero()[:, 0]
    if not len(which) or not sae.cfg.aux:
        return error.new_zeros(())
    pre = (target - sae.b_dec) @ sae.W_enc[:, which] + sae.b_enc[which]
    revived = keep_top(pre.relu(), min(len(which), max(1, sae.cfg.d_in // 2)))
    return (error - revived @ sae.W_dec[which]).square().sum(-1).mean()


def fast_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    share: float | int,
    dead: Bool[Tensor, "d_sae"],
    work: sae_step.Work,
) -> tuple[Float[Tensor, ""], Bool[Tensor, "d_sae"]]:
    """`loss` of a relu, relu_norm or topk autoencoder by the step of `sae_step`; returns it and who was active."""
    cfg, target = sae.cfg, sae.scaled(x)
    weights = (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec)
    if cfg.kind == "topk":
        total, error, active = sae_step.TopK.apply(target, *weights, cfg.k, work)
        return total + cfg.aux * auxiliary_loss(sae, target, error, dead), active
    lengths = sae.W_dec.norm(dim=1) if cfg.kind == "relu_norm" else torch.ones_like(sae.b_enc)
    return sae_step.ReluL1.apply(target, *weights, share * cfg.l1 * lengths, work)


def projected(
    grad: Float[Tensor, "d_sae d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """The gradient without each row's part along that decoder row, which would only change its length."""
    product = grad * W_dec
    return torch.addcmul(grad, product.sum(1, keepdim=True), W_dec, value=-1, out=product)
