"""Generated advertising data in which a protected attribute is no input and leaks all the same. Derived in notebook 10.

Everything is planted, so every number has its right value. A user belongs to group 0 or 1. Columns:

- **proxies** (4): tell of the group, and of nothing else;
- **pair** (2): each alone tells nothing of the group, their product does;
- **hours** (1): higher in group 1, and a true reason to click;
- **interests** (5): reasons to click, the same in both groups;
- **noise** (4).

The log odds of a click are interests + hours + `habit` · (group − ½): the last term is what past clicks hold against one
group, and no column holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

COLUMNS = {
    "proxies": slice(0, 4),
    "pair": slice(4, 6),
    "hours": slice(6, 7),
    "interests": slice(7, 12),
    "noise": slice(12, 16),
}
INTERESTS = (0.8, -0.8, 0.6, 0.5, -0.5)


class Users(NamedTuple):
    """What is seen of users, what is not, and what they did.

    Args:
        x: columns [row column].
        group: [row] True or False.
        click: [row] True or False.
        log_odds: of a click, the group known [row].
        fair: the same without habit [row].
    """

    x: Float[Tensor, "row column"]
    group: Bool[Tensor, "row"]  # never an input
    click: Bool[Tensor, "row"]
    log_odds: Float[Tensor, "row"]  # of the click, the group known
    fair: Float[Tensor, "row"]  # the same without habit


@dataclass(frozen=True)
class Adverts:
    """How such data are made.

    Args:
        habit: log odds between the groups that only the group explains.
        proxy: mean of a proxy in group 1, its negative in group 0.
        hours: the same for hours.
        agree: how often the pair's product tells the group.
    """

    habit: float | int = 1.5  # log odds between the groups that nothing but the group explains
    proxy: float | int = 0.4  # mean of a proxy in group 1; its negative in group 0
    hours: float | int = 0.6  # the same for hours
    agree: float | int = 0.8  # how often the sign of the pair's product tells the group

    def __post_init__(self):
        if not 0.5 <= self.agree <= 1:
            raise CourseError(f"agree={self.agree} is a share between ½ (tells nothing) and 1.")

    def users(self, n: int, *, seed: int = 0) -> Users:
        """So many users, drawn anew.

        Args:
            n: how many.
            seed: of everything drawn.
        """
        rng = generator(seed, 16)
        group = torch.rand(n, generator=rng) < 0.5
        side = group.float() * 2 - 1
        x = torch.randn(n, 16, generator=rng)
        x[:, COLUMNS["proxies"]] += self.proxy * side[:, None]
        x[:, COLUMNS["hours"]] += self.hours * side[:, None]
        told = torch.where(torch.rand(n, generator=rng) < self.agree, side, -side)
        x[:, 5] = x[:, 5].abs() * told * x[:, 4].sign()  # so x₄ x₅ has the sign that is told
        fair = fair_log_odds(x)
        log_odds = fair + self.habit * side / 2
        click = torch.rand(n, generator=rng) < log_odds.sigmoid()
        return Users(x, group, click, log_odds, fair)

    def posterior(self, x: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
        """The chance of group 1 that all columns together give away (Bayes): nobody can do better.

        Args:
            x: columns [row column].
        """
        linear = 2 * self.proxy * x[:, COLUMNS["proxies"]].sum(1) + 2 * self.hours * x[:, 6]
        pair = torch.tensor(self.agree / (1 - self.agree + 1e-12)).log() * (x[:, 4] * x[:, 5]).sign()
        return (linear + pair).sigmoid()

    def best(self, x: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
        """The chance of a click that the columns give away: what a perfect network would predict.

        Args:
            x: columns [row column].
        """
        fair = fair_log_odds(x)
        p = self.posterior(x)
        return p * (fair + self.habit / 2).sigmoid() + (1 - p) * (fair - self.habit / 2).sigmoid()


def fair_log_odds(x: Float[Tensor, "row column"]) -> Float[Tensor, "row"]:
    """Log odds of a click by interests and hours, the columns `x` that are true reasons."""
    return x[:, COLUMNS["interests"]] @ torch.tensor(INTERESTS) + 0.5 * x[:, 6] - 0.5


def group_gap(predicted: Float[Tensor, "row"], group: Bool[Tensor, "row"]) -> float:
    """Mean prediction in group 1 less that in group 0 (demographic parity's gap).

    Args:
        predicted: one prediction a row.
    """
    return float(predicted[group].mean() - predicted[~group].mean())
