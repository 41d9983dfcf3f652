"""How to train: steps, rates and their schedule."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from mi_course.errors import CourseError, nearest, needs

OPTIMIZERS = ("adamw", "muon")


def schedule_rules(config) -> dict[str, bool]:
    """What steps, rate, warm-up and decay of any settings `config` must be, for `needs`."""
    return {
        "steps ≥ 1, a whole number": isinstance(config.steps, Integral) and config.steps >= 1,
        "lr > 0": config.lr > 0,
        "warmup ≥ 0, in steps": config.warmup >= 0,
        "0 ≤ decay_share ≤ 1": 0 <= config.decay_share <= 1,
    }


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are per step; the schedule is warm-up, plateau, linear decay to zero.

    Args:
        steps: how many.
        lr: of AdamW.
        optimizer: `adamw`, or `muon`: Muon for the matrices inside blocks, AdamW for everything else.
        muon_lr: of Muon.
        betas: of AdamW.
        weight_decay: of AdamW.
        warmup: steps in which the rate rises.
        decay_share: of the steps, at the end, in which it falls to 0.
        grad_clip: largest norm of the gradient; None: any.
        rates: (end of a parameter's name, factor on its learning rate), ….
        seed: of everything random inside the model; batches carry their own.
    """

    steps: int
    lr: float = 1e-3  # of AdamW
    optimizer: str = "adamw"  # muon: Muon for the matrices inside blocks, AdamW for everything else
    muon_lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    warmup: int = 50  # steps
    decay_share: float = 0.3  # of the steps, at the end
    grad_clip: float | None = None  # largest norm of the gradient
    rates: tuple[tuple[str, float], ...] = ()  # (end of a parameter's name, factor on its learning rate)
    seed: int = 0  # of everything random inside the model (dropout); batches carry their own

    def __post_init__(self):
        needs("A TrainConfig", {
            **schedule_rules(self),
            "muon_lr > 0": self.muon_lr > 0,
            "two betas, each 0 ≤ β < 1": len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "weight_decay ≥ 0": self.weight_decay >= 0,
            "grad_clip > 0, or None": self.grad_clip is None or self.grad_clip > 0,
            "factors ≥ 0 in rates": all(factor >= 0 for _, factor in self.rates),
        })  # fmt: skip
        if self.optimizer not in OPTIMIZERS:
            raise CourseError(
                f"There is no optimizer {self.optimizer!r}.{nearest(self.optimizer, OPTIMIZERS)}"
            )

    def rate(self, step: int) -> float:
        """The factor on every learning rate at a step, between 0 and 1."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return warm * min(1.0, left)
