"""Training many toy models at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.superposition.features import Features, Quadrature
from mi_course.superposition.models import ToyModels, affordable
from mi_course.training import History, TrainConfig, fit


def fitting(models: ToyModels, world: Features | Quadrature, batch: int, penalty: Tensor) -> None:
    """Refuse a world, a batch or a penalty that these models cannot be trained with."""
    if world.n != models.cfg.n:
        raise CourseError(f"The world has {world.n} features, the models read {models.cfg.n}.")
    if batch < 1:
        raise CourseError(f"A batch has at least one input, not {batch}.")
    p = world.p if isinstance(world, Features) else world.weights
    for rows in (p, world.weight):
        if rows.ndim == 2 and len(rows) not in (1, models.instances):
            raise CourseError(f"The world is one for {len(rows)} models; these are {models.instances}.")
    if penalty.ndim > 1 or (penalty.ndim and len(penalty) not in (1, models.instances)):
        raise CourseError(f"l1 is one number, or one for each of the {models.instances} models.")
    affordable(
        models, batch if isinstance(world, Features) else len(world.points), "train with a smaller batch"
    )


def train(
    models: ToyModels,
    world: Features | Quadrature,
    steps: int = 2500,
    lr: float = 5e-3,
    batch: int = 256,
    seed: int = 0,
    l1: float | int | Float[Tensor, "inst"] = 0.0,
    **options,
) -> History:
    """Train all models in place through `training.fit`: Adam, its rate falling linearly to 0 over the run.

    The loss is the sum over models, which Adam treats as each on its own. `l1` adds l1 · Σ|h|, a mean over the batch;
    one number for all models or one for each. `options` go to `fit` (evaluate, evaluate_at, checkpoint, progress, …);
    `decay_share` and `warmup` set another schedule. `world` gives the inputs, `batch` of them a step, and `seed`
    draws them; there are so many `steps`, with `lr` the first rate.
    """
    schedule = {key: options.pop(key) for key in ("decay_share", "warmup") if key in options}
    config = TrainConfig(steps, lr, betas=(0.9, 0.999), **({"decay_share": 1.0, "warmup": 0} | schedule))
    penalty = torch.as_tensor(l1, dtype=torch.float)
    fitting(models, world, batch, penalty)
    penalised = bool(penalty.any())

    def loss(models: ToyModels, x: Tensor) -> Tensor:
        total = world.losses(models, x).sum()
        return total + (penalty * models.hidden(x).abs().sum(-1).mean(1)).sum() if penalised else total

    return fit(models, world.sampler(batch, seed), config, loss=loss, **{"progress": False} | options)


def best_of(losses: Float[Tensor, "inst"], restarts: int) -> Int[Tensor, "setting"]:
    """Index of the lowest of `losses` among each setting's `restarts`, which follow one another along `inst`."""
    if bool(losses.isnan().any()):
        raise CourseError("A loss is not a number: there is no lowest one.")
    if restarts < 1 or len(losses) % restarts:
        raise CourseError(
            f"{len(losses)} models are not a whole number of settings with {restarts} restarts each."
        )
    rows = losses.view(-1, restarts)
    return rows.argmin(1) + restarts * torch.arange(len(rows))
