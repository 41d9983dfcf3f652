"""Many small runs over one or more machines, on dask's engine: a sweep that dies goes on where it was.

A `Task` is a function by its name, and settings; its result is one file, written whole. What is there already is not
done again, so a sweep is resumed by starting it again. Results do not depend on how many workers there are: every
task has one thread and its own seed.

>>> from mi_course import sweeps
>>> sweeps.grid(size=[256, 512], seed=[0, 1])[1]
{'size': 256, 'seed': 1}
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import importlib
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mi_course import __version__, files
from mi_course.errors import CourseError
from mi_course.training.watching import quiet

PATIENCE = 15  # seconds until a scheduler or its workers count as absent
LATE = (TimeoutError, asyncio.TimeoutError)  # two kinds on Python 3.10, one from 3.11 on
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


@dataclass(frozen=True)
class Task:
    """One run of a sweep.

    Args:
        name: of the file with its result, without the ending.
        call: the function, as `module:function`; it takes the settings and returns what JSON can hold.
        settings: its arguments, which JSON can hold.
    """

    name: str
    call: str
    settings: dict[str, Any]

    @property
    def mark(self) -> str:
        """Twelve digits that change with the function, any setting, and the version of the course."""
        written = json.dumps([self.call, self.settings, __version__], sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep.

    Args:
        results: name of a task → what its function returned, in the order of the tasks.
        failed: name of a task → why it has no result.
        settings: name of a task → its settings.
        ran: how many were run now, and not found done.
    """

    results: dict[str, Any]
    failed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict] = field(default_factory=dict)
    ran: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a task: its name, what was varied, and the numbers of its result.

        What was varied are the task's settings, or the one of them that is itself called `settings`.
        """
        varied = {name: given.get("settings", given) for name, given in self.settings.items()}
        return [{"task": name, **varied[name], **flat(result)} for name, result in self.results.items()]

    def table(self) -> str:
        """The rows as comma-separated values, a header first; the same from any number of workers."""
        rows, out = self.rows(), io.StringIO()
        columns = dict.fromkeys(itertools.chain.from_iterable(rows))
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()


def grid(**values: Sequence) -> list[dict[str, Any]]:
    """Every combination of `values`, name → what it takes; the last name changes quickest: one dictionary each."""
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def flat(result: Any) -> dict[str, Any]:
    """Numbers, words and facts of a `result`: those of a dictionary by name, another one as `result`."""
    if not isinstance(result, dict):
        return {"result": result}
    return {key: value for key, value in result.items() if isinstance(value, (int, float, str, bool))}


def run(
    tasks: Iterable[Task],
    out: str | Path,
    *,
    workers: int = 2,
    scheduler: str | None = None,
    progress: bool = True,
) -> Sweep:
    """Do every task that has no result yet, and gather all results.

    A task that fails is named and does not stop the others. A worker that dies in the middle of a task is started
    again, and the task with it, three times at most. Where the scheduler goes away, what is done stays done.

    Args:
        tasks: what to do; names differ.
        out: folder of the results, one JSON file a task; with a scheduler elsewhere, one that its workers see.
        workers: processes of this machine, where no scheduler is named.
        scheduler: address of one that runs, such as `tcp://node7:8786`.
        progress: show a bar.
    """
    tasks, out = checked(list(tasks)), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    todo = [task for task in tasks if not done(task, out)]
    failed: dict[str, str] = {}
    if todo:
        with _client(workers, scheduler) as connected:
            if scheduler:
                _fitting(connected, scheduler, out)
            failed = _gathered(connected, todo, out, progress)
    read = {
        task.name: json.loads(place(task, out).read_text("utf-8"))
        for task in tasks
        if task.name not in failed
    }
    return Sweep(
        {name: content["result"] for name, content in read.items()},
        failed,
        {task.name: task.settings for task in tasks},
        len(todo) - len(failed),
    )


# -- one task --------------------------------------------------------------------------------------


def checked(tasks: list[Task]) -> list[Task]:
    """The `tasks`, if there are some, of different names that can name a file."""
    if not tasks:
        raise CourseError("A sweep needs at least one task.")
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise CourseError(f"Two tasks of a sweep are called {min(twice)!r}: names must differ.")
    if bad := [name for name in names if not name or "/" in name or "\\" in name]:
        raise CourseError(f"{bad[0]!r} cannot name a file, and a task's name does.")
    return tasks


def place(task: Task, out: Path) -> Path:
    """Where the result of a `task` is, in the folder `out`."""
    return out / f"{task.name}.json"


def done(task: Task, out: Path) -> bool:
    """Whether the `task` has its result in `out`; one of other settings or another version is no result, and is not overwritten."""
    path = place(task, out)
    if not path.exists():
        return False
    try:
        mark = json.loads(path.read_text("utf-8"))["mark"]
    except (ValueError, KeyError, TypeError):
        raise CourseError(
            f"{path} is no result of a sweep: move it away, or choose another folder."
        ) from None
    if mark != task.mark:
        raise CourseError(
            f"{path} was made with other settings or another version of the course: remove it, or choose another folder."
        )
    return True


def work(task: Task, out: str) -> str:
    """On a worker: run the `task` on one thread and write its result to `out`; empty, or why there is none."""
    import torch

    torch.set_num_threads(1)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # functions of yours lie beside you
    began = time.perf_counter()
    module, _, name = task.call.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**task.settings)
        content = {"task": task.name, "mark": task.mark, "settings": task.settings, "result": result}
        written = json.dumps(content | {"seconds": round(time.perf_counter() - began, 2)}, indent=1)
        files.write(place(task, Path(out)), written + "\n")
    except Exception as error:  # whatever it is: the others go on, and this one is named
        return f"{type(error).__name__}: {error}"
    return ""


# -- the engine ------------------------------------------------------------------------------------


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A connection to the scheduler, or to `workers` processes of this machine that go when it closes."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise CourseError("Sweeps need dask: pip install 'mi-course[sweep]'.") from error

    if workers < 1:
        raise CourseError(f"A sweep needs at least one worker, not {workers}.")
    quiet = {"distributed.nanny.pre-spawn-environ": ONE_THREAD, "logging.distributed": "critical",
             "distributed.comm.timeouts.connect": f"{PATIENCE}s",
             "distributed.scheduler.worker-saturation": 1.0,  # no task waits on a worker, to die with another
             "distributed.deploy.lost-worker-timeout": "7 days"}  # fmt: skip  # its nanny starts it again, however slowly
    with dask.config.set(quiet):
        if scheduler is None:
            with (
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
                ) as cluster,
                Client(cluster) as connected,
            ):
                yield connected
            return
        try:
            connected = Client(scheduler, timeout=PATIENCE)
        except (OSError, *LATE, ValueError) as error:
            raise CourseError(
                f"No scheduler answers at {scheduler}: `dask scheduler` starts one, `dask worker {scheduler}` its workers."
            ) from error
        with connected:
            yield connected


def _fitting(connected: Any, scheduler: str, out: Path) -> None:
    """A sentence where the scheduler has no workers, or one of another version, or one that does not see the folder."""
    try:
        connected.wait_for_workers(1, timeout=PATIENCE)
    except LATE as error:
        raise CourseError(
            f"The scheduler at {scheduler} has no workers: `dask worker {scheduler}` starts one."
        ) from error
    sign = out / f".seen-{os.getpid()}"
    files.write(sign, __version__)
    try:
        answers = connected.run(_there, str(sign), on_error="return")
    finally:
        sign.unlink()
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            raise CourseError(f"The worker at {worker} does not have the course: {answer}")
        version, sees = answer
        if version != __version__:
            raise CourseError(f"The worker at {worker} has mi_course {version}, and this is {__version__}.")
        if not sees:
            raise CourseError(
                f"The worker at {worker} does not see {out}: choose a folder that all machines share."
            )


def _there(sign: str) -> tuple[str, bool]:
    """On a worker: which version of the course it has, and whether it sees the file."""
    return __version__, Path(sign).exists()


def _gathered(connected: Any, todo: list[Task], out: Path, progress: bool) -> dict[str, str]:
    """Have the tasks done; name of a task → why it has no result."""
    from distributed import as_completed

    futures = {
        connected.submit(work, task, str(out), key=f"{task.name}-{task.mark}", pure=False): task
        for task in todo
    }
    failed: dict[str, str] = {}
    bar = tqdm(total=len(todo), disable=quiet(progress), unit="task")
    with bar:
        for future in as_completed(futures):
            task = futures[future]
            try:
                if future.status in ("cancelled", "lost"):
                    raise CancelledError
                said = _what_dask_says(future.exception()) if future.status == "error" else future.result()
            except (OSError, *LATE, CancelledError) as error:  # the connection, not the task
                kept = sum(place(one, out).exists() for one in todo)
                raise CourseError(
                    f"The scheduler went away: {kept} of {len(todo)} tasks are done and kept; start the sweep again to go on."
                ) from error
            if said:
                failed[task.name] = said
            bar.update()
    return failed


def _what_dask_says(error: BaseException) -> str:
    """Why a task has no result that never came to say so itself."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return "its worker died, each time it was tried"
    return f"dask could not run it ({type(error).__name__}: {' '.join(str(error).split())})"
