"""Transcoders: the function, its loss by hand, training of every kind, files, and what has no sense for them."""

import pytest
import torch
from torch.testing import assert_close

from mi_course import models, patching, sae, scaling, training
from mi_course.corpora import generator
from mi_course.errors import CourseError
from mi_course.files import shipped_path

KINDS = {
    "relu": {"l1": 0.05}, "relu_norm": {"l1": 0.05}, "topk": {"k": 4}, "batchtopk": {"k": 4}, "jumprelu": {"l1": 0.01},
    "gated": {"l1": 0.05}, "nested": {"k": 4, "prefixes": (6,)},
}  # fmt: skip


def made(kind="topk", d_in=6, d_out=9, d_sae=20, **settings) -> sae.Transcoder:
    return sae.Transcoder(
        sae.TranscoderConfig(d_in, d_sae, kind, d_out=d_out, **(KINDS[kind] | settings), seed=3)
    )


@pytest.fixture(scope="module")
def rows():
    """A layer from six numbers to nine: inputs and outputs side by side."""
    x = torch.randn(600, 6, generator=torch.Generator().manual_seed(1)) + 2.0
    W = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    return torch.cat([x, (x @ W).relu() * 5 + 1], 1)


def test_every_kind_is_known():
    assert KINDS.keys() == sae.KINDS.keys()


def test_the_function_by_hand(rows):
    one = made().start_from(rows)
    x, y = rows[:, :6], rows[:, 6:]
    assert float((x * one.scale).square().sum(1).mean()) == pytest.approx(6, rel=1e-4)
    assert float((y * one.out_scale).square().sum(1).mean()) == pytest.approx(9, rel=1e-4)
    pre = (x * one.scale - one.centre) @ one.W_enc + one.b_enc
    f = sae.keep_top(pre.relu(), 4)
    assert_close(one.pre(x), pre)
    assert_close(one(x), (f @ one.W_dec + one.b_dec) / one.out_scale)
    folded = x * one.scale @ one.W_enc + (one.b_enc - one.centre @ one.W_enc)  # the paper's form
    assert_close(pre, folded, atol=1e-5, rtol=1e-5)


def test_it_starts_at_the_middle_of_both_ends(rows):
    one = made().start_from(rows)
    assert_close(one.b_dec.detach(), sae.geometric_median(rows[:, 6:] * one.out_scale))
    assert_close(one.centre, sae.geometric_median(rows[:, :6] * one.scale))
    assert_close(one.W_dec.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_error_of_the_output(rows, kind):
    one = made(kind).start_from(rows)
    total, f = sae.loss(one, rows, share=0.0)
    error = (one.out_scale * rows[:, 6:] - (f @ one.W_dec + one.b_dec)).square().sum(1).mean()
    if kind == "nested":
        first = (one.out_scale * rows[:, 6:] - f[:, :6] @ one.W_dec[:6] - one.b_dec).square().sum(1).mean()
        error = (error + first) / 2
    if kind == "gated":
        gate = one.pre(rows[:, :6]).relu() @ one.W_dec + one.b_dec
        error = error + (one.out_scale * rows[:, 6:] - gate).square().sum(1).mean()
    assert_close(total, error, atol=1e-4, rtol=1e-4)
    assert f.shape == (600, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_the_layer_and_comes_back_from_its_file(rows, kind, tmp_path):
    one = made(kind).start_from(rows)
    before = sae.fvu(rows[:, 6:], one(rows[:, :6]).detach())
    history = sae.train(one, lambda step: rows, sae.SaeTraining(150, lr=1e-2, warmup=5))
    after = sae.fvu(rows[:, 6:], one(rows[:, :6]).detach())
    assert after < 0.35 < before and len(history.loss) == 150
    again = sae.Transcoder.load(one.save(tmp_path / "one", note="mine"))
    assert_close(again(rows[:, :6]), one(rows[:, :6]))
    assert again.cfg == one.cfg and again.card["note"] == "mine"
    half = sae.Transcoder.load(one.save(tmp_path / "half", half=True))
    with torch.no_grad():  # at a threshold a value may fall to the other side
        assert sae.fvu(one(rows[:, :6]), half(rows[:, :6])) < 1e-3


def test_what_history_says_is_about_the_output(rows):
    one = made().start_from(rows)
    history = sae.train(one, lambda step: rows, sae.SaeTraining(41, lr=1e-2, warmup=5))
    noted = history.notes[-1]  # after the last step: the very weights that are left
    assert noted["FVU"] == pytest.approx(sae.fvu(rows[:512, 6:], one(rows[:512, :6]).detach()), rel=1e-3)


def test_dead_features_are_revived_towards_what_is_missed(rows):
    one = made(k=2).start_from(rows)
    dead = torch.zeros(20, dtype=torch.bool)
    dead[:3] = True
    t, target = one.pair(rows)
    error = (target - one.rebuilt(one.activate(one.pre(rows[:, :6])))).detach()
    lost = sae.auxiliary_loss(one, t, error, dead)
    revived = one.pre(rows[:, :6])[:, :3].relu() @ one.W_dec[:3]
    assert_close(lost, (error - revived).square().sum(1).mean(), atol=1e-4, rtol=1e-4)
    grad = torch.autograd.grad(lost, one.W_dec)[0]
    assert bool(grad[:3].any()) and not bool(grad[3:].any())


def test_resampled_features_read_the_input_and_write_what_was_missed(rows):
    one = made("relu", l1=0.0).start_from(rows)
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[4, 7]] = True
    at = (rows[:, :6] * one.scale - one.centre, one.missed(rows).detach())
    picked = sae.resample_(one, dead, rows)
    reads, writes = (torch.nn.functional.normalize(v[picked], dim=1) for v in at)
    assert_close(one.W_dec[dead], writes, atol=1e-5, rtol=1e-4)
    assert bool((torch.cosine_similarity(one.W_enc.T[dead], reads) > 0.999).all())


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(rows, tmp_path):
    sample = lambda step: rows[torch.randint(600, (64,), generator=torch.Generator().manual_seed(step))]
    plan = sae.SaeTraining(40, batch=64, lr=1e-2, warmup=5, dead_after=200)
    whole = made().start_from(rows)
    sae.train(whole, sample, plan)

    def stopping(step: int):
        if step == 25:
            raise KeyboardInterrupt
        return sample(step)

    cut = made().start_from(rows)
    with pytest.raises(KeyboardInterrupt):
        sae.train(cut, stopping, plan, checkpoint=training.Checkpoint(tmp_path / "run", every=10))
    again = made().start_from(rows)
    sae.train(again, sample, plan, checkpoint=training.Checkpoint(tmp_path / "run", every=10))
    assert_close(again.state_dict(), whole.state_dict(), atol=0, rtol=0)


def test_the_width_of_the_output_is_that_of_the_input_unless_said():
    assert sae.TranscoderConfig(6, 20, "topk", k=4).d_out == 6
    assert repr(made()) == "Transcoder(topk, 6 → 20 features → 9, k = 4)"


def test_what_has_no_sense_is_said(rows, tmp_path):
    with pytest.raises(CourseError, match="cannot be tied"):
        sae.TranscoderConfig(6, 20, "topk", k=4, tied=True)
    with pytest.raises(CourseError, match="made from a TranscoderConfig"):
        sae.Transcoder(sae.SaeConfig(6, 20, "topk", k=4))
    with pytest.raises(CourseError, match="at least one number, not d_out = -2"):
        sae.TranscoderConfig(6, 20, "topk", k=4, d_out=-2)
    one = made()
    with pytest.raises(CourseError, match=r"Activations are \[sample, 15\]"):
        one.start_from(rows[:, :6])
    with pytest.raises(CourseError, match="6 numbers to read and 9 to rebuild"):
        sae.train(one, lambda step: rows[:, :6], sae.SaeTraining(5))
    with pytest.raises(CourseError, match="All activations are zero"):
        one.start_from(torch.cat([rows[:, :6], torch.zeros(600, 9)], 1))
    holes = rows.clone()
    holes[3, 8] = float("nan")
    with pytest.raises(CourseError, match="NaN or infinity"):
        one.start_from(holes)
    with pytest.raises(CourseError, match="reads 6 numbers a vector"):
        one(rows)
    with pytest.raises(CourseError, match="is no autoencoder"):
        sae.to_saelens(one, tmp_path / "folder")


@pytest.mark.parametrize("use", ["splice", "clamped", "replaced", "first_order", "doses", "ablation_effect", "logit_weights",
                                 "patching"])  # fmt: skip
def test_what_writes_into_the_stream_that_was_read_refuses_a_transcoder(use):
    model = models.TinyTransformer(models.TinyConfig(d_model=8, n_heads=2, n_layers=1, d_vocab=10, n_ctx=8))
    one = sae.Transcoder(
        sae.TranscoderConfig(8, 12, "topk", k=2)
    )  # as wide as what it reads: shapes would fit
    one.card["hook"] = hook = "blocks.0.hook_resid_post"
    tokens = torch.arange(8).view(1, 8)
    x, rest = torch.randn(1, 8, 8, generator=generator(0)), scaling.Rest(model, 0)
    exp = patching.Experiment(model, tokens, tokens.flip(1), 1, 2)
    uses = {
        "splice": lambda: sae.splice(one),
        "clamped": lambda: scaling.clamped(one, x, 3, 1.0),
        "replaced": lambda: scaling.replaced(one, x),
        "first_order": lambda: scaling.first_order(rest, one, x, lambda logits: logits.sum(), torch.ones(12)),
        "doses": lambda: scaling.doses(rest, one, x, tokens, torch.tensor([1]), 3, [1.0]),
        "ablation_effect": lambda: sae.ablation_effect(one, model, tokens, 3),
        "logit_weights": lambda: sae.logit_weights(one, model),
        "patching": lambda: exp.sweep("feature", sae=(one, hook)),
    }
    with pytest.raises(CourseError, match="reads at one hook and writes at another"):
        uses[use]()


def test_only_an_autoencoder_has_features_to_patch():
    model = models.TinyTransformer(models.TinyConfig(d_model=8, n_heads=2, n_layers=1, d_vocab=10, n_ctx=8))
    exp = patching.Experiment(model, torch.arange(8).view(1, 8), torch.arange(8).view(1, 8).flip(1), 1, 2)
    with pytest.raises(CourseError, match="not of type Linear; sae.from_saelens reads those of SAELens"):
        exp.sweep("feature", sae=(torch.nn.Linear(8, 8), "blocks.0.hook_resid_post"))


def test_an_autoencoder_is_no_transcoder_and_the_other_way_round(tmp_path):
    path = made().save(tmp_path / "one")
    with pytest.raises(CourseError, match="is not an autoencoder: its card has no entry 'sae'"):
        sae.SparseAutoencoder.load(path)
    with pytest.raises(CourseError, match="is not a transcoder: its card has no entry 'transcoder'"):
        sae.Transcoder.load(shipped_path("sae-deep-256", "sae"))
