"""Where the course lives is said once, in pyproject.toml: badges, setup cells, README's table and picture follow."""

import base64
import re
from html import unescape
from pathlib import Path

import nbformat

from mi_course import files
from mi_course.course import notebooks, places
from mi_course.errors import CourseError
from mi_course.pretrained import needs

NAME = r"[\w.-]+/[\w.-]+"  # OWNER/REPO
BADGE = re.compile(
    rf"https://colab\.research\.google\.com/github/{NAME}/blob/[\w./-]+?/notebooks/((?:student/)?[\w-]+\.ipynb)"
)
PAINTED = re.compile(r"\[!\[[^\]]*\]\(https://colab[^)]*\)\](?=\()")
INSTALL = re.compile(rf"mi_course ?@ ?git\+https://github\.com/{NAME}@[\w./-]+")
FETCH = "    !{{sys.executable}} -m mi_course fetch {}\n"  # real models
FETCHES = re.compile(r" {4}!\{sys\.executable\} -m mi_course fetch .*\n")
ELSEWHERE = (  # addresses in README, CITATION.cff and docs: the pattern, and what stands there
    (rf"https://mybinder\.org/v2/gh/{NAME}/[\w.-]+", "https://mybinder.org/v2/gh/{owner}/{repo}/{branch}"),
    (rf"git clone https://github\.com/{NAME} && cd [\w.-]+", "git clone https://github.com/{owner}/{repo} && cd {repo}"),
    (rf"pip install git\+https://github\.com/{NAME}", "pip install git+https://github.com/{owner}/{repo}"),
    (rf"repository-code: \"https://github\.com/{NAME}\"", 'repository-code: "https://github.com/{owner}/{repo}"'),
)  # fmt: skip
PICTURE = re.compile(
    r"!\[([^\]]*)\]\(data/figures/([\w-]+)\.png\)"
)  # its alt text opens with the figure's title
TABLE = re.compile(r"(<!-- notebooks -->\n).*?(<!-- /notebooks -->)", re.DOTALL)


def badges(check: bool = False, repo: str | None = None, branch: str | None = None) -> int:
    """Rewrite every badge and setup cell, student copies included, README's table and picture, and tidy notebooks.

    `repo` (OWNER/NAME) and `branch` go into pyproject.toml first. With `check`, only say what would change.
    """
    folder, stale = places.root(), []
    place = whereabouts(repo, branch)
    for path in addressed(folder):
        name = path.relative_to(folder).as_posix()
        before = path.read_text(encoding="utf-8")
        after = rewritten(before, name, place)
        stale += [f"{name} {what}." for what in missing(after, name, folder)]
        if before != after and not check:
            files.write(path, after)
            print(f"rewritten: {name}")
        elif before != after:
            stale.append(f"{name} is out of date: python -m mi_course badges")
    stale += picture(folder, check)
    for sentence in stale:
        print(sentence)
    return 1 if stale else 0


def whereabouts(repo: str | None = None, branch: str | None = None) -> dict[str, str]:
    """Owner, repo and branch as pyproject.toml gives them, with those that are named here in their place."""
    place = dict(places.settings()["tool"]["mi-course"])
    if repo is not None:
        if not re.fullmatch(NAME, repo):
            raise CourseError(f"{repo!r} is not a repository: give OWNER/NAME, as on GitHub.")
        place["owner"], place["repo"] = repo.split("/")
    if branch is not None:
        if not re.fullmatch(r"[\w-][\w.-]*", branch):  # Binder's address has one part for it
            raise CourseError(
                f"{branch!r} is not a branch that badges can name: letters, digits, - _ . only."
            )
        place["branch"] = branch
    return place


def addressed(folder: Path) -> list[Path]:
    """Every file that says where the course lives."""
    copies = sorted((folder / "notebooks" / "student").glob("*.ipynb"))
    others = [folder / name for name in ("pyproject.toml", "README.md", "CITATION.cff")]
    return [
        *places.find(),
        *copies,
        *(path for path in others if path.exists()),
        *sorted(folder.glob("docs/*.md")),
    ]


def rewritten(text: str, name: str, place: dict[str, str]) -> str:
    """`text` with the addresses of `place`, and README with the table of notebooks."""
    if name == "pyproject.toml":
        for key, value in place.items():
            text = re.sub(rf'(\[tool\.mi-course\][^\[]*?\n{key} = )"[^"]*"', rf'\g<1>"{value}"', text)
        return text
    github = "{owner}/{repo}".format(**place)
    colab = f"https://colab.research.google.com/github/{github}/blob/{place['branch']}/notebooks"
    notebook = name.removeprefix("notebooks/") if name.endswith(".ipynb") else ""
    text = BADGE.sub(lambda found: f"{colab}/{notebook or found[1]}", text)
    text = INSTALL.sub(f"mi_course@git+https://github.com/{github}@{place['branch']}", text)
    if notebook:  # in words: a picture would be fetched from elsewhere
        text = PAINTED.sub("[Open in Colab]", text)
        return nbformat.writes(notebooks.tidy(fetching(nbformat.reads(text, as_version=4)))) + "\n"
    for pattern, address in ELSEWHERE:
        text = re.sub(pattern, address.format(**place), text)
    return TABLE.sub(lambda found: found[1] + table(colab) + found[2], text)


def fetching(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`nb` with a setup cell that, on Colab, fetches the real models its cells say they need."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    names = sorted({name for cell in code for name in needs(cell.source)})
    line = FETCH.format(" ".join(names)) if names else ""
    for cell in code:
        if "setup" in cell.metadata.get("tags", []):
            bare = FETCHES.sub("", cell.source + "\n")
            with_line = re.sub(rf"(.*{INSTALL.pattern}.*\n)", lambda found: found[1] + line, bare)
            cell.source = with_line.removesuffix("\n")
    return nb


def missing(text: str, name: str, folder: Path) -> list[str]:
    """What a notebook lacks, and badges that lead nowhere."""
    sought = {"Colab badge": BADGE, "setup cell for Colab": INSTALL} if name.endswith(".ipynb") else {}
    lacking = [f"has no {what}" for what, pattern in sought.items() if not pattern.search(text)]
    if "/student/" in name and not (folder / name.replace("/student/", "/")).exists():
        lacking.append("is a copy of no notebook")
    led = sorted(set(BADGE.findall(text)))
    return lacking + [
        f"has a badge for notebooks/{there}, which does not exist"
        for there in led
        if not (folder / "notebooks" / there).exists()
    ]


def picture(folder: Path, check: bool) -> list[str]:
    """Take README's picture out of the stored notebook that made it; with `check`, only compare."""
    readme = folder / "README.md"
    found = PICTURE.search(readme.read_text(encoding="utf-8")) if readme.exists() else None
    if not found:
        return []
    nb = nbformat.read(places.find([found[2]])[0], as_version=4)
    pages = [
        o.data["text/html"]
        for c in nb.cells
        for o in c.get("outputs", [])
        if "text/html" in o.get("data", {})
    ]
    made = [re.search(r'alt="([^"]*)"[^>]*base64,([A-Za-z0-9+/=]+)', page) for page in pages]
    blobs = [base64.b64decode(m[2]) for m in made if m and unescape(m[1]).startswith(found[1].split(".")[0])]
    if not blobs:
        return [f"README.md shows a figure that {found[2]} does not make: {found[1]}"]
    path = folder / "data" / "figures" / f"{found[2]}.png"
    if path.exists() and path.read_bytes() == blobs[0]:
        return []
    if not check:
        files.write(path, blobs[0])
        return []
    return [f"{path.name} is not the figure that {found[2]} stores: python -m mi_course badges"]


def table(colab: str) -> str:
    """README's table of notebooks, from what each says in its opening cells."""
    lines = ["| Notebook | Question | Measured on two CPU cores | |", "|---|---|---|---|"]
    for path in places.find():
        nb = nbformat.read(path, as_version=4)
        title = notebooks.title_of(nb, path.stem)
        question, measured = notebooks.question_of(nb), notebooks.measured_of(nb)
        copy = "student/" if (path.parent / "student" / path.name).exists() else ""  # where a learner starts
        badge = f"[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}/{copy}{path.name})"
        lines.append(f"| [{title}](notebooks/{path.name}) | {question} | {measured} | {badge} |")
    return "\n".join(lines) + "\n"
