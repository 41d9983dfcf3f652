"""The loop is exact: resumed equals uninterrupted, the optimiser does what its equation says, NaN stops it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mi_course import corpora
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.training import (
    Callback,
    Checkpoint,
    Copies,
    History,
    Muon,
    Snapshots,
    TrainConfig,
    TrainingDiverged,
    as_matrix,
    fit,
    from_matrix,
    history_of,
    optimizers,
    orthogonalised,
)

CONFIG = TinyConfig(
    n_layers=1, n_heads=2, d_model=8, d_vocab=12, n_ctx=16, positions="learned", norm="layernorm"
)
SAMPLE = corpora.random_repeats(12, 16, 8, period=(3, 6))
TRAIN = TrainConfig(steps=30, lr=3e-3, optimizer="muon", warmup=4)


def trained(**kwargs):
    model = TinyTransformer(CONFIG)
    return model, fit(model, SAMPLE, TRAIN, progress=False, **kwargs)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@torch.no_grad()  # as in a notebook that has switched gradients off
def test_it_learns_and_reports():
    model, history = trained(evaluate=lambda m: {"late": 1.0}, evaluate_at=(0, 10, 30))
    assert history.loss[-1] < history.loss[0] and len(history.loss) == len(history.lr) == 30
    assert history.tokens == 30 * 8 * 16 and list(history.steps) == list(range(30))
    assert history.series("late") == ([0, 10, 30], [1.0, 1.0, 1.0])
    with pytest.raises(CourseError, match="late"):
        history.series("lat")


def test_it_is_the_plain_loop_bit_for_bit():
    """What `fit` does, without checkpoints, bars and callbacks."""
    config = TrainConfig(25, lr=3e-3, warmup=4, grad_clip=0.5, weight_decay=0.1)
    plain, fitted, losses = TinyTransformer(CONFIG), TinyTransformer(CONFIG), []
    adamw = torch.optim.AdamW(plain.parameters(), lr=1.0, betas=config.betas, weight_decay=0.1, fused=True)
    torch.manual_seed(config.seed)
    for step in range(25):
        adamw.param_groups[0]["lr"] = config.lr * config.rate(step)
        loss = plain(SAMPLE(step), return_type="loss")
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        adamw.step()
        losses.append(loss.item())
    assert fit(fitted, SAMPLE, config, progress=False).loss == losses and same(plain, fitted)


def test_callbacks_see_the_model_around_each_step():
    class Counting(Callback):
        def before(self, run, step):
            seen.append((step, len(run.history.loss)))

        def after(self, run, step):
            return {"norm": run.model.W_E.norm().item()} if step == 9 else None

    seen = []
    _, history = trained(callbacks=[Counting()])
    assert seen == [(step, step) for step in range(31)]
    assert history.series("norm")[0] == [10]


def test_same_seed_same_run():
    (a, first), (b, second) = trained(), trained()
    assert same(a, b) and first.loss == second.loss


@settings(max_examples=8, deadline=None)
@given(stop=st.integers(1, 29))
def test_stopped_anywhere_and_resumed_is_uninterrupted(tmp_path_factory, stop):
    path = tmp_path_factory.mktemp("run") / "state"
    whole, history = trained(evaluate=lambda m: {"w": m.W_E.sum().item()}, evaluate_at=(0, 7, 20, 30))
    trained(checkpoint=path, stop_at=stop)
    resumed = TinyTransformer(CONFIG)
    for p in resumed.parameters():
        p.data.zero_()
    torch.manual_seed(99)
    again = fit(resumed, SAMPLE, TRAIN, checkpoint=path, progress=False)
    assert same(whole, resumed) and again.loss == history.loss


def test_dropout_resumes_too(tmp_path):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))

    loss = lambda model, x: model.layers(x).square().mean()
    sample = lambda step: torch.randn(8, 4, generator=corpora.generator(0, step))
    config = TrainConfig(steps=20, lr=1e-2, warmup=0)
    whole, half = Noisy(), Noisy()
    fit(whole, sample, config, loss=loss, progress=False)
    fit(half, sample, config, loss=loss, checkpoint=tmp_path / "s", stop_at=9, progress=False)
    resumed = Noisy()
    fit(resumed, sample, config, loss=loss, checkpoint=tmp_path / "s", progress=False)
    assert same(whole, resumed)


KILLED = """
import os, signal, sys
from mi_course.training import Checkpoint, TrainConfig, fit
from tests.test_training import CONFIG, SAMPLE, TRAIN
from mi_course.models import TinyTransformer
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def sample(step):
    if step == 17:
        os.kill(os.getpid(), signal.{signal})
    return SAMPLE(step)
fit(TinyTransformer(CONFIG), sample, TRAIN, checkpoint=Checkpoint(sys.argv[1], every=5), progress=False)
"""


@pytest.mark.parametrize("where", ["loss", "optimiser", "after the last step"])
def test_ctrl_c_waits_for_the_end_of_a_step(tmp_path, monkeypatch, where):
    """Wherever it comes, weights, optimiser, random state and history on disk belong to one step."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    count, step = [], Muon.step

    def interrupted(*given, **how):
        count.append(1)
        if len(count) == (30 if "last" in where else 17):
            os.kill(os.getpid(), signal.SIGINT)
        return step(*given, **how) if where != "loss" else given[0](given[1], return_type="loss")

    with monkeypatch.context() as patch:
        if where != "loss":
            patch.setattr(Muon, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint=tmp_path / "s", **({"loss": interrupted} if where == "loss" else {}))
    resumed = TinyTransformer(CONFIG)
    history = fit(resumed, SAMPLE, TRAIN, checkpoint=tmp_path / "s", progress=False)
    whole, uninterrupted = trained()
    assert same(whole, resumed) and history.loss == uninterrupted.loss
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_inside_a_step_leaves_the_last_whole_state(tmp_path, monkeypatch):
    """AdamW has moved then and Muon has not: that is never written."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    count, step = [], Muon.step

    def interrupted(*given, **how):
        count.append(1)
        if len(count) == 17:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        return step(*given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Muon, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(checkpoint=Checkpoint(tmp_path / "s", every=5))
    signal.signal(signal.SIGINT, before)
    assert len(history_of(tmp_path / "s").loss) == 15
    assert goes_on(tmp_path / "s")


@pytest.mark.parametrize("error", [KeyboardInterrupt, CourseError, RuntimeError])
def test_what_stops_the_last_evaluation_loses_no_step(tmp_path, error):
    def measure(model):
        assert not model.training
        if model.seen == 30:
            raise error("stopped")
        return {}

    class Counted(TinyTransformer):
        seen = 0

        def forward(self, *given, **how):
            self.seen += 1
            return super().forward(*given, **how)

    model = Counted(CONFIG).train()
    with pytest.raises(error) as stopped:
        fit(
            model,
            SAMPLE,
            TRAIN,
            evaluate=measure,
            evaluate_at=(0, 30),
            checkpoint=tmp_path / "s",
            progress=False,
        )
    assert model.training, "as it was before the evaluation"
    assert len(history_of(tmp_path / "s").loss) == 30 and goes_on(tmp_path / "s")
    if error is CourseError:
        assert len(stopped.value.history.loss) == 30


def goes_on(path) -> bool:
    """Whether the run from this file ends as one that was never stopped."""
    resumed = TinyTransformer(CONFIG)
    history = fit(resumed, SAMPLE, TRAIN, checkpoint=path, progress=False)
    whole, uninterrupted = trained()
    return same(whole, resumed) and history.loss == uninterrupted.loss


def test_a_second_ctrl_c_does_not_wait():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def hangs(model, batch):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still here")

    with pytest.raises(KeyboardInterrupt):
        trained(loss=hangs)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the usual handler is back"
    signal.signal(signal.SIGINT, before)


def test_a_log_gets_few_lines(capsys):
    model = TinyTransformer(CONFIG)
    os.environ.pop("TQDM_DISABLE", None)
    try:
        fit(model, SAMPLE, TrainConfig(steps=300, lr=1e-3))
    finally:
        os.environ["TQDM_DISABLE"] = "1"
    drawn = capsys.readouterr().err.count("\r")
    assert 1 <= drawn <= 4, f"{drawn} redrawings in a pipe"


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_killed_process_resumes(tmp_path, how, pytestconfig):
    script = textwrap.dedent(KILLED.format(signal=how))
    env = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    threads = f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"
    done = subprocess.run(
        [sys.executable, "-c", threads + script, str(tmp_path / "s")], env=env, capture_output=True
    )
    assert done.returncode != 0 and (tmp_path / "s").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["s"], "no half-written file is left"
    resumed = TinyTransformer(CONFIG)
    history = fit(resumed, SAMPLE, TRAIN, checkpoint=tmp_path / "s", progress=False)
    whole, uninterrupted = trained()
    assert same(whole, resumed) and history.loss == uninterrupted.loss
    assert signal.Signals[how]


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    trained(checkpoint=tmp_path / "s", stop_at=5)
    other = TrainConfig(steps=30, lr=1e-3)
    with pytest.raises(CourseError, match="another TrainConfig"):
        fit(TinyTransformer(CONFIG), SAMPLE, other, checkpoint=tmp_path / "s", progress=False)
    wide = TinyTransformer(TinyConfig(n_layers=1, n_heads=2, d_model=16, d_vocab=12, n_ctx=16))
    with pytest.raises(CourseError, match="another model"):
        fit(wide, SAMPLE, TRAIN, checkpoint=tmp_path / "s", progress=False)
    blob = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(CourseError, match="truncated"):
        trained(checkpoint=tmp_path / "s")


def test_not_a_number_stops_with_step_loss_and_rate():
    def loss(model, batch):
        value = model(batch, return_type="loss")
        return value * (float("nan") if len(seen) == 12 else 1.0)

    seen = []
    sample = lambda step: seen.append(step) or SAMPLE(step)
    model = TinyTransformer(CONFIG)
    with pytest.raises(
        TrainingDiverged, match=r"step 11: the loss is nan at learning rate 0\.003"
    ) as stopped:
        fit(model, sample, TRAIN, loss=loss, progress=False)
    assert len(stopped.value.history.loss) == 11
    assert all(torch.isfinite(p).all() for p in model.parameters()), "the last good weights are kept"


# -- wrong kinds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, "numpy", "numpy int32", "lists"])
def test_tokens_of_any_width_are_tokens(dtype):
    def sample(step):
        tokens = SAMPLE(step)
        if dtype == "lists":
            return tokens.tolist()
        if isinstance(dtype, str):
            return tokens.numpy().astype("int32" if "int32" in dtype else "int64")
        return tokens.to(dtype)

    model = TinyTransformer(CONFIG)
    history = fit(model, sample, TRAIN, progress=False)
    whole, expected = trained()
    assert history.loss == expected.loss and same(model, whole)


def test_numpy_floats_come_in_the_models_format():
    linear = nn.Linear(3, 1)
    rows = np.ones((4, 3))
    history = fit(
        linear, lambda step: rows, TrainConfig(3), loss=lambda m, x: m(x).square().mean(), progress=False
    )
    assert len(history.loss) == 3 and linear.weight.dtype == torch.float32


LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(8, 4)))
SQUARE = {"loss": lambda m, x: m(x).square().mean()}
WRONG = [
    (lambda: fit(nn.Linear(4, 1), LOADER, TrainConfig(2), **SQUARE), "function from the step.*not a DataLoader.*list"),
    (lambda: fit(nn.Linear(4, 1), torch.zeros(3, 4), TrainConfig(2), **SQUARE), "not a Tensor"),
    (lambda: fit(nn.Linear(4, 1), lambda step: next(iter(LOADER)) + [0], TrainConfig(2), **SQUARE), "one tensor"),
    (lambda: fit(nn.Linear(4, 1), lambda step: (torch.zeros(4),) * 2, TrainConfig(2), **SQUARE), "not a tuple"),
    (lambda: fit(nn.Linear(4, 1), lambda step: None, TrainConfig(2), **SQUARE), "not a NoneType"),
    (lambda: fit(nn.Linear(4, 1), lambda step: ["some", "words"], TrainConfig(2), **SQUARE), "one tensor"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.zeros(0, 4), TrainConfig(2), **SQUARE), "empty batch"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.ones(2, 4), 100, **SQUARE), "TrainConfig.*not an int"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.ones(2, 4), {"steps": 2}, **SQUARE), "not a dict"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.ones(2, 4), TrainConfig(2)), "no loss of its own"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.ones(2, 4), TrainConfig(2), loss=lambda m, x: m(x)), "take its mean"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.ones(2, 4), TrainConfig(2), loss=lambda m, x: 1.0), "not a float"),
    (lambda: fit(nn.Linear(4, 1), lambda step: torch.ones(2, 4), TrainConfig(2), loss=lambda m, x: m(x).mean().detach()),
     "does not depend on the weights"),
    (lambda: fit(TinyTransformer(TinyConfig(n_layers=1)), lambda step: torch.ones(2, 4), TrainConfig(2)),
     "reads tokens, and they are whole numbers.*torch.float32; take batch.long"),
    (lambda: fit(nn.ReLU(), lambda step: torch.ones(2, 4), TrainConfig(2), **SQUARE), "no parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_wrong_kinds_end_in_a_sentence(call, sentence):
    with pytest.raises(CourseError, match=sentence):
        call()


def test_a_checkpoint_that_is_no_file(tmp_path):
    with pytest.raises(CourseError, match="names a file.*is a folder: try .*run.partial"):
        trained(checkpoint=tmp_path)
    with pytest.raises(CourseError, match="not every 0"):
        trained(checkpoint=Checkpoint(tmp_path / "s", every=0))
    (tmp_path / "s").write_text("my notes")
    with pytest.raises(CourseError, match="not a checkpoint of fit"):
        trained(checkpoint=tmp_path / "s")


def test_schedule():
    config = TrainConfig(steps=100, warmup=10, decay_share=0.3)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9:71] == [1.0] * 62
    assert rates[85] == pytest.approx(0.5) and rates[99] == pytest.approx(1 / 30)
    with pytest.raises(CourseError, match="muon"):
        TrainConfig(steps=5, optimizer="moun")


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"muon_lr": -0.02}, {"betas": (0.9, 1.0)},
     {"weight_decay": -0.1}, {"warmup": -5}, {"decay_share": 1.5}, {"grad_clip": -1.0}, {"grad_clip": 0.0},
     {"rates": (("W_out", -0.5),)}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_one_sentence_with_their_name(bad):
    name = next(iter(bad)) if "rates" not in bad else "factors"
    with pytest.raises(CourseError, match=rf"^A TrainConfig needs .*{name}.*\.$"):
        TrainConfig(**({"steps": 5} | bad))


def test_steps_that_are_no_whole_number():
    """Without the types that tests check."""
    given = SimpleNamespace(**asdict(TrainConfig(steps=5)) | {"steps": 1e3})
    with pytest.raises(CourseError, match="needs steps ≥ 1, a whole number"):
        TrainConfig.__post_init__(given)


def test_snapshots_come_before_their_step():
    taken = {}
    keep = lambda model, step: taken.update({step: model.W_E.detach().clone()})
    model, _ = trained(callbacks=[Snapshots(keep, at=(0, 30))])
    assert torch.equal(taken[0], TinyTransformer(CONFIG).W_E) and torch.equal(taken[30], model.W_E)


def test_copies_of_a_run_that_goes_on_are_those_of_the_whole(tmp_path):
    """Also where it stops at a step that is asked for, and where it has ended already."""
    copies = lambda at=(0, 5, 12, 20, 30): Copies(lambda model: {"E": model.W_E, "U": model.W_U}, at)
    whole, first, second, last = copies(), copies(), copies(), copies()
    trained(callbacks=[whole])
    trained(callbacks=[first], checkpoint=tmp_path / "s", stop_at=12)
    for again in (second, last):
        trained(callbacks=[again], checkpoint=tmp_path / "s")
        assert sorted(again.found) == [0, 5, 12, 20, 30]
        for step, found in whole.found.items():
            assert all(torch.equal(W, again.found[step][name]) for name, W in found.items())
    assert sorted(first.found) == [0, 5, 12]
    with pytest.raises(CourseError, match="no copies of step 3, .*remove it"):
        trained(callbacks=[copies((0, 3))], checkpoint=tmp_path / "s")


def test_a_file_beyond_where_a_run_is_to_stop_is_measured_where_it_is(tmp_path):
    trained(checkpoint=tmp_path / "s", stop_at=20)
    _, history = trained(
        checkpoint=tmp_path / "s", stop_at=10, evaluate=lambda m: {"w": 0.0}, evaluate_at=(10, 20)
    )
    assert [row["step"] for row in history.evaluations] == [20]


def test_stop_at_leaves_the_schedule_alone():
    _, whole = trained()
    _, early = trained(stop_at=12)
    assert early.loss == whole.loss[:12] and early.lr == whole.lr[:12]


# -- Muon ----------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12))
def test_orthogonalised_keeps_directions_and_levels_lengths(rows, cols):
    G = torch.randn(rows, cols, generator=torch.Generator().manual_seed(rows * 13 + cols))
    U, S, V = torch.linalg.svd(G, full_matrices=False)
    out = U.T @ orthogonalised(G) @ V.T
    big = S > 0.05 * S.max()
    assert torch.allclose(out, out.diagonal().diag(), atol=1e-4), "singular vectors stay"
    assert (out.diagonal()[big] > 0.5).all() and (out.diagonal() < 1.3).all()


def test_heads_side_by_side():
    W_Q, W_O = torch.randn(3, 8, 2), torch.randn(3, 2, 8)
    assert torch.equal(as_matrix(W_Q)[:, 2:4], W_Q[1]) and torch.equal(as_matrix(W_O)[2:4], W_O[1])
    for W in (W_Q, W_O, torch.randn(4, 5)):
        assert torch.equal(from_matrix(as_matrix(W), W.shape), W)


def test_muon_step_by_hand():
    p = nn.Parameter(torch.randn(4, 2))
    start, g = p.detach().clone(), torch.randn(4, 2)
    p.grad = g.clone()
    Muon([p], lr=0.1, momentum=0.9).step()
    nesterov = g + 0.9 * (0.1 * g - g)
    expected = start - 0.1 * (2 / 4) ** 0.5 * orthogonalised(nesterov)
    assert torch.allclose(p, expected, atol=1e-6)


def test_who_optimises_what():
    adamw, muon = optimizers(TinyTransformer(CONFIG), TRAIN)
    shapes = [tuple(p.shape) for p in muon.param_groups[0]["params"]]
    assert shapes == [(2, 8, 4)] * 3 + [(2, 4, 8)]
    assert len(optimizers(TinyTransformer(CONFIG), TrainConfig(steps=5))) == 1
    total = sum(p.numel() for opt in (adamw, muon) for p in opt.param_groups[0]["params"])
    assert total == sum(p.numel() for p in TinyTransformer(CONFIG).parameters())


def test_history_smooths_and_plots():
    history = History(loss=[1.0, 3.0, 5.0, 7.0])
    assert history.smoothed(2) == [1.0, 2.0, 4.0, 6.0]
    figure = history.plot(title="it falls", alt="a falling line")
    assert "it falls" in repr(figure)
    assert repr(History(loss=[4.0, 2.5], tokens=2048, seconds=1.25)) == (
        "History(2 steps, loss 4.000 → 2.500, 2,048 tokens or samples, 1.2 s)"
    )
    assert repr(History()) == "History(0 steps, 0 tokens or samples, 0.0 s)"
    json.dumps(history.loss)
