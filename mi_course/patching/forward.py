"""A transformer as a plain function of its weights: it notes every activation, and it can run again from any change.

`Forward.trace` is the whole run, differentiable. `Forward.rerun` runs many changed copies of one recorded run at once.
A copy differs from the record in some rows (a position of a prompt each): only these are computed. A change stays
where it is until an attention layer spreads it to later positions; earlier ones never move, their keys and values are
read from the record, and rows behind the answer position are dropped. `Hooked` does the same, one copy at a time, with
hooks on the model itself, for architectures this file does not know.

Shapes: a `cell` is one patch; cell × prompt is a changed copy; rows are the (copy, position) pairs that differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.models import rotate
from mi_course.patching.edits import Activations, Edit

ACTS = {"relu": F.relu, "gelu": F.gelu, "gelu_new": partial(F.gelu, approximate="tanh"), "silu": F.silu}


class Rows:
    """The rows of the changed copies that differ from the record, as a flat list: `mask` is [copy pos]."""

    def __init__(self, mask: Bool[Tensor, "copy pos"], batch: Int[Tensor, "copy"]):
        self.mask, self.prompt = mask, batch
        self.copy, self.pos = mask.nonzero(as_tuple=True)
        self.batch = batch[self.copy]

    def __len__(self) -> int:
        return len(self.copy)

    @cached_property
    def index(self) -> Int[Tensor, "copy pos"]:
        """Where in the list a row stands."""
        return (self.mask.flatten().cumsum(0) - 1).view(self.mask.shape)

    def among(self, mask: Bool[Tensor, "copy pos"]) -> Rows:
        """These rows and those of the mask together."""
        return self if bool((mask <= self.mask).all()) else Rows(self.mask | mask, self.prompt)

    def fill(self, record: Tensor, old: Rows, value: Tensor) -> Tensor:
        """The list of these rows: the value of the old ones, the record's for new ones."""
        if self is old:
            return value
        out = record[self.batch, self.pos]
        stays = self.mask[old.copy, old.pos]
        out[self.index[old.copy[stays], old.pos[stays]]] = value[stays]
        return out

    def padded(self, record: Tensor, value: Tensor) -> Tensor:
        """[copy pos …]: the record with these rows in it."""
        if len(self) == self.mask.numel():
            return value.view(*self.mask.shape, *value.shape[1:])
        out = record[self.prompt]
        out[self.copy, self.pos] = value
        return out


@dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a block, views of the model's own where possible; heads stand side by side."""

    W: dict[str, Float[Tensor, "d_model z"]]  # of q, k and v
    b: dict[str, Float[Tensor, "n_ctx z"] | Float[Tensor, "1 z"]]  # with what positions add to q and k
    W_O: Float[Tensor, "z d_model"]
    b_O: Float[Tensor, "d_model"]
    norm1: object
    norm2: object = None
    W_in: Float[Tensor, "d_model d_mlp"] | None = None
    b_in: Float[Tensor, "d_mlp"] | None = None
    W_out: Float[Tensor, "d_mlp d_model"] | None = None
    b_out: Float[Tensor, "d_model"] | None = None
    smear: Float[Tensor, "head 1"] | None = None


def normaliser(kind: str | None, module, eps: float):
    """LayerNorm, RMSNorm or nothing, as a function of the stream."""
    if kind is None:
        return lambda x: x
    w, b = module.w.detach(), module.b.detach() if kind == "LN" else None
    if kind == "LN":
        return lambda x: F.layer_norm(x, w.shape, w, b, eps)
    if kind == "RMS":
        return lambda x: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * w
    raise NotImplementedError(kind)


def read_layer(block, cfg, positions: Tensor | None) -> Layer:
    """The weights of a `TinyTransformer`'s or a bridge's block."""
    attn, norm = block.attn, partial(normaliser, cfg.normalization_type, eps=cfg.eps)
    W = {x: getattr(attn, f"W_{x.upper()}").detach().transpose(0, 1).flatten(1) for x in "qkv"}
    b = {x: getattr(attn, f"b_{x.upper()}", None) for x in "qkv"}
    b = {x: W[x].new_zeros(1, W[x].shape[1]) if b[x] is None else b[x].detach().view(1, -1) for x in "qkv"}
    if positions is not None:
        b |= {x: b[x] + positions @ W[x] for x in "qk"}
    W_O = attn.W_O.detach().flatten(0, 1)
    smear = attn.smear.detach().sigmoid()[:, None] if hasattr(attn, "smear") else None
    b_O = getattr(attn, "b_O", None)
    zero = W_O.new_zeros(W_O.shape[1])
    layer = Layer(W, b, W_O, zero if b_O is None else b_O.detach(), norm(block.ln1), smear=smear)
    if cfg.attn_only:
        return layer
    mlp = block.mlp
    if getattr(mlp, "W_gate", None) is not None:
        raise NotImplementedError("gated MLP")
    b_in, b_out = getattr(mlp, "b_in", None), getattr(mlp, "b_out", None)
    return replace(
        layer, norm2=norm(block.ln2), W_in=mlp.W_in.detach(), W_out=mlp.W_out.detach(),
        b_in=mlp.W_in.new_zeros(mlp.W_in.shape[1]) if b_in is None else b_in.detach(),
        b_out=zero if b_out is None else b_out.detach(),
    )  # fmt: skip


class Forward:
    """The model as a function of its weights at this moment."""

    def __init__(self, model):
        cfg = self.cfg = model.cfg
        kind = cfg.positional_embedding_type
        self.model = model
        self.n_heads, self.d_head, self.n_layers = cfg.n_heads, cfg.d_head, cfg.n_layers
        self.W_E, self.W_U = model.W_E.detach(), model.W_U.detach()
        b_U = getattr(model, "b_U", None)
        self.b_U = None if b_U is None else b_U.detach()
        self.W_pos = model.W_pos.detach() if kind not in ("none", "rotary", "shortformer") else None
        table = model.W_pos.detach() if kind == "shortformer" else None
        seeing = getattr(cfg, "position_layers", None)
        self.layers = [
            read_layer(block, cfg, table if seeing is None or i < seeing else None)
            for i, block in enumerate(model.blocks)
        ]
        self.rotary = kind == "rotary"
        self.act = None if cfg.attn_only else ACTS[cfg.act_fn]
        self.final_norm = normaliser(cfg.normalization_type, getattr(model, "ln_final", None), cfg.eps)

    # -- the pieces ------------------------------------------------------------------------------

    def embed(self, tokens: Int[Tensor, "batch pos"], embed=None) -> Float[Tensor, "batch pos d_model"]:
        """What enters block 0; `embed` stands in for the table's rows."""
        x = F.embedding(tokens, self.W_E) if embed is None else embed
        return x if self.W_pos is None else x + self.W_pos[: x.shape[1]]

    def project(self, i: int, x: Tensor, pos: Tensor, letters: str = "qkv") -> list[Tensor]:
        """Of q, k and v the wanted ones, [… head d_head], from the stream that enters block i."""
        layer, x = self.layers[i], self.layers[i].norm1(x)
        found = []
        for W, b in ((layer.W[letter], layer.b[letter]) for letter in letters):
            out = F.linear(x, W.T, b[0]) if len(b) == 1 else x @ W + b[pos]
            found.append(out.unflatten(-1, (self.n_heads, self.d_head)))
        return found

    def turns(self, i: int) -> bool:
        """Whether queries and keys are turned or smeared on the way to the scores."""
        return self.rotary or self.layers[i].smear is not None

    def turn(self, i: int, x: Float[Tensor, "*copy pos head d_head"], keys: bool):
        """Smeared keys, then rotary positions."""
        share = self.layers[i].smear
        if keys and share is not None:
            x = share * x + (1 - share) * torch.cat([x[..., :1, :, :], x[..., :-1, :, :]], dim=-3)
        return rotate(x.flatten(0, -4)).view_as(x) if self.rotary else x

    def scores(self, q, k) -> Float[Tensor, "*copy head query key"]:
        """q · k / √d_head, −∞ at what lies ahead."""
        s = (q.transpose(-3, -2) @ k.transpose(-3, -2).mT) * self.d_head**-0.5
        ahead = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1)
        return s.masked_fill(ahead, -torch.inf)

    def write(self, i: int, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What the heads of block i write together."""
        return F.linear(z.flatten(-2), self.layers[i].W_O.T, self.layers[i].b_O)

    def head_writes(
        self, i: int, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_model"]:
        """What each head writes by itself, without the bias."""
        return torch.einsum("bphe,hed->bphd", z, self.layers[i].W_O.unflatten(0, (self.n_heads, self.d_head)))

    def neurons(self, i: int, mid: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        """Activations of the MLP's neurons after the nonlinearity."""
        layer = self.layers[i]
        return self.act(F.linear(layer.norm2(mid), layer.W_in.T, layer.b_in))

    def mlp_write(self, i: int, post: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP of block i writes."""
        return F.linear(post, self.layers[i].W_out.T, self.layers[i].b_out)

    def readout(
        self, final: Float[Tensor, "*cell batch d_model"], columns: Int[Tensor, "batch c"] | None = None
    ):
        """Logits of a last residual stream: all, or each prompt's own few columns."""
        x = self.final_norm(final)
        if columns is None:
            return x @ self.W_U if self.b_U is None else x @ self.W_U + self.b_U
        out = torch.einsum("...bd,dbc->...bc", x, self.W_U[:, columns])
        return out if self.b_U is None else out + self.b_U[columns]

    # -- whole runs ------------------------------------------------------------------------------

    def trace(self, x: Float[Tensor, "batch pos d_model"]) -> Activations:
        """Every activation of the run that starts with stream x."""
        acts, pos = {}, torch.arange(x.shape[1], device=x.device)
        for i in range(self.n_layers):
            note = lambda site, value, i=i: acts.setdefault((site, i), value)  # noqa: E731
            note("resid_pre", x)
            q, k, v = self.project(i, x, pos)
            if self.turns(i):
                q, k = self.turn(i, note("q_raw", q), False), self.turn(i, note("k_raw", k), True)
            pattern = note("pattern", self.scores(note("q", q), note("k", k)).softmax(-1))
            z = note("z", (pattern @ note("v", v).transpose(1, 2)).transpose(1, 2))
            x = x + note("attn_out", self.write(i, z))
            if self.act is not None:
                post = note("post", self.neurons(i, note("resid_mid", x)))
                x = x + note("mlp_out", self.mlp_write(i, post))
            note("resid_post", x)
        return acts

    def bytes_per_copy(self, n_pos: int, columns: int) -> int:
        """About how much memory a changed copy takes while it runs."""
        heads, layer = self.n_heads * self.d_head, self.layers[0]
        mlp = 0 if layer.W_in is None else layer.W_in.shape[1]
        row = 8 * heads + 8 * layer.W_O.shape[1] + 2 * mlp + 2 * self.n_heads * n_pos
        return layer.W_O.element_size() * (n_pos * row + 3 * columns) + 64 * n_pos

    def logits(self, run, edits: list[Edit], n_cells: int, at, columns=None, freeze: bool = False):
        """Logits [cell batch d_vocab] (or columns) at positions `at` of the record under the edits."""
        final = Rerun(self, run.acts, edits, n_cells, at, freeze).run()
        return self.readout(final, columns)


class Rerun:
    """Many changed copies of one recorded run, together, from the first changed layer up."""

    def __init__(
        self, forward: Forward, acts: Activations, edits: list[Edit], n_cells: int, at, freeze: bool
    ):
        self.forward, self.acts, self.freeze = forward, acts, freeze
        self.n_pos, n_batch = int(at.max()) + 1, len(at)
        self.edits: dict[tuple[str, int], list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault((edit.site, edit.layer), []).append(edit)
        self.first = min((edit.layer for edit in edits), default=forward.n_layers)
        self.prompt = torch.arange(n_batch, device=at.device).repeat(n_cells)
        self.at, self.shape = at[self.prompt][:, None], (n_cells, n_batch)
        where = torch.arange(self.n_pos, device=at.device)
        self.counts, self.answers = where <= self.at, where == self.at  # copy pos

    def record(self, site: str, layer: int) -> Tensor:
        """The recorded activation [batch pos …] up to the last answer."""
        value = self.acts[site, layer]
        if site == "pattern":
            return value[:, :, : self.n_pos, : self.n_pos].transpose(1, 2)
        return value[:, : self.n_pos]

    def entries(self, site: str, layer: int) -> Iterator[tuple]:
        """A site's edits, entry by entry: edit, copy, batch, pos, index behind, value, the record's, do they differ?"""
        for edit in self.edits.get((site, layer), ()):
            copy, batch, pos, behind, value = edit.spread(self.n_pos)
            if site == "pattern" and edit.key is None:
                value = value[:, : self.n_pos]
            if edit.sae is not None:
                there = edit.sae.encode(self.record(site, layer).flatten(2))[(batch, pos, *behind)]
            else:
                there = self.record(site, layer)[(batch, pos, *behind)]
            differs = (value != there).flatten(1).any(1) if value.ndim > 1 else value != there
            yield edit, copy, batch, pos, behind, value, there, differs

    def marked(self, copy: Tensor, pos: Tensor) -> Bool[Tensor, "copy pos"]:
        mask = torch.zeros_like(self.counts)
        mask[copy, pos] = True
        return mask

    def edited(self, site: str, layer: int, rows: Rows, x: Tensor) -> tuple[Rows, Tensor]:
        """The site's rows after its edits."""
        for edit, copy, _, pos, behind, value, there, differs in self.entries(site, layer):
            old, rows = rows, rows.among(self.marked(copy[differs], pos[differs]) & self.live)
            fresh = ~old.mask[copy, pos]
            x = rows.fill(self.record(site, layer), old, x)
            kept = rows.mask[copy, pos]
            at = rows.index[copy, pos][kept]
            if edit.sae is not None:
                x = self.with_features(
                    edit.sae, x, at, behind[0][kept], value[kept], there[kept], fresh[kept]
                )
            else:
                x[(at, *(index[kept] for index in behind))] = value[kept]
        return rows, x

    def with_features(self, sae, x, at, unit, value, there, fresh):
        """x with some features moved to their values; what the autoencoder does not explain stays."""
        flat = x.flatten(1)
        if not bool(fresh.all()):
            some, back = at[~fresh].unique(return_inverse=True)
            there = there.clone()
            there[~fresh] = sae.encode(flat[some])[back, unit[~fresh]]
        flat = flat.index_add(0, at, (value - there)[:, None] * sae.W_dec.detach()[unit] / sae.scale)
        return flat.view_as(x)

    def attended(self, i: int, rows: Rows, x: Tensor, last: bool) -> tuple[Rows, Tensor]:
        """The rows of z: what changed queries, keys, values and patterns, edited ones included, make of it."""
        forward, edits = (
            self.forward,
            {site: list(self.entries(site, i)) for site in ("q", "k", "v", "pattern")},
        )
        if not len(rows) and not any(edits.values()):
            return rows, self.record("z", i)[:0, 0]
        raw = "_raw" if forward.turns(i) else ""
        asking = Rows(rows.mask & self.live, self.prompt) if last else rows
        q, k, v = self.projected(i, rows, x, asking)
        q, k = asking.padded(self.record("q" + raw, i), q), rows.padded(self.record("k" + raw, i), k)
        v = rows.padded(self.record("v", i), v)
        if raw:
            q, k = forward.turn(i, q, False), forward.turn(i, k, True)
        mask, moved = rows.mask, {"q": q, "k": k, "v": v}
        for site, values in moved.items():
            for _, copy, _, pos, (head,), value, _, differs in edits[site]:
                values[copy, pos, head] = value
                if site != "q":
                    mask = mask | self.marked(copy[differs], pos[differs])
        mask = mask.cumsum(1) > 0  # later queries see what changed
        for site in ("q", "pattern"):
            for _, copy, _, pos, _, _, _, differs in edits[site]:
                mask = mask | self.marked(copy[differs], pos[differs])
        rows = Rows(mask & self.live, self.prompt)
        return rows, self.mixed(i, q, k, v, edits["pattern"])[rows.copy, rows.pos]

    def projected(self, i: int, rows: Rows, x: Tensor, asking: Rows) -> list[Tensor]:
        """q, k, v of the changed rows; q only of those that ask."""
        if asking is rows:
            return self.forward.project(i, x, rows.pos)
        q = self.forward.project(i, x[rows.index[asking.copy, asking.pos]], asking.pos, "q")
        return q + self.forward.project(i, x, rows.pos, "kv")

    def mixed(self, i: int, q, k, v, edits: list) -> Float[Tensor, "copy pos head d_head"]:
        """z [copy pos head d_head] of queries, keys and values, with the pattern edited or held at the record."""
        if not edits and not self.freeze:
            q, k, v = (a.transpose(1, 2) for a in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        if self.freeze:
            pattern = self.record("pattern", i).transpose(1, 2)[self.prompt]
        else:
            pattern = self.forward.scores(q, k).softmax(-1)
        for _, copy, _, pos, behind, value, _, _ in edits:
            pattern[(copy, behind[0], pos, *behind[1:])] = value
        return (pattern @ v.transpose(1, 2)).transpose(1, 2)

    def block(self, i: int, rows: Rows, x: Tensor, last: bool) -> tuple[Rows, Tensor]:
        """The rows behind block i; behind the last one only the answers count."""
        forward, self.live = self.forward, self.counts
        rows, x = self.edited("resid_pre", i, rows, x)
        self.live = self.answers if last else self.counts
        wrote, z = self.edited("z", i, *self.attended(i, rows, x, last))
        wrote, out = self.edited("attn_out", i, wrote, forward.write(i, z))
        x = wrote.fill(self.record("resid_pre", i), rows, x) + out
        if forward.act is None:
            return self.edited("resid_post", i, wrote, x)
        mid, x = self.edited("resid_mid", i, wrote, x)
        wrote, post = self.edited("post", i, mid, forward.neurons(i, x))
        wrote, out = self.edited("mlp_out", i, wrote, forward.mlp_write(i, post))
        x = wrote.fill(self.record("resid_mid", i), mid, x) + out
        return self.edited("resid_post", i, wrote, x)

    def run(self) -> Float[Tensor, "cell batch d_model"]:
        """The stream behind the last block at the answer positions."""
        forward, last = self.forward, self.forward.n_layers - 1
        rows = Rows(torch.zeros_like(self.counts), self.prompt)
        x = forward.W_E.new_zeros(0, forward.W_E.shape[1])
        for i in range(self.first, forward.n_layers):
            rows, x = self.block(i, rows, x, i == last)
        final = self.record("resid_post", last)[self.prompt, self.at[:, 0]]
        final[rows.copy] = x
        return final.view(*self.shape, -1)
