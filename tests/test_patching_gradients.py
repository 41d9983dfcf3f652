"""Attribution: exact where the model is linear, complete along a path, and equal to gradients taken with hooks."""

import pytest
import torch

from mi_course.errors import CourseError
from mi_course.patching import DIRECTIONS, Experiment, Node, Run
from mi_course.patching.gradients import order
from mi_course.patching.hooked import Hooked
from mi_course.sae.dictionary import SaeConfig, SparseAutoencoder
from tests.naive_patching import model_of, prompts

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
KINDS = [
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "z",
    "q",
    "k",
    "v",
    "pattern",
    "neuron",
]


def experiment(seed=1, **shape):
    model = model_of(
        seed, **({"n_layers": 2, "d_mlp": 6, "norm": "layernorm", "positions": "learned"} | shape)
    )
    return Experiment(model, *prompts(model))


@pytest.mark.parametrize("positions", ["each", "all", [1, -1]])
@pytest.mark.parametrize("kind", [*KINDS, "feature"])
def test_a_small_change_has_the_effect_that_is_estimated(kind, positions):
    """A source that differs from the host by 0.1% of the other run: first order is all there is (float64)."""
    exp = experiment()
    model = exp.model.double()
    exp = Experiment(model, exp.clean.tokens, exp.corrupted.tokens, exp.right, exp.wrong)
    near = {key: host + 1e-4 * (exp.clean.acts[key] - host) for key, host in exp.corrupted.acts.items()}
    source = Run(exp.clean.tokens, near, exp.engine, made="near")
    sae = None
    if kind == "feature":
        encoder = SparseAutoencoder(SaeConfig(d_in=8, d_sae=5)).double()
        encoder.b_enc.data += 0.3
        sae = encoder, "blocks.1.hook_resid_mid"
    options = {"positions": positions, "source": source, "sae": sae}
    exact, guess = exp.sweep(kind, **options), exp.attribution(kind, **options)
    assert exact.axes == guess.axes and guess.approximate and not exact.approximate
    change = exact.per_prompt - exp.sweep(kind, source=exp.corrupted, positions=positions, sae=sae).per_prompt
    estimate = (
        guess.per_prompt - exp.sweep(kind, source=exp.corrupted, positions=positions, sae=sae).per_prompt
    )
    assert float(change.abs().max()) > 1e-7
    torch.testing.assert_close(estimate, change, atol=1e-3 * float(change.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["v", "z", "attn_out", "resid_post", "pattern"])
def test_estimates_are_exact_in_the_last_layer_of_a_linear_model(kind, direction):
    exp = experiment(d_mlp=0, norm="none", positions="shortformer")
    for positions in ("each", "all"):
        exact = exp.sweep(kind, direction, layers=[1], positions=positions)
        torch.testing.assert_close(exp.attribution(kind, direction, layers=[1], positions=positions).per_prompt,
                                   exact.per_prompt, **CLOSE)  # fmt: skip


@pytest.mark.parametrize("positions", ["each", "all", [2, 5]])
@pytest.mark.parametrize("kind", "qk")
@pytest.mark.parametrize("shape", [{"positions": "shortformer"}, {"positions": "rotary", "smeared": True}])
def test_the_qk_fix_makes_the_softmax_exact(kind, positions, shape):
    exp = experiment(d_mlp=0, norm="none", seed=5, **shape)
    with torch.no_grad():
        exp.model.blocks[1].attn.W_Q.mul_(3)  # sharp patterns, on which first order fails
    exp = Experiment(exp.model, exp.clean.tokens, exp.corrupted.tokens, exp.right, exp.wrong)
    exact = exp.sweep(kind, positions=positions, layers=[1]).per_prompt
    fixed = exp.attribution(kind, positions=positions, layers=[1], qk_fix=True).per_prompt
    plain = exp.attribution(kind, positions=positions, layers=[1]).per_prompt
    torch.testing.assert_close(fixed, exact, **CLOSE)
    assert float((plain - exact).abs().max()) > 10 * float((fixed - exact).abs().max())


def test_the_fix_survives_weights_of_zero_and_one():
    exp = experiment(d_mlp=0, norm="none")
    with torch.no_grad():
        exp.model.blocks[1].attn.W_Q.mul_(1e4)
    exp = Experiment(exp.model, exp.clean.tokens, exp.corrupted.tokens, exp.right, exp.wrong)
    for kind in "qk":
        fixed = exp.attribution(kind, qk_fix=True, layers=[1]).per_prompt
        torch.testing.assert_close(fixed, exp.sweep(kind, layers=[1]).per_prompt, atol=1e-4, rtol=1e-4)


def test_gradients_along_the_way_add_up_to_the_whole_gap():
    exp = experiment()
    gap = exp.clean_score - exp.corrupted_score
    errors = [
        abs(float(exp.attribution("resid_pre", positions="all", layers=[0], steps=n).scores) - exp.corrupted_score - gap)
        for n in (1, 4, 64)
    ]  # fmt: skip
    assert errors[2] < 1e-2 * abs(gap) < errors[0] and errors[2] < errors[1]


@pytest.mark.parametrize("kind", [*KINDS, "feature"])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_through_hooks_are_the_same(kind, steps):
    exp = experiment(norm="rmsnorm", positions="rotary", smeared=True)
    engine = Hooked(exp.model)
    runs = [Run(run.tokens, run.acts, engine) for run in (exp.clean, exp.corrupted)]
    other = Experiment(exp.model.requires_grad_(False), *runs, exp.right, exp.wrong)
    sae = (
        (SparseAutoencoder(SaeConfig(d_in=8, d_sae=5)), "blocks.0.attn.hook_z") if kind == "feature" else None
    )
    ours, theirs = (e.attribution(kind, "noising", steps=steps, sae=sae).per_prompt for e in (exp, other))
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("metric", ["log_prob", "prob", "kl"])
def test_any_smooth_metric_has_gradients_and_a_count_has_none(metric):
    exp = experiment()
    given = (exp.model, exp.clean, exp.corrupted, exp.right)
    assert bool(Experiment(*given, metric=metric).attribution("z").per_prompt.isfinite().all())
    for counting in ("accuracy", "rank"):
        with pytest.raises(CourseError, match="no gradient"):
            Experiment(*given, metric=counting).attribution("z")
    with torch.no_grad():
        exp.attribution("z")  # gradients are switched on where they are needed
    with torch.inference_mode(), pytest.raises(CourseError, match="inference_mode"):
        exp.attribution("z")


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    "shape", [{}, {"positions": "rotary", "smeared": True}, {"positions": "shortformer", "d_mlp": 0}]
)
def test_the_edges_of_a_sender_add_up_to_its_node(shape, steps):
    exp = experiment(**shape)
    edges = exp.edge_attribution("noising", steps=steps)
    effects = edges.per_prompt - exp.attribution("z", "noising", source=exp.clean).per_prompt[0, 0, 0]
    z = exp.attribution("z", "noising", positions="all", steps=steps)
    embed = exp.attribution("resid_pre", "noising", positions="all", steps=steps).per_prompt[0]
    base = exp.attribution("z", "noising", source=exp.clean).per_prompt[0, 0, 0]
    for i, sender in enumerate(edges.axes["sender"]):
        if sender.startswith("z"):
            layer, head = map(int, sender[2:].split("."))
            torch.testing.assert_close(effects[i].sum(0), z.per_prompt[layer, head] - base, **CLOSE)
        if sender == "embed":
            torch.testing.assert_close(effects[i].sum(0), embed - base, **CLOSE)
    for i, sender in enumerate(edges.axes["sender"]):
        for j, receiver in enumerate(edges.axes["receiver"]):
            if order(receiver) <= order(sender):
                assert not bool(effects[i, j].any())


def test_a_direct_edge_to_the_logits_is_exact_without_a_norm():
    exp = experiment(norm="none", d_mlp=6)
    edges = exp.edge_attribution()
    column = edges.axes["receiver"].index("logits")
    for name, node in (
        ("z 0.1", Node("z", 0, 1)),
        ("mlp_out 1", Node("mlp_out", 1)),
        ("embed", Node("resid_pre", 0)),
    ):
        ours = edges.per_prompt[edges.axes["sender"].index(name), column]
        torch.testing.assert_close(ours, exp.path(node, "logits").per_prompt, **CLOSE)
