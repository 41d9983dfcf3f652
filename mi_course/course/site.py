"""The offline site: docs/ and notebooks/ as Sphinx shows them, in build/site. Its settings are docs/conf.py's."""

import hashlib
import html
import importlib.util
import io
import json
import os
import re
import shutil
import sys
from base64 import b64decode
from dataclasses import asdict
from pathlib import Path

import mi_course
from mi_course import claims, files
from mi_course.course import places
from mi_course.errors import CourseError

SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", re.DOTALL | re.MULTILINE)
INSTALL = "The site is made by Sphinx, which is not installed here: python -m pip install -c constraints.txt -e '.[site]', then python -m mi_course site."


class NoPages(CourseError):
    """The course without its docs/, as an installed package or a part of a clone."""


def build(out: str | Path | None = None) -> str:
    """Write build/scoreboard.json and the site (to build/site, or `out`); return the scoreboard and where the site is, as text."""
    paths = [newest(path) for path in places.find()]
    if not paths:
        raise CourseError(
            f"There is nothing to show: {places.root() / 'notebooks'} has no notebook NN_name.ipynb."
        )
    board = claims.Scoreboard.from_notebooks(paths)
    files.write(places.root() / "build" / "scoreboard.json", board.to_json())
    if importlib.util.find_spec("sphinx") is None:
        return f"{board}\n\n{INSTALL}"
    folder = Path(out) if out else places.root() / "build" / "site"
    if folder.is_file():
        raise CourseError(f"{folder} is a file: the site needs a folder (--out).")
    try:
        sphinx(folder)
    except NoPages as told:
        return f"{board}\n\n{told}"
    return f"{board}\n\nThe site: {(folder.resolve() / 'index.html').as_uri()}"


def newest(path: Path) -> Path:
    """The copy that was executed last, or the stored notebook where that is newer."""
    executed = places.root() / "build" / "notebooks" / path.name
    return executed if executed.exists() and executed.stat().st_mtime >= path.stat().st_mtime else path


def workshop() -> Path:
    """Where Sphinx finds the staged pages, and keeps what it has read."""
    return places.root() / "build"


def sphinx(folder: Path) -> None:
    """Let Sphinx read the staged sources and write `folder`; what it warns of ends the build, and is said."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    docs, build, said = places.root() / "docs", workshop(), io.StringIO()
    if not (docs / "conf.py").is_file():
        raise NoPages("No site was built: this copy of the course has no docs/ folder.")
    (build / "pages").mkdir(parents=True, exist_ok=True)
    with patch_docutils(docs), docutils_namespace():
        app = Sphinx(
            build / "pages", docs, folder, build / "doctrees", "html", status=None, warning=said,
            warningiserror=False, parallel=min(4, os.cpu_count() or 1),
        )  # fmt: skip
        app.build()
    lines = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).replace(f"{build / 'pages'}/", "").splitlines()
    if warnings := [line for line in lines if "WARNING" in line or "ERROR" in line]:
        more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
        raise CourseError(f"The site has a fault{more}: {warnings[0]}")


PICTURE = re.compile(r'<img alt="([^"]*)"[^>]*src="data:image/png;base64,([^"]+)"')


def pictures(folder: Path, notebooks: dict) -> dict[str, str]:
    """Small copies of each notebook's figure (of its cell tagged `thumbnail`, else the largest); their alt texts."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for shown, name in (("03_induction_heads", "phase_change"), ("14_curves", "curves")):
        shutil.copyfile(files.data_dir() / "figures" / f"{shown}.png", folder / f"{name}.png")
    said = {}
    for name, nb in notebooks.items():
        found = []
        for cell in nb.cells:
            views = "".join(
                "".join(out.get("data", {}).get("text/html", "")) for out in cell.get("outputs", [])
            )
            tagged = "thumbnail" in cell.metadata.get("tags", [])
            for alt, data in PICTURE.findall(views):
                picture = Image.open(io.BytesIO(b64decode(data)))
                found.append((tagged, picture.width * picture.height, len(found), picture, alt))
        if found:
            *_, picture, alt = max(found)
            picture.thumbnail((1280, 720))
            picture.convert("RGB").save(folder / f"{name}.png", optimize=True)
            said[name] = " ".join(html.unescape(alt).split())
    return said


def public() -> dict[str, dict]:
    """Module → its first line and the public names that it, or its folder, defines."""
    found = {}
    for name in sorted(mi_course._parts() - {"checks", "course"}):
        module, parts = importlib.import_module(f"mi_course.{name}"), {}
        for n in dir(module):
            part, home = getattr(module, n), getattr(getattr(module, n), "__module__", None) or ""
            if (
                not n.startswith("_")
                and callable(part)
                and home.startswith("mi_course.")
                and home.split(".")[1] == name
            ):
                parts[n] = "autoclass" if isinstance(part, type) else "autofunction"
        found[name] = {"kinds": parts, "line": (module.__doc__ or "").strip().split("\n")[0]}
    return found


GALLERY = ("sae-512-l3", "sae-2048-l3")  # the autoencoders of notebook 05 whose features have pages
REAL = "sae-smollm2-4096"  # that of notebook 07, which has pages where its model is here


def feature_pages() -> list:
    """Pages for chosen features of the shipped autoencoders; kept while autoencoders, Python and code stay the same."""
    from mi_course import pretrained, sae, scaling

    shipped = [name for name in (*GALLERY, REAL) if name in files.checkpoint_names("sae")]
    if REAL in shipped and not pretrained.here("smollm2-135m-instruct"):
        shipped.remove(REAL)
    cards = [(files.data_dir() / "checkpoints" / f"{name}.json").read_bytes() for name in shipped]
    code = [Path(module.__file__).read_bytes() for module in (sae.pages, scaling.looking)]
    made_of = hashlib.sha256(b"".join([*cards, *code, sys.version.encode()])).hexdigest()
    kept = places.root() / "build" / "features.json"
    if kept.exists() and (found := json.loads(kept.read_text(encoding="utf-8")))["made_of"] == made_of:
        tuples = lambda page: {key: tuple(v) if isinstance(v, list) else v for key, v in page.items()}
        return [sae.FeaturePage(**tuples(page)) for page in found["pages"]]
    pages = [
        page for name in shipped for page in (real_features() if name == REAL else chosen_features(name))
    ]
    files.write(kept, json.dumps({"made_of": made_of, "pages": [asdict(page) for page in pages]}))
    return pages


def real_features() -> list:
    """The twenty-five pages of notebook 07: twenty features of SmolLM2 by its rule, and five at random."""
    from mi_course import pretrained, sae, scaling

    dictionary = sae.SparseAutoencoder.load(REAL)
    model = pretrained.load(dictionary.card["model"])
    documentation = scaling.windows_of(model.tokenizer, scaling.documentation(True), 64, 64, seed=1, each=2)
    rest = scaling.Rest(model, 15)
    recording = scaling.recorded(
        dictionary, rest, model.tokenizer, documentation[12:], dictionary.card["limit"]
    )
    return scaling.pages(recording, model)


def chosen_features(name: str, per_script: int = 2, others: int = 10) -> list:
    """Pages for the features that follow each script best, and for some others, from rare to frequent."""
    from mi_course import models, sae
    from mi_course.corpora import scripts
    from mi_course.sae import pages as features

    autoencoder, corpus = sae.SparseAutoencoder.load(name).requires_grad_(False), scripts.script_text()
    model = models.load(autoencoder.card["model"]).requires_grad_(False)
    first = features.record(autoencoder, model, corpus, windows=150)
    spread = sae.from_rare_to_frequent(first.density, others)
    of_scripts = first.proxies.topk(per_script, dim=0).indices.T.flatten().tolist()
    chosen = list(dict.fromkeys([*of_scripts, *spread]))
    recording = features.record(autoencoder, model, corpus, chosen)
    return [features.feature_page(autoencoder, model, corpus, i, recording=recording) for i in chosen]


def gallery(folder: Path) -> dict[str, str]:
    """A page for each chosen feature of notebook 05's autoencoders, and the table that searches them."""
    from mi_course import sae

    pages, made = feature_pages(), {}
    wrap = lambda title, nav, body: (
        f"{title}\n\n```{{raw}} html\n<nav aria-label=Features>{nav}</nav>\n{body}\n```\n"
    )
    sae.gallery(pages, folder, wrap=wrap)
    for name in ["index.html", *map(sae.file_name, pages)]:
        text = re.sub(r"<h1>.*?</h1>", "", (folder / name).read_text("utf-8"), count=1)
        made[f"features/{name[:-5]}.md"] = (
            "" if name == "index.html" else "---\norphan: true\n---\n"
        ) + f"# {text}"
    return made
