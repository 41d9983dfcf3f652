"""What keeps features sparse: one small class for each kind of autoencoder.

A kind says which settings it needs, which parameters it adds, how pre-activations become features, what is added to
the squared error, and whether it has a fast step. The base class is ReLU with a penalty on f; the others override.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mi_course.errors import CourseError
from mi_course.processes import COPIES
from mi_course.sae import step as sae_step

AT_ONCE = 1024  # dead features in the auxiliary loss of one step


class Relu:
    """f = ReLU(pre), with the penalty λ Σ f_i (Bricken et al. 2023). Decoder rows have length 1."""

    unit_decoder = True  # rows of W_dec are kept at length 1
    fast = True  # has a step with its gradients written out

    def check(self, cfg) -> None:
        """One sentence for settings that make no sense."""

    def prepare(self, sae) -> None:
        """Give the autoencoder what only this kind has."""

    def activate(self, sae, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """From pre-activations to features."""
        return pre.relu()

    def penalty(self, sae, pre: Tensor, f: Tensor) -> Float[Tensor, "*batch d_sae"] | None:
        """What is summed over the features of each input and multiplied by λ."""
        return f

    def extra(
        self, sae, t: Tensor, pre: Tensor, target: Tensor, error: Tensor, dead: Tensor | None
    ) -> Tensor | None:
        """A further term of the loss; `t` is the scaled input, `target` what is rebuilt: itself, but for a transcoder."""

    def fast_loss(self, sae, target: Tensor, share: float | int, dead: Tensor, work: sae_step.Work):
        """The loss by the step of `sae.step`, and who was active."""
        weights = (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec)
        return sae_step.ReluL1.apply(target, *weights, share * sae.cfg.l1 * self.lengths(sae), work)

    def lengths(self, sae) -> Float[Tensor, "d_sae"]:
        """What the penalty of each feature is multiplied by."""
        return torch.ones_like(sae.b_enc)

    def follow_(self, sae, f: Float[Tensor, "batch d_sae"]) -> None:
        """What is learnt from a batch without a gradient."""


class ReluNorm(Relu):
    """The penalty λ Σ f_i ‖d_i‖ leaves the decoder's rows free (Conerly et al. 2024)."""

    unit_decoder = False

    def penalty(self, sae, pre, f):
        return f * self.lengths(sae)

    def lengths(self, sae):
        return sae.W_dec.norm(dim=1)


class TopK(Relu):
    """The k largest of each input, no penalty; the dead are revived by the auxiliary loss (Gao et al. 2024)."""

    def check(self, cfg):
        if not 1 <= cfg.k <= cfg.d_sae:
            raise CourseError(
                f"{cfg.kind} needs 1 ≤ k ≤ d_sae = {cfg.d_sae} active features, not k = {cfg.k}."
            )

    def activate(self, sae, pre):
        return sae.parts.keep_top(pre.relu(), sae.cfg.k)

    def penalty(self, sae, pre, f):
        return None

    def extra(self, sae, t, pre, target, error, dead):
        return None if dead is None else sae.cfg.aux * auxiliary_loss(sae, t, error.detach(), dead)

    def fast_loss(self, sae, target, share, dead, work):
        weights = (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec)
        total, error, active = sae_step.TopK.apply(target, *weights, sae.cfg.k, work)
        return total + sae.cfg.aux * auxiliary_loss(sae, target, error, dead), active


class BatchTopK(TopK):
    """The k · batch largest of a batch (Bussmann et al. 2024); of one input alone, what exceeds a learnt threshold."""

    fast = False

    def prepare(self, sae):
        sae.register_buffer("threshold", torch.tensor(0.0))

    def activate(self, sae, pre):
        if not sae.training:
            return torch.where(pre > sae.threshold, pre.relu(), 0.0)
        n = pre.numel() // pre.shape[-1]
        return sae.parts.keep_top(pre.relu().flatten(), sae.cfg.k * n).view_as(pre)

    @torch.no_grad()
    def follow_(self, sae, f):
        """The threshold: a running mean of the smallest active value."""
        smallest = sae.parts.smallest(torch.where(f > 0, f, torch.inf).min())
        if bool(smallest.isfinite()):
            sae.threshold.lerp_(smallest, 0.01 if sae.threshold > 0 else 1.0)


class Nested(TopK):
    """Matryoshka (Bussmann et al. 2025): the first features alone must rebuild as well as they can, at every prefix.

    The squared error is a mean over the prefixes and the whole. A general feature that stands early cannot leave part of
    its concept to a special one that stands late. Derived in notebook 07.
    """

    fast = False

    def check(self, cfg):
        super().check(cfg)
        ends = list(cfg.prefixes)
        if not ends or ends != sorted(set(ends)) or not 1 <= ends[0] or ends[-1] >= cfg.d_sae:
            raise CourseError(
                f"nested needs prefixes that rise from 1 to below d_sae = {cfg.d_sae}, such as (16, 64), not {cfg.prefixes}."
            )

    def prepare(self, sae):
        if sae.parts is not COPIES:
            raise CourseError(
                "A nested dictionary is not cut into shards: its prefixes would lie in one of them."
            )

    def extra(self, sae, t, pre, target, error, dead):
        whole, ends = error.square().sum(-1).mean(), sae.cfg.prefixes
        f = sae.activate(pre)
        parts = [(target - sae.b_dec - f[..., :m] @ sae.W_dec[:m]).square().sum(-1).mean() for m in ends]
        nested = (sum(parts) - len(ends) * whole) / (len(ends) + 1)  # with the whole: the mean over all
        aux = super().extra(sae, t, pre, target, error, dead)
        return nested if aux is None else nested + aux


class JumpRelu(Relu):
    """z where z > θ, else 0, with learnt θ and the penalty λ ‖f‖₀ (Rajamanoharan et al. 2024b)."""

    unit_decoder = fast = False

    def prepare(self, sae):
        sae.log_threshold = nn.Parameter(torch.full_like(sae.b_enc, math.log(0.1)))

    def activate(self, sae, pre):
        return Jump.apply(pre.relu(), sae.log_threshold.exp(), sae.cfg.bandwidth)

    def penalty(self, sae, pre, f):
        return Step.apply(pre.relu(), sae.log_threshold.exp(), sae.cfg.bandwidth)


class Gated(Relu):
    """Which features are active and how much are two questions; the gate alone reconstructs, too (Rajamanoharan et al.
    2024a)."""

    fast = False

    def prepare(self, sae):
        sae.r_mag = nn.Parameter(torch.zeros_like(sae.b_enc))
        sae.b_mag = nn.Parameter(torch.zeros_like(sae.b_enc))

    def activate(self, sae, pre):
        magnitude = ((pre - sae.b_enc) * sae.r_mag.exp() + sae.b_mag).relu()
        return torch.where(pre > 0, magnitude, 0.0)

    def penalty(self, sae, pre, f):
        return pre.relu()

    def extra(self, sae, t, pre, target, error, dead):
        by_gate = sae.parts.add(pre.relu() @ sae.W_dec.detach()) + sae.b_dec.detach()
        return (target - by_gate).square().sum(-1).mean()


KINDS = {
    "relu": Relu(), "relu_norm": ReluNorm(), "topk": TopK(), "batchtopk": BatchTopK(), "jumprelu": JumpRelu(),
    "gated": Gated(), "nested": Nested(),
}  # fmt: skip


# -- functions with gradients of their own -------------------------------------------------------


def keep_top(values: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
    """The k largest of `values` along the last axis, 0 elsewhere; gradients flow through what is kept."""
    return COPIES.keep_top(values, k)


class Jump(torch.autograd.Function):
    """JumpReLU (Rajamanoharan et al. 2024b): z where z > θ, else 0; its step has a gradient by a kernel of width ε."""

    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        """`z` above its `threshold` [d_sae], else 0; `bandwidth` is that of the kernel in `backward`."""
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0.0)

    @staticmethod
    def backward(ctx, grad):
        """`grad` passes where z was above; thresholds get theirs from the z within half a bandwidth of them."""
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return torch.where(z > threshold, grad, 0.0), -(threshold * near * grad).flatten(0, -2).sum(0), None


class Step(torch.autograd.Function):
    """1 where z > θ: the term of an L0 penalty, with the same kernel for θ and no gradient for z."""

    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        """1 where `z` is above its `threshold` [d_sae], else 0; `bandwidth` is that of the kernel in `backward`."""
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx, grad):
        """`grad` reaches the thresholds alone, from the z within half a bandwidth of them."""
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return None, -(near * grad).flatten(0, -2).sum(0), None


def auxiliary_loss(
    sae,
    t: Float[Tensor, "batch d_in"],
    error: Float[Tensor, "batch d_out"],
    dead: Bool[Tensor, "d_sae"],
) -> Float[Tensor, ""]:
    """How well the dead features' largest pre-activations explain the error: a gradient for what gets none.

    At most `AT_ONCE` of them take part in a step, in turn, so that a step never costs much more than without them.
    `t` is the scaled input that `sae` read, `error` what it missed of its target, and `dead` says which features are.
    """
    which = dead.nonzero()[:, 0]
    before, everywhere = sae.parts.counted(len(which))
    if not everywhere or not sae.cfg.aux:
        return error.new_zeros(())
    if everywhere > AT_ONCE:
        turn = AT_ONCE * int(getattr(sae, "step", 0)) % everywhere
        place = (torch.arange(len(which), device=which.device) + before - turn) % everywhere
        place, order = place.sort()
        which = which[order[place < AT_ONCE]]
    rows = sae.W_enc.T.index_select(0, which)
    pre = sae.centred(t) @ rows.T + sae.b_enc[which]
    k = min(everywhere, AT_ONCE, max(1, sae.cfg.d_in // 2))
    revived = sae.parts.keep_top(pre.relu(), k)
    return (error - sae.parts.add(revived @ sae.W_dec.index_select(0, which))).square().sum(-1).mean()
