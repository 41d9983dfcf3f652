"""The checks, checked: mistakes are refused, right answers pass in any form, and nothing a learner hands in breaks them."""

import ast
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mi_course import checks
from mi_course.course import classroom
from tests import mutants

EXERCISES = [e for e in classroom.exercises() if not mutants.needs_its_notebook(e)]
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: f"{e.notebook[:2]}-{e.name}")


@pytest.fixture(scope="module")
def tried() -> dict[str, list[mutants.Mutant]]:
    return {e.name: mutants.tried(e) for e in EXERCISES}


# -- mistakes ------------------------------------------------------------------------------------------


@each
def test_mistakes_are_refused(exercise, tried):
    """The bound is 95% over all; an exercise as such may let one through."""
    alive = mutants.survivors(tried[exercise.name])
    assert len(alive) <= 1 and tried[exercise.name], [m.change for m in alive]


def test_nineteen_of_twenty_mistakes_are_refused_in_all(tried):
    n = mutants.heard([m for done in tried.values() for m in done])
    assert n["wrong"] > 30 * len(EXERCISES) and n["refused"] >= 0.95 * n["wrong"]
    assert n["named"] + n["raised"] >= 0.7 * n["refused"]


def test_no_check_breaks_under_a_mistake(tried):
    broken = [m for done in tried.values() for m in done if m.said and "in the check" in m.said]
    assert [
        m.change for m in broken if "NameError" not in m.said
    ] == []  # the line that gives it a name left out


def test_what_is_called_equivalent_exists_and_passes(tried):
    alive = {(m.exercise, mutants.bare(m.change)) for done in tried.values() for m in done if m.said is None}
    ours = {listed for listed in mutants.equivalent() if listed[0] in tried}
    assert ours <= alive, ours - alive


def test_the_page_is_current(tried):
    """docs/checks.md: how many are told what may differ between versions of Python; the mistakes may not."""

    def counts(text: str) -> list[str]:
        return re.findall(r"^\| .+? \| \d+ \| \d+ \|", text, re.MULTILINE) + re.findall(
            r"^- .+", mutants.bare(text), re.MULTILINE
        )

    page = mutants.page(tried, classroom.exercises())
    stored = (mutants.ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert counts(page) == counts(stored), "python -m tests.mutants"


def test_every_kind_of_mistake_is_tried(tried):
    kinds = {m.kind for done in tried.values() for m in done}
    assert {
        "sign",
        "axis",
        "off by one",
        "transposition",
        "mask",
        "constant",
        "normalisation",
        "order",
        "hard-coded argument",
        "hard-coded size",
        "lost tie",
    } <= kinds


def test_a_blind_check_would_be_noticed(monkeypatch):
    """The run itself can fail: with a check that says yes to everything, all mistakes survive."""
    monkeypatch.setattr(checks, "same", lambda a, b, atol: True)
    exercise = next(e for e in EXERCISES if e.name == "row-centred")
    done = mutants.tried(exercise)
    assert len(mutants.survivors(done)) > 0.5 * len(done)


# -- right answers ---------------------------------------------------------------------------------------


@each
def test_the_stored_solution_passes(exercise):
    assert mutants.said(exercise, exercise.answer) is None


@each
def test_there_is_another_right_answer_in_the_tests(exercise):
    assert len(mutants.right_answers().get(exercise.name, ())) >= 2 or exercise.name == "bipyramid"


def solution(exercise) -> tuple[str, Callable] | None:
    """Name and function of the stored solution; None where the answer is no function."""
    names = dict(mutants.surroundings(exercise.notebook))
    exec(exercise.answer, names)
    (call,) = [n for n in ast.walk(ast.parse(exercise.check)) if isinstance(n, ast.Call)][:1]
    name = getattr(call.args[0], "id", "")
    return (name, names[name]) if callable(names.get(name)) else None


def handed_in(exercise, name: str, function: object) -> str | None:
    """What the check says to another function."""
    names = dict(mutants.surroundings(exercise.notebook)) | {name: function}
    try:
        exec(exercise.check, names)
    except checks.CheckFailed as failed:
        return str(failed)
    return None


def each_number(turn: Callable) -> Callable:
    """`turn` on a tensor, or on each of several; other answers stay."""

    def turned(value):
        if isinstance(value, tuple) and all(isinstance(v, Tensor) for v in value):
            return tuple(turn(v) for v in value)
        return turn(value) if isinstance(value, Tensor) else value

    return turned


CLOTHES = {
    "double precision": each_number(lambda t: t.double() if t.is_floating_point() else t),
    "NumPy": each_number(lambda t: t.detach().numpy()),
    "nested lists": each_number(lambda t: t.tolist()),
    "with a gradient": each_number(lambda t: t.requires_grad_() if t.is_floating_point() and t.is_leaf else t),
    "a view": each_number(lambda t: t[None][0]),
    "rounding": each_number(lambda t: t * (1 + 1e-7) if t.is_floating_point() else t),
    "NumPy scalar": lambda v: np.float64(v) if isinstance(v, float) else v,
}  # fmt: skip


@pytest.mark.parametrize("clothes", CLOTHES)
@each
def test_right_answers_pass_in_other_clothes(exercise, clothes):
    if (found := solution(exercise)) is None:
        pytest.skip("the answer is no function")
    name, right = found
    dressed = right if exercise.name == "temporary-hook" else lambda *case: CLOTHES[clothes](right(*case))
    assert handed_in(exercise, name, dressed) is None


# -- what else is handed in --------------------------------------------------------------------------------


def printing(right):
    return lambda *case: print(right(*case))


def spoiling(right):
    """Right, and its inputs are gone."""

    def spoilt(*case):
        result = right(*case)
        for given in case:
            if isinstance(given, Tensor):
                given.logical_not_() if given.dtype == torch.bool else given.add_(1)
            elif isinstance(given, (list, dict)):
                given.clear()
        return result

    return spoilt


def without_number(right):
    return lambda *case: each_number(lambda t: t * float("nan"))(right(*case))


UNUSABLE = {
    "too few arguments": (lambda right: lambda: 0, "arguments|raises|with|return|of type"),
    "too many arguments": (lambda right: lambda *, wanted: 0, "arguments|raises|with"),
    "print, no return": (printing, "print|nothing|open it|return the model"),
    "a word": (lambda right: lambda *case: "seven", "."),
    "an object": (lambda right: lambda *case: object(), "."),
    "a function": (lambda right: lambda *case: right, "."),
    "NaN": (lambda right: lambda *case: float("nan"), "."),
    "an empty list": (lambda right: lambda *case: [], "."),
    "an error": (lambda right: lambda *case: 1 / 0, "ZeroDivisionError"),
    "not written": (lambda right: unwritten, "not written yet"),
    "not a function": (lambda right: 3, "."),
}  # fmt: skip


def unwritten(*case):
    raise NotImplementedError


@pytest.mark.parametrize("what", UNUSABLE)
@each
def test_unusable_answers_get_a_sentence(exercise, what, capsys):
    if (found := solution(exercise)) is None:
        pytest.skip("the answer is no function")
    name, right = found
    spoil, words = UNUSABLE[what]
    said = handed_in(exercise, name, spoil(right))
    assert said and re.search(words, said) and len(said) < 260 and "\n" not in said
    assert "✔" not in capsys.readouterr().out


def changeable(exercise, name: str, right: Callable) -> bool:
    """Whether the check hands over anything that can be changed in place."""
    seen: list = []
    handed_in(exercise, name, lambda *case: (seen.extend(case), right(*case))[1])
    return any(isinstance(given, (Tensor, list, dict)) for given in seen)


@each
def test_inputs_that_are_changed_in_place_are_noticed(exercise):
    found = solution(exercise)
    if found is None or exercise.name in (
        "say-two-on",
        "temporary-hook",
        "hook-names",
        "absolute-value",
        "bipyramid",
    ):
        pytest.skip("there is no input to change, or it is there to be changed")
    name, right = found
    told = handed_in(exercise, name, spoiling(right))
    assert told is None or "in place" in told
    assert told or not changeable(exercise, name, right)


@each
def test_nan_is_named(exercise):
    found = solution(exercise)
    if found is None or exercise.name == "temporary-hook":
        pytest.skip("the answer is no function of numbers")
    name, right = found
    told = handed_in(exercise, name, without_number(right))
    assert told is None or re.search("NaN|raises|wrong|inputs|type|model|hook|decisions|want", told), told


# -- what the mutants are ------------------------------------------------------------------------------


def made(body: str) -> set[str]:
    answer = f"def f(a, b):\n    ### BEGIN SOLUTION\n    return {body}\n    ### END SOLUTION"
    exercise = classroom.Exercise("90_x", "x", "", 1, 5, "", answer, "checks.check_x(f)")
    return {
        mutant.source.splitlines()[1].strip().removeprefix("return ") for mutant in mutants.mutants(exercise)
    }


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("a @ b.T", {"b.T @ a", "a @ b", "a.T @ b.T", "a", "b.T"}),
        ("a.sum(0)", {"a.mean(0)", "a.sum(1)", "a.sum(-1)", "a.sum()", "a", "b.sum(0)"}),
        ("a > b", {"a >= b", "a < b"}),
        ("a[:, -b:]", {"a[:, -b + 1:]", "a[:, -b - 1:]", "a[:, :]", "a[-b:, :]", "a"}),
        ("a.softmax(-1)", {"a.softmax(0)", "a.softmax(-2)", "a.softmax(1)", "a.log_softmax(-1)", "a"}),
        ("1 if a else b", {"1", "b", "b if a else 1"}),
    ],
)
def test_operators_make_the_mistakes_they_are_named_for(body, wanted):
    assert wanted <= made(body)


def test_only_what_stands_between_the_markers_is_changed():
    answer = "def f(a):\n    c = a + 1\n    ### BEGIN SOLUTION\n    return c\n    ### END SOLUTION"
    exercise = classroom.Exercise("90_x", "x", "", 1, 5, "", answer, "checks.check_x(f)")
    assert all("c = a + 1" in mutant.source for mutant in mutants.mutants(exercise))
