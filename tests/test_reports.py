"""The seeds' report: known answers on a made-up log, one pass over a hand-made model, and what is missing is left out."""

import torch
from torch.testing import assert_close

from mi_course import files
from mi_course.induction import reports
from tests.test_induction_trained import a_model, some_tokens


def test_the_phase_report_finds_a_planted_change():
    """A made-up log: score and heads rise between steps 200 and 400, the loss drops there."""
    step = torch.arange(0, 1010, 10)
    rise = ((step - 200) / 200).clamp(0, 1)
    log = {"step": step, "icl": -rise, "prefix": rise[:, None, None], "held_out": 3 - rise - 0.0002 * step}
    report = reports.phase_report({"induction-2l": log})
    assert 190 <= report["window_from"] <= 240 and 360 <= report["window_to"] <= 410
    assert report["window_overlap"] == 1 and report["score_in_window"] > 0.9
    assert report["before_share"] < 0.1 and report["late_deviation"] < 1e-5
    assert 150 <= report["loss_turns_down_at"] <= 250
    assert 0.15 <= report["window_width"] <= 0.2
    assert "half_height_ratio" not in report


def test_a_curve_that_only_settles_is_its_own_null():
    """An exponential score, heads and loss: the exponential beside it says the same, and so does one layer."""
    step = torch.arange(0, 1010, 10)
    settle = 1 - torch.exp(-step / 100)
    log = {"step": step, "icl": -settle, "prefix": settle[:, None, None], "held_out": 3 - settle}
    log["token_losses"] = torch.stack([3 - settle, 2 - settle**2], 1)
    report = reports.phase_report({"induction-2l": log, "induction-1l": log})
    for name in ("score_in_window", "before_share"):
        null = name.replace("score", "exponential").replace("before_share", "exponential_before")
        assert abs(report[name] - report[null]) < 0.1, name  # the curve is smoothed, its fit is not
        assert report[name] == report[f"one_layer_{name}"]
    planted = ((step - 400) / 50).clamp(0, 1)  # a change that no exponential makes
    found = reports.timing(log | {"icl": -planted, "prefix": planted[:, None, None]})
    assert found["score_in_window"] == 1 and found["exponential_in_window"] < 0.6
    assert found["before_share"] == 0 and found["exponential_before"] > 0.3
    assert torch.equal(reports.best_exponential(step, 0 * settle), 0 * settle)


def test_a_curve_flat_from_the_start_has_a_window_at_once():
    step = torch.arange(0, 1010, 10)
    flat = {
        "step": step,
        "icl": -torch.ones(101),
        "prefix": torch.ones(101, 1, 1),
        "held_out": 3 - step / 1e3,
    }
    found = reports.timing(flat)
    assert (found["window_from"], found["window_to"], found["window_width"]) == (0, 0, 0)
    assert found["before_share"] == 1


def test_only_the_direct_write_is_taken_off():
    model, tokens = a_model(), some_tokens()
    name, hook = reports.unwritten(model, tokens, (0, 1))
    _, cache = model.run_with_cache(tokens)
    write = cache["z", 0][:, :, 1] @ model.W_O[0, 1]
    assert_close(model.run_with_hooks(tokens, fwd_hooks=[(name, hook)]), model(tokens) - write @ model.W_U)


def test_one_shipped_seed_is_reported_with_both_label_rules():
    report = reports.induction_report(0, windows=16, every_head=False)
    assert report["top_prefix_score"] > 0.5 > 0.1 > report["top_unlabelled_score"]
    assert report["n_first_rule"] <= report["n_induction_heads"]
    assert report["composition_top"] == "K" and report["top_is_previous_to_induction"]
    assert report["induction_left"] < 0.2 and report["direct_effect_share"] < 0.05
    assert "largest_other_share" not in report


def test_a_seed_without_its_controls_says_so(tmp_path):
    """Only the two-layer model and its log are there: what needs a control is None or left out."""
    for ending in ("", "-log"):
        source = files.data_dir() / "checkpoints" / f"induction-2l{ending}"
        for suffix in (".json", ".safetensors"):
            (tmp_path / f"induction-2l{ending}{suffix}").write_bytes(source.with_suffix(suffix).read_bytes())
    report = reports.induction_report(0, tmp_path, windows=8, every_head=False)
    assert report["one_layer_share"] is None and "half_height_ratio" not in report
