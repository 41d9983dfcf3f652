"""Activation patching against TransformerLens' own loops on the same bridge, and what attribution patching costs.

`python -m benchmarks.patching` prints the table alone. Peak memory is that of a fresh process for each side, less what
it held before its first sweep.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from functools import partial

import torch
from transformer_lens import TransformerBridge, TransformerBridgeConfig
from transformer_lens import patching as loops

from benchmarks import HEAD, line, ratio
from mi_course.corpora.corpus import generator
from mi_course.patching import logit_diff
from mi_course.patching.experiment import Experiment

SMALL = "2 layers, 4 heads, d 64, V 500, 8 prompts × 15 tokens"
GPT2 = "GPT-2 small's shape: 12 layers, 12 heads, d 768, V 50257, random weights, 8 prompts × 15 tokens"
SWEEPS = {  # name: kind, positions, TransformerLens' loop, goal on the large and on the small model
    "resid_pre, every layer and position": ("resid_pre", "each", loops.get_act_patch_resid_pre, 5.0, 5.0),
    "every head, all positions": ("z", "all", loops.get_act_patch_attn_head_out_all_pos, 3.5, 5.0),
}  # fmt: skip
QUIET = {"disable": True}


def bridge(large: bool) -> TransformerBridge:
    """A native bridge with random weights, in GPT-2's parametrisation."""
    shape = {"d_model": 768, "n_layers": 12, "n_heads": 12, "d_vocab": 50257} if large else {
        "d_model": 64, "n_layers": 2, "n_heads": 4, "d_vocab": 500}  # fmt: skip
    cfg = TransformerBridgeConfig(
        **shape, d_head=shape["d_model"] // shape["n_heads"], d_mlp=4 * shape["d_model"], n_ctx=64, act_fn="gelu_new",
        normalization_type="LN", positional_embedding_type="standard", init_weights=False,
    )  # fmt: skip
    model, rng = TransformerBridge.boot_native(cfg).eval(), generator(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=rng))
    return model


def experiment(model: TransformerBridge) -> Experiment:
    """Eight pairs of prompts that differ at every position: no patch is idle."""
    rng, V = generator(1), model.cfg.d_vocab
    clean = torch.randint(V, (8, 15), generator=rng)
    right = torch.randint(V, (8,), generator=rng)
    return Experiment(
        model, clean, (clean + torch.randint(1, V, (8, 15), generator=rng)) % V, right, (right + 1) % V
    )


def their_loop(exp: Experiment, loop):
    """TransformerLens' loop with the usual metric, its progress bar switched off."""
    with torch.no_grad():
        cache = exp.model.run_with_cache(exp.clean.tokens)[1]
    metric = lambda logits: logit_diff(logits[:, -1], exp.right, exp.wrong).mean()  # noqa: E731

    def run():
        loops.tqdm, bar = partial(loops.tqdm, **QUIET), loops.tqdm
        try:
            with torch.no_grad():
                return loop(exp.model, exp.corrupted.tokens, cache, metric)
        finally:
            loops.tqdm = bar

    return run


def sweeps(large: bool, rounds: int) -> list[dict]:
    """Ours against TransformerLens' loops; its loops run once a round, so nothing is repeated to be faster."""
    exp, rows = experiment(bridge(large)), []
    for name, (kind, positions, loop, *goals) in SWEEPS.items():
        ours, theirs = partial(exp.sweep, kind, positions=positions), their_loop(exp, loop)
        differ = float((ours().scores - theirs()).abs().max())
        timing = ratio(ours, theirs, rounds=rounds, calls=1)
        peaks = [peak_mb(large, name, side) for side in ("ours", "theirs")]
        rows.append({
            "name": name, "peer": "TransformerLens 4.3 loop", "settings": GPT2 if large else SMALL,
            "ours": shown(timing["ours"], peaks[0]), "theirs": shown(timing["peer"], peaks[1]),
            "ratio": timing["ratio"], "range": timing["range"], "goal": goals[0 if large else 1],
            "agree": f"scores differ by {differ:.0e}{'' if differ <= 1e-5 else ': TOO MUCH'}",
        })  # fmt: skip
    return rows


def shown(seconds: float, peak: float) -> str:
    time = f"{seconds:.2f} s" if seconds > 1 else f"{1e3 * seconds:.1f} ms"
    return f"{time}, {peak:+.0f} MB"


def attribution(rounds: int) -> list[dict]:
    """Attribution of every head in forward passes of the bridge: of an experiment, and from nothing."""
    exp = experiment(bridge(True))
    given = (exp.model, exp.clean.tokens, exp.corrupted.tokens, exp.right, exp.wrong)
    exact, guess = (f("z", positions="all").effect.flatten() for f in (exp.sweep, exp.attribution))
    agree = f"correlation with patching {float(torch.corrcoef(torch.stack([exact, guess]))[0, 1]):.3f}"

    def forward():
        with torch.no_grad():
            return exp.model(exp.corrupted.tokens)

    rows = []
    for name, estimate in (
        ("attribution of every head: a run and its gradient", lambda: exp.attribution("z", positions="all")),
        ("the same from tokens: model checked, both runs recorded",
         lambda: Experiment(*given).attribution("z", positions="all")),
    ):  # fmt: skip
        timing = ratio(estimate, forward, rounds=rounds, calls=2)
        forwards = 1 / timing["ratio"]
        rows.append({
            "name": name, "peer": "a forward pass of the bridge", "settings": GPT2, "ratio": None,
            "ours": f"{timing['ours']:.2f} s", "theirs": f"{timing['peer']:.2f} s", "agree": agree,
            "goal": f"{forwards:.2f} forward passes (≤ 3 {'✔' if forwards <= 3 else '✘'})",
        })  # fmt: skip
    return rows


# -- memory --------------------------------------------------------------------------------------


def resident_mb() -> float:
    """What this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / 1e6


def peak_of(function) -> float:
    """The most this process held while the function ran, above what it held before, in MB."""
    before, most, stop = resident_mb(), [resident_mb()], threading.Event()

    def watch():
        while not stop.is_set():
            most.append(resident_mb())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    stop.set()
    watcher.join()
    return max(most) - before


def peak_mb(large: bool, name: str, side: str) -> float:
    """Peak memory of one sweep in a fresh process; NaN where the system does not say."""
    command = [sys.executable, "-m", "benchmarks.patching", "--peak", str(int(large)), name, side]
    ran = subprocess.run(command, capture_output=True, text=True)
    return float(ran.stdout.split()[-1]) if ran.returncode == 0 else float("nan")


def one_peak(large: str, name: str, side: str) -> None:
    """What `peak_mb` runs: one sweep, watched."""
    exp, (kind, positions, loop, *_) = experiment(bridge(large == "1")), SWEEPS[name]
    run = partial(exp.sweep, kind, positions=positions) if side == "ours" else their_loop(exp, loop)
    exp.model(exp.clean.tokens)
    print(peak_of(run))


def run(rounds: int = 3) -> list[dict]:
    return [*sweeps(True, rounds), *attribution(5 * rounds), *sweeps(False, 5 * rounds)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        one_peak(*sys.argv[2:])
    else:
        print("\n".join([*HEAD, *map(line, run(*map(int, sys.argv[1:])))]))
