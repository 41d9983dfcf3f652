"""A full-batch grokking step with the exact short cut against TransformerLens' native bridge on the same task."""

from __future__ import annotations

import torch

from benchmarks import ratio
from mi_course import grokking
from mi_course.pretrained import to_bridge

SETTINGS = (
    "p 113, 3,830 pairs, d 128, 4 heads, 512 neurons, float32, softmax in float64, fused AdamW, one thread"
)


def trainer(parameters, logits, task: grokking.Task):
    """One whole step: logits of the training pairs at "=", loss, gradients, fused AdamW."""
    optimizer = torch.optim.AdamW(list(parameters), lr=1e-5, weight_decay=1.0, fused=True)
    answers = task.answers[task.train]

    def step():
        loss = grokking.nll(logits(), answers).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def run() -> list[dict]:
    """A step against the bridge's, which computes all three positions."""
    torch.set_num_threads(1)
    task, model = grokking.Task(), grokking.network()
    weights, bridge = grokking.weights_of(model), to_bridge(model)
    pairs, tokens = task.pairs[task.train], task.tokens[task.train]
    ours = lambda: grokking.logits_of(weights, pairs)
    theirs = lambda: bridge(tokens)[:, -1, : task.p]
    with torch.no_grad():
        differ = float((ours() - theirs()).abs().max())
    with torch.enable_grad():
        timing = ratio(
            trainer(model.parameters(), ours, task),
            trainer(bridge.parameters(), theirs, task),
            rounds=7,
            calls=1,
        )
    return [{
        "name": "grokking: a training step", "peer": "TransformerLens bridge", "settings": SETTINGS,
        "ours": f"{1e3 * timing['ours']:.1f} ms", "theirs": f"{1e3 * timing['peer']:.1f} ms",
        "ratio": timing["ratio"], "range": timing["range"], "goal": 4.0, "agree": f"logits differ by {differ:.0e}",
    }]  # fmt: skip
