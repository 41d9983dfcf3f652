"""Photographs that packages carry: what a network meets in the world, as far as two packages go.

scikit-learn, which the course needs anyway, has two; scikit-image, in the extra `[vision]`, has a dozen more.

>>> pictures = photographs(64)
>>> "flower" in pictures and pictures["flower"].shape
torch.Size([3, 64, 64])
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mi_course.pretrained.images import pixels

SKLEARN = {"palace": "china.jpg", "flower": "flower.jpg"}  # CC BY 2.0, by danielbuechele and vultilion
SKIMAGE = {
    "astronaut": "astronaut.png", "bricks": "brick.png", "camera": "camera.png", "cat": "chelsea.png",
    "clock": "clock_motion.png", "coffee": "coffee.png", "coins": "coins.png", "grass": "grass.png",
    "gravel": "gravel.png", "galaxies": "hubble_deep_field.jpg", "moon": "moon.png", "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}  # fmt: skip


def files() -> dict[str, Path]:
    """Where each photograph lies: two without scikit-image, fifteen with it."""
    import sklearn

    found = {
        name: Path(sklearn.__file__).parent / "datasets" / "images" / file for name, file in SKLEARN.items()
    }
    if (there := importlib.util.find_spec("skimage")) is not None:
        folder = Path(there.origin).parent / "data"
        found |= {name: folder / file for name, file in SKIMAGE.items()}
    return {name: path for name, path in found.items() if path.is_file()}


def photographs(size: int = 224) -> dict[str, Float[Tensor, "channel size size"]]:
    """The middle of each photograph, `size` pixels a side, as the network reads it."""
    return {name: pixels(path, size)[0] for name, path in files().items()}


def views(size: int = 224) -> tuple[Float[Tensor, "view channel size size"], list[str]]:
    """Five views of each photograph, its middle and its four quarters enlarged, and the names of what they show.

    Each is a square of `size` pixels a side, in the network's range.
    """
    seen, names = [], []
    for name, path in files().items():
        picture = Image.open(path).convert("RGB")
        w, h = picture.size
        boxes = [(0, 0, w, h)]
        boxes += [(x, y, x + w // 2, y + h // 2) for y in (0, h - h // 2) for x in (0, w - w // 2)]
        seen += [pixels(picture.crop(box), size)[0] for box in boxes]
        names += [name] * len(boxes)
    return torch.stack(seen), names


def patches(
    images: Float[Tensor, "n channel size size"],
    places: list[tuple[int, int, int]],
    stride: int,
    side: int = 64,
) -> Float[Tensor, "place channel side side"]:
    """Squares of `side` pixels around the centres of units: each of `places` is (image, row, column) of a map.

    `stride` is the map's; what lies outside of `images` is grey.
    """
    half = side // 2
    padded = torch.nn.functional.pad(images, (half,) * 4)
    cut = []
    for image, row, column in places:
        top, left = (
            stride * (row + 1) - 1,
            stride * (column + 1) - 1,
        )  # of the padded picture: centre − half + half
        cut.append(padded[image, :, top : top + side, left : left + side])
    return torch.stack(cut)


def inside(
    answers: Float[Tensor, "*some row column"], side: int = 64, size: int = 224
) -> Float[Tensor, "*some row column"]:
    """A map's `answers`, with 0 wherever a square of `side` pixels around the place would leave the picture by more than half a pixel.

    Pictures are `size` pixels a side. At a frame units see the padding as well, which is an edge that no photograph has.
    """
    n = answers.shape[-1]
    centre = (size // n) * (torch.arange(n) + 1) - 1
    within = (centre + 1 >= side // 2) & (centre < size - side // 2)
    return answers * (within[:, None] & within)
