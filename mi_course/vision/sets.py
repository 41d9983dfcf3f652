"""Sets of stimuli with a table of what each one shows: for curves, and for borders between fine and coarse.

>>> from mi_course import vision
>>> curves = vision.curve_stimuli(32, radii=(6, 10))
>>> curves
653 images of 32 x 32: arc 384, blank 1, corner 96, edge 48, grating 64, line 48, noise 8, ring 4
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.vision import stimuli as draw
from mi_course.vision.stimuli import BRIGHT

DIRECTIONS = tuple(22.5 * i for i in range(16))  # degrees
ORIENTATIONS = tuple(22.5 * i for i in range(8))
CUES = ("bright stroke", "dark stroke", "bright disc", "dark disc")
SHIFTS = (-5, 0, 5)  # pixels: nobody knows where in its field a unit likes its curve
RADII = (8, 14, 24, 40)  # pixels


@dataclass(frozen=True, eq=False, repr=False)
class Stimuli:
    """Images and what each of them shows.

    Args:
        images: [n 3 size size], in the network's range.
        shows: one column a name, n entries each: `kind` always, others as the set has them; None where one does not apply.
    """

    images: Float[Tensor, "n channel size size"]
    shows: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(Counter(self.shows["kind"]).items()))
        size = self.images.shape[-1]
        return f"{len(self):,} images of {size} x {size}: {kinds}"

    def where(self, **wanted) -> np.ndarray:
        """Which images show all of `wanted`: where(kind="arc", cue="dark disc"); a list means any of these."""
        hit = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            hit &= np.isin(self.shows[name], np.array(values, dtype=object))
        return hit

    @classmethod
    def of(cls, drawn: list[tuple[Tensor, dict]]) -> Stimuli:
        """From pairs of an image and what it shows (`drawn`)."""
        names = sorted({name for _, shows in drawn for name in shows})
        column = lambda name: np.array([shows.get(name) for _, shows in drawn], dtype=object)
        return cls(torch.stack([image for image, _ in drawn]), {name: column(name) for name in names})


def polarity(cue: str) -> float:
    return BRIGHT if cue.startswith("bright") else -BRIGHT


def arcs(size: int, radii: tuple) -> list[tuple[Tensor, dict]]:
    """Every direction, radius, cue and shift."""
    drawn = []
    for cue, radius, direction, shift in product(CUES, radii, DIRECTIONS, SHIFTS):
        if "stroke" in cue:
            mask = draw.arc(size, direction, radius, shift=shift)
        else:
            mask = draw.disc(size, direction, radius, shift=shift)
        shows = dict(kind="arc", cue=cue, radius=radius, direction=direction, shift=shift)
        drawn.append((draw.painted(mask, polarity(cue)), shows))
    return drawn


def curve_stimuli(size: int = 96, radii: tuple = RADII) -> Stimuli:
    """Arcs in four cues, and everything that a curve detector must not take for one.

    Pictures have `size` pixels a side; `radii` are those of the arcs, in pixels. Lines, edges and corners come in both
    polarities, lines and edges with the shifts of the arcs, all with the contrast of the arcs: none is at a disadvantage.
    """
    drawn = arcs(size, radii)
    for sign, orientation, shift in product((BRIGHT, -BRIGHT), ORIENTATIONS, SHIFTS):
        shows = dict(kind="line", direction=orientation, shift=shift)
        drawn.append((draw.painted(draw.line(size, orientation, shift=shift), sign), shows))
    for direction, shift in product(DIRECTIONS, SHIFTS):  # the other polarity is the opposite direction
        shows = dict(kind="edge", direction=direction, shift=shift)
        drawn.append((draw.painted(draw.edge(size, direction, shift), BRIGHT / 2, -BRIGHT / 2), shows))
    for direction, (width, opening), sign in product(
        DIRECTIONS, ((3, 60), (3, 90), (0, 90)), (BRIGHT, -BRIGHT)
    ):
        shows = dict(kind="corner", direction=direction)
        drawn.append((draw.painted(draw.corner(size, direction, opening, width), sign), shows))
    for wavelength, orientation, phase in product((4, 8, 16, 32), ORIENTATIONS, (0, 90)):
        wave = BRIGHT * draw.grating(size, orientation, wavelength, phase)
        drawn.append((draw.painted(wave, 1.0), dict(kind="grating", direction=orientation)))
    for wavelength, seed in product((3, 8, 20, 40), range(2)):
        noise = BRIGHT * draw.texture(size, wavelength, seed)
        drawn.append((draw.painted(noise, 1.0), dict(kind="noise")))
    for radius, sign in product(radii, (BRIGHT, -BRIGHT)):
        drawn.append((draw.painted(draw.ring(size, radius), sign), dict(kind="ring", radius=radius)))
    drawn.append((torch.zeros(3, size, size), dict(kind="blank")))
    return Stimuli.of(drawn)


FINE, COARSE = (4, 6), (16, 28)  # wavelengths in pixels
COLOURS = (
    ((0.9, -0.6, -0.6), (-0.6, 0.3, -0.6)),
    ((-0.6, -0.6, 0.9), (0.2, 0.1, -0.8)),
)  # red–green, blue–yellow


def border_stimuli(size: int = 96, seeds: int = 4) -> Stimuli:
    """Borders between fine and coarse, and what must not be taken for one: other borders, and textures without any.

    Pictures have `size` pixels a side; `seeds` is how many noises of each grain are drawn. The direction is that of the
    fine side. Fine and coarse have the same mean and the same contrast, so that no border of brightness is there.
    """
    drawn = []

    def grain(wavelength, look):
        """One texture: noise number `look`, or a grating at a slant to every border."""
        if isinstance(look, int):
            return 1.2 * draw.texture(size, wavelength, 100 * look + wavelength)
        return 0.85 * draw.grating(size, look, wavelength)

    looks = [*range(seeds), 30.0, 120.0]
    for fine, coarse, look, direction in product(FINE, COARSE, looks, DIRECTIONS):
        picture = draw.border(grain(fine, look), grain(coarse, look), direction)
        shows = dict(kind="fine–coarse", look="noise" if isinstance(look, int) else "grating")
        shows |= dict(direction=direction, fine=fine, coarse=coarse)
        drawn.append((draw.painted(picture.clamp(-1, 1), 1.0), shows))
    for wavelength, look in product((*FINE, *COARSE), [*range(seeds), *ORIENTATIONS]):
        picture = grain(wavelength, look).clamp(-1, 1)
        drawn.append((draw.painted(picture, 1.0), dict(kind="uniform", wavelength=wavelength)))
    for direction, soft, height in product(DIRECTIONS, (1, 8), (0.4, 0.9)):
        side = draw.edge(size, direction, soft=soft)
        drawn.append((draw.painted(side, height, -height), dict(kind="brightness", direction=direction)))
    for direction, soft, (one, other) in product(DIRECTIONS, (1, 8), COLOURS):
        side = draw.edge(size, direction, soft=soft)
        drawn.append((draw.painted(side, one, other), dict(kind="colour", direction=direction)))
    return Stimuli.of(drawn)
