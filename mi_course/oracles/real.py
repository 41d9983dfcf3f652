"""A real chat model as its own oracle: reading a vector of each text, writing questions in its chat format. Derived in notebook 15."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course import files, lenses, pretrained
from mi_course.errors import CourseError
from mi_course.oracles.injection import Prompts, ask, checked_vectors, entering, prompts_of

PLACE = "<empty_output>"  # a token of SmolLM2's vocabulary that no text has


def placeholder(model) -> int:
    """The id of the placeholder in the vocabulary of `model`."""
    ids = model.tokenizer.encode(PLACE, add_special_tokens=False)
    if len(ids) != 1:
        raise CourseError(
            f"This model has no token {PLACE}: it cuts it into {len(ids)}. Choose another placeholder."
        )
    return ids[0]


def written(model, questions: list[str]) -> Prompts:
    """Questions as the chat model reads them: `<placeholder> question`, up to where its answer begins.

    Args:
        model: a bridge whose tokenizer has a chat template.
        questions: in words.
    """
    said = {
        question: pretrained.chat(model, f"{PLACE} {question}", system="")[0].tolist()
        for question in dict.fromkeys(questions)
    }
    longest = max(map(len, said.values()))
    if longest > model.cfg.n_ctx:
        raise CourseError(
            f"A question of {longest} tokens does not fit: this model reads n_ctx={model.cfg.n_ctx}."
        )
    return prompts_of([said[question] for question in questions], placeholder(model))


class Asked(NamedTuple):
    """Questions as a chat model reads them, and the streams with which they enter a layer, each different one once.

    Args:
        prompts: all of them.
        streams: before `layer`, one for each different prompt.
        which: the stream of each prompt.
        layer: before which vectors go in.
    """

    prompts: Prompts
    streams: Float[Tensor, "different pos d_model"]
    which: Int[Tensor, "row"]  # the stream of each prompt
    layer: int

    def logits(self, model, vectors, rows) -> Float[Tensor, "row d_vocab"]:
        """Logits of the answers to the prompts numbered `rows`, with `vectors` [row d_model]; gradients flow.

        Args:
            model: the oracle.
            vectors: one for each of these rows.
            rows: which prompts.
        """
        return ask(model, self.prompts.of(rows), vectors, self.layer, self.streams[self.which[rows]])

    @torch.no_grad()
    def all_logits(self, model, vectors, batch: int = 32) -> Float[Tensor, "row d_vocab"]:
        """The same for every prompt.

        Args:
            model: the oracle.
            vectors: one a prompt.
            batch: prompts at once.
        """
        vectors = checked_vectors(model, vectors, len(self.which))
        parts = torch.arange(len(vectors)).split(batch)
        return torch.cat([self.logits(model, vectors[part], part) for part in parts])


def asked(model, questions: list[str], layer: int, batch: int = 32) -> Asked:
    """Questions in words, written in the model's chat format and run up to `layer` once.

    Args:
        model: the target: below `layer` the oracle does not differ from it.
        questions: in words; many may be the same.
        layer: before which vectors will be put in.
        batch: prompts at once.
    """
    prompts = written(model, questions)
    different, which = prompts.tokens.unique(dim=0, return_inverse=True)
    return Asked(prompts, entering(model, different, layer, batch), which, layer)


def answer_ids(model, words: list[str]) -> Int[Tensor, "row"]:
    """The first token of each answer.

    Args:
        model: whose vocabulary.
        words: answers, as a chat model would begin its turn with them.
    """
    first = {word: model.tokenizer.encode(word, add_special_tokens=False)[0] for word in set(words)}
    return torch.tensor([first[word] for word in words])


@torch.no_grad()
def last_vectors(model, texts: list[str], layer: int, batch: int = 32) -> Float[Tensor, "row d_model"]:
    """The stream before `layer` at the last token of each text, in 32 bits.

    Args:
        model: the target.
        texts: of a few tokens to n_ctx.
        layer: 0 … n_layers.
        batch: texts at once, longest with longest.
    """
    ids = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    if not all(ids):
        raise CourseError(
            f"Text {next(i for i, row in enumerate(ids) if not row)} is empty: it has no last token."
        )
    found, n = {}, model.cfg.n_layers
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for some in (order[i : i + batch] for i in range(0, len(order), batch)):
        longest = max(len(ids[i]) for i in some)
        tokens = torch.tensor([ids[i] + [0] * (longest - len(ids[i])) for i in some])
        stream = model(tokens, stop_at_layer=layer) if layer < n else lenses.streams(model, tokens, [n])[n]
        found |= {i: stream[row, len(ids[i]) - 1].float() for row, i in enumerate(some)}
    return torch.stack([found[i] for i in range(len(ids))])


def identity(model) -> str:
    """Twelve digits of a model's embedding weights: an oracle's card names the model whose vectors it was trained on.

    They are the same whether the model is computed in 32 or in 16 bits.

    Args:
        model: any with `W_E`.
    """
    rows = model.W_E.detach()[:64].to(torch.bfloat16).contiguous()
    return hashlib.sha256(rows.view(torch.int16).numpy().tobytes()).hexdigest()[:12]


def load_update(name_or_path: str | Path, model) -> tuple[dict, dict]:
    """An oracle's update and its card, if it belongs to `model`; add it with `training.add_update` or `training.updated`.

    Args:
        name_or_path: a shipped oracle's name, or the path of a saved one.
        model: the target that it was trained from.
    """
    path = files.shipped_path(name_or_path, "target")
    tensors, card = files.read_checked(path)
    if "target" not in card:
        raise CourseError(f"{path} is no oracle: its card names no model whose activations it reads.")
    if card["target"] != identity(model):
        raise CourseError(
            f"{path.stem} was trained on another model's activations (its card names {card['target']}, this model "
            f"is {identity(model)}): an oracle reads the model it was copied from."
        )
    return tensors, card
