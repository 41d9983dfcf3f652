"""Many changed copies of one recorded run, run together: only what differs from the record is computed.

A copy differs in some rows (a position of a prompt each). A change stays where it is until an attention layer spreads
it to later positions; earlier ones never move, their keys and values are read from the record, and rows behind the
answer position are dropped. What this does fast, `hooked.Hooked` does in a page, one copy at a time: read that first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.patching.edits import Activations, Edit, Entries
from mi_course.patching.layout import Layout


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

    def only(self, mask: Bool[Tensor, "copy pos"]) -> Rows:
        """Those of these rows that are in the mask."""
        return self if bool((self.mask <= mask).all()) else Rows(self.mask & mask, self.prompt)

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
class Change:
    """What the copies have at one place of the model where they differ from the record: x[n] at rows[n]."""

    rows: Rows
    x: Float[Tensor, "row *rest"]

    def to(self, rows: Rows, record: Tensor) -> Tensor:
        """The values at other rows, the record's where this is no change."""
        return rows.fill(record, self.rows, self.x)


class Rerun:
    """What all blocks of a rerun share: the record, the edits, and which rows can still reach an answer."""

    def __init__(
        self, forward, acts: Activations, layout: Layout, edits: list[Edit], n_cells: int, at, freeze: bool
    ):
        self.forward, self.acts, self.layout, self.freeze = forward, acts, layout, freeze
        self.n_pos, n_batch = int(at.max()) + 1, len(at)
        self.edits: dict[tuple[str, int], list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault((edit.site, edit.layer), []).append(edit)
        self.first = min((edit.layer for edit in edits), default=forward.n_layers)
        self.prompt = torch.arange(n_batch, device=at.device).repeat(n_cells)
        self.at, self.shape = at[self.prompt][:, None], (n_cells, n_batch)
        where = torch.arange(self.n_pos, device=at.device)
        self.counts, self.answers = where <= self.at, where == self.at  # copy pos
        if layout.mask is not None:
            self.counts &= layout.mask[self.prompt, : self.n_pos]

    def run(self) -> Float[Tensor, "cell batch d_model"]:
        """The stream behind the last block at the answer positions."""
        forward, last = self.forward, self.forward.n_layers - 1
        stream = Change(Rows(torch.zeros_like(self.counts), self.prompt), forward.W_E.new_zeros(0, forward.W_E.shape[1]))  # fmt: skip
        for i in range(self.first, forward.n_layers):
            stream = self.block(i, stream, self.answers if i == last else self.counts)
        final = self.record("resid_post", last)[self.prompt, self.at[:, 0]]
        final[stream.rows.copy] = stream.x
        return final.view(*self.shape, -1)

    def block(self, i: int, stream: Change, live: Bool[Tensor, "copy pos"]) -> Change:
        """The change behind block i; only `live` rows count there, behind the last block the answers."""
        forward = self.forward
        stream = self.edited("resid_pre", i, stream, self.counts)
        z = self.edited("z", i, self.attended(i, stream, live), live)
        out = self.edited("attn_out", i, Change(z.rows, forward.write(i, z.x)), live)
        if forward.parallel:
            return self.beside(i, stream, out, live)
        x = out.rows.fill(self.record("resid_pre", i), stream.rows, stream.x) + out.x
        if not forward.has_mlp:
            return self.edited("resid_post", i, Change(out.rows, x), live)
        mid = self.edited("resid_mid", i, Change(out.rows, x), live)
        wrote = self.mlp(i, mid, live)
        x = mid.to(wrote.rows, self.record("resid_mid", i)) + wrote.x
        return self.edited("resid_post", i, Change(wrote.rows, x), live)

    def mlp(self, i: int, read: Change, live: Bool[Tensor, "copy pos"]) -> Change:
        """What the MLP writes where it reads a change, or its neurons or its output are edited."""
        forward = self.forward
        post = self.edited("post", i, Change(read.rows, forward.neurons(i, read.x)), live)
        return self.edited("mlp_out", i, Change(post.rows, forward.mlp_write(i, post.x)), live)

    def beside(self, i: int, stream: Change, out: Change, live: Bool[Tensor, "copy pos"]) -> Change:
        """The change behind a parallel block, whose MLP reads what the attention reads."""
        rows = stream.rows.only(live)
        wrote = self.mlp(i, Change(rows, stream.to(rows, self.record("resid_pre", i))), live)
        rows = out.rows.among(wrote.rows.mask)
        parts = {"resid_pre": stream, "attn_out": out, "mlp_out": wrote}
        x = sum(part.to(rows, self.record(site, i)) for site, part in parts.items())
        return self.edited("resid_post", i, Change(rows, x), live)

    # -- edits -----------------------------------------------------------------------------------

    def record(self, site: str, layer: int) -> Tensor:
        """The recorded activation [batch pos …] up to the last answer."""
        value = self.acts[site, layer]
        if site == "pattern":
            return value[:, :, : self.n_pos, : self.n_pos].transpose(1, 2)
        return value[:, : self.n_pos]

    def entries(self, site: str, layer: int) -> list[Entries]:
        """A site's edits written out."""
        return [edit.spread(self.n_pos) for edit in self.edits.get((site, layer), ())]

    def differing(self, site: str, layer: int, given: Entries) -> Bool[Tensor, "copy pos"]:
        """The rows where an edit's values are not the record's."""
        there, value = given.recorded(self.record(site, layer)), given.value
        if site == "pattern" and len(given.behind) == 1:
            value = value[:, : self.n_pos]
        differs = (value != there).flatten(1).any(1) if value.ndim > 1 else value != there
        return self.marked(given.copy[differs], given.pos[differs])

    def marked(self, copy: Tensor, pos: Tensor) -> Bool[Tensor, "copy pos"]:
        mask = torch.zeros_like(self.counts)
        mask[copy, pos] = True
        return mask

    def edited(self, site: str, layer: int, change: Change, live: Bool[Tensor, "copy pos"]) -> Change:
        """The change after the site's edits."""
        for given in self.entries(site, layer):
            rows = change.rows.among(self.differing(site, layer, given) & live)
            x = change.to(rows, self.record(site, layer))
            kept = rows.mask[given.copy, given.pos]
            at = rows.index[given.copy, given.pos][kept]
            if given.sae is not None:
                x = self.with_features(site, layer, change.rows, given, kept, x, at)
            else:
                x[(at, *(index[kept] for index in given.behind))] = given.value[kept]
            change = Change(rows, x)
        return change

    def with_features(self, site: str, layer: int, old: Rows, given: Entries, kept, x: Tensor, at) -> Tensor:
        """x with some features moved to their values; what the autoencoder does not explain stays."""
        flat, sae, unit = x.flatten(1), given.sae, given.behind[0][kept]
        there = given.recorded(self.record(site, layer))[kept]
        moved = old.mask[given.copy, given.pos][kept]  # rows that differ already: their features, too
        if bool(moved.any()):
            some, back = at[moved].unique(return_inverse=True)
            there = there.clone()
            there[moved] = sae.encode(flat[some])[back, unit[moved]]
        change = (given.value[kept] - there)[:, None] * sae.directions(unit).detach()
        return flat.index_add(0, at, change.to(flat.dtype)).view_as(x)

    # -- attention -------------------------------------------------------------------------------

    def attended(self, i: int, stream: Change, live: Bool[Tensor, "copy pos"]) -> Change:
        """z where it differs: what changed queries, keys, values and patterns, edited ones included, make of it."""
        edits = {site: self.entries(site, i) for site in ("q", "k", "v", "pattern")}
        if not len(stream.rows) and not any(edits.values()):
            return Change(stream.rows, self.record("z", i)[:0, 0])
        q, k, v = self.moved(i, stream, live, edits)
        mask = stream.rows.mask
        for site in ("k", "v"):
            for given in edits[site]:
                mask = mask | self.differing(site, i, given)
        mask = mask.cumsum(1) > 0  # later queries see what changed
        for site in ("q", "pattern"):
            for given in edits[site]:
                mask = mask | self.differing(site, i, given)
        rows = Rows(mask & live, self.prompt)
        return Change(rows, self.mixed(i, q, k, v, edits["pattern"])[rows.copy, rows.pos])

    def moved(self, i: int, stream: Change, live, edits: dict[str, list[Entries]]) -> list[Tensor]:
        """Queries as the scores see them, keys likewise, and values, [copy pos head d_head], edits in place."""
        rows = stream.rows
        asking = rows.only(live)
        if asking is rows:
            q, k, v = self.forward.project(i, stream.x, self.ids(rows))
        else:
            q = self.forward.project(
                i, stream.to(asking, self.record("resid_pre", i)), self.ids(asking), "q"
            )[0]
            k, v = self.forward.project(i, stream.x, self.ids(rows), "kv")
        return [
            self.in_place(i, letter, of, x, edits[letter])
            for letter, of, x in (("q", asking, q), ("k", rows, k), ("v", rows, v))
        ]

    def ids(self, rows: Rows) -> Tensor:
        return self.layout.id_of(rows.batch, rows.pos)

    def in_place(self, i: int, letter: str, rows: Rows, x: Tensor, edits: list[Entries]) -> Tensor:
        """One of q, k and v: changed rows among recorded ones, turned, with its edits where the model's hook stands."""
        forward = self.forward
        if letter == "v" or not forward.turns(i):
            return put(rows.padded(self.record(letter, i), x), edits)
        raw, turned, keys = forward.read(i, letter), forward.seen(i, letter), letter == "k"
        early = raw == letter  # the hook stands before the turn
        smeared = keys and forward.layers[i].smear is not None
        if not smeared and not (early and edits):  # each row turns by itself
            x = forward.turn(i, x, keys, self.ids(rows)) if len(rows) else x
            return put(rows.padded(self.record(turned, i), x), edits)
        x = rows.padded(self.record(raw, i), x)
        x = put(x, edits) if early else x
        ids = self.layout.ids[:, : self.n_pos]
        x = forward.turn(i, x, keys, ids if len(ids) == 1 else ids[self.prompt])
        return x if early else put(x, edits)

    def mixed(self, i: int, q, k, v, edits: list[Entries]) -> Float[Tensor, "copy pos head d_head"]:
        """z of queries, keys and values, with the pattern edited or held at the record."""
        forward, hidden = self.forward, self.layout.hidden(self.n_pos)
        if hidden.ndim > 2:
            hidden = hidden[self.prompt]
        if not edits and not self.freeze:
            seen = {"is_causal": True} if hidden.ndim == 2 else {"attn_mask": ~hidden}
            q, k, v = (a.transpose(1, 2) for a in (q, forward.shared(k), forward.shared(v)))
            return F.scaled_dot_product_attention(q, k, v, scale=forward.layers[i].scale, **seen).transpose(
                1, 2
            )
        if self.freeze:
            pattern = self.record("pattern", i).transpose(1, 2)[self.prompt]
        else:
            pattern = forward.scores(i, q, k, hidden).softmax(-1)
        for given in edits:
            head, *key = given.behind
            value = given.value if key else given.value[:, : self.n_pos]
            pattern[(given.copy, head, given.pos, *key)] = value
        return forward.mix(pattern, v)


def put(values: Float[Tensor, "copy pos head d_head"], edits: list[Entries]) -> Tensor:
    """The values with edits of whole heads in them."""
    for given in edits:
        values[(given.copy, given.pos, *given.behind)] = given.value
    return values
