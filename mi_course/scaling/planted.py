"""Worlds whose concepts are known: frequencies by Zipf, topics that own concepts, parents and children.

A sample is a sum of unit directions, each times a strength; which concepts are there is returned beside it, so that one can
ask of a dictionary what it found. Derived in notebook 07.

>>> from mi_course import scaling
>>> world = scaling.zipf(n=50, d=16)
>>> x, truth = world.draw(8)
>>> list(x.shape), list(truth.shape), bool((truth >= 0).all())
([8, 16], [8, 50], True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError

STRENGTH = (0.5, 1.5)  # of a concept that is there, drawn evenly


@dataclass(frozen=True, eq=False)
class World:
    """Concepts as directions, and a rule that says which are there.

    Args:
        directions: one row for each concept, of length 1.
        present: (how many samples, a random generator) → which concepts are there, [sample concept].
        parent: of each concept the number of its topic or parent, −1 without one.
    """

    directions: Float[Tensor, "concept d"]
    present: Callable[[int, torch.Generator], Tensor]
    parent: Int[Tensor, "concept"]

    def draw(self, n: int, seed: int = 0) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n concept"]]:
        """`n` samples, and the strength of each concept in them, 0 where it is not; `seed` draws them."""
        if n < 1:
            raise CourseError(f"Draw at least one sample, not {n}.")
        rng = generator(seed, 5)
        there = self.present(n, rng)
        low, high = STRENGTH
        truth = there * (low + (high - low) * torch.rand(there.shape, generator=rng))
        return truth @ self.directions, truth

    def rows(self, n: int, seed: int = 0, chunk: int = 8192) -> Float[Tensor, "n d"]:
        """`n` samples without their truth, drawn by `seed` in pieces of `chunk`: to train on."""
        sizes = [min(chunk, n - start) for start in range(0, n, chunk)]
        return torch.cat([self.draw(size, seed=seed + 1000 * (i + 1))[0] for i, size in enumerate(sizes)])


def unit_rows(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    """`n` random directions of length 1 in `d` dimensions, drawn by `seed`."""
    rows = torch.randn(n, d, generator=generator(seed, 3))
    return rows / rows.norm(dim=1, keepdim=True)


def zipf_frequencies(n: int, active: float | int, exponent: float | int = 1.0) -> Float[Tensor, "n"]:
    """p_i ∝ 1 / i^exponent, at most one half, so that about `active` of `n` concepts are there at a time.

    Args:
        n: concepts.
        active: mean number of them in a sample.
        exponent: 0 makes all equally frequent, 1 is Zipf's law.
    """
    weight = torch.arange(1, n + 1).double() ** -exponent
    return (weight * active / weight.sum()).clamp(max=0.5).float()


def zipf(
    n: int = 1000, d: int = 128, active: float | int = 3, exponent: float | int = 1.0, seed: int = 0
) -> World:
    """Independent concepts whose frequencies fall by Zipf's law.

    Args:
        n: concepts.
        d: dimensions.
        active: mean number of concepts in a sample.
        exponent: of the law.
        seed: of the directions.
    """
    p = zipf_frequencies(n, active, exponent)
    there = lambda m, rng: (torch.rand(m, n, generator=rng) < p).float()  # noqa: E731
    return World(unit_rows(n, d, seed), there, torch.full((n,), -1))


def topics(
    n: int = 24, each: int = 12, d: int = 128, shared: float | int = 0.4, per_sample: int = 2, seed: int = 0
) -> World:
    """Topics by Zipf, each with concepts that have a part of their direction in common.

    Args:
        n: topics.
        each: concepts of a topic, equally frequent.
        d: dimensions.
        shared: cosine of two concepts of one topic.
        per_sample: topics in a sample, each with one concept.
        seed: of the directions.
    """
    common, own = unit_rows(n, d, seed), unit_rows(n * each, d, seed + 1)
    rows = shared**0.5 * common.repeat_interleave(each, 0) + (1 - shared) ** 0.5 * own
    weight = zipf_frequencies(n, 1.0)

    def there(m, rng):
        topic = torch.multinomial(weight.expand(m, -1), per_sample, generator=rng)
        concept = topic * each + torch.randint(each, topic.shape, generator=rng)
        return torch.zeros(m, n * each).scatter_(1, concept, 1.0)

    return World(rows / rows.norm(dim=1, keepdim=True), there, torch.arange(n).repeat_interleave(each))


def families(
    n: int = 10,
    each: int = 3,
    d: int = 64,
    frequency: float | int = 0.15,
    child: float | int = 0.2,
    seed: int = 0,
) -> World:
    """Parents that come alone or with one child; no child comes without its parent.

    Concepts 0 … n − 1 are the parents. A dictionary that has one feature for "parent and child together" and a parent's
    feature that is silent then needs fewer active features than the truth: absorption.

    Args:
        n: parents.
        each: children of a parent.
        d: dimensions.
        frequency: of a parent.
        child: probability of each of its children when it is there.
        seed: of the directions.
    """
    if each * child > 1:
        raise CourseError(f"{each} children at {child} each are more than one.")
    parent = torch.cat([torch.full((n,), -1), torch.arange(n).repeat_interleave(each)])

    def there(m, rng):
        above = torch.rand(m, n, generator=rng) < frequency
        which = (torch.rand(m, n, generator=rng) / child).long()  # 0 … each − 1: that child, beyond: none
        below = (which[..., None] == torch.arange(each)) & above[..., None]
        return torch.cat([above, below.flatten(1)], 1).float()

    return World(unit_rows(n * (1 + each), d, seed), there, parent)


@dataclass(frozen=True, eq=False)
class Rules:
    """A layer whose truth is known: where the concepts that a rule needs are there, it writes the rule's direction.

    Args:
        world: of what the layer reads.
        needs: the two concepts of each rule; twice the same where it needs one.
        writes: one row for each rule, of length 1.
    """

    world: World
    needs: Int[Tensor, "rule two"]
    writes: Float[Tensor, "rule d"]

    def draw(
        self, n: int, seed: int = 0
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n rule"]]:
        """`n` inputs, the layer's outputs, and how strongly each rule applies: as its weaker concept; `seed` draws them."""
        x, there = self.world.draw(n, seed)
        strength = there[:, self.needs].amin(-1)
        return x, strength @ self.writes, strength


def rules(
    single: int = 24,
    often: int = 8,
    pairs: int = 12,
    d: int = 32,
    frequency: float | int = 0.05,
    how_often: float | int = 0.3,
    seed: int = 0,
) -> Rules:
    """A rule for each of some concepts, and rules for pairs of others that come often: "this and that".

    Args:
        single: concepts with a rule of their own.
        often: concepts that only count in pairs.
        pairs: rules that need two of them.
        d: dimensions of what is read and of what is written.
        frequency: of a concept with a rule of its own.
        how_often: frequency of the others.
        seed: of directions and pairs.
    """
    both = torch.combinations(torch.arange(single, single + often))
    if not 0 <= pairs <= len(both):
        raise CourseError(f"Of {often} concepts there are {len(both)} pairs, not {pairs}.")
    p = torch.cat([torch.full((single,), float(frequency)), torch.full((often,), float(how_often))])
    there = lambda m, rng: (torch.rand(m, len(p), generator=rng) < p).float()  # noqa: E731
    drawn = both[torch.randperm(len(both), generator=generator(seed, 9))[:pairs]]
    needs = torch.cat([torch.arange(single)[:, None].expand(-1, 2), drawn])
    world = World(unit_rows(len(p), d, seed), there, torch.full((len(p),), -1))
    return Rules(world, needs, unit_rows(len(needs), d, seed + 50))
