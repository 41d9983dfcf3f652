"""Speed against the peer a user would pick: ratios, both sides interleaved in one run, never timed tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def ratio(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int = 15, calls: int = 5, warm: int = 1
) -> dict:
    """How many times faster `ours` is: both in turn, A B A B …, the median of the rounds' ratios and their range.

    The first rounds, `warm` of them, only warm both up.
    """
    seconds = []
    for _ in range(rounds + warm):
        pair = []
        for function in (ours, peer):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            pair.append((time.perf_counter() - start) / calls)
        seconds.append(pair)
    seconds = seconds[warm:]
    ratios = sorted(theirs / own for own, theirs in seconds)
    return {
        "ours": median(own for own, _ in seconds),
        "peer": median(theirs for _, theirs in seconds),
        "ratio": median(ratios),
        "range": (ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]),
    }


HEAD = (
    "| what | settings | peer | ours | theirs | ratio (10–90%) | goal | same result? |",
    "|---|---|---|---|---|---|---|---|",
)


def shown(row: dict) -> tuple[str, str]:
    """Ratio and goal of a row as text; a row without a peer states its goal in its own words."""
    if row["ratio"] is None:
        return "–", row["goal"] or "–"
    low, high = row["range"]
    met = "–" if row["goal"] is None else f"≥ {row['goal']:g}× {'✔' if row['ratio'] >= row['goal'] else '✘'}"
    return f"{row['ratio']:.2f}× ({low:.2f}–{high:.2f})", met


def line(row: dict) -> str:
    """A row of the table under `HEAD`."""
    cells = (row["name"], row["settings"], row["peer"], row["ours"], row["theirs"], *shown(row), row["agree"])
    return f"| {' | '.join(cells)} |"
