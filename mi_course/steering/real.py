"""What notebook 12 asks of SmolLM2: its prompts, and the three sweeps that are too slow to be run each time.

The sweeps write *tokens*; whoever reads them scores them by the rules of `scores`. `python -m mi_course train
smollm2-doses smollm2-refusal smollm2-roles` runs them. Derived in notebook 12.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from mi_course.files import data_dir, read_checked, shipped_path
from mi_course.lenses.streams import hook_of, streams
from mi_course.pretrained import chat
from mi_course.steering.directions import Direction, activations, direction, shuffled
from mi_course.steering.edits import Ablate, Add
from mi_course.steering.generating import generate, mean_loss, texts
from mi_course.steering.scores import share

DOSES = (0.15, 0.3, 0.45, 0.6, 0.9)  # of the stream's norm
MAIN = ("sea", "french")  # the behaviours that effects rest on
KINDS = ("personal", "action", "now")  # of unanswerable requests
LAYERS, CHOOSING = (8, 12), 0.45  # among which a behaviour's layer is chosen, and at which dose
REFUSAL_LAYERS = (14, 18, 20, 22, 24)
AXIS_LAYER = 18
LENGTH, SHORT = 24, 14  # tokens of an answer; refusals show themselves early
LOSS_LIMIT = 0.5  # nats, for a layer of the refusal direction
DOSE_ADDED = 1.5  # times the refusal direction
PUSH = 0.4  # of the stream's norm, along the axis
WRAPPED_ASSISTANTS = ("helpful AI assistant", "chatbot", "language model")


@lru_cache(maxsize=1)
def prompts() -> dict:
    """Pairs, contrasts, requests, roles: `data/steering.json`, written for this course."""
    return json.loads((data_dir() / "steering.json").read_text(encoding="utf-8"))


def plain_ids(model, written: Sequence[str]) -> list[Int[Tensor, "_pos"]]:
    """Texts as they are `written`, in tokens of `model`: no chat, but the bridge's beginning-of-text token before each."""
    return [model.tokenizer(text, return_tensors="pt")["input_ids"][0] for text in written]


def asked(model, requests: Sequence[str], system: str | None = None) -> list[Int[Tensor, "_pos"]]:
    """Requests as the chat `model` reads them, with a `system` prompt or the template's own."""
    return [chat(model, request, system)[0] for request in requests]


@torch.no_grad()
def stream_norm(model, rows: Sequence[Int[Tensor, "_pos"]], layer: int) -> float:
    """Median norm of the stream of `model` before a `layer`, over all tokens of the texts in `rows` but the first."""
    found = [streams(model, row[None], [layer])[layer][0, 1:] for row in rows]
    return float(torch.cat(found).norm(dim=1).median())


def contrast(model, behaviour: str, layers: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Layer → stream vectors of the contrasting sentences of a `behaviour`, and which of them have it.

    `model` is a bridge, `layers` are those to look at.
    """
    pairs = prompts()["contrasts"][behaviour]
    sentences = [has for has, _ in pairs] + [lacks for _, lacks in pairs]
    z = torch.arange(len(sentences)) < len(pairs)
    return {k: (x, z) for k, x in activations(model, plain_ids(model, sentences), layers, "mean").items()}


# -- sweep 1: behaviours and doses -----------------------------------------------------------------


def doses(model) -> Iterator[tuple[str, Tensor]]:
    """Name → result of what RM-13 and RM-14 need of `model`: vectors, written tokens, losses.

    The layer of the sea and of French is the one at which .45 of the stream's norm shows them most often on six requests
    of their own; the three others, which no effect rests on, take the first.
    """
    asks, other = prompts()["ask"], plain_ids(model, prompts()["neutral"])
    choose, test = asked(model, asks["choose"]), asked(model, asks["test"])
    end = model.tokenizer.eos_token_id
    write = lambda rows, *edits: generate(model, rows, LENGTH, edits=edits, stop=end).int()
    norms = {layer: stream_norm(model, other, layer) for layer in LAYERS}
    yield "norms", torch.tensor([norms[layer] for layer in LAYERS])
    yield "base", write(test)
    yield "base.loss", torch.tensor(mean_loss(model, other))
    used = set()
    for name in prompts()["contrasts"]:
        rows, shares = contrast(model, name, LAYERS), {}
        for layer in LAYERS if name in MAIN else ():
            found = direction(*rows[layer], layer, model).scaled(norms[layer])
            tried = write(choose, Add(found, coefficient=CHOOSING))
            yield f"{name}.tried.{layer}", tried
            shares[layer] = share(texts(model, tried), name)
        layer = max(LAYERS, key=lambda k: (shares.get(k, 0), -k))
        used |= {layer} if name in MAIN else set()
        found = direction(*rows[layer], layer, model).scaled(norms[layer])
        yield f"{name}.layer", torch.tensor(layer)
        yield f"{name}.vector", found.vector.float()
        yield f"{name}.said", at_every_dose(model, test, found)
        for dose in DOSES:
            yield f"{name}.loss.{dose}", torch.tensor(mean_loss(model, other, [Add(found, coefficient=dose)]))
        if name in MAIN:
            mixed = shuffled(*rows[layer], layer, model, seed=0).scaled(norms[layer])
            yield f"{name}.shuffled", write(test, Add(mixed, coefficient=CHOOSING))
    for layer in sorted(used):
        for seed in range(5):
            drawn = Direction(torch.ones(model.cfg.d_model), layer).random(seed).scaled(norms[layer])
            yield f"random.{layer}.{seed}", at_every_dose(model, test, drawn)


def at_every_dose(model, rows: Sequence[Tensor], found: Direction) -> Int[Tensor, "dose row pos"]:
    """What `model` answers to `rows` at each of `DOSES` of a direction `found`, all in one batch."""
    vectors = torch.cat([(dose * found.vector).expand(len(rows), -1) for dose in DOSES])
    edit, end = Add(vectors, found.layer), model.tokenizer.eos_token_id
    written = generate(model, [*rows] * len(DOSES), LENGTH, edits=[edit], stop=end)
    return written.int().unflatten(0, (len(DOSES), len(rows)))


# -- sweep 2: refusal ------------------------------------------------------------------------------


def refusal(model) -> Iterator[tuple[str, Tensor]]:
    """Name → result of what RM-15 and RM-17 need of `model`.

    The layer is chosen on validation pairs: the most refusals taken away by ablation plus those brought by addition, among
    layers at which neither costs more than `LOSS_LIMIT` on other text.
    """
    told, other = prompts(), plain_ids(model, prompts()["neutral"])
    end, kinds = model.tokenizer.eos_token_id, ("unanswerable", "answerable")
    rows = {(part, kind): asked(model, [p[kind] for p in pairs], told["firm"])
            for part, pairs in told["pairs"].items() for kind in kinds}  # fmt: skip
    write = lambda part, kind, *edits: generate(model, rows[part, kind], SHORT, edits=edits, stop=end).int()
    rate = lambda said: share(texts(model, said), "refusal")
    base = mean_loss(model, other)
    yield "base.loss", torch.tensor(base)
    x = activations(model, [*rows["train", kinds[0]], *rows["train", kinds[1]]], REFUSAL_LAYERS)
    z = torch.arange(2 * len(rows["train", kinds[0]])) < len(rows["train", kinds[0]])
    found, value = {layer: direction(x[layer], z, layer, model) for layer in REFUSAL_LAYERS}, {}
    many = lambda rows, vectors, edit: each(model, rows, vectors, edit)
    gone = many(rows["validation", kinds[0]], [d.vector for d in found.values()], Ablate)
    yield "validation.ablated", gone
    for i, (layer, d) in enumerate(found.items()):
        costs = [
            mean_loss(model, other, [edit]) - base for edit in (Ablate(d), Add(d, coefficient=DOSE_ADDED))
        ]
        came = write("validation", kinds[1], Add(d, coefficient=DOSE_ADDED))
        yield f"validation.{layer}.added", came
        yield f"validation.{layer}.costs", torch.tensor(costs)
        value[layer] = rate(came) - rate(gone[i]) - 10 * (max(costs) > LOSS_LIMIT)
    layer = max(value, key=lambda k: (value[k], k))
    d = found[layer]
    yield "layer", torch.tensor(layer)
    yield "vector", d.vector.float()
    for kind in kinds:
        yield f"test.{kind}", write("test", kind)
    default = asked(model, [p[kinds[0]] for p in told["pairs"]["test"]])
    yield "test.default", generate(model, default, SHORT, stop=end).int()
    of_kind = lambda kind: torch.tensor([p["kind"] == kind for p in told["pairs"]["train"]]).repeat(2)
    others = {"found": d, "shuffled": shuffled(x[layer], z, layer, model, seed=0)}
    others |= {f"random{seed}": d.random(seed) for seed in range(10)}
    others |= {f"only.{k}": direction(x[layer][of_kind(k)], z[of_kind(k)], layer, model) for k in KINDS}
    vectors = [one.vector for one in others.values()]
    adding = lambda v: Add(DOSE_ADDED * v, layer)
    for name, kind, edit in (("ablated", kinds[0], Ablate), ("added", kinds[1], adding)):
        parts = [many(rows["test", kind], vectors[i : i + 5], edit) for i in range(0, len(vectors), 5)]
        for other_name, said in zip(others, torch.cat(parts)):
            yield f"test.{other_name}.{name}", said.clone()
    everywhere = {"spared": 0, "touched": None, "other": 4}
    for name, first in everywhere.items():
        yield f"cost.{name}", torch.tensor(mean_loss(model, other, [Ablate(d)], first=first) - base)
    yield "cost.added", torch.tensor(mean_loss(model, other, [Add(d, coefficient=DOSE_ADDED)]) - base)


def each(model, rows: Sequence[Tensor], vectors: Sequence[Tensor], edit) -> Int[Tensor, "vector row pos"]:
    """What `model` answers to `rows` under `edit(vector)` for each of the `vectors`, all in one batch."""
    stacked = torch.stack(list(vectors)).repeat_interleave(len(rows), dim=0)
    end = model.tokenizer.eos_token_id
    written = generate(model, [*rows] * len(vectors), SHORT, edits=[edit(stacked)], stop=end)
    return written.int().unflatten(0, (len(vectors), len(rows)))


# -- sweep 3: roles --------------------------------------------------------------------------------


class Listening:
    """An edit that changes nothing and keeps the mean of the streams at the last column, which an answer passes through.

    `layer` is where it listens.
    """

    def __init__(self, layer: int):
        self.layer, self.heard = layer, []

    def sites(self, model) -> list[str]:
        """The one hook in `model`."""
        return [hook_of(model, self.layer)]

    def __call__(self, x):
        self.heard.append(x[:, -1].clone())
        return x


def systems(wording: str) -> dict[str, str]:
    """Who speaks → system prompt, for a `wording`: `wrapped`, the same for all, or `natural`."""
    told = prompts()
    if wording == "natural":
        return told["natural"] | told["assistants"]
    names = [*told["roles"], *WRAPPED_ASSISTANTS]
    return {name: told["wrapper"].format(with_article(name)) for name in names}


def with_article(name: str) -> str:
    """a pirate, an alien."""
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def roles(model) -> Iterator[tuple[str, Tensor]]:
    """Name → result of what RM-18 needs of `model`: a vector for each role, and what roles say when they are moved."""
    end, told = model.tokenizer.eos_token_id, prompts()
    vectors = {}
    for wording in ("wrapped", "natural"):
        rows = []
        for system in systems(wording).values():
            ear = Listening(AXIS_LAYER)
            generate(model, asked(model, told["questions"], system), SHORT, edits=[ear])
            rows.append(torch.stack(ear.heard[-SHORT:]).mean((0, 1)))
        vectors[wording] = torch.stack(rows)
        yield f"{wording}.vectors", vectors[wording]
    n = len(told["roles"])
    x = vectors["wrapped"]
    axis = Direction(difference_of_means(x, torch.arange(len(x)) >= n), AXIS_LAYER)
    norm = stream_norm(model, plain_ids(model, told["neutral"]), AXIS_LAYER)
    asking = [
        q for name in told["roles"] for q in asked(model, told["questions"][1:4:2], systems("wrapped")[name])
    ]
    write = lambda *edits: generate(model, asking, LENGTH, edits=edits, stop=end).int()
    yield "norm", torch.tensor(norm)
    yield "said", write()
    yield "said.axis", write(Add(axis.scaled(norm), coefficient=PUSH))
    for seed in range(5):
        yield f"said.random{seed}", write(Add(axis.random(seed).scaled(norm), coefficient=PUSH))


SWEEPS = {"smollm2-doses": doses, "smollm2-refusal": refusal, "smollm2-roles": roles}


def shipped(name: str | Path) -> dict[str, Tensor]:
    """What a shipped sweep, a `name` in `SWEEPS` or a path, has written: its tensors by name."""
    return read_checked(shipped_path(name, "dtype"))[0]
