"""Autoencoders: identities, each kind against its formula, known truth, upkeep, files, bad input."""

import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from mi_course import sae
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.sae import training as sae_training
from mi_course.training import History, Snapshots, TrainingDiverged, say

SETTINGS = {
    "relu": {"l1": 0.5}, "relu_norm": {"l1": 0.5}, "topk": {"k": 3}, "batchtopk": {"k": 3}, "jumprelu": {"l1": 0.2},
    "gated": {"l1": 0.5}, "nested": {"k": 3, "prefixes": (5,)},
}  # fmt: skip


def one_of(kind: str, d_in: int = 8, d_sae: int = 20, **more) -> sae.SparseAutoencoder:
    """An autoencoder with nothing left at its starting value."""
    one = sae.SparseAutoencoder(sae.SaeConfig(d_in, d_sae, kind, **SETTINGS[kind] | more))
    rng = generator(7)
    with torch.no_grad():
        for p in one.parameters():
            p += 0.2 * torch.randn(p.shape, generator=rng)
        one.scale.fill_(1.5)
    return one


def noise(step: int = 0, n: int = 32, d: int = 8) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(11, step))


# --- each kind against its formula, one input and one feature at a time -----------------------------


def by_hand(one: sae.SparseAutoencoder, x: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and features in plain numbers."""
    kind, cfg, W = one.cfg.kind, one.cfg, one.W_enc.detach()
    t = x * one.scale - one.b_dec
    z = torch.tensor([[float(row @ W[:, i] + one.b_enc[i]) for i in range(cfg.d_sae)] for row in t])
    f = z.clamp_min(0)
    if kind in ("topk", "nested"):
        f = torch.stack([torch.where(row >= row.sort().values[-cfg.k], row, 0) for row in f])
    if kind == "batchtopk":
        f = torch.where(f >= f.flatten().sort().values[-cfg.k * len(x)], f, 0)
    if kind == "jumprelu":
        f = torch.where(f > one.log_threshold.exp(), f, 0)
    if kind == "gated":
        f = torch.where(z > 0, ((z - one.b_enc) * one.r_mag.exp() + one.b_mag).clamp_min(0), 0)
    penalty = {
        "relu": f,
        "relu_norm": f * one.W_dec.norm(dim=1),
        "jumprelu": (f > 0).float(),
        "gated": z.clamp_min(0),
    }
    error = (x * one.scale - f @ one.W_dec - one.b_dec).square().sum(1)
    if kind == "gated":
        error = error + (x * one.scale - z.clamp_min(0) @ one.W_dec - one.b_dec).square().sum(1)
    if kind == "nested":  # the mean of the first five alone and of all
        error = (error + (x * one.scale - f[:, :5] @ one.W_dec[:5] - one.b_dec).square().sum(1)) / 2
    return float((error + cfg.l1 * penalty.get(kind, f * 0).sum(1)).mean()), f


@pytest.mark.parametrize("kind", sae.KINDS)
def test_loss_and_features_are_those_of_the_formula(kind):
    one, x = one_of(kind), noise()
    total, f = sae.loss(one, x)
    with torch.no_grad():
        expected, features = by_hand(one, x)
    torch.testing.assert_close(f.detach(), features, rtol=1e-5, atol=1e-5)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(one(x), (f @ one.W_dec + one.b_dec) / one.scale)


def test_the_auxiliary_loss_of_the_dead():
    """Their largest pre-activations against what is left, and a gradient for them alone."""
    one, x = one_of("topk"), noise()
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[2, 5, 11]] = True
    plain, f = sae.loss(one, x)
    error = (x * one.scale - f @ one.W_dec - one.b_dec).detach()
    revived = one.pre(x)[:, dead].relu() @ one.W_dec[dead]  # 3 dead ≤ d_in / 2: all of them
    expected = plain + (error - revived).square().sum(1).mean() / 32
    torch.testing.assert_close(sae.loss(one, x, dead=dead)[0], expected)
    torch.testing.assert_close(sae.loss(one, x, dead=~(dead | True))[0], plain)
    (grad,) = torch.autograd.grad(sae.auxiliary_loss(one, x * one.scale, error, dead), one.W_dec)
    assert bool(grad[dead].any()) and not bool(grad[~dead].any())


def test_the_dead_take_turns_in_the_auxiliary_loss(monkeypatch):
    """A bounded number of them a step, so that its cost is bounded; all get a gradient in time."""
    one, x = one_of("topk"), noise(0, 256)
    monkeypatch.setattr(sae.kinds, "AT_ONCE", 4)
    one.register_buffer("step", torch.tensor(0))
    dead, error, seen = torch.arange(20) < 10, noise(1, 256), []
    for step in range(5):
        one.step.fill_(step)
        (grad,) = torch.autograd.grad(sae.auxiliary_loss(one, x, error, dead), one.W_dec)
        seen.append(set(grad.any(1).nonzero()[:, 0].tolist()))
        assert 0 < len(seen[-1]) <= 4
    assert seen[2] == {8, 9, 0, 1} and set.union(*seen) == set(range(10))


def test_jumprelu_learns_its_threshold():
    """The kernel's estimate of the gradient agrees with a difference over many inputs."""
    threshold = torch.tensor([0.5], requires_grad=True)
    z = torch.rand(200_000, 1, generator=generator(0))
    sae.Step.apply(z, threshold, 0.1).mean().backward()
    assert float(threshold.grad) == pytest.approx(-1.0, abs=0.02)  # the density of z at 0.5
    threshold.grad = None
    sae.Jump.apply(z, threshold, 0.1).mean().backward()
    assert float(threshold.grad) == pytest.approx(-0.5, abs=0.02)  # θ times it


# --- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [name for name, kind in sae.KINDS.items() if kind.unit_decoder])
def test_decoder_rows_keep_length_one(kind):
    one = one_of(kind)
    one.normalise_()
    sae.train(one, noise, sae.SaeTraining(10, batch=32, lr=0.05, warmup=0))
    torch.testing.assert_close(one.W_dec.norm(dim=1), torch.ones(20), rtol=0, atol=1e-5)


def test_the_projected_gradient_is_orthogonal_and_nothing_else():
    W = torch.nn.functional.normalize(noise(1, 20), dim=1)
    grad = noise(2, 20)
    left = sae.projected(grad, W)
    assert float((left * W).sum(1).abs().max()) < 1e-5
    torch.testing.assert_close(left + (grad * W).sum(1, keepdim=True) * W, grad)


def test_adam_sees_the_projected_gradient():
    one = one_of("relu")
    one.normalise_()
    seen = []

    def look(p):
        seen.append((p.grad * p.detach()).sum(1).abs().max())

    handle = one.W_dec.register_post_accumulate_grad_hook(look)
    sae.train(one, noise, sae.SaeTraining(5, batch=32))
    handle.remove()
    assert len(seen) == 5 and float(max(seen)) < 1e-5


def test_relu_norm_does_not_mind_rescaled_features():
    """f → c f with W_dec → W_dec / c changes nothing; plain relu's penalty it does change."""
    c = torch.linspace(0.3, 3, 20)
    for kind, same in (("relu_norm", True), ("relu", False)):
        one, x = one_of(kind), noise()
        before, _ = sae.loss(one, x)
        with torch.no_grad():
            one.W_enc.mul_(c)
            one.b_enc *= c
            one.W_dec /= c[:, None]
        assert (float(sae.loss(one, x)[0]) == pytest.approx(float(before), rel=1e-5)) is same


def mlp_losses(hook) -> float:
    model = TinyTransformer(
        TinyConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=12, n_ctx=16, d_mlp=8, act="relu", seed=3)
    )
    with torch.no_grad():
        model.blocks[0].mlp.W_out.mul_(20)
    tokens = torch.randint(12, (6, 16), generator=generator(4))
    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", hook)] if hook else []):
        return float(model(tokens, return_type="loss"))


def test_identity_recovers_all_and_zero_nothing():
    identity = sae.SparseAutoencoder(sae.SaeConfig(8, 16, "relu"))
    nothing = sae.SparseAutoencoder(sae.SaeConfig(8, 16, "relu"))
    with torch.no_grad():
        both_ways = torch.cat([torch.eye(8), -torch.eye(8)])
        identity.W_dec.copy_(both_ways)
        identity.W_enc.copy_(both_ways.T)
        nothing.W_dec.zero_()
    whole, zero = mlp_losses(None), mlp_losses(lambda x, hook=None: x * 0)
    recovered = [sae.loss_recovered(whole, mlp_losses(sae.splice(one)), zero) for one in (identity, nothing)]
    assert abs(whole - zero) > 0.01 and recovered == pytest.approx([1, 0], abs=1e-6)
    with pytest.raises(CourseError, match="changes nothing"):
        sae.loss_recovered(2.0, 2.0, 2.0)


def test_splice_with_its_error_changes_nothing_until_it_is_edited():
    one, x = one_of("relu"), noise()
    torch.testing.assert_close(sae.splice(one, keep_error=True)(x), x)
    torch.testing.assert_close(sae.splice(one)(x), one(x))

    def without(f):
        f = f.clone()
        f[:, 3] = 0
        return f

    change = sae.splice(one, without, keep_error=True)(x) - x
    torch.testing.assert_close(
        change, -one.encode(x)[:, 3:4] * one.W_dec[3] / one.scale, rtol=1e-4, atol=1e-5
    )


def test_measures():
    f = torch.tensor([[0.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    assert sae.l0(f) == 1.5 and sae.density(f).tolist() == [0, 1, 0.5]
    assert sae.dead_share(f) == pytest.approx(1 / 3)
    x = noise()
    assert sae.fvu(x, x) == 0 and sae.fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1)
    for same in (torch.full((1000, 3), 0.1), x[:1], x[:0]):
        with pytest.raises(CourseError, match="no variance"):
            sae.fvu(same, same + 1)


def test_the_geometric_median_is_robust():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e6]])
    assert float(sae.geometric_median(line, steps=500)) == pytest.approx(2.0, abs=0.02)
    cloud = torch.cat([noise(0, 500), torch.full((20, 8), 1000.0)])
    assert float(sae.geometric_median(cloud).norm()) < 0.5 < float(cloud.mean(0).norm())
    x = noise(0, 200) @ noise(1, 8)
    best, total = sae.geometric_median(x), lambda c: float((x - c).norm(dim=1).sum())
    assert all(total(best) <= total(best + 0.05 * step) for step in noise(2, 20))


@pytest.mark.parametrize(
    "kind, settings, length",
    [("relu", {}, 0.1), ("topk", {"k": 3}, 0.25), ("relu", {"start_length": 0.5}, 0.5)],
)
def test_what_a_feature_reads_starts_short_and_along_what_it_writes(kind, settings, length):
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 16, kind, **settings))
    torch.testing.assert_close(one.W_enc.norm(dim=0), torch.full((16,), length))
    torch.testing.assert_close(one.W_enc.T, length * one.W_dec)


@pytest.mark.parametrize("length", [0.0, -1.0, float("inf"), float("nan")])
def test_a_start_without_length_is_refused(length):
    with pytest.raises(CourseError, match="need a length above 0"):
        sae.SaeConfig(8, 16, start_length=length)


def test_the_start_takes_scale_and_bias_from_a_sample():
    x = 7 * noise(0, 400) + 3
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 20)).start_from(x)
    assert float((x * one.scale).square().sum(1).mean()) == pytest.approx(8, rel=1e-5)
    torch.testing.assert_close(one.b_dec.detach(), sae.geometric_median(x * one.scale))


# --- known truth -----------------------------------------------------------------------------------

TRUTH = torch.nn.functional.normalize(torch.randn(64, 32, generator=generator(77)), dim=1)


def planted(step: int, n: int = 256) -> torch.Tensor:
    """64 sparse factors in 32 dimensions."""
    rng = generator(5, step)
    return ((torch.rand(n, 64, generator=rng) < 0.05) * torch.rand(n, 64, generator=rng)) @ TRUTH


def mean_max_cosine(W: torch.Tensor) -> float:
    return float((TRUTH @ torch.nn.functional.normalize(W.detach(), dim=1).T).max(1).values.mean())


@pytest.mark.parametrize(
    "kind, settings, lr",
    [("relu", {"l1": 2.0}, 1e-2), ("relu_norm", {"l1": 2.0}, 1e-2), ("topk", {"k": 4}, 1e-2),
     ("batchtopk", {"k": 4}, 1e-2), ("jumprelu", {"l1": 0.6}, 1e-2), ("gated", {"l1": 2.0}, 1e-2)],
)  # fmt: skip
def test_known_factors_are_found(kind, settings, lr):
    one = sae.SparseAutoencoder(sae.SaeConfig(32, 96, kind, **settings)).start_from(planted(9999, 2048))
    assert mean_max_cosine(one.W_dec) < 0.6  # a random dictionary
    sae.train(one, planted, sae.SaeTraining(500, batch=256, lr=lr))
    assert mean_max_cosine(one.W_dec) >= 0.9
    if kind == "batchtopk":  # the learnt threshold serves one input at a time
        x = planted(8888, 1024)
        assert float(one.threshold) > 0 and sae.l0(one.encode(x)) == pytest.approx(4, abs=1)
        torch.testing.assert_close(one.encode(x)[:1], one.encode(x[:1]))


# --- training --------------------------------------------------------------------------------------


def test_the_history_notes_what_the_bar_says():
    history = sae.train(one_of("relu"), noise, sae.SaeTraining(45, batch=32))
    assert [note["step"] for note in history.notes] == [1, 21, 41]
    assert set(history.notes[0]) == {"step", "L0", "FVU", "dead"} and history.series("L0")[0] == [1, 21, 41]
    noted = {"L0": 3.0, "FVU": 0.25, "dead": 0.0}
    said = say(1.5, noted, History(tokens=6400, seconds=2.0), noise())
    assert said == "loss 1.500, L0 3.000, FVU 0.250, dead 0.000, 3,200 samples/s"


def test_the_penalty_rises():
    one = one_of("relu")
    upkeep = sae.Upkeep(one, sae.SaeTraining(100, penalty_warmup=0.2))
    shares = []
    for step in (0, 9, 19, 50):
        one.step.fill_(step)
        shares.append(upkeep.share)
    upkeep.end()
    assert shares == [0.05, 0.5, 1, 1] and set(one.state_dict()) == set(one_of("relu").state_dict())


RESUMED = {"topk": {"k": 2}, "batchtopk": {"k": 2}, "relu": {"l1": 20.0}}


@pytest.mark.parametrize("kind", RESUMED)
def test_resumed_equals_uninterrupted(kind, tmp_path):
    """With dead features, the auxiliary loss, resampling and the threshold."""
    config = sae.SaeTraining(40, batch=32, warmup=5, dead_after=96, resample_at=(0.3, 0.7))

    def trained(**options):
        one = sae.SparseAutoencoder(sae.SaeConfig(8, 20, kind, **RESUMED[kind])).start_from(noise(0, 256))
        return one, sae.train(one, noise, config, pool=lambda: noise(0, 256), **options)

    whole, history = trained()
    trained(checkpoint=tmp_path / "state", stop_at=17)
    resumed, again = trained(checkpoint=tmp_path / "state")
    assert history.loss == again.loss and history.notes == again.notes
    assert [note["step"] for note in history.notes if "resampled" in note] == [12, 28]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_resampling():
    one, x = one_of("relu", d_sae=12), noise(0, 64)
    x[:4] *= 30  # badly explained
    one.normalise_()
    optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3)
    sae.loss(one, x)[0].backward()
    optimizer.step()
    dead = torch.arange(12) % 4 == 0
    lengths, others = one.W_enc[:, ~dead].norm(dim=0).mean().detach(), one.W_dec[~dead].clone()
    picked = sae.resample_(one, dead, x, [optimizer], seed=1)
    assert set(picked.tolist()) <= {0, 1, 2, 3} and len(set(picked.tolist())) == 3
    torch.testing.assert_close(one.W_dec[dead].norm(dim=1), torch.ones(3))
    torch.testing.assert_close(one.W_dec[~dead], others)
    direction = torch.nn.functional.normalize(x[picked] * one.scale - one.b_dec, dim=1)
    torch.testing.assert_close(one.W_enc[:, dead], 0.2 * lengths * direction.T)
    assert not one.b_enc[dead].any()
    for p, axis in ((one.W_dec, 0), (one._W_enc_rows, 0), (one.b_enc, 0)):
        moments = optimizer.state[p]["exp_avg"]
        assert not moments[dead].any() and moments.index_select(axis, (~dead).nonzero()[:, 0]).any()
    assert optimizer.state[one.b_dec]["exp_avg"].all()
    assert len(sae.resample_(one, torch.zeros(12, dtype=torch.bool), x)) == 0


def test_resampling_goes_by_the_square_of_the_loss():
    """Two kinds of input, one with twice the error: losses 1 to 4, so it is drawn 16 times as often."""
    one = sae.SparseAutoencoder(sae.SaeConfig(2, 4000, "relu"))
    with torch.no_grad():
        one.W_dec.zero_()
    x = torch.cat([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])])
    picked = sae.resample_(one, torch.ones(4000, dtype=torch.bool), x)
    assert float((picked == 1).float().mean()) == pytest.approx(16 / 17, abs=0.02)


def test_the_control_of_resampling_draws_all_inputs_alike():
    """Two kinds of input, as above: drawn uniformly each comes half of the time, in a run as well."""
    one = sae.SparseAutoencoder(sae.SaeConfig(2, 4000, "relu"))
    with torch.no_grad():
        one.W_dec.zero_()
    x = torch.cat([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])])
    picked = sae.resample_(one, torch.ones(4000, dtype=torch.bool), x, by="uniform")
    assert float((picked == 1).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("by", "lowest", "highest"), [("loss", 0.9, 1.0), ("uniform", 0.0, 0.3)])
def test_a_run_resamples_as_its_config_says(by, lowest, highest):
    """One input in twenty is thirty times as long, and the dictionary explains none: where do dead features go?"""
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 400, "relu", l1=0.5)).start_from(noise(0, 256))
    with torch.no_grad():
        one.b_enc.fill_(-1e4)  # all are silent from the start
    odd = torch.nn.functional.one_hot(torch.tensor(3), 8).float()
    pool = torch.cat([noise(1, 190), 30 * odd.expand(10, 8)])
    config = sae.SaeTraining(2, batch=32, lr=1e-6, dead_after=1, resample_at=(0.5,), resample_by=by)
    sae.train(one, noise, config, pool=lambda: pool)
    share = float((one.W_dec[:, 3].abs() > 0.98).float().mean())
    assert lowest <= share <= highest


BAD = [{"steps": 0}, {"batch": 0}, {"lr": -1e-3}, {"warmup": -1}, {"decay_share": -0.1}, {"penalty_warmup": -0.2},
       {"dead_after": 0}, {"resample_at": (50.0,)}]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_settings_that_cannot_be_are_one_sentence_and_touch_nothing(bad):
    one = one_of("relu", d_sae=12)
    before = set(dict(one.named_buffers()))
    with pytest.raises(CourseError, match=rf"^A SaeTraining needs .*{next(iter(bad))}.*\.$"):
        sae.train(one, noise, sae.SaeTraining(**({"steps": 5} | bad)))
    assert set(dict(one.named_buffers())) == before and not one.W_dec._backward_hooks


@pytest.mark.parametrize("bad", [{"steps": 2e3}, {"batch": 0.5}, {"resample_at": 0.5}], ids=str)
def test_settings_of_another_kind_are_one_sentence(bad):
    """Without the types that tests check."""
    given = SimpleNamespace(**asdict(sae.SaeTraining(5)) | bad)
    with pytest.raises(CourseError, match=next(iter(bad))):
        sae.SaeTraining.__post_init__(given)


def test_a_schedule_is_made_before_the_dictionary_is_touched(monkeypatch):
    def refused(*given, **how):
        raise CourseError("no such schedule")

    one = one_of("relu", d_sae=12)
    monkeypatch.setattr(sae_training, "TrainConfig", refused)
    with pytest.raises(CourseError, match="no such schedule"):
        sae.train(one, noise, sae.SaeTraining(5))
    assert not hasattr(one, "silent") and not one.W_dec._backward_hooks


def test_an_unknown_draw_is_refused_before_training():
    one = one_of("relu", d_sae=12)
    with pytest.raises(CourseError, match="drawn by loss or uniform, not by 'los'. Did you mean 'loss'"):
        sae.train(one, noise, sae.SaeTraining(2, resample_by="los"))
    with pytest.raises(CourseError, match="not by 'square'"):
        sae.resample_(one, torch.ones(12, dtype=torch.bool), noise(0, 64), by="square")


def test_tied_reads_along_what_it_writes():
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 20, "relu", l1=0.5, tied=True)).start_from(noise(0, 256))
    history = sae.train(one, noise, sae.SaeTraining(60, batch=32, lr=0.02))
    assert one.W_enc.data_ptr() == one.W_dec.data_ptr() and history.loss[-1] < 0.8 * history.loss[0]
    torch.testing.assert_close(one.W_dec.norm(dim=1), torch.ones(20), rtol=0, atol=1e-5)


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sae.KINDS)
def test_saved_and_loaded(kind, tmp_path):
    one = one_of(kind).eval()
    path = one.save(tmp_path / "one", what="a test")
    again = sae.SparseAutoencoder.load(path)
    assert (
        again.cfg == one.cfg and again.card["what"] == "a test" and torch.equal(again(noise()), one(noise()))
    )
    one.save(tmp_path / "half", half=True)
    small = sae.SparseAutoencoder.load(tmp_path / "half")
    assert small.W_dec.dtype == torch.float32
    torch.testing.assert_close(small.W_dec, one.W_dec, rtol=1e-3, atol=1e-3)


def test_saved_in_the_middle_of_training(tmp_path):
    one = one_of("relu")
    third = Snapshots(lambda model, step: model.save(tmp_path / "three"), at=(3,))
    sae.train(one, noise, sae.SaeTraining(5, batch=32), callbacks=[third])
    assert sae.SparseAutoencoder.load(tmp_path / "three").cfg == one.cfg


def test_foreign_and_truncated_files(tmp_path):
    model = TinyTransformer(TinyConfig(n_layers=1, n_heads=2, d_model=8, d_vocab=12, n_ctx=16))
    model.save(tmp_path / "model")
    with pytest.raises(CourseError, match="not an autoencoder"):
        sae.SparseAutoencoder.load(tmp_path / "model")
    path = one_of("relu").save(tmp_path / "one")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CourseError):
        sae.SparseAutoencoder.load(path)


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"kind": "relo"}, "no autoencoder of kind 'relo'.*relu"),
        ({"d_sae": 0}, "d_sae ≥ 1"),
        ({"kind": "topk", "k": 21}, "1 ≤ k ≤ d_sae = 20"),
        ({"kind": "batchtopk"}, "not k = 0"),
        ({"l1": -1.0}, "cannot be negative"),
    ],
)
def test_settings_that_make_no_sense(fields, sentence):
    with pytest.raises(CourseError, match=sentence):
        sae.SaeConfig(**{"d_in": 8, "d_sae": 20} | fields)


@pytest.mark.parametrize("kind", ["relu", "gated"])  # by the fast step, and by autograd
def test_activations_that_do_not_fit(kind):
    one, how = one_of(kind), sae.SaeTraining(5, batch=32)
    with pytest.raises(CourseError, match="reads 8 numbers a vector"):
        one(noise(d=9))
    with pytest.raises(CourseError, match="reads 8 numbers a vector"):
        sae.train(one, lambda step: noise(step, d=9), how)
    for bad in (math.nan, math.inf):
        with pytest.raises(CourseError, match="NaN or infinity") as caught:
            sae.train(one, lambda step, bad=bad: noise(step) * (bad if step == 3 else 1), how)
        assert len(caught.value.history.loss) == 3
    for x, sentence in ((noise(d=9), r"\[sample, 8\]"), (noise() * math.nan, "NaN"), (noise()[:0], "at least one"),
                        (noise() * 0, "all zero|All activations are zero")):  # fmt: skip
        with pytest.raises(CourseError, match=sentence):
            sae.SparseAutoencoder(one.cfg).start_from(x)


def test_a_rate_that_is_too_high():
    with pytest.raises(TrainingDiverged) as caught:
        sae.train(
            one_of("relu_norm"), lambda step: noise(step) * 1e15, sae.SaeTraining(50, lr=1e12, warmup=0)
        )
    assert len(caught.value.history.loss) < 50


@pytest.mark.parametrize("fast", [True, False])
def test_a_penalty_under_which_everything_dies(fast):
    one = sae.SparseAutoencoder(sae.SaeConfig(8, 20, "relu", l1=1e4)).start_from(noise(0, 256))
    config = sae.SaeTraining(400, batch=32, lr=0.05, warmup=0, penalty_warmup=0.0)
    with pytest.raises(CourseError, match="Every feature has died.*l1 = 10000") as caught:
        sae.train(one, noise, config, fast=fast)
    assert 20 < len(caught.value.history.loss) < 400
    late = replace(config, resample_at=(1.0,), steps=60)  # with a resampling ahead it goes on
    assert len(sae.train(sae.SparseAutoencoder(one.cfg).start_from(noise(0, 256)), noise, late,
                         pool=lambda: noise(0, 64), fast=fast).loss) == 60  # fmt: skip
