"""Sweeps from the command line: a recipe with many settings, several recipes, a notebook on several seeds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from mi_course import files, recipes, sweeps
from mi_course.course import places
from mi_course.errors import CourseError
from mi_course.recipes import varying


def sweep(name: str, vary: Sequence[str], out: Path | None, workers: int, scheduler: str | None) -> int:
    """Train every combination, and write `table.csv` beside the results; 1 if a run failed.

    Args:
        name: of the recipe, or of a sweep that has one (`varying.SWEEPS`).
        vary: such as `sae.d_sae=256,512`.
        out: folder of the results.
        workers: runs at a time.
        scheduler: address of a dask scheduler.
    """
    out = (out or places.root() / "build" / "sweeps" / name).resolve()
    recipe, settings = varying.sweep_named(name, values(vary))
    found = sweeps.run(varying.tasks(recipe, settings, out), out, workers=workers, scheduler=scheduler)
    files.write(out / "table.csv", found.table())
    print(found.table(), end="")
    print(out / "table.csv")
    return said(found)


def values(vary: Sequence[str]) -> dict[str, list[str]]:
    """Setting → values, of `setting=a,b`."""
    wanted: dict[str, list[str]] = {}
    for one in vary:
        setting, sign, listed = one.partition("=")
        chosen = [value.strip() for value in listed.split(",") if value.strip()]
        if not sign or not setting or not chosen:
            raise CourseError(f"--vary takes SETTING=A,B,… and not {one!r}.")
        if setting in wanted:
            raise CourseError(f"--vary names {setting} twice: give all its values at once.")
        wanted[setting] = list(dict.fromkeys(chosen))
    return wanted


def train(
    names: Sequence[str], seed: int | None, out: Path, device: str, workers: int, scheduler: str | None
) -> int:
    """Several recipes at once, as `train` makes each; 1 if one failed.

    Args:
        names: of the recipes.
        seed: another one than their first.
        out: folder of the checkpoints; its folder `.sweep` remembers which are done until all are.
        device: `cpu`; on others one recipe is trained at a time.
        workers: runs at a time.
        scheduler: address of a dask scheduler.
    """
    if device.partition(":")[0] != "cpu":
        raise CourseError(f"Several recipes are trained on the CPU, not on {device!r}: give one at a time.")
    out = out.resolve()
    stems = {}
    for name in dict.fromkeys(names):
        recipe = recipes.find(name)
        stems[(recipe if seed is None else recipe.seeded(seed)).stem] = name
    tasks = [
        sweeps.Task(stem, varying.NAMED, {"name": name, "seed": seed, "out": str(out)})
        for stem, name in stems.items()
    ]
    found = sweeps.run(tasks, out / ".sweep", workers=workers, scheduler=scheduler)
    for result in found.results.values():
        print(out / result["file"])
    if not found.failed:  # whoever asks again wants them made again
        shutil.rmtree(out / ".sweep")
    return said(found)


def said(found: sweeps.Sweep) -> int:
    """Name what failed; 1 if anything did."""
    for name, why in found.failed.items():
        print(f"{name} failed: {why}")
    return int(bool(found.failed))
