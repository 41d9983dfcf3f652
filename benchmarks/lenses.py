"""The Jacobian lens of a real model against TransformerLens' own fit: the same prompts, skips and layers."""

from __future__ import annotations

import sys

import torch

from benchmarks import HEAD, line, ratio
from mi_course import lenses, pretrained

NAME = "smollm2-135m-instruct"
LAYERS, TOKENS, SKIP = [28], 48, 16


def run(rounds: int = 3) -> list[dict]:
    """Exact, and with 16-bit products backwards where the processor has them; one prompt, the last two blocks.

    Args:
        rounds: of both sides in turn, after one that warms up.
    """
    torch.set_num_threads(1)
    pretrained.fetch()
    model, rows = pretrained.load(NAME), []
    prompt = lenses.windows(model.tokenizer, 1, TOKENS)
    text = [model.tokenizer.decode(prompt[0])]
    prompt = model.to_tokens(text[0])[:, :128]  # as their fit reads it
    theirs = lambda: pretrained.peer_jacobians(model, text, LAYERS, skip=SKIP)  # noqa: E731
    expected = theirs()
    for coarse in (False, True) if pretrained.quick_dtype() == torch.bfloat16 else (False,):
        ours = lambda coarse=coarse: lenses.jacobian_lens(model, prompt, LAYERS, skip=SKIP, coarse=coarse)  # noqa: E731
        found = ours()
        apart = max(float((found.weights[k].T - J).norm() / J.norm()) for k, J in expected.items())
        timing = ratio(ours, theirs, rounds=rounds, calls=1)
        rows.append({
            "name": f"Jacobian lens, {'16-bit products backwards' if coarse else 'float32'}",
            "peer": "TransformerLens JacobianLens.fit", "settings": f"SmolLM2, layers {LAYERS}, {prompt.shape[1]} tokens, one thread",
            "ours": f"{timing['ours']:.1f} s", "theirs": f"{timing['peer']:.1f} s", "ratio": timing["ratio"],
            "range": timing["range"], "goal": 2.0 if coarse else None,
            "agree": f"J differs by {apart:.1e} of its norm{'' if apart <= 1e-2 else ': TOO MUCH'}",
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    print("\n".join([*HEAD, *map(line, run(*map(int, sys.argv[1:])))]))
