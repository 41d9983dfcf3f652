"""What happened in a run."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mi_course.errors import CourseError, nearest


@dataclass(repr=False)
class History:
    """What happened: one entry a step in `loss` (nats) and `lr`, one dict (with its `step`) an evaluation or a note.

    Args:
        loss: of each step, in nats where it is a next-token loss.
        lr: the learning rate of each step.
        tokens: how many were seen in all (or samples).
        seconds: how long it took.
        evaluations: what `evaluate` measured, with its step.
        notes: of callbacks after a step, in passing.
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    evaluations: list[dict] = field(default_factory=list)
    notes: list[dict] = field(default_factory=list)  # of callbacks after a step, in passing

    def __repr__(self) -> str:
        """One line: how long, how far, how much."""
        fell = f"loss {self.loss[0]:.3f} → {self.loss[-1]:.3f}, " if self.loss else ""
        return f"History({len(self.loss):,} steps, {fell}{self.tokens:,} tokens or samples, {self.seconds:.1f} s)"

    @property
    def steps(self) -> range:
        return range(len(self.loss))

    def record(self, step: int, loss: float, lr: float, batch: Tensor, seconds: float, noted: dict) -> None:
        """What there is to remember of one `step`.

        Its `loss`, its rate `lr`, its `batch` (which is counted), the `seconds` since the start, and what callbacks
        `noted`.
        """
        self.loss.append(loss)
        self.lr.append(lr)
        self.tokens += len(batch) if batch.is_floating_point() else batch.numel()
        self.seconds = seconds
        if noted:
            self.notes.append({"step": step + 1, **noted})

    def series(self, name: str) -> tuple[list[int], list]:
        """Steps and values of one evaluated or noted quantity, `name`."""
        rows = [row for row in (*self.evaluations, *self.notes) if name in row]
        if not rows:
            known = {key for row in (*self.evaluations, *self.notes) for key in row} - {"step"}
            raise CourseError(f"Nothing called {name!r} was evaluated.{nearest(name, known)}")
        return [row["step"] for row in rows], [row[name] for row in rows]

    def smoothed(self, width: int = 20) -> list[float]:
        """The loss as a running mean over `width` steps."""
        total = torch.tensor([0.0, *self.loss], dtype=torch.double).cumsum(0)
        end = torch.arange(1, len(self.loss) + 1)
        start = (end - width).clamp_min(0)
        return ((total[end] - total[start]) / (end - start)).tolist()

    def plot(self, title: str, alt: str, caption: str = "", width: int = 20):
        """The loss against the step, as a figure.

        `title`, `alt` and `caption` are the figure's words; each point is a mean over `width` steps.
        """
        from mi_course import plots

        return plots.line(
            list(self.steps), {"training loss": self.smoothed(width)},
            xlabel="step", ylabel="loss (nats per token)", title=title, alt=alt, caption=caption,
        )  # fmt: skip


class TrainingDiverged(CourseError):
    """The loss is not a number any more; `history` holds all that came before.

    `step` is where, `loss` what it became, `lr` the rate then.
    """

    def __init__(self, step: int, loss: float, lr: float, history: History):
        super().__init__(
            f"Training stopped at step {step}: the loss is {loss} at learning rate {lr:.3g}. "
            "Try a tenth of that rate, or grad_clip=1."
        )
        self.history = history
