"""Errors that tell a student in one sentence what went wrong and what to do.

>>> from mi_course.errors import nearest
>>> nearest("hook_patern", ["hook_pattern", "hook_z"])
" Did you mean 'hook_pattern'?"
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CourseError(ValueError):
    """Bad input, described in one clear sentence; nothing has been changed or lost."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" sentence: the nearest known names, or else a few of them.

    >>> nearest("indution", ["induction", "patching"])
    " Did you mean 'induction'?"
    """
    spelling = {str(candidate).lower(): str(candidate) for candidate in known}
    close = [repr(spelling[match]) for match in get_close_matches(str(name).lower(), spelling, n=3)]
    if close:
        return f" Did you mean {' or '.join(close)}?"
    if not spelling:
        return " There are none."
    some = list(spelling.values())[:8]
    return f" Known: {', '.join(some)}{' …' if len(spelling) > len(some) else ''}."


def needs(what: str, rules: dict[str, bool]) -> None:
    """Refuse settings that break a rule, in the words of the first that is broken.

    Args:
        what: they are settings of, with its article.
        rules: what is needed, in words → whether it is so.
    """
    for rule, kept in rules.items():
        if not kept:
            raise CourseError(f"{what} needs {rule}.")


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its kind, where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def kind_of(thing: object) -> str:
    """What a thing is, with its article."""
    name = type(thing).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
