"""The store deals out every row, the same ones after a kill, never holds more than a buffer, and says what is wrong."""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_course import activations, corpora, pretrained, sae
from mi_course.activations import CARD, Store, collect
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.training import Checkpoint

CONFIG = TinyConfig(
    n_layers=2,
    n_heads=2,
    d_model=8,
    d_vocab=12,
    n_ctx=16,
    d_mlp=20,
    positions="rotary",
    norm="rmsnorm",
    bias=True,
)
HOOK = "blocks.0.mlp.hook_post"
SAMPLE = corpora.random_repeats(12, 16, 8, period=(3, 6))  # 128 rows a block


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TinyTransformer(CONFIG).eval()


def sorted_rows(x):
    return sorted(map(tuple, x.tolist()))


# --- collect ---------------------------------------------------------------------------------------


def test_collect_is_the_cache_in_order(model):
    tokens = SAMPLE(0)
    _, cache = model.run_with_cache(tokens)
    rows = collect(model, HOOK, tokens, batch=3, dtype=torch.float32)
    torch.testing.assert_close(rows, cache[HOOK].flatten(0, 1))
    assert collect(model, HOOK, tokens).dtype == torch.float16


def test_heads_stand_side_by_side_and_patterns_are_refused(model):
    assert collect(model, "blocks.1.attn.hook_z", SAMPLE(0)).shape == (128, 8)
    with pytest.raises(CourseError, match="not one vector for each token"):
        collect(model, "blocks.0.attn.hook_pattern", SAMPLE(0))


def test_bridge_and_tiny_transformer_agree(model):
    bridge = pretrained.to_bridge(model)
    ours, theirs = (collect(m, HOOK, SAMPLE(0), dtype=torch.float32) for m in (model, bridge))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    how = {"buffer": 256, "dtype": torch.float32, "first": True}
    x, y = (Store(m, HOOK, SAMPLE, **how).rows(100, 300) for m in (model, bridge))
    torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


def test_unknown_hook_and_nan_and_overflow(model):
    with pytest.raises(CourseError, match="hook_post"):
        collect(model, "blocks.0.mlp.hook_pots", SAMPLE(0))
    broken = TinyTransformer(CONFIG)
    with torch.no_grad():
        broken.blocks[0].mlp.W_in[0, 0] = float("nan")
    with pytest.raises(CourseError, match="NaN"):
        Store(broken, HOOK, SAMPLE, buffer=256).rows(0, 4)
    with torch.no_grad():
        broken.blocks[0].mlp.W_in[0, 0] = 1e8
    with pytest.raises(CourseError, match="float32"):
        collect(broken, HOOK, SAMPLE(0))
    assert collect(broken, HOOK, SAMPLE(0), dtype=torch.float32).isfinite().all()


def test_hook_that_is_not_computed(model):
    with pytest.raises(CourseError, match="not reached|only computed"):
        collect(model, "blocks.0.attn.hook_result", SAMPLE(0))


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, "numpy", "lists"])
def test_tokens_of_any_width(model, kind):
    tokens = SAMPLE(0)
    given = {"numpy": lambda: tokens.numpy().astype("int32"), "lists": tokens.tolist}.get(
        kind, lambda: tokens.to(kind)
    )()
    assert torch.equal(collect(model, HOOK, given), collect(model, HOOK, tokens))
    fixed, drawn = Store(model, HOOK, given, buffer=128), Store(model, HOOK, lambda step: given, buffer=128)
    assert sorted_rows(fixed.rows(0, 128)) == sorted_rows(drawn.rows(0, 128))


LOADER = torch.utils.data.DataLoader(torch.zeros(8, 4))
WRONG = {
    "a DataLoader": LOADER, "a str": "some words", "a NoneType": None, "of float32": torch.zeros(2, 4),
    r"not \[4\] of int64": torch.zeros(4, dtype=torch.long), r"not \[0, 4\]": torch.zeros(0, 4, dtype=torch.long),
    "a list": [[1, 2], [3]],
}  # fmt: skip


@pytest.mark.parametrize("sentence", WRONG)
def test_tokens_that_are_none(model, sentence):
    for use in (
        lambda: collect(model, HOOK, WRONG[sentence]),
        lambda: Store(model, HOOK, WRONG[sentence], buffer=8),
        lambda: Store(model, HOOK, lambda step: WRONG[sentence], buffer=8),
    ):
        with pytest.raises(CourseError, match=f"tokens must be.*{sentence}"):
            use()
    with pytest.raises(CourseError, match="not a list"):
        Store.of([1.0, 2.0])


# --- activations of huge norm ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_sinks():
    """A model with learned positions whose first one is a thousand times as long, as real models make it themselves."""
    model = TinyTransformer(replace(CONFIG, positions="learned")).eval()
    with torch.no_grad():
        model.pos_embed.W_pos[0] *= 1000
    return model


RESID = "blocks.0.hook_resid_pre"


def test_collect_warns_of_huge_activations_and_leaves_them_out(with_sinks, model):
    with pytest.warns(UserWarning, match="8 of 128 activations .* 8 of them at the first position"):
        whole = collect(with_sinks, RESID, SAMPLE(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rest = collect(with_sinks, RESID, SAMPLE(0), first=False, batch=3)
        collect(model, RESID, SAMPLE(0))
    assert torch.equal(rest, whole.view(8, 16, 8)[:, 1:].flatten(0, 1))
    with pytest.raises(CourseError, match="nothing but a first position"):
        collect(with_sinks, RESID, SAMPLE(0)[:, :1], first=False)


def test_without_first_positions_nothing_is_said_of_them():
    model = TinyTransformer(replace(CONFIG, positions="learned")).eval()
    with torch.no_grad():
        model.pos_embed.W_pos[1] *= 1000  # the second token: first of the rows that are left
    with pytest.warns(
        UserWarning, match="8 of 128 .* the median, 0 of them at the first position .first=False"
    ):
        collect(model, RESID, SAMPLE(0))
    with pytest.warns(UserWarning, match="8 of 120 activations at .* times as long as the median: what"):
        collect(model, RESID, SAMPLE(0), first=False)


def test_a_store_leaves_the_first_position_of_real_models_out(model, tmp_path):
    bridge = pretrained.to_bridge(model)
    windows = torch.cat([SAMPLE(0), SAMPLE(1)])
    rest = sorted_rows(collect(bridge, HOOK, windows, first=False).float())
    for store in (Store(bridge, HOOK, windows, buffer=100), Store(bridge, HOOK, SAMPLE, buffer=240)):
        assert sorted_rows(store.rows(0, 240)) == rest and "first positions left out" in repr(store)
    kept = Store(bridge, HOOK, windows, buffer=100, first=True)
    assert kept.n_rows == 256 and "left out" not in repr(kept)
    assert Store(model, HOOK, windows, buffer=100).n_rows == 256, "the course's own models have none"
    folder = Store(bridge, HOOK, windows, buffer=100).write(240, tmp_path / "store")
    assert "first positions left out" in repr(Store.open(folder))


# --- the stream ------------------------------------------------------------------------------------


def test_a_buffer_is_its_blocks_shuffled(model):
    store = Store(model, HOOK, SAMPLE, buffer=512, seed=3)
    plain = torch.cat([collect(model, HOOK, SAMPLE(i)) for i in range(4, 8)]).float()
    dealt = store.rows(512, 512)
    assert sorted_rows(dealt) == sorted_rows(plain) and not torch.equal(dealt, plain)
    assert not torch.equal(Store(model, HOOK, SAMPLE, buffer=512, seed=4).rows(512, 512), dealt)


@given(n=st.integers(30, 200), buffer=st.integers(1, 90), block=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_row_comes_once_an_epoch(n, buffer, block, seed):
    old, activations.BLOCK = activations.BLOCK, block
    try:
        store = Store.of(torch.arange(n).float()[:, None], buffer=min(buffer, n), seed=seed)
        first, second = store.rows(0, n).flatten(), store.rows(n, n).flatten()
    finally:
        activations.BLOCK = old
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(n))
    assert max(len(store._fill(i)) for i in range(len(store._cuts) - 1)) <= max(buffer, block)


def test_epochs_come_in_another_order():
    store = Store.of(torch.arange(500).float()[:, None], buffer=100)
    assert not torch.equal(store.rows(0, 500), store.rows(500, 500))


def test_rows_depend_on_their_number_alone(model):
    store, other = (Store(model, HOOK, SAMPLE, buffer=300) for _ in range(2))
    later = store.sample(70)(9)
    stream = torch.cat([other.sample(70)(step) for step in range(10)])
    assert torch.equal(later, stream[-70:]) and later.dtype == torch.float32
    assert torch.equal(store.rows(13, 400), stream[13:413])


def test_fixed_windows_come_as_epochs(model):
    windows = torch.cat([SAMPLE(i) for i in range(3)])
    store = Store(model, HOOK, windows, buffer=128, batch=5)
    assert sorted_rows(store.rows(0, 384)) == sorted_rows(collect(model, HOOK, windows).float())
    assert store.n_rows == 384 and "384 rows" in repr(store)


def test_mean_square_is_the_mean_of_squared_norms(model):
    x = collect(model, HOOK, torch.cat([SAMPLE(i) for i in range(4)])).float()
    assert Store(model, HOOK, SAMPLE, buffer=512).mean_square == pytest.approx(
        float(x.square().sum(1).mean()), rel=1e-5
    )


def test_memory_holds_one_buffer_and_one_block(model):
    alive = []

    class Counting(Store):
        def _fill(self, number):
            held = super()._fill(number)
            alive.append(held.numel())
            assert self._held is not None and self._held[1] is held
            return held

    store = Counting(model, HOOK, SAMPLE, buffer=512)
    for step in range(40):
        store.sample(100)(step)
    assert max(alive) == 512 * 20


PEAK = """
import resource, sys, torch
from mi_course import corpora
from mi_course.activations import Store
from mi_course.models import TinyConfig, TinyTransformer
torch.set_num_threads(1)
model = TinyTransformer(TinyConfig(n_layers=1, n_heads=2, d_model=64, d_vocab=12, n_ctx=64, d_mlp=512, positions="rotary")).eval()
store = Store(model, "blocks.0.mlp.hook_post", corpora.random_repeats(12, 64, 64, period=(3, 6)), buffer=2**15)
store.rows(0, 512)
first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for step in range(1, 5):
    store.rows(step * 2**15, 512)
store.write(3 * 2**15, sys.argv[1], shard=2**13)
opened = Store.open(sys.argv[1], buffer=2**14)
for step in range(12):
    opened.rows(step * 2**14, 512)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first) / 1024)
"""


def test_memory_does_not_grow(tmp_path):
    """Five buffers of 32 MB pass, three go to disk and come back: the peak stays within two more."""
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "store")], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) <= 70, f"{ran.stdout.strip()} MB more than after the first buffer"


def test_fewer_rows_than_the_buffer(model):
    for make in (
        lambda: Store(model, HOOK, SAMPLE(0)),
        lambda: Store(model, HOOK, SAMPLE, buffer=512).write(100, "nowhere"),
    ):
        with pytest.raises(CourseError, match="fewer than the buffer"):
            make()
    with pytest.raises(CourseError, match="at least one"):
        Store(model, HOOK, SAMPLE, buffer=0)


def test_a_sampler_that_changes_its_batch(model):
    store = Store(model, HOOK, lambda step: SAMPLE(step)[: 8 - step], buffer=256)
    with pytest.raises(CourseError, match="keep the batch"):
        store.rows(0, 1)


# --- on disk ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(model, tmp_path):
    return Store(model, HOOK, SAMPLE, buffer=256).write(1000, tmp_path / "store", shard=300, of="a test")


def test_written_rows_are_the_stream_and_come_once_an_epoch(model, folder):
    card = json.loads((folder / CARD).read_text())
    assert [part["rows"] for part in card["shards"]] == [300, 300, 300, 100] and card["of"] == "a test"
    rows = Store(model, HOOK, SAMPLE, buffer=256).rows(0, 1000)
    opened = Store.open(folder, buffer=350)
    assert sorted_rows(opened.rows(0, 1000)) == sorted_rows(opened.rows(1000, 1000)) == sorted_rows(rows)
    assert opened.mean_square == pytest.approx(float(rows.square().sum(1).mean()), rel=1e-6)
    assert opened.d == 20 and opened.n_rows == 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_of_any_precision_are_written_and_taken_up_again(tmp_path, dtype):
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    for _ in range(2):  # the second time it finds all of it
        Store.of(rows, buffer=16).write(40, tmp_path, shard=16)
    opened = Store.open(tmp_path, buffer=16).rows(0, 40)
    assert sorted_rows(opened) == sorted_rows(rows.float())


def test_reading_across_shards(folder):
    card = activations.read_card(folder)
    whole = activations.read_rows(folder, card["shards"], [0, 300, 600, 900, 1000], 0, 1000)
    part = activations.read_rows(folder, card["shards"], [0, 300, 600, 900, 1000], 250, 950)
    assert torch.equal(part, whole[250:950])


def test_missing_altered_and_unreadable_shards(folder):
    first = folder / "00000.safetensors"
    blob = first.read_bytes()
    first.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(CourseError, match="00000.safetensors is truncated or altered"):
        Store.open(folder)
    first.write_bytes(blob[:500])
    with pytest.raises(CourseError, match="cannot be read"):
        Store.open(folder, verify=False).rows(0, 1000)
    first.unlink()
    with pytest.raises(CourseError, match="00000.safetensors is missing"):
        Store.open(folder)


def test_no_store_there(tmp_path):
    with pytest.raises(CourseError, match="not a folder of activations"):
        Store.open(tmp_path)
    (tmp_path / CARD).write_text('{"format": 7}')
    with pytest.raises(CourseError, match="not a card"):
        Store.open(tmp_path)


def test_a_full_disk_keeps_what_was_there_and_the_rest_follows(model, tmp_path, monkeypatch):
    store, real, written = Store(model, HOOK, SAMPLE, buffer=256), activations.write_atomically, []

    def full(files):
        written.append(files)
        if len(written) == 3:
            raise CourseError("disk: No space left on device")
        real(files)

    monkeypatch.setattr(activations, "write_atomically", full)
    with pytest.raises(CourseError, match="No space"):
        store.write(1000, tmp_path / "store", shard=300)
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").glob("*.safetensors")}
    assert list(sorted(before)) == ["00000.safetensors", "00001.safetensors"]
    with pytest.raises(CourseError, match="unfinished, 600 of 1,000"):
        Store.open(tmp_path / "store")
    store.write(1000, tmp_path / "store", shard=300)
    whole = store.write(1000, tmp_path / "other", shard=300)
    assert len(written) == 3 + 2 + 4  # the two shards that were there were not written again
    for path in whole.iterdir():
        assert path.read_bytes() == (tmp_path / "store" / path.name).read_bytes()


def test_another_store_does_not_go_on_in_a_folder(model, folder):
    with pytest.raises(CourseError, match="another store.*seed"):
        Store(model, HOOK, SAMPLE, buffer=256, seed=1).write(1000, folder, shard=300)
    with pytest.raises(CourseError, match="another store"):
        Store(TinyTransformer(replace(CONFIG, seed=1)), HOOK, SAMPLE, buffer=256).write(
            1000, folder, shard=300
        )


# --- a killed run ----------------------------------------------------------------------------------

TRAIN = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from test_activations import train_on_a_store
def stop(step):
    if step == 37:
        os.kill(os.getpid(), signal.SIGKILL)
train_on_a_store(sys.argv[2], stop)
"""


def train_on_a_store(checkpoint=None, before=lambda step: None):
    torch.manual_seed(0)
    store = Store(TinyTransformer(CONFIG).eval(), HOOK, SAMPLE, buffer=256)
    one = sae.SparseAutoencoder(sae.SaeConfig(20, 32, l1=0.5)).start_from(store.rows(0, 256))
    steps = []

    def sample(step):
        before(step)
        steps.append(step)
        return store.sample(64)(step)

    how = sae.SaeTraining(60, warmup=5, dead_after=500, resample_at=(0.6, 0.8))
    sae.train(
        one,
        sample,
        how,
        pool=lambda: store.rows(0, 256),
        checkpoint=checkpoint and Checkpoint(checkpoint, every=10),
    )
    return one, steps


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    state = tmp_path / "state"
    command = [sys.executable, "-c", TRAIN, str(Path(__file__).parent), str(state)]
    killed = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed, steps = train_on_a_store(state)
    whole, _ = train_on_a_store()
    assert steps[0] == 30
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("hook", ["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.mlp.hook_post"])
def test_a_run_ends_at_the_hook_and_leaves_none_behind(hook):
    model = TinyTransformer(TinyConfig(n_layers=3, d_vocab=24, d_model=16, n_heads=2, d_mlp=8))
    tokens, later = torch.arange(20).view(2, 10), []
    _, cache = model.run_with_cache(tokens)
    model.blocks[2].hook_resid_pre.add_hook(lambda x, hook: later.append(x), is_permanent=True)
    found = activations.activations(model, hook, tokens, torch.float32)
    assert torch.equal(found, cache[hook].detach().flatten(0, 1))
    assert not later and all(
        not point.fwd_hooks for name, point in model.hook_dict.items() if "blocks.2" not in name
    )
    model(tokens)
    assert len(later) == 1
