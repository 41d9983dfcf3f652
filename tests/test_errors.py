"""One sentence for a learner, with the names that were probably meant."""

import pytest

from mi_course.errors import CourseError, nearest, needs


def test_a_course_error_is_a_value_error_with_a_sentence():
    assert issubclass(CourseError, ValueError)
    assert str(CourseError("What to do.")) == "What to do."


def test_the_nearest_names_come_first():
    hint = nearest("blocks.0.hook_patern", ["blocks.0.hook_pattern", "hook_embed", "ln_final.hook_scale"])
    assert "blocks.0.hook_pattern" in hint and "hook_embed" not in hint
    assert hint.startswith(" "), "it is appended to a sentence"


def test_a_name_like_no_other_still_gets_an_answer():
    assert "muon" in nearest("zzz", ["adamw", "muon"])
    assert nearest("zzz", []) == " There are none."


def test_settings_are_refused_in_the_words_of_the_first_rule_they_break():
    needs("A run", {"steps": True})
    with pytest.raises(CourseError, match="^A run needs rest.$"):
        needs("A run", {"steps": True, "rest": False, "food": False})
