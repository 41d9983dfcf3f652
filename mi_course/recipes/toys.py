"""The paper-sized toy models of notebook 04 as one recipe: `python -m mi_course train toy-paper-scale`.

Two of Elhage et al.'s (2022) experiments are too large for a live cell: 400 equal features in 30 dimensions, and
the best of 1000 fits of the model with a ReLU on its hidden layer. The recipe trains both part by part; a run that
is interrupted goes on where it was, and the parts do not change the result of any model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mi_course import superposition as toy
from mi_course.files import checkpoints, read_checked, save_checked
from mi_course.recipes.recipe import Recipe
from mi_course.training import History


@dataclass(frozen=True)
class Stage:
    """One experiment: every density gets `restarts` models, which train in parts that fit the processor's cache."""

    shape: toy.ToyConfig
    densities: tuple[float, ...]
    ratio: float = 1.0  # I_i = ratio^i
    restarts: int = 1
    steps: int = 2500
    batch: int = 512
    lr: float = 5e-3
    densities_at_a_time: int = 24
    restarts_at_a_time: int = 1

    def parts(self) -> list[tuple[range, range]]:
        """Indices of densities and of restarts, one pair a training run."""
        rows = [range(i, min(i + self.densities_at_a_time, len(self.densities)))
                for i in range(0, len(self.densities), self.densities_at_a_time)]  # fmt: skip
        cols = [range(i, min(i + self.restarts_at_a_time, self.restarts))
                for i in range(0, self.restarts, self.restarts_at_a_time)]  # fmt: skip
        return [(row, col) for row in rows for col in cols]

    def world(self, rows: range, restarts: int) -> toy.Features:
        """The features of one part: densities one after another, each for all its restarts."""
        density = torch.tensor([self.densities[i] for i in rows]).repeat_interleave(restarts)[:, None]
        return toy.Features(self.shape.n, density, importance=toy.importances(self.shape.n, self.ratio))


def densities(lowest: float, count: int) -> tuple[float, ...]:
    """From 1 down to `lowest`, evenly on a logarithm."""
    return tuple(round(float(p), 4) for p in torch.logspace(0, torch.tensor(lowest).log10().item(), count))


@dataclass(frozen=True)
class ToyRecipe(Recipe):
    """How a family of toy models is made."""

    stages: dict[str, Stage] = field(default_factory=dict)
    devices: tuple[str, ...] = field(default=("cpu", "cuda"), kw_only=True)

    @property
    def megabytes(self) -> float:
        """Size of the shipped file."""
        weights = checkpoints() / f"{self.name}.safetensors"
        return round(weights.stat().st_size / 1e6, 1) if weights.exists() else float("nan")

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """All stages: weights, biases, losses and card; every part resumes from its own checkpoint."""
        tensors, seconds, partials = {}, 0.0, []
        for name, stage in self.stages.items():
            found = []
            for number, (rows, cols) in enumerate(stage.parts()):
                partials.append(out / f"{self.stem}.{name}-{number}.partial")
                if progress:
                    print(f"{name}, part {number + 1} of {len(stage.parts())}")
                models, losses, history = train_part(
                    stage, rows, cols, self.seed, device, partials[-1], progress
                )
                found.append((models, losses))
                seconds += history.seconds
            tensors |= {f"{name}.{key}": value for key, value in gather(stage, found).items()}
        stages = {name: asdict(stage) for name, stage in self.stages.items()}
        card = self.provenance(seconds, device) | {"stages": stages, "final": outcome(tensors)}
        path = save_checked(out / self.stem, tensors, **card)
        for partial in partials:
            partial.unlink()
        return path

    def report(self, path: Path) -> str:
        """What the models turned out to be, as a small table of text."""
        _, card = read_checked(path)
        out = [f"{card['what']}\n{card['minutes']:g} min on {card['device']}, seed {card['seed']}"]
        for stage, columns in card["final"].items():
            out.append(f"\n{stage}\n" + "  ".join(columns))
            for row in zip(*columns.values(), strict=True):
                out.append(
                    "  ".join(f"{value:>{len(name)}g}" for name, value in zip(columns, row, strict=True))
                )
        return "\n".join(out)


PAPER_SCALE = ToyRecipe(
    "toy-paper-scale",
    "toy models of superposition at the paper's size: n = 400, m = 30; best of 1000 with a ReLU hidden layer",
    {
        "uniform": Stage(toy.ToyConfig(400, 30), densities(0.01, 24), densities_at_a_time=4),
        "hidden": Stage(
            toy.ToyConfig(10, 5, hidden="relu"), (1.0, 0.7, 0.5, 0.3, 0.2, 0.08, 0.05, 0.02), ratio=0.75,
            restarts=1000, steps=2000, batch=128, densities_at_a_time=8, restarts_at_a_time=100,
        ),
    },
)  # fmt: skip
RECIPES = {PAPER_SCALE.name: PAPER_SCALE}


def train_part(
    stage: Stage, rows: range, cols: range, seed: int, device: str, checkpoint: Path, progress: bool
) -> tuple[toy.ToyModels, Tensor, History]:
    """The models of one part, their expected losses [inst], and what happened.

    A model's seed depends on its restart alone and all models see the same batches: parts change nothing.
    """
    seeds = [10**6 * seed + restart for _ in rows for restart in cols]
    models = toy.ToyModels(stage.shape, seeds).to(device)
    world = stage.world(rows, len(cols))
    history = toy.train(
        models, world, stage.steps, stage.lr, stage.batch, seed, checkpoint=checkpoint, progress=progress
    )
    models = models.cpu()
    return models, world.expected_losses(models, samples=2**14, chunk=2**9), history


def gather(stage: Stage, found: list[tuple[toy.ToyModels, Tensor]]) -> dict[str, Tensor]:
    """W and b of the best restart at each density, every restart's loss and count of monosemantic neurons."""
    per_part = [
        [part.view(len(rows), len(cols), *part.shape[1:]) for part in (models.W.detach(), models.b.detach(), losses)]
        for (models, losses), (rows, cols) in zip(found, stage.parts(), strict=True)
    ]  # fmt: skip
    per_row = {rows: [] for rows, _ in stage.parts()}
    for (rows, _), part in zip(stage.parts(), per_part, strict=True):
        per_row[rows].append(part)
    W, b, losses = (
        torch.cat([torch.cat([part[i] for part in parts], 1) for parts in per_row.values()]) for i in range(3)
    )  # density restart …
    best = losses.argmin(1)
    pick = torch.arange(len(best)), best
    return {
        "density": torch.tensor(stage.densities), "W": W[pick].half(), "b": b[pick].half(), "loss": losses,
        "monosemantic": toy.monosemantic(W).sum(-1).to(torch.uint8),
    }  # fmt: skip


def rounded(values, digits: int = 3) -> list[float]:
    """Plain numbers, for a card."""
    return [round(float(value), digits) for value in values]


def outcome(tensors: dict[str, Tensor]) -> dict:
    """What the models turned out to be, one entry a density; goes into the card."""
    lines = {}
    for stage in sorted({name.split(".")[0] for name in tensors}):
        density, W = tensors[f"{stage}.density"], tensors[f"{stage}.W"].float()
        there, D = toy.represented(W), toy.feature_dimensionality(W)
        lines[stage] = {
            "density": rounded(density, 4),
            "represented": there.sum(-1).tolist(),
            "dimensions_per_feature": rounded(1 / toy.features_per_dimension(W)),
            "near_one_half": rounded((((D - 0.5).abs() <= 0.03) & there).sum(-1) / there.sum(-1).clamp_min(1)),
            "sum_of_D": rounded(D.sum(-1), 2),
            "monosemantic_neurons": toy.monosemantic(W).sum(-1).tolist(),
        }  # fmt: skip
    return lines
