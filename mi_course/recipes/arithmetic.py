"""The runs of notebook 09 as recipes: `python -m mi_course train grokking`.

A file holds one run: its curves at every look, and of some looks the weights in 16-bit floats.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from mi_course import grokking
from mi_course.files import read_checked, save_checked
from mi_course.recipes.recipe import Recipe
from mi_course.training import TrainConfig

LOOKS = (*range(0, 400, 10), *range(400, 10**5, 50))


@dataclass(frozen=True)
class GrokkingRecipe(Recipe):
    """How one run is made."""

    training: TrainConfig
    task: dict = field(default_factory=dict)  # fields of Task
    kept: tuple[int, ...] = ()  # steps whose weights are shipped
    seeds: tuple[int, ...] = (0,)  # that are shipped

    @property
    def megabytes(self) -> float:
        """Size of one seed's file, about: curves, and so many times the weights."""
        sizes = sum(W.numel() for W in grokking.network(self.table.p).parameters())
        return round(0.1 + len(self.kept) * 2 * sizes / 1e6, 1)

    @property
    def table(self) -> grokking.Task:
        """What it is trained on."""
        return grokking.Task(**self.task, seed=self.seed)

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Curves, weights and card. A stopped run starts anew: it takes minutes."""
        task, began = self.table, time.perf_counter()
        looks = [step for step in LOOKS if step <= self.training.steps]
        model = grokking.network(task.p, self.seed)
        run = grokking.train(model, task, self.training, every=looks, progress=progress)
        seconds = time.perf_counter() - began
        tensors = run.curves | spectra_of(run)
        if run.grokked:
            tensors |= progress_of(run)
        kept = [step for step in self.kept if step in run.kept]
        pick = [run.kept.index(step) for step in kept]
        if kept:
            tensors |= {name: W[pick].half() for name, W in run.weights._asdict().items()}
        tensors |= {"step": run.steps, "kept": torch.tensor(kept, dtype=torch.long)}
        card = self.provenance(seconds, device) | {
            "task": {**self.task, "seed": self.seed}, "train": asdict(self.training), "verdict": run.verdict(),
        }  # fmt: skip
        return save_checked(out / self.stem, tensors, **card)

    def report(self, path: Path) -> str:
        """Whether it grokked, and when."""
        _, card = read_checked(path)
        return f"{card['what']}\n{card['minutes']:g} min, seed {card['seed']}: {card['verdict']}"


def spectra_of(run: grokking.Run) -> dict[str, Tensor]:
    """The norms of every frequency in W_E and W_L at every look."""
    norms, p = grokking.frequency_norms, run.task.p
    return {
        "spectrum_E": torch.stack([norms(W_E[:p].T) for W_E in run.weights.W_E]).float(),
        "spectrum_L": torch.stack([norms(W_L) for W_L in run.weights.W_L]).float(),
    }


def progress_of(run: grokking.Run) -> dict[str, Tensor]:
    """The progress measures at every look, for the key frequencies of the run's end, and which those are."""
    key = grokking.key_frequencies(grokking.frequency_norms(run.end.W_L))
    others = grokking.other_frequencies(run.task.p, key)
    rows = [grokking.measures(run.weights.of(i), run.task, key, others) for i in range(len(run.kept))]
    curves = {name: torch.tensor([row[name] for row in rows]).double() for name in rows[0]}
    return curves | {"key": torch.tensor(key)}


@dataclass(frozen=True)
class SweepRecipe(Recipe):
    """How a phase diagram is made: weight decay × share of the pairs, all networks in one program."""

    small: grokking.Small
    p: int
    decays: tuple[float, ...]
    fractions: tuple[float, ...]
    megabytes: float = field(default=0.01, kw_only=True)

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """t₁, t₂ and test accuracy of every network, and a card."""
        began = time.perf_counter()
        small = replace(self.small, seed=self.seed)
        found = grokking.sweep(*grokking.grid(self.p, self.decays, self.fractions), small, progress)
        card = self.provenance(time.perf_counter() - began, device) | {
            "task": {"p": self.p}, "decays": self.decays, "fractions": self.fractions, "small": asdict(small),
        }  # fmt: skip
        names = ("fitted_at", "generalised_at", "test_accuracy")
        return save_checked(out / self.stem, {name: getattr(found, name) for name in names}, **card)


def recipe(
    name: str, what: str, steps: int = 2500, lr: float = 3e-3, decay: float = 1.0, **rest
) -> GrokkingRecipe:
    """One of this notebook's, p = 113."""
    return GrokkingRecipe(name, what, grokking.setting(steps, lr, decay), **rest)


RECIPES = {
    one.name: one
    for one in (
        recipe("grokking", "a + b modulo 113 from 30% of the pairs, lr 3e-3, weight decay 1",
               steps=3500, kept=(100, 500, 1500, 3500), seeds=(0, 1, 2)),
        recipe("grokking-published", "the same at the paper's rate, lr 1e-3", steps=12_000, lr=1e-3),
        recipe("grokking-no-decay", "the same without weight decay", steps=2500, decay=0.0),
        recipe("grokking-shuffled", "the same with answers dealt out anew: there is no rule", task={"shuffled": True}),
        SweepRecipe("grokking-sweep", "small networks modulo 31: weight decay × share of the pairs",
                    grokking.Small(64, 128, 4, steps=1000), 31,
                    (0.0, 1.0, 2.0, 3.0, 4.0), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
    )
}  # fmt: skip
