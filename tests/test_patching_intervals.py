"""Intervals and tests over prompts: by their definitions, against TransformerLens, and with their guarantees."""

import itertools

import pytest
import torch

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.patching import Experiment, Node, PatchResult
from mi_course.patching.intervals import bootstrap, rank_p, sign_flip_p
from tests.naive_patching import model_of, prompts


@pytest.fixture(scope="module")
def theirs():
    """TransformerLens' own statistics; only tests may import them."""
    return pytest.importorskip("transformer_lens.utilities.statistics")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def result(per_prompt, direction="denoising", ends=None):
    ends = (
        torch.stack([torch.zeros(per_prompt.shape[-1]), torch.full((per_prompt.shape[-1],), 2.0)])
        if ends is None
        else ends
    )
    axes = {"layer": list(range(per_prompt.shape[0]))} if per_prompt.ndim > 1 else {}
    corrupted, clean = ends.mean(-1).tolist()
    return PatchResult(
        per_prompt, axes, direction, "logit_diff", clean, corrupted, "z", ends=ends.to(per_prompt)
    )


@pytest.mark.parametrize("n", [8, 40])
def test_intervals_agree_with_transformer_lens_to_monte_carlo_error(theirs, n):
    """20,000 resamples each: the quantiles' own error is about 1% of the interval."""
    scores = drawn(4, n, seed=1) + torch.arange(4.0)[:, None]
    ours = result(scores).interval("scores", resamples=20_000)
    other = theirs.bootstrap_ci(scores, n_resamples=20_000)
    width = float((other[1] - other[0]).min())
    for mine, yours in zip(ours, other):
        torch.testing.assert_close(mine, yours, atol=0.03 * width, rtol=0)


@pytest.mark.parametrize("n", [6, 12, 30])
def test_sign_flips_agree_with_transformer_lens(theirs, n):
    changes = drawn(5, n, seed=2) + torch.tensor([0, 0.2, 0.5, 1, -1])[:, None]
    ours = result(changes).p_value(permutations=20_000)
    other = theirs.sign_flip_permutation_pvalue(changes, n_permutations=20_000)
    torch.testing.assert_close(ours, other, atol=0 if n <= 12 else 0.015, rtol=0)


def test_sign_flips_are_their_definition():
    changes = torch.tensor([3.0, 1.0, -0.5])
    means = [sum(s * c for s, c in zip(signs, changes)) / 3 for signs in itertools.product((1, -1), repeat=3)]
    share = sum(abs(mean) >= 3.5 / 3 - 1e-6 for mean in means) / 8
    assert float(sign_flip_p(changes)) == share
    assert float(sign_flip_p(torch.zeros(4))) == 1.0
    assert (
        float(sign_flip_p(torch.ones(10))) == 2 / 1024
    )  # all one way: only the two extreme patterns do as well


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Means of 40 draws from a known distribution, 300 times: about 95% (a percentile interval a little fewer)."""
    held = 0
    for seed in range(300):
        low, high = result(drawn(40, seed=seed)).interval("scores", resamples=400, seed=seed)
        held += bool(low <= 0 <= high)
    assert 0.90 <= held / 300 <= 0.98


def test_p_values_of_nothing_are_uniform():
    p = sign_flip_p(drawn(2000, 10, seed=3))
    for level in (0.05, 0.2, 0.5):
        assert float((p <= level).double().mean()) == pytest.approx(level, abs=0.03)


def test_the_interval_of_an_effect_resamples_the_gap():
    """Every prompt moves exactly a third of its own gap: the effect is 1/3 whichever prompts are drawn."""
    clean = 1 + drawn(9, seed=4).abs()
    ends = torch.stack([torch.zeros_like(clean), clean])
    for direction, effect in (("denoising", 1 / 3), ("noising", 2 / 3)):
        low, high = result(clean / 3, direction, ends).interval()
        assert float(low) == pytest.approx(effect) == pytest.approx(float(high))
    low, high = result(clean / 3, ends=ends).interval("scores")
    assert float(high - low) > 0.05


def test_seeds_and_levels():
    one = result(drawn(3, 10))
    assert torch.equal(one.interval()[0], one.interval()[0])
    assert not torch.equal(one.interval()[0], one.interval(seed=1)[0])
    wide, narrow = one.interval(level=0.99), one.interval(level=0.5)
    assert bool((wide[0] < narrow[0]).all() and (narrow[1] < wide[1]).all())
    assert bool(((narrow[0] <= one.effect) & (one.effect <= narrow[1])).all())


def test_ranks_among_random_circuits():
    null = torch.arange(99.0)
    torch.testing.assert_close(
        rank_p(torch.tensor([200.0, 98.0, -1.0]), null), torch.tensor([0.01, 0.02, 1.0])
    )


def test_an_experiment_hands_its_prompts_on_and_draws_its_null():
    model = model_of(3, n_layers=2, d_mlp=6, norm="layernorm", positions="learned")
    exp = Experiment(model, *prompts(model, 5))
    everything = exp.patch([Node("resid_pre", 0)])
    low, high = everything.interval()
    assert float(low) == pytest.approx(1, abs=1e-4) == pytest.approx(float(high), abs=1e-4)
    assert "value 1.000 [1.000, 1.000])" in repr(everything)
    null = exp.random_circuits(Node("z", 0, 1), 20, seed=1)
    again = exp.sweep("z", positions="all").effect
    assert null.axes == {"draw": list(range(20))} and {round(float(x), 4) for x in null.effect} <= {
        round(float(x), 4) for x in again.flatten()
    }
    assert float(everything.p_value(null)) == float((1 + (null.effect >= everything.effect).sum()) / 21)
    assert exp.sweep("z").p_value().shape == (2, 2, 6)
    part = exp.sweep("z").at(layer=1, head=0)
    torch.testing.assert_close(part.interval(), tuple(end[1, 0] for end in exp.sweep("z").interval()))


def test_figures_show_intervals():
    kinds = lambda figure: {type(drawn).__name__ for drawn in figure.picture.axes[0].containers}  # noqa: E731
    assert kinds(result(drawn(3, 10)).plot()) == {"BarContainer", "ErrorbarContainer"}
    assert kinds(result(drawn(3, 10)).plot(intervals=False)) == {"BarContainer"}
    square = result(drawn(3, 10))
    square = PatchResult(drawn(3, 2, 10), {"layer": [0, 1, 2], "pos": [0, 1]}, *[getattr(square, name) for name in (
        "direction", "metric", "clean", "corrupted", "what", "approximate", "ends")])  # fmt: skip
    assert [axes.get_title() for axes in square.plot(intervals=True).picture.axes[:3]] == [
        "effect",
        "95% from",
        "to",
    ]
    assert len(square.plot().picture.axes) == 2  # the map and its scale


def test_resamples_without_a_gap_are_left_out_and_counted():
    """Accuracy of ten prompts, one of which tells clean from corrupted: a third of the resamples leave it out."""
    clean, corrupted = torch.tensor([1.0] * 4 + [0.0] * 6), torch.tensor([1.0] * 3 + [0.0] * 7)
    ends = torch.stack([corrupted, clean])
    one, many = result(clean, ends=ends), result(torch.stack([clean, corrupted]), ends=ends)
    drawn_ones = torch.randint(10, (1000, 10), generator=generator(0))
    without = int((drawn_ones != 3).all(1).sum())
    assert one.left_out() == without and 300 < without < 400
    assert torch.stack(one.interval()).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert f"[1.000, 1.000], {without} of 1,000 resamples without a gap left out" in repr(one)
    torch.testing.assert_close(
        torch.stack(many.interval()), torch.tensor([[1.0, 0.0]] * 2), atol=1e-5, rtol=0
    )
    figure = many.plot(caption="What to see.")
    assert f"What to see. 95% intervals, {without} of 1,000 resamples" in figure.caption
    assert "left out" not in repr(result(drawn(10))) and result(drawn(10)).left_out() == 0


def test_rounding_is_no_gap_and_where_none_has_one_a_sentence_says_so():
    """Three prompts that are right in both runs, in another order: 0.1 + 0.1 + 0.1 is not always 0.3."""
    ends = torch.stack([torch.tensor([0.1, 0.2, 0.3, 0.7]), torch.tensor([0.1, 0.2, 0.3, 0.7]) * (1 + 1e-7)])
    flat = result(torch.ones(4), ends=ends)
    assert flat.left_out() == 1000
    with pytest.raises(CourseError, match="score the same in all 1,000 resamples"):
        flat.interval()
    assert "[" not in repr(flat)
    assert bool(torch.stack(flat.interval("scores")).isfinite().all())


def test_what_has_no_interval_says_so():
    one = result(drawn(1))
    assert "[" not in repr(one) and one.ends is not None
    with pytest.raises(CourseError, match="two prompts at least"):
        one.interval()
    with pytest.raises(CourseError, match="no quantity 'efect'.*effect"):
        result(drawn(4)).interval("efect")
    with pytest.raises(CourseError, match="level=95 must lie between 0 and 1"):
        bootstrap(lambda share: share.sum(-1), 4, level=95)
    bare = PatchResult(drawn(4), {}, "denoising", "logit_diff", 1.0, 0.0, "z")
    for ask in (bare.interval, bare.p_value):
        with pytest.raises(CourseError, match="lost its prompts' own ends"):
            ask()
