"""The parts of a model that a patch can replace, by name."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_course.errors import CourseError, nearest

SITES = {  # node kind → site
    "resid_pre": "resid_pre", "resid_mid": "resid_mid", "resid_post": "resid_post", "attn_out": "attn_out",
    "mlp_out": "mlp_out", "z": "z", "result": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern",
    "neuron": "post", "feature": "feature",
}  # fmt: skip
HEADS = ("z", "result", "q", "k", "v", "pattern")  # kinds that belong to a head
UNITS = ("neuron", "feature")


@dataclass(frozen=True)
class Node:
    """A part of the model that a patch can replace; `pos` None is every position, −1 the last one.

    Args:
        kind: as for `Experiment.sweep`.
        layer: counted from 0.
        head: of kinds that belong to a head.
        unit: of a neuron or a feature.
        pos: a position; None is every one, −1 the last.
    """

    kind: str
    layer: int
    head: int | None = None
    unit: int | None = None  # of a neuron or a feature
    pos: int | None = None

    def __str__(self) -> str:
        part = self.head if self.unit is None else self.unit
        name = f"{self.kind} {self.layer}" + ("" if part is None else f".{part}")
        return name if self.pos is None else f"{name} @{self.pos}"


def numbers(what: str, given: Any) -> list[int]:
    """The whole numbers that are `given`, at least one; `what` they are begins the sentence of the error."""
    try:
        found = [operator.index(number) for number in given]
    except TypeError:  # no list, or of something else
        found = []
    if not found:
        raise CourseError(f"{what} takes whole numbers, at least one, not {given!r}.")
    return found


def tensor_of(given: Any, device: torch.device | None = None) -> Tensor:
    """What is `given`, as a tensor on the `device`; an empty one for words, nothing, and lists of unequal lengths."""
    try:
        return torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError):
        return torch.empty(0)


def checked_pos(pos: Any, n_pos: int) -> int:
    """The position `pos`, counted from the start, of a prompt of `n_pos` tokens; −1 is the last."""
    [pos] = numbers("pos=", [pos])
    if not -n_pos <= pos < n_pos:
        raise CourseError(
            f"There is no position {pos}: prompts have {n_pos} tokens, 0…{n_pos - 1} or −{n_pos}…−1."
        )
    return int(pos) % n_pos


def chosen(what: str, name: str, known) -> str:
    """The `name` itself, if it is one of the `known`; `what` it names begins the sentence of the error."""
    if name not in known:
        raise CourseError(
            f"There is no {what} {name!r}: choose from {', '.join(known)}.{nearest(str(name), known)}"
        )
    return name
