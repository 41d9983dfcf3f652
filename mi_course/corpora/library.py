"""Text that is on every machine, and toy languages that carry their own truth.

`python_text()` reads the running interpreter's standard library: its sources and its documentation. Nothing
is copied into the course, and a hash of each file's name decides whether it is trained on or held out.
Your own text comes in through `from_folder` or `from_huggingface`.
Planted corpora (`SkipTrigrams`, `BigramChain`, `random_repeats`, …) know what a perfect reader would find.
"""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from mi_course.corpora.corpus import HELD_OUT, Corpus
from mi_course.corpora.reading import (
    Notes,
    count,
    one_line_end,
    read_folder,
    whole_letters,
    with_something,
    without_twins,
)
from mi_course.corpora.vocabulary import (
    altered_letters,
    handed_in,
    joined,
    letters,
    shipped_tokenizer,
    train_tokenizer,
    with_unknown,
)
from mi_course.errors import CourseError, kind_of, nearest
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


def standard_library(shared: bool = False) -> dict[str, str]:
    """Name → text of the running interpreter's library sources and documentation topics.

    Left out: tests, tables (encodings, HTML entities), generated modules and licence texts. One sentence where an
    interpreter comes without sources; where only the documentation is missing, a warning.

    Args:
        shared: only the files that Python 3.10 to 3.13 have letter for letter in common (`data/shared_text.json`), so
            that what is measured on them does not depend on the version.
    """
    texts = {name: text for name, text in library_files() if wanted(name)}
    if not texts:
        raise CourseError(
            "This Python comes without the sources of its library (an embedded or stripped one), and they are the text "
            "of the course: use a full Python, or your own text with from_folder."
        )
    try:
        from pydoc_data.topics import topics
    except ImportError:
        warnings.warn(
            "This Python comes without pydoc_data, so the text has no documentation topics and numbers differ from the "
            "stored ones; a full Python has it.",
            stacklevel=2,
        )
        topics = {}
    texts |= {f"topics/{name}": text for name, text in sorted(topics.items())}
    if not shared:
        return texts
    return {name: text for name, text in texts.items() if text_mark(text) == shared_marks().get(name)}


@cache
def shared_marks() -> dict[str, str]:
    """Name → `text_mark` of every file that is the same on all the Pythons the course runs on."""
    return json.loads((data_dir() / "shared_text.json").read_text(encoding="utf-8"))


def text_mark(text: str) -> str:
    """Twelve digits that change with any character of `text`."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def library_files() -> Iterator[tuple[str, str]]:
    """Name and text of every source file of the library, in its folder or, where there is none, in its zip file."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(root.rglob("*.py"))
    for path in paths:
        name = path.relative_to(root).as_posix()
        if wanted(name):
            yield name, path.read_text(encoding="utf-8", errors="replace")
    if not any(path.parent == root for path in paths):
        for archive in filter(zipfile.is_zipfile, sys.path):
            with zipfile.ZipFile(archive) as file:
                for name in sorted(name for name in file.namelist() if name.endswith(".py")):
                    yield name, file.read(name).decode("utf-8", "replace").replace("\r\n", "\n")


def wanted(name: str) -> bool:
    """No test, table, generated module or licence text."""
    *folders, file = name.split("/")
    return not (file.startswith("_sysconfigdata") or SKIP_FOLDERS & set(folders) or name in SKIP_FILES)


def files_below(folder: str | Path, suffixes: Iterable[str] | None = None) -> dict[str, str]:
    """Name → text of every readable text file below a folder; see `read_folder`.

    Args:
        folder: where to look.
        suffixes: only files that end so.
    """
    return read_folder(folder, suffixes)[0]


def is_held_out(name: str) -> bool:
    """Decided by the file's name alone, so the split is the same in every Python version."""
    return (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:4], "big")
        < HELD_OUT * 2**32
    )


def held_out_of(names: Iterable[str]) -> set[str]:
    """Which of several `names` are held out: what `is_held_out` says, but at least one, and never all."""
    names = set(names)
    if len(names) < 2:
        raise CourseError(
            f"{count(len(names), 'text')} cannot be parted: one to train on and one to hold out are needed."
        )
    held = {name for name in names if is_held_out(name)} or {max(names)}
    return held if held != names else held - {min(names)}


def from_texts(
    name: str,
    texts: dict[str, str],
    tokenizer: Any = 512,
    *,
    keep: str = "",
    end: str | None = None,
    notes: Sequence[str] = (),
) -> Corpus:
    """A corpus of name → text; the tokenizer is given, or trained here with so many tokens.

    Line ends become newlines; duplicates and empty texts are left out. A tokenizer trained here reads a tab as four blanks, and
    what is no printable ASCII and not in `keep`, blanks of other kinds too, as `?`. The corpus says what was changed
    when it is printed. `end` names the end-of-text token of a tokenizer handed in.

    Args:
        name: of the corpus.
        texts: file name → text; the name decides whether it is held out.
        tokenizer: one, or the vocabulary of a new one.
        keep: letters beyond ASCII for a new one.
        end: the end-of-text token of one handed in.
        notes: sentences that the corpus says when it is printed.
    """
    check_texts(name, texts)
    texts, halved = whole_letters(texts)
    texts, ends = one_line_end(texts)
    texts, empty = with_something(texts)
    texts, twins = without_twins(texts)
    return assembled(name, texts, tokenizer, keep, end, [*notes, *halved, *ends, *empty, *twins], report=True)


def check_texts(name: str, texts: Any) -> None:
    """One sentence for what is no dictionary of name → text."""
    if not isinstance(texts, dict):
        raise CourseError(f"The texts of {name} are a dictionary, name → text, not {kind_of(texts)}.")
    for key, text in texts.items():
        if not isinstance(key, str):
            raise CourseError(f"A text of {name} is named {key!r}: a name is a str, str({key!r}) say.")
        if not isinstance(text, str):
            raise CourseError(f"{key} of {name} is {kind_of(text)}, no text: leave it out.")


def check_meant(trained: bool, keep: str, end: str | None) -> None:
    """One sentence for what would change nothing: letters to keep and an end-of-text token have one use each."""
    if keep and not trained:
        raise CourseError(
            "keep is for a vocabulary trained here: the tokenizer handed in has its own letters."
        )
    if end is not None and trained:
        raise CourseError(
            "end names a token of a tokenizer handed in: a vocabulary trained here has its own."
        )


def assembled(
    name: str,
    texts: dict[str, str],
    tokenizer: Any,
    keep: str = "",
    end: str | None = None,
    notes: Sequence[str] = (),
    report=False,
) -> Corpus:
    """Texts that are as they should be, split and tokenized; `report` looks for letters that come out otherwise."""
    texts = {key: text for key, text in texts.items() if text.strip()}
    if not texts:
        raise CourseError(f"{name} holds no text{': ' if notes else ''}{', '.join(notes)}.")
    if len(texts) == 1:
        texts = halves(texts)
        held = {max(texts)}
    else:
        held = held_out_of(texts)
    parts = [[texts[k] for k in texts if k not in held], [texts[k] for k in texts if k in held]]
    number, trained = 0, isinstance(tokenizer, int)
    check_meant(trained, keep, end)
    found = letters(texts.values()) if trained or report else None
    if trained:
        tokenizer = with_unknown(train_tokenizer(parts[0], tokenizer, keep), found)
    else:
        tokenizer, number = handed_in(tokenizer, end)
    if report:
        notes = [*notes, *altered_letters(tokenizer, found), *spelt_out(tokenizer, number, texts)]
    streams = [joined(tokenizer, part, number) for part in parts]
    sizes = tuple(sum(len(text.encode("utf-8", "replace")) for text in part) for part in parts)
    counts = (len(parts[0]), len(parts[1]))
    return Corpus(
        name, tokenizer, *streams, counts, sizes, fingerprint(texts), end=number, notes=tuple(notes)
    )


def spelt_out(tokenizer, end: int, texts: dict[str, str]) -> Notes:
    """How often the name of the end-of-text token stands in the texts, where it is no end."""
    name = tokenizer.id_to_token(end)
    n = sum(text.count(name) for text in texts.values())
    return [f"{name} spelt out where it is text ({count(n, 'time')})"] if n else []


def fingerprint(texts: dict[str, str]) -> str:
    """Twelve digits that change with any name or character of `texts`, name → text."""
    written = "".join(f"{k}\0{texts[k]}\0" for k in sorted(texts)).encode("utf-8", "replace")
    return hashlib.sha256(written).hexdigest()[:12]


def halves(texts: dict[str, str]) -> dict[str, str]:
    """One file alone, the only one in `texts`, is cut at a line end into nine tenths to train on and a tenth held out."""
    ((name, text),) = texts.items()
    lines = text.splitlines(keepends=True)
    cut = len(lines) * 9 // 10
    if cut == 0:
        raise CourseError(f"{name} is the only file and has one line: nothing would be left to hold out.")
    return {f"{name}#1": "".join(lines[:cut]), f"{name}#2": "".join(lines[cut:])}


@lru_cache(maxsize=2)
def python_text(vocab: int = 512, shared: bool = False) -> Corpus:
    """The standard library of the interpreter that runs this.

    `vocab` is the size of the shipped vocabulary: 512, 1024 or 2048 tokens. `shared` takes only the files that all of
    Python 3.10 to 3.13 have; see `standard_library`.
    """
    name = "shared Python library" if shared else f"Python {sysconfig.get_python_version()} library"
    return assembled(name, standard_library(shared), shipped_tokenizer(f"python-{vocab}"))


def from_folder(
    folder: str | Path,
    *,
    vocab: int = 512,
    suffixes: Iterable[str] | None = None,
    tokenizer: Any = None,
    keep: str = "",
    end: str | None = None,
) -> Corpus:
    """Your own text: every text file below a folder, with a tokenizer of its own unless one is given.

    Hidden folders, binary and empty files and duplicates are left out; print the corpus to see what was changed. `tokenizer` is
    one of `tokenizers` or `transformers`, `end` its end-of-text token if that has no usual name; `keep` are letters
    beyond ASCII (`"äöüß"`) that a vocabulary trained here is to have.

    Args:
        folder: its name is the corpus' name.
        vocab: tokens of the tokenizer that is trained on it.
        suffixes: only files that end so, `['.md']`.
        tokenizer: one to use in the place of a new one.
        keep: letters beyond ASCII for a new one.
        end: the end-of-text token of one handed in.
    """
    texts, notes = read_folder(folder, suffixes)
    tokenizer = vocab if tokenizer is None else tokenizer
    return from_texts(Path(folder).resolve().name, texts, tokenizer, keep=keep, end=end, notes=notes)


def from_huggingface(
    name: str, *, column: str = "text", split: str = "train", rows: int = 10_000, vocab: int = 512
) -> Corpus:
    """The first rows of a Hugging Face data set (needs the `datasets` package and, the first time, a network).

    `name` is that of the hub, `column` the one that holds the text, `split` one of the data set's own; `rows` are
    read, with a tokenizer of `vocab` tokens trained on them. Rows without a text are left out, and the corpus says so.
    """
    try:
        import datasets
    except ImportError as error:
        raise CourseError("Hugging Face data sets need `pip install datasets`.") from error
    try:
        data = datasets.load_dataset(name, split=split, streaming=True)
        found = [(row.get(column), tuple(row)) for _, row in zip(range(rows), data, strict=False)]
    except Exception as error:  # whatever the hub's client raises, a learner needs one sentence
        raise CourseError(
            f"The data set {name!r} could not be read ({type(error).__name__}: {error}). "
            "Without a network, save it as text files and use from_folder."
        ) from error
    known = list(dict.fromkeys(key for _, keys in found for key in keys))
    if found and column not in known:
        raise CourseError(
            f"{name} has no column {column!r}; it has {', '.join(known)}.{nearest(column, known)}"
        )
    texts = {f"{i:08}": text for i, (text, _) in enumerate(found) if text is not None}
    empty = len(found) - len(texts)
    notes = [f"{count(empty, 'row')} without a text left out"] if empty else []
    return from_texts(name, texts, vocab, notes=notes)
