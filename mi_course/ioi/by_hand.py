"""The smallest circuits that identify the indirect object, weights typed in.

Tokens: 0 begins a sequence, 1 is "to", where the answer is due, 2 a filler, names from 3 on. A sentence is two names in
either order, one of them again, and "to" at the end, with fillers anywhere between. Derived in notebook 08.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.induction import blank
from mi_course.induction.by_hand import stretches
from mi_course.models import TinyTransformer

START, TO, FILLER, FIRST = 0, 1, 2, 3
SHARP = 100.0  # nats between what is looked at and what is not


class Sentences(NamedTuple):
    """Symbolic sentences: `tokens`, the answers `io` and `s`, and `at`, where A, B and the repeated name stand."""

    tokens: Int[Tensor, "batch pos"]
    io: Int[Tensor, "batch"]
    s: Int[Tensor, "batch"]
    at: Int[Tensor, "batch three"]


def sentences(batch: int, *, n_names: int = 20, n_pos: int = 9, seed: int = 0) -> Sentences:
    """Random sentences, a `batch` of them: names drawn anew of `n_names`, places anew among `n_pos` positions, and
    either of the first two said again; `seed` is of the draw.
    """
    if n_names < 2 or n_pos < 5:
        raise CourseError("A sentence needs two names, and five positions: start, three names, to.")
    draw = generator(seed)
    two = FIRST + torch.rand(batch, n_names, generator=draw).argsort(-1)[:, :2]
    at = 1 + torch.rand(batch, n_pos - 2, generator=draw).argsort(-1)[:, :3].sort(-1).values
    again = torch.randint(2, (batch,), generator=draw)
    rows = torch.arange(batch)
    tokens = torch.full((batch, n_pos), FILLER)
    tokens[:, 0], tokens[:, -1] = START, TO
    s, io = two[rows, again], two[rows, 1 - again]
    tokens.scatter_(1, at, torch.stack([*two.T, s], 1))
    return Sentences(tokens, io, s, at)


def one_layer(n_names: int = 20, n_pos: int = 9, *, volume: float = 12.0) -> TinyTransformer:
    """Two heads side by side that never speak to each other.

    Stream: token | position | guess. Head 0.0 looks from "to" at all names alike and writes them into *guess*: S
    has two thirds, IO one. Head 0.1 looks at the *last* name, by position, and writes it with a minus. What is left:
    IO +1/3, S 2/3 − 1 = −1/3, everybody else 0.

    `n_names` names, `n_pos` positions; `volume` is what a full write adds to a logit.
    """
    V, names, token, position, guess = layout(n_names, n_pos)
    model = blank(
        n_layers=1, n_heads=2, head_width=V, d_model=guess.stop, d_vocab=V, n_ctx=n_pos, positions="learned"
    )
    attn = model.blocks[0].attn
    embed(model, token, position, guess)
    for head, sign in enumerate((1.0, -1.0)):
        look_at_names(attn, head, token, names)
        write(attn, head, token, guess, sign * volume, names)
    attn.W_K[1, position, 0] = SHARP / 2 * torch.arange(n_pos)  # 0.1: the later, the stronger
    return model.eval()


def by_values(n_names: int = 20, n_pos: int = 9, *, volume: float = 12.0) -> TinyTransformer:
    """One head a layer, composed by values: the pattern of head 1.0 knows nothing of who was said twice.

    Stream: token | position | again | guess. Head 0.0 looks back at the same token and notes at S2, in *again*, whom it found.
    Head 1.0 looks from "to" at all names alike; of each it writes the token, and takes three times *again* away.

    `n_names` names, `n_pos` positions; `volume` is what a full write adds to a logit.
    """
    V, names, token, position, again, guess = layout(n_names, n_pos, 2)
    model = blank(
        n_layers=2,
        n_heads=1,
        head_width=V + n_pos,
        d_model=guess.stop,
        d_vocab=V,
        n_ctx=n_pos,
        positions="learned",
    )
    embed(model, token, position, guess)
    look_back(model.blocks[0].attn, token, position, names)
    write(model.blocks[0].attn, 0, token, again, 1.0, names)
    mover = model.blocks[1].attn
    look_at_names(mover, 0, token, names)
    write(mover, 0, token, guess, volume, names)
    mover.W_V[0, again.start + FIRST : again.stop, FIRST:V] = -3.0 * torch.eye(n_names)
    return model.eval()


def by_queries(n_names: int = 20, n_pos: int = 9, *, volume: float = 12.0) -> TinyTransformer:
    """One head a layer, composed by queries, as GPT-2's S-inhibition and name-mover heads are.

    Head 0.0 looks from "to" at the last name and notes it in *again*, at "to". Head 1.0 looks at names other than the
    one noted, which leaves IO, and copies.

    `n_names` names, `n_pos` positions; `volume` is what a full write adds to a logit.
    """
    V, names, token, position, again, guess = layout(n_names, n_pos, 2)
    model = blank(
        n_layers=2, n_heads=1, head_width=V, d_model=guess.stop, d_vocab=V, n_ctx=n_pos, positions="learned"
    )
    embed(model, token, position, guess)
    note, mover = model.blocks[0].attn, model.blocks[1].attn
    look_at_names(note, 0, token, names)
    note.W_K[0, position, 0] = SHARP / 2 * torch.arange(n_pos)
    write(note, 0, token, again, 1.0, names)
    look_at_names(mover, 0, token, names)
    mover.W_Q[0, again.start + FIRST : again.stop, FIRST:V] = -5 * SHARP * V**0.5 * torch.eye(n_names)
    mover.W_K[0, token.start + FIRST : token.stop, FIRST:V] += torch.eye(n_names)
    write(mover, 0, token, guess, volume, names)
    return model.eval()


def by_keys(n_names: int = 20, n_pos: int = 9, *, volume: float = 12.0) -> TinyTransformer:
    """One head a layer, composed by keys alone: the best that can be had, and it is a coin.

    Head 0.0 is that of `by_values`; head 1.0 does not look where *again* says something, so not at S2. IO and S1 are
    left, and their keys were made before S2 was read.

    `n_names` names, `n_pos` positions; `volume` is what a full write adds to a logit.
    """
    model = by_values(n_names, n_pos, volume=volume)
    _, _, _, _, again, _ = layout(n_names, n_pos, 2)
    mover = model.blocks[1].attn
    mover.W_V[0, again] = 0.0
    mover.W_K[0, again.start + FIRST : again.stop, 0] = -5.0 * SHARP
    return model


def gated_spare(n_names: int = 20, n_pos: int = 9, *, volume: float = 12.0) -> TinyTransformer:
    """`by_queries` with a spare mover in a third layer, which looks at IO only where *guess* is still empty at "to".

    The mover writes into *guess*; head 2.0 reads it in its query, and a full *guess* sends its look to the start.

    `n_names` names, `n_pos` positions; `volume` is what a full write adds to a logit.
    """
    V, names, token, position, again, guess = layout(n_names, n_pos, 2)
    smaller = by_queries(n_names, n_pos, volume=volume)
    model = blank(
        n_layers=3, n_heads=1, head_width=V, d_model=guess.stop, d_vocab=V, n_ctx=n_pos, positions="learned"
    )
    model.W_E.copy_(smaller.W_E), model.W_U.copy_(smaller.W_U), model.W_pos.copy_(smaller.W_pos)
    for i in (0, 1):
        model.blocks[i].load_state_dict(smaller.blocks[i].state_dict())
    model.blocks[2].load_state_dict(smaller.blocks[1].state_dict())
    spare = model.blocks[2].attn
    spare.W_Q[0, guess.start + FIRST : guess.stop, TO] = 20 * SHARP * V**0.5 / volume
    spare.W_K[0, token.start + START, TO] = 1.0
    return model.eval()


# -- the pieces ----------------------------------------------------------------------------------


def layout(n_names: int, n_pos: int, blocks: int = 1) -> tuple:
    """Vocabulary, the slice of names in it, and the blocks of the stream: token, position, then so many more of V."""
    if n_pos > 18:
        raise CourseError(f"{n_pos} positions: from 19 on, standing late outweighs being a name.")
    V = FIRST + n_names
    return V, slice(FIRST, V), *stretches(V, n_pos, *[V] * blocks)


def embed(model: TinyTransformer, token: slice, position: slice, guess: slice) -> None:
    model.W_E[:, token] = torch.eye(model.cfg.d_vocab)
    model.W_pos[:, position] = torch.eye(model.cfg.n_ctx)
    model.W_U[guess] = torch.eye(model.cfg.d_vocab)


def look_at_names(attn, head: int, token: slice, names: slice) -> None:
    """From "to" at every name alike: so many nats that no place outweighs being a name."""
    attn.W_Q[head, token.start + TO, 0] = attn.W_Q.shape[-1] ** 0.5
    attn.W_K[head, token.start + names.start : token.start + names.stop, 0] = 10 * SHARP


def look_back(attn, token: slice, position: slice, names: slice) -> None:
    """From a name at its earlier self; from anything else, or a first name, at the start."""
    scale, V = attn.W_Q.shape[-1] ** 0.5, token.stop - token.start
    attn.W_Q[0, token, :V] = 2 * SHARP * scale * torch.eye(V)
    attn.W_K[0, token.start + names.start : token.start + names.stop, names] = torch.eye(
        names.stop - names.start
    )
    n_pos = position.stop - position.start
    attn.W_Q[0, position, V:] = -4 * SHARP * scale * torch.eye(n_pos)  # not at itself …
    attn.W_K[0, position, V:] = torch.eye(n_pos)
    attn.W_K[0, position.start, :V] += 0.5  # … but at the start, if there is nothing better
    attn.W_K[0, position.start, V] = 0.0


def write(attn, head: int, token: slice, to: slice, volume: float, names: slice) -> None:
    """A name that is looked at goes into the block `to`, times `volume`."""
    one = torch.eye(names.stop - names.start)
    attn.W_V[head, token.start + names.start : token.start + names.stop, names] = one
    attn.W_O[head, names, to.start + names.start : to.start + names.stop] = volume * one
