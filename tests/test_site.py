"""The site asks for nothing from outside and leads from a claim to the cell that settles it."""

import re

import nbformat
import pytest

from mi_course import claims, course, site
from tests.conftest import notebook

REQUESTS = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=[\"'](?!data:)([^\"']*)")


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """The site of a course of one notebook, which settles its claims with numbers that meet every bound."""
    rows = [claim for claim in claims.ledger().values() if "00" in claim.notebooks]
    good = {
        "==": lambda b: b,
        "<=": lambda b: b,
        ">=": lambda b: b,
        "<": lambda b: b - 1,
        ">": lambda b: b + 1,
    }
    good |= {"between": lambda b: b[0], "report": lambda b: 1.0}
    calls = [
        f"claims.settle({row.id!r}, notebook='00', **{ {m.name: good[m.op](m.bound) for m in row.measures_of('00').values()} })"
        for row in rows
    ]
    formula = "# Tour\n[![Open In Colab](https://example.com/badge.svg)](https://example.com)\nWhat is inside?\n\n$W_E W_U$ and $$\\sum_h A^h \\otimes W_{OV}^h$$"
    folder = tmp_path_factory.mktemp("clone")
    (folder / "notebooks").mkdir()
    nbformat.write(
        notebook(formula, "from mi_course import claims", *calls), folder / "notebooks" / "00_tour.ipynb"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "root", lambda: folder)
        assert course.run() == 0
    return folder / "build" / "site"


def test_the_index_leads_from_each_claim_to_its_cell(settled):
    page = (settled / "index.html").read_text()
    notebook_page = (settled / "00_tour.html").read_text()
    assert "What is inside?" in page and '<a href="https://example.com">Open In Colab</a>' in notebook_page
    for claim in (claim for claim in claims.ledger().values() if "00" in claim.notebooks):
        row = page[page.index(f'<tr id="{claim.id}-00"') :].split("</tr>")[0]
        assert claim.if_met in row
        target = re.search(r'href="00_tour.html#(cell-id=[\w-]+)"', row)[1]
        assert f'id="{target}"' in notebook_page, "the link has somewhere to go"


def test_no_page_asks_for_anything_from_outside(settled):
    for page in settled.glob("*.html"):
        text = page.read_text()
        for address in REQUESTS.findall(text):
            assert (settled / address).exists(), f"{page.name} asks for {address}"
        assert "@import" not in text
        for link in re.findall(r'href="([^"#:]+\.html)', text):
            assert (settled / link).exists(), f"{page.name} leads to {link}, which is not there"


def test_formulas_are_drawn_in_text_and_nowhere_else(settled):
    page = (settled / "00_tour.html").read_text()
    assert 'ignoreHtmlClass: "mi-page", processHtmlClass: "text_cell_render"' in page
    (text,) = re.findall(r'class="text_cell_render[^"]*"[^$]*\$W_E', page)
    assert "<em>" not in text, "underscores of a formula are no emphasis"


def test_the_interactive_script_stands_once_and_only_where_it_is_needed(clone):
    plain = site.page_of(notebook("# T", "1"), "90_t", (None, None))
    nb = notebook("# T", "view", "view")
    for cell in nb.cells[1:]:
        cell.outputs = [
            nbformat.v4.new_output(
                "display_data", data={"text/html": "<script>globalThis.CircuitsVis</script>"}
            )
        ]
    page = site.page_of(nb, "90_t", (None, None))
    assert "globalThis.CircuitsVis = CircuitsVis" not in plain
    assert page.count("globalThis.CircuitsVis = CircuitsVis") == 1


def test_what_the_opening_says_is_read():
    nb = notebook(
        "# Bigrams **01**\n[badge](x)\n\n*Measured on two CPU cores: about 40 s, 0.9 GB.*\n\n**The question.** What can\none `token` tell?"
    )
    assert site.title_of(nb, "x") == "Bigrams **01**"
    assert site.question_of(nb) == "What can one `token` tell?"
    assert site.measured_of(nb) == "40 s, 0.9 GB"


def test_the_executed_copy_is_shown_unless_the_stored_one_is_newer(clone):
    import os

    stored = clone("90_t", "# T", "1")
    assert site.newest(stored) == stored
    course.write(clone.root / "build" / "notebooks" / "90_t.ipynb", stored.read_text())
    assert site.newest(stored) != stored
    os.utime(stored, (2e9, 2e9))
    assert site.newest(stored) == stored


def test_the_gallery_of_features_is_made_once(tmp_path, monkeypatch):
    from mi_course import features, models

    made = []

    def pages(name):
        made.append(name)
        facts = {"active on": 0.01, "r with the proxy": 0.7}
        return [
            features.FeaturePage(i, "arabic", name, facts, ("a", "ا\\xd8"), (1 - i,), "<p>body</p>")
            for i in (0, 1)
        ]

    monkeypatch.setattr(site, "feature_pages", pages)
    index = site.feature_gallery(tmp_path / "features")
    if index is None:
        pytest.skip("no autoencoder is shipped")
    assert made and site.feature_gallery(tmp_path / "features") == index and len(made) == len(set(made))
    text = index.read_text(encoding="utf-8")
    assert 'href="../index.html"' in text and text.count("data-text=") == 2 * len(made)
    for page in index.parent.glob("*.html"):
        assert not REQUESTS.search(page.read_text(encoding="utf-8").replace('href="data:,"', ""))
    monkeypatch.setattr(models, "checkpoint_names", lambda kind: [])
    assert site.feature_gallery(tmp_path / "none") is None
