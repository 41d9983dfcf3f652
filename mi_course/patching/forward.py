"""A transformer as a plain function of its weights: it notes every activation, and it can run again from any change.

`Forward.trace` is the whole run, differentiable. `Forward.logits` runs many changed copies of one recorded run at once
(see `rerun`). Blocks may be serial (attention, then the MLP on what it left) or parallel (both read what enters).

Shapes: a `cell` is one patch; cell × prompt is a changed copy; rows are the (copy, position) pairs that differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.patching.edits import Activations, Edit
from mi_course.patching.layout import Layout
from mi_course.patching.rerun import Rerun
from mi_course.patching.weights import normaliser, read_layer, read_rotary, unforeseen


class Forward:
    """The model as a function of its weights at this moment."""

    refused: dict[str, str] = {}  # every site can be patched

    def __init__(self, model):
        if reason := unforeseen(model):
            raise NotImplementedError(reason)
        cfg = self.cfg = model.cfg
        kind = cfg.positional_embedding_type
        self.model = model
        self.d_head, self.n_layers = cfg.d_head, cfg.n_layers
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
        self.n_heads, self.n_kv = (self.layers[0].W[x].shape[1] // self.d_head for x in "qk")
        self.rotary, self.parallel = read_rotary(model), bool(getattr(cfg, "parallel_attn_mlp", False))
        self.has_mlp = not cfg.attn_only
        # the sites q and k stand where the model's hooks do: before the turn in a Hugging Face model, else behind it
        self.before, self.after = ("", "_turned") if hasattr(model, "rotary_emb") else ("_raw", "")
        self.final_norm = normaliser(cfg.normalization_type, getattr(model, "ln_final", None), cfg.eps)

    # -- the pieces ------------------------------------------------------------------------------

    def embed(self, tokens: Int[Tensor, "batch pos"], layout: Layout, embed=None):
        """What enters block 0, [batch pos d_model]; `embed` stands in for the table's rows."""
        x = F.embedding(tokens, self.W_E) if embed is None else embed
        return x if self.W_pos is None else x + self.W_pos[layout.ids]

    def project(self, i: int, x: Tensor, ids: Tensor, letters: str = "qkv") -> list[Tensor]:
        """Of q, k and v the wanted ones, [… head d_head], from the stream that enters block i."""
        layer, x = self.layers[i], self.layers[i].norm1(x)
        found = []
        for W, b in ((layer.W[letter], layer.b[letter]) for letter in letters):
            out = F.linear(x, W.T, b[0]) if len(b) == 1 else x @ W + b[ids]
            found.append(out.unflatten(-1, (-1, self.d_head)))
        return found

    def turns(self, i: int) -> bool:
        """Whether queries and keys are normed, smeared or turned on the way to the scores."""
        layer = self.layers[i]
        return self.rotary is not None or layer.smear is not None or layer.norms is not None

    def turn(self, i: int, x: Float[Tensor, "*copy pos head d_head"], keys: bool, ids: Tensor):
        """Normed queries or keys, smeared keys, then rotary positions."""
        layer = self.layers[i]
        if layer.norms is not None:
            x = layer.norms[keys](x)
        if keys and layer.smear is not None:
            share = layer.smear
            x = share * x + (1 - share) * torch.cat([x[..., :1, :, :], x[..., :-1, :, :]], dim=-3)
        return x if self.rotary is None else self.rotary(x, ids)

    def turned(self, i: int, q: Tensor, k: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of block i as the scores see them."""
        return (self.turn(i, q, False, ids), self.turn(i, k, True, ids)) if self.turns(i) else (q, k)

    def seen(self, i: int, letter: str) -> str:
        """Under which name a trace keeps the queries or keys that the scores are made of."""
        return letter + self.after if letter != "v" and self.turns(i) else letter

    def read(self, i: int, letter: str) -> str:
        """Under which name a trace keeps queries or keys as they were projected."""
        return letter + self.before if letter != "v" and self.turns(i) else letter

    def shared(self, x: Float[Tensor, "*copy pos kv d_head"]) -> Float[Tensor, "*copy pos head d_head"]:
        """Keys or values for every query head: several may share one."""
        return x if self.n_kv == self.n_heads else x.repeat_interleave(self.n_heads // self.n_kv, dim=-2)

    def scores(self, i: int, q, k, hidden) -> Float[Tensor, "*copy head query key"]:
        """q · k · scale, −∞ at what is hidden."""
        s = (q.transpose(-3, -2) @ self.shared(k).transpose(-3, -2).mT) * self.layers[i].scale
        return s.masked_fill(hidden, -torch.inf)

    def mix(
        self, pattern: Float[Tensor, "*copy head query key"], v
    ) -> Float[Tensor, "*copy query head d_head"]:
        """z: each head's mean of the values [… key kv d_head], weighted by its pattern."""
        return (pattern @ self.shared(v).transpose(-3, -2)).transpose(-3, -2)

    def write(self, i: int, z: Float[Tensor, "*rows head d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What the heads of block i write together."""
        return F.linear(z.flatten(-2), self.layers[i].W_O.T, self.layers[i].b_O)

    def head_writes(
        self, i: int, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_model"]:
        """What each head writes by itself, without the bias."""
        return torch.einsum("bphe,hed->bphd", z, self.layers[i].W_O.unflatten(0, (self.n_heads, self.d_head)))

    def neurons(self, i: int, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_mlp"]:
        """Activations of the MLP's neurons, from the stream it reads."""
        return self.layers[i].mlp.neurons(self.layers[i].norm2(x))

    def mlp_write(self, i: int, post: Float[Tensor, "*rows d_mlp"]) -> Float[Tensor, "*rows d_model"]:
        """What the MLP of block i writes."""
        return self.layers[i].mlp.write(post)

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

    def trace(self, x: Float[Tensor, "batch pos d_model"], layout: Layout) -> Activations:
        """Every activation of the run that starts with stream x."""
        acts, ids, hidden = {}, layout.ids, layout.hidden(x.shape[1])
        for i in range(self.n_layers):
            note = lambda site, value, i=i: acts.setdefault((site, i), value)  # noqa: E731
            note("resid_pre", x)
            q, k, v = self.project(i, x, ids)
            q, k = self.turned(i, note(self.read(i, "q"), q), note(self.read(i, "k"), k), ids)
            q, k = note(self.seen(i, "q"), q), note(self.seen(i, "k"), k)
            pattern = note("pattern", self.scores(i, q, k, hidden).softmax(-1))
            z = note("z", self.mix(pattern, note("v", v)))
            out = note("attn_out", self.write(i, z))
            if not self.has_mlp:
                x = note("resid_post", x + out)
                continue
            mid = x if self.parallel else note("resid_mid", x + out)
            mlp_out = note("mlp_out", self.mlp_write(i, note("post", self.neurons(i, mid))))
            x = note("resid_post", x + out + mlp_out if self.parallel else mid + mlp_out)
        return acts

    def record(self, tokens, layout: Layout, embed=None) -> Activations:
        """Every activation of one run."""
        return self.trace(self.embed(tokens, layout, embed), layout)

    def bytes_per_copy(self, n_pos: int, columns: int) -> int:
        """About how much memory a changed copy takes while it runs."""
        heads, layer = self.n_heads * self.d_head, self.layers[0]
        mlp = 0 if layer.mlp is None else layer.mlp.W_in.shape[1] * (2 if layer.mlp.W_gate is None else 3)
        row = 8 * heads + 8 * layer.W_O.shape[1] + mlp + 2 * self.n_heads * n_pos
        return layer.W_O.element_size() * (n_pos * row + 3 * columns) + 64 * n_pos

    def logits(self, run, edits: list[Edit], n_cells: int, at, columns=None, freeze: bool = False):
        """Logits [cell batch d_vocab] (or columns) at positions `at` of the record under the edits."""
        final = Rerun(self, run.acts, run.layout, edits, n_cells, at, freeze).run()
        return self.readout(final, columns)
