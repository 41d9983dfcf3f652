"""Exercises that check themselves; one module per notebook.

A check calls the learner's function on a few inputs and compares with the reference. Where the answers differ it
looks for a known mistake that gives the learner's answers, and names it without giving the solution away.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mi_course.checks.timing import OutOfTime, time_limit

Mistakes = dict[str, Callable]  # what went wrong, in a sentence -> a function that goes wrong that way
PLAIN = (Tensor, list, tuple, set, dict)  # inputs that can be compared with a copy
SECONDS = 30  # one call of a learner's function may take


class CheckFailed(AssertionError):
    """An exercise is not solved yet; the message says where to look. Shown in a notebook without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"✘ {self}"]


def check(
    exercise: str,
    function: object,
    reference: Callable,
    cases: Sequence[tuple],
    mistakes: Mistakes | None = None,
    *,
    atol: float = 1e-5,
    say: str = "",
) -> None:
    """Compare `function(*case)` with `reference(*case)` on every case; print one line, or raise `CheckFailed`.

    Among `mistakes`, the first whose answers match the learner's on all cases is named.
    """
    answers = [answer(exercise, function, case) for case in cases]
    wanted = [reference(*copy.deepcopy(case)) for case in cases]
    if not all(same(a, w, atol) for a, w in zip(answers, wanted, strict=True)):
        raise CheckFailed(f"{exercise}: {diagnosis(answers, wanted, cases, mistakes or {}, atol)}")
    passed(exercise, say)


def check_value(
    exercise: str,
    value,
    reference,
    mistakes: dict[str, object] | None = None,
    *,
    atol: float = 1e-5,
    say: str = "",
) -> None:
    """The same for an answer that is a value: `mistakes` maps a sentence to the value that gives it away."""
    wrong = {sentence: (lambda v=v: v) for sentence, v in (mistakes or {}).items()}
    check(exercise, lambda: value, lambda: reference, [()], wrong, atol=atol, say=say)


def passed(exercise: str, say: str = "") -> None:
    """The line a learner is glad to see."""
    print(f"✔ {exercise}" + (f": {say}" if say else ""))


def answer(exercise: str, function: object, case: tuple):
    """What the learner's function returns, once it is a usable answer; its inputs must be left as they were."""
    if not callable(function):
        raise CheckFailed(f"{exercise}: give the function itself, without calling it.")
    given = copy.deepcopy(case)
    try:
        with time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nbgrader takes whatever stands on stderr for a failure
            result = function(*given)
    except NotImplementedError as error:
        raise CheckFailed(f"{exercise}: not written yet.") from error
    except OutOfTime as error:
        raise CheckFailed(
            f"{exercise}: no answer after {SECONDS} seconds. Is there a loop that never ends?"
        ) from error
    except Exception as error:
        at = "its arguments do not fit" if bad_signature(error) else f"it raises {type(error).__name__}"
        raise CheckFailed(
            f"{exercise}: {at} ({str(error).splitlines()[0] if str(error) else 'no message'})."
        ) from error
    if result is None:
        raise CheckFailed(
            f"{exercise}: the function returns nothing. Did you print where you meant to return?"
        )
    if not all(same(a, b, 0.0) for a, b in zip(given, case, strict=True) if isinstance(b, PLAIN)):
        raise CheckFailed(f"{exercise}: the function changes its input in place. Work on a copy.")
    if (
        is_number(result)
        and not torch.isfinite(as_tensor(result)).all()
        and not any(has_infinity(c) for c in case)
    ):
        raise CheckFailed(
            f"{exercise}: the answer holds NaN or infinity. Look for 0/0, log 0 or a fully masked row."
        )
    return result


def diagnosis(answers: list, wanted: list, cases: Sequence[tuple], mistakes: Mistakes, atol: float) -> str:
    """The likeliest mistake, in a sentence."""
    for got, want in zip(answers, wanted, strict=True):
        if is_number(want) and not is_number(got):
            return f"the answer is of type {type(got).__name__}, and a tensor or a number is wanted."
    for sentence, mistake in mistakes.items():
        if all(same(a, attempt(mistake, case), atol) for a, case in zip(answers, cases, strict=True)):
            return sentence
    for got, want in zip(answers, wanted, strict=True):
        if is_number(want) and as_tensor(got).shape != as_tensor(want).shape:
            return f"the shape is {list(as_tensor(got).shape)}, and {list(as_tensor(want).shape)} is wanted."
    if sentence := relation(answers, wanted, atol):
        return sentence
    right = sum(same(a, w, atol) for a, w in zip(answers, wanted, strict=True))
    return f"{right} of {len(cases)} test inputs come out right. Try a tiny one by hand and compare."


def relation(answers: list, wanted: list, atol: float) -> str | None:
    """What the learner's numbers, of the right shapes, have to do with the right ones."""
    if not all(map(is_number, wanted)):
        return None
    pairs = [(as_tensor(a), as_tensor(w)) for a, w in zip(answers, wanted, strict=True)]
    every = lambda f: all(same(a, f(w), atol) for a, w in pairs)
    size = sum(float((w * w).sum()) for _, w in pairs)
    factor = sum(float((a * w).sum()) for a, w in pairs) / size if size else 0.0
    offset = float((pairs[0][0] - pairs[0][1]).mean())
    sentences = {
        "the sign is turned round.": lambda w: -w,
        "it is transposed.": lambda w: w.T if w.ndim == 2 else w,
        "this is 1 minus what is wanted.": lambda w: 1 - w,
        "every answer is 0.": lambda w: 0 * w,
        f"right up to a factor: it is {factor:.3g} times what is wanted.": lambda w: factor * w,
        f"right up to a constant: it is {offset:+.3g} off everywhere.": lambda w: w + offset,
        "this is the square of what is wanted.": lambda w: w * w,
        "this is the square root of what is wanted.": lambda w: w.sqrt(),
        "this is one over what is wanted.": lambda w: 1 / w,
        "these are logarithms of what is wanted.": lambda w: w.log(),
        "signs are lost: this is the absolute value of what is wanted.": lambda w: w.abs(),
    }
    found = [sentence for sentence, turn in sentences.items() if every(turn)]
    if not found and all(same(a.flatten().sort().values, w.flatten().sort().values, atol) for a, w in pairs):
        found = ["the right numbers, in the wrong places."]
    return found[0] if found else None


def attempt(function: Callable, case: tuple):
    """The mistake's answer, or None where it has none."""
    try:
        return function(*copy.deepcopy(case))
    except Exception:  # a wrong answer may not fit every input
        return None


def bad_signature(error: Exception) -> bool:
    """A TypeError raised at the call itself, not inside the function."""
    trace = error.__traceback__
    return isinstance(error, TypeError) and trace is not None and trace.tb_next is None


def is_number(value) -> bool:
    """A tensor, a number, or nested lists and tuples of numbers."""
    if isinstance(value, (str, dict, set)) or value is None:
        return False
    try:
        as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def as_tensor(value) -> Tensor:
    return torch.as_tensor(value).detach().double().cpu()


def has_infinity(value) -> bool:
    return is_number(value) and not bool(torch.isfinite(as_tensor(value)).all())


def same(a, b, atol: float) -> bool:
    """Equal up to `atol`; shapes must agree; NaN equals nothing."""
    if is_number(a) and is_number(b):
        a, b = as_tensor(a), as_tensor(b)
        return a.shape == b.shape and bool(torch.allclose(a, b, rtol=atol, atol=atol))
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False
