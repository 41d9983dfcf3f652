"""Metrics by their definitions, and results that know their axes."""

import math

import pytest
import torch

from mi_course.errors import CourseError
from mi_course.patching import (
    Node,
    PatchResult,
    accuracy,
    kl,
    log_prob,
    logit_diff,
    normalised,
    prob,
    rank,
)

LOGITS = torch.tensor([[2.0, 1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 5.0]])
RIGHT, WRONG = torch.tensor([1, 3]), torch.tensor([0, 2])


def test_metrics_are_their_formulas():
    total = math.log(math.exp(2) + 2 * math.exp(1) + math.exp(-1))
    assert logit_diff(LOGITS, RIGHT, WRONG).tolist() == [-1.0, 5.0]
    assert log_prob(LOGITS, RIGHT)[0] == pytest.approx(1 - total, abs=1e-6)
    assert prob(LOGITS, RIGHT)[1] == pytest.approx(math.exp(5) / (math.exp(5) + 3))
    assert accuracy(LOGITS, RIGHT).tolist() == [0.0, 1.0]
    assert rank(LOGITS, RIGHT).tolist() == [1.5, 0.0]  # one above, one equal


def test_kl_is_zero_at_the_reference_and_directed():
    assert kl(LOGITS, LOGITS).tolist() == [0.0, 0.0]
    other = LOGITS.roll(1, 1)
    p, q = LOGITS.softmax(-1), other.softmax(-1)
    assert kl(other, LOGITS)[0] == pytest.approx(float((p * (p / q).log()).sum(-1)[0]), abs=1e-6)
    certain = torch.tensor([[0.0, -torch.inf]])
    assert float(kl(torch.zeros(1, 2), certain)) == pytest.approx(math.log(2))


def test_metrics_keep_every_axis_before_the_prompts():
    many = torch.randn(3, 5, 2, 4)
    for metric in (log_prob, prob, accuracy, rank):
        assert torch.equal(metric(many, RIGHT)[2, 4], metric(many[2, 4], RIGHT))
    assert torch.equal(logit_diff(many, RIGHT, WRONG)[1, 0], logit_diff(many[1, 0], RIGHT, WRONG))
    assert kl(many, LOGITS).shape == (3, 5, 2)


def test_normalised_is_zero_at_corrupted_and_one_at_clean():
    assert normalised(torch.tensor([1.0, 3.0, 2.0]), 1, 3).tolist() == [0.0, 1.0, 0.5]
    assert normalised(1.0, 3.0, -1.0) == 0.5
    with pytest.raises(CourseError, match="score the same"):
        normalised(0.5, 2.0, 2.0)


def test_nodes_have_short_names():
    assert str(Node("z", 1, 3, pos=5)) == "z 1.3 @5"
    assert str(Node("mlp_out", 0)) == "mlp_out 0"
    assert str(Node("neuron", 1, unit=17)) == "neuron 1.17"


def result(direction="denoising", **changed):
    scores = torch.tensor([[0.0, 1.0, -3.0], [0.5, 0.0, 2.0]])
    given = {
        "per_prompt": torch.stack([scores - 1, scores + 1], -1), "axes": {"layer": [0, 4], "pos": [0, 1, 5]},
        "direction": direction, "metric": "logit_diff", "clean": 4.0, "corrupted": 0.0, "what": "resid_pre",
    }  # fmt: skip
    return PatchResult(**(given | changed))


def test_values_do_not_depend_on_the_direction_and_effects_do():
    there, back = result(), result("noising")
    assert there.scores[1, 2] == 2.0
    assert torch.equal(there.values, back.values) and there.values[1, 2] == 0.5
    assert torch.equal(there.effect, there.values) and torch.equal(back.effect, 1 - back.values)


def test_the_largest_effects_are_named():
    assert result().top(3) == [("resid_pre 0 @5", -0.75), ("resid_pre 4 @5", 0.5), ("resid_pre 0 @1", 0.25)]
    heads = result(what="z", axes={"layer": [0, 1], "head": [0, 1, "mlp"]})
    assert heads.top(2) == [("z 0.mlp", -0.75), ("z 1.mlp", 0.5)]
    edges = result(axes={"sender": ["embed", "z 0.0"], "receiver": ["q 0.0", "v 0.0", "logits"]})
    assert edges.top(1) == [("embed → logits", -0.75)]


def test_parts_are_taken_by_label():
    part = result().at(layer=4)
    assert part.axes == {"pos": [0, 1, 5]} and torch.equal(part.per_prompt, result().per_prompt[1])
    assert float(result().at(layer=4, pos=5)) == 0.5
    with pytest.raises(CourseError, match="no layer=1 here: the axes are layer, pos"):
        result().at(layer=1)
    with pytest.raises(CourseError, match="not one number"):
        float(result())


def test_a_result_says_what_it_is_in_a_line():
    assert repr(result()) == "PatchResult(resid_pre: denoising, logit_diff, layer 2 × pos 3)"
    one = result("noising", approximate=True).at(layer=0, pos=1)
    assert repr(one) == "PatchResult(resid_pre: estimated noising, logit_diff, one patch, value 0.250)"
    assert "value" not in repr(result(clean=0.0).at(layer=0, pos=1))


def test_results_draw_themselves():
    figure = result().plot(title="Where it is", tokens=["a", "b", "c", "d", "e", "Rome"])
    assert figure.title == "Where it is" and "resid_pre 0 @5 -0.75" in figure.alt
    axes = figure.picture.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "Rome"]
    assert axes.images[0].norm.vmin == -axes.images[0].norm.vmax
    assert axes.images[0].get_array().tolist() == result().effect.tolist()
    bars = result().at(layer=0).plot()
    assert [bar.get_height() for bar in bars.picture.axes[0].patches] == [0.0, 0.25, -0.75]
    cube = result(
        per_prompt=torch.randn(2, 3, 4, 2), axes={"layer": [0, 1], "head": [0, 1, 2], "pos": [0, 1, 2, 3]}
    )
    rows = [text.get_text() for text in cube.plot().picture.axes[0].get_yticklabels()]
    assert rows == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    four = result(
        per_prompt=torch.randn(1, 1, 2, 2, 2),
        axes={"layer": [0], "head": [0], "query": [0, 1], "key": [0, 1]},
    )
    with pytest.raises(CourseError, match="take a part with `at"):
        four.plot()
    assert four.at(layer=0, head=0).plot().picture is not None
