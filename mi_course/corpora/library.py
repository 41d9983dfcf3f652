"""Text that is on every machine, and toy languages that carry their own truth.

`python_text()` reads the running interpreter's standard library: its sources and its documentation. Nothing
is copied into the course, and a hash of each file's name decides whether it is trained on or held out.
Your own text comes in through `from_folder` or `from_huggingface`.
Planted corpora (`SkipTrigrams`, `BigramChain`, `random_repeats`, …) know what a perfect reader would find.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from mi_course.corpora.corpus import END_OF_TEXT, HELD_OUT, Corpus
from mi_course.errors import CourseError, nearest
from mi_course.files import data_dir

SKIP_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "encodings",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "lib2to3",
}
SKIP_FOLDERS |= {"__pycache__", "_bundled", "ensurepip", "lib-dynload", "__phello__"}
SKIP_FILES = {"html/entities.py", "keyword.py", "token.py", "LICENSE.txt", "this.py", "antigravity.py"}


# -- real text -----------------------------------------------------------------------------------


def standard_library() -> dict[str, str]:
    """Name → text of the running interpreter's library sources and documentation topics.

    Left out: tests, tables (encodings, HTML entities), generated modules and licence texts.
    """
    root = Path(sysconfig.get_path("stdlib"))
    texts = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        generated = path.name.startswith("_sysconfigdata")
        if generated or SKIP_FOLDERS & set(path.relative_to(root).parts[:-1]) or name in SKIP_FILES:
            continue
        texts[name] = path.read_text(encoding="utf-8", errors="replace")
    from pydoc_data.topics import topics

    return texts | {f"topics/{name}": text for name, text in sorted(topics.items())}


def files_below(folder: str | Path, suffixes: Iterable[str] | None = None) -> dict[str, str]:
    """Name → text of every readable text file below a folder; files with a NUL byte are binary and left out.

    Args:
        folder: where to look.
        suffixes: only files that end so.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CourseError(f"{root} is not a folder that can be read.")
    texts = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        if suffixes is not None and path.suffix not in set(suffixes):
            continue
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise CourseError(f"{path} could not be read ({error.strerror}).") from error
        if b"\0" not in blob:
            texts[path.relative_to(root).as_posix()] = blob.decode("utf-8", errors="replace")
    return texts


def is_held_out(name: str) -> bool:
    """Decided by the file's name alone, so the split is the same in every Python version."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") < HELD_OUT * 2**32


def train_tokenizer(texts: Iterable[str], vocab: int, keep: str = "") -> Tokenizer:
    """Byte-pair encoding of printable ASCII, newline and what is in `keep`; a tab becomes four spaces, the rest `?`.

    No initial byte alphabet is added: every token of the vocabulary was seen, so none has an untrained embedding.

    Args:
        texts: what it is trained on.
        vocab: tokens; at least one for each letter.
        keep: letters beyond printable ASCII to keep; others become `?`.
    """
    tokenizer = Tokenizer(models.BPE())
    foreign = Regex(rf"[^\x20-\x7E\n{keep}]")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("\t", "    "), normalizers.Replace(foreign, "?")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END_OF_TEXT], initial_alphabet=[], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def shipped_tokenizer(name: str) -> Tokenizer:
    """A tokenizer of `data/tokenizers/` by name, e.g. `python-512`."""
    folder = data_dir() / "tokenizers"
    path = folder / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.json"))
        raise CourseError(
            f"There is no tokenizer {name!r}; shipped are {', '.join(known)}.{nearest(name, known)}"
        )
    return Tokenizer.from_file(str(path))


def from_texts(name: str, texts: dict[str, str], tokenizer: Tokenizer | int) -> Corpus:
    """A corpus of name → text; the tokenizer is given, or trained here with so many tokens.

    Args:
        name: of the corpus.
        texts: file name → text; the name decides whether it is held out.
        tokenizer: one, or the vocabulary of a new one.
    """
    texts = {key: text for key, text in texts.items() if text.strip()}
    if not texts:
        raise CourseError(f"{name} holds no text.")
    held = {key for key in texts if is_held_out(key)} or {max(texts)}
    if len(texts) == 1:
        texts = halves(texts)
        held = {max(texts)}
    parts = [[texts[k] for k in texts if k not in held], [texts[k] for k in texts if k in held]]
    if isinstance(tokenizer, int):
        tokenizer = train_tokenizer(parts[0], tokenizer)
    streams = [joined(tokenizer, part) for part in parts]
    sizes = tuple(sum(len(text.encode("utf-8", "replace")) for text in part) for part in parts)
    return Corpus(name, tokenizer, *streams, (len(parts[0]), len(parts[1])), sizes, fingerprint(texts))


def fingerprint(texts: dict[str, str]) -> str:
    """Twelve digits that change with any name or character."""
    written = "".join(f"{k}\0{texts[k]}\0" for k in sorted(texts)).encode("utf-8", "replace")
    return hashlib.sha256(written).hexdigest()[:12]


def halves(texts: dict[str, str]) -> dict[str, str]:
    """One file alone is cut at a line end into nine tenths to train on and a tenth held out."""
    ((name, text),) = texts.items()
    lines = text.splitlines(keepends=True)
    cut = len(lines) * 9 // 10
    if cut == 0:
        raise CourseError(f"{name} is the only file and has one line: nothing would be left to hold out.")
    return {f"{name}#1": "".join(lines[:cut]), f"{name}#2": "".join(lines[cut:])}


def joined(tokenizer: Tokenizer, texts: list[str]) -> Int[Tensor, "tokens"]:
    """Token ids of the texts, one after the other, token 0 behind each."""
    stream = [
        torch.tensor([*encoding.ids, 0], dtype=torch.int32) for encoding in tokenizer.encode_batch(texts)
    ]
    return torch.cat(stream).long()


@lru_cache(maxsize=2)
def python_text(vocab: int = 512) -> Corpus:
    """The standard library of the interpreter that runs this, in the shipped vocabulary of 512, 1024 or 2048."""
    name = f"Python {sysconfig.get_python_version()} library"
    return from_texts(name, standard_library(), shipped_tokenizer(f"python-{vocab}"))


def from_folder(
    folder: str | Path,
    *,
    vocab: int = 512,
    suffixes: Iterable[str] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """Your own text: every text file below a folder, with a tokenizer of its own unless one is given.

    Args:
        folder: its name is the corpus' name.
        vocab: tokens of the tokenizer that is trained on it.
        suffixes: only files that end so, `['.md']`.
        tokenizer: one to use in the place of a new one.
    """
    return from_texts(Path(folder).name, files_below(folder, suffixes), tokenizer or vocab)


def from_huggingface(
    name: str, *, column: str = "text", split: str = "train", rows: int = 10_000, vocab: int = 512
) -> Corpus:
    """The first rows of a Hugging Face data set (needs the `datasets` package and, the first time, a network)."""
    try:
        import datasets
    except ImportError as error:
        raise CourseError("Hugging Face data sets need `pip install datasets`.") from error
    try:
        data = datasets.load_dataset(name, split=split, streaming=True)
        texts = {f"{i:08}": row[column] for i, row in zip(range(rows), data, strict=False)}
    except Exception as error:  # whatever the hub's client raises, a learner needs one sentence
        raise CourseError(
            f"The data set {name!r} could not be read ({type(error).__name__}: {error}). "
            "Without a network, save it as text files and use from_folder."
        ) from error
    return from_texts(name, texts, vocab)
