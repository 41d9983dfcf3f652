"""Toy models of superposition to equal loss: the course's batched run against the published loop, and one by one.

The peer is written from the paper's description: ten models in an einsum, 10,000 steps of AdamW at a constant rate of
1e-3, batches of 1024 with features drawn for each model. Its 10,000 steps are timed over a few of them and scaled; the
losses it ends with were measured in whole runs (`python -m benchmarks.toy_models` repeats them, some minutes).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import ratio
from mi_course import superposition as toy

INSTANCES = 10
DENSITIES = 20.0 ** -torch.linspace(0, 1, INSTANCES)  # from 1 to 0.05, the paper's
PUBLISHED_STEPS, PUBLISHED_BATCH, PUBLISHED_LR = 10_000, 1024, 1e-3
SAMPLES = 2**15  # common fresh inputs on which losses are compared
EVERY = 1000  # steps between two looks at the peer's loss


@dataclass(frozen=True)
class Size:
    """A size of the paper, our settings for it, and what the peer's whole run from the same weights gave."""

    n: int
    m: int
    importance: float
    steps: int
    batch: int
    lr: float
    peer_way: dict[int, float]  # its loss, summed over the ten models, after so many steps

    @property
    def world(self) -> toy.Features:
        return toy.Features(self.n, DENSITIES[:, None], toy.importances(self.n, self.importance))

    def models(self) -> toy.ToyModels:
        return toy.ToyModels(toy.ToyConfig(self.n, self.m), INSTANCES)

    def train(self) -> toy.ToyModels:
        models = self.models()
        toy.train(models, self.world, steps=self.steps, lr=self.lr, batch=self.batch)
        return models

    def __str__(self) -> str:
        return (
            f"n {self.n}, m {self.m}, I = {self.importance}^i, ten models. Ours: {self.steps:,} steps, batch {self.batch}, "
            f"Adam, lr {self.lr:g} falling to 0"
        )


SIZES = [
    Size(
        20,
        5,
        0.7,
        1500,
        256,
        3e-2,
        {
            1000: 0.34514,
            2000: 0.3004,
            3000: 0.29955,
            4000: 0.29732,
            5000: 0.29739,
            6000: 0.29738,
            7000: 0.2974,
            8000: 0.29741,
            9000: 0.29737,
            10000: 0.29738,
        },
    ),
    Size(
        80,
        20,
        0.9,
        2000,
        256,
        1.5e-2,
        {
            1000: 0.69941,
            2000: 0.63542,
            3000: 0.62874,
            4000: 0.62469,
            5000: 0.62097,
            6000: 0.62067,
            7000: 0.62054,
            8000: 0.62041,
            9000: 0.62052,
            10000: 0.61895,
        },
    ),
]
PUBLISHED = f"{PUBLISHED_STEPS:,} steps, batch {PUBLISHED_BATCH}, AdamW, lr {PUBLISHED_LR:g}"


class Published:
    """The loop as the paper describes it: all models in one einsum, every model with random numbers of its own."""

    def __init__(self, size: Size):
        models = size.models()
        self.W = nn.Parameter(models.W.detach().mT.clone())  # inst n m, from the same start as ours
        self.b = nn.Parameter(torch.zeros(INSTANCES, size.n))
        self.importance = size.world.weight
        self.optimizer = torch.optim.AdamW([self.W, self.b], lr=PUBLISHED_LR)

    def sample(self) -> Tensor:
        value = torch.rand(PUBLISHED_BATCH, INSTANCES, self.b.shape[1])
        return torch.where(torch.rand_like(value) <= DENSITIES[:, None], value, torch.zeros(()))

    def step(self) -> None:
        x = self.sample()
        hidden = torch.einsum("bin,inm->bim", x, self.W)
        out = torch.relu(torch.einsum("bim,inm->bin", hidden, self.W) + self.b)
        loss = (self.importance * (x.abs() - out) ** 2).mean((0, 2)).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def models(self) -> toy.ToyModels:
        return toy.with_weights(self.W.detach().mT, self.b.detach())


class OneByOne:
    """One model at a time, as one would write it first; the published batch, rate and optimiser."""

    def __init__(self, size: Size, instance: int = 5):
        models = size.models()
        self.W, self.b = nn.Parameter(models.W[instance].detach().clone()), nn.Parameter(torch.zeros(size.n))
        self.importance, self.density = size.world.weight, DENSITIES[instance]
        self.optimizer = torch.optim.AdamW([self.W, self.b], lr=PUBLISHED_LR)

    def step(self) -> None:
        value = torch.rand(PUBLISHED_BATCH, len(self.b))
        x = torch.where(torch.rand_like(value) <= self.density, value, torch.zeros(()))
        out = torch.relu(x @ self.W.T @ self.W + self.b)
        loss = (self.importance * (x - out) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def whole_run(size: Size) -> dict[int, float]:
    """The peer's loss, summed over its models, along its 10,000 steps."""
    torch.manual_seed(0)
    peer, way = Published(size), {}
    for step in range(PUBLISHED_STEPS + 1):
        if step and step % EVERY == 0:
            way[step] = float(size.world.expected_losses(peer.models(), SAMPLES).sum())
        peer.step()
    return way


def to_equal_loss(size: Size, rounds: int = 4, sample: int = 40) -> list[dict]:
    """Whole runs of ours between short stretches of both peers, which are scaled to their 10,000 steps."""
    ours, peer, single = size.train(), Published(size), OneByOne(size)
    loss = float(size.world.expected_losses(ours, SAMPLES).sum())
    agree = f"loss {loss:.4f}, theirs {size.peer_way[PUBLISHED_STEPS]:.4f}"
    stretch = {
        "loop": lambda: [peer.step() for _ in range(sample)],
        "one": lambda: [single.step() for _ in range(sample)],
    }
    scale = {"loop": PUBLISHED_STEPS / sample, "one": INSTANCES * PUBLISHED_STEPS / sample}
    timing = {key: ratio(size.train, f, rounds=rounds, calls=1) for key, f in stretch.items()}
    enough = next((step for step, value in size.peer_way.items() if value <= 1.01 * loss), PUBLISHED_STEPS)
    early = {k: v if k == "ours" else scaled(v, enough / PUBLISHED_STEPS) for k, v in timing["loop"].items()}
    what = f"toy models n {size.n}, m {size.m}, to equal loss"
    told = f"{size}; theirs: {PUBLISHED}, timed over {sample} steps and scaled"
    return [
        row(what, "the published loop", told, 30.0, agree, timing["loop"], scale["loop"]),
        row(what, f"the published loop, stopped after {enough:,} steps, within 1% of our loss", told, None, agree, early, scale["loop"]),
        row(what, "one model at a time, ten times", told, 10.0, "the loop's loss", timing["one"], scale["one"]),
    ]  # fmt: skip


def scaled(value, factor: float):
    return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor


def row(
    name: str, peer: str, settings: str, goal: float | None, agree: str, timing: dict, scale: float = 1
) -> dict:
    return {
        "name": name, "peer": peer, "settings": settings, "goal": goal, "agree": agree,
        "ours": seconds(timing["ours"]), "theirs": seconds(timing["peer"] * scale),
        "ratio": timing["ratio"] * scale, "range": scaled(timing["range"], scale),
    }  # fmt: skip


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.2f} ms"


def per_step(size: Size) -> dict:
    """One step of both at the same batch; the gradients agree, which the loss after it shows."""
    models, peer, world = size.models(), Published(size), size.world
    x = peer.sample()
    ours_loss = world.losses(models, x.transpose(0, 1)).sum()
    theirs = (peer.importance * (x - peer.models()(x.transpose(0, 1)).transpose(0, 1)) ** 2).sum((0, 2)).sum()
    steps = 20
    timing = ratio(
        lambda: toy.train(models, world, steps=steps, batch=PUBLISHED_BATCH),
        lambda: [peer.step() for _ in range(steps)],
        calls=1,
    )
    differ = abs(float(ours_loss.detach() - theirs.detach() / PUBLISHED_BATCH)) / float(ours_loss.detach())
    return row(
        f"toy models n {size.n}, m {size.m}: a training step", "the published loop",
        f"ten models, batch {PUBLISHED_BATCH} on both sides; drawing the inputs included", 2.5,
        f"losses of a batch differ by {differ:.0e}", timing, 1 / steps,
    ) | {"ours": seconds(timing["ours"] / steps), "ratio": timing["ratio"], "range": timing["range"]}  # fmt: skip


def in_company(instances: int = 64, steps: int = 60, batch: int = 128) -> dict:
    """What batching alone gives: the same steps, batch and optimiser, together and one model after the other."""
    config, density = toy.ToyConfig(20, 5), torch.logspace(0, -2, instances)

    def together() -> toy.ToyModels:
        models = toy.ToyModels(config, instances)
        toy.train(models, toy.Features(20, density[:, None]), steps=steps, batch=batch)
        return models

    def alone(i: int) -> toy.ToyModels:
        model = toy.ToyModels(config, [i])
        toy.train(model, toy.Features(20, float(density[i])), steps=steps, batch=batch)
        return model

    every = instances // 8
    differ = max(float((alone(i).W[0] - together().W[i]).detach().abs().max()) for i in (0, instances - 1))
    timing = ratio(together, lambda: [alone(i) for i in range(0, instances, every)], rounds=7, calls=1)
    return row(
        f"toy models n 20, m 5: {instances} of them", "one model at a time, by the course itself",
        f"{steps} steps, batch {batch}, Adam on both sides; eight of the single runs timed and scaled", 10.0,
        f"weights differ by {differ:.0e}", timing, every,
    ) | {"ours": seconds(timing["ours"])}  # fmt: skip


def phase_diagram(side: int = 20, restarts: int = 8) -> dict:
    """n = 2, m = 1 over importances 0.1 … 10 and densities 0.01 … 1, trained on the exact loss; a goal in seconds."""
    importance, density = torch.logspace(-1, 1, side), torch.logspace(-2, 0, side)
    start = time.perf_counter()
    grid = torch.cartesian_prod(importance, density).repeat_interleave(
        restarts, 0
    )  # inst (importance, density)
    weight = torch.stack([torch.ones(len(grid)), grid[:, 0]], 1)
    exact = toy.Quadrature(toy.Features(2, grid[:, 1:], weight), nodes=8)
    models = toy.ToyModels(toy.ToyConfig(2, 1), len(grid))
    toy.train(models, exact, steps=600, lr=2e-2)
    best = models.pick(toy.best_of(exact.expected_losses(models), restarts))
    took = time.perf_counter() - start
    I, p = torch.cartesian_prod(importance, density).T
    paired = toy.represented(best.W).all(1)
    clear = (p / toy.crossover(I)).log().abs() > 0.3  # away from the border, where phases blur
    right = float((paired == (p < toy.crossover(I)))[clear].float().mean())
    return {
        "name": f"phase diagram n 2, m 1, {side} × {side}, best of {restarts}", "peer": "–", "theirs": "–",
        "settings": f"{len(grid):,} models, 600 steps on {len(exact.points)} quadrature points, Adam, lr 2e-2 falling to 0",
        "ours": seconds(took), "ratio": None, "range": None, "goal": f"≤ 15 s {'✔' if took <= 15 else '✘'}",
        "agree": f"{right:.0%} of the points away from p* are in the formula's phase",
    }  # fmt: skip


def run() -> list[dict]:
    """To equal loss, per step, in company, and the phase diagram in seconds."""
    rows = [row for size in SIZES for row in to_equal_loss(size)]
    return [*rows, *(per_step(size) for size in SIZES), in_company(), phase_diagram()]


if __name__ == "__main__":
    for size in SIZES:
        print(size.n, size.m, {step: round(loss, 5) for step, loss in whole_run(size).items()}, flush=True)
