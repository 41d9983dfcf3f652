"""Induction circuits whose weights are typed in."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.induction.scores import START
from mi_course.models import TinyConfig, TinyTransformer

REST = 0.25  # a resting place scores a quarter of a match


def distinct_repeats(
    d_vocab: int, batch: int, period: int, copies: int = 2, *, seed: int = 0
) -> Int[Tensor, "batch pos"]:
    """A start token, then `period` different random tokens, written `copies` times: 1 + copies · period positions.

    Different, since a token that occurs twice in one copy has two successors, and no reader of single tokens can tell
    which one is due. There are `batch` rows, drawn by `seed` from a vocabulary of `d_vocab`, more than `period`.
    """
    if not 1 <= period < d_vocab:
        raise CourseError(
            f"{period} different tokens cannot be drawn from {d_vocab - 1} (token 0 is the start)."
        )
    shuffled = torch.rand(batch, d_vocab - 1, generator=generator(seed)).argsort(-1)
    block = 1 + shuffled[:, :period]
    return torch.cat([torch.full((batch, 1), START), block.repeat(1, copies)], dim=1)


def blank(**shape) -> TinyTransformer:
    """A `TinyTransformer` with every weight zero and no gradients, to be filled in by hand.

    `shape` are the fields of `TinyConfig`, such as n_layers=2.
    """
    model = TinyTransformer(TinyConfig(**shape)).requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    return model.eval()


def stretches(*sizes: int) -> list[slice]:
    """Neighbouring slices of the given sizes: the blocks of a stream that is laid out by hand."""
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    return [slice(start, end) for start, end in zip(ends, ends[1:])]


def k_composition_circuit(
    d_vocab: int = 51, n_ctx: int = 81, *, sharpness: float = 100.0, volume: float = 20.0
) -> TinyTransformer:
    """An induction head by K-composition, weights set by hand (Elhage et al. 2021, exercise 3).

    Stream: token | previous token | position | guess, a one-hot block each. Head 0.0 looks one position back and
    writes the token it finds into the block *previous*. Head 1.0 looks for keys whose previous token is the present
    token, and copies the token it attends to into *guess*. `sharpness` is the score of a match in nats; no match
    means resting on the start token, which says nothing. There are `d_vocab` tokens and at most `n_ctx` positions;
    `volume` is the logit that the guess gets. Derived in notebook 03.
    """
    V, P = d_vocab, n_ctx
    token, previous, position, guess = stretches(V, V, P, V)
    width = max(V + 1, P)
    model = blank(
        n_layers=2, n_heads=1, head_width=width, d_model=guess.stop, d_vocab=V, n_ctx=P, positions="learned"
    )
    one, two = (block.attn for block in model.blocks)
    score = sharpness * width**0.5  # attention divides by √d_head
    model.W_E[:, token] = torch.eye(V)
    model.W_pos[:, position] = torch.eye(P)

    one.W_Q[0, position, :P] = score * torch.ones(P - 1).diag(-1)  # position i asks for i − 1
    one.W_K[0, position, :P] = torch.eye(P)
    one.W_V[0, token, :V] = torch.eye(V)
    one.W_O[0, :V, previous] = torch.eye(V)

    two.W_Q[0, token, :V] = score * torch.eye(V)  # the present token asks …
    two.W_K[0, previous, :V] = torch.eye(V)  # … who has it as previous token
    copy_and_rest(model, two, token, guess, score, volume)
    return model


def q_composition_circuit(
    d_vocab: int = 51, n_ctx: int = 81, *, sharpness: float = 100.0, volume: float = 20.0
) -> TinyTransformer:
    """An induction head by Q-composition, or pointer arithmetic (Elhage et al. 2021, exercise 2).

    Stream: token | position | pointer | guess. Head 0.0 looks for the earlier same token (not for itself) and writes
    that token's *position* into the block *pointer*. Head 1.0 asks for the position after the one pointed to, and
    copies the token there. Position must stand in the stream, where W_V can read it. There are `d_vocab` tokens and
    at most `n_ctx` positions; `sharpness` is the score of a match in nats, `volume` the logit that the guess gets.
    Derived in notebook 03.
    """
    V, P = d_vocab, n_ctx
    token, position, pointer, guess = stretches(V, P, P, V)
    width = V + P + 1
    model = blank(
        n_layers=2, n_heads=1, head_width=width, d_model=guess.stop, d_vocab=V, n_ctx=P, positions="learned"
    )
    one, two = (block.attn for block in model.blocks)
    score = sharpness * width**0.5
    model.W_E[:, token] = torch.eye(V)
    model.W_pos[:, position] = torch.eye(P)

    one.W_Q[0, token, :V] = score * torch.eye(V)  # the same token …
    one.W_K[0, token, :V] = torch.eye(V)
    one.W_Q[0, position, V : V + P] = -score * torch.eye(P)  # … at another position
    one.W_K[0, position, V : V + P] = torch.eye(P)
    one.W_V[0, position, :P] = torch.eye(P)
    one.W_V[0, position.start, 0] = 0  # the start's position points nowhere
    one.W_O[0, :P, pointer] = torch.eye(P)
    rest_on_start(one, token, score)

    two.W_Q[0, pointer, :P] = score * torch.ones(P - 1).diag(1)  # pointing at p asks for p + 1
    two.W_K[0, position, :P] = torch.eye(P)
    copy_and_rest(model, two, token, guess, score, volume)
    return model


def copy_and_rest(model, head, token: slice, guess: slice, score: float, volume: float) -> None:
    """The second half of both circuits: copy the attended token into *guess*, which the logits are read from.

    `head` is the attention of the second layer of `model`; `token` and `guess` are stretches of the stream; `score`
    is what a match gets before the division by √d_head, `volume` the logit that the guess gets.
    """
    n = token.stop - token.start
    head.W_V[0, token, :n] = torch.eye(n)
    head.W_V[0, token.start + START, START] = 0  # resting on the start says nothing
    head.W_O[0, :n, guess] = torch.eye(n)
    model.unembed.W_U[guess] = volume * torch.eye(n)
    rest_on_start(head, token, score)


def rest_on_start(head, token: slice, score: float) -> None:
    """Every token asks, on a channel of its own, for the start token, a little.

    `head` is an attention layer of one head, `token` the stretch of the stream that holds the token, `score` what a
    query brings; the start token's key brings REST.
    """
    head.W_Q[0, token, -1] = score
    head.W_K[0, token.start + START, -1] = REST


def two_back_circuit(n_ctx: int = 16, *, sharpness: float = 100.0, volume: float = 5.0) -> TinyTransformer:
    """Two previous-token heads in a row, which together look two back (Elhage et al. 2021, exercise 1).

    Stream of 16, heads of 4: four numbers ±1 that spell one of 16 tokens | one back | two back | position as a point
    on a circle, and two to spare. Both heads turn the circle by one step; the second one reads what the first has
    written, through V. `n_ctx` positions make a full circle; `sharpness` is how many nats the previous position
    scores above the others, `volume` the size of the logits. Derived in notebook 03.
    """
    token, one_back, two_back, position = stretches(4, 4, 4, 2)
    model = blank(
        n_layers=2, n_heads=1, head_width=4, d_model=16, d_vocab=16, n_ctx=n_ctx, positions="learned"
    )
    bits = 1.0 - 2.0 * (torch.arange(16)[:, None] >> torch.arange(4) & 1)  # token bit, ±1
    step = torch.tensor(2 * torch.pi / n_ctx)
    angle = step * torch.arange(n_ctx)
    turn_back = torch.stack([step.cos(), -step.sin(), step.sin(), step.cos()]).view(2, 2)  # row @ turn_back
    score = sharpness / (1 - step.cos()) * 4**0.5  # neighbours on the circle differ by 1 − cos(step)
    model.W_E[:, token] = bits
    model.W_pos[:, position] = torch.stack([angle.cos(), angle.sin()], dim=1)
    for block, read, write in zip(model.blocks, (token, one_back), (one_back, two_back)):
        block.attn.W_Q[0, position, :2] = score * turn_back
        block.attn.W_K[0, position, :2] = torch.eye(2)
        block.attn.W_V[0, read] = torch.eye(4)
        block.attn.W_O[0, :, write] = torch.eye(4)
    model.unembed.W_U[two_back] = volume * bits.T
    return model
