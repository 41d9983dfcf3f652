"""A dictionary in shards trains, resumes and is saved as a whole one is; what cannot be cut is refused in a sentence."""

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import test_processes
import torch
from safetensors.torch import load_file

from mi_course import files, processes, recipes, sae
from mi_course.__main__ import main
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.recipes import autoencoders as sae_recipes
from mi_course.sae import kinds, shards
from mi_course.training import Callback, Checkpoint

D_IN, D_SAE, STEPS = 16, 48, 50
CASES = {
    "relu": {"kind": "relu", "l1": 1.0},
    "relu_norm": {"kind": "relu_norm", "l1": 1.0},
    "tied": {"kind": "relu", "l1": 1.0, "tied": True},
    "topk": {"kind": "topk", "k": 3},
    "topk-dense": {"kind": "topk", "k": 3, "fast": False},
    "topk-30": {"kind": "topk", "k": 30},  # more than one of two processes holds
    "batchtopk": {"kind": "batchtopk", "k": 3},
    "jumprelu": {"kind": "jumprelu", "l1": 0.2},
    "gated": {"kind": "gated", "l1": 0.3},
}


class Weighed(Callback):
    """The bytes of weights, gradients and what Adam remembers, during training."""

    def after(self, run, step):
        kept = [t for opt in run.optimizers for slots in opt.state.values() for t in slots.values()]
        params = list(run.model.parameters())
        self.bytes = sum(t.nbytes for t in (*params, *(p.grad for p in params), *kept))


def sample(step: int, before=lambda step: None) -> torch.Tensor:
    before(step)
    return torch.randn(64, D_IN, generator=generator(3, step))


def train(one: type, case: str, before=lambda step: None, checkpoint: Path | None = None, **options):
    """Fifty steps on a fixed batch of 64 inputs; many features die, are reset, and take turns in the auxiliary loss."""
    settings = dict(CASES[case])
    fast = settings.pop("fast", True)
    made = one(sae.SaeConfig(D_IN, D_SAE, **settings)).start_from(sample(999))
    how = sae.SaeTraining(STEPS, batch=64, warmup=5, dead_after=128, resample_at=(0.5,))
    made.history = sae.train(
        made, partial(sample, before=before), how, pool=lambda: sample(998), fast=fast,
        checkpoint=checkpoint and Checkpoint(checkpoint, every=10), **options,
    )  # fmt: skip
    return made


def tiny_recipe():
    """A recipe of a few steps on few windows."""
    recipe = sae_recipes.RECIPES["sae-1024-top16"]
    return replace(recipe, name="sae-tiny", sae=replace(recipe.sae, d_sae=64), inputs=512 * 3)


class AnyText:
    """Tokens at random, in the place of a corpus that takes seconds to read."""

    fingerprint = "none"

    def windows(self, n_ctx, batch, seed=0):
        return lambda step: self.held_out_windows(batch, n_ctx, seed + step)

    def held_out_windows(self, n, n_ctx, seed=0):
        return torch.randint(512, (n, n_ctx), generator=generator(seed))

    def __repr__(self):
        return "AnyText()"


def small(monkeypatch) -> None:
    """A corpus of no text, few windows to measure on, few of the dead at once."""
    measure = sae_recipes.measure
    monkeypatch.setattr(
        sae_recipes, "measure", lambda one, model, corpus: measure(one, model, corpus, windows=4)
    )
    monkeypatch.setattr(sae_recipes.scripts, "script_text", AnyText)
    monkeypatch.setattr(kinds, "AT_ONCE", 8)


def work(folder: Path) -> None:
    """Run by each process of torchrun, once until one is killed, and once more to go on from there."""
    torch.set_num_threads(1)
    processes.join()
    small(pytest.MonkeyPatch())
    if not (folder / "stopped-0.partial").exists():
        stopped_and_killed(folder)
    shutil.copy(folder / "topk.partial", folder / f"killed-{processes.rank()}.partial")
    train(sae.Shard, "topk", checkpoint=folder / "topk.partial").save(folder / "resumed")
    if processes.rank() == 0:
        shutil.copy(folder / "of-one.partial", folder / "goes-on.partial")
    processes.wait()
    train(sae.Shard, "topk", checkpoint=folder / "goes-on.partial").save(folder / "from-one")
    told = {}
    for case in CASES:
        weighed = Weighed()
        one = train(sae.Shard, case, callbacks=[weighed])
        one.save(folder / case)
        told[case] = {"loss": one.history.loss, "notes": one.history.notes, "bytes": weighed.bytes}
        torch.save(one.encode(sample(7)), folder / f"{case}-{processes.rank()}.pt")
    told["equal"] = float((equal_features().encode(torch.zeros(5, D_IN)) > 0).sum())
    try:
        train(sae.Shard, "relu", checkpoint=folder / f"of-{('one', 'none')[processes.rank()]}.partial")
    except CourseError as error:
        told["unseen"] = str(error)
    sae.Shard.load(folder / "relu").save(folder / "again", half=True)
    tiny_recipe().in_shards().train(out=folder / "recipe", progress=False)
    (folder / f"said-{processes.rank()}.json").write_text(json.dumps(told))
    processes.leave()


def stopped_and_killed(folder: Path) -> None:
    """Ctrl-C reaches one process, both stop after the same step; they go on, and one of them is killed."""
    first = processes.rank() == 0
    stop = lambda step: step == 23 and not first and os.kill(os.getpid(), signal.SIGINT)
    try:
        train(sae.Shard, "topk", stop, folder / "topk.partial")
    except KeyboardInterrupt:
        shutil.copy(folder / "topk.partial", folder / f"stopped-{processes.rank()}.partial")
    processes.wait()
    die = lambda step: step == 33 and not first and os.kill(os.getpid(), signal.SIGKILL)
    train(sae.Shard, "topk", die, folder / "topk.partial")


def equal_features() -> sae.SparseAutoencoder:
    """Every feature is as active as every other: k are to be kept, and no more."""
    one = sae.Shard(sae.SaeConfig(D_IN, D_SAE, "topk", k=30))
    with torch.no_grad():
        one.b_enc.fill_(1.0)
    return one


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        train(sae.SparseAutoencoder, "topk", checkpoint=folder / "of-one.partial", stop_at=20)
        code = (
            f"from pathlib import Path; import test_sae_shards\ntest_sae_shards.work(Path({str(folder)!r}))"
        )
        ran = test_processes.torchrun(folder, code)
        assert ran.returncode != 0 and (folder / "stopped-1.partial").exists(), ran.stderr
        ran = test_processes.torchrun(folder, code)
        assert ran.returncode == 0, ran.stderr
        yield folder


def said(folder: Path) -> list[dict]:
    """What each process told."""
    return [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]


def differ(a: dict, b: dict) -> float:
    """The largest difference of two sets of tensors with the same names."""
    assert set(a) == set(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(two, case):
    weighed = Weighed()
    one = train(sae.SparseAutoencoder, case, callbacks=[weighed])
    whole = sae.SparseAutoencoder.load(two / case)
    assert whole.cfg == one.cfg and differ(whole.state_dict(), one.state_dict()) <= 1e-5
    for told in (rank[case] for rank in said(two)):
        assert told["loss"] == pytest.approx(one.history.loss, rel=1e-5)
        for ours, theirs in zip(told["notes"], one.history.notes, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        assert (told["bytes"] - 8 * D_IN) / weighed.bytes == pytest.approx(0.5, abs=0.02)
    f = torch.cat([torch.load(two / f"{case}-{rank}.pt") for rank in (0, 1)], 1)
    assert torch.equal(f > 0, whole.encode(sample(7)) > 0)


def test_exactly_k_are_active_also_where_a_shard_has_fewer_and_where_all_are_equal(two):
    f = torch.cat([torch.load(two / f"topk-30-{rank}.pt") for rank in (0, 1)], 1)
    assert f.shape == (64, D_SAE) and int((f > 0).sum(1).max()) <= 30
    assert sum(told["equal"] for told in said(two)) == 5 * 30


def test_stopped_killed_and_resumed_equals_uninterrupted(two):
    states = [two / f"stopped-{rank}.partial" for rank in (0, 1)]
    assert {step_of(path) for path in states} == {24}  # Ctrl-C in step 23 of one process
    assert step_of(two / "killed-0.partial") == 30
    assert differ(load_file(two / "resumed.safetensors"), load_file(two / "topk.safetensors")) == 0


def test_another_number_of_processes_goes_on_from_the_same_file(two, tmp_path):
    expected = load_file(two / "topk.safetensors")
    assert differ(load_file(two / "from-one.safetensors"), expected) <= 1e-5
    shutil.copy(two / "killed-0.partial", tmp_path / "of-two.partial")
    one = train(sae.SparseAutoencoder, "topk", checkpoint=tmp_path / "of-two.partial")
    assert len(one.history.loss) == STEPS
    assert differ(one.state_dict(), expected) <= 1e-5


def test_files_are_those_of_a_whole_one(two, tmp_path):
    whole = sae.SparseAutoencoder.load(two / "relu")
    expected = load_file(whole.save(tmp_path / "half", half=True))
    again = load_file(two / "again.safetensors")
    assert {name: (t.dtype, t.shape) for name, t in again.items()} == {
        name: (t.dtype, t.shape) for name, t in expected.items()
    }
    assert differ(again, expected) == 0
    card, alike = (
        json.loads((f / "relu.json").read_text()) for f in (two, whole.save(tmp_path / "relu").parent)
    )
    assert card.keys() == alike.keys() and card["sae"] == alike["sae"]
    assert not list(two.glob(".*tmp"))  # nothing half


def test_a_recipe_in_shards_writes_what_it_writes_without(two, tmp_path):
    path = tiny_recipe().train(out=tmp_path, progress=False)
    made, expected = (sae.SparseAutoencoder.load(p) for p in (two / "recipe" / "sae-tiny", path))
    assert differ(made.state_dict(), expected.state_dict()) <= 1e-3  # both rounded to 16 bits
    assert made.card["shards"] == 2 and made.card.keys() - {"shards"} == expected.card.keys()
    assert made.card["final"] == pytest.approx(expected.card["final"], rel=1e-3, abs=1e-4)
    left = sorted(p.name for p in (two / "recipe").iterdir())
    assert left == ["sae-tiny.json", "sae-tiny.safetensors"]


def test_a_checkpoint_that_one_process_does_not_see_is_one_sentence(two):
    assert all("Not all processes see" in told["unseen"] for told in said(two))


def step_of(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["card"])["step"]


# -- in one process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_single_shard_is_the_whole(case, tmp_path):
    one, shard = (train(kind, case) for kind in (sae.SparseAutoencoder, sae.Shard))
    assert differ(one.state_dict(), shard.state_dict()) == 0 and one.history.loss == shard.history.loss
    assert differ(load_file(shard.save(tmp_path / "a")), load_file(one.save(tmp_path / "b"))) == 0
    assert differ(sae.Shard.load(tmp_path / "b").state_dict(), one.state_dict()) == 0


@pytest.mark.parametrize("d_sae, d_in, n", [(48, 16, 2), (48, 5, 3), (2600, 3, 4), (2048, 2, 2), (6, 1, 6)])
def test_parts_of_the_first_weights_are_those_of_the_whole(d_sae, d_in, n, monkeypatch):
    cfg = sae.SaeConfig(d_in, d_sae, seed=5)
    parts, drawn = [], []
    for rank in range(n):
        monkeypatch.setattr(processes, "world", lambda: n)
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        parts.append(sae.Shard(cfg))
        drawn.append(parts[-1]._drawn())
    assert {len(part.b_enc) for part in parts} == {d_sae // n}
    whole = sae.SparseAutoencoder(cfg)
    assert torch.equal(torch.cat(drawn), whole._drawn())
    torch.testing.assert_close(torch.cat([part.W_dec for part in parts]), whole.W_dec, rtol=1e-6, atol=0)
    assert repr(parts[-1]).startswith(f"Shard {n - 1} of {n} of SparseAutoencoder(relu, {d_in} → {d_sae}")


def test_what_is_cut_is_everything_of_the_features():
    one = sae.Shard(sae.SaeConfig(4, 8, "gated"))
    assert one.cut == {"W_dec", "_W_enc_rows", "b_enc", "r_mag", "b_mag"}
    assert shards.ROWS % 16 == 0


# -- bad input -----------------------------------------------------------------------------------------


def test_sizes_that_the_processes_do_not_divide(monkeypatch):
    monkeypatch.setattr(processes, "world", lambda: 5)
    with pytest.raises(CourseError, match="48 features cannot be cut into 5 equal parts: --nproc-per-node 4"):
        sae.Shard(sae.SaeConfig(D_IN, D_SAE))


@pytest.mark.parametrize(
    "name, n, sentence",
    [
        ("sae-512-l3", None, "torchrun --nproc-per-node 2 -m mi_course train sae-512-l3 --shard"),
        ("sae-512-l3", 3, "A dictionary of 512 features cannot be cut into 3 equal parts"),
        ("mlp-1l", 2, "mlp-1l is no autoencoder"),
    ],
)
def test_what_cannot_be_trained_in_shards_is_one_sentence(name, n, sentence, monkeypatch, capsys, tmp_path):
    if n is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", str(n))
    assert main(["train", name, "--shard", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip()
    assert sentence in said and len(said.splitlines()) == 1


def test_a_nested_dictionary_is_not_cut():
    with pytest.raises(CourseError, match="A nested dictionary is not cut into shards: its prefixes"):
        sae.Shard(sae.SaeConfig(8, 24, "nested", k=4, prefixes=(6,)))


def test_more_active_features_than_the_whole_has():
    with pytest.raises(CourseError, match="1 ≤ k ≤ d_sae = 48"):
        sae.Shard(sae.SaeConfig(D_IN, D_SAE, "topk", k=49))


def test_a_file_of_another_size(tmp_path, monkeypatch):
    whole = sae.SparseAutoencoder(sae.SaeConfig(4, 9)).save(tmp_path / "nine")
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(CourseError, match="9 rows, which 2 processes cannot share equally"):
        sae.Shard.load(whole)


def test_a_file_that_was_altered(tmp_path):
    path = sae.SparseAutoencoder(sae.SaeConfig(4, 8)).save(tmp_path / "one")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CourseError, match="truncated or altered"):
        sae.Shard.load(path)


def test_a_disk_that_is_full_in_the_middle_leaves_what_was_there(tmp_path, monkeypatch):
    one = sae.Shard(sae.SaeConfig(4, 8))
    before = one.save(tmp_path / "one").read_bytes()
    whole_file = processes.whole_file

    def full(*given):
        yield next(whole_file(*given))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes, "whole_file", full)
    with pytest.raises(CourseError, match="No space left.*untouched"):
        one.save(tmp_path / "one", half=True)
    assert (tmp_path / "one.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.json", "one.safetensors"]
    sae.Shard.load(tmp_path / "one")


def test_a_checkpoint_of_another_size_and_one_that_is_none(tmp_path):
    train(sae.SparseAutoencoder, "topk", checkpoint=tmp_path / "run.partial", stop_at=2)
    small = sae.Shard(sae.SaeConfig(D_IN, 24, "topk", k=3))
    how = sae.SaeTraining(STEPS, batch=64, warmup=5)
    with pytest.raises(CourseError, match="belongs to another model"):
        sae.train(small, sample, how, checkpoint=tmp_path / "run.partial")
    (tmp_path / "run.partial").write_bytes(b"no")
    with pytest.raises(CourseError, match="not a checkpoint"):
        train(sae.Shard, "topk", checkpoint=tmp_path / "run.partial")


def test_the_head_of_a_file_is_what_safetensors_reads(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.tensor(1.5), "c": torch.ones(3, dtype=torch.bool)}
    tensors["d"] = torch.randn(2, 2).half()
    files.write(tmp_path / "x.safetensors", b"".join(processes.whole_file(tensors, {"a"}, {"who": "us"})))
    back = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(back[name], t) and back[name].dtype == t.dtype for name, t in tensors.items())
    assert recipes.find("sae-512-l3").in_shards().sharded
