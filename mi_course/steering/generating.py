"""Greedy text for many prompts at once, with a key–value cache and with edits. Derived in notebook 12.

Prompts of different lengths are padded on the left, so that every row's next token stands in the last column; pads are
masked, and positions are counted from each row's first real token. After the prompt only one column is computed a step:
the keys and values of what stands before lie in the cache, as the edits made them. What all prompts begin with (a system
prompt) is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.lenses.streams import unembedding
from mi_course.models import next_token_loss
from mi_course.steering.edits import Edit, steered


def left_padded(
    prompts: Sequence[Int[Tensor, "..."]], pad: int
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    """One tensor of tokens, and which of them are real.

    Args:
        prompts: ids [pos] or [1 pos], of any lengths.
        pad: the token that fills up.
    """
    rows = [p.reshape(-1) for p in prompts]
    if not rows or not all(map(len, rows)):
        raise CourseError("Every prompt needs at least one token, and there must be a prompt.")
    longest = max(map(len, rows))
    tokens = torch.stack([torch.cat([row.new_full((longest - len(row),), pad), row]) for row in rows])
    real = torch.arange(longest) >= longest - torch.tensor([len(row) for row in rows])[:, None]
    return tokens, real


@torch.no_grad()
def generate(
    model,
    prompts: Sequence[Int[Tensor, "..."]],
    n: int,
    *,
    edits: Sequence[Edit] = (),
    first: int | None = 0,
    stop: int | None = None,
) -> Int[Tensor, "row n"]:
    """The n likeliest next tokens of every prompt, one after another: what TransformerLens' `generate` gives row by row.

    Args:
        model: a bridge around a `transformers` model.
        prompts: ids, of any lengths.
        n: tokens to write.
        edits: that are made at every step.
        first: 0 leaves each row's first token alone; None edits it as well.
        stop: after this token a row writes nothing else.
    """
    checked_length(model, prompts, n)
    rows = [p.reshape(-1) for p in prompts]
    can_share = all(one_for_all(edit) for edit in edits) and sees_all(model, max(map(len, rows)) + n)
    shared = common_start(rows) if can_share else 0
    tokens, real = left_padded([row[shared:] for row in rows], model.tokenizer.pad_token_id or 0)
    real = torch.cat([torch.ones(len(rows), shared, dtype=torch.bool), real], dim=1).long()
    pos = (real.cumsum(1) - 1).clamp_min(0)[:, shared:]
    with steered(model, edits, first=first) as where, unembedding(model, lambda x: x[:, -1:]):
        past = None
        if shared:
            begun = model.original_model(input_ids=rows[0][None, :shared], use_cache=True)
            past, where.first = begun.past_key_values, None  # from here on nobody's first token is computed
            past.batch_repeat_interleave(len(rows))
        elif first is not None:
            where.first = tokens.shape[1] - real.sum(1)  # where each row begins
        return continued(model, tokens, real, pos, past, where, n, stop)


def continued(model, tokens, real, pos, past, where, n: int, stop: int | None) -> Int[Tensor, "row n"]:
    """Step by step, from what stands in the cache.

    Args:
        model: a bridge.
        tokens: that are not in the cache yet [row pos].
        real: of all columns so far, 1 where a token is no pad.
        pos: of `tokens`, counted from each row's start.
        past: the cache, or None.
        where: which positions the edits spare.
        n: tokens to write.
        stop: after this token a row writes nothing else.
    """
    written, done = [], torch.zeros(len(tokens), dtype=torch.bool)
    while len(written) < n and not done.all():
        out = model.original_model(
            input_ids=tokens, attention_mask=real, position_ids=pos, past_key_values=past, use_cache=True
        )
        tokens = checked_logits(out.logits[:, -1]).argmax(-1, keepdim=True)
        if stop is not None:
            tokens[done] = stop
            done |= tokens[:, 0] == stop
        written.append(tokens)
        past, where.first = out.past_key_values, None
        real, pos = torch.cat([real, torch.ones_like(tokens)], dim=1), pos[:, -1:] + 1
    written += [torch.full_like(tokens, stop)] * (n - len(written)) if len(written) < n else []
    return torch.cat(written, dim=1)


def common_start(rows: Sequence[Int[Tensor, "_pos"]]) -> int:
    """How many tokens all `rows` begin with, less one at least, so that every row has something left to read."""
    shortest = min(map(len, rows)) - 1
    head = rows[0][:shortest]
    same = torch.stack([row[:shortest] == head for row in rows]).all(0).long()
    return int(same.cumprod(0).sum())


def one_for_all(edit) -> bool:
    """Whether an `edit` does the same to every row."""
    vector = getattr(edit, "vector", None)
    return not isinstance(vector, Tensor) or vector.ndim == 1


def sees_all(model, length: int) -> bool:
    """Whether every position of so great a `length` sees all before it; a window would count pads behind a shared start."""
    config = model.original_model.config
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size")]
    return all(window is None or window >= length for window in windows)


def checked_length(model, prompts: Sequence[Tensor], n: int) -> None:
    """One sentence where there is nothing to write, or a prompt and its answer do not fit into the context."""
    if not hasattr(model, "original_model"):
        raise CourseError("This generator reads bridges; a TinyTransformer has `generate` of its own.")
    if n < 1:
        raise CourseError(f"{n} tokens cannot be written: n is at least 1.")
    longest = max((p.numel() for p in prompts), default=0)
    if longest + n > model.cfg.n_ctx:
        raise CourseError(
            f"A prompt of {longest} tokens and an answer of {n} do not fit into a context of {model.cfg.n_ctx}."
        )


def checked_logits(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, "row d_vocab"]:
    """The `logits`, if they are numbers; one sentence where an edit has made them NaN."""
    if not bool(logits.isfinite().all()):
        raise CourseError("The logits hold NaN or infinity: the coefficient is too large for this precision.")
    return logits


def texts(model, written: Int[Tensor, "row pos"]) -> list[str]:
    """What was `written`, in letters, up to where the `model`'s answer ends."""
    end = model.tokenizer.eos_token_id
    rows = [row[: row.index(end)] if end in row else row for row in written.tolist()]
    return [model.tokenizer.decode(row) for row in rows]


@torch.no_grad()
def mean_loss(
    model, texts: Sequence[Int[Tensor, "..."]], edits: Sequence[Edit] = (), *, first: int | None = 0
) -> float:
    """Mean next-token loss in nats over all tokens of `texts`, under edits: what steering costs elsewhere.

    Args:
        model: a `TinyTransformer` or a bridge.
        texts: ids [pos] or [1 pos], one text each; one of two tokens at least.
        edits: made in every run.
        first: 0 leaves the first token alone; None edits it as well.
    """
    total = count = 0
    with steered(model, edits, first=first):
        for row in texts:
            tokens = row.reshape(1, -1)
            losses = next_token_loss(model(tokens), tokens, per_token=True)
            total, count = total + float(losses.sum()), count + losses.numel()
    if not count:
        raise CourseError("A loss needs a next token: give at least one text of two tokens or more.")
    return total / count
