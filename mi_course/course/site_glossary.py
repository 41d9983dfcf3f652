"""The glossary of the site, and the links from a word's first use on a page to it."""

import functools
import re
from dataclasses import dataclass

import jinja2

from mi_course import claims, files
from mi_course.course.site_parts import Record, render
from mi_course.errors import CourseError, nearest


@dataclass(frozen=True)
class Term:
    """A word of the field, in our own words."""

    name: str
    text: str
    also: tuple[str, ...] = ()  # other words for it, found in the notebooks too
    see: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")

    @property
    def use(self) -> str:
        """The anchor of its first use on a page."""
        return f"use-{self.anchor}"


@functools.cache
def glossary() -> dict[str, Term]:
    """name → term in the order of the alphabet, from data/site/glossary.toml."""
    rows = claims.read_toml(files.data_dir() / "site" / "glossary.toml").get("term", [])
    terms = [
        claims.built(Term, row, f"glossary.toml: {row.get('name', 'a term without name')}") for row in rows
    ]
    terms = {term.name: term for term in sorted(terms, key=lambda term: term.name.lower())}
    for term in terms.values():
        for name in term.see:
            if name not in terms:
                raise CourseError(f"glossary.toml: {term.name}: no term {name!r}.{nearest(name, terms)}")
    return terms


@functools.cache
def spelled() -> tuple[re.Pattern, dict[str, Term]]:
    """A pattern for every spelling of every term, the longest first, and the term of each."""
    owner = {name: term for term in glossary().values() for name in (term.name, *term.also)}
    patterns = [
        f"{re.escape(name)}s?".replace(r"\ ", r"\s+") if re.search("[A-Z]", name)
        else f"(?i:{re.escape(name)}(?:e?s)?)".replace(r"\ ", r"\s+")
        for name in sorted(owner, key=len, reverse=True)
    ]  # fmt: skip
    return re.compile(rf"(?<![\w-])(?:{'|'.join(f'({p})' for p in patterns)})(?![\w-])"), owner


def with_terms(text: str, used: set[str]) -> str:
    """Words in which the first use of each term leads to the glossary; `used` remembers the page's terms."""
    pattern, owner = spelled()
    terms = [owner[name] for name in sorted(owner, key=len, reverse=True)]

    def link(found: re.Match) -> str:
        term = terms[found.lastindex - 1]
        if term.name in used:
            return found[0]
        used.add(term.name)
        return f'<a class="term" id="{term.use}" href="glossary.html#{term.anchor}">{found[0]}</a>'

    return pattern.sub(link, text)


def page(templates: jinja2.Environment, used: dict[str, set[str]]) -> str:
    """The glossary; `used` says which terms each notebook uses."""
    letters: dict[str, list[Term]] = {}
    for term in glossary().values():
        letters.setdefault(term.name[0].upper(), []).append(term)
    where = {name: [page for page, terms in used.items() if name in terms] for name in glossary()}
    words = {"terms": glossary(), "letters": letters, "known": glossary(), "used": where, "formulas": True}
    return render(templates, "glossary", "glossary.html", "Glossary", **words)


def records() -> list[Record]:
    """What the search knows of the glossary."""
    return [
        Record(term.name, f"glossary.html#{term.anchor}", f"{' '.join(term.also)} {term.text}", "glossary")
        for term in glossary().values()
    ]
