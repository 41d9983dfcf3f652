"""A training step and a cached run of `TinyTransformer` against plain PyTorch and the TransformerLens bridge."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import ratio
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.pretrained import to_bridge

CONFIG = TinyConfig(n_layers=2, n_heads=8, d_model=128, d_vocab=2000, n_ctx=64, positions="learned")
SETTINGS = "2 layers, 8 heads, d 128, attention only, V 2000, float32"


class Plain(nn.Module):
    """The same model as one would write it without hooks: nn.Linear and an explicit softmax."""

    def __init__(self, model: TinyTransformer):
        super().__init__()
        cfg = model.cfg
        self.cfg = cfg
        self.embed, self.pos = nn.Embedding(cfg.d_vocab, cfg.d_model), nn.Embedding(cfg.n_ctx, cfg.d_model)
        self.layers = nn.ModuleList(
            nn.ModuleDict({k: nn.Linear(cfg.d_model, cfg.d_model, bias=False) for k in "qkvo"})
            for _ in range(cfg.n_layers)
        )
        self.unembed = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False)
        with torch.no_grad():
            self.embed.weight.copy_(model.W_E)
            self.pos.weight.copy_(model.W_pos)
            self.unembed.weight.copy_(model.W_U.T)
            for block, layer in zip(model.blocks, self.layers, strict=True):
                for name in "qkv":
                    W = getattr(block.attn, f"W_{name.upper()}")  # head d_model d_head
                    layer[name].weight.copy_(W.permute(0, 2, 1).flatten(0, 1))
                layer["o"].weight.copy_(block.attn.W_O.flatten(0, 1).T)
        self.register_buffer("mask", torch.ones(cfg.n_ctx, cfg.n_ctx).triu(1).bool())

    def forward(self, tokens):
        n = tokens.shape[1]
        x = self.embed(tokens) + self.pos(torch.arange(n))
        for layer in self.layers:
            q, k, v = (
                layer[c](x).view(len(x), n, self.cfg.n_heads, self.cfg.d_head).transpose(1, 2) for c in "qkv"
            )
            scores = q @ k.transpose(-1, -2) / self.cfg.d_head**0.5
            pattern = scores.masked_fill(self.mask[:n, :n], -torch.inf).softmax(-1)
            x = x + layer["o"]((pattern @ v).transpose(1, 2).flatten(2))
        return self.unembed(x)


def trainer(model: nn.Module, tokens: torch.Tensor):
    """One whole step: forward, backward, fused AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step():
        logits = model(tokens)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def difference(a, b, tokens) -> float:
    with torch.no_grad():
        return float((a(tokens) - b(tokens)).abs().max())


def run() -> list[dict]:
    """Training step and cached run, against plain PyTorch and against the bridge."""
    model = TinyTransformer(CONFIG)
    plain, bridge = Plain(model), to_bridge(model)
    tokens = torch.randint(CONFIG.d_vocab, (32, CONFIG.n_ctx), generator=torch.Generator().manual_seed(0))
    agree = {other: difference(model, other, tokens) for other in (plain, bridge)}  # before any step is taken
    rows = []
    for peer, other, goal in (("plain nn.Linear model", plain, 1.0), ("TransformerLens bridge", bridge, 1.1)):
        timing = ratio(trainer(model, tokens), trainer(other, tokens))
        rows.append(row("training step, 32 × 64 tokens", peer, goal, agree[other], timing))
    for batch, goal in ((1, 2.0), (32, None)):
        x, calls = tokens[:batch], 40 // batch + 1
        with torch.no_grad():
            cached = [lambda m=m, x=x: m.run_with_cache(x) for m in (model, bridge)]
            timing = ratio(*cached, calls=calls)
        name = f"run_with_cache, {batch} × 64 tokens"
        rows.append(row(name, "TransformerLens bridge", goal, agree[bridge], timing))
    return rows


def row(name: str, peer: str, goal: float | None, differ: float, timing: dict) -> dict:
    return {
        "name": name,
        "peer": peer,
        "settings": SETTINGS,
        "ours": f"{1e3 * timing['ours']:.2f} ms",
        "theirs": f"{1e3 * timing['peer']:.2f} ms",
        "ratio": timing["ratio"],
        "range": timing["range"],
        "goal": goal,
        "agree": f"logits differ by {differ:.0e}",
    }
