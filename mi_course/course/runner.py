"""Run notebooks side by side, watch them, store them."""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mi_course.course import places
from mi_course.course.notebooks import MEASURED, silent_sections, tidy, unrun_cells
from mi_course.files import write
from mi_course.offline import steady_environment


@dataclass
class Result:
    """How one notebook ran."""

    notebook: str
    seconds: float = 0.0  # wall clock, with the kernel's start
    peak_mb: int = 0  # most memory the kernel held
    cells: int = 0  # code cells run
    failed: str | None = None  # which cell and why


class Runner:
    """Runs one notebook in its own kernel, and says how far it is."""

    def __init__(self, path: Path, timeout: int, env: dict[str, str]):
        self.path, self.env = path, env
        self.nb = nbformat.read(path, as_version=4)
        self.total = sum(cell.cell_type == "code" for cell in self.nb.cells)
        self.started, self.finished = None, False
        self.index, self.result = 0, Result(path.stem)
        self.client = NotebookClient(
            self.nb,
            timeout=timeout,
            kernel_name="python3",
            extra_arguments=["--log-level=50"],
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_start=lambda cell, cell_index: setattr(self, "index", cell_index),
            on_cell_executed=self._count,
        )

    def __call__(self) -> Result:
        self.started = time.monotonic()
        try:
            self.client.execute(env=self.env)
        except CellExecutionError as error:
            self.result.failed = f"{self._where()} raised {error.ename}: {error.evalue}\n{self._traceback()}"
        except (CellTimeoutError, DeadKernelError) as error:
            self.result.failed = f"{self._where()} {_why(error, self.client.timeout)}\n{self._source()}"
        except Exception as error:  # before the first cell: no kernel, or one that dies before it answers
            self.result.failed = f"{self._where()} could not be run: {type(error).__name__}: {error}"
        finally:
            self.result.seconds = self.seconds
            self.finished = True
        return self.result

    def stop(self) -> None:
        """End the kernel at once; the waiting thread then sees a dead kernel."""
        kernel = self.client.km and self.client.km.provisioner
        if kernel and kernel.process and not self.finished:
            kernel.process.kill()

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None else round(time.monotonic() - self.started, 1)

    @property
    def state(self) -> str:
        """Where it is, in a word."""
        if self.started is None:
            return "waits"
        if not self.finished:
            return "runs"
        return "FAILED" if self.result.failed else "done"

    def _count(self, cell, cell_index, execute_reply) -> None:
        if cell.cell_type == "code":
            self.result.cells += 1
        self.result.peak_mb = max(self.result.peak_mb, peak_memory_mb(self.client.km.provisioner.pid))

    def _where(self) -> str:
        return f"{self.path.name}, cell {self.index}"

    def _source(self) -> str:
        return "\n".join(f"    {line}" for line in self.nb.cells[self.index].source.splitlines())

    def _traceback(self) -> str:
        errors = [output for output in self.nb.cells[self.index].outputs if output.output_type == "error"]
        text = "\n".join("\n".join(error.traceback) for error in errors)
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        return text if coloured else re.sub(r"\x1b\[[0-9;]*m", "", text)


def _why(error: Exception, timeout: int) -> str:
    if isinstance(error, CellTimeoutError):
        return f"did not end within {timeout:g} s (see --timeout)."
    return "lost its kernel: out of memory, or stopped from outside."


def peak_memory_mb(pid: int) -> int:
    """The most memory this process ever held, in MB; where the system does not say, what it holds now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1000
    except (OSError, TypeError):
        import psutil

        try:
            return psutil.Process(pid).memory_info().rss // 1_000_000
        except psutil.Error:
            return 0


def execute(paths: list[Path], jobs: int | None = None, timeout: int = 900) -> list[Runner]:
    """Run notebooks side by side, each in its own kernel. One that fails does not stop the others."""
    build = places.root() / "build"
    env = steady_environment(build / "ipython")
    runners = [Runner(path, timeout, env) for path in paths]
    jobs = jobs or min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(runner) for runner in runners]
        try:
            _watch(runners)
            [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            [runner.stop() for runner in runners]
            raise
    for runner in runners:
        write(build / "notebooks" / runner.path.name, nbformat.writes(tidy(runner.nb)))
    return runners


def _watch(runners: list[Runner]) -> None:
    """Show how far each notebook is until all are done: redrawn in a terminal, a line now and then in a pipe."""
    (_rows if sys.stdout.isatty() else _lines)(runners)


def _rows(runners: list[Runner]) -> None:
    """One row a notebook: a bar, the cell, minutes, memory."""
    cell = TextColumn("cell {task.completed:>3.0f}/{task.total:<3.0f}")
    columns = TextColumn("{task.description:24}"), BarColumn(20), cell, TimeElapsedColumn()
    with Progress(*columns, TextColumn("{task.fields[peak_mb]:>5} MB  {task.fields[state]}")) as progress:
        rows = {
            runner: progress.add_task(
                runner.path.stem, start=False, total=runner.total, peak_mb=0, state="waits"
            )
            for runner in runners
        }
        while not all(_drawn(progress, row, runner) for runner, row in list(rows.items())):
            time.sleep(0.2)


def _drawn(progress: Progress, row: TaskID, runner: Runner) -> bool:
    """The row as things stand; whether this notebook is done."""
    done = runner.finished
    if runner.started is not None:
        progress.start_task(row)
    progress.update(row, completed=runner.result.cells, peak_mb=runner.result.peak_mb, state=runner.state)
    if done:
        progress.stop_task(row)
    return done


def _lines(runners: list[Runner]) -> None:
    """A line for a notebook that began, one every half minute while it runs, one when it is done."""
    said, left = {}, list(runners)
    while left:
        for runner in list(left):
            done = runner.finished
            if done or (runner.started is not None and runner.seconds - said.get(runner, -30) >= 30):
                said[runner] = runner.seconds
                print(_line(runner), flush=True)
            if done:
                left.remove(runner)
        time.sleep(0.2)


def _line(runner: Runner) -> str:
    result = runner.result
    minutes, seconds = divmod(int(result.seconds if runner.finished else runner.seconds), 60)
    told = f"{runner.path.stem:24} cell {result.cells:>3}/{runner.total:<3} {minutes:>2}:{seconds:02}"
    return f"{told}  {result.peak_mb:>5} MB  {runner.state}"


def measured(result: Result) -> str:
    """The cost of a notebook, rounded as one would say it."""
    seconds = 5 * max(1, round(result.seconds / 5))
    return f"about {seconds} s, {max(0.1, result.peak_mb / 1000):.1f} GB"


def store(runner: Runner, measure: bool = False) -> str | None:
    """Put the executed notebook in the place of the stored one; otherwise say why not.

    With `measure`, the opening's "Measured on two CPU cores: …" says what this run took.
    """
    for cell in runner.nb.cells[:5] if measure else []:
        cell.source = MEASURED.sub(measured(runner.result), cell.source)
    nb = tidy(runner.nb)
    if runner.result.failed:
        return f"{runner.path.name} was not stored: it failed."
    if problems := unrun_cells(nb) + silent_sections(nb):
        return f"{runner.path.name} was not stored: {problems[0]}"
    write(runner.path, nbformat.writes(nb) + "\n")
    return None


def run(
    names: Iterable[str] = (),
    jobs: int | None = None,
    timeout: int = 900,
    keep: bool = False,
    measure: bool = False,
    then: Callable[[list[str]], None] | None = None,
) -> int:
    """Execute notebooks, then show the claims and build the site. Returns the exit code.

    With `keep` they are stored, and `then` is called with the names of those that were.
    """
    from mi_course.course import site

    runners = execute(places.find(names), jobs, timeout)
    _record([runner.result for runner in runners])
    said = {runner.path.stem: store(runner, measure) for runner in runners} if keep else {}
    refused = [sentence for sentence in said.values() if sentence]
    stored = [name for name, sentence in said.items() if not sentence]
    if stored and then:
        then(stored)
    print()
    print(site.build())
    failed = [runner.result.failed for runner in runners if runner.result.failed]
    for sentence in [*refused, *failed]:
        print(f"\n✘ {sentence}")
    print(f"\n{len(runners) - len(failed)} of {len(runners)} notebooks ran from start to end.")
    return 1 if failed or refused else 0


def _record(results: list[Result]) -> None:
    """Keep what was measured in build/run.json, beside what earlier runs of other notebooks measured."""
    path = places.root() / "build" / "run.json"
    earlier = json.loads(path.read_text())["notebooks"] if path.exists() else {}
    ran = {result.notebook: asdict(result) for result in results}
    machine = {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()}
    write(path, json.dumps({"machine": machine, "notebooks": {**earlier, **ran}}, indent=1))


def cpu_model() -> str:
    try:
        return re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()
