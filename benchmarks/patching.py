"""Activation patching against TransformerLens' own loops on the same bridge, and what attribution patching costs.

`python -m benchmarks.patching` prints the table alone. Peak memory is that of a fresh process for each side, less what
it held before its first sweep.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas
import torch
from transformer_lens import TransformerBridge, TransformerBridgeConfig
from transformer_lens import patching as loops
from transformer_lens.model_bridge.sources import build_bridge_from_module

from benchmarks import HEAD, line, ratio
from mi_course import pretrained
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.patching import Experiment, logit_diff

PROMPTS = "8 prompts × 15 tokens"
QUIET = {"disable": True}
SWEEPS = {  # name: kind, positions, TransformerLens' loop
    "resid_pre, every layer and position": ("resid_pre", "each", loops.get_act_patch_resid_pre),
    "every head, all positions": ("z", "all", loops.get_act_patch_attn_head_out_all_pos),
}  # fmt: skip


def native(d_model: int, n_layers: int, n_heads: int, d_vocab: int) -> TransformerBridge:
    """A native bridge with random weights, in GPT-2's parametrisation."""
    cfg = TransformerBridgeConfig(
        d_model=d_model, n_layers=n_layers, n_heads=n_heads, d_vocab=d_vocab, d_head=d_model // n_heads, d_mlp=4 * d_model,
        n_ctx=64, act_fn="gelu_new", normalization_type="LN", positional_embedding_type="standard", init_weights=False,
    )  # fmt: skip
    model, rng = TransformerBridge.boot_native(cfg).eval(), generator(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=rng))
    return model


def smollm2() -> TransformerBridge:
    """SmolLM2-135M-Instruct where it has been fetched, else its shape with random weights."""
    try:
        return pretrained.load("smollm2-135m-instruct").to(torch.float32, print_details=False)
    except CourseError:
        import transformers

        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True, attn_implementation="eager",
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config).eval()
        return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config)


@dataclass(frozen=True)
class Case:
    """A model, the layers that both sides patch, and the goals of the two sweeps."""

    what: str
    boot: Callable[[], TransformerBridge]
    layers: Sequence[int]
    goals: tuple[float, float]


CASES = {
    "gpt2": Case(f"GPT-2 small's shape: 12 layers, 12 heads, d 768, V 50257, random weights, {PROMPTS}",
                 partial(native, 768, 12, 12, 50257), range(12), (5.0, 3.5)),
    "smollm2": Case(f"SmolLM2-135M (or its shape): 30 layers, 9 heads, 3 of keys, d 576, V 49152, every sixth layer, {PROMPTS}",
                    smollm2, range(0, 30, 6), (5.0, 3.5)),
    "small": Case(f"2 layers, 4 heads, d 64, V 500, {PROMPTS}", partial(native, 64, 2, 4, 500), range(2), (5.0, 5.0)),
}  # fmt: skip


def experiment(model: TransformerBridge) -> Experiment:
    """Eight pairs of prompts that differ at every position: no patch is idle."""
    rng, V = generator(1), model.cfg.d_vocab
    clean = torch.randint(V, (8, 15), generator=rng)
    right = torch.randint(V, (8,), generator=rng)
    return Experiment(
        model, clean, (clean + torch.randint(1, V, (8, 15), generator=rng)) % V, right, (right + 1) % V
    )


def their_loop(exp: Experiment, loop, axes: dict):
    """TransformerLens' loop over the same cells with the usual metric, its progress bar switched off."""
    with torch.no_grad():
        cache = exp.model.run_with_cache(exp.clean.tokens)[1]
    metric = lambda logits: logit_diff(logits[:, -1], exp.right, exp.wrong).mean()  # noqa: E731
    cells = pandas.DataFrame(itertools.product(*axes.values()), columns=list(axes))

    def run():
        loops.tqdm, bar = partial(loops.tqdm, **QUIET), loops.tqdm
        try:
            with torch.no_grad():
                return loop(
                    exp.model, exp.corrupted.tokens, cache, metric, index_axis_names=None, index_df=cells
                )
        finally:
            loops.tqdm = bar

    return run


def both_sides(case: Case, exp: Experiment, name: str) -> tuple[Callable, Callable]:
    """The same sweep by us and by TransformerLens."""
    kind, positions, loop = SWEEPS[name]
    axes, _ = exp.parts.grid(kind, positions, case.layers, None, None)
    return partial(exp.sweep, kind, positions=positions, layers=case.layers), their_loop(exp, loop, axes)


def sweeps(key: str, rounds: int) -> list[dict]:
    """Ours against TransformerLens' loops; its loops run once a round, so nothing is repeated to be faster."""
    case, rows = CASES[key], []
    exp = experiment(case.boot())
    for name, goal in zip(SWEEPS, case.goals):
        ours, theirs = both_sides(case, exp, name)
        differ = float((ours().scores.flatten() - theirs()).abs().max())
        timing = ratio(ours, theirs, rounds=rounds, calls=1)
        peaks = [peak_mb(key, name, side) for side in ("ours", "theirs")]
        rows.append({
            "name": name, "peer": "TransformerLens 4.3 loop", "settings": f"{case.what}, {threads()}",
            "ours": shown(timing["ours"], peaks[0]), "theirs": shown(timing["peer"], peaks[1]),
            "ratio": timing["ratio"], "range": timing["range"], "goal": goal,
            "agree": f"scores differ by {differ:.0e}{'' if differ <= 1e-5 else ': TOO MUCH'}",
        })  # fmt: skip
    return rows


def threads() -> str:
    return f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def shown(seconds: float, peak: float) -> str:
    time = f"{seconds:.2f} s" if seconds > 1 else f"{1e3 * seconds:.1f} ms"
    return f"{time}, {peak:+.0f} MB"


def attribution(key: str, rounds: int) -> list[dict]:
    """Attribution of every head in forward passes of the bridge: of an experiment, and from nothing."""
    case = CASES[key]
    exp = experiment(case.boot())
    given = (exp.model, exp.clean.tokens, exp.corrupted.tokens, exp.right, exp.wrong)
    exact, guess = (
        f("z", positions="all", layers=case.layers).effect.flatten() for f in (exp.sweep, exp.attribution)
    )
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
            "name": name, "peer": "a forward pass of the bridge", "settings": f"{case.what}, {threads()}", "ratio": None,
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


def peak_mb(key: str, name: str, side: str) -> float:
    """Peak memory of one sweep in a fresh process; NaN where the system does not say."""
    command = [sys.executable, "-m", "benchmarks.patching", "--peak", key, name, side]
    ran = subprocess.run(command, capture_output=True, text=True)
    return float(ran.stdout.split()[-1]) if ran.returncode == 0 else float("nan")


def one_peak(key: str, name: str, side: str) -> None:
    """What `peak_mb` runs: one sweep, watched."""
    exp = experiment(CASES[key].boot())
    ours, theirs = both_sides(CASES[key], exp, name)
    exp.model(exp.clean.tokens), exp.corrupted_score  # noqa: B018 — recorded before, as in the timing
    print(peak_of(ours if side == "ours" else theirs))


def run(rounds: int = 3) -> list[dict]:
    return [
        *sweeps("gpt2", rounds), *attribution("gpt2", 5 * rounds), *sweeps("smollm2", rounds),
        *attribution("smollm2", 3 * rounds), *sweeps("small", 5 * rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        one_peak(*sys.argv[2:])
    else:
        print("\n".join([*HEAD, *map(line, run(*map(int, sys.argv[1:])))]))
