"""Dose and damage: what a coefficient brings, and what it costs. Derived in notebook 12.

A *point* is (what it costs, what it brings): the loss rise on other text, and the rate of the behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mi_course.errors import CourseError


class Point(NamedTuple):
    """One dose of one direction.

    Args:
        cost: loss rise on other text, nats.
        rate: how often the behaviour is seen, 0 to 1.
    """

    cost: float | int
    rate: float | int


def working_window(
    doses: Sequence[float | int], points: Sequence[Point], rate: float | int, cost: float | int
) -> tuple[float | int, float | int] | None:
    """Smallest and largest dose that bring enough at a bearable cost; None where no dose does.

    Args:
        doses: in rising order.
        points: one for each.
        rate: that is enough.
        cost: that is bearable.
    """
    if len(doses) != len(points) or list(doses) != sorted(doses):
        raise CourseError("A dose curve needs one point for each dose, and doses in rising order.")
    works = [dose for dose, point in zip(doses, points) if point.rate >= rate and point.cost <= cost]
    return (works[0], works[-1]) if works else None


def best_rate(points: Sequence[Point], cost: float | int) -> float | int:
    """The best rate that any of the `points` brings at no more than this `cost`; 0 where none is so cheap."""
    return max((point.rate for point in points if point.cost <= cost), default=0.0)


def gain_over(points: Sequence[Point], others: Sequence[Point]) -> float | int:
    """How far the best of `points` stands above the frontier of `others` at the same cost.

    Args:
        points: of the direction in question.
        others: of random directions.
    """
    if not points:
        raise CourseError("There is no point to compare.")
    return max(point.rate - best_rate(others, point.cost) for point in points)


def rising_steps(rates: Sequence[float | int]) -> int:
    """The longest run of steps over which `rates` rise every time."""
    longest = run = 0
    for before, after in zip(rates, rates[1:]):
        run = run + 1 if after > before else 0
        longest = max(longest, run)
    return longest
