"""Collecting a middle stream of a real model: tokens a second beside transformers' own blocks up to there.

`python -m benchmarks activations` measures; the peer is what a user would write: the model cut behind its fifteenth block.
"""

from __future__ import annotations

import torch

from benchmarks import ratio
from benchmarks.real_models import NAME, theirs
from mi_course import pretrained
from mi_course.activations import activations
from mi_course.corpora import generator

LAYER, SHAPE, DTYPES = 15, (8, 128), (torch.float32, torch.bfloat16)
HOOK = f"blocks.{LAYER}.hook_resid_pre"


def run(rounds: int = 7) -> list[dict]:
    """Windows of 128 tokens to the stream before block 15: both in float32, both in bfloat16, and ours in bfloat16 alone."""
    tokens, rows = torch.randint(17, 49152, SHAPE, generator=generator(0)), []
    for dtype, there in (*zip(DTYPES, DTYPES, strict=True), DTYPES[::-1]):
        bridge, peer = pretrained.load(NAME, dtype=dtype), theirs("sdpa").to(there).model
        peer.layers = peer.layers[:LAYER]
        peer.norm = torch.nn.Identity()  # it stands behind the last block
        ours = lambda: activations(bridge, HOOK, tokens, dtype)  # noqa: B023
        other = lambda: peer(tokens, use_cache=False).last_hidden_state  # noqa: B023
        with torch.no_grad():
            expected = other().flatten(0, 1).float()
            differ = float((ours().float() - expected).norm() / expected.norm())
            timing = ratio(ours, other, rounds=rounds, calls=1)
        speed = tokens.numel() / timing["ours"]
        rows.append({
            "name": f"the stream before block {LAYER}, {str(dtype).removeprefix('torch.')}", "peer": f"transformers, cut there, {str(there).removeprefix('torch.')}",
            "settings": f"134.5 M weights, {SHAPE[0]} windows × {SHAPE[1]} tokens; a million tokens take {1e6 / speed / 60:.0f} min "
            "(goal 15)",
            "ours": f"{speed:,.0f} tokens/s", "theirs": f"{tokens.numel() / timing['peer']:,.0f} tokens/s",
            "ratio": timing["ratio"], "range": timing["range"], "goal": 1.0,
            "agree": f"relative difference {differ:.0e}",
        })  # fmt: skip
    return rows
