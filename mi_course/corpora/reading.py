"""Text from files as it was meant: encodings, line ends, hidden folders, duplicates; and what was changed is said."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path

from mi_course.errors import CourseError

MARKS = {  # what a file may begin with; the longer ones first
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
LINE_ENDS = re.compile("\r\n?")
HALVES = re.compile("[\ud800-\udfff]")  # halves of letters: no file of text holds them
Notes = list[str]


def count(n: int, what: str) -> str:
    """`3 files`, `1 file`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def shown(letter: str) -> str:
    """A letter as one sees it; where there is nothing to see, its number, as in \\xa0."""
    if letter == " ":
        return "a blank"
    return letter if letter.isprintable() and letter.strip() else ascii(letter)[1:-1]


def text_of(blob: bytes) -> tuple[str | None, str]:
    """The text of a file and its encoding: by its mark, else UTF-8, else that of old Windows; None for a binary."""
    for mark, encoding in MARKS.items():
        if blob.startswith(mark):
            try:
                return blob.decode(encoding), encoding
            except UnicodeDecodeError:
                break
    if b"\0" in blob:
        return None, ""
    try:
        return blob.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return blob.decode("cp1252", errors="replace"), "cp1252, a guess"


def printable(name: str) -> str:
    """A file's name that can be printed, where its bytes are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def below(root: Path) -> tuple[list[Path], list[Path], set[str]]:
    """Every file below a folder, in order; links and pipes that are no file; and the hidden folders, not entered."""

    def stop(error: OSError) -> None:
        raise CourseError(f"{error.filename} could not be read ({error.strerror}).") from error

    found, hidden = [], set()
    for folder, folders, files in os.walk(root, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        hidden |= {name for name in folders if name.startswith(".")}
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in [*files, *links]]
    found.sort()
    return [p for p in found if p.is_file()], [p for p in found if not p.is_file()], hidden


def read_folder(folder: str | Path, suffixes: Iterable[str] | None = None) -> tuple[dict[str, str], Notes]:
    """Name → text of every readable text file below a folder, and what was left out or read in another encoding.

    Binary files, links to folders, and folders that begin with a dot (`.git`, `.ipynb_checkpoints`, `.venv`) are left
    out. With `suffixes`, such as [".py"], only files that end so are read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CourseError(f"{root} is not a folder that can be read.")
    paths, links, hidden = below(root)
    wanted = None if suffixes is None else {suffixes} if isinstance(suffixes, str) else set(suffixes)
    texts, other, no_text, not_asked = {}, [], [], []
    for path in paths:
        name = inside(path, root)
        if wanted is not None and path.suffix not in wanted:
            not_asked.append(name)
            continue
        text, encoding = text_of(content(path))
        if text is None:
            no_text.append(name)
            continue
        texts[name] = text
        if encoding not in ("utf-8", "utf-8-sig"):
            other.append(f"{name}: {encoding}")
    return texts, [
        *([f"hidden folders left out ({some(sorted(map(printable, hidden)))})"] if hidden else []),
        *left_out("file", "binary, or UTF-16 without a mark", no_text),
        *left_out("file", "another ending", not_asked),
        *left_out("link", "to no file", [inside(path, root) for path in links]),
        *([f"{count(len(other), 'file')} in another encoding ({some(other)})"] if other else []),
    ]


def content(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} could not be read ({error.strerror}).") from error


def inside(path: Path, root: Path) -> str:
    """The name of a file below a folder, as it can be printed."""
    return printable(path.relative_to(root).as_posix())


def left_out(what: str, why: str, names: list[str]) -> Notes:
    """How many were left out, why, and the first of them."""
    return [f"{count(len(names), what)} left out ({why}: {some(names)})"] if names else []


def whole_letters(texts: dict[str, str]) -> tuple[dict[str, str], Notes]:
    """No half of a letter: \\ufffd stands in its place."""
    found = {name: HALVES.subn("\ufffd", text) for name, text in texts.items()}
    halves = sum(n for _, n in found.values())
    notes = [f"{count(halves, 'half letter')} read as \\ufffd"] if halves else []
    return {name: text for name, (text, _) in found.items()}, notes


def with_something(texts: dict[str, str]) -> tuple[dict[str, str], Notes]:
    """Texts that hold more than blanks."""
    empty = [name for name, text in texts.items() if not text.strip()]
    return {name: text for name, text in texts.items() if text.strip()}, left_out("text", "empty", empty)


def one_line_end(texts: dict[str, str]) -> tuple[dict[str, str], Notes]:
    """Lines end in a newline alone, and no byte-order mark is a letter."""
    ends, marks, clean = 0, 0, {}
    for name, text in texts.items():
        marks += text.startswith("\ufeff")
        clean[name], n = LINE_ENDS.subn("\n", text.removeprefix("\ufeff"))
        ends += n
    notes = [f"{count(ends, 'line end')} normalised"] if ends else []
    return clean, notes + ([f"{count(marks, 'byte-order mark')} removed"] if marks else [])


def without_twins(texts: dict[str, str]) -> tuple[dict[str, str], Notes]:
    """Each content once: a copy that is held out would have been trained on."""
    first: dict[str, str] = {}
    twins = [
        f"{name} = {first[text]}" for name, text in texts.items() if first.setdefault(text, name) != name
    ]
    notes = [f"{count(len(twins), 'duplicate')} left out ({some(twins)})"] if twins else []
    return {name: text for text, name in first.items()}, notes
