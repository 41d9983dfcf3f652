"""Benchmarks are run by hand, so here they are run once through: one that broke would be found when it is needed."""

import importlib

import pytest
import torch

from benchmarks import HEAD, line
from benchmarks import __main__ as everything
from benchmarks import sae as autoencoders


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """Both sides are called once, and nothing is timed."""

    def ratio(ours, peer, **_):
        ours(), peer()
        return {"ours": 1.0, "peer": 1.0, "ratio": 1.0, "range": (1.0, 1.0)}

    for part in everything.PARTS.values():
        module = importlib.import_module(part.__module__)
        if hasattr(module, "ratio"):
            monkeypatch.setattr(module, "ratio", ratio)


def well_formed(rows: list[dict]) -> None:
    assert rows and all(line(row).count("|") == HEAD[0].count("|") for row in rows)


@pytest.mark.parametrize("part", ["transformers", "explanations", "grokking"])
def test_a_section_runs(part):
    well_formed(everything.PARTS[part]())


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_a_step_of_ours_and_the_plain_one_learn_the_same(kind, monkeypatch):
    monkeypatch.setattr(autoencoders, "D_SAE", 256)
    x = autoencoders.planted(1)[:512]
    ours, plain = autoencoders.Course(kind, False), autoencoders.Plain(kind, False)
    before = ours.fvu(x)
    for _ in range(5):
        ours.step(x), plain.step(x)
    assert ours.fvu(x) == pytest.approx(plain.fvu(x), abs=2e-3) and ours.fvu(x) < before
    assert int(ours.sae.step) == 5 and bool(torch.isfinite(ours.sae.W_dec).all())
    ours.upkeep.end()


def test_a_task_of_the_sweep_is_the_same_again():
    from benchmarks.sweeps import trained

    one = trained(16, 0, steps=20)
    assert one == trained(16, 0, steps=20) and 0 < one["fvu"] < 1
