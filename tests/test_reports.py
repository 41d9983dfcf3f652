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
    assert "half_height_ratio" not in report


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
