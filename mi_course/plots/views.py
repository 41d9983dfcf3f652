"""CircuitsVis' views: attention to hover and click, text to hover, each above its still picture.

The library comes from the package installed here, never from a network. Notebooks do not store it: 1.3 MB. The site
has it in the head of its pages. In JupyterLab the kernel hands it to the page when a view is shown and takes it out
of the cell's output again when the cell is done, so that what is saved stays small.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from mi_course.plots.figure import Figure

AGAIN = 20  # seconds after which a page may have been loaded anew, without the library
WITHOUT = "The picture below shows everything. To hover and click, run this cell in JupyterLab, or read it on the course's site."


def interactive(
    component: str, data: dict[str, Any], said: Sequence, name: str | None, still: Figure
) -> Figure:
    """A CircuitsVis component above its still picture: a sentence to fall back on, numbers as JSON, a small loader.

    The id depends on words, never on numbers, so it is the same on every machine. nbval blanks the JSON and
    compares the text. The loader waits some seconds for the library.
    """
    key = (
        name
        or hashlib.sha256(json.dumps([component, still.title, list(map(str, said))]).encode()).hexdigest()
    )
    key = "mi-" + re.sub(r"\W+", "-", key if name else key[:10])
    numbers = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    label = escape(f"{still.title}. {still.alt}")
    card = "background-color:#ffffff;color:#222222;padding:8px;margin-bottom:6px;border-radius:6px;"
    card += "max-width:640px;overflow-x:auto"
    body = f"""<div role="img" aria-label="{label}" style="{card}">
<div id="{key}"><em>{WITHOUT}</em></div>
<script type="application/json" class="mi-n">{numbers}</script>
<script type="module">
const box = document.querySelector("#{key}:not([data-seen])");
box.dataset.seen = true;
box.id += "-" + document.querySelectorAll("[data-seen]").length;
for (let waited = 0; !globalThis.CircuitsVis && waited < 100; waited++) await new Promise(go => setTimeout(go, 100));
const cv = globalThis.CircuitsVis;
if (cv) cv.render(box.id, cv.{component}, JSON.parse(box.parentElement.querySelector("script").textContent));
</script></div>"""
    offer_library()
    return Figure(still.title, still.alt, still.caption, still.picture, body)


@lru_cache(maxsize=1)
def library() -> str:
    """CircuitsVis as the installed package has it, as a script that may stand in a page."""
    import circuitsvis

    text = (Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js").read_text(encoding="utf-8")
    text = re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE)
    return re.sub(r"//# sourceMappingURL=\S+", "", text) + "\nglobalThis.CircuitsVis = CircuitsVis;"


def circuitsvis_script() -> str:
    """The CircuitsVis library as one script element, for the head of a page that must work offline (1.3 MB)."""
    return f"<script>{library()}</script>"


@lru_cache(maxsize=1)
def packed_script() -> str:
    """The same as a script element of a third of the size, which unpacks it: Jupyter limits what a kernel may send."""
    packed = base64.b64encode(gzip.compress(library().encode(), mtime=0)).decode()
    return f"""<script>(async () => {{
if (globalThis.CircuitsVis) return;
const packed = Uint8Array.from(atob("{packed}"), letter => letter.charCodeAt(0));
const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
(0, eval)(await new Response(unpacked).text());
}})();</script>"""


def offer_library() -> None:
    """In a Jupyter server's kernel, give the page the library, and take it out of the output once the cell has run.

    A kernel without a page (where notebooks are stored and compared) is not asked: it has no session of a server.
    """
    if "JPY_SESSION_NAME" not in os.environ:
        return
    from IPython import get_ipython
    from IPython.display import HTML, display

    shell = get_ipython()
    if shell is None or time.monotonic() - getattr(shell, "mi_course_offered", -AGAIN) < AGAIN:
        return
    shell.mi_course_offered = time.monotonic()
    handle = display(HTML(packed_script()), display_id=True)

    def take_back(*_):
        shell.events.unregister("post_run_cell", take_back)
        handle.update(HTML(""))

    shell.events.register("post_run_cell", take_back)
