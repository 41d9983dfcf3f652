"""What every recipe knows and can do; whoever asks for one need not ask what kind it is."""

from __future__ import annotations

import platform
from dataclasses import KW_ONLY, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mi_course import files
from mi_course.corpora import Sampler
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.training import TrainConfig, fit


@dataclass(frozen=True)
class Recipe:
    """How one family of shipped checkpoints is made: seed 0 as NAME, others as NAME-seed1, NAME-seed2, …

    Args:
        name: NAME.
        what: one line on what it is.
        seed: of what is trained.
        device: where the shipped one was trained, on one thread.
        devices: where it can be trained.
        shares_batches: whether the processes of torchrun can share its batches.
    """

    name: str
    what: str  # one line
    _: KW_ONLY
    seed: int = 0
    device: str = "cpu"  # it was trained on, one thread
    devices: tuple[str, ...] = ("cpu",)  # it can be trained on
    shares_batches: bool = False  # among the processes of torchrun

    @property
    def minutes(self) -> float:
        """Of training, as the card says; NaN where it is not shipped."""
        return files.minutes_of(self.name)

    @property
    def megabytes(self) -> float:
        """Size of one seed's file; NaN where it is not known before."""
        raise NotImplementedError

    @property
    def stem(self) -> str:
        """The name its files have."""
        return self.name + (f"-seed{self.seed}" if self.seed else "")

    def seeded(self, seed: int) -> Recipe:
        """The same recipe with another seed."""
        return replace(self, seed=seed)

    def in_shards(self) -> Recipe:
        """The same, its dictionary cut among the processes of torchrun."""
        raise CourseError(
            f"{self.name} is no autoencoder: --shard cuts the dictionaries of the sae-… recipes."
        )

    def train(
        self,
        seed: int | None = None,
        out: str | Path | None = None,
        device: str | torch.device = "cpu",
        progress: bool = True,
    ) -> Path:
        """Train it and write weights and card to `out` (default: `data/checkpoints`); a stopped run goes on.

        `seed` makes another one (default: the recipe's own), `device` is one of its `devices`; `progress` shows a
        bar.
        """
        recipe = self if seed is None or seed == self.seed else self.seeded(seed)
        return recipe.make(Path(out or files.checkpoints()), self.checked(str(device)), progress)

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """What `train` does, with everything settled; returns the file of the weights.

        Weights and card go to `out`; `device` is checked, and `progress` shows a bar.
        """
        raise NotImplementedError

    def report(self, path: Path) -> str:
        """What the trained file at `path` turned out to be, as text; nothing more to say than where it is: empty."""
        return ""

    def checked(self, device: str) -> str:
        """The device, if this recipe trains on it and this machine has it."""
        kind = device.partition(":")[0]
        if kind not in self.devices or (kind == "cuda" and not torch.cuda.is_available()):
            gpu = ", or 'cuda' where there is a GPU" if "cuda" in self.devices else ""
            raise CourseError(
                f"{self.name} has no device {device!r} here: it trains on the CPU ('cpu'){gpu}."
            )
        return device

    def provenance(self, seconds: float, device: str, *packages: str) -> dict[str, Any]:
        """What every card says of its run; of packages besides torch, the versions that matter.

        Training took so many `seconds` on `device`; `packages` are names as pip knows them.
        """
        return {
            "recipe": self.name, "seed": self.seed, "what": self.what, "minutes": round(seconds / 60, 1), "device": device,
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", *packages)},
        }  # fmt: skip


def in_half(numbers: int) -> float:
    """Megabytes of so many `numbers` in 16-bit floats."""
    return round(numbers * 2 / 1e6, 1)


@dataclass(frozen=True)
class TinyRecipe(Recipe):
    """A small transformer that is trained from nothing and shipped in 16-bit floats.

    A kind of it says its `config`, the batches it reads (`sampler`) and what is measured at the end (`final`).

    Args:
        training: steps, rate and optimiser.
        batch: sequences a step.
    """

    training: TrainConfig
    batch: int = 16

    @property
    def config(self) -> TinyConfig:
        """Its shape."""
        raise NotImplementedError

    def begin(self) -> TinyTransformer:
        """The model before its first step."""
        return TinyTransformer(self.config)

    def sampler(self) -> Sampler:
        """What it reads, step by step."""
        raise NotImplementedError

    def loss(self, model: TinyTransformer, tokens: Tensor) -> Tensor:
        """What falls: the next-token loss of `model` on a batch of `tokens`, unless a kind of recipe says another."""
        return model(tokens, return_type="loss")

    def final(self, model: TinyTransformer) -> dict[str, Any]:
        """What the card says of the `model` as it is saved; its 16-bit numbers are computed in 32 bits."""
        raise NotImplementedError

    @property
    def megabytes(self) -> float:
        """Weights in 16-bit floats."""
        return in_half(sum(p.numel() for p in TinyTransformer(self.config).parameters()))

    def make(self, out: Path, device: str, progress: bool) -> Path:
        """Weights and a card with what `final` measures of what was saved."""
        model, partial = self.begin(), out / f"{self.stem}.partial"
        history = fit(
            model, self.sampler(), self.training, loss=self.loss, checkpoint=partial, progress=progress
        )
        with torch.no_grad():
            measured = self.final(model.half().float().eval())
        card = self.provenance(history.seconds, device) | {"tokens": history.tokens} | measured
        path = model.save(out / self.stem, half=True, **card)
        partial.unlink()
        return path
