"""Mechanistic interpretability from the papers: every claim measured, on real text, on a laptop.

errors         one clear sentence for bad input
offline        the network cut, and the same environment for every run
files          where data is, writing whole or not at all, weights with their card

claims         the ledger: what papers say, measured and judged
corpora        text and toy languages, with what was planted in them
plots          figures that state their finding, tables, views of tokens and attention
models         the small transformer, open at every hook
pretrained     real models: from folders, and those that ordinary packages carry
training       the one loop, its rates, its checkpoints
activations    activations collected and stored
processes      several processes that share their batches, or a dictionary's features
sweeps         many small runs, on this machine or a cluster

bigrams        01  a transformer without layers
circuits       02  one layer, read from its weights
induction      03  two layers that say again what they read once
superposition  04  more features than dimensions
sae            05  sparse autoencoders
patching       06  what carries the answer
scaling        07  dictionaries of a real model, laws of size, what a dictionary misses, clamping
ioi            08  a circuit of a whole behaviour, and its tests
grokking       09  arithmetic by heart, then by trigonometry
probing        10  what can be read, what is used, and what is left when it is gone
lenses         11  what a model is about to say, layer by layer, and credit from gradients
steering       12  one vector: added, taken out, capped, and what that costs
explanations   13  the explanations everyone else uses, beside a known mechanism
vision         14  what units of an image network answer to, and pictures made to please them
oracles        15  a model that is asked in words about activations, and its rivals

checks         exercises that check themselves
recipes        how everything shipped was trained, and is trained again
course         the command line: run, hand out, publish
"""

import importlib
import pkgutil

__version__ = "0.1.0"


def __getattr__(name: str):
    """Import a part when it is first used, so that `import mi_course` stays quick (PEP 562)."""
    if not name.startswith("_") and name in _parts():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_parts()})


def _parts() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)} - {"__main__"}
