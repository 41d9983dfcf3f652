"""Pictures whose content is known: arcs, discs, lines, corners, gratings, textures and borders between them.

Everything is drawn around one point, the pixel `size / 2 − 1` in both axes: that is where a unit in the middle of a map looks
(`reading.centre_of`). Angles are in degrees, counted from the right against the clock, as in mathematics; rows count
downwards, so y is turned. A mask is 1 where the figure is, 0 elsewhere, and something between on the pixels of its rim.

>>> mask = arc(32, direction=90, radius=8)  # opens upwards: its centre lies above the middle
>>> float(mask[15, 15]), float(mask[8, 15])
(1.0, 0.0)
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError

Mask = Float[Tensor, "size size"]
BRIGHT = 0.9  # of a figure on grey; the network's own range is −1 to 1, and grey is 0, as is its padding


def coordinates(size: int) -> tuple[Mask, Mask]:
    """(x to the right, y upwards) of every pixel, in pixels from the middle; `size` is the side, an even number."""
    if size < 8 or size % 2:
        raise CourseError(f"A stimulus is a square of an even number of pixels, 8 or more, not {size}.")
    axis = torch.arange(size, dtype=torch.float32) - (size // 2 - 1)
    return axis.expand(size, size), -axis[:, None].expand(size, size)


def towards(direction: float | int) -> tuple[float, float]:
    """The unit vector (x, y) of a `direction` in degrees."""
    return math.cos(math.radians(direction)), math.sin(math.radians(direction))


def filled(inside: Mask) -> Mask:
    """A mask from the distance to a figure's rim in pixels, positive `inside`; the rim is one pixel soft."""
    return (inside + 0.5).clamp(0, 1)


def polar(size: int, direction: float | int, radius: float | int, shift: float | int) -> tuple[Mask, Mask]:
    """(distance from a circle's centre, angle from the ray that runs back through the middle, in degrees).

    The centre lies at `radius` + `shift` in `direction` from the middle of a picture of `size` pixels a side, so that the
    circle of that radius passes the middle at a distance of `shift`.
    """
    x, y = coordinates(size)
    u, v = towards(direction)
    x, y = x - (radius + shift) * u, y - (radius + shift) * v
    along, across = -(x * u + y * v), x * v - y * u
    return torch.hypot(x, y), torch.rad2deg(torch.atan2(across, along))


def arc(
    size: int,
    direction: float | int,
    radius: float | int,
    width: float | int = 3,
    span: float | int = 160,
    shift: float | int = 0,
) -> Mask:
    """A piece of a circle through the middle that opens towards `direction`.

    A picture of `size` pixels a side; the circle has `radius` and the stroke `width` in pixels; `span` is how much of it is
    drawn, in degrees; `shift` moves it by so many pixels towards `direction`. Derived in notebook 14.
    """
    distance, angle = polar(size, direction, radius, shift)
    ends = filled(torch.deg2rad(span / 2 - angle.abs()) * distance)
    return filled(width / 2 - (distance - radius).abs()) * ends


def disc(size: int, direction: float | int, radius: float | int, shift: float | int = 0) -> Mask:
    """A full disc of `radius` whose rim passes the middle of a picture of `size` pixels; its centre lies in `direction`.

    `shift` moves it by so many pixels in that direction.
    """
    return filled(radius - polar(size, direction, radius, shift)[0])


def ring(size: int, radius: float | int, width: float | int = 3) -> Mask:
    """A whole circle around the middle of a picture of `size` pixels, of `radius` and a stroke of `width`: no direction."""
    x, y = coordinates(size)
    return filled(width / 2 - (torch.hypot(x, y) - radius).abs())


def edge(size: int, direction: float | int, shift: float | int = 0, soft: float | int = 1) -> Mask:
    """The half of a picture of `size` pixels that lies in `direction`; `shift` moves the border that way.

    `soft` is how many pixels the border is wide.
    """
    x, y = coordinates(size)
    u, v = towards(direction)
    return ((x * u + y * v - shift) / soft + 0.5).clamp(0, 1)


def line(size: int, orientation: float | int, width: float | int = 3, shift: float | int = 0) -> Mask:
    """A straight stroke from rim to rim of a picture of `size` pixels, at `orientation` (0 is level), of `width`.

    `shift` moves it by so many pixels to its left, seen along its orientation.
    """
    x, y = coordinates(size)
    u, v = towards(orientation + 90)
    return filled(width / 2 - (x * u + y * v - shift).abs())


def corner(size: int, direction: float | int, opening: float | int = 90, width: float | int = 0) -> Mask:
    """A corner at the middle of a picture of `size` pixels that opens towards `direction` by `opening` degrees.

    Filled where `width` is 0, else two strokes of that width.
    """
    x, y = coordinates(size)
    u, v = towards(direction)
    along, across = x * u + y * v, (x * v - y * u).abs()
    half = math.radians(opening / 2)
    outside = across * math.cos(half) - along * math.sin(half)  # distance from the nearer side
    if not width:
        return filled(-outside)
    beyond = across * math.sin(half) + along * math.cos(half)  # how far along that side
    return filled(width / 2 - outside.abs()) * filled(beyond + width / 2)


def grating(
    size: int, orientation: float | int, wavelength: float | int, phase: float | int = 0
) -> Float[Tensor, "size size"]:
    """A wave between −1 and 1 whose crests run at `orientation`, in a picture of `size` pixels.

    `wavelength` is in pixels (2 is the finest there is), `phase` in degrees.
    """
    if wavelength < 2:
        raise CourseError(f"Pixels cannot show a wave of {wavelength} pixels: 2 is the shortest (Nyquist).")
    x, y = coordinates(size)
    u, v = towards(orientation + 90)
    return torch.cos(2 * math.pi * (x * u + y * v) / wavelength + math.radians(phase))


def texture(size: int, wavelength: float | int, seed: int = 0) -> Float[Tensor, "size size"]:
    """Noise of one grain and no orientation: waves of about `wavelength` pixels, of standard deviation .5, cut at ±1.

    A picture of `size` pixels a side, drawn by `seed`.
    """
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    pitch = torch.hypot(rows, columns) * wavelength  # 1 at the wavelength that is asked for
    kept = torch.fft.irfft2(
        torch.fft.rfft2(noise) * torch.exp(-0.5 * ((pitch - 1) / 0.2) ** 2), s=(size, size)
    )
    return (0.5 * kept / kept.std()).clamp(-1, 1)


def border(first: Float[Tensor, "size size"], second: Float[Tensor, "size size"], direction: float | int):
    """`first` on the side of `direction`, `second` on the other, both [size size], with a border four pixels wide."""
    side = edge(first.shape[-1], direction, soft=4)
    return side * first + (1 - side) * second


def painted(
    mask: Float[Tensor, "size size"], figure: float | int | tuple = BRIGHT, ground: float | int | tuple = 0.0
) -> Float[Tensor, "channel size size"]:
    """A picture [3 size size] in the network's range from a `mask`: `figure` where it is 1, `ground` where it is 0.

    Each of the two is one number for grey, or three for a colour.
    """
    colours = [
        torch.as_tensor(colour, dtype=torch.float32).expand(3)[:, None, None] for colour in (figure, ground)
    ]
    return colours[1] + (colours[0] - colours[1]) * mask
