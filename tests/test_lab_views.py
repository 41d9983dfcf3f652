"""The views to hover in a real JupyterLab with the network cut: drawn, and nothing of the library saved."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mi_course.course import places
from tests.test_browser import DRAWN, OUTSIDE, browser, idle, lab, opened  # noqa: F401 — fixtures

TEXT = "plots.tokens_view(['the', ' cat', ' sat'], [1.0, -2, 3], title='t', alt='a')"


def up_to_its_view(number: str) -> list:
    """The code of a notebook of the course up to its first view to hover; its words stand below the fold there."""
    code = [c.source for c in nbformat.read(places.find([number])[0], 4).cells if c.cell_type == "code"]
    last = next(i for i, source in enumerate(code) if "_view(" in source)
    return code[: last + 1]


CELLS = [*up_to_its_view("03"), TEXT]


@pytest.fixture
def saved(lab):  # noqa: F811
    """A notebook with two views, in the folder that JupyterLab shows."""
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    path = lab[2] / "views.ipynb"
    nbformat.write(
        new_notebook(cells=[new_code_cell(cell) for cell in CELLS], metadata={"kernelspec": kernel}), path
    )
    return path


def test_views_are_drawn_without_a_network_and_not_saved(browser, lab, saved):  # noqa: F811
    with opened(browser) as page:
        page.set_default_timeout(120_000)
        page.route(OUTSIDE, lambda route: route.abort())
        page.goto(f"{lab[0]['url']}lab/tree/{saved.name}")
        page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for()
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("Run All Cells")).first.click()
        page.wait_for_function(DRAWN.format(2))
        assert "cat" in page.locator("[data-seen]").last.inner_text()
        outside = [url for url in page.asked if OUTSIDE.match(url)]
        idle(page)
        with page.expect_response(lambda got: got.request.method == "PUT" and saved.name in got.url):
            page.keyboard.press("Control+S")
    assert outside == []
    outputs = [cell.outputs for cell in nbformat.read(saved, as_version=4).cells]
    assert any("data-seen" in str(output) or "mi-" in str(output) for output in outputs), (
        "it was saved after the run"
    )
    assert saved.stat().st_size < 600_000 and "DecompressionStream" not in saved.read_text(encoding="utf-8")
