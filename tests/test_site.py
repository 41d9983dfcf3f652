"""The site asks for nothing from outside, every link in it has somewhere to go, and it shows what the notebooks say."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from mi_course import __main__, claims, files
from mi_course.course import places, site, site_parts
from mi_course.errors import CourseError
from tests.conftest import notebook

ASKS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Links(HTMLParser):
    """What a page asks for, where it leads, and where one can arrive in it."""

    def __init__(self, page: Path):
        super().__init__()
        self.asked, self.leads, self.anchors = [], [], []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors += [attrs["id"]] if attrs.get("id") else []
        self.asked += [attrs[ASKS[tag]]] if tag in ASKS and attrs.get(ASKS[tag]) else []
        self.leads += [attrs[name] for name in ("href", "action") if tag in ("a", "form") and attrs.get(name)]


# --- the whole site of the stored notebooks --------------------------------------------------------


@pytest.fixture(scope="module")
def read(whole_site):
    return {page: Links(page) for page in whole_site.rglob("*.html")}


def test_every_link_and_anchor_resolves(read):
    broken = []
    for page, links in read.items():
        for link in links.leads:
            if re.match(r"(https?|mailto):", link):
                continue
            address, _, anchor = link.partition("#")
            target = (page.parent / address).resolve() if address else page
            if target not in read or (anchor and not {anchor, unquote(anchor)} & set(read[target].anchors)):
                broken.append(f"{page.name} → {link}")
    assert broken == []
    assert sum(len(links.leads) for links in read.values()) > 1000


def test_no_page_asks_for_anything_from_outside(read):
    for page, links in read.items():
        for address in links.asked:
            assert address.startswith("data:") or (page.parent / address).exists(), f"{page.name}: {address}"
        assert "@import" not in page.read_text(encoding="utf-8")


def test_no_page_uses_an_id_twice(read):
    twice = {
        page.name: {a for a in links.anchors if links.anchors.count(a) > 1} for page, links in read.items()
    }
    assert {name: ids for name, ids in twice.items() if ids} == {}


def test_what_pages_share_stands_beside_them_once(read, whole_site):
    assert "globalThis.CircuitsVis = CircuitsVis" in (whole_site / "circuitsvis.js").read_text("utf-8")
    for page in read:
        text = page.read_text(encoding="utf-8")
        assert "globalThis.CircuitsVis = CircuitsVis" not in text and len(text) < 5e6
        views = "cv.render(" in text
        assert ("circuitsvis.js" in text) == views, page.name


def test_every_verdict_leads_to_its_cell_and_the_cell_back(read, whole_site):
    table = (whole_site / "claims.html").read_text(encoding="utf-8")
    board = json.loads((places.root() / "build" / "scoreboard.json").read_text())
    for row in board["rows"]:
        shown = table[table.index(f'<tr id="{row["claim"]}-{row["notebook"]}"') :].split("</tr>")[0]
        assert (row["verdict"] or "open") in shown
        if row["verdict"]:
            name, cell = re.search(r'href="([\w-]+\.html)#(cell-id=[\w-]+)"', shown).groups()
            there = (whole_site / name).read_text(encoding="utf-8")
            after = there[there.index(f'id="{cell}"') :]
            back = site_parts.plain(claims.claim_of(row["claim"]).paper.key)
            assert f"paper-{back}.html#{row['claim']}" in after[: after.index('class="cell', 10)]


def test_the_search_knows_notebooks_claims_words_and_features(whole_site):
    text = (whole_site / "search-data.js").read_text(encoding="utf-8")
    records = json.loads(text.removeprefix("globalThis.RECORDS = ").rstrip().removesuffix(";"))
    kinds = {record["kind"] for record in records}
    assert {"notebook", "claim", "often said", "glossary", "feature"} <= kinds
    assert any("prefix_matching_scores" in record["text"] for record in records), "code can be found"
    for record in records:
        assert (whole_site / record["address"].split("#")[0]).exists(), record["address"]


# --- one notebook ----------------------------------------------------------------------------------


def page_of(nb: nbformat.NotebookNode, name: str = "90_t") -> str:
    return site.notebook_page(site_parts.environment(), site.Page(name, nb))[0]


def test_formulas_are_drawn_in_text_and_nowhere_else():
    page = page_of(notebook("# T\n\n$W_E W_U$ and $$\\sum_h A^h \\otimes W_{OV}^h$$"))
    assert 'ignoreHtmlClass: "mi-page", processHtmlClass: "text_cell_render"' in page
    (text,) = re.findall(r'class="text_cell_render[^"]*"[^$]*\$W_E', page)
    assert "<em>" not in text, "underscores of a formula are no emphasis"
    assert "mathjax.js" not in page_of(notebook("# T", "1"))


def test_a_solution_is_folded_and_the_exercise_is_not():
    source = 'def f(x):\n    """Twice x."""\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION'
    page = page_of(notebook("# T", source))
    stub, _, folded = page.partition("<details")
    assert "Twice x." in stub and "..." in stub and ">return<" not in stub
    assert ">return<" in folded.split("</details>")[0] and "BEGIN SOLUTION" not in page


def test_sections_and_neighbours_are_linked():
    templates, nb = site_parts.environment(), notebook("# One", "# \n## Two `x`\n\n### Three", "## Four")
    around = [site.Page(name, notebook(f"# {name}")) for name in ("00_a", "02_c")]
    page, _ = site.notebook_page(templates, site.Page("01_b", nb), *around)
    contents = page[page.index('aria-label="On this page"') :].split("</nav>")[0]
    assert re.findall(r">([^<]+)</a>", contents) == ["Two x", "Four"]
    assert 'rel="prev" href="00_a.html"' in page and 'rel="next" href="02_c.html"' in page


def test_links_to_notebooks_and_documents_become_links_to_pages():
    body = '<a href="03_x.ipynb#a">3</a> <a href="../notebooks/04_y.ipynb">4</a> <a href="docs/own.md">o</a>'
    linked = site.local_links(body + '<img alt="Open In Colab" src="https://example.com/badge.svg">')
    assert re.findall(r'href="([^"]*)"', linked) == ["03_x.html#a", "04_y.html", "doc-own.html"]
    assert linked.endswith("Open In Colab")


def test_a_document_becomes_a_page_whose_links_leave_for_the_repository(clone):
    (clone.root / "docs").mkdir()
    (clone.root / "docs" / "teaching.md").write_text(
        "# Teaching `it`, twice\n\n[a](../data/README.md) [b](checks.md#x) [c](#d) MF-01"
    )
    (document,) = site.document_pages()
    assert document.address == "doc-teaching.html" and document.title == "Teaching `it`, twice"
    assert '<h1 id="teaching-it-twice">' in document.body, "as on GitHub"
    links = re.findall(r'href="([^"]*)"', document.body.replace('class="anchor-link" href="#', ""))
    place = places.settings()["tool"]["mi-course"]
    github = f"https://github.com/{place['owner']}/{place['repo']}/blob/{place['branch']}/data/README.md"
    assert links == [github, "doc-checks.html#x", "#d", "paper-elhage2021.html#MF-01"]


def test_what_the_opening_says_is_read():
    nb = notebook(
        "# Bigrams **01**\n[badge](x)\n\n*Measured on two CPU cores: about 40 s, 0.9 GB.*\n\n**The question.** What can\none `token` tell?"
    )
    page = site.Page("01_x", nb)
    assert page.title == "Bigrams **01**" and page.number == "01"
    assert page.question == "What can one `token` tell?"
    assert page.measured == "40 s, 0.9 GB"


def test_the_executed_copy_is_shown_unless_the_stored_one_is_newer(clone):
    stored = clone("90_t", "# T", "1")
    assert site.newest(stored) == stored
    files.write(clone.root / "build" / "notebooks" / "90_t.ipynb", stored.read_text())
    assert site.newest(stored) != stored
    os.utime(stored, (2e9, 2e9))
    assert site.newest(stored) == stored


# --- bad input, and the folder ---------------------------------------------------------------------


def test_the_site_is_written_where_one_wants_it(clone, tmp_path, capsys):
    clone("90_t", "# T", "1")
    assert __main__.main(["site", "--out", str(tmp_path / "public")]) == 0
    assert (tmp_path / "public" / "index.html").exists() and not (clone.root / "build" / "site").exists()
    assert "public/index.html" in capsys.readouterr().out


def test_without_notebooks_a_sentence_says_so(clone):
    with pytest.raises(CourseError, match="There is nothing to show"):
        site.build()


def test_a_place_where_one_may_not_write_is_named(clone, tmp_path, monkeypatch, capsys):
    clone("90_t", "# T", "1")
    (tmp_path / "file").write_text("")
    assert __main__.main(["site", "--out", str(tmp_path / "file")]) == 1
    assert "--out" in capsys.readouterr().err

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert __main__.main(["site"]) == 1
    assert "Permission denied" in capsys.readouterr().err


# --- features --------------------------------------------------------------------------------------


def test_the_features_are_computed_once_and_kept(clone, monkeypatch):
    from mi_course.sae import pages as features

    made = []

    def pages(name):
        made.append(name)
        facts = {"active on": 0.01, "r with the proxy": 0.7}
        return [
            features.FeaturePage(i, "arabic", name, facts, ("a", "ا\\xd8"), (1 - i,), "<p>b</p>")
            for i in (0, 1)
        ]

    monkeypatch.setattr(site, "chosen_features", pages)
    if not files.checkpoint_names("sae"):
        pytest.skip("no autoencoder is shipped")
    first, again = site.feature_pages(), site.feature_pages()
    assert len(made) == len(set(made)) == len(site.GALLERY)
    assert [page.body for page in first] == [page.body for page in again]
    site.write_features(clone.root / "features", again, site_parts.environment(gallery=True))
    text = (clone.root / "features" / "index.html").read_text(encoding="utf-8")
    assert 'href="../index.html"' in text and text.count("data-text=") == len(first)
    monkeypatch.setattr(files, "checkpoint_names", lambda kind: [])
    assert site.feature_pages() == []


def test_code_has_a_colour_for_each_theme():
    pairs = re.findall(r"light-dark\((#?\w+), (#?\w+)\)", site.code_colours())
    assert len(pairs) > 20 and any(light != dark for light, dark in pairs)
