"""Induction heads: find what followed this token last time, and say it again.

The scores of Olsson et al. (2022) and Elhage et al. (2021), each derived by hand in notebook 03.
Shapes: pattern [batch head query key]; losses in nats.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.corpora.planted import repeated_tokens
from mi_course.errors import CourseError
from mi_course.models import TinyTransformer


def prefix_matching_scores(
    pattern: Float[Tensor, "batch head query key"], period: int, offset: int = 1
) -> Float[Tensor, "head"]:
    """How strongly each head attends to what followed this token in its earlier copies.

    On random tokens repeated with a period, the token at `query` was seen at query − period, query − 2·period, …; an
    induction head looks one past each of them (Olsson et al. 2022, "prefix matching"). The score is the attention to
    all those places together, averaged over the queries that have an earlier copy: 1 for a perfect induction head, 0
    for one that rests on the first token. `offset=0` scores attention to the copies themselves, `offset=-1` to what
    came before them. `pattern` is one layer's attention on tokens that repeat with this `period`. Derived in notebook
    03.
    """
    n_ctx = pattern.shape[-1]
    if n_ctx < 2 * period:
        raise CourseError(f"{n_ctx} positions cannot hold two copies of {period} tokens.")
    total = torch.zeros(pattern.shape[1])
    for back in range(period, n_ctx, period):
        onto = pattern.diagonal(offset=offset - back, dim1=-2, dim2=-1)  # batch head query
        total += onto[..., -(n_ctx - max(back, period)) :].mean(0).sum(-1).cpu()
    return total / (n_ctx - period)


def previous_token_scores(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, "head"]:
    """Mean attention, in one layer's `pattern`, to the position just before the query: 1 for a perfect previous-token head."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean((0, -1))


def patterns(
    model: TinyTransformer, tokens: Int[Tensor, "batch pos"]
) -> list[Float[Tensor, "batch head q k"]]:
    """The attention patterns of every layer of `model` on `tokens`, without the rest of the cache."""
    _, cache = model.run_with_cache(
        tokens, return_type=None, names_filter=lambda name: name.endswith("hook_pattern")
    )
    return [cache["pattern", layer] for layer in range(model.cfg.n_layers)]


@torch.no_grad()
def head_scores(
    model: TinyTransformer, *, period: int = 25, copies: int = 4, batch: int = 10, seed: int = 0
) -> dict[str, Float[Tensor, "layer head"]]:
    """Prefix-matching and previous-token scores of every head on uniformly random repeats, and a control.

    `period` tokens stand there `copies` times, in `batch` rows drawn by `seed`. Defaults follow the paper's
    evaluator: 25 random tokens, 4 copies, a mean over 10. The control scores the same offsets on random tokens that
    do not repeat. `model` may have any number of layers; keys: prefix, previous, control.
    """
    tokens = repeated_tokens(model.cfg.d_vocab, batch, period, copies, seed=seed)
    never = repeated_tokens(model.cfg.d_vocab, batch, period * copies, 1, seed=seed + 1)
    on_repeats, on_noise = patterns(model, tokens), patterns(model, never)
    return {
        "prefix": torch.stack([prefix_matching_scores(p, period) for p in on_repeats]),
        "previous": torch.stack([previous_token_scores(p) for p in on_noise]),
        "control": torch.stack([prefix_matching_scores(p, period) for p in on_noise]),
    }


@torch.no_grad()
def losses_by_position(
    model: TinyTransformer, windows: Int[Tensor, "window pos"], batch: int = 8
) -> Float[Tensor, "window pos-1"]:
    """Loss in nats at every position of every window; column i is the prediction of token i + 1.

    `model` reads the `windows`, `batch` of them at a time.
    """
    return torch.cat([model(rows, return_type="loss", loss_per_token=True) for rows in windows.split(batch)])


def icl_windows(
    stream: Int[Tensor, "tokens"], n: int, *, late: int = 256, early: int = 60, seed: int = 0
) -> tuple[Int[Tensor, "n late"], Int[Tensor, "n early"]]:
    """n long windows of a text, and the short windows that end at the same tokens.

    The last 20 tokens of both are the same text, read with much context before it (positions 236–255) and with little
    (40–59). Comparing different stretches of text instead leaves the noise of their being different. `stream` is the
    text; `late` and `early` are the lengths of the windows, drawn by `seed`.
    """
    if not 20 < early < late <= len(stream):
        raise CourseError(f"Windows of {late} and {early} tokens do not fit into a text of {len(stream)}.")
    start = torch.randint(len(stream) - late + 1, (n, 1), generator=generator(seed))
    long = stream[start + torch.arange(late)]
    return long, long[:, late - early :]


def icl_scores(
    long: Float[Tensor, "window long"], short: Float[Tensor, "window short"], stretch: int = 20
) -> Float[Tensor, "window"]:
    """In-context learning score of each window: loss with much context less loss with little, in nats.

    Olsson et al. (2022) take the loss at token 500 less the loss at token 50 of 512; their mean is the model's
    score, and negative means learning from context. Here both are means over the same `stretch` last tokens of
    the windows of `icl_windows`, given as `losses_by_position` of the long and of the short ones.
    """
    if not len(long) == len(short) or min(long.shape[1], short.shape[1]) < stretch:
        raise CourseError(
            f"Losses {list(long.shape)} and {list(short.shape)} do not share {stretch} last tokens."
        )
    return long[:, -stretch:].mean(-1) - short[:, -stretch:].mean(-1)


def icl_score(model: TinyTransformer, windows: tuple[Int[Tensor, "n late"], Int[Tensor, "n early"]]) -> float:
    """The model's in-context learning score, in nats; the standard error is about 1/√n of one.

    `windows` are those of `icl_windows`, long and short.
    """
    long, short = (losses_by_position(model, rows) for rows in windows)
    return float(icl_scores(long, short).mean())


# -- circuits by hand ----------------------------------------------------------------------------

START = 0  # the first token of every sequence: where a head rests when it has found nothing
