"""Real image networks by name, what they read, and their random twin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mi_course.errors import CourseError
from mi_course.pretrained import devices, registry
from mi_course.pretrained.efficientnet import SIZE, EfficientNetLite


def vision(name: str, device: str | torch.device = "cpu") -> EfficientNetLite:
    """A carried image network, in evaluation mode and float32, with hooks at every step and its classes' names.

    `name` is one of the registry; `device` is where it goes.
    """
    device = devices.present(device)
    if registry.carried(name).kind != "vision":
        raise CourseError(f"{name} is a language model: pretrained.load({name!r}) loads it.")
    folder = registry.folder(name)
    model = EfficientNetLite(json.loads((folder / "config.json").read_text(encoding="utf-8"))["labels"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(device).eval()


def pixels(
    image: str | Path | Image.Image | np.ndarray, size: int = SIZE
) -> Float[Tensor, "1 channel row column"]:
    """What the network reads of a picture: its middle, `size` pixels a side, as (x − 127) / 128.

    As the weights were trained: of the shorter side size / (size + 32) is kept, then scaled (bicubic). `image` is a
    file, a picture of Pillow's, or an array [row column channel] of bytes.
    """
    opened = picture(image)
    width, height = opened.size
    side = round(size / (size + 32) * min(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    middle = opened.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(middle, dtype=np.float32)).permute(2, 0, 1)[None] - 127) / 128


def picture(image: str | Path | Image.Image | np.ndarray) -> Image.Image:
    """A file, an array of bytes or a picture of Pillow's as the last, in colours; one sentence where `image` is none."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise CourseError(
                f"A picture is an array [row column channel] of bytes (uint8, 0 … 255), not {list(image.shape)} of {image.dtype}."
            )
        image = Image.fromarray(image)
    try:
        opened = image if isinstance(image, Image.Image) else Image.open(image)
        if opened.mode[0] in "IF":  # Pillow would cut off what is above 255
            raise CourseError(
                f"A picture has 8 bits a channel, and this one is of Pillow's mode {opened.mode!r}: scale it to 0 … 255, for "
                "16 bits with Image.fromarray((np.asarray(image) // 257).astype(np.uint8))."
            )
        return opened.convert("RGB")
    except (OSError, SyntaxError) as error:
        why = getattr(error, "strerror", None) or "in no known format, or cut short"
        raise CourseError(f"{image} cannot be read as a picture: {why}.") from error


def untrained_vision(images: Float[Tensor, "batch channel row column"], seed: int = 0) -> EfficientNetLite:
    """EfficientNet-Lite0 with He's random weights, batch norms calibrated on `images`: the control for training.

    Without calibration a random network's channels are dead or saturated, which would make the control too easy.
    `seed` draws the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EfficientNetLite()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it sees
    with torch.no_grad():
        model.train()(images)
    return model.eval()
