"""Files: where the course's data lies, writing whole or not at all, and checked pairs of weights and card.

torch is imported where weights are read or written, so that what only wants a folder or a card answers at once.

>>> from mi_course import files
>>> "induction-2l" in files.checkpoint_names()
True
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mi_course.errors import CourseError, kind_of, nearest

FORMAT = 1  # of saved checkpoints
Tensors = dict[str, Any]  # name → torch.Tensor
DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.uint8": "U8", "torch.bool": "BOOL",
}  # in safetensors' words  # fmt: skip


KINDS = {
    "config": "model", "sae": "autoencoder", "task": "run", "lens": "lens", "target": "oracle", "dtype": "sweep",
}  # an entry that only such cards have → what is shipped with it  # fmt: skip
BESIDE = {"log": "training log of", "snapshots": "series of snapshots of"}  # a model: its name ends so


def data_dir() -> Path:
    """The folder with ledger, checkpoints and tokenizers: inside an installed wheel, else in the clone."""
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "claims").is_dir():
            return folder
    raise CourseError(f"The course's data folder is neither in {package} nor beside it: install it again.")


# -- writing -------------------------------------------------------------------------------------


def write(path: str | Path, content: str | bytes) -> Path:
    """Write `content`, bytes or text, to `path`, whole or not at all; see `write_atomically`."""
    write_atomically({Path(path): content})
    return Path(path)


def write_atomically(files: dict[Path, str | bytes | Iterable[bytes]]) -> None:
    """Write every file beside its place, then rename them all: a crash, a kill or a full disk spoils no file.

    What fails leaves all files as they were. Only a kill between two renamings can leave some new beside some old; what
    the new ones replaced then waits beside them (`waiting`), where `read_checked` finds the weights of an old card.

    Text is written in UTF-8 with `\\n` at its lines' ends on every system. `files` is path → content: text, bytes, or pieces of
    bytes, which are asked for one after another, file by file.
    """
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, part in parts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                for piece in _pieces(files[path]):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        _put_in_place(parts)
    except OSError as error:
        raise CourseError(
            f"{path} could not be written ({error.strerror or error}); what was there before is untouched."
        ) from error
    finally:
        for part in parts.values():
            _remove(part)


def _put_in_place(parts: dict[Path, Path]) -> None:
    """Rename every part; what stood where the first ones go waits for the last, and goes back where one fails."""
    *first, last = parts
    held, fresh = [], []
    try:
        for path in first:
            if path.exists():
                os.replace(path, waiting(path))
                held.append(path)
            else:
                fresh.append(path)
            os.replace(parts[path], path)
        os.replace(parts[last], last)
    except BaseException:
        for path in fresh:
            _remove(path)
        for path in held:
            os.replace(waiting(path), path)
        raise
    for path in held:
        _remove(waiting(path))


def waiting(path: Path) -> Path:
    """Where the old file at `path` waits until those that are written with the new one are in their places."""
    return path.with_name(f".{path.name}.before")


def _pieces(content: str | bytes | Iterable[bytes]) -> Iterable[bytes]:
    content = content.encode() if isinstance(content, str) else content
    return [content] if isinstance(content, bytes) else content


def _remove(part: Path) -> None:
    """Without a word: the part was renamed, or a file stands where its folder should be."""
    try:
        part.unlink(missing_ok=True)
    except OSError:
        pass


# -- checked pairs ---------------------------------------------------------------------------------


def save_checked(path: str | Path, tensors: Tensors, **card) -> Path:
    """`tensors`, name → tensor, as `path`.safetensors with a card `path`.json that carries their sha256; see `read_checked`."""
    from safetensors.torch import save

    path = with_suffix(path, ".safetensors")
    blob = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    card = {"format": FORMAT, "sha256": hashlib.sha256(blob).hexdigest(), **card}
    write_atomically({path: blob, with_suffix(path, ".json"): card_text(card)})
    return path


def save_in_pieces(path: str | Path, pieces: Iterable[bytes], **card) -> Path:
    """As `save_checked`, from the bytes of a safetensors file in `pieces`, so that they need not be in memory at once.

    `path` is that of the pair; `card`, key=value, is what its card says more.
    """
    path, digest = with_suffix(path, ".safetensors"), hashlib.sha256()

    def noted() -> Iterator[bytes]:
        for piece in pieces:
            digest.update(piece)
            yield piece

    def told() -> Iterator[bytes]:  # is asked when the pieces have been written
        yield card_text({"format": FORMAT, "sha256": digest.hexdigest(), **card}).encode()

    write_atomically({path: noted(), with_suffix(path, ".json"): told()})
    return path


def safetensors_head(described: dict[str, tuple], metadata: dict[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file whose tensors follow in this order.

    `described` is name → (dtype, shape); `metadata`, text → text, goes in beside them.
    """
    head: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape) in described.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        head[name] = {"dtype": DTYPES[str(dtype)], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def add_to_card(path: str | Path, **more) -> None:
    """Say `more` (key=value) on the card of the pair saved at `path`."""
    file = with_suffix(path, ".json")
    write(file, card_text(json.loads(file.read_text(encoding="utf-8")) | more))


def card_text(card: dict) -> str:
    """A card as it stands in its file."""
    return json.dumps(card, indent=1, ensure_ascii=False) + "\n"


def with_suffix(path: str | Path, suffix: str) -> Path:
    """`a/b`, `a/b.safetensors` and `a/b.json` all name one checkpoint.

    The `path` of its file with that `suffix`, ".safetensors" or ".json".
    """
    path = Path(path)
    stem = path.name.removesuffix(".safetensors").removesuffix(".json")
    return path.with_name(stem + suffix)


def read_checked(path: str | Path) -> tuple[Tensors, dict]:
    """Tensors and card of `path`.safetensors, after the hash of the one was found in the other.

    Where a kill came before the card of new weights, these are the old ones, see `write_atomically`.
    """
    from safetensors.torch import load

    weights, card = with_suffix(path, ".safetensors"), read_card(path)[1]
    for file in _places(weights):
        blob = file.read_bytes()
        if hashlib.sha256(blob).hexdigest() == card.get("sha256"):
            return load(blob), card
    raise CourseError(altered(weights))


def read_card(path: str | Path, verify: bool = False) -> tuple[Path, dict]:
    """Where the weights of the pair at `path` are, and their card; see `read_checked`.

    With `verify` the hash of the weights is compared, in pieces: they need not fit into memory.
    """
    weights, card_file = with_suffix(path, ".safetensors"), with_suffix(path, ".json")
    rebuild = rebuilt_by(weights)
    places = _places(weights)
    if not places or not card_file.is_file():
        raise CourseError(f"{card_file if places else weights} is missing. {rebuild}")
    try:
        card = json.loads(card_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CourseError(f"{card_file} is not a readable card ({error}). {rebuild}") from error
    if not isinstance(card, dict):
        raise CourseError(f"{card_file} is not a readable card (it holds {kind_of(card)}). {rebuild}")
    if card.get("format") != FORMAT:
        raise CourseError(
            f"{card_file} has format {card.get('format')}; this version reads {FORMAT}. {rebuild}"
        )
    if verify:
        places = [file for file in places if sha256(file) == card.get("sha256")]
        if not places:
            raise CourseError(altered(weights))
    return places[0], card


def remove_checked(path: str | Path) -> None:
    """Take away the weights and the card of the pair at `path`."""
    weights = with_suffix(path, ".safetensors")
    for file in (with_suffix(path, ".json"), weights, waiting(weights)):
        file.unlink(missing_ok=True)


def _places(weights: Path) -> list[Path]:
    """The files that can be the weights of a card: those in their place, and those that wait."""
    return [file for file in (weights, waiting(weights)) if file.is_file()]


def sha256(path: Path) -> str:
    """Of the file at `path`, piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**24):
            digest.update(piece)
    return digest.hexdigest()


def rebuilt_by(weights: Path) -> str:
    """The sentence that says how the file `weights` is made again; a log and snapshots are made with their model."""
    name = weights.stem
    for kind in BESIDE:
        name = name.removesuffix(f"-{kind}")
    return f"Rebuild it with `python -m mi_course train {name}`."


def altered(weights: Path) -> str:
    """The sentence on a file `weights` that is not what its card says."""
    return f"{weights} is truncated or altered: its sha256 is not its card's. {rebuilt_by(weights)}"


# -- what is shipped -------------------------------------------------------------------------------


def checkpoints() -> Path:
    """The folder of what is shipped, and where `train` writes unless told otherwise."""
    return data_dir() / "checkpoints"


def checkpoint_names(kind: str = "config") -> list[str]:
    """Names of the models shipped in `data/checkpoints/`.

    Another `kind`, one of `KINDS`, gives the autoencoders ("sae") or whatever else; one of `BESIDE` gives the models that have
    a "log" or "snapshots".
    """
    cards = sorted(checkpoints().glob("*.json"))
    if kind in BESIDE:
        return [card.stem.removesuffix(f"-{kind}") for card in cards if card.stem.endswith(f"-{kind}")]
    return [card.stem for card in cards if kind in json.loads(card.read_text(encoding="utf-8"))]


def minutes_of(name: str) -> float:
    """How many minutes the shipped checkpoint `name` took to train, as its card says; NaN where none is shipped."""
    card = checkpoints() / f"{name}.json"
    return json.loads(card.read_text(encoding="utf-8"))["minutes"] if card.exists() else float("nan")


def shipped_path(name_or_path: str | Path, kind: str = "config") -> Path:
    """Where the card of a shipped checkpoint is, by its name, or of any other, by path.

    `name_or_path` is one or the other; `kind`, one of `KINDS` such as "config" for a model or "sae" for an autoencoder, decides
    which names are near to an unknown one. With one of `BESIDE` it is a model that is named, and the path that of its log
    or its snapshots.
    """
    named = with_suffix(name_or_path, ".json")
    path = named.with_name(f"{named.stem}-{kind}.json") if kind in BESIDE else named
    if path.parent == Path(".") and not path.exists():
        known = checkpoint_names(kind)
        if named.stem not in known:
            what = (KINDS | BESIDE)[kind]
            raise CourseError(f"There is no {what} {str(name_or_path)!r}.{nearest(named.stem, known)}")
        path = checkpoints() / path.name
    return path
