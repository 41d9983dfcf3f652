"""The site asks for nothing from outside, every link in it has somewhere to go, and it shows what the notebooks say."""

import importlib.util
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from mi_course import claims, files
from mi_course.course import notebooks, places, site
from mi_course.errors import CourseError
from tests.conftest import ROOT, notebook

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
    """Every page; what lies in _static are the theme's own templates."""
    return {page: Links(page) for page in whole_site.rglob("*.html") if "_static" not in page.parts}


def test_every_link_and_anchor_resolves(read):
    broken = []
    for page, links in read.items():
        for link in links.leads:
            if re.match(r"(https?|mailto):", link):
                continue
            address, _, anchor = link.partition("#")
            target = (page.parent / address.partition("?")[0]).resolve() if address else page
            known = target in read and (not anchor or {anchor, unquote(anchor)} & set(read[target].anchors))
            if not known and not (target.suffix == ".ipynb" and target.exists()):
                broken.append(f"{page.name} → {link}")
    assert sorted(set(broken)) == []
    assert sum(len(links.leads) for links in read.values()) > 1000


def test_no_page_asks_for_anything_from_outside(read, whole_site):
    for page, links in read.items():
        for address in links.asked:
            there = page.parent / address.partition("?")[0]
            assert address.startswith(("data:", "#")) or there.exists(), f"{page.name}: {address}"
    for sheet in whole_site.rglob("*.css"):
        asked = re.findall(
            r"url\(\s*['\"]?(https?:[^)]*)|@import\s+['\"]?(https?:[^;]*)", sheet.read_text("utf-8")
        )
        assert asked == [], sheet.name


def test_no_page_uses_an_id_twice(read):
    twice = {
        page.name: {a for a in links.anchors if links.anchors.count(a) > 1} for page, links in read.items()
    }
    theme = {"pst-primary-sidebar-checkbox", "pst-secondary-sidebar-checkbox", "search-input"}
    assert {name: ids - theme for name, ids in twice.items() if ids - theme} == {}


def test_what_pages_share_stands_beside_them_once(read, whole_site):
    assert "CircuitsVis = CircuitsVis" in (whole_site / "_static" / "circuitsvis.js").read_text("utf-8")
    for page in (page for page in read if "_modules" not in page.parts):  # source code says it, too
        text = page.read_text(encoding="utf-8")
        assert "CircuitsVis = CircuitsVis" not in text and len(text) < 5e6
        assert ("_static/circuitsvis.js" in text) == ("globalThis.CircuitsVis" in text), page.name


def test_every_verdict_leads_to_its_cell_and_the_cell_back(whole_site):
    text = lambda name: (whole_site / name).read_text(encoding="utf-8")
    table, board = text("claims/index.html"), claims.Scoreboard.from_notebooks(places.find())
    names = {path.name[:2]: f"notebooks/{path.stem}.html" for path in places.find()}
    for row in board.rows:
        anchor = f"{row.claim.id.lower()}-in-{row.notebook}"
        if row.verdict:
            assert f'href="../{names[row.notebook]}#{anchor}"' in table, anchor
            page = text(names[row.notebook])
            cell = page[page.index(f'id="{anchor}"') :]
            back = f'href="../claims/{row.claim.paper.key}.html#{row.claim.id.lower()}"'
            assert back in cell[: cell.index("<h2") if "<h2" in cell else None], anchor
    for claim in claims.ledger().values():
        assert f'id="{claim.id.lower()}"' in text(f"claims/{claim.paper.key}.html"), claim.id


def test_claims_and_verdicts_are_counted_apart(whole_site):
    board = claims.Scoreboard.from_notebooks(places.find())
    many = len({row.claim.id for row in board.rows})
    said = (whole_site / "claims" / "index.html").read_text("utf-8")
    assert f"{many} claims, {len(board.rows)} verdicts" in said
    assert sum(board.counts().values()) == len(board.rows)


def test_a_measure_stands_beside_its_bound_and_its_role(whole_site):
    page = (whole_site / "claims" / "elhage2021.html").read_text("utf-8")
    rows = re.findall(r"<tr[^>]*><td><p><code[^>]*>.*?</tr>", page, re.DOTALL)
    assert len(rows) > 30
    assert any("≤" in row and "✔ yes" in row for row in rows) and any("✘ no" in row for row in rows)
    if any(hasattr(m, "role") for claim in claims.ledger().values() for m in claim.measures):
        assert 'class="role"' in page


def test_a_claim_says_in_words_where_it_was_read(whole_site):
    page = (whole_site / "claims" / "elhage2021.html").read_text("utf-8")
    said = re.findall(r"<dt>Where we read it</dt><dd><p>([^<]+)</p>", re.sub(r"\s*\n\s*", "", page))
    assert len(said) > 10 and "The paper itself" in said
    assert not any(re.search(r"\b[PSD]\b", words) for words in said)


def test_the_search_knows_titles_terms_and_functions(whole_site):
    index = (whole_site / "searchindex.js").read_text(encoding="utf-8")
    for word in (
        "03_induction_heads",
        "docs/glossary",
        "claims/elhage2021",
        "Experiment",
        "prefix_matching_scores",
    ):
        assert word in index, word


def test_the_front_page_has_a_card_for_each_notebook(whole_site):
    page = (whole_site / "index.html").read_text("utf-8")
    for path in places.find():
        nb = nbformat.read(path, 4)
        assert f'href="notebooks/{path.stem}.html"' in page and f"{path.stem}.png" in page
        assert notebooks.question_of(nb).split("`")[0][:40] in re.sub(
            "&[a-z]+;", " ", page
        ) or "`" in notebooks.question_of(nb)
        assert notebooks.measured_of(nb) in page
    assert "phase_change.png" in page and "curves.png" in page and "curved lines, like shells" in page
    assert "make run" in re.sub("<[^>]*>", "", page)
    assert all(f">{door}<" in re.sub(r"\s", "", page) for door in ("Learn", "Teach", "Use"))


def test_a_notebook_is_handed_out_and_launched_without_its_solutions(whole_site):
    page = (whole_site / "notebooks" / "01_bigrams.html").read_text("utf-8")
    place = places.settings()["tool"]["mi-course"]
    student = f"{place['owner']}/{place['repo']}/blob/{place['branch']}/notebooks/student/01_bigrams.ipynb"
    assert f"https://colab.research.google.com/github/{student}" in page
    assert "mybinder.org" in page and "labpath=notebooks/student/01_bigrams.ipynb" in page
    for copy in ("01_bigrams.ipynb", "student/01_bigrams.ipynb"):
        assert f'href="{copy}"' in page and (whole_site / "notebooks" / copy).exists()
    assert 'rel="prev"' in page and page.count("02_skip_trigrams.html") >= 3, (
        "next above and below, and at the left"
    )


def test_a_page_links_the_first_use_of_a_word_and_says_its_meaning(whole_site):
    page = (whole_site / "notebooks" / "00_tools_tour.html").read_text("utf-8")
    links = re.findall(
        r'<a class="[^"]*term[^"]*" href="\.\./docs/glossary\.html#term-([^"]*)" title="([^"]+)"', page
    )
    assert len(links) > 15 and len({term for term, _ in links}) == len(links), "once a page"
    assert all(len(meaning) > 20 for _, meaning in links)


# --- a small course --------------------------------------------------------------------------------


@pytest.fixture
def small(clone, monkeypatch):
    """A course with a few pages, whose API is one module: quick to build. `small(cell, …)` builds it and gives its page."""
    docs = clone.root / "docs"
    for part in ("_ext", "_pages", "_static", "_templates", "conf.py"):
        (shutil.copytree if (ROOT / "docs" / part).is_dir() else shutil.copy)(
            ROOT / "docs" / part, docs / part
        )
    for name in (
        "prerequisites",
        "pitfalls",
        "reading",
        "teaching",
        "checks",
        "nulls",
        "fell_short",
        "models",
        "use/index",
    ):
        (docs / name).parent.mkdir(exist_ok=True)
        (docs / f"{name}.md").write_text(f"# {name}\n")
    shutil.copy(ROOT / "docs" / "glossary.md", docs)
    monkeypatch.syspath_prepend(str(docs / "_ext"))
    monkeypatch.delitem(sys.modules, "mi_site", raising=False)
    monkeypatch.setattr(
        site, "public", lambda: {"errors": {"kinds": {"CourseError": "autoclass"}, "line": "E."}}
    )
    monkeypatch.setattr(site, "sphinx", SPHINX)

    def built(*cells: str, name: str = "90_t") -> str:
        clone(name, *cells)
        site.build()
        return (clone.root / "build" / "site" / "notebooks" / f"{name}.html").read_text("utf-8")

    built.docs = docs
    return built


SPHINX = site.sphinx  # the clone fixture puts a stand-in in its place


def test_a_solution_is_folded_and_the_exercise_is_not(small):
    source = 'def f(x):\n    """Twice x."""\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION'
    page = small("# T\n\n$W_E W_U$ and\n\n$$\\sum_h A^h$$", source, "# ### x\n\nMF-01 and **S-01**")
    article = page[page.index('<article class="bd-article">') :]  # the navigation beside it folds, too
    stub, _, folded = article.partition("<details")
    assert "Twice x." in stub and "One solution" in folded and "BEGIN SOLUTION" not in page
    body = re.sub("<[^>]*>", "", folded.split("</details>")[0])
    assert "return 2 * x" in body and "return 2" not in re.sub("<[^>]*>", "", stub)
    assert page.count('class="math notranslate nohighlight"') == 2 and "tex-svg-full.js" in page
    assert (
        'href="../claims/elhage2021.html#mf-01"' in page and 'href="../claims/corrections.html#s-01"' in page
    )


def test_a_link_to_nowhere_ends_the_build_and_is_named(small):
    (small.docs / "teaching.md").write_text("# T\n\nSee [the plan](plan.md).\n")
    with pytest.raises(CourseError, match=r"The site has a fault.*teaching\.md.*plan\.md"):
        small("# T", "1")


def test_a_link_to_a_file_of_the_repository_leads_there(small):
    (small.docs / "teaching.md").write_text("# T\n\n[p](../pyproject.toml), [n](../notebooks/90_t.ipynb)\n")
    small("# T", "1")
    page = (small.docs.parent / "build" / "site" / "docs" / "teaching.html").read_text("utf-8")
    place = places.settings()["tool"]["mi-course"]
    assert (
        f"https://github.com/{place['owner']}/{place['repo']}/blob/{place['branch']}/pyproject.toml" in page
    )
    assert 'href="../notebooks/90_t.html"' in page


def test_a_notebook_that_is_not_stored_is_named(small):
    (small.docs / "pitfalls.md").write_text("# P\n\n[here](../notebooks/91_gone.ipynb#x)\n")
    with pytest.raises(CourseError, match="91_gone"):
        small("# T", "1")


def test_a_notebook_that_was_never_run_is_named(small, clone):
    (clone.root / "notebooks" / "91_broken.ipynb").write_text("{")
    with pytest.raises(CourseError, match="91_broken"):
        small("# T", "1")


# --- what is said before Sphinx is asked -----------------------------------------------------------


def test_what_the_opening_says_is_read():
    nb = notebook(
        "# Bigrams **01**\n[badge](x)\n\n*Measured on two CPU cores: about 40 s, 0.9 GB.*\n\n**The question.** What can\none `token` tell?"
    )
    assert notebooks.title_of(nb, "01_x") == "Bigrams **01**"
    assert notebooks.question_of(nb) == "What can one `token` tell?"
    assert notebooks.measured_of(nb) == "40 s, 0.9 GB"


def test_the_executed_copy_is_shown_unless_the_stored_one_is_newer(clone):
    stored = clone("90_t", "# T", "1")
    assert site.newest(stored) == stored
    files.write(clone.root / "build" / "notebooks" / "90_t.ipynb", stored.read_text())
    assert site.newest(stored) != stored
    os.utime(stored, (2e9, 2e9))
    assert site.newest(stored) == stored


def test_the_site_is_written_where_one_wants_it(clone, tmp_path):
    clone("90_t", "# T", "1")
    assert site.build(tmp_path / "public").endswith("public/index.html")
    assert (tmp_path / "public" / "index.html").exists() and not (clone.root / "build" / "site").exists()
    assert json.loads((clone.root / "build" / "scoreboard.json").read_text())["rows"] == []


def test_without_sphinx_a_sentence_says_how_to_get_the_site(clone, monkeypatch):
    clone("90_t", "# T", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = site.build()
    assert "python -m pip install" in said and "[site]" in said and "0 claims" in said
    assert not (clone.root / "build" / "site").exists()


def test_without_notebooks_a_sentence_says_so(clone):
    with pytest.raises(CourseError, match="There is nothing to show"):
        site.build()


def test_a_place_where_one_may_not_write_is_named(clone, tmp_path):
    clone("90_t", "# T", "1")
    (tmp_path / "file").write_text("")
    with pytest.raises(CourseError, match="file"):
        site.build(tmp_path / "file")


# --- features --------------------------------------------------------------------------------------


def test_the_pages_of_features_show_letters_and_no_bytes(whole_site):
    pages = [p.read_text("utf-8") for p in whole_site.glob("features/sae*.html")]
    of_arabic = [page for page in pages if "· arabic" in page]
    assert of_arabic, "no feature follows Arabic"
    for page in of_arabic:
        article = page[page.index("<article") : page.index("</article>")]
        assert re.findall(r"\\x[0-9a-f]{2}", article) == [] and re.search("[ء-ي]¹", article)


def test_the_features_are_computed_once_and_kept(clone, monkeypatch):
    from mi_course import pretrained, sae

    made = []

    def pages(name):
        made.append(name)
        facts = {"active on": 0.01, "r with the proxy": 0.7}
        return [sae.FeaturePage(i, "arabic", name, facts, ("a", "ا"), (1 - i,), "<p>b</p>") for i in (0, 1)]

    monkeypatch.setattr(site, "chosen_features", pages)
    monkeypatch.setattr(site, "real_features", lambda: pages(site.REAL))
    monkeypatch.setattr(pretrained, "here", lambda name: True)
    first, again = site.feature_pages(), site.feature_pages()
    assert made == [*site.GALLERY, site.REAL]
    assert [page.body for page in first] == [page.body for page in again]
    monkeypatch.setattr(pretrained, "here", lambda name: False)
    made.clear()
    assert {page.of for page in site.feature_pages()} == set(made) == set(site.GALLERY)
    monkeypatch.setattr(files, "checkpoint_names", lambda kind: [])
    assert site.feature_pages() == []
