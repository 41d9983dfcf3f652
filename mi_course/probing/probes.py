"""Probes: can this be read from these activations, and by whom? Derived in notebook 10.

Shapes: `row` is one activation vector, `d` its dimensions. A concept is there (1) or not (0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.probing.checked import rows_of, two_classes


def share_right(scores: Float[Tensor, "row"], z) -> float:
    """Share of rows whose score is positive where the label in `z` is 1, and not where it is 0."""
    return float(((scores > 0) == two_classes(z, len(scores))).double().mean())


class Probe(NamedTuple):
    """A direction and a threshold: the concept is read where w · x + b > 0."""

    w: Float[Tensor, "d"]
    b: float

    def scores(self, x) -> Float[Tensor, "row"]:
        """w · x + b; for a logistic probe the log odds."""
        return rows_of(x) @ self.w + self.b

    def accuracy(self, x, z) -> float:
        """Share of rows that are read rightly.

        Args:
            x: activations [row d].
            z: labels [row], 0 and 1.
        """
        return share_right(self.scores(x), z)


def difference_of_means(x, z) -> Float[Tensor, "d"]:
    """Mean of the rows with the concept less the mean of those without: the one definition in this course.

    As a probe it is right where both classes have the same round covariance; as a steering vector it is what is
    added (notebook 12). For labels 0 and 1 it is Σ_xz / Var z, the direction along which LEACE moves.

    Args:
        x: activations [row d].
    """
    x = rows_of(x)
    z = two_classes(z, len(x))
    return x[z].mean(0) - x[~z].mean(0)


def mean_probe(x, z) -> Probe:
    """The difference of means as a probe, its threshold half way between the two means.

    Args:
        x: activations [row d].
        z: labels [row], 0 and 1.
    """
    x = rows_of(x)
    z = two_classes(z, len(x))
    w = difference_of_means(x, z)
    return Probe(w, -float(w @ (x[z].mean(0) + x[~z].mean(0))) / 2)


def logistic_probe(x, z, l2: float | int = 1.0) -> Probe:
    """Logistic regression: the w and b that make Σ log(1 + e^{−s (w·x + b)}) + l2/2 |w̃|² smallest, s = ±1.

    Columns are scaled to standard deviation 1 first (w̃ is the weight on that scale), and a column that never changes
    gets 0. The penalty keeps w finite where fewer rows than dimensions could be told apart perfectly by many
    directions: there it decides *which* of them, so do not read much into that w. b is not penalised. Solved by
    scikit-learn, with Newton's method.

    Args:
        z: labels [row], 0 and 1.
    """
    x = rows_of(x)
    z = two_classes(z, len(x))
    if l2 <= 0:
        raise CourseError(
            f"l2={l2}: without a penalty separable classes have no best probe; take a small number above zero."
        )
    mean, sd = x.mean(0), x.std(0)
    moves = sd > 1e-12 * (1 + mean.abs())
    scale = torch.where(moves, sd, 1.0)
    scaled = ((x - mean) / scale * moves).numpy()
    newton = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-8)
    found = newton.fit(scaled, z.numpy())
    w = torch.from_numpy(found.coef_[0]) / scale
    return Probe(w, float(found.intercept_[0] - w @ mean))


class NonlinearProbe(nn.Module):
    """One hidden layer of ReLUs: reads what no direction shows, such as an XOR.

    Args:
        d: width of the activations.
        width: hidden units.
        mean: of the rows [d].
        scale: their standard deviations [d].
    """

    def __init__(self, d: int, width: int, mean: Tensor, scale: Tensor):
        super().__init__()
        self.mean, self.scale = mean.float(), scale.float()
        self.layers = nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row"]:
        """Log odds [row].

        Args:
            x: activations [row d].
        """
        return self.layers((x.float() - self.mean) / self.scale)[:, 0]

    @torch.no_grad()
    def scores(self, x) -> Float[Tensor, "row"]:
        """Log odds of the rows `x` [row d]."""
        return self(rows_of(x)).double()

    def accuracy(self, x, z) -> float:
        """Share of rows that are read rightly.

        Args:
            x: activations [row d].
            z: labels [row], 0 and 1.
        """
        return share_right(self.scores(x), z)


@torch.enable_grad()
def mlp_probe(
    x, z, width: int = 64, steps: int = 400, *, lr: float = 3e-3, decay: float | int = 0.01, seed: int = 0
) -> NonlinearProbe:
    """A network of one hidden layer, trained on batches of 256 with AdamW: the probe that can memorise.

    Args:
        x: activations [row d].
        z: labels [row], 0 and 1.
        width: hidden units.
        steps: batches to train on.
        lr: rate of AdamW.
        decay: its weight decay.
        seed: of everything drawn.
    """
    x = rows_of(x)
    z = two_classes(z, len(x)).float()
    sd = x.std(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = NonlinearProbe(x.shape[1], width, x.mean(0), torch.where(sd > 0, sd, 1.0))
    optimizer, rows = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=decay), x.float()
    for step in range(steps):
        some = torch.randint(len(x), (256,), generator=generator(seed, step))
        loss = F.binary_cross_entropy_with_logits(probe(rows[some]), z[some])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return probe.requires_grad_(False)


def auc(scores, z) -> float:
    """Area under the ROC curve: how often a row with the concept scores above one without; ties count half.

    Args:
        z: labels [row], 0 and 1.
    """
    scores = torch.as_tensor(scores).detach().double()
    z = two_classes(z, len(scores))
    ranks = torch.from_numpy(rankdata(scores.numpy()))
    n = int(z.sum())
    return float((ranks[z].sum() - n * (n + 1) / 2) / (n * (len(z) - n)))


def precision_at(base_rate: float | int, hits: float | int, false_alarms: float | int) -> float:
    """Share of alarms that are right, π t / (π t + (1 − π) f) (Bayes).

    π is how common the thing is (`base_rate`), t the share of it that raises an alarm (`hits`), f the share of all else
    that does. With rare things f decides: at π = .01% an f of 1% leaves one alarm in a hundred right.

    Args:
        false_alarms: share of all others that do.
    """
    if not 0 < base_rate < 1 or not 0 <= hits <= 1 or not 0 <= false_alarms <= 1:
        raise CourseError("Base rate, hits and false alarms are shares; the base rate lies between 0 and 1.")
    alarms = base_rate * hits + (1 - base_rate) * false_alarms
    if alarms == 0:
        raise CourseError("There are no alarms at all, so none of them can be right.")
    return base_rate * hits / alarms


def balanced(z, *, seed: int = 0) -> Tensor:
    """Indices of as many rows with the concept as without, in random order: guessing then scores one half.

    Args:
        z: labels [row], 0 and 1.
        seed: of everything drawn.
    """
    z = two_classes(z, len(z))
    n = min(int(z.sum()), int((~z).sum()))
    rng = generator(seed, 10)
    pick = lambda part: part[torch.randperm(len(part), generator=rng)[:n]]
    both = torch.cat([pick(z.nonzero()[:, 0]), pick((~z).nonzero()[:, 0])])
    return both[torch.randperm(2 * n, generator=rng)]


def control_labels(types, *, seed: int = 0) -> Bool[Tensor, "row"]:
    """A control task (Hewitt & Liang 2019): a fair coin for each type, the same wherever the type occurs.

    Nothing but the type can tell these labels, so what a probe scores on them it has memorised.

    Args:
        types: [row] whole numbers, such as token ids.
        seed: of everything drawn.
    """
    types = torch.as_tensor(types)
    _, which = types.unique(return_inverse=True)
    coins = torch.rand(int(which.max()) + 1, generator=generator(seed, 11)) < 0.5
    return coins[which]
