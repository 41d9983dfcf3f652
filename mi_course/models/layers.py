"""What a small transformer is made of: embeddings, positions, norms, attention, MLPs, blocks.

Weight and hook names are TransformerLens'. Vectors are rows and weights multiply from the right, `x @ W`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mi_course.models.config import TinyConfig


def sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """The sine and cosine table of Vaswani et al. (2017), wavelengths 2π … 10,000·2π positions.

    `n_ctx` rows of width `d_model`.
    """
    pos = torch.arange(n_ctx)[:, None]
    rate = torch.exp(-math.log(10_000) * torch.arange(0, d_model, 2) / d_model)
    table = torch.zeros(n_ctx, d_model)
    table[:, 0::2] = torch.sin(pos * rate)
    table[:, 1::2] = torch.cos(pos * rate[: d_model // 2])
    return table


class Embed(nn.Module):
    """Each token's row of `W_E` [d_vocab d_model]; `cfg` says both sizes."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.W_E = nn.Parameter(0.5 * torch.randn(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens):
        """The vectors [batch pos d_model] of `tokens` [batch pos]."""
        return F.embedding(tokens, self.W_E)


class PosEmbed(nn.Module):
    """Learned positions are trained; sinusoidal and shortformer tables stay as they are; `cfg` says which, and their sizes."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        if cfg.positions == "learned":
            self.W_pos = nn.Parameter(0.1 * torch.randn(cfg.n_ctx, cfg.d_model))
        else:
            scale = 2.0 if cfg.positions == "shortformer" else 1.0
            self.W_pos = nn.Parameter(scale * sinusoids(cfg.n_ctx, cfg.d_model), requires_grad=False)


class Norm(nn.Module):
    """LayerNorm or RMSNorm as `cfg` says, with TransformerLens' `w`, `b`, `hook_scale` and `hook_normalized`."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.centre = cfg.norm == "layernorm"
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        if self.centre:
            self.b = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, x):
        """`x` [… d_model] at mean square 1 (LayerNorm takes its mean off first), times `w`."""
        if self.centre:
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
        x = self.hook_normalized(x / scale) * self.w
        return x + self.b if self.centre else x


def rotate(x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
    """Rotary positions (Su et al. 2021): the pair (2i, 2i + 1) turns by the angle pos · 10,000^(−2i/d_head).

    `x` holds queries or keys.
    """
    rate = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2, device=x.device) / x.shape[-1])
    angle = torch.arange(x.shape[1], device=x.device)[:, None] * rate
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # pos 1 pair, in 32 bits whatever x is in
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; every head writes `z @ W_O[head]` into the stream, and the writes add.

    `cfg` gives heads and widths.
    """

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.cfg = cfg
        shape = (cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_Q = nn.Parameter(torch.randn(shape) * cfg.d_model**-0.5)
        self.W_K = nn.Parameter(torch.randn(shape) * cfg.d_model**-0.5)
        self.W_V = nn.Parameter(torch.randn(shape) * cfg.d_model**-0.5)
        self.W_O = nn.Parameter(0.5 * torch.randn(cfg.n_heads, cfg.d_head, cfg.d_model) * cfg.d_model**-0.5)
        if cfg.bias:
            for name in ("b_Q", "b_K", "b_V"):
                setattr(self, name, nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head)))
            self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        if cfg.smeared:
            self.smear = nn.Parameter(torch.zeros(cfg.n_heads))
        future = torch.full((cfg.n_ctx, cfg.n_ctx), -torch.inf).triu(1)  # −∞ above the diagonal, 0 elsewhere
        self.register_buffer("future", future, persistent=False)
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = (HookPoint() for _ in range(4))
        self.hook_attn_scores, self.hook_pattern, self.hook_result = (HookPoint() for _ in range(3))
        self.use_attn_result = False

    def heads_of(self, x, letter: str):
        """`x` @ W for every head at once, W being that of `letter` (Q, K or V): [batch pos head d_head]."""
        W = getattr(self, f"W_{letter}").transpose(0, 1).flatten(1)
        out = (x @ W).view(*x.shape[:2], self.cfg.n_heads, self.cfg.d_head)
        return out + getattr(self, f"b_{letter}") if self.cfg.bias else out

    def masked_scores(self, q, k):
        """q · k / √d_head with −∞ at what lies ahead, in one product: batch head query key."""
        batch, n_pos, heads, d_head = q.shape
        q, k = (a.transpose(1, 2).reshape(batch * heads, n_pos, d_head) for a in (q, k))
        scores = torch.baddbmm(self.future[:n_pos, :n_pos], q, k.mT, alpha=d_head**-0.5)
        return scores.view(batch, heads, n_pos, n_pos)

    def forward(self, x, qk_input):
        """What all heads write, [batch pos d_model]: values are read from `x`, queries and keys from `qk_input`."""
        q, k, v = self.heads_of(qk_input, "Q"), self.heads_of(qk_input, "K"), self.heads_of(x, "V")
        if self.cfg.smeared:
            share = self.smear.sigmoid()[:, None]
            k = share * k + (1 - share) * torch.cat([k[:, :1], k[:, :-1]], dim=1)
        if self.cfg.positions == "rotary":
            q, k = rotate(q), rotate(k)
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        scores = self.hook_attn_scores(self.masked_scores(q, k))
        pattern = self.hook_pattern(scores.softmax(-1))
        z = self.hook_z((pattern @ v.transpose(1, 2)).transpose(1, 2))  # batch pos head d_head
        if self.use_attn_result:
            out = self.hook_result(torch.einsum("bphd,hdm->bphm", z, self.W_O)).sum(2)
        else:
            out = z.flatten(2) @ self.W_O.flatten(0, 1)
        return out + self.b_O if self.cfg.bias else out


class MLP(nn.Module):
    """x W_in → ReLU or GELU → W_out, with `hook_pre` and `hook_post` around the neurons; `cfg` says which, and the widths."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.act = F.relu if cfg.act == "relu" else F.gelu
        self.W_in = nn.Parameter(torch.randn(cfg.d_model, cfg.d_mlp) * cfg.d_model**-0.5)
        self.W_out = nn.Parameter(0.5 * torch.randn(cfg.d_mlp, cfg.d_model) * cfg.d_mlp**-0.5)
        self.bias = cfg.bias
        if cfg.bias:
            self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
            self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def forward(self, x):
        """What the neurons write for `x`, both [batch pos d_model]."""
        pre = x @ self.W_in
        post = self.hook_post(self.act(self.hook_pre(pre + self.b_in if self.bias else pre)))
        out = post @ self.W_out
        return out + self.b_out if self.bias else out


class Block(nn.Module):
    """Attention, then the MLP; `qk_positions` [pos d_model] are added to what Q and K read and nothing else.

    `cfg` says whether there is an MLP, and the widths.
    """

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.cfg = cfg
        self.attn = Attention(cfg)
        self.ln1 = Norm(cfg) if cfg.norm != "none" else nn.Identity()
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        if cfg.d_mlp:
            self.mlp = MLP(cfg)
            self.ln2 = Norm(cfg) if cfg.norm != "none" else nn.Identity()
            self.hook_resid_mid, self.hook_mlp_out = HookPoint(), HookPoint()

    def forward(self, resid, qk_positions=None):
        """The stream [batch pos d_model] after the block, from `resid`, the stream before it.

        `qk_positions` [pos d_model] are added to what Q and K read.
        """
        resid = self.hook_resid_pre(resid)
        x = self.ln1(resid)
        resid = resid + self.hook_attn_out(self.attn(x, x if qk_positions is None else x + qk_positions))
        if self.cfg.d_mlp:
            resid = self.hook_resid_mid(resid)
            resid = resid + self.hook_mlp_out(self.mlp(self.ln2(resid)))
        return self.hook_resid_post(resid)


class Unembed(nn.Module):
    """The matrix `W_U` [d_model d_vocab], of the sizes in `cfg`."""

    def __init__(self, cfg: TinyConfig):
        super().__init__()
        self.W_U = nn.Parameter(0.02 * torch.randn(cfg.d_model, cfg.d_vocab))
