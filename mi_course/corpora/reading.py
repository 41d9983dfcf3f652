"""Text from files as it was meant: encodings, line ends, hidden folders, duplicates; and what was changed is said."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from pathlib import Path

from mi_course.errors import CourseError

MARKS = {  # what a file may begin with; the longer ones first
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
LINE_ENDS = re.compile("\r\n?")
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
        return blob.decode("cp1252", errors="replace"), "cp1252"


def printable(name: str) -> str:
    """A file's name that can be printed, where its bytes are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_folder(folder: str | Path, suffixes: Iterable[str] | None = None) -> tuple[dict[str, str], Notes]:
    """Name → text of every readable text file below a folder, and what was left out or read in another encoding.

    Binary files and folders that begin with a dot (`.git`, `.ipynb_checkpoints`, `.venv`) are left out. With
    `suffixes`, such as [".py"], only files that end so are read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CourseError(f"{root} is not a folder that can be read.")
    texts, hidden, other, suffixes = {}, set(), [], None if suffixes is None else set(suffixes)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        inside = path.relative_to(root)
        if suffixes is not None and path.suffix not in suffixes:
            continue
        if dotted := [part for part in inside.parts[:-1] if part.startswith(".")]:
            hidden.add(printable(dotted[0]))
            continue
        try:
            text, encoding = text_of(path.read_bytes())
        except OSError as error:
            raise CourseError(f"{path} could not be read ({error.strerror}).") from error
        if text is not None:
            name = printable(inside.as_posix())
            texts[name] = text
            if encoding not in ("utf-8", "utf-8-sig"):
                other.append(f"{name}: {encoding}")
    notes = [f"hidden folders left out ({some(sorted(hidden))})"] if hidden else []
    return texts, notes + (
        [f"{count(len(other), 'file')} in another encoding ({some(other)})"] if other else []
    )


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
