"""Putting a vector into a stream, and asking with it. Derived in notebook 15.

Layer l is the stream that enters block l, as in `lenses`: "after layer 1" is before layer 2. A vector is put in where the
prompt has its placeholder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.lenses.streams import checked_layer, hook_of, unembedding
from mi_course.models import checked_tokens


def injected(h: Float[Tensor, "*n d_model"], v: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """h + ‖h‖ v/‖v‖ (Karvonen et al. 2025): whatever the length of v, what is added is as long as h.

    A vector of zeros has no direction: there h stays as it is, which is the zero control.

    Args:
        h: the stream at the placeholder.
        v: an activation of another text.
    """
    length = v.norm(dim=-1, keepdim=True)
    direction = torch.where(length > 0, v / length.clamp_min(1e-30), 0.0)
    return h + h.norm(dim=-1, keepdim=True) * direction


class Prompts(NamedTuple):
    """Questions as tokens, padded on the right to one length.

    Args:
        tokens: ids.
        at: position of each placeholder.
        end: position whose next token is the answer.
    """

    tokens: Int[Tensor, "row pos"]
    at: Int[Tensor, "row"]  # position of the placeholder
    end: Int[Tensor, "row"]  # position whose next token is the answer

    def of(self, rows) -> Prompts:
        """Those numbered `rows`, a tensor or a slice."""
        return Prompts(self.tokens[rows], self.at[rows], self.end[rows])


def prompts_of(rows: list[list[int]], place: int) -> Prompts:
    """Prompts from token ids, one list a question, each with one placeholder.

    Args:
        rows: ids of each question, of any length.
        place: id of the placeholder.
    """
    for ids in rows:
        if ids.count(place) != 1:
            raise CourseError(
                f"A question to an oracle holds one placeholder (token {place}), and this one {ids.count(place)}: "
                "without it there is nowhere to put an activation."
            )
    longest = max(len(ids) for ids in rows)
    tokens = torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids in rows])
    at = torch.tensor([ids.index(place) for ids in rows])
    return Prompts(tokens, at, torch.tensor([len(ids) - 1 for ids in rows]))


def checked_vectors(model, vectors, n: int) -> Float[Tensor, "row d_model"]:
    """Vectors that this model's stream can take: one a prompt, of its width, finite.

    Args:
        model: the oracle.
        vectors: [row d_model], or None where somebody asked without any.
        n: prompts there are.
    """
    if vectors is None:
        raise CourseError(
            "An oracle answers about an activation, and none was given: pass vectors [row d_model]; zeros are the control "
            "that asks with none."
        )
    vectors = torch.as_tensor(vectors)
    width = model.cfg.d_model
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise CourseError(
            f"This oracle's stream has width {width}, and the vectors are {list(vectors.shape)}: were they read from "
            "another model?"
        )
    if len(vectors) != n:
        raise CourseError(f"There are {n} prompts and {len(vectors)} vectors: one each is needed.")
    if not bool(vectors.isfinite().all()):
        raise CourseError(
            f"Vector {int((~vectors.isfinite()).any(1).nonzero()[0])} holds NaN or infinity: how was it read?"
        )
    return vectors.detach()


def injection(at: Int[Tensor, "row"], vectors: Float[Tensor, "row d_model"]) -> Callable:
    """A hook that puts each vector into the stream of its row, at position `at`, norm-matched.

    Args:
        at: where, one position a row.
        vectors: what.
    """
    rows = torch.arange(len(at))

    def put_in(stream, hook):
        changed = stream.clone()
        changed[rows, at] = injected(stream[rows, at], vectors.to(stream.dtype))
        return changed

    return put_in


def ask(model, prompts: Prompts, vectors, layer: int, entering=None) -> Float[Tensor, "row d_vocab"]:
    """Logits of the answer to each prompt, with its vector put in before `layer`; gradients flow.

    Args:
        model: the oracle, a TinyTransformer or a bridge.
        prompts: what is asked.
        vectors: [row d_model], one a prompt.
        layer: before which they go in.
        entering: the prompts' streams before `layer` [row pos d_model], of a bridge, where they are known already.
    """
    tokens = checked_tokens(prompts.tokens, model.cfg)
    layer = checked_layer(model, layer, read_by_a_block=True)
    put_in = injection(prompts.at, checked_vectors(model, vectors, len(tokens)))
    with only_at(model, prompts.end) as keep:
        if entering is not None:
            return keep(model(put_in(entering, None), start_at_layer=layer))
        return keep(model.run_with_hooks(tokens, fwd_hooks=[(hook_of(model, layer), put_in)]))


@contextmanager
def only_at(model, end: Int[Tensor, "row"]) -> Iterator[Callable]:
    """Inside, a bridge unembeds one position a row; yields what takes that position's logits from an output.

    Args:
        model: a TinyTransformer, whose few logits are all computed, or a bridge.
        end: positions.
    """
    rows = torch.arange(len(end))
    if not hasattr(model, "original_model"):
        yield lambda logits: logits[rows, end]
        return
    with unembedding(model, lambda x: x[rows, end][:, None]):
        yield lambda logits: logits[:, 0]


@torch.no_grad()
def entering(
    model, tokens: Int[Tensor, "row pos"], layer: int, batch: int = 32
) -> Float[Tensor, "row pos d_model"]:
    """The streams of prompts before `layer`, for `ask`: a few questions are asked of many vectors.

    Args:
        model: the target; its weights below `layer` are those of the oracle.
        tokens: of the prompts.
        layer: before which vectors will go in.
        batch: prompts at once.
    """
    tokens, layer = checked_tokens(tokens, model.cfg), checked_layer(model, layer, read_by_a_block=True)
    streams = torch.cat([model(part, stop_at_layer=layer) for part in tokens.split(batch)])
    if not torch.allclose(model(streams[:1], start_at_layer=layer), model(tokens[:1]), atol=1e-2, rtol=1e-2):
        raise CourseError(
            "This architecture does not go on from a stream as it does from tokens: ask without `entering`."
        )
    return streams


@torch.no_grad()
def answers(model, prompts: Prompts, vectors, layer: int, batch: int = 256) -> Int[Tensor, "row"]:
    """The token that the oracle finds likeliest after each prompt, among all of its vocabulary.

    Args:
        model: the oracle.
        prompts: what is asked.
        vectors: [row d_model], one a prompt.
        layer: before which they go in.
        batch: rows at once.
    """
    vectors = checked_vectors(model, vectors, len(prompts.tokens))
    parts = torch.arange(len(vectors)).split(batch)
    return torch.cat([ask(model, prompts.of(part), vectors[part], layer).argmax(-1) for part in parts])
