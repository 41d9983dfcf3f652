"""The course as Colab runs it: Colab's IPython, torch and numpy already there, an empty folder, nothing of ours.

`make test-colab` runs this; it builds an environment and runs five notebooks, some minutes in all. And what Binder
reads from the repository, as far as that goes without Docker.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
COLAB = ROOT / "build" / "colab"
NOTEBOOKS = [
    "00_tools_tour",
    "01_bigrams",
    "02_skip_trigrams",
    "03_induction_heads",
    "student/00_tools_tour",
]
IPYTHON = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1"]  # what Colab has
# What Colab brings along and the course uses; taken from this environment, so that no gigabyte is downloaded again.
BROUGHT = ["torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow", "pandas", "transformers", "datasets",
           "tokenizers", "safetensors", "tqdm", "psutil", "packaging", "einops", "wandb", "nbconvert"]  # fmt: skip

pytestmark = [
    pytest.mark.skipif(
        "MI_COLAB" not in os.environ, reason="a simulated Colab takes minutes: make test-colab"
    ),
    pytest.mark.timeout(1200),
]


# --- a machine like Colab's --------------------------------------------------------------------------


def closure(names: list[str]) -> dict[str, Distribution]:
    """These packages and all they require, as far as they are installed here."""
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            package = found.get(name) or distribution(name)
        except PackageNotFoundError:
            continue
        if name not in found:
            found[name] = package
            needs = [Requirement(line) for line in package.requires or []]
            waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


def lend(packages: dict[str, Distribution], site: Path) -> None:
    """Put their files there, as further names of the same files where the disk can do that."""
    for package in packages.values():
        for file in package.files or []:
            if ".." in file.parts or file.suffix == ".pyc" or (site / file).exists():
                continue
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.locate(), site / file)
            except OSError:
                shutil.copy2(file.locate(), site / file)


def installed(site: Path) -> dict[str, tuple[str, float]]:
    """Version of every package, and when its record was written: a reinstallation shows, to the same version too."""
    return {
        package.metadata["Name"].lower(): (package.version, file.stat().st_mtime)
        for package in distributions(path=[str(site)])
        for file in [package.locate_file(next(f for f in package.files if f.name == "METADATA"))]
    }


def run(*command) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, f"{' '.join(map(str, command))}\n{ran.stdout[-2000:]}{ran.stderr[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def machine() -> Path:
    """A fresh environment; its kernel has `google.colab` among its modules."""
    began = time.monotonic()
    shutil.rmtree(COLAB, ignore_errors=True)
    run(sys.executable, "-m", "venv", COLAB)
    python = COLAB / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    lend(closure(BROUGHT), site)
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *IPYTHON)
    (site / "google" / "colab").mkdir(parents=True, exist_ok=True)
    (site / "google" / "colab" / "__init__.py").write_text('"""A stub."""\n')
    (site / "sitecustomize.py").write_text("import google.colab\n")
    kernel = COLAB / "share" / "jupyter" / "kernels" / "colab" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    print(f"environment: {time.monotonic() - began:.0f} s")
    return site


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    return next(out.glob("*.whl"))


def environment(wheel: Path) -> dict[str, str]:
    """What a Colab kernel sees: no path, profile or setting of this checkout."""
    ours = ("PYTHONPATH", "IPYTHONDIR", "VIRTUAL_ENV", "TQDM_DISABLE", "PYTHONHASHSEED", "MPLBACKEND")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return {**env, "MI_COURSE_SPEC": str(wheel), "IPYTHONDIR": str(COLAB / "ipython"), "HF_HUB_OFFLINE": "1"}


def execute(name: str, folder: Path, wheel: Path) -> tuple[str, float, list[Path]]:
    """Run a notebook in an empty folder: what went wrong, the seconds, and what it left there."""
    folder = folder / name.replace("/", "-")
    folder.mkdir()
    nb = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)
    options = {"timeout": 600, "kernel_name": "colab", "resources": {"metadata": {"path": str(folder)}}}
    started, failed = time.monotonic(), ""
    try:
        NotebookClient(nb, **options).execute(env=environment(wheel))
    except CellExecutionError as error:
        failed = str(error)[-3000:]
    return failed, time.monotonic() - started, list(folder.iterdir())


@pytest.fixture(scope="module")
def ran(machine, wheel, tmp_path_factory):
    """Before and after, and every notebook: the first installs the course, the others find it."""
    folder = tmp_path_factory.mktemp("content")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(COLAB / "share" / "jupyter"))
        before = installed(machine)
        results = {NOTEBOOKS[0]: execute(NOTEBOOKS[0], folder, wheel)}
        with ThreadPoolExecutor(2) as pool:
            rest = pool.map(lambda name: execute(name, folder, wheel), NOTEBOOKS[1:])
            results |= dict(zip(NOTEBOOKS[1:], rest))
    for name, (_, seconds, _) in results.items():
        print(f"{name}: {seconds:.0f} s")
    return before, installed(machine), results


# --- and what happens there -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs_from_start_to_end(ran, name):
    failed, _, left = ran[2][name]
    assert not failed, failed
    assert left == [], "a notebook leaves files where the learner stands"


def test_the_installation_leaves_everything_that_was_there_alone(ran):
    before, after, _ = ran
    assert {"torch", "numpy", "ipython", "ipykernel"} <= set(before) and "mi-course" not in before
    assert {name: after.get(name) for name in before} == before
    assert "mi-course" in after and "transformer-lens" in after


def test_colabs_ipython_is_still_the_one_that_runs(ran, machine):
    python = COLAB / "bin" / "python"
    said = run(python, "-c", "import sys, IPython; print('google.colab' in sys.modules, IPython.__version__)")
    assert said.split() == ["True", "7.34.0"]


# --- Binder -------------------------------------------------------------------------------------------


def test_binder_reads_environment_yml_and_installs_from_the_checkout(tmp_path):
    """The image is described, not built: that needs Docker."""
    run(sys.executable, "-m", "venv", tmp_path)
    run(tmp_path / "bin" / "python", "-m", "pip", "install", "-q", "jupyter-repo2docker==2026.4.0")
    asked = subprocess.run(
        [tmp_path / "bin" / "repo2docker", "--no-build", "--debug", ROOT],
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = asked.stdout + asked.stderr
    assert asked.returncode == 0, said[-3000:]
    python = next(
        e for e in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if "python=" in e
    )
    assert f"Building conda environment for {python}" in said
    update = said.index('env update -p ${NB_PYTHON_PREFIX} --file "environment.yml"')
    assert said.index("COPY --chown=0:0 src/ ${REPO_DIR}/") < update, "-e . needs the checkout to be there"
