"""Real models: any Hugging Face folder, and those that ordinary packages carry; and our own as TransformerLens' bridge.

`fetch`, `here` and `need` answer without torch, so names are handed on when they are first used (PEP 562).

>>> from mi_course import models, pretrained
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=1, positions="learned"))
>>> bridge = pretrained.to_bridge(model)
>>> bridge.cfg.n_layers
1
"""

import importlib

_ROOMS = {
    "registry": (
        "CARRIED",
        "Carried",
        "Part",
        "cache",
        "card",
        "carried",
        "folder",
        "here",
        "place",
        "wanted",
    ),
    "fetching": ("damaged", "fetch", "listing"),
    "needing": ("absent", "need", "needs"),
    "language": ("chat", "load", "quick_dtype", "untrained"),
    "images": ("pixels", "untrained_vision", "vision"),
    "efficientnet": ("EfficientNetLite",),
    "bridge": ("to_bridge",),
    "peers": ("peer_jacobians",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOME)
