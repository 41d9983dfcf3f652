"""A limit on how long a learner's function may take, on every system and in every thread."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 0.2  # seconds until the next try, where code caught the last one


class OutOfTime(BaseException):
    """No `Exception`, so that a learner's `except Exception` does not swallow it."""


def has_alarm() -> bool:
    """Alarms are for the main thread of a system that has them: not on Windows, not in other threads."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextmanager
def time_limit(seconds: float | int) -> Iterator[None]:
    """`OutOfTime` in what takes longer, and again until it ends. Without alarms a call of C code is waited for."""
    with by_alarm(seconds) if has_alarm() else by_watchdog(seconds):
        yield


@contextmanager
def by_alarm(seconds: float | int) -> Iterator[None]:
    """A repeating timer; somebody else's alarm is put off meanwhile."""
    running = True

    def stop(number, frame):
        if running:
            raise OutOfTime

    before, started = signal.signal(signal.SIGALRM, stop), time.monotonic()
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            yield
        finally:
            running = False  # one that comes before this line is raised through the outer `finally`
    finally:
        rest = max(left - (time.monotonic() - started), 1e-3) if left else 0.0
        signal.setitimer(signal.ITIMER_REAL, rest, every)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


@contextmanager
def by_watchdog(seconds: float | int) -> Iterator[None]:
    """A second thread that raises in this one, between two steps of the interpreter."""
    here, done, turn = threading.get_ident(), threading.Event(), threading.Lock()

    def watch():
        wait = seconds
        while not done.wait(wait):
            with turn:
                if not done.is_set():
                    throw(here, OutOfTime)
            wait = AGAIN

    threading.Thread(target=watch, daemon=True).start()
    try:
        try:
            yield
        finally:
            done.set()
    finally:
        done.set()
        with turn:
            throw(here, None)  # what was thrown and has not arrived


def throw(thread: int, exception: type[BaseException] | None) -> None:
    """Have the exception raised in a thread as soon as it runs Python code; None takes back one on its way."""
    raised = ctypes.py_object(exception) if exception is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
