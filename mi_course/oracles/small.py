"""The small target and its oracles: vectors at the colon, lessons, and the same questions put to the text. Derived in notebook 15."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.lenses.streams import streams
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.oracles.diaries import PARTS, SOURCES, Asking, Diaries, Diary
from mi_course.oracles.injection import Prompts, answers

READ = 3  # the layer before which a vector is read: three quarters of the depth
BEFORE = 2  # the layer before which it goes in: after layer 1


def diary_config(language: Diary, seed: int = 0) -> TinyConfig:
    """The shape of the target: four layers.

    Args:
        language: whose vocabulary.
        seed: of the starting weights.
    """
    return TinyConfig(n_layers=4, n_heads=4, d_model=96, d_vocab=language.d_vocab, n_ctx=32, d_mlp=384, act="gelu",
                      norm="rmsnorm", positions="rotary", seed=seed)  # fmt: skip


@torch.no_grad()
def colon_vectors(
    target: TinyTransformer, language: Diary, diaries: Diaries, layer: int = READ
) -> Float[Tensor, "row d_model"]:
    """The stream before `layer` at the colon that ends each diary.

    Args:
        target: that reads.
        language: the diaries'.
        diaries: what it reads.
        layer: 0 … n_layers.
    """
    parts = language.read_at(diaries).split(512)
    return torch.cat([streams(target, part, [layer])[layer][:, -1] for part in parts])


def prompts(language: Diary, asking: Asking) -> Prompts:
    """Questions as an oracle reads them, with the placeholder at position 1.

    Args:
        language: the diaries'.
        asking: the questions.
    """
    tokens = language.prompts(asking)
    return Prompts(
        tokens, torch.ones(len(tokens), dtype=torch.long), torch.full((len(tokens),), tokens.shape[1] - 1)
    )


def lessons(
    target: TinyTransformer, language: Diary, sources, n: int, *, seed: int = 0
) -> tuple[Float[Tensor, "row d_model"], Prompts, Int[Tensor, "row"]]:
    """What an oracle is trained on: vectors, prompts, right answers; each question about a diary of its own.

    Args:
        target: whose vectors.
        language: the diaries'.
        sources: names in `SOURCES`, in equal shares.
        n: how many questions.
        seed: of everything drawn.
    """
    rng, kinds = generator(seed, 70), [kind for source in sources for kind in SOURCES[source]]
    shares = [n // len(sources) // len(SOURCES[source]) for source in sources for _ in SOURCES[source]]
    diaries = [language.draw(share, rng, held=False) for share in shares]
    asked = [language.ask(some, kind, rng, held=False) for some, kind in zip(diaries, kinds, strict=True)]
    vectors = torch.cat([colon_vectors(target, language, some) for some in diaries])
    parts = [prompts(language, one) for one in asked]
    together = Prompts(*(torch.cat(same) for same in zip(*parts, strict=True)))
    return vectors, together, torch.cat([one.answer for one in asked])


def inside_blocks(name: str) -> bool:
    """Whether a weight called `name` is a matrix of attention or of an MLP: what an update changes."""
    return name.startswith("blocks.") and name.rpartition(".")[2].startswith("W_")


def right(oracle: TinyTransformer, language: Diary, asking: Asking, vectors) -> Tensor:
    """Which questions the oracle answers rightly, [row] of True and False.

    Args:
        oracle: asked.
        language: the diaries'.
        asking: the questions.
        vectors: [row d_model], one a question.
    """
    return answers(oracle, prompts(language, asking), vectors, BEFORE) == asking.answer


@torch.no_grad()
def right_from_text(model: TinyTransformer, language: Diary, diaries: Diaries, asking: Asking) -> Tensor:
    """Which questions a model answers rightly that reads the diary and the question, [row].

    Args:
        model: asked.
        language: the diaries'.
        diaries: what it reads.
        asking: about them.
    """
    tokens = language.in_text(diaries, asking)[:, :-2]
    return torch.cat([model(part)[:, -1].argmax(-1) for part in tokens.split(512)]) == asking.answer


def from_text(model: TinyTransformer, language: Diary, n: int = 500, *, seed: int = 9) -> dict[str, float]:
    """Share of questions answered rightly from the text, by kind.

    Args:
        model: asked.
        language: the diaries'.
        n: diaries.
        seed: of the draw.
    """
    rng = generator(seed, 71)
    diaries = language.draw(n, rng)
    return {
        kind: float(
            right_from_text(model, language, diaries, language.ask(diaries, kind, rng)).double().mean()
        )
        for kind in PARTS
    }
