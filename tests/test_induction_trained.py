"""Taking a trained model apart: known answers from hand-made weights, identities, and sentences for bad input."""

import ast
import builtins
import math
from pathlib import Path

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mi_course import circuits, induction, models
from mi_course.errors import CourseError

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "03_induction_heads.ipynb"

# -- curves ----------------------------------------------------------------------------------------


def test_smoothing_keeps_a_constant_and_the_length():
    assert_close(induction.smoothed(torch.full((7,), 3.0)), torch.full((7,), 3.0))
    assert_close(
        induction.smoothed(torch.tensor([0.0, 0, 5, 0, 0, 0])), torch.tensor([5 / 3, 1.25, 1, 1, 1.25, 0])
    )


def test_the_window_opens_at_a_tenth_and_closes_at_nine_tenths():
    steps, curve = torch.arange(0, 110, 10), torch.arange(11) / 10
    assert induction.rise_window(steps, curve) == (10, 90)
    assert induction.rise_window(steps, -curve) == (10, 90)  # an ICL score is negative


def test_windows_overlap_by_their_share_of_the_longer_one():
    assert induction.window_overlap((0, 10), (0, 10)) == 1
    assert induction.window_overlap((0, 10), (5, 25)) == 0.25
    assert induction.window_overlap((0, 10), (20, 30)) == 0


def test_a_line_has_no_bend_and_a_knee_has_one():
    line = torch.arange(20.0)
    assert_close(induction.bend(line)[4:-4], torch.zeros(12), atol=1e-5, rtol=0)
    knee = -(torch.arange(20.0) - 10).clamp_min(0)
    bends = induction.bend(knee)
    assert bends.isnan().sum() == 8 and int(bends.nan_to_num(9).argmin()) in (9, 10, 11)
    assert bends.nan_to_num(0).min() < 0


# -- paths -----------------------------------------------------------------------------------------


def test_a_right_angle_turns_by_ninety_degrees():
    path = torch.tensor([[0.0, 0], [1, 0], [2, 0], [2, 1], [2, 2]])
    angles = induction.turning_angles(path, 1.0)
    assert_close(angles[2], torch.tensor(90.0))
    assert_close(angles[1], torch.tensor(0.0), atol=0.05, rtol=0)
    assert angles[[0, -1]].isnan().all()


def test_jitter_below_the_reach_does_not_turn():
    x = torch.arange(40.0)
    jitter = 0.01 * (-1) ** torch.arange(40)
    path = torch.stack([x, jitter], dim=1)
    assert induction.turning_angles(path, 10.0).nan_to_num(0).max() < 1


# -- knock-outs ------------------------------------------------------------------------------------


def a_model(seed=0, n_layers=2):
    cfg = models.TinyConfig(
        n_layers, n_heads=2, d_model=8, d_vocab=11, n_ctx=12, position_layers=1, seed=seed
    )
    model = models.TinyTransformer(cfg).eval().requires_grad_(False)
    for block in model.blocks:
        block.attn.W_O.mul_(3)
    return model


def some_tokens(seed=0, n=5):
    return torch.randint(0, 11, (n, 12), generator=torch.Generator().manual_seed(seed))


def test_silencing_nobody_changes_nothing():
    model, tokens = a_model(), some_tokens()
    plain = induction.losses_by_position(model, tokens)
    for keep in (True, False):
        assert_close(induction.losses_without(model, tokens, [], keep_patterns=keep, batch=2), plain)


def test_in_the_last_layer_patterns_need_no_keeping():
    model, tokens = a_model(), some_tokens()
    kept, free = (induction.losses_without(model, tokens, [(1, 0)], keep_patterns=k) for k in (True, False))
    assert_close(kept, free)


def test_in_the_first_layer_they_do():
    model, tokens = a_model(), some_tokens()
    kept, free = (induction.losses_without(model, tokens, [(0, 1)], keep_patterns=k) for k in (True, False))
    assert (kept - free).abs().max() > 1e-3


def test_a_silent_head_equals_one_whose_output_weights_are_zero():
    model, tokens = a_model(), some_tokens()
    losses = induction.losses_without(model, tokens, [(0, 0)], keep_patterns=False)
    model.blocks[0].attn.W_O[0] = 0
    assert_close(losses, induction.losses_by_position(model, tokens))


def test_all_heads_silent_leaves_the_direct_path():
    model, tokens = a_model(), some_tokens()
    everyone = [(layer, head) for layer in range(2) for head in range(2)]
    logits = model.direct_path()[tokens]
    expected = models.next_token_loss(logits, tokens, per_token=True)
    assert_close(induction.losses_without(model, tokens, everyone), expected)


def test_a_head_that_is_not_there():
    with pytest.raises(CourseError, match="No head 0.7"):
        induction.losses_without(a_model(), some_tokens(), [(0, 7)])


# -- orders ----------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_highest_order_is_the_model(seed, n_layers):
    model, tokens = a_model(seed, n_layers), some_tokens(seed)
    logits = induction.logits_by_order(model, tokens)
    assert len(logits) == n_layers + 1
    assert_close(logits[-1], model(tokens), atol=1e-4, rtol=1e-4)
    assert_close(logits[0], model.direct_path()[tokens], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal", "shortformer", "rotary"])
def test_the_highest_order_is_the_model_whatever_its_positions(positions):
    cfg = models.TinyConfig(2, n_heads=2, d_model=16, d_vocab=11, n_ctx=24, positions=positions)
    model, tokens = models.TinyTransformer(cfg).requires_grad_(False), some_tokens()
    assert_close(induction.logits_by_order(model, tokens)[-1], model(tokens), atol=1e-5, rtol=1e-5)


def test_one_layer_has_the_terms_of_notebook_02():
    model, tokens = a_model(n_layers=1), some_tokens()
    assert_close(
        circuits.path_terms(model, tokens).sum(0), induction.logits_by_order(model, tokens)[1],
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_orders_need_a_sum():
    model = models.TinyTransformer(models.TinyConfig(1, n_heads=2, d_model=8, d_vocab=11, norm="rmsnorm"))
    with pytest.raises(CourseError, match="attention-only model without norm"):
        induction.logits_by_order(model, some_tokens())


# -- the QK term -----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_small_matrix_has_the_trace_and_score_of_the_table(seed):
    model = a_model(seed)
    table = model.W_E @ model.W_QK[1, 0] @ model.W_OV[0, 1].T @ model.W_E.T
    core = induction.previous_token_term(model, (0, 1), (1, 0))
    assert_close(core.trace(), table.trace(), atol=1e-3, rtol=1e-3)
    assert_close(circuits.eigenvalue_score(core), circuits.eigenvalue_score(table), atol=1e-3, rtol=1e-3)


def test_the_hand_built_circuit_is_labelled_by_its_weights():
    """K-composition by hand: 0.0 carries the previous token, 1.0 matches and copies it."""
    model = induction.k_composition_circuit(8, 17)
    core = induction.previous_token_term(model, (0, 0), (1, 0))
    assert circuits.eigenvalue_score(core) > 0.9
    previous = torch.zeros(2, model.cfg.n_heads)
    previous[0, 0] = 1.0
    found, before = induction.labels(model, {"previous": previous, "prefix": previous.flip(0)})
    assert (1, 0) in found and before == [(0, 0)]


def test_untrained_heads_get_no_label():
    model = a_model()
    scores = {
        "previous": torch.full((2, 2), 0.2),
        "prefix": torch.full((2, 2), 0.9),
    }  # behaviour does not count
    found, before = induction.labels(model, scores, bound=0.95)
    assert found == [] and before == []


def test_the_term_runs_upwards():
    with pytest.raises(CourseError, match="not above"):
        induction.previous_token_term(a_model(), (1, 0), (1, 1))
    with pytest.raises(CourseError, match="two layers"):
        induction.labels(a_model(n_layers=1), {"previous": torch.zeros(1, 2)})


# -- shipped files ---------------------------------------------------------------------------------


def test_the_log_reaches_from_nothing_to_the_shipped_model():
    log = induction.training_log("induction-2l")
    assert log["step"][0] == 0 and log["prefix"].shape[1:] == (2, 4)
    assert log["prefix"][0].max() < 0.1 < 0.5 < log["prefix"][-1].max()
    assert log["token_losses"].dtype == torch.float32


def test_snapshots_begin_untrained_and_end_with_the_model():
    stages = induction.snapshots("induction-2l")
    shipped = models.load("induction-2l")
    assert min(stages) == 0
    assert_close(stages[max(stages)].W_E, shipped.W_E, atol=2e-3, rtol=2e-3)
    tokens = torch.randint(1, 512, (4, 64), generator=torch.Generator().manual_seed(0))
    assert abs(stages[0](tokens, return_type="loss").item() - math.log(512)) < 0.2


def test_unknown_logs_and_snapshots_give_the_nearest_names():
    with pytest.raises(CourseError, match="no training log of 'induction-9l'. Did you mean 'induction-"):
        induction.training_log("induction-9l")
    with pytest.raises(CourseError, match="no series of snapshots of 'induction-1l'.*'induction-2l'"):
        induction.snapshots("induction-1l")


def loads_before_stores(cells):
    """Names that these cells use before any of them gives them a value."""
    given, used = set(), set()
    for cell in cells:
        tree = ast.parse(cell.source)
        nodes = list(ast.walk(tree))
        inside = {node.arg for node in nodes if isinstance(node, ast.arg)}
        for node in nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                inside.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                inside.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                inside |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        used |= names - given - inside - set(dir(builtins))
        given |= inside
    return used


def test_part_two_of_the_notebook_needs_nothing_of_part_one():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    start = next(i for i, cell in enumerate(cells) if cell.source.startswith("# Part two"))
    assert loads_before_stores([cell for cell in cells[start:] if cell.cell_type == "code"]) == set()
