"""The machinery of the checks survives whatever a learner hands in, and names the mistake."""

import signal
import threading
import time
import warnings

import pytest
import torch

from mi_course import checks
from mi_course.checks import CheckFailed, check, check_value

CASES = [(torch.arange(6.0).view(2, 3),), (torch.eye(3) + 1,)]
MISTAKES = {"You summed over the rows: which axis is the key?": lambda x: x.sum(0)}


def total(x):
    return x.sum(-1)


def grade(function):
    check("row sums", function, total, CASES, MISTAKES, say="each row adds up")


def printed(x):
    print(x.sum(-1))


def unwritten(x):
    raise NotImplementedError


@pytest.mark.parametrize("right", [total, lambda x: x @ torch.ones(x.shape[1]), lambda x: x.sum(-1).tolist()])
def test_right_answers_pass(right, capsys):
    grade(right)
    assert capsys.readouterr().out == "✔ row sums: each row adds up\n"


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda x: x.sum(0), "which axis is the key"),
        (unwritten, "not written yet"),
        (printed, "print where you meant to return"),
        (lambda x: x.mul_(2).sum(-1) / 2, "in place"),
        (lambda x, y: x, "arguments do not fit"),
        (lambda: 0, "arguments do not fit"),
        (lambda x: x.nothing(), "raises AttributeError"),
        (lambda x: x.sum(-1) / 0, "NaN or infinity"),
        (lambda x: "six", "str"),
        (lambda x: x, "the shape is"),
        (lambda x: x.mean(-1), "a factor: it is 0.333 times"),
        (lambda x: -x.sum(-1), "sign"),
        (lambda x: 1 - x.sum(-1), "1 minus"),
        (lambda x: 0 * x.sum(-1), "every answer is 0"),
        (lambda x: x.sum(-1) + 2, "off everywhere"),
        (lambda x: x.sum(-1) ** 2, "square of"),
        (lambda x: x.sum(-1).sqrt(), "square root"),
        (lambda x: x.sum(-1).log(), "logarithms"),
        (lambda x: 1 / x.sum(-1), "one over"),
        (lambda x: x.sum(-1).cos(), "0 of 2 test inputs"),
        (lambda x: x.sum(-1) if len(x) == 3 else x.sum(-1).flip(0), "1 of 2 test inputs|wrong places"),
        (lambda x: x.sum(-1) if len(x) == 2 else x[0], "1 of 2 test inputs"),
        (total(CASES[0][0]), "function itself"),
    ],
)
def test_wrong_answers_are_told_apart(wrong, words):
    with pytest.raises(CheckFailed, match=words):
        grade(wrong)


def test_values():
    check_value("answer", 42, 42)
    check_value("name", "L1H3", "L1H3")
    with pytest.raises(CheckFailed, match="The other head"):
        check_value("name", "L0H3", "L1H3", {"The other head: which layer reads it?": "L0H3"})
    with pytest.raises(CheckFailed):
        check_value("answer", None, 42)


def test_the_learner_sees_a_sentence_and_no_traceback():
    with pytest.raises(CheckFailed) as caught:
        grade(lambda x: x.sum(0))
    assert caught.value._render_traceback_() == [
        "✘ row sums: You summed over the rows: which axis is the key?"
    ]


def test_transposed_and_shuffled_answers_are_recognised():
    table = torch.arange(9.0).view(3, 3)
    with pytest.raises(CheckFailed, match="transposed"):
        check("table", lambda t: t.T, lambda t: t + 0, [(table,)])
    with pytest.raises(CheckFailed, match="wrong places"):
        check("table", lambda t: t.roll(1, 0), lambda t: t + 0, [(table,)])
    with pytest.raises(CheckFailed, match="signs are lost"):
        check("table", lambda t: (t - 4).abs(), lambda t: t - 4, [(table,)])


def endless(x):
    while True:
        pass


def swallows(x):
    while True:
        try:
            total(x)
        except Exception:
            pass


def swallows_all(x):
    while True:
        try:
            total(x)
        except:  # noqa: E722
            pass


def cleans_up(x):
    try:
        while True:
            total(x)
    finally:
        total(x)


class Dozing:
    """Sleeps in short naps, in a method, behind a generator."""

    def __call__(self, x):
        return sum(1 for _ in self.naps())

    def naps(self):
        while True:
            time.sleep(0.01)
            yield


ENDLESS = [endless, swallows, swallows_all, cleans_up, Dozing()]


@pytest.mark.parametrize("function", ENDLESS, ids=lambda f: getattr(f, "__name__", "dozing"))
@pytest.mark.parametrize("how", ["alarm", "watchdog", "other thread"])
def test_an_endless_loop_is_stopped_and_named(monkeypatch, function, how):
    """On systems with alarms, on others, and outside the main thread."""
    if how == "alarm" and not hasattr(signal, "setitimer"):
        pytest.skip("this system has no timers")
    monkeypatch.setattr(checks, "SECONDS", 0.2)
    if how == "watchdog":
        monkeypatch.delattr(signal, "setitimer", raising=False)
    said, began = [], time.monotonic()

    def run():
        try:
            grade(function)
        except CheckFailed as error:
            said.append(str(error))

    if how == "other thread":
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(20)
    else:
        run()
    assert said and "a loop that never ends" in said[0]
    assert time.monotonic() - began < 20
    for _ in range(3):  # nothing thrown arrives late
        time.sleep(0.15)
    grade(total)


@pytest.mark.parametrize("how", ["alarm", "watchdog"])
def test_a_learners_own_timeout_is_an_error_like_others(monkeypatch, how):
    def late(x):
        raise TimeoutError("the server is asleep")

    if how == "watchdog":
        monkeypatch.delattr(signal, "setitimer", raising=False)
    with pytest.raises(CheckFailed, match="raises TimeoutError .the server"):
        grade(late)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_an_alarm_that_was_set_before_goes_on(monkeypatch):
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    left = signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        grade(total)
        assert 40 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
        signal.raise_signal(signal.SIGALRM)
        assert rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, before)


def test_a_learners_warning_does_not_look_like_a_failure(recwarn):
    """nbgrader gives no points where a check writes to stderr."""

    def warned(x):
        warnings.warn("deprecated", stacklevel=1)
        return x.sum(-1)

    grade(warned)
    assert len(recwarn) == 0


@pytest.mark.parametrize("spoil", [lambda given: given.append(3), lambda given: given.clear()])
def test_a_list_that_is_changed_in_place_is_noticed(spoil):
    with pytest.raises(CheckFailed, match="in place"):
        check("length", lambda given: (spoil(given), 2)[1], len, [([1, 2],)])


def test_inputs_are_copies():
    """A learner who spoils an input does not spoil the next check."""
    before = CASES[0][0].clone()
    with pytest.raises(CheckFailed):
        grade(lambda x: x.zero_().sum(-1))
    assert torch.equal(before, CASES[0][0])
