"""Real models: any Hugging Face folder, and those that ordinary packages carry.

`fetch` and `here` answer without torch, so the names are handed on when they are first used (PEP 562).
"""

import importlib

HOME = {
    **dict.fromkeys(("CARRIED", "Carried", "Part", "cache", "carried", "folder", "here", "place", "wanted"), "registry"),
    **dict.fromkeys(("fetch",), "fetching"),
}


def __getattr__(name: str):
    if name in HOME:
        return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(HOME)
