"""Greedy text in batches against TransformerLens' `generate`, on the same bridge, with the same tokens."""

from __future__ import annotations

import torch

from benchmarks import ratio
from mi_course import pretrained, steering
from mi_course.steering import real as smol

NAME, LENGTH = "smollm2-135m-instruct", 8


def row(what: str, model, rows: list, theirs, goal: float | None) -> dict:
    ours = lambda: steering.generate(model, rows, LENGTH)
    same = bool((ours() == theirs()).all())
    timing = ratio(ours, theirs, rounds=3, calls=1)
    return {
        "name": what, "peer": "TransformerLens", "settings": f"{len(rows)} prompts, {LENGTH} greedy tokens, float32, one thread",
        "ours": f"{timing['ours']:.1f} s", "theirs": f"{timing['peer']:.1f} s",
        "ratio": timing["ratio"], "range": timing["range"], "goal": goal,
        "agree": "the same tokens" if same else "other tokens",
    }  # fmt: skip


def run() -> list[dict]:
    """A firm system prompt before every request; theirs one prompt at a time, and in one batch padded on the left."""
    if not pretrained.here(NAME):
        print(f"{NAME} is not here: python -m mi_course fetch {NAME}.")
        return []
    torch.set_num_threads(1)
    model, told = pretrained.load(NAME), smol.prompts()
    rows = smol.asked(model, [p["answerable"] for p in told["pairs"]["validation"]], told["firm"])
    settings = dict(max_new_tokens=LENGTH, do_sample=False, verbose=False, stop_at_eos=False)
    written = [model.tokenizer.decode(one) for one in rows]

    def one_by_one():
        return torch.cat([model.generate(one[None], **settings)[:, len(one) :] for one in rows])

    def in_a_batch():
        out = model.generate(
            written, prepend_bos=False, padding_side="left", return_type="tokens", **settings
        )
        return out[:, -LENGTH:]

    return [
        row("greedy text, prompt by prompt", model, rows, one_by_one, 3.0),
        row("greedy text, one padded batch", model, rows, in_a_batch, None),
    ]
