"""The same derivatives without autograd, for Llama's kind: one block at a time, all outputs' cotangents through it.

Autograd keeps 30 layers of a graph and walks it once for every few outputs. Here the stream is computed once, each block's
activations are made again from it when their turn comes, and its weights are read once for all cotangents. Products may be
of 16-bit numbers; the stream's own share stays in 32 bits. `jacobians` takes this way where the model is of this kind and
where it gives the same stream; Derived in notebook 11 (what it computes), tested against autograd.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.patching.forward import Forward
from mi_course.patching.layout import Layout

CHUNK = 1024  # cotangents × positions that go through a block together


def rebuilt(model) -> Forward | None:
    """The model as a function of its weights, if it is of Llama's kind: RMS norms, serial blocks, gated MLPs, rotary."""
    try:
        forward = Forward(model)
    except (NotImplementedError, AttributeError, KeyError):
        return None
    layer, rotary = forward.layers[0], forward.rotary
    plain = forward.cfg.normalization_type == "RMS" and not forward.parallel and rotary is not None
    if (
        not plain
        or rotary.adjacent
        or layer.mlp is None
        or layer.mlp.W_gate is None
        or layer.norms
        or layer.smear
    ):
        return None
    biased = [layer.b_O, layer.mlp.b_in, layer.mlp.b_out, layer.mlp.b_gate]
    free = all(b is None for b in biased) and not any(bool(layer.b[x].any()) for x in "qkv")
    whole = 2 * rotary.table(torch.zeros(1, 1, dtype=torch.long))[0].shape[-1] == forward.d_head
    return forward if free and whole else None


class BlockBack:
    """One block of one prompt, its activations and its weights ready for the way back.

    `forward` is the model, `i` the block, `x` the stream that enters it [pos d_model], `dtype` that of the products.
    """

    def __init__(self, forward: Forward, i: int, x: Float[Tensor, "pos d_model"], dtype: torch.dtype):
        layer, block, layout = (
            forward.layers[i],
            forward.model.blocks[i],
            Layout.of(torch.zeros(1, len(x), dtype=torch.long)),
        )
        self.forward, self.layer, self.dtype = forward, layer, dtype
        ids, hidden = layout.ids, layout.hidden(len(x))
        self.cos, self.sin = (
            part[0].to(x.dtype)[:, None] for part in forward.rotary.table(ids)
        )  # pos 1 pair
        self.norm1 = self.normed(x)
        q, k, v = forward.project(i, x[None], ids)
        self.q, self.k = forward.turn(i, q, False, ids)[0].transpose(0, 1), forward.turn(i, k, True, ids)[0]
        self.k, self.v = (forward.shared(part).transpose(0, 1) for part in (self.k, v[0]))  # head pos d_head
        self.P = forward.scores(
            i, self.q.transpose(0, 1)[None], forward.turn(i, k, True, ids), hidden
        ).softmax(-1)[0]
        z = (self.P @ self.v).transpose(0, 1)
        mid = x + forward.write(i, z)
        self.norm2 = self.normed(mid)
        read = layer.norm2(mid)
        gate, self.value = read @ layer.mlp.W_gate, read @ layer.mlp.W_in
        with torch.enable_grad():
            open_ = gate.detach().requires_grad_()
            acted = layer.mlp.act(open_)
            self.steep = torch.autograd.grad(acted.sum(), open_)[0] * self.value  # ∂post/∂gate
        self.acted = acted.detach()
        self.forward_stream = mid + forward.mlp_write(
            i, self.acted * self.value
        )  # to compare with the model's own
        w1, w2 = (getattr(block, name).w.detach()[:, None] for name in ("ln1", "ln2"))
        self.W_out = layer.mlp.W_out.T.to(dtype)
        self.W_mlp = torch.cat([w2 * layer.mlp.W_in, w2 * layer.mlp.W_gate], 1).T.to(dtype)
        self.W_O = layer.W_O.T.to(dtype)
        self.W_qkv = torch.cat([w1 * layer.W[x] for x in "qkv"], 1).T.to(dtype)

    def normed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x at mean square 1, and the factor that brought it there."""
        scale = (x.square().mean(-1, keepdim=True) + self.forward.cfg.eps).rsqrt()
        return x * scale, scale

    @staticmethod
    def through_norm(slope: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        """∂(x / rms)/∂x, transposed: what points along x is lost, the rest is scaled."""
        x, scale = norm
        along = (slope * x).mean(-1, keepdim=True)
        return slope.addcmul_(x.expand_as(slope), along, value=-1).mul_(scale)

    def turned_back(self, x: Float[Tensor, "out pos head d_head"]) -> Tensor:
        """Rotary positions transposed: the same turn the other way."""
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos + b * self.sin, b * self.cos - a * self.sin], -1)

    def mlp(self, slope: Float[Tensor, "out pos d_model"]) -> Float[Tensor, "out pos d_model"]:
        """What the MLP hands back to the stream it read."""
        post = slope.to(self.dtype) @ self.W_out
        both = torch.cat([post * self.acted.to(post.dtype), post * self.steep.to(post.dtype)], -1)
        return self.through_norm((both @ self.W_mlp).to(slope.dtype), self.norm2)

    def attention(self, slope: Float[Tensor, "out pos d_model"]) -> Float[Tensor, "out pos d_model"]:
        """What the heads hand back to the stream they read, through values, queries and keys."""
        n, pos, heads, kv = len(slope), slope.shape[1], self.forward.n_heads, self.forward.n_kv
        z = (
            (slope.to(self.dtype) @ self.W_O).to(slope.dtype).view(n, pos, heads, -1).permute(2, 0, 1, 3)
        )  # head out pos e
        v = (self.P.mT @ z.transpose(1, 2).flatten(2)).view(heads, pos, n, -1).permute(2, 1, 0, 3)
        P = (z.flatten(1, 2) @ self.v.mT).view(heads, n, pos, pos)
        weighted = P * self.P[:, None]
        S = (weighted - self.P[:, None] * weighted.sum(-1, keepdim=True)) * self.layer.scale
        q = (S.flatten(1, 2) @ self.k).view(heads, n, pos, -1).permute(1, 2, 0, 3)
        k = (S.mT.flatten(1, 2) @ self.q).view(heads, n, pos, -1).permute(1, 2, 0, 3)
        k, v = (part.unflatten(2, (kv, heads // kv)).sum(3) for part in (k, v))
        q, k = self.turned_back(q), self.turned_back(k)
        qkv = torch.cat([part.flatten(2) for part in (q, k, v)], -1)
        return self.through_norm((qkv.to(self.dtype) @ self.W_qkv).to(slope.dtype), self.norm1)

    def __call__(self, slope: Float[Tensor, "out pos d_model"]) -> None:
        """Cotangents at the block's end become those at its start, in place."""
        slope += self.mlp(slope)
        slope += self.attention(slope)


@torch.no_grad()
def of_prompt(
    forward: Forward, x: dict[int, Float[Tensor, "pos d_model"]], layers: list[int], sources: list[int], targets: list[int],
    coarse: bool,
) -> dict[int, Float[Tensor, "d_model d_model"]]:  # fmt: skip
    """Layer → J [out in] of one prompt, whose streams before every block from the first layer on are `x`."""
    n, (pos, d) = forward.n_layers, x[layers[0]].shape
    dtype = x[layers[0]].dtype
    slopes = torch.zeros(d, pos, d, dtype=dtype)
    slopes[torch.arange(d)[:, None], torch.tensor(targets)[None], torch.arange(d)[:, None]] = 1.0
    found, per = {}, max(1, CHUNK // pos)
    for i in range(n, layers[0] - 1, -1):
        if i < n:
            back = BlockBack(forward, i, x[i], torch.bfloat16 if coarse else dtype)
            for part in slopes.split(per):
                back(part)
        if i in layers:
            found[i] = slopes[:, sources].mean(1).float()
    return found
