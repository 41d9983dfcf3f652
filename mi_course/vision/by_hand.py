"""Curve detectors with every weight set by hand: lines are looked for everywhere, and arcs are lines in a row.

The algorithm of *Curve Detectors* (Cammarata et al. 2020), without training. First layer: lines at sixteen orientations.
Second layer, one unit for each direction: at every point of an arc it wants the line that touches the arc there; the
mirrored arc and the straight line through the middle hold it back. Turning by 90° takes weights to weights exactly.

>>> import torch
>>> from mi_course import vision
>>> stack = vision.ByHand(radius=8)
>>> up = vision.painted(vision.arc(32, direction=90, radius=8))[None]
>>> int(stack(up)[0, :, 15, 15].argmax()) * 45  # degrees
90
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mi_course.vision.stimuli import towards

ORIENTED = 16  # orientations of lines, over 180°


def offsets(side: int) -> tuple[Float[Tensor, "side side"], Float[Tensor, "side side"]]:
    """(x, y upwards) of the cells of a square kernel of `side` (odd) from its centre."""
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    return axis.expand(side, side), -axis[:, None].expand(side, side)


def line_kernels(
    side: int = 9, wavelength: float | int = 6, n: int = ORIENTED
) -> Float[Tensor, "phase orientation side side"]:
    """Gabor kernels for lines (phase 0) and rims (phase 1) at `n` orientations over 180°; their sums are 0.

    A wave of `wavelength` pixels across the line under a round window, `side` pixels wide; each kernel has length 1.
    """
    x, y = offsets(side)
    kernels = []
    for i in range(n):
        u, v = towards(180 * i / n + 90)
        across = 2 * math.pi * (x * u + y * v) / wavelength
        window = torch.exp(-(x**2 + y**2) / (2 * (side / 4.5) ** 2))
        pair = [window * across.cos(), window * across.sin()]
        kernels.append([k - window * k.sum() / window.sum() for k in pair])
    stacked = torch.stack([torch.stack([pair[phase] for pair in kernels]) for phase in (0, 1)])
    return stacked / stacked.flatten(2).norm(dim=-1)[..., None, None]


def arc_kernel(
    direction: float | int, radius: float | int, side: int = 17, sign: int = 1
) -> Float[Tensor, "orientation side side"]:
    """What an arc unit wants to see: at each cell of a `side` × `side` field, which line.

    The arc passes the middle and opens to `direction` with `radius` (with `sign` −1 its mirror image; with an infinite
    radius a straight line). Weights sum to 1.
    """
    x, y = offsets(side)
    u, v = towards(direction)
    if math.isinf(radius):
        distance, tangent = (x * u + y * v).abs(), torch.full_like(x, direction + 90.0)
        reach = (-x * v + y * u).abs() / (0.4 * side)
    else:
        cx, cy = x - sign * radius * u, y - sign * radius * v  # from the circle's centre
        distance = (torch.hypot(cx, cy) - radius).abs()
        tangent = torch.rad2deg(torch.atan2(cy, cx)) + 90
        along, across = -sign * (cx * u + cy * v), cx * v - cy * u
        reach = torch.atan2(across, along).abs() / math.radians(75)
    place = torch.exp(-(distance**2) / 2) * torch.exp(-(reach**4))
    orientation = 180 / ORIENTED * torch.arange(ORIENTED)
    fits = torch.cos(torch.deg2rad(orientation[:, None, None] - tangent)) ** 8  # of period 180°
    wanted = place * fits
    return wanted / wanted.sum()


class ByHand:
    """The two layers as convolutions: pictures to maps of arc units.

    Args:
        radius: of the arcs, in pixels.
        directions: how many, over 360°.
    """

    def __init__(self, radius: float | int = 8, directions: int = 8):
        self.directions = [360 * i / directions for i in range(directions)]
        self.lines = line_kernels()
        side = 2 * min(int(radius), 12) + 1
        self.arcs = torch.stack([self.unit(d, radius, side) for d in self.directions])

    @staticmethod
    def unit(direction: float, radius: float | int, side: int) -> Float[Tensor, "orientation side side"]:
        """An arc unit's weights: for its arc, against the mirrored arc, against the straight line.

        The arc opens to `direction` with `radius` pixels; the field is `side` × `side`.
        """
        wanted = arc_kernel(direction, radius, side)
        mirrored = arc_kernel(direction, radius, side, sign=-1)
        straight = arc_kernel(direction, math.inf, side)
        return wanted - 0.7 * mirrored - 0.3 * straight

    def oriented(
        self, images: Float[Tensor, "n channel row column"]
    ) -> Float[Tensor, "n orientation row column"]:
        """How much of a line or rim of each orientation is at each pixel of `images`, whichever is brighter."""
        grey = images.mean(1, keepdim=True)
        pad = self.lines.shape[-1] // 2
        return torch.hypot(*(F.conv2d(grey, kernels[:, None], padding=pad) for kernels in self.lines))

    def drive(
        self, images: Float[Tensor, "n channel row column"], stride: int = 1
    ) -> Float[Tensor, "n direction _row _column"]:
        """What the arc units receive from `images`, before their ReLU; at each pixel, or each `stride` pixels apart."""
        return F.conv2d(self.oriented(images), self.arcs, padding=self.arcs.shape[-1] // 2, stride=stride)

    def __call__(
        self, images: Float[Tensor, "n channel row column"]
    ) -> Float[Tensor, "n direction row column"]:
        return self.drive(images).relu()
