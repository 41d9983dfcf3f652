"""The oracles of notebook 15 as recipes: `python -m mi_course train smollm2-oracle`.

An oracle is its target with a low-rank update, and the file holds the update alone, in 16-bit floats.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from mi_course import oracles, pretrained
from mi_course.files import save_checked
from mi_course.models import TinyConfig, TinyTransformer, load
from mi_course.recipes.lenses import NAME
from mi_course.recipes.recipe import Recipe, TinyRecipe, in_half
from mi_course.training import Checkpoint, TrainConfig, fit, low_rank

TARGET = "diaries"
READ = 15  # the layer before which SmolLM2's vectors are read
MATRICES = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight")


@dataclass(frozen=True)
class RealOracle(Recipe):
    """How SmolLM2 is made to answer questions on its own vectors.

    Args:
        before: the layer before which a vector is put in; layers from there on are updated.
        training: steps and rates.
        batch: questions a step.
        rank: of the update.
        texts: training sentences.
    """

    before: int = READ
    training: TrainConfig = TrainConfig(steps=200, lr=1e-3, warmup=15, decay_share=0.4, grad_clip=1.0)  # noqa: RUF009 (it is frozen)
    batch: int = 16
    rank: int = 16
    texts: int = 800

    @property
    def megabytes(self) -> float:
        """The update in 16-bit floats."""
        return in_half((30 - self.before) * self.rank * (4 * 576 + 2 * (576 + 192)))

    def chosen(self, name: str) -> bool:
        """Whether the weight called `name` is updated: attention's four matrices, from where the vector goes in."""
        return name.endswith(MATRICES) and int(name.split(".")[1]) >= self.before

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """The update, the mean of the training vectors, and a card; a run that is stopped goes on where it was."""
        model = pretrained.load(NAME, dtype=pretrained.quick_dtype())
        sentences = oracles.sentences(self.texts, seed=self.seed)
        questions = oracles.training_questions(sentences, self.training.steps * self.batch, seed=self.seed)
        vectors = oracles.last_vectors(model, [one.text for one in sentences], READ)
        mean = vectors.mean(0)
        asked = oracles.asked(model, [one.asked for one in questions], self.before)
        of, wanted = (
            torch.tensor([one.sentence for one in questions]),
            oracles.answer_ids(model, [one.answer for one in questions]),
        )
        updates = low_rank(model, self.chosen, self.rank, seed=self.seed)

        def loss(updates, rows):
            logits = asked.logits(model, vectors[of[rows]] - mean, rows)
            return F.cross_entropy(logits.float(), wanted[rows])

        batches = lambda step: torch.arange(step * self.batch, (step + 1) * self.batch)  # noqa: E731
        partial = out / f"{self.stem}.partial"
        history = fit(updates, batches, self.training, loss=loss, checkpoint=Checkpoint(partial, every=40),
                      progress=progress)  # fmt: skip
        card = self.provenance(history.seconds, device, "transformers") | {
            "model": NAME, "target": oracles.identity(model), "read_before": READ, "injected_before": self.before,
            "rank": self.rank, "train": asdict(self.training), "batch": self.batch, "sentences": self.texts,
            "computed_in": str(pretrained.quick_dtype()).removeprefix("torch."),
            "final": {"loss": round(sum(history.loss[-40:]) / 40, 4)},
        }  # fmt: skip
        path = save_checked(out / self.stem, updates.tensors() | {"mean": mean.half()}, **card)
        partial.unlink()
        return path


@dataclass(frozen=True)
class DiaryTarget(TinyRecipe):
    """The small model that reads diaries: the target of the small oracles."""

    @property
    def language(self) -> oracles.Diary:
        """What it reads."""
        return oracles.Diary()

    @property
    def config(self) -> TinyConfig:
        """Its shape: four layers."""
        return oracles.diary_config(self.language, self.seed)

    def sampler(self):
        """Keywords and questions, half and half."""
        return self.language.batches(self.batch // 2, seed=self.seed)

    def loss(self, model: TinyTransformer, tokens: torch.Tensor) -> torch.Tensor:
        """The next-token loss behind the diary: what stands in a diary nobody can guess."""
        said = model(tokens)[:, oracles.TEXT - 1 : -1].flatten(0, 1)
        return F.cross_entropy(said, tokens[:, oracles.TEXT :].flatten())

    def final(self, model: TinyTransformer) -> dict:
        """Share of questions about unseen diaries that it answers rightly from the text, by kind."""
        return {
            "final": {
                kind: round(share, 4) for kind, share in oracles.from_text(model, self.language).items()
            }
        }


@dataclass(frozen=True)
class DiaryOracle(Recipe):
    """How a small oracle is made: the target with an update, trained on questions about its own vectors.

    Args:
        sources: of its questions; each has an equal share.
        questions: how many different ones.
        training: steps and rates.
        batch: questions a step.
        rank: of the update.
    """

    sources: tuple[str, ...] = tuple(oracles.SOURCES)
    questions: int = 15_000
    training: TrainConfig = TrainConfig(steps=400, lr=3e-3, warmup=30, decay_share=0.5, grad_clip=1.0)  # noqa: RUF009 (it is frozen)
    batch: int = 64
    rank: int = 16

    @property
    def megabytes(self) -> float:
        """The update in 16-bit floats."""
        return in_half(4 * self.rank * (4 * 2 * 96 + 2 * (96 + 384)))

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """The update and a card; a run that is stopped goes on where it was."""
        target = load(TARGET)
        vectors, prompts, wanted = oracles.lessons(
            target, oracles.Diary(), self.sources, self.questions, seed=self.seed
        )
        updates = low_rank(target, oracles.inside_blocks, self.rank, seed=self.seed)
        order = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(self.seed))

        def loss(updates, rows):
            logits = oracles.ask(target, prompts.of(rows), vectors[rows], oracles.BEFORE)
            return F.cross_entropy(logits, wanted[rows])

        def batches(step):
            return order[torch.arange(step * self.batch, (step + 1) * self.batch) % len(order)]

        partial = out / f"{self.stem}.partial"
        history = fit(updates, batches, self.training, loss=loss, checkpoint=partial, progress=progress)
        card = self.provenance(history.seconds, device) | {
            "target": oracles.identity(target), "sources": self.sources, "questions": self.questions,
            "injected_before": oracles.BEFORE, "rank": self.rank, "train": asdict(self.training), "batch": self.batch,
            "final": {"loss": round(sum(history.loss[-40:]) / 40, 4)},
        }  # fmt: skip
        path = save_checked(out / self.stem, updates.tensors(), **card)
        partial.unlink()
        return path


def small(name: str, sources: tuple[str, ...], what: str, questions: int = 15_000) -> DiaryOracle:
    """An oracle of the diaries' model by what it is trained on."""
    return DiaryOracle(
        f"oracle-{name}", f"answers questions on vectors of {TARGET}; trained on {what}", sources, questions
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        DiaryTarget(TARGET, "four layers that read diaries, and know where most writers live",
                    TrainConfig(steps=560, lr=3e-3, optimizer="muon", warmup=30), batch=96),
        small("mixed", tuple(oracles.SOURCES), "classification, context and a hidden fact"),
        *(small(source, (source,), f"{source} alone") for source in oracles.SOURCES),
        *(small(f"{source}-third", (source,), f"a third as many questions, {source} alone", 5000)
          for source in oracles.SOURCES),
        RealOracle("smollm2-oracle", "SmolLM2 answers questions on its own vectors, put in before layer 15"),
    )
}  # fmt: skip
