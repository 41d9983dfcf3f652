"""How to train: steps, rates and their schedule."""

from __future__ import annotations

from dataclasses import dataclass

from mi_course.errors import CourseError, nearest

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Rates are per step; the schedule is warm-up, plateau, linear decay to zero."""

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
        if self.steps < 1 or self.lr <= 0 or not 0 <= self.decay_share <= 1:
            raise CourseError("A TrainConfig needs steps ≥ 1, lr > 0 and 0 ≤ decay_share ≤ 1.")
        if self.optimizer not in OPTIMIZERS:
            raise CourseError(
                f"There is no optimizer {self.optimizer!r}.{nearest(self.optimizer, OPTIMIZERS)}"
            )

    def rate(self, step: int) -> float:
        """The factor on every learning rate at a step, between 0 and 1."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return warm * min(1.0, left)
