"""Fitting LEACE against `concept-erasure`, the authors' own package, on the same rows in 64 bits."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks import ratio
from mi_course import probing

PUBLISHED = Path(__file__).parents[1] / "build" / "erasure"  # concept-erasure, by `make test-leace`
SETTINGS = "labels 0 and 1, float64, no shrinkage, one thread"


def rows(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated rows, shifted by their labels."""
    draw = torch.Generator().manual_seed(0)
    z = torch.rand(n, generator=draw) < 0.4
    mixing = torch.eye(d).double() + 0.1 * torch.randn(d, d, generator=draw).double()
    shift = torch.randn(d, generator=draw).double()
    return torch.randn(n, d, generator=draw).double() @ mixing + z[:, None] * shift, z


def row(n: int, d: int) -> dict:
    from concept_erasure import LeaceEraser

    x, z = rows(n, d)
    numbers = z.double()[:, None]
    ours = lambda: probing.leace(x, z)
    theirs = lambda: LeaceEraser.fit(x, numbers, shrinkage=False)
    differ = float((ours()(x) - theirs()(x)).abs().max())
    timing = ratio(ours, theirs, calls=1)
    return {
        "name": f"fitting LEACE, {n:,} rows of {d}", "peer": "concept-erasure", "settings": SETTINGS,
        "ours": f"{1e3 * timing['ours']:.1f} ms", "theirs": f"{1e3 * timing['peer']:.1f} ms",
        "ratio": timing["ratio"], "range": timing["range"], "goal": None,
        "agree": f"erased rows differ by {differ:.0e}",
    }  # fmt: skip


def run() -> list[dict]:
    """Two widths; nothing where the package is not here."""
    if not PUBLISHED.exists():
        print("concept-erasure is not here: make test-leace fetches it.")
        return []
    torch.set_num_threads(1)
    sys.path.append(str(PUBLISHED))
    return [row(10_000, 128), row(10_000, 576)]
