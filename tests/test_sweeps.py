"""Sweeps: nothing is done twice, nothing is lost, and the number of workers changes no digit."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mi_course import sweeps
from mi_course.errors import CourseError

HERE = "tests.test_sweeps"


# -- what the tasks do: run on workers -------------------------------------------------------------


def fit(size: int, seed: int, diary: str = "") -> dict:
    """A small regression whose digits would show threads and order; `diary` gets a line each time it is run."""
    import torch

    from mi_course.corpora.corpus import generator

    if diary:
        with open(diary, "a", encoding="utf-8") as file:
            file.write(f"{size}-{seed}\n")
    x = torch.randn(300, size, generator=generator(seed))
    y, w = x.sum(1) + torch.randn(300, generator=generator(seed, 1)), torch.zeros(size)
    for _ in range(20):
        w -= x.T @ (x @ w - y) / 900
    return {"norm": float(w.norm()), "size_again": size, "all": w.tolist()}


def fail(size: int) -> int:
    if size == 2:
        raise ValueError("two is not allowed")
    return size


def die_once(flag: str) -> str:
    """Kills its worker the first time."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second try"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Unreadable(str):
    """A word that JSON can hold and that no other process can read."""

    def __reduce__(self):
        return fail, (2,)


def slow(seconds: float, diary: str, number: int) -> int:
    time.sleep(seconds)
    with open(diary, "a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return number


def who(number: int) -> int:
    """Which process does the task; long enough that one that is idle takes the next."""
    time.sleep(0.3)
    return os.getpid()


def tasks(**more) -> list[sweeps.Task]:
    return [
        sweeps.Task(f"fit-{one['size']}-{one['seed']}", f"{HERE}:fit", one | more)
        for one in sweeps.grid(size=[8, 16, 32], seed=[0, 1])
    ]


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("TQDM_DISABLE", "1")


# -- on this machine -------------------------------------------------------------------------------


def test_one_and_two_workers_give_the_same_table(tmp_path):
    one = sweeps.run(tasks(), tmp_path / "one", workers=1)
    two = sweeps.run(tasks(), tmp_path / "two", workers=2)
    assert one.table() == two.table() and (one.ran, one.failed) == (6, {})
    assert one.table().splitlines()[0] == "task,size,seed,norm,size_again"
    assert one.results == two.results and one.results["fit-8-0"] == fit(8, 0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_there_are_as_many_workers_as_were_asked_for(tmp_path, workers):
    some = [sweeps.Task(f"who-{n}", f"{HERE}:who", {"number": n}) for n in range(4 * workers)]
    assert len(set(sweeps.run(some, tmp_path, workers=workers).results.values())) == workers


def test_what_is_done_is_not_done_again(tmp_path):
    diary = tmp_path / "diary"
    some = tasks(diary=str(diary))
    sweeps.run(some[:2], tmp_path / "out", workers=1)
    again = sweeps.run(some, tmp_path / "out", workers=1)
    assert again.ran == 4 and sorted(diary.read_text().split()) == sorted(t.name[4:] for t in some)
    assert sweeps.run(some, tmp_path / "out", workers=1).ran == 0


def test_a_task_that_fails_is_named_and_the_others_go_on(tmp_path):
    some = [sweeps.Task(f"n{i}", f"{HERE}:fail", {"size": i}) for i in (1, 2, 3)]
    some.append(sweeps.Task("nobody", f"{HERE}:missing", {}))
    sweep = sweeps.run(some, tmp_path, workers=1)
    assert sweep.results == {"n1": 1, "n3": 3} and sweep.failed.keys() == {"n2", "nobody"}
    assert sweep.failed["n2"] == "ValueError: two is not allowed"
    assert not (tmp_path / "n2.json").exists()


def test_a_worker_that_dies_is_started_again(tmp_path):
    some = [
        sweeps.Task("once", f"{HERE}:die_once", {"flag": str(tmp_path / "flag")}),
        sweeps.Task("fine", f"{HERE}:fail", {"size": 1}),
    ]
    assert sweeps.run(some, tmp_path / "out", workers=1).results == {"once": "second try", "fine": 1}


def test_a_task_that_kills_every_worker_is_named(tmp_path):
    some = [sweeps.Task("deadly", f"{HERE}:die", {}), sweeps.Task("fine", f"{HERE}:fail", {"size": 1})]
    sweep = sweeps.run(some, tmp_path, workers=1)
    assert sweep.results == {"fine": 1}
    assert sweep.failed == {"deadly": "its worker died, each time it was tried"}


def test_a_worker_that_comes_back_late_is_waited_for(tmp_path):
    """dask's cluster drops a worker that is not back some seconds after it was lost: on a busy machine, every one."""
    import dask

    found = []
    tasks = [sweeps.Task("once", f"{HERE}:die_once", {"flag": str(tmp_path / "flag")})]
    run = threading.Thread(
        target=lambda: found.append(sweeps.run(tasks, tmp_path / "out", workers=1)), daemon=True
    )
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "10 ms"}):
        run.start()
        run.join(180)
    assert found and found[0].results == {"once": "second try"}


def test_settings_that_do_not_arrive_are_no_dead_worker(tmp_path):
    sweep = sweeps.run(
        [sweeps.Task("lost", f"{HERE}:fail", {"size": Unreadable("5")})], tmp_path, workers=1, progress=False
    )
    assert "dask could not run it (RuntimeError" in sweep.failed["lost"]


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ([], "at least one task"),
        (
            [sweeps.Task("a", "m:f", {}), sweeps.Task("a", "m:f", {"x": 1})],
            "Two tasks of a sweep are called 'a'",
        ),
        ([sweeps.Task("a/b", "m:f", {})], "'a/b' cannot name a file"),
    ],
)
def test_tasks_that_cannot_be(tmp_path, wrong, sentence):
    with pytest.raises(CourseError, match=sentence):
        sweeps.run(wrong, tmp_path)


def test_results_of_other_settings_are_kept_and_named(tmp_path, monkeypatch):
    one = sweeps.Task("one", f"{HERE}:fail", {"size": 1})
    sweeps.run([one], tmp_path, workers=1)
    kept = (tmp_path / "one.json").read_text()
    with pytest.raises(CourseError, match="one.json was made with other settings or another version"):
        sweeps.run([sweeps.Task("one", f"{HERE}:fail", {"size": 3})], tmp_path)
    monkeypatch.setattr(sweeps, "__version__", "9.9")
    with pytest.raises(CourseError, match="another version of the course"):
        sweeps.run([one], tmp_path)
    assert (tmp_path / "one.json").read_text() == kept
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(CourseError, match="is no result of a sweep"):
        sweeps.run([one], tmp_path)


def test_no_worker(tmp_path):
    with pytest.raises(CourseError, match="at least one worker, not 0"):
        sweeps.run(tasks(), tmp_path, workers=0)


def test_without_dask(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CourseError, match=r"pip install 'mi-course\[sweep\]'"):
        sweeps.run(tasks(), tmp_path)


# -- on a scheduler that is there ------------------------------------------------------------------


class Cluster:
    """`dask scheduler` and `dask worker`, as somebody else started them."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, []
        file = folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
        )
        for _ in range(300):
            if file.exists() and file.stat().st_size:
                break
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]

    def start(self, *command: str, **environment: str) -> None:
        run = [sys.executable, "-W", "ignore", "-m", "dask", *command]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.started.append(
            subprocess.Popen(run, cwd=self.folder, env={**os.environ, **environment}, **quiet)
        )

    def worker(self, **environment: str) -> None:
        self.start(
            "worker",
            self.address,
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-dashboard",
            "--no-nanny",
            **environment,
        )

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    made.stop()


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "PATIENCE", 1)
    with pytest.raises(
        CourseError, match="No scheduler answers at tcp://127.0.0.1:9: `dask scheduler` starts one"
    ):
        sweeps.run(tasks(), tmp_path, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(CourseError, match="No scheduler answers at nonsense"):
        sweeps.run(tasks(), tmp_path, scheduler="nonsense")


def test_a_scheduler_without_workers(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(sweeps, "PATIENCE", 2)
    with pytest.raises(CourseError, match="has no workers: `dask worker tcp://"):
        sweeps.run(tasks(), tmp_path / "out", scheduler=cluster.address)


def test_a_scheduler_that_goes_away_loses_nothing(tmp_path):
    diary, out = tmp_path / "diary", tmp_path / "out"
    some = [
        sweeps.Task(f"n{i}", f"{HERE}:slow", {"seconds": 0.4, "diary": str(diary), "number": i})
        for i in range(8)
    ]
    first = Cluster(tmp_path)
    first.worker()
    code = (
        f"from tests.test_sweeps import *; import sys\ntasks = [sweeps.Task(f'n{{i}}', '{HERE}:slow', "
        f"{{'seconds': 0.4, 'diary': {str(diary)!r}, 'number': i}}) for i in range(8)]\n"
        f"try: sweeps.run(tasks, {str(out)!r}, scheduler={first.address!r})\n"
        "except CourseError as error: print(error); sys.exit(7)"
    )
    sweep = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True,
                             cwd=Path(__file__).parents[1], env={**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"})  # fmt: skip
    for _ in range(600):
        if len(list(out.glob("n*.json"))) >= 2:
            break
        time.sleep(0.1)
    first.stop()
    said, _ = sweep.communicate(timeout=90)
    assert sweep.returncode == 7 and "of 8 tasks are done and kept; start the sweep again to go on" in said, (
        said
    )
    before = len(list(out.glob("n*.json")))
    assert 2 <= before < 8
    second = Cluster(tmp_path)
    second.worker()
    try:
        again = sweeps.run(some, out, scheduler=second.address)
    finally:
        second.stop()
    assert again.results == {f"n{i}": i for i in range(8)} and again.ran == 8 - before
    # nothing that had a result was done again; the one in the air may have been
    assert len(diary.read_text().split()) <= 9


def test_workers_of_another_version_or_without_the_folder(tmp_path, cluster, monkeypatch):
    cluster.worker()
    monkeypatch.setattr(sweeps, "__version__", "9.9")
    with pytest.raises(CourseError, match=r"has mi_course \d+\.\d+\.\d+, and this is 9.9"):
        sweeps.run(tasks(), tmp_path / "out", scheduler=cluster.address)
    monkeypatch.undo()
    monkeypatch.setattr(sweeps, "_there", lambda sign: (sweeps.__version__, False))
    with pytest.raises(CourseError, match="does not see .*: choose a folder that all machines share"):
        sweeps.run(tasks(), tmp_path / "out", scheduler=cluster.address)


def test_workers_without_the_course(tmp_path):
    lost = tmp_path / "elsewhere"
    lost.mkdir()
    (lost / "sitecustomize.py").write_text("import sys; sys.modules['mi_course'] = None")
    other = Cluster(lost)
    other.worker(PYTHONPATH=str(lost))
    try:
        with pytest.raises(CourseError, match="does not have the course: .*No module named .mi_course"):
            sweeps.run(tasks(), tmp_path / "out", scheduler=other.address)
    finally:
        other.stop()
