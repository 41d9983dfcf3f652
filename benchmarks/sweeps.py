"""Sweeps of 20 small runs on one and on two workers of this machine, start and end of the workers included."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ratio
from mi_course import sae, sweeps
from mi_course.corpora.corpus import generator
from mi_course.recipes import varying


def trained(size: int, seed: int, steps: int = 1500) -> dict[str, float]:
    """A TopK autoencoder on sums of a few of 96 directions, a few seconds on one thread."""
    truth = torch.nn.functional.normalize(torch.randn(96, 48, generator=generator(seed)), dim=1)
    on = torch.rand(20_000, 96, generator=generator(seed, 1)) < 0.05
    x = (on * torch.rand(20_000, 96, generator=generator(seed, 2))) @ truth
    one = sae.SparseAutoencoder(sae.SaeConfig(48, size, "topk", k=8, seed=seed)).start_from(x)
    draw = lambda step: x[torch.randint(len(x), (512,), generator=generator(seed, step))]
    sae.train(one, draw, sae.SaeTraining(steps, lr=3e-3), progress=False)
    with torch.no_grad():
        return {"fvu": sae.fvu(x, one.decode(one.encode(x)))}


def tiny(out: Path) -> list[sweeps.Task]:
    """Twenty autoencoders of three seconds each."""
    return [
        sweeps.Task(f"size{s['size']}-seed{s['seed']}", "benchmarks.sweeps:trained", s)
        for s in sweeps.grid(size=[64, 96, 128, 192, 256], seed=[0, 1, 2, 3])
    ]


def recipes(out: Path) -> list[sweeps.Task]:
    """What `python -m mi_course sweep scaling` does: twenty recipes, sizes by steps."""
    return varying.tasks(*varying.sweep_named("scaling", {}), out)


def row(name: str, tasks: Callable[[Path], list[sweeps.Task]], rounds: int) -> dict:
    """Two workers and one in turn; each starts its workers anew, so there is nothing to warm up."""
    tables = {}

    def on(workers: int) -> None:
        with tempfile.TemporaryDirectory() as out:
            tables[workers] = sweeps.run(tasks(Path(out)), Path(out), workers=workers, progress=False).table()

    timing = ratio(lambda: on(2), lambda: on(1), rounds=rounds, calls=1, warm=0)
    return {
        "name": name, "peer": "one worker", "settings": f"two workers, one thread each; {rounds} time(s)",
        "ours": f"{timing['ours']:.0f} s", "theirs": f"{timing['peer']:.0f} s", "ratio": timing["ratio"],
        "range": timing["range"], "goal": 1.8,
        "agree": "the same table, bit for bit" if tables[1] == tables[2] else "the tables differ",
    }  # fmt: skip


def run() -> list[dict]:
    """Small tasks, at which the start of the workers shows, and recipes of the course."""
    return [
        row("a sweep of 20 autoencoders of three seconds", tiny, 3),
        row("`sweep scaling`, 20 small recipes", recipes, 1),
    ]
