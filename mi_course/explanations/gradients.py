"""Credit from gradients: times the input, and integrated along a path (Sundararajan et al. 2017)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.explanations.checked import Model, asked, instance_and_background, numbers


def slopes(model: Model, rows: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
    """The gradient of every row's output with respect to its own inputs."""
    with torch.enable_grad():
        rows = rows.detach().clone().requires_grad_(True)
        out = asked(model, rows)
        if not isinstance(out, Tensor) or not out.requires_grad:
            raise CourseError("This model has no gradient (a forest has none): take Shapley values or LIME.")
        return torch.autograd.grad(out.sum(), rows)[0].double()


def gradient_times_input(model: Model, x: Float[Tensor, "feature"]) -> Float[Tensor, "feature"]:
    """x · ∂f/∂x: exact for a linear model; 0 for a feature that is 0, and wherever the model is flat."""
    x = numbers("x", x, 1)
    return x * slopes(model, x[None])[0]


def integrated_gradients(
    model: Model, x: Float[Tensor, "feature"], baselines: Float[Tensor, "row feature"], steps: int = 64
) -> Float[Tensor, "feature"]:
    """(x − b) · ∫₀¹ ∂f/∂x (b + t (x − b)) dt, a mean over the baselines.

    The values sum to f(x) − mean f(b) (completeness) up to the error of the integral, here `steps` points of
    Gauss and Legendre. One baseline gives Sundararajan et al.'s values, many give expected gradients. Derived in
    notebook 13; for activations in a language model see notebook 11.
    """
    x, baselines = instance_and_background(x, baselines)
    if steps < 1:
        raise CourseError(f"steps={steps}: at least one gradient is taken.")
    nodes, weights = (torch.from_numpy(part).double() for part in np.polynomial.legendre.leggauss(steps))
    way = x - baselines  # row feature
    mean_slope = torch.zeros_like(way)
    for t, weight in zip((nodes + 1) / 2, weights / 2):
        mean_slope += weight * slopes(model, baselines + t * way)
    return (way * mean_slope).mean(0)
