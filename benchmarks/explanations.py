"""Exact Shapley values against `shap.explainers.Exact`, on the same function and background."""

from __future__ import annotations

import torch

from benchmarks import ratio
from mi_course import explanations

SETTINGS = "MLP of 16 tanh units, float64, interventional, one thread"


def network(n: int, seed: int = 0):
    """A small MLP with random weights: rows [row feature] → one number a row."""
    draw = torch.Generator().manual_seed(seed)
    W_in, w_out = (torch.randn(*shape, generator=draw).double() for shape in ((n, 16), (16,)))
    return lambda rows: (rows @ W_in).tanh() @ w_out


def row(n: int, instances: int, rows: int, goal: float | None) -> dict:
    """All 2ⁿ coalitions of n features for so many instances, against a background of so many rows."""
    import shap

    model, draw = network(n), torch.Generator().manual_seed(1)
    background = torch.randn(rows, n, generator=draw).double()
    x = torch.randn(instances, n, generator=draw).double()
    asked = lambda given: model(torch.from_numpy(given)).numpy()
    peer = shap.explainers.Exact(asked, shap.maskers.Independent(background.numpy(), max_samples=rows))
    theirs = lambda: peer(x.numpy(), silent=True).values
    ours = lambda: explanations.exact_shapley(model, x, background)
    differ = float((ours() - torch.from_numpy(theirs())).abs().max())  # compiles shap's numba functions, too
    timing = ratio(ours, theirs, calls=1)
    return {
        "name": f"exact Shapley values, {n} features, {instances} instance(s), background {rows}",
        "peer": "shap.explainers.Exact", "settings": SETTINGS,
        "ours": f"{1e3 * timing['ours']:.1f} ms", "theirs": f"{1e3 * timing['peer']:.1f} ms",
        "ratio": timing["ratio"], "range": timing["range"], "goal": goal,
        "agree": f"values differ by {differ:.0e}",
    }  # fmt: skip


def run() -> list[dict]:
    """A table of predictions, where overhead counts, and one prediction, where the model's own time does."""
    torch.set_num_threads(1)
    return [row(5, 500, 10, 5.0), row(6, 200, 20, None), row(10, 1, 100, None)]
