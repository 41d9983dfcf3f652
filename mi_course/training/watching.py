"""The progress bar, and Ctrl-C between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm.auto import tqdm

from mi_course import processes
from mi_course.training.history import History


def say(loss: float, noted: dict | None, history: History, batch: Tensor) -> str:
    """What stands behind the progress bar.

    The `loss`, what callbacks `noted`, and the speed: `history` knows how many tokens or, where a `batch` holds
    numbers, samples.
    """
    shown = {"loss": loss, **(noted or {})}
    what = "samples" if batch.is_floating_point() else "tokens"
    speed = f"{history.tokens / history.seconds:,.0f} {what}/s"
    return ", ".join([*(f"{name} {value:.3f}" for name, value in shown.items()), speed])


def progress_bar(start: int, end: int, progress: bool) -> tqdm:
    """The steps from `start` to `end` with a bar; `bar.watched` says whether somebody looks at it.

    Without `progress` there is none.
    """
    logged = in_a_log()
    pace = {"mininterval": 30, "maxinterval": 30} if logged else {"mininterval": 0.5}
    bar = tqdm(range(start, end), initial=start, total=end, disable=quiet(progress), unit="step", **pace)
    bar.watched = not logged
    return bar


def quiet(progress: bool) -> bool:
    """Bars are off on request, where TQDM_DISABLE is set, as under test, and in all processes but the first.

    `progress` is what was asked for.
    """
    return not progress or processes.rank() > 0 or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


def in_a_log() -> bool:
    """Nobody watches the bar: a pipe or a file gets it every half minute, a terminal or a notebook twice a second."""
    return not sys.stderr.isatty() and not type(sys.stderr).__module__.startswith("ipykernel")


@contextmanager
def between_steps(leave: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Ctrl-C waits until the function that this yields is called, so that weights, optimiser, random state and history
    belong to one step: they are written then, by `leave`. A second one does not wait, and nothing is written where it
    comes, in the middle of a step. Several processes stop after the same step, whichever was asked."""
    usual, asked = signal.getsignal(signal.SIGINT), []

    def stop_if_asked():
        if processes.any_of(bool(asked)):
            leave()
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or usual in (None, signal.SIG_IGN):
        yield stop_if_asked
        return

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, usual)
