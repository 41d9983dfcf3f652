"""What the seeds of the shipped models measured: one row a seed, for notebook 03 and for the cards.

Every number is derived in notebook 03 first; here it is only repeated for each seed and its controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course import circuits
from mi_course.corpora.library import python_text
from mi_course.corpora.planted import repeated_tokens
from mi_course.files import checkpoint_names, with_suffix
from mi_course.induction.composition import composition_scores, random_composition_scores
from mi_course.induction.scores import head_scores, icl_score, icl_scores, icl_windows
from mi_course.induction.trained import (
    Heads,
    bend,
    labels,
    logits_by_order,
    losses_without,
    previous_token_term,
    rise_window,
    silence,
    smoothed,
    training_log,
    turning_angles,
    window_overlap,
)
from mi_course.models import TinyTransformer, load, next_token_loss

Report = dict[str, float | int | bool | str | None]
FAMILY = ("induction-2l", "induction-1l", "induction-1l-smeared", "induction-2l-smeared")


def induction_report(
    seed: int = 0, folder: str | Path | None = None, *, windows: int = 400, every_head: bool = True
) -> Report:
    """Every measure of a trained model in notebook 03 for one seed of the shipped models, controls of the same seed.

    `folder` is where the checkpoints are if not in `data/checkpoints/`. With fewer `windows` it is faster and the
    in-context learning scores are noisier; without `every_head` the knock-outs of single heads are left out. What
    needs a control that is not there is left out or None.
    """
    suffix = f"-seed{seed}" if seed else ""
    place = {kind: f"{Path(folder) / kind if folder else kind}{suffix}" for kind in FAMILY}
    there = lambda name: with_suffix(name, ".json").is_file() if folder else name in checkpoint_names()
    place = {kind: name for kind, name in place.items() if there(name)}
    logs = {kind: training_log(name) for kind, name in place.items()}
    models = {kind: load(name).requires_grad_(False) for kind, name in place.items()}
    pairs = icl_windows(python_text(512).held_out, windows)
    icl = {kind: icl_score(models[kind], pairs) for kind in FAMILY[:3] if kind in models}
    report = {"final_score": icl["induction-2l"], **phase_report(logs)}
    for kind, name in (
        ("induction-1l", "one_layer_share"),
        ("induction-1l-smeared", "smeared_one_layer_share"),
    ):
        report[name] = icl[kind] / icl["induction-2l"] if kind in icl else None
    if "induction-1l" in logs:
        report["one_layer_top_prefix"] = float(logs["induction-1l"]["prefix"].max())
    if "induction-1l-smeared" in models:
        report["working_head_share"] = working_share(models["induction-1l-smeared"])
    return report | head_report(models["induction-2l"], pairs, icl["induction-2l"], every_head)


def phase_report(logs: dict[str, dict[str, Tensor]]) -> Report:
    """IH-02, IH-03, IH-05 and IH-07 from the logs of one seed's models."""
    log, step = logs["induction-2l"], logs["induction-2l"]["step"]
    icl, report = smoothed(log["icl"]), timing(log)
    if "induction-2l-smeared" in logs:
        faster = smoothed(logs["induction-2l-smeared"]["icl"])
        half = [int(step[(curve <= icl[-1] / 2).nonzero()[0, 0]]) for curve in (icl, faster)]
        report["half_height_ratio"] = half[1] / half[0]
    if "induction-1l" in logs:
        report |= {f"one_layer_{name}": value for name, value in timing(logs["induction-1l"]).items()}
        angles = trajectory_angles(log, logs["induction-1l"])
        report["largest_turn"], report["largest_turn_at"] = (
            float(angles[0].max()),
            int(step[angles[0].argmax()]),
        )
        report["one_layer_turn_share"] = float(angles[1].max() / angles[0].max())
    return report


def timing(log: dict[str, Tensor]) -> Report:
    """When a run's score, heads and loss change: IH-02 and IH-03, with the exponential that fits the score best as null.

    Of one run alone, whatever its layers: for a model of one layer the same numbers say what a bound on them is worth.
    """
    step, icl = log["step"], smoothed(log["icl"])
    window, of_score = rise_window(step, smoothed(log["prefix"].flatten(1).amax(1))), rise_window(step, icl)
    opened, fifth = int((step < window[0]).sum()), max(1, len(step) // 5)
    before, smooth = slice(max(0, opened - 5), max(1, opened)), best_exponential(step, icl)
    in_a_fifth = lambda values: float(((values[fifth:] - values[:-fifth]) / values[-1]).max())
    return {
        "window_from": window[0],
        "window_to": window[1],
        "score_from": of_score[0],
        "score_to": of_score[1],
        "window_overlap": window_overlap(window, of_score),
        "window_width": max(window[1] - window[0], of_score[1] - of_score[0]) / int(step[-1]),
        "before_share": float(log["icl"][before].mean() / icl[-1]),
        "exponential_before": float(smooth[before].mean() / smooth[-1]),
        "late_deviation": float((icl[2 * len(icl) // 3 :] / icl[-1] - 1).abs().max()),
        "score_in_window": in_a_fifth(icl),
        "exponential_in_window": in_a_fifth(smooth),
        "loss_turns_down_at": int(step[bend(log["held_out"]).nan_to_num(torch.inf).argmin()]),
    }


def best_exponential(step: Int[Tensor, "eval"], curve: Float[Tensor, "eval"]) -> Float[Tensor, "eval"]:
    """a (1 − exp(−step / τ)) with the τ and a of least squares: a curve that settles and makes no change anywhere."""
    shapes = 1 - torch.exp(-step[:, None] / torch.logspace(1.5, 4.5, 300))
    height = (shapes * curve[:, None]).sum(0) / shapes.square().sum(0)
    best = int((height * shapes - curve[:, None]).square().sum(0).argmin())
    return height[best] * shapes[:, best]


def trajectory_angles(
    log: dict[str, Tensor], control: dict[str, Tensor], warmup: int = 50
) -> Float[Tensor, "2 eval"]:
    """Turning angles of two runs' token losses in the plane of their common principal components; 0 where undefined."""
    later = log["step"] > warmup
    clouds = [smoothed(run["token_losses"][later]) for run in (log, control)]
    everything = torch.cat(clouds)
    plane = torch.linalg.svd(everything - everything.mean(0), full_matrices=False)[2][:2].T
    paths = [(cloud - everything.mean(0)) @ plane for cloud in clouds]
    reach = float(torch.cdist(paths[0], paths[0]).max()) / 10
    angles = torch.zeros(2, len(later))
    angles[:, later] = torch.stack([turning_angles(path, reach).nan_to_num(0) for path in paths])
    return angles


def working_share(model: TinyTransformer) -> float:
    """σ(α), the present key's share, of the smeared head with the highest prefix-matching score in the first layer."""
    return float(
        model.blocks[0].attn.smear.sigmoid()[head_scores(model, copies=3, batch=64)["prefix"][0].argmax()]
    )


def head_report(
    model: TinyTransformer, pairs: tuple[Tensor, Tensor], icl: float, every_head: bool = True
) -> Report:
    """MF-10, MF-12, MF-13, MF-14, IH-06 and CE-07 for one two-layer model."""
    scores = head_scores(model, copies=3, batch=64)
    heads = [(layer, head) for layer in range(2) for head in range(model.cfg.n_heads)]
    induction, previous_heads = labels(model, scores)
    previous = (0, int(scores["previous"][0].argmax()))
    previous_heads = sorted(previous_heads, key=lambda head: -scores["previous"][head])
    qk = {h: circuits.eigenvalue_score(previous_token_term(model, previous, h)) for h in heads if h[0]}
    matching = [h for h in qk if scores["prefix"][h] > 0.3]  # the rule written first, and MF-13's labels
    ov = [circuits.eigenvalue_score(circuits.ov_core(model, *h)) for h in matching]
    composed = composition_scores(model)
    top = max(composed, key=lambda letter: float(composed[letter].max()))
    a, b = divmod(int(composed[top].argmax()), model.cfg.n_heads)
    order = [float(next_token_loss(x, pairs[0][:64])) for x in logits_by_order(model, pairs[0][:64])]
    rest = [qk[h] for h in qk if h not in matching]
    return {
        "n_induction_heads": len(induction), "n_first_rule": len(matching), "n_previous_heads": len(previous_heads),
        "top_prefix_score": float(scores["prefix"][1].max()),
        "top_unlabelled_score": max(float(scores["prefix"][h]) for h in heads if h not in induction),
        "top_unlabelled_first_rule": max(float(scores["prefix"][h]) for h in heads if h not in matching),
        "no_repeat_score": float(scores["control"].max()),
        "previous_score": float(scores["previous"][previous]),
        "lowest_induction_qk": min((qk[h] for h in matching), default=math.nan),
        "lowest_induction_ov": min(ov, default=math.nan),
        "mean_other_qk": sum(rest) / max(1, len(rest)),
        "composition_top": top, "top_is_previous_to_induction": top == "K" and (0, a) in previous_heads and (1, b) in induction,
        "top_score_sds": float(composed[top].max() / random_composition_scores(model.cfg).std()),
        "first_to_second": (order[0] - order[1]) / abs(order[1] - order[2]),
        **knock_out_report(model, pairs, icl, induction, previous_heads or [previous], every_head, matching),
    }  # fmt: skip


def knock_out_report(
    model, pairs, icl: float, induction: Heads, previous_heads: Heads, every_head: bool, matching: Heads
) -> Report:
    """IH-06 and CE-07: shares of the score, and of the gain on second copies of random tokens, that go or stay."""

    def gone(heads, keep=True):
        keep = keep and any(layer == 0 for layer, _ in heads)  # nothing reads the last layer
        cut = [losses_without(model, rows, heads, keep_patterns=keep) for rows in pairs]
        return 1 - float(icl_scores(*cut).mean()) / icl

    tokens, previous = repeated_tokens(model.cfg.d_vocab, 64, 25, 3), previous_heads[0]
    intact, silent = copies_loss(model, tokens), copies_loss(model, tokens, silence([previous]))
    unsaid = copies_loss(model, tokens, [unwritten(model, tokens, previous)])
    report = {
        "induction_share": gone(induction),
        "induction_share_first_rule": gone(matching),
        "induction_left": (silent[0] - silent[1]) / (intact[0] - intact[1]),
        "direct_effect_share": (unsaid[1] - intact[1]) / (silent[1] - intact[1]),
    }
    if every_head:
        heads = [(layer, head) for layer in range(2) for head in range(model.cfg.n_heads)]
        shares = {head: gone([head]) for head in heads if head not in previous_heads}
        report["largest_other_share"] = max(shares[h] for h in shares if h not in induction)
        report["largest_other_first_rule"] = max(shares[h] for h in shares if h not in matching)
        report["others_together"] = gone([head for head in shares if head not in matching])
        report["previous_head_difference"] = gone([previous], keep=False) - gone([previous])
    return report


@torch.no_grad()
def copies_loss(
    model: TinyTransformer, tokens: Int[Tensor, "batch pos"], hooks=(), period: int = 25
) -> tuple[float, float]:
    """Mean loss inside the first and inside the second copy of repeated tokens."""
    rows = model.run_with_hooks(tokens, return_type="loss", loss_per_token=True, fwd_hooks=list(hooks))
    return float(rows[:, : period - 1].mean()), float(rows[:, period : 2 * period - 1].mean())


@torch.no_grad()
def unwritten(
    model: TinyTransformer, tokens: Int[Tensor, "batch pos"], head: tuple[int, int]
) -> tuple[str, Callable]:
    """A hook that takes a head's own write off the final stream and leaves everything that read it as it was."""
    layer, index = model.head(*head)
    _, cache = model.run_with_cache(tokens, return_type=None)
    direct = cache["z", layer][:, :, index] @ model.W_O[layer, index]
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", lambda resid, hook: resid - direct
