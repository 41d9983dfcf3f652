"""The rules of the house: imports run downwards, importing does nothing, every part has its counterpart."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mi_course import claims
from mi_course.course import places

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mi_course"

# From the cellar to the roof. A module may import what stands on a lower floor; neighbours on the ground and
# under the roof may import each other; ideas stand in reading order, one floor each.
CELLAR = ["errors", "offline"]
GROUND = ["claims", "plots", "models", "corpora", "scripts", "training", "processes", "activations"]
IDEAS = {
    "01": "bigrams", "02": "circuits", "03": "induction", "04": "superposition", "05": "sae", "06": "patching",
    "07": "features", "08": "ioi", "09": "grokking", "10": "probing", "11": "lens", "12": "steering",
    "13": "explanations", "14": "vision", "15": "oracles",
}  # fmt: skip
ROOF = [
    "checks",
    "recipes",
    "toy_recipes",
    "sae_recipes",
    "reports",
    "seeds",
    "course",
    "site",
    "classroom",
    "doctor",
    "__main__",
]
PLINTH = {
    "sae": ["sae_step"],
    "patching": [
        "patching_results",
        "patching_forward",
        "patching_runs",
        "patching_paths",
        "patching_gradients",
    ],
}  # what an idea alone stands on
FLOORS = [
    CELLAR,
    GROUND,
    *([part] for idea in IDEAS.values() for part in (*PLINTH.get(idea, ()), idea)),
    ROOF,
]
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}
ONLY = {"transformer_lens": "models", "circuitsvis": "plots", "matplotlib": "plots"}


def modules() -> dict[str, Path]:
    """Top-level name → file, for every file of the package; `checks/bigrams.py` belongs to `checks`."""
    return {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Dotted names this file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def wrong_arrows(name: str, names: set[str]) -> list[str]:
    """One sentence for each import that does not run downwards."""
    here = Path(name).parts[0].removesuffix(".py")
    wrong = []
    for there in {dotted.split(".")[1] for dotted in names if dotted.startswith("mi_course.")} & set(FLOOR):
        level = FLOOR[there] - FLOOR[here]
        if level > 0 or (level == 0 and FLOORS[FLOOR[here]] in (IDEAS, CELLAR) and there != here):
            wrong.append(f"{name} imports {there}, which stands above it")
    for library, owner in ONLY.items():
        if here != owner and any(dotted.split(".")[0] == library for dotted in names):
            wrong.append(f"{name} imports {library}, which only {owner}.py may")
    return wrong


@pytest.mark.parametrize("name", [name for name in modules() if name != "__init__.py"])
def test_imports_run_downwards(name):
    assert Path(name).parts[0].removesuffix(".py") in FLOOR, (
        f"{name} has no floor in the house: see CONTRIBUTING.md"
    )
    assert wrong_arrows(name, imported(modules()[name])) == []


def test_a_wrong_arrow_is_named():
    assert wrong_arrows("models.py", {"mi_course.induction.scores"}) == [
        "models.py imports induction, which stands above it"
    ]
    assert wrong_arrows("bigrams.py", {"mi_course.circuits.x", "mi_course.models"})
    assert wrong_arrows("circuits.py", {"mi_course.bigrams.x", "mi_course.models"}) == []
    assert wrong_arrows("bigrams.py", {"matplotlib.pyplot"}) == [
        "bigrams.py imports matplotlib, which only plots.py may"
    ]


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


def test_import_is_quick():
    clocked = "import time; t = time.perf_counter(); import mi_course; print(time.perf_counter() - t)"
    seconds = min(float(python(clocked).stdout) for _ in range(5))
    assert seconds <= 0.2, f"import mi_course takes {seconds:.2f} s"


def test_help_answers_without_torch():
    ran = python(
        "import sys; from mi_course import __main__; __main__.parser(); assert 'torch' not in sys.modules"
    )
    assert ran.returncode == 0, ran.stderr


# --- counterparts ----------------------------------------------------------------------------------


def stored() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("notebook", stored(), ids=lambda path: path.stem)
def test_every_notebook_has_its_modules_and_tests(notebook):
    number, name = notebook.stem.split("_", 1)
    expected = [
        f"mi_course/checks/{IDEAS.get(number, name)}.py",
        f"tests/test_checks_{IDEAS.get(number, name)}.py",
    ]
    if number in IDEAS:
        expected += [f"mi_course/{IDEAS[number]}.py", f"tests/test_{IDEAS[number]}.py"]
    assert [path for path in expected if not (ROOT / path).exists()] == []


def test_every_module_has_its_test_file():
    names = {path.stem.strip("_") for path in PACKAGE.glob("*.py")} - {"init"}
    assert sorted(name for name in names if not (ROOT / "tests" / f"test_{name}.py").exists()) == []


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
