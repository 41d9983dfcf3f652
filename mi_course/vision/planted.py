"""Labelled pictures for small networks: arcs, lines, borders between fine and coarse, and neither of these.

"Neither" has one texture only: everywhere, or on one side with nothing on the other. Without the second kind a network may
look at the coarse side alone, and ours did.

>>> images, labels, names = shapes(40, seed=0)
>>> images.shape, len(names), names[2]
(torch.Size([40, 3, 32, 32]), 21, 'arc 90°')
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.vision import stimuli as draw

ARCS, LINES, BORDERS = 8, 4, 8  # classes of each kind; one more is neither
NAMES = (
    *(f"arc {45 * i}°" for i in range(ARCS)),
    *(f"line {45 * i}°" for i in range(LINES)),
    *(f"fine side {45 * i}°" for i in range(BORDERS)),
    "neither",
)


def one(label: int, size: int, rng: np.random.Generator) -> Float[Tensor, "size size"]:
    """One grey picture of the class `label`, of `size` pixels a side, all else drawn by `rng`."""
    contrast = rng.choice([-1, 1]) * rng.uniform(0.5, 0.9)
    turn, shift = rng.uniform(-15, 15), rng.uniform(-2, 2)
    if label < ARCS:
        direction, radius = 45 * label + turn, rng.uniform(5, 12)
        stroke = rng.random() < 0.5
        figure = (
            draw.arc(size, direction, radius, 2.5, shift=shift)
            if stroke
            else draw.disc(size, direction, radius, shift)
        )
        return contrast * figure
    if label < ARCS + LINES:
        orientation = 45 * (label - ARCS) + turn
        stroke = rng.random() < 0.5
        rim = draw.edge(size, orientation + 90, shift) - 0.5
        return contrast * (draw.line(size, orientation, 2.5, shift) if stroke else rim)
    grain = lambda wavelength: (
        draw.texture(size, wavelength, int(rng.integers(2**31)))
        if rng.random() < 0.5
        else 0.6 * draw.grating(size, rng.uniform(0, 180), wavelength, rng.uniform(0, 360))
    )
    if label < ARCS + LINES + BORDERS:
        direction = 45 * (label - ARCS - LINES) + turn
        return abs(contrast) * draw.border(grain(rng.uniform(2.8, 4)), grain(rng.uniform(9, 14)), direction)
    alone = grain(rng.choice([3.0, 6.0, 12.0]))  # everywhere, or a border between one texture and nothing
    if rng.random() < 0.67:
        alone = draw.border(alone, torch.zeros_like(alone), rng.uniform(0, 360))
    return abs(contrast) * alone


def shapes(
    n: int, seed: int, size: int = 32, noise: float | int = 0.1
) -> tuple[Float[Tensor, "n channel size size"], Int[Tensor, "n"], tuple[str, ...]]:
    """(`n` pictures of `size` pixels with as much white `noise`, their classes, the names of the 21 classes).

    `seed` draws them. Radius, polarity, stroke or disc, exact angle and place vary; the class does not tell them.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(NAMES), size=n)
    pictures = torch.stack([one(int(label), size, rng) for label in labels])
    pictures = pictures + noise * torch.from_numpy(rng.standard_normal(pictures.shape)).float()
    return pictures.clamp(-1, 1)[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels), NAMES
