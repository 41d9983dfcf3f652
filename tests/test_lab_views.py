"""The views to hover in a real JupyterLab with the network cut: drawn, and nothing of the library saved."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.test_browser import browser, lab, opened  # noqa: F401 — fixtures

CELLS = [
    "import torch\nfrom mi_course import plots",
    "plots.tokens_view(['the', ' cat', ' sat'], [1.0, -2, 3], title='t', alt='a')",
    "plots.attention_view(torch.rand(2, 3, 3).tril(), ['the', ' cat', ' sat'], title='u', alt='a')",
]


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
        page.route(re.compile(r"^https?://(?!127\.0\.0\.1|localhost)"), lambda route: route.abort())
        page.goto(f"{lab[0]['url']}lab/tree/{saved.name}")
        page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for()
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("Run All Cells")).first.click()
        drawn = "[...document.querySelectorAll('[data-seen]')].filter(box => !box.querySelector('em')).length == 2"
        page.wait_for_function(drawn)
        assert "cat" in page.locator("[data-seen]").first.inner_text()
        outside = [url for url in page.asked if url.startswith("http") and "127.0.0.1" not in url]
        page.keyboard.press("Control+S")
        page.wait_for_timeout(3000)
    assert [url for url in outside if "localhost" not in url] == []
    outputs = [cell.outputs for cell in nbformat.read(saved, as_version=4).cells]
    assert any("data-seen" in str(output) or "mi-" in str(output) for output in outputs), (
        "it was saved after the run"
    )
    assert saved.stat().st_size < 60_000 and "DecompressionStream" not in saved.read_text(encoding="utf-8")
