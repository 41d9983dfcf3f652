"""The training step of an autoencoder with its gradients written out: what autograd computes, several times faster.

With t the scaled input, x_c = t − b_dec, z = x_c W_enc + b_enc, features f, error e = f W_dec + b_dec − t and a batch
of B inputs, the loss is L = Σ_b (‖e‖² + f·p) / B, where p ≥ 0 is the penalty of each feature (0 for TopK). Then

    G       = 2 e / B                           ∂L/∂x̂                     [batch d_in]
    δ       = (G W_decᵀ + p / B) · [f > 0]      ∂L/∂z                      [batch d_sae]
    ∂W_dec  = fᵀ G        ∂W_encᵀ = δᵀ x_c      ∂b_enc = Σ_b δ             ∂p = Σ_b f / B
    ∂b_dec  = Σ_b G − W_enc ∂b_enc              since b_dec is also subtracted from the input

`TopK` never holds a dense f or δ: both live on the k features of each input. `ReluL1` holds them in two buffers that
are used again at every step. Both compute loss and gradients in one go, in `forward`: use them for training only.
Where the features lie in parts in several processes, f W_dec, W_enc ∂b_enc and f·p are summed over them, and the k
largest are chosen among all of theirs (`Work.parts`); nothing else changes.
With `Work.half` large products are taken in bfloat16 from float32 weights: all of ReluL1's, for TopK those that give z.
Shown equal to autograd in notebook 05 and in the tests.
"""

from __future__ import annotations

import time
import warnings
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.processes import COPIES, Copies

ROWS = 1024  # inputs a time through the encoder: what it writes is read again while it is still in the cache
CACHED = 2**18  # numbers that stay in a core's own cache, 1 MiB
# The bits of floats, read as integers, stand in the order of the floats from 0 up; those below 0 come before them all.
ORDERED = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class Work:
    """The buffers of a run, by name; whether large products are taken in bfloat16; which process has which features."""

    def __init__(self, half: bool = False, parts: Copies = COPIES):
        self.half, self.parts = half, parts
        self.buffers: dict[str, Tensor] = {}

    @classmethod
    def for_size(cls, weights: int, parts: Copies = COPIES) -> Work:
        """bfloat16 for matrices of at least that many weights, where it is clearly faster on every process's machine."""
        if parts.total(weights) < 2**18:
            return cls(False, parts)
        return cls(bool(parts.smallest(torch.tensor(int(bfloat16_pays())))), parts)

    @property
    def dtype(self) -> torch.dtype:
        """In which large products are taken."""
        return torch.bfloat16 if self.half else torch.float32

    def buffer(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """The memory of that name, as the last step left it; fresh memory costs as much as arithmetic."""
        kept, dtype = self.buffers.get(name), dtype or self.dtype
        if kept is None or (kept.shape, kept.dtype) != (shape, dtype):
            self.buffers[name] = kept = torch.empty(shape, dtype=dtype)
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
        x_c = torch.sub(t, b_dec, out=work.buffer("centred", *t.shape, dtype=t.dtype))
        f, features = encode(x_c, W_encT, b_enc, min(k, len(b_enc)), work)
        f, features = work.parts.chosen(f, features, k)
        x_hat = [weighted_sum(features, part, f) for part in columns("outputs", W_dec, work)]
        error = torch.cat(x_hat, 1, out=work.buffer("error", *t.shape, dtype=t.dtype))
        torch.sub(x_c, work.parts.add_(error), out=error)
        inputs, errors = columns("inputs", x_c, work), columns("errors", error, work)
        loss = error.flatten().dot(error.flatten()) / len(t)

        to_G = -2 / len(t)  # G = 2 e / B with e = −error
        delta = on_support(error, W_dec, features).mul_(to_G).masked_fill_(f == 0, 0.0)
        order, rows, starts = by_feature(features, len(W_dec))
        W_grads = []
        for values, parts in ((delta, inputs), (f * to_G, errors)):
            weights = values.flatten()[order]
            W_grads.append(torch.cat([weighted_sum(rows, part, weights, starts) for part in parts], 1))
        b_grad = torch.zeros_like(b_enc).index_add_(0, features.flatten(), delta.flatten())
        ctx.grads = (W_grads[0], b_grad, W_grads[1], to_G * error.sum(0) - work.parts.add_(b_grad @ W_encT))
        active = torch.zeros_like(b_enc).index_add_(0, features.flatten(), f.flatten()) > 0
        error = error.detach()
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
        f, delta = work.buffer("f", n, d_sae), work.buffer("delta", n, d_sae)
        bias, push = b_enc.to(work.dtype), (p / n).to(work.dtype)
        f_sum, b_grad = torch.zeros_like(b_enc), torch.zeros_like(b_enc)
        chunks = [slice(start, start + ROWS) for start in range(0, n, ROWS)]
        for at in chunks:
            torch.addmm(bias, x_c[at], W_in.T, out=f[at]).relu_()
            f_sum += f[at].sum(0)
        error = torch.mm(f, W_out, out=work.buffer("G", n, d_in)).float()
        work.parts.add_(error).add_(b_dec).sub_(t)
        squared = error.square().sum()
        G = work.cast("G", error.mul_(2 / n))
        for at in chunks:
            torch.addmm(push, G[at], W_out.T, out=delta[at])
            torch.ops.aten.threshold_backward(delta[at], f[at], 0, grad_input=delta[at])
            b_grad += delta[at].sum(0)
        ctx.grads = (
            product(delta, x_c, work), b_grad, product(f, G, work),
            G.sum(0, dtype=torch.float32) - work.parts.add_(b_grad @ W_encT), f_sum / n,
        )  # fmt: skip
        active = f_sum > 0
        ctx.mark_non_differentiable(active)
        return (squared + work.parts.add_(p @ f_sum)) / n, active

    @staticmethod
    def backward(ctx, grad, *_):
        return None, *scaled(ctx, grad), None


def scaled(ctx, grad: Tensor) -> list[Tensor]:
    """The gradients found in `forward`, times that of the loss itself, which is 1 in training."""
    grads, ctx.grads = ctx.grads, None
    return list(grads) if float(grad) == 1 else [g * grad for g in grads]


def product(a: Float[Tensor, "batch d_sae"], b: Float[Tensor, "batch d_in"], work: Work) -> Tensor:
    """aᵀ b in float32, summed over the whole batch before it is rounded."""
    if not work.half:
        return a.T @ b
    turned = work.buffer("turned", b.shape[1], b.shape[0]).copy_(b.T)  # rather than a, which is much larger
    return torch.mm(turned, a, out=work.buffer("product", b.shape[1], a.shape[1])).T.contiguous().float()


@torch.no_grad()
def encode(x_c, W_encT, b_enc, k: int, work: Work) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k features with the largest pre-activations of each input: their values after ReLU, and which they are."""
    x, W, bias = work.cast("x", x_c), work.cast("W", W_encT), b_enc.to(work.dtype)
    f, features = x_c.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.int32)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        z = torch.addmm(bias, part, W.T, out=work.buffer(f"z{len(part)}", len(part), len(W)))
        bits, features[start : start + ROWS] = largest(z.view(ORDERED[z.dtype]), k)
        f[start : start + ROWS] = bits.view(z.dtype)
    return f.relu_(), features


def largest(z: Int[Tensor, "batch n"], k: int) -> tuple[Int[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest, exactly, and their indices: they lie in the k groups of eight whose maxima are the largest.

    Feature i belongs to group i mod n/8, so that a maximum is taken over rows that lie beside each other.
    """
    groups, rest = divmod(z.shape[1], 8)
    if rest or groups <= k:
        return partition(z, k)
    _, best = partition(z.view(-1, 8, groups).amax(1), k)  # batch k
    members = (best[:, None] + groups * torch.arange(8)[:, None]).flatten(1)  # batch 8k
    values, at = partition(z.gather(1, members), k)
    return values, members.gather(1, at)


def partition(z: Int[Tensor, "batch n"], k: int) -> tuple[Int[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest and their indices, which ride in the lower half of wider numbers through NumPy's partition."""
    wide, bits = (torch.int32, 16) if z.dtype == torch.int16 else (torch.int64, 32)
    if z.shape[1] > 1 << bits:
        return z.topk(k, sorted=False)
    keys = torch.add(torch.arange(z.shape[1], dtype=wide), z.to(wide), alpha=1 << bits)
    keys.numpy().partition(z.shape[1] - k, axis=1)
    keys = keys[:, -k:]
    return (keys >> bits).to(z.dtype), (keys & ((1 << bits) - 1)).long()


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


def columns(name: str, A: Float[Tensor, "rows d"], work: Work) -> list[Float[Tensor, "rows part"]]:
    """A cut into blocks of columns that fit a core's own cache each, where rows are read in any order."""
    parts = A.split(max(16, CACHED // len(A)), 1)
    return [work.buffer(f"{name}{i}", *part.shape, dtype=A.dtype).copy_(part) for i, part in enumerate(parts)]


def weighted_sum(rows, source: Float[Tensor, "rows d"], weights, starts=None) -> Float[Tensor, "bags d"]:
    """For each bag of row numbers the weighted sum of these rows; bags are rows of `rows`, or begin at `starts`."""
    return F.embedding_bag(rows, source, starts, per_sample_weights=weights, mode="sum")
