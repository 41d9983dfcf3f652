"""What patches give: the score of every one, with its axes.

Derived in notebook 06.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course import plots
from mi_course.errors import CourseError
from mi_course.patching.metrics import normalised


@dataclass(frozen=True, eq=False, repr=False)
class PatchResult:
    """The score of every patch, with its axes: `scores` [*axes] are means over prompts of `per_prompt` [*axes batch]."""

    per_prompt: Float[Tensor, "*axes batch"]
    axes: dict[str, list]
    direction: str
    metric: str
    clean: float  # score of the clean run
    corrupted: float
    what: str
    approximate: bool = False

    @property
    def scores(self) -> Float[Tensor, "*axes"]:
        """The metric itself, mean over prompts."""
        return self.per_prompt.mean(-1)

    @property
    def values(self) -> Float[Tensor, "*axes"]:
        """Normalised scores: 0 is the corrupted run and 1 the clean one, whatever the direction."""
        return normalised(self.scores, self.corrupted, self.clean)

    @property
    def effect(self) -> Float[Tensor, "*axes"]:
        """The share of the gap a patch moves: towards clean when denoising, towards corrupted when noising."""
        return self.values if self.direction == "denoising" else 1 - self.values

    def __float__(self) -> float:
        """The normalised value of a single patch: 0 the corrupted run, 1 the clean one."""
        if self.axes:
            raise CourseError(f"This result has the axes {', '.join(self.axes)}: it is not one number.")
        return float(self.values)

    def __repr__(self) -> str:
        axes = " × ".join(f"{name} {len(labels)}" for name, labels in self.axes.items())
        value = "" if self.axes or self.clean == self.corrupted else f", value {float(self):.3f}"
        about = "estimated " if self.approximate else ""
        return (
            f"PatchResult({self.what}: {about}{self.direction}, {self.metric}, {axes or 'one patch'}{value})"
        )

    def at(self, **where) -> PatchResult:
        """The part with the given labels: `result.at(layer=1, head=0)`."""
        per_prompt, axes = self.per_prompt, dict(self.axes)
        for name, label in where.items():
            if name not in axes or label not in axes[name]:
                raise CourseError(f"There is no {name}={label!r} here: the axes are {', '.join(self.axes)}.")
            per_prompt = per_prompt.select(list(axes).index(name), axes.pop(name).index(label))
        return PatchResult(per_prompt, axes, self.direction, self.metric, self.clean, self.corrupted,
                           self.what, self.approximate)  # fmt: skip

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """The n patches with the largest effects, of either sign, as (label, effect)."""
        flat = self.effect.flatten()
        best = flat.abs().argsort(descending=True, stable=True)[:n]
        places = torch.unravel_index(best, self.effect.shape)
        return [
            (self._label([int(p[i]) for p in places]), float(flat[j])) for i, j in enumerate(best.tolist())
        ]

    def _label(self, place: Sequence[int]) -> str:
        at = {name: labels[i] for (name, labels), i in zip(self.axes.items(), place)}
        if "sender" in at:
            return f"{at['sender']} → {at['receiver']}"
        part = "".join(f".{at[name]}" for name in ("head", "unit") if name in at)
        layer = f" {at['layer']}" if "layer" in at else ""
        where = [str(at[name]) for name in ("pos", "query", "key") if name in at]
        return f"{self.what}{layer}{part}" + (f" @{'←'.join(where)}" if where else "")

    def plot(self, *, title: str = "", caption: str = "", tokens: Sequence | None = None) -> plots.Figure:
        """A heat map of the effects (bars where there is one axis), positions named by `tokens`."""
        effect, names = self.effect.detach().cpu(), list(self.axes)
        labels = {name: [str(label) for label in self.axes[name]] for name in names}
        if tokens is not None and "pos" in labels:
            labels["pos"] = [tokens[i] for i in self.axes["pos"]]
        unit = f"effect on {self.metric}" + (", estimated" if self.approximate else "")
        words = {
            "title": title or f"{self.what}, {self.direction}: share of the gap that each patch moves",
            "caption": caption, "alt": f"Largest effects: {', '.join(f'{k} {v:.2f}' for k, v in self.top(5))}.",
        }  # fmt: skip
        if len(names) == 1:
            return plots.bars(labels[names[0]], effect, ylabel=unit, xlabel=names[0], **words)
        if len(names) == 3:  # layer and part on one side
            labels = {f"{names[0]}.{names[1]}": [f"{a}.{b}" for a in labels[names[0]] for b in labels[names[1]]],
                      names[2]: labels[names[2]]}  # fmt: skip
            effect, names = effect.flatten(0, 1), list(labels)
        if len(names) != 2:
            raise CourseError(
                f"{len(names)} axes do not fit a picture: take a part with `at(…)`, or print it."
            )
        return plots.heatmap(effect, ylabels=labels[names[0]], xlabels=labels[names[1]], ylabel=names[0],
                             xlabel=names[1], unit=unit, signed=True, **words)  # fmt: skip
