"""What a learner gets by `pip install`: built, installed and used from an empty directory, without a network."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USE = """
import sys
from pathlib import Path
import mi_course
from mi_course import claims, corpora, models, files
from mi_course.course import doctor
here = Path(sys.argv[1])
assert Path(mi_course.__file__).is_relative_to(here), mi_course.__file__
assert files.data_dir().is_relative_to(here), files.data_dir()
assert len(claims.ledger()) > 30
for name in files.checkpoint_names():
    models.load(name)
assert doctor.tested_versions()["torch"]
assert corpora.shipped_tokenizer("python-512")
print(len(files.checkpoint_names()), "checkpoints")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_carries_package_and_data_and_no_tests(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"mi_course"}
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "data").rglob("*") if path.is_file()}
    carried = {name.removeprefix("mi_course/") for name in names if name.startswith("mi_course/data/")}
    assert {name for name in data if not name.endswith((".tmp", ".partial"))} <= carried


def test_it_works_from_an_empty_directory(wheel, tmp_path):
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True, timeout=300)
    env = {**os.environ, "PYTHONPATH": str(target)}
    ran = subprocess.run(
        [sys.executable, "-c", USE, str(target)],
        cwd=empty,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
