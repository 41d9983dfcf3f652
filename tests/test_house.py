"""The rules of the house: imports run downwards and in no circle, importing does nothing, every part has its counterpart."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import mi_course
from mi_course import claims
from mi_course.course import places

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mi_course"

# From the cellar to the roof. A part may import what stands on its own floor or a lower one, and there is no circle;
# ideas stand in reading order, one floor each.
CELLAR = ["errors", "offline", "files"]
GROUND = [
    "claims",
    "corpora",
    "plots",
    "models",
    "pretrained",
    "training",
    "activations",
    "processes",
    "sweeps",
]
IDEAS = {
    "01": "bigrams", "02": "circuits", "03": "induction", "04": "superposition", "05": "sae", "06": "patching",
    "07": "scaling", "08": "ioi", "09": "grokking", "10": "probing", "11": "lenses", "12": "steering",
    "13": "explanations", "14": "vision", "15": "oracles", "16": "transcoders",
}  # fmt: skip
ROOF = ["checks", "recipes", "course", "__main__"]
FLOORS = [CELLAR, GROUND, *([idea] for idea in IDEAS.values()), ROOF]
FLOOR = {part: number for number, floor in enumerate(FLOORS) for part in floor}
ONLY = {"transformer_lens": ("models", "pretrained"), "circuitsvis": ("plots",), "matplotlib": ("plots",)}
LINES = 400  # beside docstrings
LONG = ("checks",)  # one file a notebook, its exercises one after another: nobody reads it from start to end
# Hands names on, each when it is asked for (PEP 562); `checks` holds what all its modules use.
WITH_CODE = ("mi_course", "mi_course.pretrained", "mi_course.checks")


def dotted(path: Path) -> str:
    """mi_course/sae/step.py → mi_course.sae.step; a folder's __init__ has the folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part(module: str) -> str:
    """mi_course.sae.step belongs to sae."""
    return module.split(".")[1] if "." in module else module


def imported(source: str) -> set[str]:
    """Dotted names a file imports, anywhere in it, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(names: set[str]) -> set[str]:
    """The modules of the course among imported names: `mi_course.sae.fvu` is a name of mi_course.sae."""
    own = {name for name in names if name.split(".")[0] == "mi_course"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


def wrong_arrows(module: str, names: set[str]) -> list[str]:
    """One sentence for each import that does not run downwards, and for each library that has another owner."""
    here, wrong = part(module), []
    for there in {part(name) for name in ours(names)} & set(FLOOR):
        if FLOOR[there] > FLOOR[here]:
            wrong.append(f"{module} imports {there}, which stands above it")
    for library, owners in ONLY.items():
        if here not in owners and any(name.split(".")[0] == library for name in names):
            wrong.append(f"{module} imports {library}, which only {' and '.join(owners)} may")
    return wrong


def circle(arrows: dict[str, set[str]]) -> str:
    """A circle among imports, or nothing."""
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


def test_every_part_has_its_floor():
    parts = {part(module) for module in MODULES} - {"mi_course"}
    assert parts - set(FLOOR) == set(), "see CONTRIBUTING.md for the house"
    told = set(re.findall(r"\w+", mi_course.__doc__))
    assert parts - told - {"__main__"} == set(), "mi_course/__init__.py is the table of contents"


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    if module != "mi_course":
        assert wrong_arrows(module, imported(MODULES[module].read_text(encoding="utf-8"))) == []


def test_there_is_no_circle_from_file_to_file_nor_from_part_to_part():
    arrows = {m: ours(imported(path.read_text(encoding="utf-8"))) - {m} for m, path in MODULES.items()}
    assert circle(arrows) == ""
    parts: dict[str, set[str]] = {}
    for module, there in arrows.items():
        parts.setdefault(part(module), set()).update({part(name) for name in there} - {part(module)})
    assert circle(parts) == ""


def test_wrong_arrows_and_circles_are_named():
    assert wrong_arrows("mi_course.models.layers", {"mi_course.induction.scores.patterns"}) == [
        "mi_course.models.layers imports induction, which stands above it"
    ]
    assert wrong_arrows("mi_course.bigrams", {"mi_course.circuits", "mi_course.models"})
    assert wrong_arrows("mi_course.circuits", {"mi_course.bigrams.counts", "mi_course.models"}) == []
    assert wrong_arrows("mi_course.files", {"mi_course.claims.ledger"})
    assert wrong_arrows("mi_course.bigrams", {"matplotlib.pyplot"}) == [
        "mi_course.bigrams imports matplotlib, which only plots may"
    ]
    inside = "def f():\n    from mi_course.sae import step, fvu"
    assert ours(imported(inside)) == {"mi_course.sae.step", "mi_course.sae"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) in ("a → b → c → a", "b → c → a → b", "c → a → b → c")


@pytest.mark.parametrize("module", [m for m, path in MODULES.items() if path.name == "__init__.py"])
def test_a_folders_init_hands_names_on_and_holds_no_code(module):
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    code = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    assert ast.get_docstring(ast.Module(body, [])), f"{module} says nothing about itself"
    assert len(code) == 1 or module in WITH_CODE


def lines_of_docstrings(tree: ast.AST) -> int:
    """What `help` shows is looked up, not read through."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node)]
    return sum(node.end_lineno - node.lineno + 1 for node in nodes)


@pytest.mark.parametrize("module", [m for m in MODULES if part(m) not in LONG])
def test_no_file_is_longer_than_one_reads(module):
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) - lines_of_docstrings(ast.parse(text)) <= LINES


# --- importing does nothing, and quickly -----------------------------------------------------------

IMPORT_ALL = """
import socket, sys, pkgutil, importlib
import numpy, torch, matplotlib
import mi_course
before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), numpy.random.get_state()[1].tolist()
rc, connect = dict(matplotlib.rcParams), socket.socket.connect
for module in pkgutil.walk_packages(mi_course.__path__, "mi_course."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), numpy.random.get_state()[1].tolist()
assert all(bool(torch.equal(a, b) if hasattr(a, "shape") else a == b) for a, b in zip(before, after)), "global state"
assert torch.is_grad_enabled() and dict(matplotlib.rcParams) == rc and socket.socket.connect is connect, "global state"
"""


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_nothing_happens_at_import():
    ran = python(IMPORT_ALL)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), ran.stderr


def test_help_comes_without_torch():
    """What makes it slow is not loaded; how long it takes is measured in benchmarks/."""
    for asked in ("--help", "run --help"):
        ran = python(
            f"import sys; from mi_course.__main__ import main; main({asked.split()}); "
            "assert not {'torch', 'numpy', 'nbformat'} & set(sys.modules)"
        )
        assert ran.returncode == 0, ran.stderr


def test_the_package_is_imported_without_its_parts():
    ran = python(
        "import sys, mi_course; assert not {'torch', 'numpy', 'mi_course.errors'} & set(sys.modules)"
    )
    assert ran.returncode == 0, ran.stderr


def test_files_and_claims_are_known_without_torch():
    ran = python(
        "import sys; from mi_course import files, claims; claims.ledger(), files.checkpoint_names(); "
        "assert 'torch' not in sys.modules"
    )
    assert ran.returncode == 0, ran.stderr


# --- counterparts ----------------------------------------------------------------------------------


def stored() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("notebook", stored(), ids=lambda path: path.stem)
def test_every_notebook_has_its_modules_and_tests(notebook):
    number, name = notebook.stem.split("_", 1)
    idea = IDEAS.get(number, name)
    expected = [f"mi_course/checks/{idea}.py", f"tests/test_checks_{idea}.py"]
    if number in IDEAS:
        assert f"mi_course.{idea}" in MODULES
        expected += [f"tests/test_{idea}.py"]
    assert [path for path in expected if not (ROOT / path).exists()] == []


def test_every_part_has_its_test_file_and_every_room_of_the_roof_is_tested():
    parts = {part(module) for module in MODULES} - {"mi_course", "__main__"}
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py")}
    assert sorted(name for name in parts if f"test_{name}.py" not in files) == []
    tested = set().union(*(ours(imported(source)) for source in files.values()))
    through = tested | set().union(*(ours(imported(MODULES[m].read_text(encoding="utf-8"))) for m in tested))
    rooms = {m for m, path in MODULES.items() if part(m) in ROOF and not path.name.startswith("__")}
    assert sorted(rooms - through) == []


def test_the_ledger_agrees_with_what_the_notebooks_say():
    assert claims.Scoreboard.from_notebooks(stored()).problems() == []


def test_claims_of_written_notebooks_are_no_longer_planned():
    written = {path.name[:2] for path in stored()}
    planned = [
        f"{claim.id} in {number}"
        for claim in claims.ledger().values()
        for number, verdict in claim.verdict.items()
        if number in written and verdict == "planned"
    ]
    assert planned == []


# --- packaging -------------------------------------------------------------------------------------


def project() -> dict:
    return places.tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    extras = project()["optional-dependencies"].values()
    everything = [*project()["dependencies"], *(line for lines in extras for line in lines)]
    return [found for found in map(Requirement, everything) if found.name != project()["name"]]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        pin.name: pin for pin in (Requirement(line) for line in lines if line and not line.startswith("#"))
    }


def test_bounds_are_bounds_and_the_tested_set_keeps_them():
    for requirement in requirements():
        assert requirement.name in pins(), f"{requirement.name} is missing from constraints.txt"
        (pinned,) = pins()[requirement.name].specifier
        assert requirement.specifier.contains(pinned.version), (
            f"{pins()[requirement.name]} leaves {requirement}"
        )
        assert "==" not in str(requirement.specifier), f"{requirement} is a pin"


def test_the_tested_set_names_versions_only():
    for pin in pins().values():
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and not pin.url and "+" not in specifier.version, str(pin)


def test_environment_yml_leaves_the_packages_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (editable,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", editable)[1].split(",")
    assert set(extras) <= set(project()["optional-dependencies"])
    names = [re.split("[=<>]", entry)[0] for entry in environment["dependencies"] if isinstance(entry, str)]
    assert names == ["python", "pip"]


# --- hygiene ---------------------------------------------------------------------------------------


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_no_path_of_anybodys_machine_is_tracked():
    somewhere = re.compile(
        rb"(?<![\w.])/(?:" + b"|".join([b"home", b"root", b"work", b"Users", b"opt"]) + rb")/\w"
    )
    found = {}
    for path in tracked():
        if match := somewhere.search(path.read_bytes()) if path.suffix != ".safetensors" else None:
            found[path.name] = match[0]
    assert found == {}


def test_no_tracked_file_is_large():
    assert {path.name: path.stat().st_size for path in tracked() if path.stat().st_size > 10_000_000} == {}
