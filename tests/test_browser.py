"""In a real browser: the site for everybody's eyes and keyboards, and JupyterLab with a student's notebook.

Playwright drives the Chromium of the system (`apt install chromium`, or CHROMIUM=/path/to/it). Without one the tests
are skipped with the reason; where CI is set they fail. `make test-browser` runs them.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mi_course import files
from mi_course.course import classroom, places
from mi_course.course import lab as course_lab

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHONE, DESK = {"width": 375, "height": 800}, {"width": 1440, "height": 900}
NOWHERE = "http://127.0.0.1:9"  # a proxy that does not answer: kernels have no network
OUTSIDE = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1|localhost)")
SOLUTION = re.compile(r"^ *### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", re.DOTALL | re.MULTILINE)


def missing() -> str | None:
    """What is not here, in a sentence."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed: pip install -e '.[test]'."
    return None if chromium() else "There is no Chromium here: apt install chromium, or set CHROMIUM to one."


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def needed() -> None:
    """Go on, skip, or fail in CI."""
    if reason := missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    needed()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=SWITCHES)
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """One page, which must raise no error in its scripts."""
    with opened(browser) as page:
        yield page


@contextlib.contextmanager
def opened(browser, theme: str = "light", size: dict = DESK):
    """A page whose scripts raise no error, and which says in `page.asked` what it asked for."""
    context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")
    page, errors = context.new_page(), []
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


def test_a_missing_browser_is_a_skip_here_and_a_failure_in_ci(monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="There is no Chromium here: apt install chromium"):
        needed()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="There is no Chromium here"):
        needed()


# --- the site --------------------------------------------------------------------------------------

KINDS = {
    "index": "index.html",
    "notebook": "notebooks/00_tools_tour.html",
    "paper": "claims/elhage2021.html",
    "claims": "claims/index.html",
    "often said": "claims/corrections.html",
    "glossary": "docs/glossary.html",
    "search": "search.html?q=induction",
    "gallery": "features/index.html",
    "feature": "features/sae*",
    "document": "docs/pitfalls.html",
    "use": "docs/use/patching.html",
    "api": "docs/api/patching.html",
}


@pytest.fixture(scope="module")
def address(whole_site):
    """Kind of page → its address, from the disk as a reader opens it."""

    def find(kind: str) -> str:
        name, _, asked = KINDS[kind].partition("?")
        found = sorted(path for path in whole_site.glob(name) if kind != "feature" or path.stem != "index")
        if not found:
            pytest.skip(f"The site has no page {name}.")
        return found[0].as_uri() + (f"?{asked}" if asked else "")

    return find


def settle(page) -> None:
    """Until formulas and views are drawn."""
    page.wait_for_load_state("load")
    page.evaluate("globalThis.MathJax?.startup?.promise")
    page.wait_for_timeout(200)


def serious(page) -> list[str]:
    """What axe-core finds serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"preload": False}).response["violations"]
    return [
        f"{finding['id']}: {finding['nodes'][0]['html'][:120]}"
        for finding in found
        if finding["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme, size", [("light", DESK), ("dark", PHONE)], ids=["light desk", "dark phone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_accessible_fits_its_screen_and_asks_for_nothing(browser, address, kind, theme, size):
    with opened(browser, theme, size) as page:
        page.goto(address(kind))
        settle(page)
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, "scrolls sideways"
        outside = [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))]
        assert outside == []


def test_no_notebook_scrolls_sideways_on_a_phone(browser, whole_site):
    with opened(browser, size=PHONE) as page:
        for path in sorted(whole_site.glob("notebooks/*.html")):
            page.goto(path.as_uri())
            settle(page)
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path.name
            assert all(url.startswith(("file:", "data:", "blob:")) for url in page.asked)


def test_a_verdict_names_its_columns_on_a_phone_and_has_room_for_words_on_a_desk(browser, whole_site):
    tables = "document.querySelectorAll('.mi-claim table')"
    labels = f"""Array.from({tables}).flatMap(table => Array.from(table.querySelectorAll('tbody tr')).map(row =>
        Array.from(row.children).slice(2).map(cell => getComputedStyle(cell, '::before').content.replaceAll('"', '').trim())))"""
    narrowest = f"Math.min(...Array.from({tables}).map(table => table.querySelector('td').getBoundingClientRect().width))"
    wider = f"""Array.from({tables}).filter(table => table.getBoundingClientRect().right
        > table.closest('.cell_output').getBoundingClientRect().right + 1).length"""
    for path in sorted(whole_site.glob("notebooks/*.html")):
        with opened(browser, size=PHONE) as page:
            page.goto(path.as_uri())
            said = page.evaluate(labels)
        assert {tuple(row) for row in said} == {("none", "measured", "bound", "met")}, path.name
        with opened(browser, size={"width": 1300, "height": 900}) as page:  # both side bars are there, too
            page.goto(path.as_uri())
            assert page.evaluate(narrowest) >= 150 and page.evaluate(wider) == 0, path.name


def test_axe_finds_what_is_wrong(page):
    page.set_content('<html lang="en"><title>t</title><main><img src="data:,"><a href="#"></a></main>')
    assert {finding.split(":")[0] for finding in serious(page)} >= {"image-alt", "link-name"}


def test_formulas_figures_and_views_are_drawn(page, address):
    page.goto(address("notebook"))
    settle(page)
    assert page.locator("mjx-container svg").count() > 10
    page.locator("[data-seen] canvas").first.wait_for(state="attached")  # CircuitsVis has drawn
    widths = page.eval_on_selector_all("figure img", "images => images.map(image => image.naturalWidth)")
    assert widths and min(widths) > 100


def test_the_search_works_from_a_disk_and_names_the_notebook(page, address):
    page.goto(address("index"))
    page.keyboard.press("Control+K")
    page.keyboard.type("mechanistic corner")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=mechanistic*")
    page.locator("#search-results li").first.wait_for()
    page.wait_for_function("document.querySelector('#search-results').innerText.includes('finished')")
    assert "03 · Induction heads" in page.locator("#search-results").inner_text()
    page.goto(address("search").replace("induction", "prefix_matching_scores"))
    page.locator("#search-results li").first.wait_for()
    assert "prefix_matching_scores" in page.locator("#search-results li").first.inner_text()
    page.goto(address("search").replace("induction", "xyzzyq"))
    page.get_by_text("did not match any documents").wait_for()


def test_the_theme_can_be_chosen_and_is_kept(browser, address):
    theme = "document.documentElement.dataset.theme"
    with opened(browser, "light") as page:
        page.goto(address("index"))
        assert page.evaluate(theme) == "light"
        page.get_by_role("button", name="Color mode").first.click()
        page.locator(".theme-change-button", has_text="Dark").first.click()
        assert page.evaluate(theme) == "dark"
        page.goto(address("glossary"))
        assert page.evaluate(theme) == "dark"


def test_the_keyboard_reaches_everything(page, address):
    page.goto(address("notebook"))
    settle(page)
    focused = lambda: page.evaluate("document.activeElement.outerHTML.slice(0, 120)")
    page.keyboard.press("Tab")
    assert "Skip to main content" in focused()
    page.keyboard.press("Enter")
    page.locator("a.term").first.focus()
    said = page.evaluate("getComputedStyle(document.activeElement, '::after').content")
    assert len(said) > 20, "the meaning shows without a pointer"
    assert page.locator("pre[tabindex], div.text_html[tabindex]").count() > 0, "what scrolls can be reached"


def test_from_a_notebook_to_a_claim_and_back(page, address):
    page.goto(address("notebook"))
    page.locator("a.term", has_text="residual stream").first.click()
    assert page.url.endswith("glossary.html#term-residual-stream")
    page.go_back()
    page.get_by_text("Among the claims of").get_by_role("link", name="MF-02").click()
    assert page.url.endswith("claims/elhage2021.html#mf-02")
    page.locator("#mf-02").get_by_role("link", name="in this cell of notebook 00").click()
    assert page.url.endswith("notebooks/00_tools_tour.html#mf-02-in-00")
    page.locator(":target .mi-claim").wait_for()


def test_code_fits_its_page_and_words_are_folded(page, whole_site):
    """On a desk's screen no open line of code is cut off; alt texts and captions stand in cells to unfold."""
    wide = "all => all.filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.innerText)"
    for path in sorted(whole_site.glob("notebooks/*.html")):
        page.goto(path.as_uri())
        open_code = ".cell_input:visible div.highlight pre"
        assert page.locator(open_code).count() > 20
        assert page.locator(open_code).evaluate_all(wide) == [], path.name
        assert page.locator(".cell_input:visible", has_text="told = {").count() == 0
        assert page.locator("details", has_text="told = {").count() > 0, "they are there to unfold"
    for path in sorted(whole_site.glob("docs/**/*.html")):
        page.goto(path.as_uri())
        assert page.locator("article div.highlight pre").evaluate_all(wide) == [], path.name


def test_a_notebook_knows_its_place(page, address):
    page.goto(address("notebook"))
    settle(page)
    page.evaluate("scrollTo(0, 9000)")
    page.locator(".bd-sidebar-secondary a.active").first.wait_for()
    for part in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article"):
        box = page.locator(part).bounding_box()
        assert box["y"] < 900 and box["y"] + box["height"] > 0, f"{part} stays in sight"
    above = page.locator(".neighbours a[rel=next]")
    assert "01 · Bigrams" in above.inner_text() and page.locator(".prev-next-area a").count() > 0
    page.get_by_text("Open or keep").click()
    assert page.get_by_role("link", name="Open on Colab").is_visible()


def test_a_claim_can_be_read_on_a_phone(browser, address):
    with opened(browser, size=PHONE) as page:
        page.goto(address("paper"))
        widths = page.eval_on_selector_all(
            "table.measures td:nth-child(2)", "all => all.map(cell => cell.clientWidth)"
        )
        assert len(widths) > 10 and min(widths) > 250, "the words of a measure have the whole width"


def test_on_paper_folds_are_open_and_the_bars_are_gone(browser, address):
    with opened(browser, "light") as page:
        page.goto(address("notebook"))
        settle(page)
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("article details:not([open])").count() == 0
        assert not page.locator(".bd-sidebar-primary").is_visible()
        assert not page.locator(".bd-header-article").is_visible()


# --- JupyterLab ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab as the course starts it, on copies in a folder of their own, without a network; its port is taken."""
    needed()
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("lab")
    classroom.student(["00"], folder)
    shutil.copyfile(places.find(["00"])[0], folder / "solved.ipynb")
    env = {**os.environ, "JUPYTER_RUNTIME_DIR": str(home / "run"), "JUPYTER_CONFIG_DIR": str(home / "config")}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "PYTHONPATH": str(places.root())}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "HOME": str(home)}
    env |= {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1,localhost"}
    plain = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    files.write(plain, '{"windowingMode": "none"}')  # every cell is in the page, seen or not
    news = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    files.write(news, '{"fetchNews": "false", "checkForUpdates": false}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--ip=127.0.0.1", "--allow-root", "--IdentityProvider.token="]
        command = [sys.executable, "-m", "jupyterlab", *course_lab.arguments(folder, port, False, options)]
        with (home / "log").open("w") as log:
            server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
        try:
            yield started(server, home), port, folder
        finally:
            server.terminate()
            server.wait(timeout=30)


def started(server: subprocess.Popen, home: Path) -> dict:
    """What the server says about itself, once it answers."""
    for _ in range(240):
        time.sleep(0.5)
        assert server.poll() is None, (home / "log").read_text()
        for path in (home / "run").glob("jpserver-*.json"):
            with contextlib.suppress(OSError, ValueError):
                told = json.loads(path.read_text())
                socket.create_connection(("127.0.0.1", told["port"]), timeout=5).close()
                return told
    raise AssertionError(f"JupyterLab did not start: {(home / 'log').read_text()}")


@pytest.fixture(scope="module")
def notebook(browser, lab):
    """The student copy of notebook 00, open in JupyterLab."""
    told, _, folder = lab
    with opened(browser) as page:
        page.set_default_timeout(120_000)
        page.route(OUTSIDE, lambda route: route.abort())
        page.goto(f"{told['url']}lab/tree/00_tools_tour.ipynb")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for()
        yield page


def test_a_taken_port_is_no_obstacle(lab):
    told, taken, _ = lab
    assert told["port"] != taken


def test_lab_shows_the_copies_and_nothing_of_nbgrader(notebook):
    """Its *Validate* button would call a notebook passed whose checks were never reached."""
    assert notebook.locator(".jp-DirListing-item", has_text="00_tools_tour.ipynb").count() == 1
    assert notebook.get_by_role("menuitem", name="Kernel").count() == 1, "menus are there"
    for words in ("Validate", "Nbgrader", "Assignment", "Formgrader"):
        assert notebook.get_by_text(re.compile(words, re.IGNORECASE)).count() == 0, words


def test_the_edition_with_solutions_folds_them(browser, lab):
    with opened(browser) as page:
        page.set_default_timeout(120_000)
        page.goto(f"{lab[0]['url']}lab/tree/solved.ipynb")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        checks = page.locator(".jp-CodeCell", has_text="checks.check_")
        checks.first.wait_for()
        assert checks.count() == len(exercises())
        assert page.locator(".jp-CodeCell .cm-content", has_text="### BEGIN SOLUTION").count() == 0
        code = page.locator(".jp-CodeCell .cm-content").all_inner_texts()
        assert any("import torch" in text for text in code), "other cells are open"


def test_it_opens_with_one_line_where_there_is_no_make(browser, tmp_path):
    """`python -m mi_course lab`, as the boxes for Windows and conda have it."""
    env = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path)}
    env |= {f"JUPYTERLAB_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
    command = ["lab", "--no-browser", "--", "--ip=127.0.0.1", "--allow-root", "--IdentityProvider.token="]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mi_course", *command], env=env, stdout=log, stderr=log, cwd=places.root()
        )
    try:
        told = started(server, tmp_path)
        with opened(browser) as page:
            page.set_default_timeout(120_000)
            page.goto(f"{told['url']}lab")
            page.locator(".jp-DirListing-item", has_text="00_tools_tour.ipynb").wait_for()
            shown = page.locator(".jp-DirListing-item").all_inner_texts()
    finally:
        server.terminate()
        server.wait(timeout=60)
    names = {text.split("\n")[0] for text in shown}
    assert names == {
        path.name for path in (places.root() / "notebooks" / "student").iterdir() if path.name[0] != "."
    }


# Views to hover, as many as {}, all of them drawn: the sentence to fall back on is gone.
DRAWN = "(all => all.length == {0} && all.every(box => !box.querySelector('em')))([...document.querySelectorAll('[data-seen]')])"


def cell_of(page, text: str):
    """The code cell that holds this text."""
    return page.locator(".jp-CodeCell").filter(has=page.locator(".jp-InputArea", has_text=text)).first


def write(page, cell, source: str) -> None:
    """Replace what stands in a cell, and run it."""
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    start(page, cell)


def run(page, cell) -> None:
    cell.locator(".cm-content").click()
    start(page, cell)


def start(page, cell) -> None:
    """Run the cell that has the cursor, and wait until its number is another: it is waiting, or done."""
    from playwright.sync_api import expect

    number = cell.locator(".jp-InputPrompt")
    before = number.inner_text()
    page.keyboard.press("Control+Enter")
    expect(number).not_to_have_text(before, timeout=60_000)


def idle(page, seconds: float = 180) -> None:
    """Until every cell that was to run has run."""
    busy = "![...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(p => p.textContent.includes('[*]'))"
    page.wait_for_function(busy, timeout=1000 * seconds)


def exercises() -> list[tuple[str, str, str]]:
    """(first line, check, solution's source) of every exercise of the stored notebook 00."""
    nb = nbformat.read(places.find(["00"])[0], as_version=4)
    code = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    pairs = zip(code, code[1:])
    return [
        (re.search(r"^def .*:$", source, re.MULTILINE)[0], check, SOLUTION.sub(r"\1", source))
        for source, check in pairs
        if "### BEGIN SOLUTION" in source
    ]


def test_a_wrong_answer_gets_its_hint_and_the_right_one_passes(notebook):
    page, (first, check, solution) = notebook, exercises()[1]
    run(page, page.locator(".jp-CodeCell").first)
    run(page, cell_of(page, check))
    idle(page)
    output = cell_of(page, check).locator(".jp-OutputArea-output")
    assert output.count() > 0 and "✔" not in output.first.text_content(), "an empty exercise does not pass"
    write(page, cell_of(page, first), f"{first}\n    return pattern[batch, head, key, query]")
    run(page, cell_of(page, check))
    idle(page)
    hint = output.first.text_content()
    assert "✘ attention paid" in hint and "Traceback" not in hint and "query" in hint, hint
    write(page, cell_of(page, first), solution)
    run(page, cell_of(page, check))
    idle(page)
    assert "✔ attention paid" in output.first.text_content()


def test_restart_and_run_all_is_clean_and_everything_can_be_seen(notebook):
    page = notebook
    for first, _, solution in exercises():
        write(page, cell_of(page, first), solution)
    page.get_by_role("menuitem", name="Kernel").click()
    page.get_by_role("menuitem", name=re.compile("Restart Kernel and Run All Cells")).click()
    page.locator("dialog.jp-Dialog .jp-mod-accept").click()
    last = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1).textContent"
    page.wait_for_function(rf"/\[\d+\]/.test({last})", timeout=300_000)
    errors = page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_text_contents()
    errors += page.locator("[data-mime-type='application/vnd.jupyter.error']").all_text_contents()
    assert errors == []
    assert page.locator(".jp-OutputArea-output", has_text="✔").count() >= len(exercises())
    widths = page.eval_on_selector_all(
        ".jp-OutputArea-output img", "all => all.map(image => image.clientWidth)"
    )
    assert len(widths) >= 5 and min(widths) > 100, widths
    stored = nbformat.read(places.find(["00"])[0], as_version=4)
    views = len(re.findall(r"plots\.\w+_view\(", "\n".join(cell.source for cell in stored.cells)))
    page.wait_for_function(DRAWN.format(views))
    assert [url for url in page.asked if OUTSIDE.match(url)] == []
