"""What patches give: the score of every one, with its axes.

Derived in notebook 06.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course import plots
from mi_course.errors import CourseError
from mi_course.patching.intervals import bootstrap, rank_p, shares, sign_flip_p, with_gap
from mi_course.patching.metrics import normalised
from mi_course.patching.nodes import chosen

RESAMPLES = 1000  # of an interval


@dataclass(frozen=True, eq=False, repr=False)
class PatchResult:
    """The score of every patch, with its axes: `scores` [*axes] are means over prompts of `per_prompt` [*axes batch].

    Args:
        per_prompt: the metric of every patch and prompt.
        axes: axis → its labels.
        direction: `denoising` or `noising`.
        metric: its name.
        clean: the clean run's mean score.
        corrupted: the corrupted run's.
        what: was patched.
        approximate: an estimate by gradients.
        ends: each prompt's corrupted and clean score [end batch], for intervals.
    """

    per_prompt: Float[Tensor, "*axes batch"]
    axes: dict[str, list]
    direction: str
    metric: str
    clean: float  # score of the clean run
    corrupted: float
    what: str
    approximate: bool = False
    ends: Float[Tensor, "end batch"] | None = None  # each prompt's corrupted and clean score, for intervals

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
        if value and self._has_interval:
            low, high = self.interval(of="values")
            value += f" [{low:.3f}, {high:.3f}]{self._said_left_out}"
        about = "estimated " if self.approximate else ""
        return (
            f"PatchResult({self.what}: {about}{self.direction}, {self.metric}, {axes or 'one patch'}{value})"
        )

    # -- how sure --------------------------------------------------------------------------------

    @property
    def _has_interval(self) -> bool:
        return self.ends is not None and self.per_prompt.shape[-1] > 1 and self.left_out() < RESAMPLES

    @property
    def _said_left_out(self) -> str:
        """What is said beside an interval from which resamples were left out."""
        n = self.left_out()
        return f", {n:,} of {RESAMPLES:,} resamples without a gap left out" if n else ""

    def interval(
        self, of: str = "effect", *, level: float | int = 0.95, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[Float[Tensor, "*axes"], Float[Tensor, "*axes"]]:
        """Bootstrap interval over prompts of the "effect", the "values" or the "scores": (low, high).

        The gap between the clean and the corrupted run is resampled with the patches, as it is no constant either;
        resamples without a gap have no effect, and are left out (`left_out` counts them). `of` is one of the three, `level` what the interval covers; prompts are drawn anew `resamples` times by
        `seed`.
        """
        chosen("quantity", of, ("effect", "values", "scores"))
        per_prompt, ends = self.per_prompt, self.ends
        if of != "scores" and ends is None:
            raise CourseError("This result has lost its prompts' own ends: only of='scores' has an interval.")

        def statistic(share):
            mean = per_prompt @ share.to(per_prompt).T
            if of == "scores":
                return mean
            corrupted, clean = ends @ share.to(ends).T
            values = ((mean - corrupted) / (clean - corrupted))[..., with_gap(ends, share)]
            return 1 - values if of == "effect" and self.direction == "noising" else values

        return bootstrap(statistic, per_prompt.shape[-1], level=level, resamples=resamples, seed=seed)

    def left_out(self, *, resamples: int = RESAMPLES, seed: int = 0) -> int:
        """In how many of so many `resamples`, drawn by `seed`, clean and corrupted score the same.

        An `interval` of effects or values is that of the others.
        """
        if self.ends is None:
            return 0
        share = shares(self.ends.shape[-1], resamples, seed)
        return resamples - int(with_gap(self.ends, share).sum())

    def p_value(
        self, null: PatchResult | None = None, *, permutations: int = 1000, seed: int = 0
    ) -> Float[Tensor, "*axes"]:
        """How likely so large an effect is by chance.

        With `null`, from `Experiment.random_circuits`: the share of random circuits that have as large an effect.
        Without: prompts' changes get random signs, which asks only whether the patch does anything. There are so many
        `permutations` of the signs, drawn by `seed`.
        """
        if null is not None:
            return rank_p(self.effect, null.effect.flatten())
        if self.ends is None:
            raise CourseError("This result has lost its prompts' own ends: pass null=, random circuits.")
        host = self.ends[0 if self.direction == "denoising" else 1]
        return sign_flip_p(self.per_prompt - host, permutations=permutations, seed=seed)

    def at(self, **where) -> PatchResult:
        """The part with the given labels, `where` = axis=label: `result.at(layer=1, head=0)`."""
        per_prompt, axes = self.per_prompt, dict(self.axes)
        for name, label in where.items():
            if name not in axes or label not in axes[name]:
                raise CourseError(f"There is no {name}={label!r} here: the axes are {', '.join(self.axes)}.")
            per_prompt = per_prompt.select(list(axes).index(name), axes.pop(name).index(label))
        return replace(self, per_prompt=per_prompt, axes=axes)

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

    def plot(
        self,
        *,
        title: str = "",
        caption: str = "",
        alt: str = "",
        tokens: Sequence | None = None,
        intervals: bool | None = None,
    ) -> plots.Figure:
        """A heat map of the effects (bars where there is one axis), positions named by `tokens`.

        `intervals`: 95% over prompts, on bars (the default) or as two more maps, of their lower and upper ends.
        `title` says the finding (default: what was patched), `caption` what to see, `alt` what is seen, for who does
        not see it (default: the five largest effects).
        """
        effect, names = self.effect.detach().cpu(), list(self.axes)
        labels = {name: [str(label) for label in self.axes[name]] for name in names}
        if tokens is not None and "pos" in labels:
            labels["pos"] = [tokens[i] for i in self.axes["pos"]]
        unit = f"effect on {self.metric}" + (", estimated" if self.approximate else "")
        words = {
            "title": title or f"{self.what}, {self.direction}: share of the gap that each patch moves",
            "caption": caption,
            "alt": alt or f"Largest effects: {', '.join(f'{k} {v:.2f}' for k, v in self.top(5))}.",
        }  # fmt: skip
        ends = self._drawn_interval(len(names) == 1 if intervals is None else intervals)
        if ends and (said := self._said_left_out):
            words["caption"] = f"{caption} 95% intervals{said}.".strip()
        if len(names) == 1:
            half = {unit: (ends[1] - ends[0]) / 2} if ends else None
            return plots.bars(labels[names[0]], effect, ylabel=unit, xlabel=names[0], errors=half, **words)
        if len(names) == 3:  # layer and part on one side
            labels = {f"{names[0]}.{names[1]}": [f"{a}.{b}" for a in labels[names[0]] for b in labels[names[1]]],
                      names[2]: labels[names[2]]}  # fmt: skip
            effect, names = effect.flatten(0, 1), list(labels)
            ends = [end.flatten(0, 1) for end in ends]
        if len(names) != 2:
            raise CourseError(
                f"{len(names)} axes do not fit a picture: take a part with `at(…)`, or print it."
            )
        maps = {"effect": effect, "95% from": ends[0], "to": ends[1]} if ends else effect
        return plots.heatmap(maps, ylabels=labels[names[0]], xlabels=labels[names[1]], ylabel=names[0],
                             xlabel=names[1], unit=unit, signed=True, **words)  # fmt: skip

    def _drawn_interval(self, wanted: bool) -> list[Tensor]:
        """Lower and upper ends for a figure; nothing where they are not wanted, or one prompt has none."""
        return [end.detach().cpu() for end in self.interval()] if wanted and self._has_interval else []
