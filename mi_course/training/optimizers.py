"""Muon, AdamW, and which of the two moves which parameter."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_course.training.config import TrainConfig


def orthogonalised(G: Float[Tensor, "*n rows cols"], steps: int = 5) -> Float[Tensor, "*n rows cols"]:
    """Push all singular values of G near 1 with five Newton–Schulz steps (Jordan et al. 2024, Muon).

    The quintic 3.4445 x − 4.7750 x³ + 2.0315 x⁵ keeps (0, 1] inside about 0.7 … 1.2; singular vectors stay.
    """
    X = G.mT if G.shape[-2] > G.shape[-1] else G
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        A = X @ X.mT
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X.mT if G.shape[-2] > G.shape[-1] else X


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: every step moves all directions of a matrix by the same amount.

    Attention weights [head d_model d_head] count as one d_model × (head d_head) matrix. Matrices of one shape are
    orthogonalised together. The step is scaled by √(out/in), so that it changes what is written by as much whatever
    the shape. `params` are matrices, `lr` the size of a step, `momentum` how much of the last ones stays.
    """

    def __init__(self, params, lr: float = 0.02, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all parameters that have a gradient; `closure` is not used."""
        for group in self.param_groups:
            by_shape: dict[tuple, list] = {}  # in, out
            for p in group["params"]:
                if p.grad is not None:
                    moment = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    moment.lerp_(p.grad, 1 - group["momentum"])
                    update = as_matrix(torch.lerp(p.grad, moment, group["momentum"]))  # Nesterov
                    by_shape.setdefault(tuple(update.shape), []).append((p, update))
            for (rows, cols), pairs in by_shape.items():
                updates = orthogonalised(torch.stack([update for _, update in pairs]))
                scale = group["lr"] * (cols / rows) ** 0.5
                for (p, _), update in zip(pairs, updates, strict=True):
                    p.sub_(from_matrix(update, p.shape), alpha=scale)


def as_matrix(W: Tensor) -> Tensor:
    """Heads side by side: [head d_model d_head] → [d_model, head d_head], and W_O [head d_head d_model] → [.., d_model].

    `W` is one weight, which stays as it is with two axes.
    """
    if W.ndim == 2:
        return W
    return W.transpose(0, 1).flatten(1) if W.shape[1] >= W.shape[2] else W.flatten(0, 1)


def from_matrix(M: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `as_matrix`: the matrix `M` in the weight's own `shape`."""
    if len(shape) == 2:
        return M
    n, rows, cols = shape
    return M.view(rows, n, cols).transpose(0, 1) if rows >= cols else M.view(shape)


def optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW over everything, or Muon over the matrices inside `blocks` and AdamW over the rest.

    `model` has the parameters; `config` says which optimiser, and its rates.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inner = [p for name, p in named if config.optimizer == "muon" and "blocks." in name and p.ndim >= 2]
    rest = [p for name, p in named if all(p is not q for q in inner)]
    adamw = torch.optim.AdamW(
        by_rate(named, rest, config.lr, config),
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    return [adamw] + ([Muon(by_rate(named, inner, config.muon_lr, config))] if inner else [])


def by_rate(named, chosen: list, lr: float, config: TrainConfig) -> list[dict]:
    """Parameter groups: one for every factor in `config.rates` that some of the `chosen` parameters have.

    `named` are (name, parameter) pairs; a group's rate is `lr` times its factor.
    """
    groups: dict[float, list] = {}
    for name, p in named:
        if any(p is q for q in chosen):
            factor = next((factor for ending, factor in config.rates if name.endswith(ending)), 1.0)
            groups.setdefault(factor, []).append(p)
    return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]
