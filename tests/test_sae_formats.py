"""Activations of any layout and format: measures, training, splicing, stores; rows of huge norm."""

import warnings

import numpy as np
import pytest
import torch

from mi_course import files, sae
from mi_course.activations import Store, collect, sinks
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from tests.test_sae import SETTINGS, noise, one_of

FORMATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(240, 8), (12, 20, 8), (2, 6, 20, 8)]  # rows; windows; batches of windows


def values() -> torch.Tensor:
    """240 rows of 8 whose squares do not fit into 16 bits, and a reconstruction that is off by a third."""
    return 400 * torch.randn(240, 8, generator=generator(3), dtype=torch.float64) + 100


@pytest.mark.parametrize("entry", [{"d_in": 4, "d_sae": 8, "colour": 1}, {"d_in": 4}, [4, 8]])
def test_a_card_with_other_entries_disagrees(tmp_path, entry):
    tensors = sae.SparseAutoencoder(sae.SaeConfig(4, 8)).state_dict()
    path = files.save_checked(tmp_path / "one", tensors, sae=entry)
    with pytest.raises(CourseError, match="Card and weights of .* disagree"):
        sae.SparseAutoencoder.load(path)


def right_fvu(x: np.ndarray, x_hat: np.ndarray) -> float:
    return float(((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


# --- measures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_fvu_in_every_format_and_layout(dtype, shape):
    x = values().to(dtype)
    x_hat = (0.66 * x.double()).to(dtype)
    right = right_fvu(x.double().numpy(), x_hat.double().numpy())
    assert sae.fvu(x.view(shape), x_hat.view(shape)) == pytest.approx(right, rel=1e-5)


MEASURES = {
    "l0": (sae.l0, lambda f: (f > 0).sum(1).mean()),
    "density": (lambda f: sae.density(f).tolist(), lambda f: (f > 0).mean(0).tolist()),
    "dead_share": (sae.dead_share, lambda f: ((f > 0).sum(0) == 0).mean()),
}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("measure", MEASURES)
def test_counts_in_every_format_and_layout(dtype, shape, measure):
    f = (values() - 200).relu()
    f[:, 3] = 0
    ours, right = MEASURES[measure]
    assert ours(f.to(dtype).view(shape)) == pytest.approx(right(f.numpy()))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("n", [3, 70_000])  # more than 16 bits can count
def test_l0_and_density_of_many(dtype, n):
    f = torch.zeros(n, 4, dtype=dtype)
    f[: n // 3 * 2, 1] = 1
    assert sae.l0(f) == pytest.approx(n // 3 * 2 / n) and sae.density(f)[1] == pytest.approx(n // 3 * 2 / n)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_correlations_in_every_format_and_layout(dtype, shape):
    f, lead = (values() - 100).to(dtype), shape[:-1]
    proxy = torch.arange(240) % 3 == 0
    right = [np.corrcoef(column, proxy)[0, 1] for column in f.double().numpy().T]
    ours = sae.proxy_correlation(f.view(shape), proxy.view(lead))
    assert ours.tolist() == pytest.approx(right, abs=2e-5)
    assert sae.best_match(f.view(shape), f.view(shape))[1].tolist() == list(range(8))
    one, active = f[:, 0], (f[:, 0] > 0).numpy()
    enriched = proxy.numpy()[active].mean() / proxy.numpy().mean()
    assert sae.enrichment(one.view(lead), proxy.view(lead)) == pytest.approx(enriched)
    sizes = [len(found) for found in sae.intervals(one.view(lead), each=240)]
    assert sum(sizes) == active.sum()


def test_loss_recovered_takes_numbers_and_tokens_losses():
    tokens = torch.tensor([[2.0, 4.0], [3.0, 3.0]])
    for loss in (3, 3.0, tokens, tokens.half(), tokens.mean().bfloat16(), torch.tensor(3)):
        assert sae.loss_recovered(loss, 4.0, 5) == 0.5


def test_measures_refuse_what_cannot_be_compared():
    with pytest.raises(CourseError, match="one shape"):
        sae.fvu(noise(), noise().mean(0, keepdim=True))


# --- the autoencoder -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("kind", sae.KINDS)
def test_it_reads_every_format_and_layout(dtype, kind):
    one, x = one_of(kind).eval(), noise().to(dtype)
    assert torch.equal(one(x.view(4, 8, 8)).view(32, 8), one(x.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", sae.KINDS)
def test_it_may_have_a_format_of_its_own(dtype, kind):
    one, plain = one_of(kind).to(dtype).eval(), one_of(kind).eval()
    close = {"rtol": 0.1, "atol": 0.2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    if "topk" not in kind:  # near ties are chosen otherwise
        torch.testing.assert_close(one(noise()).float(), plain(noise()), **close)
    history = sae.train(one, noise, sae.SaeTraining(25, batch=32))
    assert one.W_dec.dtype == dtype and len(history.loss) == 25


def same_training(one, first, two, second) -> None:
    assert first.loss == second.loss and first.notes == second.notes
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("how", ["float16", "bfloat16", "float64", "windows", "numpy", "numpy float16"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", sae.KINDS)
def test_training_reads_every_format_and_layout(kind, fast, how):
    """The rows are first rounded as the format has them, so that only reading them is compared."""

    def rounded(step):
        dtype = {"windows": torch.float32, "numpy": torch.float64}.get(how) or getattr(torch, how.split()[-1])
        return noise(step).to(dtype)

    def given(step):
        x = rounded(step)
        return x.view(4, 8, 8) if how == "windows" else x.numpy() if "numpy" in how else x

    def trained(sample):
        one = sae.SparseAutoencoder(sae.SaeConfig(8, 20, kind, **SETTINGS[kind])).start_from(sample(0))
        config = sae.SaeTraining(30, batch=32, dead_after=64, resample_at=(0.5,))
        return one, sae.train(one, sample, config, pool=lambda: sample(99), fast=fast)

    same_training(*trained(given), *trained(lambda step: rounded(step).float()))


def test_training_takes_a_store():
    rows = noise(0, 2000)
    config = sae.SaeTraining(30, batch=32)
    one, two = one_of("relu"), one_of("relu")
    store = Store.of(rows, buffer=500)
    same_training(one, sae.train(one, store, config), two, sae.train(two, store.sample(32), config))
    assert repr(store) == "Store(rows: 2,000 rows, 500 in the buffer)"
    assert repr(one) == "SparseAutoencoder(relu, 8 → 20 features, λ = 0.5)"
    assert repr(one_of("topk", tied=True)) == "SparseAutoencoder(topk, 8 → 20 features, k = 3, tied)"


WRONG = [
    (lambda: sae.train(one_of("relu"), noise(), sae.SaeTraining(3)), "function from the step.*not a Tensor"),
    (lambda: sae.train(one_of("relu"), [noise()], sae.SaeTraining(3)), "not a list"),
    (lambda: sae.train(one_of("relu"), lambda step: (noise(),), sae.SaeTraining(3)), "not a tuple"),
    (lambda: sae.train(one_of("relu"), lambda step: None, sae.SaeTraining(3)), "not a NoneType"),
    (lambda: sae.train(one_of("relu"), noise, 100), "SaeTraining.*not an int"),
    (lambda: sae.train(one_of("relu"), Store.of(noise(d=9), buffer=8), sae.SaeTraining(3, batch=4)), "reads 8 numbers"),
    (lambda: one_of("relu").start_from([1.0, 2.0]), "not of type list"),
    (lambda: one_of("relu").start_from(noise()[0]), "Activations are"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_wrong_kinds_end_in_a_sentence(call, sentence):
    with pytest.raises(CourseError, match=sentence):
        call()


# --- inside a model --------------------------------------------------------------------------------


def tiny(positions: str = "rotary") -> TinyTransformer:
    return TinyTransformer(
        TinyConfig(
            n_layers=2, n_heads=2, d_model=8, d_vocab=12, n_ctx=16, d_mlp=8, positions=positions, seed=3
        )
    )


TOKENS = torch.randint(12, (4, 16), generator=generator(4))
HOOK = "blocks.0.mlp.hook_post"


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "shortformer", "none"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_splice_into_a_model_in_every_format(dtype, positions):
    model, plain, one = tiny(positions).to(dtype), tiny(positions), one_of("relu").eval()
    assert model(TOKENS).dtype == dtype
    for how in ({}, {"keep_error": True}, {"edit": lambda f: f * 0}):
        hooks = [(HOOK, sae.splice(one, **how))]
        ours = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
        right = plain.run_with_hooks(TOKENS, fwd_hooks=hooks)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float(), right, rtol=0.1, atol=0.1)
    assert sae.ablation_effect(one, model, TOKENS, 3).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_in_every_format_gives_rows(dtype):
    rows = collect(tiny().to(dtype), HOOK, TOKENS)
    torch.testing.assert_close(rows.float(), collect(tiny(), HOOK, TOKENS).float(), rtol=0.1, atol=0.02)


# --- rows of huge norm -----------------------------------------------------------------------------


def with_sinks(n: int = 640) -> torch.Tensor:
    """One row in 64 is a hundred times as long as the others, all in one direction."""
    x = noise(0, n)
    x[::64] = 100 * noise(7, 1).norm() * torch.nn.functional.one_hot(torch.tensor(3), 8)
    return x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(640, 8), (10, 64, 8)])
def test_fvu_warns_of_huge_rows_and_says_it_without_them(dtype, shape):
    x = with_sinks().to(dtype)
    x_hat = (x.double() * 0.65).to(dtype)
    x_hat[::64] = x[::64]  # all that is rare is perfect
    rest = torch.arange(640) % 64 != 0
    right = right_fvu(x[rest].double().numpy(), x_hat[rest].double().numpy())
    with pytest.warns(UserWarning, match="10 of 640 rows are over 10 times") as said:
        whole = sae.fvu(x.view(shape), x_hat.view(shape))
    assert whole < 0.01 < 0.1 < right
    assert f"without them FVU is {right:.3f}"[:-1] in str(said[0].message)


QUIET = {
    "noise": lambda: noise(0, 640),
    "sparse": lambda: torch.where(torch.arange(640)[:, None] % 9 == 0, noise(0, 640), 0.0),
    "heavy tails": lambda: noise(0, 640) * (0.5 * noise(1, 640, 1)).exp(),
}
ALIKE = {"one row": noise(0, 1), "zeros": torch.zeros(4, 8), "all alike": torch.full((1000, 8), 0.1)}


@pytest.mark.parametrize("name", QUIET)
def test_ordinary_rows_give_no_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = QUIET[name]()
        sae.fvu(x, 0.5 * x)


@pytest.mark.parametrize("name", ALIKE)
def test_rows_that_are_all_alike_have_no_variance_and_training_only_notes_it(name):
    x = ALIKE[name]
    with pytest.raises(CourseError, match="no variance"):
        sae.fvu(x, 0.5 * x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sinks(x) is None
        one = sae.SparseAutoencoder(sae.SaeConfig(8, 20, "relu", l1=0.5))
        history = sae.train(one, lambda _: x, sae.SaeTraining(steps=2), progress=False)
    assert len(history.loss) == 2


@pytest.mark.parametrize("fast", [True, False])
def test_training_says_fvu_without_huge_rows(fast):
    with pytest.warns(UserWarning, match="leave it out"):
        one = sae.SparseAutoencoder(sae.SaeConfig(8, 20, "relu", l1=0.5)).start_from(with_sinks())
    history = sae.train(one, lambda step: with_sinks(), sae.SaeTraining(60, batch=640, lr=1e-2), fast=fast)
    last = history.notes[-1]
    assert last["FVU"] < 0.2 * last["FVU without sinks"]
    assert "FVU without sinks" not in sae.train(one_of("relu"), noise, sae.SaeTraining(3, batch=32)).notes[0]
