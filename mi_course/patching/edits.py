"""What a patch is: a site, a layer, positions and units, and the value put there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

HOOKS = {  # site → where TransformerLens keeps it; q … z are [batch pos head d_head], pattern [batch head query key]
    "resid_pre": "hook_resid_pre", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v",
    "pattern": "attn.hook_pattern", "z": "attn.hook_z", "attn_out": "hook_attn_out", "resid_mid": "hook_resid_mid",
    "post": "mlp.hook_post", "mlp_out": "hook_mlp_out", "resid_post": "hook_resid_post",
}  # fmt: skip
Activations = dict  # (site, layer) → Tensor [batch pos …]; pattern is [batch head query key]


@dataclass(frozen=True, eq=False)
class Edit:
    """At one site, entry i puts `values` at position pos[i] into unit[i] (head, neuron, feature) of cell[i]."""

    site: str
    layer: int
    cell: Int[Tensor, "entry"]
    values: Float[Tensor, "batch pos *rest"] | Float[Tensor, "cell batch pos *rest"]
    unit: Int[Tensor, "entry"] | None = None  # None: the whole vector
    pos: Int[Tensor, "entry"] | None = None  # None: every position
    key: Int[Tensor, "entry"] | None = None  # of a pattern: one key only
    per_cell: bool = False  # `values` has a value for each cell
    sae: object = None  # `values` are features of this autoencoder, and the error term stays

    def within(self, low: int, high: int) -> Edit:
        """The entries of cells low … high, renumbered from 0."""
        kept = (self.cell >= low) & (self.cell < high)
        picked = {n: getattr(self, n)[kept] for n in ("unit", "pos", "key") if getattr(self, n) is not None}
        values = self.values[low:high] if self.per_cell else self.values
        return replace(self, cell=self.cell[kept] - low, values=values, **picked)

    def spread(self, n_pos: int) -> Entries:
        """Every (entry, position, prompt) written out."""
        n_batch = self.values.shape[1 if self.per_cell else 0]
        columns = [self.cell, self.pos, self.unit, self.key]
        if self.pos is None:
            columns = [None if c is None else c.repeat_interleave(n_pos) for c in columns]
            columns[1] = torch.arange(n_pos, device=self.cell.device).repeat(len(self.cell))
        kept = columns[1] < n_pos
        if self.key is not None:
            kept &= columns[3] <= columns[1]  # what lies ahead has weight 0 in every run
        cell, pos, unit, key = (None if c is None else c[kept].repeat_interleave(n_batch) for c in columns)
        batch = torch.arange(n_batch, device=cell.device).repeat(len(cell) // n_batch)
        behind = tuple(index for index in (unit, key) if index is not None)
        value = self.values[(cell, batch, pos, *behind) if self.per_cell else (batch, pos, *behind)]
        return Entries(cell * n_batch + batch, batch, pos, behind, value, self.sae)


@dataclass(frozen=True, eq=False)
class Entries:
    """One edit written out: number n puts value[n] at position pos[n] of prompt batch[n] in copy[n]."""

    copy: Int[Tensor, "n"]
    batch: Int[Tensor, "n"]
    pos: Int[Tensor, "n"]
    behind: tuple  # the index behind batch and pos: nothing, (head,), (unit,), (head, key)
    value: Float[Tensor, "n *rest"]
    sae: object = None

    def recorded(self, acts: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "n *part"]:
        """What an unpatched run has there."""
        acts = acts if self.sae is None else self.sae.encode(acts.flatten(2))
        return acts[(self.batch, self.pos, *self.behind)]


def embedding(embed: Tensor | None) -> list[tuple]:
    """The hook that puts given embeddings in the place of the tokens'."""
    return [] if embed is None else [("hook_embed", lambda x, hook: embed)]
