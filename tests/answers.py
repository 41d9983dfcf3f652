"""What the tests of a notebook's checks ask of the tables in the module that imports them.

`RIGHT` holds a check, its solution and another right answer; `WRONG` a check, a wrong answer and what it hears.
"""

import pytest

from mi_course.checks import CheckFailed

__all__ = [
    "pytest_generate_tests",
    "test_no_check_gives_its_solution_away",
    "test_right_answers_pass",
    "test_wrong_answers_hear_what_went_wrong",
]


def pytest_generate_tests(metafunc):
    """Each test once for each row of the module's own tables."""
    wanted, module = metafunc.fixturenames, metafunc.module
    if "other" in wanted:
        metafunc.parametrize("check, solution, other", module.RIGHT, ids=lambda x: x.__name__)
    elif "wrong" in wanted:
        named = lambda x: getattr(x, "__name__", str(x))[:30]
        metafunc.parametrize("check, wrong, said", module.WRONG, ids=named)
    elif "check" in wanted:
        checks = [row[0] for row in module.RIGHT]
        metafunc.parametrize("check", checks, ids=lambda check: check.__name__)


def test_right_answers_pass(check, solution, other, capsys):
    check(solution)
    check(other)
    assert capsys.readouterr().out.count("✔") == 2


def test_wrong_answers_hear_what_went_wrong(check, wrong, said):
    with pytest.raises(CheckFailed, match=said):
        check(wrong)


def test_no_check_gives_its_solution_away(check):
    with pytest.raises(CheckFailed) as heard:
        check(lambda *case: "nothing of the kind")
    assert "lambda" not in str(heard.value) and "@" not in str(heard.value)
