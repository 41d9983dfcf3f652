"""What a real model reads here: documentation, sources, and ordinary prose; and its middle stream without the huge rows.

A few positions of a real model, the first of each text and some others, have a stream hundreds of times as long as the rest.
They are left out of everything: of the training, of the scores, and of what is written back. Derived in notebook 07.

>>> from mi_course import scaling
>>> len(scaling.PROSE) >= 20, "numpy" in scaling.DOCUMENTED
(True, True)
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.activations import HUGE
from mi_course.corpora import generator, is_held_out, standard_library
from mi_course.errors import CourseError

DOCUMENTED = ("numpy", "scipy", "sklearn", "matplotlib")  # whose docstrings are read
SHORT = 300  # characters: shorter docstrings say little
CHARACTERS = 40_000  # of one text

# Written for this course. Nothing here is about computers.
PROSE = (
    "The ferry was late again. On the quay a woman sold roasted almonds from a tin, and the children who had been "
    "promised the island fell asleep on their coats before the first whistle blew.",
    "My grandfather kept bees behind the church. He said that a hive knows when its keeper is angry, so he used to walk "
    "twice around the orchard before he lifted the lid.",
    "By the time the judge returned, the room had grown warm and everybody had stopped pretending to read. She put down "
    "her glasses, looked at the two brothers, and asked which of them had written the letter.",
    "Snow fell for three days and the road over the pass was closed. The baker opened his door at the back and let the "
    "drivers sleep among the sacks of flour.",
    "After the concert nobody wanted to leave. The cellist sat on the edge of the stage with her shoes in her hand and "
    "talked with the old men from the first row about a town that no longer has a theatre.",
    "The river had risen in the night. From the window of the mill they could see a table, two chairs and a drowned "
    "fence drifting slowly towards the bridge.",
    "He had learnt to cook late, from a widow on the third floor, and he still measured rice with her cup. On Sundays he "
    "made soup for the whole staircase.",
    "The government promised lower taxes, the opposition promised better schools, and in the market hall the price of "
    "potatoes went up again on the day after the election.",
    "Every spring the storks came back to the chimney of the glass factory. When it was pulled down, a carpenter put up a "
    "pole with a wheel on top, and they took it as if it had always been there.",
    "She was the first in her family to cross the sea. In her suitcase were two dresses, a photograph, a bag of seeds and "
    "a letter for a cousin whom nobody had seen in twenty years.",
    "The doctor washed his hands and said that the fever would break before morning. The mother nodded, put another log "
    "on the fire, and went on counting the breaths of the child.",
    "In the last minute the ball struck the post and rolled along the line. Half of the town still swears that it was in; "
    "the other half has learnt to change the subject.",
    "Under the floor of the chapel they found a box with coins, a ring, and a child's shoe. The archaeologist drew each "
    "of them before she allowed anyone to touch them.",
    "It was a small hotel with a large clock. The guests came for the mountains, complained about the stairs, and wrote "
    "to each other for years afterwards.",
    "The soldiers had not been paid since the harvest. They sold their boots to the innkeeper, then their belts, and in "
    "the end one of them sold him the key of the town gate.",
    "My sister paints doors. She says that a door tells you more about a house than its windows do, since a window only "
    "shows what people want you to see.",
    "At low tide you can walk to the lighthouse. The keeper's dog comes to meet you half way, inspects your pockets for "
    "bread, and trots ahead over the wet sand as though he had called you.",
    "The teacher drew a circle on the blackboard and asked what it was. A wheel, said one; the moon, said another; and a "
    "girl by the window said that it was the place where the chalk had been.",
    "When the wind turned, the smoke of the vineyards came down into the valley. The pickers tied wet cloths over their "
    "mouths and worked on until the baskets were full.",
    "They buried the old king in the rain. His daughter threw a handful of earth, his minister a handful of coins, and the "
    "gravedigger waited politely until both had gone.",
    "The train stopped in the middle of a field, for no reason that anyone could see. A boy opened the window and offered "
    "an apple to a cow, who considered it for a long time.",
    "She wrote the last page on a Tuesday and did not know what to do with her hands. So she cleaned the kitchen, then the "
    "stove, then the silver spoons that nobody had used since the wedding.",
    "In the harbour the fishermen were mending their nets. One of them sang, badly, a song about a sailor who comes home "
    "to find his house full of strangers and his own name on the door.",
    "The winter was mild and the ice never held. The skates hung in the hall until April, and the pond, which had been "
    "promised to the children, went to the ducks.",
)

SUBJECTS = ("a storm at sea", "an old clock", "a lost dog", "a wedding in a village", "a football match", "the price of bread",
            "a train journey", "a school in the mountains", "a painter and her brother", "a hospital at night",
            "a war that nobody wanted", "a garden in spring", "a theft in a museum", "a famous singer", "moving to a new city",
            "a court case")  # fmt: skip
FORMS = (
    "a short story",
    "a letter to a friend",
    "a newspaper report",
    "a page of a diary",
    "a conversation",
    "an essay",
)


def docstrings(source: str) -> str:
    """The longer docstrings of a module, one after another.

    `source` is the module's text; one that Python cannot read has none.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n\n".join(text for text in found if text and len(text) >= SHORT)


@lru_cache(maxsize=2)
def documentation(held_out: bool) -> dict[str, str]:
    """Name → text: Python's documentation topics, and the docstrings of `DOCUMENTED` packages, module by module.

    `held_out` asks for the texts that nothing here is fitted on, else for all others; a name decides which it is.
    """
    topics = {k: v for k, v in standard_library().items() if k.startswith("topics/")}
    texts = {name: text for name, text in topics.items() if is_held_out(name) == held_out}
    for package in DOCUMENTED:
        spec = find_spec(package)
        folder = Path(next(iter(spec.submodule_search_locations))) if spec else Path()
        for path in sorted(folder.rglob("*.py")) if spec else ():
            name = f"{package}/{path.relative_to(folder).as_posix()}"
            if "tests" in path.parts or is_held_out(name) != held_out:
                continue
            if text := docstrings(path.read_text(encoding="utf-8", errors="replace")):
                texts[name] = text
    return texts


@lru_cache(maxsize=2)
def sources(held_out: bool) -> dict[str, str]:
    """Name → text of the standard library's modules, `held_out` or all others."""
    found = standard_library().items()
    return {k: v for k, v in found if not k.startswith("topics/") and is_held_out(k) == held_out}


def windows_of(
    tokenizer, texts: dict[str, str], n: int, length: int, seed: int = 0, each: int | None = None
) -> Int[Tensor, "n length"]:
    """Windows that do not overlap, from texts in random order until there are enough; short texts give none.

    Args:
        tokenizer: of a Hugging Face model.
        texts: name → text.
        n: how many.
        length: tokens each.
        seed: the order.
        each: at most so many of one text, from its beginning on; None: all it has.
    """
    names, rows = sorted(texts), []
    for i in torch.randperm(len(names), generator=generator(seed, 7)).tolist():
        ids = tokenizer(texts[names[i]][:CHARACTERS], add_special_tokens=False)["input_ids"]
        rows += [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)][:each]
        if len(rows) >= n:
            return torch.tensor(rows[:n])
    raise CourseError(f"These texts have only {len(rows)} windows of {length} tokens, not {n}.")


def prose_windows(tokenizer, length: int) -> Int[Tensor, "window length"]:
    """The beginnings of `PROSE`, each so many tokens of `length`; shorter ones are left out.

    `tokenizer` is that of a Hugging Face model.
    """
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:length] for text in PROSE]
    return torch.tensor([row for row in ids if len(row) == length])


def huge(x: Float[Tensor, "*rows d"], limit: float | int) -> Tensor:
    """Which vectors of `x` are longer than `limit`: rows without the last axis, True where they are left alone."""
    return x.norm(dim=-1) > limit


def limit_of(x: Float[Tensor, "*rows d"]) -> float:
    """`HUGE` times the median length of the vectors of `x`: what is longer is left out."""
    return float(HUGE * x.flatten(0, -2).float().norm(dim=-1).median())
