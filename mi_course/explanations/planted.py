"""Networks whose mechanism is typed in, and the grades of explanations against it.

A planted network is one ReLU layer over binary features. Its mechanisms read disjoint features and add up, so that
what each of them contributes is known, whatever an explanation says. Derived in notebook 13.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest

KINDS = ("additive", "and", "or", "xor", "twins", "unused", "copy")
GRADES = ("wrong", "partly", "right")
HOW = {"additive": "adds", "and": "and", "or": "or", "xor": "xor", "twins": "adds", "unused": "nothing", "copy": "nothing"}  # fmt: skip
FOLLOWS = 0.9  # how often the copy, which is not read, equals the additive feature


@dataclass(frozen=True)
class Mechanism:
    """A function g of some features, with values 0 … 1, that the network adds with a weight.

    Its `kind` is one of KINDS ("twins" always carry the same value, and half of the weight is read from each),
    `features` are the indices of those it reads, and `weight` is 0 for what is not read.
    """

    kind: str  # one of KINDS; "twins" always carry the same value, and half of the weight is read from each
    features: tuple[int, ...]
    weight: float | int  # 0 for what is not read

    def __post_init__(self):
        if self.kind not in KINDS:
            raise CourseError(f"There is no mechanism {self.kind!r}.{nearest(self.kind, KINDS)}")

    @property
    def units(self) -> list[tuple[int, float | int]]:
        """(threshold, factor) of each ReLU over the sum of the features: g(s) = Σ factor · ReLU(s − threshold)."""
        n = len(self.features)
        return {
            "additive": [(0, 1)], "and": [(n - 1, 1)], "or": [(0, 1), (1, -1)], "xor": [(0, 1), (1, -2)],
            "twins": [(0, 0.5)], "unused": [], "copy": [],
        }[self.kind]  # fmt: skip

    def g(self, on: Float[Tensor, "*rows feature"]) -> Float[Tensor, "*rows"]:
        """The mechanism's value for its own features, 0 or 1 each in `on`."""
        s = on.sum(-1)
        return sum((factor * (s - threshold).relu() for threshold, factor in self.units), 0 * s)

    @property
    def mean_and_variance(self) -> tuple[float, float]:
        """Of g over the data: every feature is a fair coin; twins are one coin."""
        n = len(self.features)
        p = {"and": 2.0**-n, "or": 1 - 2.0**-n}.get(self.kind, 0.5 if self.units else 0.0)
        return p, p * (1 - p)


@dataclass(frozen=True, eq=False)
class PlantedNetwork:
    """f(x) = ReLU(x W_in + b_in) w_out, with `mechanisms` typed into the weights.

    A feature is *on* when it equals `instance`: which of 0 and 1 means on is drawn for each, so that "on" and "1" are
    different things. `instance` has all features on and is what is explained.
    """

    mechanisms: tuple[Mechanism, ...]
    instance: Float[Tensor, "feature"]

    def __post_init__(self):
        read = sorted(j for mechanism in self.mechanisms for j in mechanism.features)
        if read != list(range(len(self.instance))):
            raise CourseError("Every feature belongs to exactly one mechanism: features are numbered from 0.")

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """(W_in [feature unit], b_in [unit], w_out [unit]); a feature that is off at 1 is read as 1 − x."""
        columns, thresholds, out = [], [], []
        sign = 2 * self.instance - 1
        for mechanism in self.mechanisms:
            for threshold, factor in mechanism.units:
                column = torch.zeros_like(self.instance)
                column[list(mechanism.features)] = sign[list(mechanism.features)]
                columns.append(column)
                thresholds.append(float((column < 0).sum()) - threshold)
                out.append(factor * mechanism.weight)
        numbers = torch.tensor(thresholds).double(), torch.tensor(out).double()
        return torch.stack(columns, dim=1), *numbers

    def __call__(self, rows: Float[Tensor, "row feature"]) -> Float[Tensor, "row"]:
        W_in, b_in, w_out = self.weights
        return (rows @ W_in + b_in).relu() @ w_out

    def of_kind(self, kind: str) -> Mechanism:
        """The network's mechanism of that `kind`."""
        return next(m for m in self.mechanisms if m.kind == kind)

    def data(self, n: int, seed: int = 0) -> Float[Tensor, "row feature"]:
        """Fair coins, tossed by `seed`; twins are one coin, and the copy follows the additive feature nine times in ten.

        `n` is how many rows.
        """
        rng = generator(seed, 16)
        on = torch.rand(n, len(self.instance), generator=rng) < 0.5
        first, *others = self.of_kind("twins").features
        on[:, others] = on[:, [first]]
        source, follower = self.of_kind("additive").features[0], self.of_kind("copy").features[0]
        on[:, follower] = on[:, source] ^ (torch.rand(n, generator=rng) >= FOLLOWS)
        return torch.where(on, self.instance, 1 - self.instance)

    def states(self) -> tuple[Float[Tensor, "state feature"], Float[Tensor, "state"]]:
        """Every state of the features, and its probability under `data`."""
        n = len(self.instance)
        on = (torch.arange(2**n)[:, None] >> torch.arange(n) & 1).bool()
        first, *others = self.of_kind("twins").features
        source, follower = self.of_kind("additive").features[0], self.of_kind("copy").features[0]
        p = torch.where(on[:, source] == on[:, follower], FOLLOWS, 1 - FOLLOWS).double()
        p = p * (on[:, others] == on[:, [first]]).all(1)
        return torch.where(on, self.instance, 1 - self.instance), p / p.sum()

    def truth(self, what: str = "credit") -> Float[Tensor, "feature"]:
        """What each feature deserves, known from the mechanisms alone.

        `what="credit"`: a mechanism contributes c (g(x) − mean g) to f(x) − mean f, and its features, which it treats
        alike and which are all on, have equal parts. "variance": the same with c² Var g, for a statement about the
        data.
        """
        if what not in ("credit", "variance"):
            raise CourseError(f"There is no truth {what!r}.{nearest(what, ('credit', 'variance'))}")
        deserved = torch.zeros_like(self.instance)
        for mechanism in self.mechanisms:
            members = list(mechanism.features)
            mean, variance = mechanism.mean_and_variance
            g = float(mechanism.g(torch.ones(len(members)).double()))
            credit, share = mechanism.weight * (g - mean), mechanism.weight**2 * variance
            deserved[members] = (credit if what == "credit" else share) / len(members)
        return deserved


def random_network(seed: int = 0) -> PlantedNetwork:
    """One mechanism of every kind over twelve features: weights of size 1 … 2 and either sign, features shuffled.

    The AND is over two or three; then two features or one are unused. `seed` draws all of it.
    """
    rng = generator(seed, 17)
    both = 2 + int(torch.randint(2, (), generator=rng))
    sizes = {"and": both, "or": 2, "xor": 2, "twins": 2, "unused": 4 - both}
    n = sum(sizes.get(kind, 1) for kind in KINDS)
    free, mechanisms = torch.randperm(n, generator=rng).tolist(), []
    for kind in KINDS:
        size, sign = 1 + torch.rand((), generator=rng), 2 * torch.randint(2, (), generator=rng) - 1
        members, free = free[: sizes.get(kind, 1)], free[sizes.get(kind, 1) :]
        weight = 0.0 if kind in ("unused", "copy") else float(size * sign)
        mechanisms.append(Mechanism(kind, tuple(members), weight))
    return PlantedNetwork(tuple(mechanisms), torch.randint(2, (n,), generator=rng).double())


# -- grades --------------------------------------------------------------------------------------


def grades(
    network: PlantedNetwork, given: Float[Tensor, "feature"], what: str = "credit", *, shares: bool = False
) -> dict[str, str]:
    """Mechanism → right, partly or wrong, for the credits that an explanation gives.

    A feature that is read: right within a quarter of what it deserves, partly with the right sign and between 0.4 and
    2.5 times. One that is not read: right below a tenth of what a read feature deserves on average, partly below
    three tenths. A mechanism is as good as its worst feature. `shares` compares sizes divided by their sum, for
    explanations without a unit. The rule was fixed before the first run. `given` are the explanation's credits for
    `network`, and `what` is the truth they are held against, see `PlantedNetwork.truth`.
    """
    deserved, given = network.truth(what), given.double()
    if shares:
        deserved, given = deserved.abs() / deserved.abs().sum(), given.abs() / given.abs().sum()
    usual = deserved[deserved != 0].abs().mean()
    ratio = torch.where(deserved != 0, given / deserved, given.abs() / usual)
    right = torch.where(deserved != 0, (ratio - 1).abs() <= 0.25, ratio <= 0.1)
    partly = torch.where(deserved != 0, (ratio >= 0.4) & (ratio <= 2.5), ratio <= 0.3)
    grade = right.int() + (right | partly).int()  # 2 right, 1 partly, 0 wrong
    return {m.kind: GRADES[int(grade[list(m.features)].min())] for m in network.mechanisms}


def patched_inputs(
    network, clean: Float[Tensor, "feature"], corrupted: Float[Tensor, "row feature"]
) -> tuple[Float[Tensor, "feature"], Float[Tensor, "feature"]]:
    """(noising, denoising) effects of every input patched alone, means over the corrupted rows.

    Noising puts one feature of a corrupted row into the clean one and counts what is lost; denoising puts the clean
    feature into the corrupted row and counts what is gained (notebook 06). `network` takes rows of features, such as
    `clean`, the one row that is explained, and the rows of `corrupted`.
    """
    one = torch.eye(len(clean)).bool()[:, None]  # feature row feature
    noised = torch.where(one, corrupted, clean).flatten(0, 1)
    denoised = torch.where(one, clean, corrupted).flatten(0, 1)
    mean = lambda rows: network(rows).view(len(clean), -1).mean(1)
    return network(clean[None]) - mean(noised), mean(denoised) - network(corrupted).mean()


def how(noising: Float[Tensor, "feature"], denoising: Float[Tensor, "feature"]) -> list[str]:
    """What each feature takes part in, read off its two effects: adds, and, or, xor, nothing.

    With fair coins the effects of an addend are equal; an AND loses more than it gains, an OR gains what it does not
    lose, and an XOR only loses. The thresholds lie between the exact ratios 1, ½ and ¼, ∞, and 0. `noising` and
    `denoising` are those of `patched_inputs`.
    """
    least = 0.05 * torch.cat([noising.abs(), denoising.abs()]).max()
    found = []
    for lost, gained in zip(noising.abs().tolist(), denoising.abs().tolist()):
        ratio = gained / lost if lost > 0 else math.inf
        kinds = [(0.12, "xor"), (0.75, "and"), (1.33, "adds"), (math.inf, "or")]
        found.append("nothing" if max(lost, gained) < least else next(k for top, k in kinds if ratio <= top))
    return found


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95% interval for the share of `successes` among `n`: honest also at 0 and at n of n.

    It reaches `z` standard errors to either side; 1.96 makes it 95%.
    """
    if n < 1 or not 0 <= successes <= n:
        raise CourseError(f"A share needs n ≥ 1 and 0 to n successes, not {successes} of {n}.")
    p = successes / n
    middle, reach = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)
    return max(0.0, low), min(1.0, high)
