"""The training step of an autoencoder with its gradients written out: what autograd computes, several times faster.

With t the scaled input, x_c = t − b_dec, z = x_c W_enc + b_enc, features f, error e = f W_dec + b_dec − t and a batch
of B inputs, the loss is L = Σ_b (‖e‖² + f·p) / B, where p ≥ 0 is the penalty of each feature (0 for TopK). Then

    G       = 2 e / B                           ∂L/∂x̂                     [batch d_in]
    δ       = (G W_decᵀ + p / B) · [f > 0]      ∂L/∂z                      [batch d_sae]
    ∂W_dec  = fᵀ G        ∂W_encᵀ = δᵀ x_c      ∂b_enc = Σ_b δ             ∂p = Σ_b f / B
    ∂b_dec  = Σ_b G − W_enc ∂b_enc              since b_dec is also subtracted from the input

`TopK` never holds a dense f or δ: both live on the k features of each input. `ReluL1` holds them in two buffers that
are used again at every step. Both compute loss and gradients in one go, in `forward`: use them for training only.
With `Work.half` the large products are taken in bfloat16 from float32 weights; TopK then takes only its *choice* of
features from them, the values of the chosen are float32. Shown equal to autograd in notebook 05 and in the tests.
"""

from __future__ import annotations

import time
import warnings
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

KINDS = ("topk", "relu", "relu_norm")  # that have a fast step
ROWS = 512  # inputs a time through the encoder: what it writes is read again while it is still in the cache


class Work:
    """The buffers of a run, by name, and whether large products are taken in bfloat16."""

    def __init__(self, half: bool = False):
        self.half = half
        self.buffers: dict[str, Tensor] = {}

    @classmethod
    def for_size(cls, weights: int) -> Work:
        """bfloat16 for matrices of at least that many weights, where it is clearly faster on this machine."""
        return cls(half=weights >= 2**18 and bfloat16_pays())

    @property
    def dtype(self) -> torch.dtype:
        """In which large products are taken."""
        return torch.bfloat16 if self.half else torch.float32

    def buffer(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """The memory of that name, as the last step left it; fresh memory costs as much as arithmetic."""
        kept = self.buffers.get(name)
        if kept is None or kept.shape != shape:
            self.buffers[name] = kept = torch.empty(shape, dtype=dtype or self.dtype)
        return kept

    def cast(self, name: str, W: Tensor) -> Tensor:
        """W in the type of the products."""
        return self.buffer(name, *W.shape).copy_(W) if self.half else W


@lru_cache(maxsize=1)
def bfloat16_pays(rounds: int = 5, margin: float = 1.5) -> bool:
    """Is a bfloat16 product clearly faster here than a float32 one? Without instructions for it, it is slower."""
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
        out, seconds = torch.empty(256, 1024, dtype=dtype), []
        for _ in range(rounds):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            seconds.append(time.perf_counter() - start)
        best[dtype] = min(seconds)
    return best[torch.float32] > margin * best[torch.bfloat16]


class TopK(torch.autograd.Function):
    """Loss, error t − x̂ and active features of a TopK autoencoder; W_enc comes as its transpose."""

    @staticmethod
    def forward(ctx, t, W_encT, b_enc, W_dec, b_dec, k: int, work: Work):
        x_c = t - b_dec
        features = choose(x_c, W_encT, b_enc, k, work)
        f = (on_support(x_c, W_encT, features) + b_enc[features]).relu_()
        error = F.embedding_bag(features, W_dec, per_sample_weights=f, mode="sum").add_(b_dec).sub_(t)
        loss = error.square().sum() / len(t)

        G = error * (2 / len(t))
        delta = on_support(G, W_dec, features).masked_fill_(f == 0, 0.0)
        order, rows, starts = by_feature(features, len(W_dec))
        W_grads = [sum_rows(rows, source, starts, values.flatten()[order])
                   for values, source in ((delta, x_c), (f, G))]  # fmt: skip
        b_grad = torch.zeros_like(b_enc).index_add_(0, features.flatten(), delta.flatten())
        ctx.grads = (W_grads[0], b_grad, W_grads[1], G.sum(0) - b_grad @ W_encT)
        active = torch.zeros(len(W_dec), dtype=torch.bool)
        active[features[f > 0]] = True
        error = error.neg_()
        ctx.mark_non_differentiable(error, active)
        return loss, error, active

    @staticmethod
    def backward(ctx, grad, *_):
        return None, *scaled(ctx, grad), None, None


class ReluL1(torch.autograd.Function):
    """Loss and active features of a ReLU autoencoder with the penalty Σ_i p_i f_i; W_enc comes as its transpose."""

    @staticmethod
    def forward(ctx, t, W_encT, b_enc, W_dec, b_dec, p, work: Work):
        n, (d_sae, d_in) = len(t), W_dec.shape
        x_c, W_in, W_out = work.cast("x_c", t - b_dec), work.cast("W_in", W_encT), work.cast("W_out", W_dec)
        f, delta, G = work.buffer("f", n, d_sae), work.buffer("delta", n, d_sae), work.buffer("G", n, d_in)
        bias, push, squared = b_enc.to(work.dtype), (p / n).to(work.dtype), t.new_zeros(())
        for rows in torch.arange(n).split(ROWS):
            at = slice(int(rows[0]), int(rows[-1]) + 1)
            torch.addmm(bias, x_c[at], W_in.T, out=f[at]).relu_()
            error = torch.mm(f[at], W_out).float().add_(b_dec).sub_(t[at])
            squared += error.square().sum()
            G[at] = error.mul_(2 / n)
            torch.addmm(push, G[at], W_out.T, out=delta[at])
            torch.ops.aten.threshold_backward(delta[at], f[at], 0, grad_input=delta[at])
        f_sum = f.sum(0, dtype=torch.float32)
        b_grad = delta.sum(0, dtype=torch.float32)
        ctx.grads = (
            product(delta, x_c, work), b_grad, product(f, G, work), G.sum(0, dtype=torch.float32) - b_grad @ W_encT,
            f_sum / n,
        )  # fmt: skip
        active = f_sum > 0
        ctx.mark_non_differentiable(active)
        return (squared + p @ f_sum) / n, active

    @staticmethod
    def backward(ctx, grad, *_):
        return None, *scaled(ctx, grad), None


def scaled(ctx, grad: Tensor) -> list[Tensor]:
    """The gradients found in `forward`, times that of the loss itself, which is 1 in training."""
    grads, ctx.grads = ctx.grads, None
    return list(grads) if float(grad) == 1 else [g * grad for g in grads]


def product(a: Float[Tensor, "batch d_sae"], b: Float[Tensor, "batch d_in"], work: Work) -> Tensor:
    """aᵀ b in float32, summed over the whole batch before it is rounded."""
    return (
        torch.mm(a.T, b, out=work.buffer("product", a.shape[1], b.shape[1])).float() if work.half else a.T @ b
    )


@torch.no_grad()
def choose(x_c, W_encT, b_enc, k: int, work: Work) -> Int[Tensor, "batch k"]:
    """The k features with the largest pre-activations of each input."""
    x, W, bias = work.cast("x", x_c), work.cast("W", W_encT), b_enc.to(work.dtype)
    features = torch.empty(len(x), k, dtype=torch.int32)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        z = torch.addmm(bias, part, W.T, out=work.buffer(f"z{len(part)}", len(part), len(W)))
        features[start : start + ROWS] = top_indices(z, k)
    return features


def top_indices(z: Float[Tensor, "batch n"], k: int) -> Int[Tensor, "batch k"]:
    """Exact indices of the k largest: they lie in the k groups of four whose maxima are the largest.

    Feature i belongs to group i mod n/4, so that a maximum is taken over rows that lie beside each other.
    """
    groups, rest = divmod(z.shape[1], 4)
    if rest or groups <= 2 * k:
        return z.topk(k, sorted=False).indices
    best = top_indices(z.view(-1, 4, groups).amax(1), k)  # batch k
    members = (best[:, None] + groups * torch.arange(4)[:, None]).flatten(1)  # batch 4k
    return members.gather(1, z.gather(1, members).topk(k, sorted=False).indices)


def on_support(
    A: Float[Tensor, "batch d_in"], B: Float[Tensor, "d_sae d_in"], features: Int[Tensor, "batch k"]
) -> Float[Tensor, "batch k"]:
    """A_b · B_i for the chosen features i of each input b, and for no other."""
    n, k = features.shape
    starts = torch.arange(0, n * k + 1, k, dtype=features.dtype)
    with warnings.catch_warnings():  # that sparse tensors are in beta state
        warnings.simplefilter("ignore")
        pattern = torch.sparse_csr_tensor(starts, features.flatten(), A.new_zeros(n * k), (n, len(B)))
    return torch.sparse.sampled_addmm(pattern, A, B.T, beta=0.0).values().view(n, k)


def by_feature(
    features: Int[Tensor, "batch k"], d_sae: int
) -> tuple[Int[Tensor, "active"], Int[Tensor, "active"], Int[Tensor, "d_sae"]]:
    """Entries of a support sorted by feature: where each stands in the support, its input, where a feature starts."""
    flat = features.flatten()
    order = flat.sort(stable=True).indices
    ends = torch.bincount(flat, minlength=d_sae).cumsum(0)
    return order, (order // features.shape[1]).int(), F.pad(ends[:-1], (1, 0)).int()


def sum_rows(rows, source: Float[Tensor, "batch d_in"], starts, weights) -> Float[Tensor, "d_sae d_in"]:
    """For each feature the weighted sum of the inputs on which it is active."""
    return F.embedding_bag(rows, source, starts, per_sample_weights=weights, mode="sum")
