"""Activations of a layer as a stream of shuffled rows, from any `TinyTransformer` or `TransformerBridge`.

A dictionary is trained on millions of vectors, more than fit in memory, and neighbouring tokens are too much alike
to stand in one batch. A `Store` therefore reads blocks (one batch of windows each), pours as many as its buffer holds
into it in random order, and deals the rows out; then come the next blocks. Row r of that stream depends on the seed
and on r alone: a run that stops at any step goes on from there exactly, and memory never holds more than one buffer
and one block. Derived in notebook 05.

>>> from mi_course import activations, corpora, models
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=1, d_vocab=24))
>>> tokens = corpora.repeated_tokens(24, batch=4, period=5, copies=2)
>>> rows = activations.collect(model, "blocks.0.hook_resid_post", tokens)
>>> list(rows.shape), tokens.numel()
([40, 128], 40)
>>> store = activations.Store.of(rows.float(), buffer=16)
>>> list(store.sample(batch=8)(0).shape)
[8, 128]
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, kind_of, nearest
from mi_course.files import sha256, write_atomically

HUGE = 10  # times the median length: what counts as a sink
FORMAT = 1  # of folders on disk
BLOCK = 4096  # rows read at a time from memory or disk
CARD = "card.json"


def as_tokens(tokens: Any) -> Int[Tensor, "window pos"]:
    """Windows of tokens as whole numbers of 64 bits, from torch, NumPy or lists; one sentence for anything else."""
    if isinstance(tokens, list | np.ndarray):
        try:
            tokens = torch.as_tensor(np.asarray(tokens))
        except (TypeError, ValueError):  # words, or windows of unequal length
            pass
    if not isinstance(tokens, Tensor):
        raise CourseError(
            "tokens must be a tensor [window pos] of whole numbers, or an array or lists of them, all of one length, not "
            f"{kind_of(tokens)}: encode text first, with model.to_tokens(…) or a tokenizer's input_ids."
        )
    if tokens.is_floating_point() or tokens.ndim != 2 or not tokens.numel():
        what = f"{list(tokens.shape)} of {str(tokens.dtype).removeprefix('torch.')}"
        raise CourseError(f"tokens must be [window pos] with at least one window, whole numbers, not {what}.")
    return tokens.long()


def sinks(x: Float[Tensor, "row d"]) -> Bool[Tensor, "row"] | None:
    """Rows over `HUGE` times as long as the median one that hold a tenth of the variance or more; None without such.

    Real models keep a few of them, mostly at the first position, as a place for attention to rest (Sun et al. 2024,
    "Massive activations"). `x` are the rows that are looked at together.
    """
    lengths = x.norm(dim=-1)
    some = lengths[lengths > 0]
    if not len(some):
        return None
    few = lengths > HUGE * some.median()
    if not bool(few.any()):
        return None
    centred = (x - x.mean(0)).square().sum(-1)
    return few if centred[few].sum() >= 0.1 * centred.sum() else None


def from_the_second_on(rows: Float[Tensor, "token d"], tokens: Int[Tensor, "window pos"]) -> Tensor:
    """Rows without those of the first position of each window.

    `rows` are those of all `tokens`, window after window; `tokens` says how long a window is.
    """
    if tokens.shape[1] < 2:
        raise CourseError("Windows of one token have nothing but a first position: pass first=True.")
    return rows.view(*tokens.shape, -1)[:, 1:].flatten(0, 1)


class Reached(Exception):
    """Thrown by a hook that has what it wanted: nothing behind it is computed."""


@torch.no_grad()
def activations(model, hook: str, tokens: Any, dtype: torch.dtype = torch.float16):
    """The activations [window·pos, d] at one hook in one run; heads stand side by side. The run ends there.

    Args:
        model: a `TinyTransformer` or `TransformerBridge`.
        hook: the name of a hook point with one vector a token.
        tokens: ids [window pos].
        dtype: of the rows that are kept; float16 refuses what does not fit.
    """
    tokens = as_tokens(tokens)
    if hook not in model.hook_dict:
        raise CourseError(f"This model has no hook {hook!r}.{nearest(hook, model.hook_dict)}")
    found: list[Tensor] = []

    def keep(x: Tensor, hook: Any) -> None:
        found.append(x)
        raise Reached

    with contextlib.suppress(Reached):
        tokens = tokens.to(next(model.parameters()).device)
        model.run_with_hooks(tokens, fwd_hooks=[(hook, keep)], return_type=None)
    if not found:
        raise CourseError(f"The hook {hook} was not reached: this model does not compute it.")
    if found[0].shape[:2] != tokens.shape:
        raise CourseError(f"{hook} is {list(found[0].shape)}, not one vector for each token.")
    rows = found[0].detach().flatten(0, 1).flatten(1)
    kept = rows.to("cpu", dtype, copy=True)
    if not bool(kept.isfinite().all()):
        raise CourseError(
            f"The activations at {hook} exceed {dtype}: pass dtype=torch.float32."
            if bool(rows.isfinite().all())
            else f"The activations at {hook} hold NaN or infinity: look at the model that made them."
        )
    return kept


def collect(
    model,
    hook: str,
    tokens: Any,
    *,
    batch: int = 64,
    dtype: torch.dtype = torch.float16,
    first: bool = True,
) -> Float[Tensor, "token d"]:
    """The activations of fixed windows [window pos] in their order, one row a token.

    Real models keep a few huge activations, mostly at the first position; where some are found a warning says so,
    and `first=False` leaves the first position of each window out.

    Args:
        model: a `TinyTransformer` or `TransformerBridge`.
        hook: the name of a hook point.
        tokens: ids [window pos].
        batch: windows run at once.
        dtype: of the rows.
        first: keep the first position of each window.
    """
    tokens, rows = as_tokens(tokens), None
    for start in range(0, len(tokens), batch):
        part = tokens[start : start + batch]
        found = activations(model, hook, part, dtype)
        if not first:
            found = from_the_second_on(found, part)
        if rows is None:
            warn_of_sinks(found, hook, part if first else part[:, 1:], first)
            rows = torch.empty(len(tokens) * len(found) // len(part), found.shape[1], dtype=dtype)
        at = start * len(found) // len(part)
        rows[at : at + len(found)] = found
    return rows


def warn_of_sinks(
    rows: Float[Tensor, "token d"], hook: str, tokens: Int[Tensor, "window pos"], first: bool = True
) -> None:
    """A warning where some `rows` are sinks: how many, and how many of them stand at the first position.

    `rows` are those of all `tokens`, window after window; `hook` is the name that the warning says; without `first`,
    the first positions were left out before, and nothing is said of them.
    """
    if (few := sinks(rows.float())) is not None:
        there = int(few.view(tokens.shape)[:, 0].sum())
        at = f", {there:,} of them at the first position (first=False leaves it out)" if first else ""
        warnings.warn(
            f"{int(few.sum()):,} of {len(rows):,} activations at {hook} are over {HUGE} times as long as the median{at}: "
            "what is trained or measured on them is about them.",
            stacklevel=3,
        )


class Store:
    """A stream of shuffled activation rows.

    `Store(model, hook, sampler)` runs the model on `sampler(0)`, `sampler(1)`, … [window pos] as rows are asked for;
    with a tensor of windows in the place of the sampler every row comes once an epoch. `Store.of(rows)` deals out
    rows in memory, `Store.open(folder)` those of a folder that `write` made.

    `first` says whether each window's first position is among the rows. By default it is for a `TinyTransformer`,
    and left out of other models, which keep their huge activations there (see `sinks`).

    Args:
        model: the model that is run.
        hook: the name of a hook point.
        sampler: step → windows [window pos], or a tensor of windows.
        buffer: rows shuffled together.
        seed: of the order of the rows.
        batch: windows a block, for a tensor of windows.
        dtype: of the rows.
        first: keep the first position of each window; None: of our own models.
    """

    def __init__(
        self,
        model,
        hook: str,
        sampler: Any,
        *,
        buffer: int = 2**18,
        seed: int = 0,
        batch: int = 64,
        dtype: torch.dtype = torch.float16,
        first: bool | None = None,
    ):
        from mi_course.models import TinyTransformer

        fixed = not callable(sampler)
        sampler = as_tokens(sampler) if fixed else sampler
        self.hook, self.first = hook, isinstance(model, TinyTransformer) if first is None else first

        def windows(block: int) -> Tensor:
            return as_tokens(sampler[block * batch : (block + 1) * batch] if fixed else sampler(block))

        def read(block: int) -> Tensor:
            tokens = windows(block)
            rows = activations(model, hook, tokens, dtype)
            return rows if self.first else from_the_second_on(rows, tokens)

        counted = 0 if self.first else 1
        n, pos = windows(0).shape
        self._set(read, n * (pos - counted), len(sampler) * (pos - counted) if fixed else None, buffer, seed)

    @classmethod
    def of(cls, rows: Any, *, buffer: int = 2**18, seed: int = 0) -> Store:
        """A store of rows [row d] that are in memory.

        Args:
            rows: finite numbers [row d].
            buffer: rows shuffled together.
            seed: of their order.
        """
        if not isinstance(rows, Tensor | np.ndarray):
            raise CourseError(f"A store holds rows [row d] of finite numbers, not {kind_of(rows)}.")
        rows = torch.as_tensor(rows)
        if rows.ndim != 2 or not bool(rows.isfinite().all()):
            raise CourseError("A store holds rows [row d] of finite numbers.")
        store, size = cls.__new__(cls), min(BLOCK, max(1, len(rows)))
        store.hook, store.first = "", True
        store._set(lambda i: rows[i * size : (i + 1) * size], size, len(rows), min(buffer, len(rows)), seed)
        return store

    def _set(self, read, size: int, rows: int | None, buffer: int, seed: int) -> None:
        """How blocks are read, how many rows a block has, and how many there are (None: without end)."""
        if buffer < 1:
            raise CourseError(f"A buffer holds at least one row, not {buffer}.")
        if rows is not None and rows < buffer:
            raise CourseError(
                f"There are {rows:,} rows, fewer than the buffer of {buffer:,}: take more windows or a smaller buffer."
            )
        self._read, self.block, self.n_rows, self.buffer, self.seed = read, size, rows, buffer, seed
        self._held: tuple[int, Tensor] | None = None  # number of the buffer in memory, its rows
        per = max(1, buffer // size)  # blocks a buffer
        blocks = per if rows is None else math.ceil(rows / size)
        n = math.ceil(blocks / per)  # buffers an epoch, as even as possible
        self._cuts = [blocks * i // n for i in range(n + 1)]  # buffer i holds blocks cuts[i] … cuts[i + 1]
        total = per * size if rows is None else rows
        self._starts = [min(cut * size, total) for cut in self._cuts]  # first row of each buffer in its epoch
        self._mean_square: float | None = None

    # -- the stream ------------------------------------------------------------------------------

    def _fill(self, number: int) -> Tensor:
        """The rows of one buffer, each block's rows scattered over it."""
        if self._held is not None and self._held[0] == number:
            return self._held[1]
        self._held = None  # free it first: never two buffers in memory
        epoch, i = divmod(number, len(self._cuts) - 1)
        begin, end = self._cuts[i], self._cuts[i + 1]
        size = self._starts[i + 1] - self._starts[i]
        place = torch.randperm(size, generator=generator(self.seed, number))
        held, at = None, 0
        for block in self._order(epoch)[begin:end]:
            rows = self._read(block)
            if held is None:
                held = torch.empty(size, rows.shape[1], dtype=rows.dtype)
            if len(rows) != len(place[at : at + self.block]):
                raise CourseError(
                    f"The sampler gave {len(rows)} tokens, and {self.block} before: keep the batch."
                )
            held[place[at : at + len(rows)]] = rows
            at += len(rows)
        self._held = (number, held)
        return held

    def _order(self, epoch: int) -> list[int]:
        """The blocks of an epoch: fresh ones of an endless stream, else all in random order, a shorter one last."""
        n = self._cuts[-1]
        if self.n_rows is None:
            return list(range(epoch * n, (epoch + 1) * n))
        whole = self.n_rows // self.block
        order = torch.randperm(whole, generator=generator(self.seed + 1, epoch)).tolist()
        return order + list(range(whole, n))

    def _take(self, start: int, n: int) -> Tensor:
        """Rows start … start + n of the stream, in the buffer's own format."""
        pieces = []
        while n > 0:
            epoch, at = divmod(start, self._starts[-1])
            i = bisect_right(self._starts, at) - 1
            held = self._fill(epoch * (len(self._starts) - 1) + i)
            piece = held[at - self._starts[i] :][:n].clone()
            pieces.append(piece)
            start, n = start + len(piece), n - len(piece)
        return torch.cat(pieces)

    def rows(self, start: int, n: int) -> Float[Tensor, "n d"]:
        """Rows `start` … start + n of the shuffled stream, the same whenever they are asked for."""
        if start < 0 or n < 1:
            raise CourseError(f"Rows are asked for from start ≥ 0, at least one: start = {start}, n = {n}.")
        return self._take(start, n).float()

    def sample(self, batch: int) -> Callable[[int], Float[Tensor, "batch d"]]:
        """A sampler for `sae.train`: step → the next `batch` rows; a resumed run gets what it would have got."""
        return lambda step: self.rows(step * batch, batch)

    @property
    def mean_square(self) -> float:
        """E‖x‖²: over all rows of a folder, over the first buffer otherwise."""
        if self._mean_square is None:
            first = self._fill(0)
            total = sum(float(part.float().square().sum()) for part in first.split(BLOCK))
            self._mean_square = total / len(first)
        return self._mean_square

    @property
    def d(self) -> int:
        """The width of a row."""
        return self._fill(0).shape[1]

    def __repr__(self):
        count = "rows without end" if self.n_rows is None else f"{self.n_rows:,} rows"
        left_out = "" if self.first else ", first positions left out"
        return f"Store({self.hook or 'rows'}: {count}, {self.buffer:,} in the buffer{left_out})"

    # -- files -----------------------------------------------------------------------------------

    def write(self, n: int, folder: str | Path, *, shard: int = 2**16, **card) -> Path:
        """Write the stream's first n rows as safetensors shards with a card; a run cut short is taken up again.

        The card names each shard's rows and sha256 and is renewed after each: a kill or a full disk leaves what was
        written before, and `write` with the same store goes on behind it.

        Args:
            n: rows to write.
            folder: where; made if need be.
            shard: rows a file.
            card: more to note on the card, by name.
        """
        if n < self.buffer:
            raise CourseError(
                f"{n:,} rows are fewer than the buffer of {self.buffer:,}: write more or buffer less."
            )
        folder = Path(folder)
        settings = {
            "format": FORMAT, "rows": n, "shard": shard, "hook": self.hook, "buffer": self.buffer, "seed": self.seed,
            "first": hashlib.sha256(self._take(0, min(n, BLOCK)).view(torch.uint8).numpy().tobytes()).hexdigest(),
        }  # fmt: skip
        done = self._written(folder, settings)
        for start in range(sum(part["rows"] for part in done), n, shard):
            x = self._take(start, min(shard, n - start))
            blob = save({"x": x})
            done.append({
                "file": f"{len(done):05d}.safetensors", "rows": len(x), "sha256": hashlib.sha256(blob).hexdigest(),
                "sum_of_squares": sum(float(part.double().square().sum()) for part in x.split(BLOCK)),
            })  # fmt: skip
            mean_square = sum(part["sum_of_squares"] for part in done) / sum(part["rows"] for part in done)
            whole = settings | {"d": x.shape[1], "mean_square": mean_square, "shards": done} | card
            whole["first_positions"] = self.first
            text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
            write_atomically({folder / done[-1]["file"]: blob, folder / CARD: text.encode()})
        return folder

    @staticmethod
    def _written(folder: Path, settings: dict) -> list[dict]:
        """The shards an earlier `write` of the same store left."""
        if not (folder / CARD).is_file():
            return []
        card = read_card(folder)
        if other := [key for key, value in settings.items() if card.get(key) != value]:
            raise CourseError(
                f"{folder} holds another store (its {', '.join(other)}): choose another folder."
            )
        for part in card["shards"]:
            check_shard(folder, part)
        return list(card["shards"])

    @classmethod
    def open(cls, folder: str | Path, *, buffer: int = 2**18, seed: int = 0, verify: bool = True) -> Store:
        """The rows of a folder, mapped into memory block by block; `verify` compares every shard's sha256 first.

        Args:
            folder: what `write` made.
            buffer: rows shuffled together.
            seed: of their order.
            verify: compare the hashes.
        """
        folder = Path(folder)
        card = read_card(folder)
        there = sum(part["rows"] for part in card["shards"])
        if there != card["rows"]:
            raise CourseError(
                f"{folder} is unfinished, {there:,} of {card['rows']:,} rows: run `write` again."
            )
        for part in card["shards"]:
            check_shard(folder, part, verify)
        store = cls.__new__(cls)
        store.hook, store.first = card["hook"], card.get("first_positions", True)
        size = min(BLOCK, card["shard"])
        ends = [0]
        for part in card["shards"]:
            ends.append(ends[-1] + part["rows"])

        def read(block: int) -> Tensor:
            return read_rows(folder, card["shards"], ends, block * size, min((block + 1) * size, there))

        store._set(read, size, there, min(buffer, there), seed)
        store._mean_square = card["mean_square"]
        return store


def read_card(folder: Path) -> dict:
    """The card of a folder of shards."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(
            f"{folder} is not a folder of activations: no readable {CARD} ({error})."
        ) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT or "shards" not in card:
        raise CourseError(f"{folder / CARD} is not a card of activations in format {FORMAT}.")
    return card


def check_shard(folder: Path, part: dict, verify: bool = True) -> None:
    """One sentence for a shard that is missing or not what the card says.

    `part` is the card's entry on the shard, its file in `folder` and its sha256; without `verify` only its presence
    is looked at.
    """
    path = folder / part["file"]
    if not path.is_file():
        raise CourseError(f"The shard {path} is missing: write the store again into an empty folder.")
    if verify and sha256(path) != part["sha256"]:
        raise CourseError(f"The shard {path} is truncated or altered: its sha256 is not its card's.")


def read_rows(folder: Path, shards: list[dict], ends: list[int], start: int, end: int) -> Tensor:
    """Rows start … end across shards; each file is mapped only while it is read.

    `shards` are the card's entries on the files in `folder`, `ends` the number of rows before each of them and at the
    end; `start` and `end` count rows of the whole store.
    """
    pieces = []
    while start < end:
        i = bisect_right(ends, start) - 1
        stop = min(end, ends[i + 1])
        try:
            with safe_open(folder / shards[i]["file"], framework="pt") as file:
                pieces.append(file.get_slice("x")[start - ends[i] : stop - ends[i]])
        except (OSError, SafetensorError) as error:
            raise CourseError(f"The shard {folder / shards[i]['file']} cannot be read ({error}).") from error
        start = stop
    return torch.cat(pieces)
