"""The oracles of notebook 15 as recipes: `python -m mi_course train smollm2-oracle`.

An oracle is its target with a low-rank update, and the file holds the update alone, in 16-bit floats.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from mi_course import oracles, pretrained
from mi_course.files import save_checked
from mi_course.recipes.lenses import in_half
from mi_course.recipes.recipe import Recipe
from mi_course.training import Checkpoint, TrainConfig, fit, low_rank

NAME = "smollm2-135m-instruct"
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
    training: TrainConfig = TrainConfig(steps=360, lr=1e-3, warmup=20, decay_share=0.4, grad_clip=1.0)  # noqa: RUF009 (it is frozen)
    batch: int = 16
    rank: int = 16
    texts: int = 1000

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
        of, wanted = torch.tensor([one.sentence for one in questions]), oracles.answer_ids(model, questions)
        updates = low_rank(model, self.chosen, self.rank, seed=self.seed)

        def loss(updates, rows):
            logits = asked.logits(model, vectors[of[rows]] - mean, rows)
            return F.cross_entropy(logits.float(), wanted[rows])

        batches = lambda step: torch.arange(step * self.batch, (step + 1) * self.batch)  # noqa: E731
        partial, began = out / f"{self.stem}.partial", time.perf_counter()
        history = fit(updates, batches, self.training, loss=loss, checkpoint=Checkpoint(partial, every=40),
                      progress=progress)  # fmt: skip
        card = self.provenance(history.seconds or time.perf_counter() - began, device, "transformers") | {
            "model": NAME, "target": oracles.identity(model), "read_before": READ, "injected_before": self.before,
            "rank": self.rank, "train": asdict(self.training), "batch": self.batch, "sentences": self.texts,
            "computed_in": str(pretrained.quick_dtype()).removeprefix("torch."),
            "final": {"loss": round(sum(history.loss[-40:]) / 40, 4)},
        }  # fmt: skip
        path = save_checked(out / self.stem, updates.tensors() | {"mean": mean.half()}, **card)
        partial.unlink()
        return path


RECIPES = {
    recipe.name: recipe
    for recipe in (
        RealOracle("smollm2-oracle", "SmolLM2 answers questions on its own vectors, put in before layer 15"),
        RealOracle("smollm2-oracle-early", "the same, put in after layer 1", before=2,
                   training=TrainConfig(steps=320, lr=1e-3, warmup=20, decay_share=0.4, grad_clip=1.0)),
    )
}  # fmt: skip
