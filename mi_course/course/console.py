"""How the command line speaks: plain signs where a console has no others, one sentence for what went wrong."""

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

from mi_course.errors import CourseError

PLAIN = {
    "✔": "+", "✘": "x", "◐": "~", "★": "*", "☆": "*", "·": "-", "•": "-", "→": "->", "←": "<-", "⇥": "->", "⏎": "<-",
    "−": "-", "–": "-", "—": "-", "…": "...", "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "×": "x", "√": "sqrt ",
    "‖": "||", "∞": "inf", "∂": "d", "∈": "in", "‘": "'", "’": "'", "“": '"', "”": '"', "λ": "lambda", "█": "#", "░": ".",
}  # fmt: skip


def use_plain_signs() -> None:
    """From now on a console gets what it cannot print in plain signs, as of cp1252 or ASCII, and no error."""
    codecs.register_error("plain-signs", _in_plain_signs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain-signs")


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    """What `str.encode` asks for: the replacement of the characters it stopped at, and where it goes on."""
    return "".join(map(plain_sign, error.object[error.start : error.end])), error.end


def plain_sign(sign: str) -> str:
    """A character in ASCII: λ as lambda, é as e, ² as 2, and ? where nothing comes near."""
    greek, _, letter = unicodedata.name(sign, "").partition(" LETTER ")
    if greek.startswith("GREEK"):
        return PLAIN.get(sign, letter.split()[0].lower())
    bare = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return PLAIN.get(sign) or bare or ("" if unicodedata.combining(sign) else "?")


def answered(work: Callable[[], int | None], quiet: bool = False, elsewhere: str = "") -> int:
    """Do it, and give the exit code; what stops it is said in one sentence on stderr.

    `elsewhere` is added where a file could not be written. `quiet` says nothing unless something fails.
    """
    try:
        code = _quietly(work) if quiet else work()
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # of `… | head`: nobody reads on, and that is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CourseError, OSError) as error:
        files = isinstance(error, OSError) or isinstance(error.__cause__, OSError)
        say(_sentence(error) + (elsewhere if files else ""))
        return 1
    except KeyboardInterrupt:
        print("\nmi_course: stopped.", file=sys.stderr)
        return 130


def say(sentence: str) -> None:
    """One sentence about what went wrong."""
    print(f"mi_course: {sentence}", file=sys.stderr)


def _quietly(work: Callable[[], int | None]) -> int | None:
    """Without a word; if it fails, everything on stderr."""
    os.environ["TQDM_DISABLE"] = "1"
    code, said = 1, io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            code = work()
    finally:
        if code:
            print(said.getvalue(), file=sys.stderr, end="")
    return code


def _sentence(error: CourseError | OSError) -> str:
    """No permission, a full disk, a file where a folder should be: what, and where."""
    if isinstance(error, CourseError):
        return str(error)
    return f"{error.strerror or error}" + (f": {Path(error.filename)}" if error.filename else "")
