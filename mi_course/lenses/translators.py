"""Translators: one affine map a layer from its stream to the last one, in closed form or trained (the tuned lens).

`ridge_translators` makes the last *stream* as good as least squares can; `train_translators` makes the final
*distribution* right (Belrose et al. 2023, Eliciting Latent Predictions). Both are fitted to what the model will say in the
end, so what they read may be their own arithmetic and not the layer's knowledge. Derived in notebook 11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_course.errors import CourseError
from mi_course.lenses.lens import Lens
from mi_course.lenses.streams import checked_layers, fingerprint, streams, unembed, without_learning
from mi_course.patching import kl
from mi_course.training import Checkpoint, TrainConfig, fit

FIRST = 1  # positions left out at the start: a real model's first stream is hundreds of times too long


class Moments:
    """Sums over tokens from which every layer's regression onto the last stream is solved; streams are not kept."""

    def __init__(self):
        self.n, self.sums = 0, {}

    def add(self, found: dict[int, Float[Tensor, "row d"]], final: Float[Tensor, "row d"]) -> None:
        """Some more tokens: the streams `found` of layers, and the last one, `final`."""
        self.n += len(final)
        y = torch.cat([final, torch.ones_like(final[:, :1])], 1)
        for layer, x in found.items():
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            xx, xy = self.sums.get(layer, (0, 0))
            self.sums[layer] = (xx + x.T @ x, xy + x.T @ y)

    def solved(self, layer: int, ridge: float | int) -> tuple[Tensor, Tensor]:
        """W and b of a layer that make ‖(x − x̄) W − (y − ȳ)‖² + ridge · tr(XᵀX)/d · ‖W − 1‖² least."""
        xx, xy = (part.double() for part in self.sums[layer])
        d = len(xx) - 1
        mean_x, mean_y = xx[-1, :d] / self.n, xy[-1, :d] / self.n
        C = xx[:d, :d] / self.n - torch.outer(mean_x, mean_x)
        B = xy[:d, :d] / self.n - torch.outer(mean_x, mean_y)
        penalty = ridge * C.diagonal().mean() * torch.eye(d).to(C)
        W = torch.linalg.solve(C + penalty, B + penalty)
        return W.float(), (mean_y - mean_x @ W).float()


def ridge_translators(
    model, tokens: Int[Tensor, "window pos"], layers: Sequence[int] | None = None, *, ridge: float | int = 1e-3,
    first: int = FIRST, batch: int = 8, targets: Callable | None = None,
) -> Lens:  # fmt: skip
    """For each layer the affine map that comes nearest to the last stream, shrunk towards the identity.

    Args:
        model: any with hooks.
        tokens: windows to fit on.
        layers: 0 … n_layers − 1, all by default.
        ridge: strength of the shrinkage, in mean variances of the stream.
        first: positions left out at the start of each window.
        batch: windows a run.
        targets: what becomes of the last streams [row d] before they are aimed at; a shuffle makes a control.
    """
    n = model.cfg.n_layers
    layers = checked_layers(model, range(n) if layers is None else layers)
    if ridge < 0 or first >= tokens.shape[1]:
        raise CourseError(
            f"ridge={ridge} is 0 or more, and first={first} leaves some of {tokens.shape[1]} positions."
        )
    moments = Moments()
    for rows in tokens.split(batch):
        found = {k: x[:, first:].flatten(0, 1) for k, x in streams(model, rows, sorted({*layers, n})).items()}
        final = found[n] if targets is None else targets(found[n])
        moments.add({layer: found[layer] for layer in layers}, final)
    maps = {layer: moments.solved(layer, ridge) for layer in layers}
    return Lens(
        "ridge translator",
        {k: W for k, (W, _) in maps.items()},
        {k: b for k, (_, b) in maps.items()},
        fingerprint(model),
    )


class Translators(nn.Module):
    """Maps of some layers as parameters, the identity at the start, or those of another lens `start`.

    `layers` are the layers, `d_model` is the width of the stream.
    """

    def __init__(self, layers: Sequence[int], d_model: int, start: Lens | None = None):
        super().__init__()
        held = start or Lens("", raw=True)
        W = lambda k: held.weights.get(k, torch.eye(d_model)).clone()  # noqa: E731
        b = lambda k: held.shifts.get(k, torch.zeros(d_model)).clone()  # noqa: E731
        self.W = nn.ParameterDict({str(k): nn.Parameter(W(k)) for k in layers})
        self.b = nn.ParameterDict({str(k): nn.Parameter(b(k)) for k in layers})

    def lens(self, of: str, name: str = "tuned lens") -> Lens:
        """What they are now, as a lens called `name` of the model with the fingerprint `of`."""
        part = lambda held: {int(k): p.detach().clone() for k, p in held.items()}  # noqa: E731
        return Lens(name, part(self.W), part(self.b), of)


def train_translators(
    model, sample: Callable[[int], Int[Tensor, "window pos"]], layers: Sequence[int], config: TrainConfig, *,
    start: Lens | None = None, first: int = FIRST, checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = False,
) -> Lens:  # fmt: skip
    """The tuned lens: maps trained on the KL divergence from the model's own final distribution.

    Args:
        model: any with hooks; it is not trained.
        sample: step → windows of tokens.
        layers: 0 … n_layers − 1.
        config: steps and rates.
        start: maps to begin with; the identity otherwise.
        first: positions left out at the start of each window.
        checkpoint: a file to go on from, or `Checkpoint(file, every=…)`.
        progress: show a bar.
    """
    layers, n = checked_layers(model, layers), model.cfg.n_layers
    maps = Translators(layers, model.cfg.d_model, start)

    def loss(maps: Translators, tokens: Tensor) -> Tensor:
        found = {k: x[:, first:].flatten(0, 1) for k, x in streams(model, tokens, [*layers, n]).items()}
        with torch.no_grad():
            final = unembed(model, found[n])
        every = [kl(unembed(model, found[k] @ maps.W[str(k)] + maps.b[str(k)]), final).mean() for k in layers]
        return sum(every) / len(every)

    with without_learning(model), torch.enable_grad():
        fit(maps, sample, config, loss=loss, checkpoint=checkpoint, progress=progress)
    return maps.lens(fingerprint(model))
