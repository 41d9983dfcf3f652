"""The two runs that are compared: which are taken, and which of them is the host."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mi_course.errors import CourseError, kind_of
from mi_course.patching.layout import check_ends, layout_of
from mi_course.patching.nodes import chosen
from mi_course.patching.runs import Run, readable, record, recorded_with

DIRECTIONS = ("denoising", "noising")


class Pair:
    """A clean and a corrupted run of the same prompts' shape and padding."""

    def __init__(self, model, clean: Any, corrupted: Any, attention_mask, check: bool):
        clean, corrupted = (
            run if isinstance(run, Run) else readable(model, run) for run in (clean, corrupted)
        )
        check_pair(clean, corrupted)
        if not isinstance(clean, Run):
            if attention_mask is None and not isinstance(corrupted, Run):
                check_ends(model, torch.cat([clean, corrupted]))
            clean = record(model, clean, attention_mask=attention_mask, check=check)
        elif attention_mask is not None:
            raise CourseError("A recorded run knows its padding: give attention_mask= to record().")
        self.clean, self.engine = clean, clean.engine
        if isinstance(corrupted, Run):
            check_fits("corrupted", corrupted, clean)
            mask, same = (
                corrupted.mask,
                torch.equal(corrupted.acts["resid_pre", 0], clean.acts["resid_pre", 0]),
            )
        else:
            mask = layout_of(model, corrupted, attention_mask).mask
            same = clean.embed is None and torch.equal(corrupted, clean.tokens)
        if same:
            raise CourseError("clean and corrupted are the same prompts: there is nothing to patch.")
        check_padding("clean and corrupted", mask, clean.mask)
        self.given = corrupted

    @cached_property
    def corrupted(self) -> Run:
        """The corrupted run, recorded when it is first needed: attribution records it together with its gradient."""
        return self.given if isinstance(self.given, Run) else recorded_with(self.engine, self.given, self.clean.layout)  # fmt: skip

    @property
    def unrecorded(self) -> bool:
        """Whether the corrupted run still is tokens alone."""
        return not isinstance(self.given, Run) and "corrupted" not in vars(self)

    def sides(self, direction: str, source: Run | None) -> tuple[Run, Run]:
        """Host and source."""
        chosen("direction", direction, DIRECTIONS)
        host, other = (self.clean, self.corrupted) if direction == "noising" else (self.corrupted, self.clean)
        return host, other if source is None else checked_source(source, host)


class Kept(dict):
    """Activations of a source; one sentence for what it does not hold."""

    def __missing__(self, key: tuple):
        raise CourseError(
            f"The source holds no {key[0]} of layer {key[1]}: record it whole, and with the model that is patched."
        )


def checked_source(source: Any, host: Run) -> Run:
    """The source itself, if its activations can be put into the host's."""
    if not isinstance(source, Run):
        raise CourseError(
            f"source must be a run, as record(…) gives it, or one made of it (.mean()), not {kind_of(source)}."
        )
    if source.tokens.shape != host.tokens.shape:
        raise CourseError(
            f"The source has prompts {list(source.tokens.shape)}, the patched run {list(host.tokens.shape)}."
        )
    check_padding("The source and the patched run", source.mask, host.mask)
    check_fits("The source", source, host)
    return replace(source, acts=Kept(source.acts))


def check_fits(what: str, run: Run, host: Run) -> None:
    """Refuse a run whose activations, where the host has them too, are of another shape or number format."""
    pairs = [(x, host.acts[key]) for key, x in run.acts.items() if key in host.acts]
    other = any((x.shape, x.dtype) != (y.shape, y.dtype) for x, y in pairs)
    if other or run.engine.n_layers != host.engine.n_layers:
        raise CourseError(
            f"{what} is a run of a model of another size or number format: record it with the model that is patched."
        )


def check_padding(what: str, mask: Tensor | None, other: Tensor | None) -> None:
    """Refuse runs, `what` they are in words, whose tokens do not stand at the same positions."""
    if (mask is None) != (other is None) or not (mask is None or torch.equal(mask, other)):
        raise CourseError(f"{what} are padded differently: patching puts position on position.")


def check_pair(clean: Tensor | Run, corrupted: Tensor | Run) -> None:
    """Refuse runs that cannot be put onto each other."""
    shapes = [list((run.tokens if isinstance(run, Run) else run).shape) for run in (clean, corrupted)]
    if shapes[0] != shapes[1]:
        raise CourseError(
            f"clean is {shapes[0]} and corrupted {shapes[1]}: patching puts position on position, so both need "
            "the same prompts in the same number of tokens."
        )
    for name, run in (("clean", clean), ("corrupted", corrupted)):
        if isinstance(run, Run) and run.made:
            raise CourseError(f"{name} is a {run.made} run, which no forward gave: pass it as source=.")
