"""The glossary is sound, and a page's first use of a word leads to it."""

import re

import pytest

from mi_course import files
from mi_course.course import site_glossary, site_parts
from mi_course.errors import CourseError


def test_every_term_says_something_and_its_spellings_are_its_own():
    terms = site_glossary.glossary()
    assert len(terms) >= 60
    spellings = [name for term in terms.values() for name in (term.name, *term.also)]
    assert len(spellings) == len(set(spellings)), "two terms share a spelling"
    assert len({term.anchor for term in terms.values()}) == len(terms)
    for term in terms.values():
        assert 40 < len(term.text) < 400 and term.text.endswith("."), term.name
        assert term.name not in term.see, term.name


@pytest.mark.parametrize(
    "text, links",
    [
        ("the residual stream, the residual stream", ["residual stream"]),
        ("Residual\nstreams and SAEs", ["residual stream", "sparse autoencoder"]),
        ("an induction head is a head", ["induction head", "attention head"]),
        ("ahead of the overhead, of L01 and saes", []),
        ("a skip-trigram is no bigram", ["skip-trigram", "bigram"]),
    ],
)
def test_the_first_use_of_each_term_is_linked(text, links):
    used: set[str] = set()
    linked = site_glossary.with_terms(text, used)
    assert re.sub("<[^>]*>", "", linked) == text
    anchors = [site_glossary.glossary()[name].anchor for name in links]
    assert re.findall(r'href="glossary.html#([\w-]+)"', linked) == anchors
    assert used == set(links)
    assert site_glossary.with_terms(text, used) == text, "once a page"


def test_the_page_leads_back_to_first_uses():
    used = {"00_tour": {"ablation"}, "01_next": set()}
    page = site_glossary.page(site_parts.environment(), used)
    assert 'href="00_tour.html#use-ablation"' in page and "01_next.html" not in page
    for term in site_glossary.glossary().values():
        assert page.count(f'id="{term.anchor}"') == 1
    assert len(site_glossary.records()) == len(site_glossary.glossary())


def test_a_term_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "glossary.toml").write_text(
        '[[term]]\nname = "ablation"\ntext = "x."\n[[term]]\nname = "b"\ntext = "y."\nsee = ["ablatoin"]\n'
    )
    monkeypatch.setattr(files, "data_dir", lambda: tmp_path)
    site_glossary.glossary.cache_clear()
    try:
        with pytest.raises(CourseError, match="b: no term 'ablatoin'. Did you mean 'ablation'"):
            site_glossary.glossary()
    finally:
        site_glossary.glossary.cache_clear()
