"""The rebuilt forward is the model's own, at every hook; what it does not know goes through hooks."""

import pytest
import torch

from mi_course.patching import engine as engines
from mi_course.patching.edits import HOOKS, Edit
from mi_course.patching.forward import Forward, Rerun, Rows
from mi_course.patching.hooked import Hooked
from mi_course.patching.runs import record
from tests.naive_patching import cache_of, model_of, prompts

SHAPES = [
    {"positions": "shortformer", "position_layers": 1, "smeared": True},
    {"positions": "learned", "norm": "layernorm", "d_mlp": 6, "act": "gelu", "bias": True},
    {"positions": "rotary", "norm": "rmsnorm", "d_mlp": 6, "smeared": True, "tied": True},
    {"positions": "sinusoidal", "n_heads": 1, "head_width": 3},
    {"positions": "none", "d_mlp": 6},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["positions"])
def test_the_trace_is_the_models_own_cache(shape):
    model = model_of(1, n_layers=3, **shape)
    tokens = prompts(model)[0]
    run = record(model, tokens)
    assert isinstance(run.engine, Forward)
    cache = cache_of(model, tokens)
    for (site, layer), value in run.acts.items():
        if site in HOOKS and f"blocks.{layer}.{HOOKS[site]}" in cache:
            torch.testing.assert_close(value, cache[f"blocks.{layer}.{HOOKS[site]}"], atol=1e-5, rtol=1e-5)
    hooked = engines.record(Hooked(model), tokens)
    assert {key for key in run.acts if key[0] in HOOKS} >= set(hooked)
    assert all(torch.allclose(hooked[key], run.acts[key], atol=1e-5) for key in hooked)
    logits = run.engine.readout(run.acts["resid_post", 2])
    with torch.no_grad():
        torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=1e-5)
    columns = torch.tensor([[3, 1], [0, 10], [4, 4]])
    few = run.engine.readout(run.acts["resid_post", 2][:, -1], columns)
    torch.testing.assert_close(few, logits[:, -1].gather(-1, columns))


def test_a_model_with_another_forward_is_left_to_hooks():
    model = model_of(1, n_layers=1, d_mlp=6)
    tokens = prompts(model)[0]
    assert isinstance(engines.engine(model, tokens)[0], Forward)
    model.blocks[0].mlp.W_gate = model.blocks[0].mlp.W_in
    assert isinstance(engines.engine(model, tokens)[0], Hooked)
    del model.blocks[0].mlp.W_gate
    model.blocks[0].mlp.act = torch.tanh  # the configuration says otherwise
    assert isinstance(engines.engine(model, tokens)[0], Hooked)


def test_only_rows_that_differ_are_computed():
    """Ten prompts share their first four tokens; position 5 is where the answer is read."""
    model = model_of(2, n_layers=2, d_mlp=6, norm="layernorm", positions="learned")
    clean, corrupted, _, _ = prompts(model, 2, 7)
    corrupted[:, :4] = clean[:, :4]
    host, source = record(model, corrupted), record(model, clean)
    at, widths = torch.tensor([5, 5]), []
    spy = host.engine.neurons
    host.engine.neurons = lambda i, mid: widths.append(len(mid)) or spy(i, mid)
    cell = torch.arange(7)
    edit = Edit("resid_pre", 0, cell, source.acts["resid_pre", 0], pos=cell)
    host.engine.logits(host, [edit], 7, at)
    # in block 0: two prompts patched at 4 (rows 4, 5) or at 5 (row 5); in block 1 only the answers' rows
    assert widths == [2 * (2 + 1), 2 * 2] or widths == [int(n) for n in (6, 4)]


def test_rows_number_themselves_and_fill_up_from_the_record():
    prompt = torch.tensor([0, 1, 0])
    old = Rows(torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 1]]).bool(), prompt)
    assert old.copy.tolist() == [0, 2] and old.pos.tolist() == [1, 2] and old.batch.tolist() == [0, 0]
    assert old.among(old.mask & False) is old
    new = old.among(torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 1]]).bool())
    host = torch.arange(6.0).view(2, 3, 1)
    assert new.fill(host, old, torch.tensor([[70.0], [80.0]])).flatten().tolist() == [70, 3, 80]
    assert new.padded(host, torch.tensor([[7.0], [8.0], [9.0]])).flatten().tolist() == [
        0,
        7,
        2,
        8,
        4,
        5,
        0,
        1,
        9,
    ]


def test_an_edit_of_some_cells_is_the_same_edit_of_fewer():
    values = torch.randn(2, 3, 4)
    edit = Edit(
        "q", 0, torch.tensor([0, 1, 2, 2]), values, torch.tensor([3, 2, 1, 0]), torch.tensor([0, 1, 2, 0])
    )
    part = edit.within(1, 3)
    assert (
        part.cell.tolist() == [0, 1, 1] and part.unit.tolist() == [2, 1, 0] and part.pos.tolist() == [1, 2, 0]
    )
    copy, batch, pos, (unit,), value = part.spread(2)  # position 2 lies behind the answers
    assert copy.tolist() == [0, 1, 2, 3] and batch.tolist() == [0, 1, 0, 1] and pos.tolist() == [1, 1, 0, 0]
    assert torch.equal(value, values[batch, pos, unit])


def test_no_edit_is_the_record_itself():
    model = model_of(1, n_layers=2)
    run = record(model, prompts(model)[0])
    at = torch.tensor([5, 2, 0])
    final = Rerun(run.engine, run.acts, [], 1, at, False).run()
    assert torch.equal(final[0], run.acts["resid_post", 1][torch.arange(3), at])
