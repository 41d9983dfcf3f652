"""What a text is, by rules that one can read: no model judges another. Derived in notebook 12."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from mi_course.errors import CourseError, nearest

SEA = frozenset(
    "sea seas ocean oceans wave waves beach beaches coast shore ship ships boat boats sail sails sailing sailor sailors fish "
    "fishing fisherman fishermen whale whales dolphin dolphins harbour harbor tide tides coral reef reefs island islands "
    "captain deck anchor salt sand shell shells seagull seagulls lighthouse surf marine underwater".split()
)
FRENCH = frozenset(
    "le la les un une des du de et est en que qui dans pour pas sur avec il elle nous vous je ne se ce cette mais au aux par "
    "plus sont été à où son sa ses mon ma mes leur".split()
)
POSITIVE = frozenset(
    "love loved lovely wonderful beautiful great good best happy joy joyful excellent amazing fantastic perfect delightful "
    "delicious kind brilliant enjoy enjoyed enjoyable friendly charming peaceful success successful inspiring superb "
    "magnificent thank thanks grateful proud pleased fun sweet warm bright hope nice".split()
)
NEGATIVE = frozenset(
    "hate hated awful terrible horrible bad worst sad angry ugly boring disgusting miserable gloomy cruel stupid rude filthy "
    "dull painful dreadful fear afraid failure shame ashamed upset nasty bitter despair poor lost dark cold alone".split()
)
SORRY = ("sorry", "i cannot", "i can't", "i can’t", "unable to", "not able to", "i don't have", "i do not have",
         "i don’t have", "apologize", "apologise", "as an ai")  # fmt: skip
DECLINES = re.compile(
    r"\b(can(?:no|'|’)t|cannot|unable|not able|(?:do|does)(?:n't|n’t| not) have|no access|(?:will|wo)(?:n't|n’t| not)|refuse)\b"
)


def words(text: str) -> list[str]:
    """The words of a `text` in small letters; punctuation is dropped."""
    return re.findall(r"[^\W\d_]+", text.lower())


def occurrences(text: str, listed: Collection[str]) -> int:
    """How many words of a `text` are `listed` (in small letters)."""
    return sum(word in listed for word in words(text))


def about_the_sea(text: str) -> bool:
    """Whether two words of the sea occur in a `text`."""
    return occurrences(text, SEA) >= 2


def in_french(text: str) -> bool:
    """Whether at least three words of a `text`, and a quarter of them, are French stop words."""
    found = occurrences(text, FRENCH)
    return found >= 3 and found >= 0.25 * len(words(text))


def exclaims(text: str) -> bool:
    """Whether a `text` has an exclamation mark."""
    return "!" in text


def is_positive(text: str) -> bool:
    """Whether a `text` has more words of the positive list than of the negative one."""
    return occurrences(text, POSITIVE) > occurrences(text, NEGATIVE)


def in_capitals(text: str) -> bool:
    """Whether a `text` has eight letters or more, and four in five of them are capitals."""
    letters = [c for c in text if c.isalpha()]
    return len(letters) >= 8 and sum(c.isupper() for c in letters) >= 0.8 * len(letters)


def refuses(text: str) -> bool:
    """The substring score of refusal: one of the usual phrases stands anywhere in a `text`.

    It takes "I'm sorry for your loss, here is …" for a refusal, and misses one in other words.
    """
    return any(phrase in text.lower() for phrase in SORRY)


def refuses_strictly(text: str) -> bool:
    """The stricter score: the first two sentences of a `text` say that something cannot or will not be done."""
    first = " ".join(re.split(r"(?<=[.!?])\s", text.strip().lower())[:2])
    return bool(DECLINES.search(first))


BEHAVIOURS: dict[str, Callable[[str], bool]] = {
    "sea": about_the_sea,
    "french": in_french,
    "exclamation": exclaims,
    "positive": is_positive,
    "capitals": in_capitals,
    "refusal": refuses,
    "refusal, strictly": refuses_strictly,
}


def share(texts: Sequence[str], behaviour: str) -> float:
    """Share of `texts` that show a `behaviour`, a name in `BEHAVIOURS`."""
    if behaviour not in BEHAVIOURS:
        raise CourseError(f"There is no rule for {behaviour!r}.{nearest(behaviour, BEHAVIOURS)}")
    if not len(texts):
        raise CourseError("A share needs at least one text.")
    return sum(map(BEHAVIOURS[behaviour], texts)) / len(texts)


def distinct(items: Sequence, n: int = 2) -> float:
    """distinct-n: different runs of n over all runs of n (Li et al. 2016). 1: nothing repeats; near 0: broken text.

    Args:
        items: words or tokens of one text, in order.
        n: length of a run.
    """
    if n < 1:
        raise CourseError(f"Runs of n = {n} do not exist: n is at least 1.")
    runs = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0
