"""What all pages of the site share: templates, records for the search, and changes to the words of a page."""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from mi_course import __version__, claims, files

PIECES = re.compile(r"(<!--.*?-->|<[^>]*>)", re.DOTALL)
FORMULAS = re.compile(r"(\$\$.*?\$\$|\$[^$]+\$|\\begin\{.*?\\end\{\w+\*?\})", re.DOTALL)
UNTOUCHED = ("a", "code", "pre", "h1", "h2", "h3", "h4", "summary", "script", "style")


@dataclass(frozen=True)
class Record:
    """What the search knows of one place."""

    title: str
    address: str
    text: str
    kind: str  # notebook · claim · often said · glossary · feature · for teachers


def environment(gallery: bool = False) -> jinja2.Environment:
    """The templates, with the words they share."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(files.data_dir() / "site" / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters["code"] = inline
    menu = [("claims.html", "Claims"), ("corrections.html", "Often said"), ("glossary.html", "Glossary")]
    menu += [("features/index.html", "Features")] if gallery else []
    env.globals.update(menu=menu, version=__version__, tone=tone, mark=mark)
    return env


def render(templates: jinja2.Environment, template: str, here: str, title: str, **words) -> str:
    """The page at the address `here`; `body` is HTML as it stands."""
    words = {"up": "../" * here.count("/"), "views": False, "formulas": False, "body": "", **words}
    words["body"] = Markup(words["body"])
    return templates.get_template(f"{template}.html.j2").render(here=here, title=plain(title), **words)


def inline(text: str) -> Markup:
    """A line of markdown as HTML, as far as titles and questions go: `code` and nothing else."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False)))


def plain(text: str) -> str:
    """A line of markdown without its marks."""
    return text.replace("`", "").replace("**", "")


def tone(verdict: str | None) -> str:
    return {"reproduced": "met", "toy analogue": "met", "not reproduced": "missed"}.get(verdict, "open")


def mark(verdict: str | None) -> str:
    return claims.MARKS.get(verdict, "·")


def change_words(fragment: str, change: Callable[[str], str]) -> str:
    """HTML with `change` made to its words: not to tags, links, code, headings and formulas."""
    pieces, inside = PIECES.split(fragment), 0  # words and tags by turns
    for number, piece in enumerate(pieces):
        if number % 2:
            tag = re.match(r"<(/?)(\w+)", piece)
            inside += (-1 if tag[1] else 1) if tag and tag[2] in UNTOUCHED else 0
        elif not inside:
            parts = FORMULAS.split(piece)  # words and formulas by turns
            pieces[number] = "".join(part if i % 2 else change(part) for i, part in enumerate(parts))
    return "".join(pieces)


def words_of(fragment: str) -> str:
    """The words of a piece of HTML, on one line."""
    text = re.sub(r'<a class="anchor-link".*?</a>', "", fragment, flags=re.DOTALL)
    text = re.sub(r"</?(?:a|b|i|em|strong|code|span|kbd|sub|sup)\b[^>]*>", "", text)  # inside a line
    bare = re.sub(r"<[^>]*>", " ", text)
    return " ".join(html.unescape(bare).split())
