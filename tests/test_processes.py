"""Several processes train as one does; in one process nothing happens."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mi_course import processes, sae
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.training import Checkpoint


def train(kind: str, die_at: int = -1, checkpoint: Path | None = None, **settings) -> sae.SparseAutoencoder:
    """Fifty steps on a fixed global batch of 64 inputs, unless killed before step `die_at`."""
    one, steps = sae.SparseAutoencoder(sae.SaeConfig(16, 48, kind, **settings)), 50

    def sample(step: int) -> torch.Tensor:
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.randn(64, 16, generator=generator(3, step))

    one.start_from(sample(-1 % 1000))
    how = sae.SaeTraining(steps, batch=64, warmup=5, dead_after=128, resample_at=(0.5,))
    one.history = sae.train(
        one, sample, how, pool=lambda: sample(999), checkpoint=checkpoint and Checkpoint(checkpoint, every=20)
    )
    return one


KINDS = {"relu": {"l1": 1.0}, "topk": {"k": 3}, "jumprelu": {"l1": 0.2}}


def write(folder: str, kinds: str, die_at: str, resumable: str) -> None:
    """Run by each process of torchrun."""
    torch.set_num_threads(1)
    processes.join()
    for kind in kinds.split(","):
        checkpoint = Path(folder) / f"{kind}.partial" if resumable == "yes" else None
        one = train(kind, int(die_at), checkpoint, **KINDS[kind])
        state = {**one.state_dict(), "loss": torch.tensor(one.history.loss)}
        torch.save(state, Path(folder) / f"{kind}-{processes.rank()}.pt")
    processes.leave()


def in_two_processes(folder: Path, kinds: str, die_at: int = -1, resumable: str = "no"):
    """`write` under torchrun."""
    return torchrun(
        folder,
        f"import test_processes; test_processes.write({str(folder)!r}, {kinds!r}, '{die_at}', {resumable!r})",
    )


def torchrun(folder: Path, code: str, n: int = 2):
    """`code`, which may import tests, in n processes. Where gloo itself aborts, or does not connect on a machine that is
    busy, which both happened once, nothing is learnt: the run is made again."""
    script = folder / "run.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(n),
        "--standalone",
        str(script),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    for _ in range(3):
        ran = subprocess.run(launch, capture_output=True, text=True, timeout=300, env=env)
        if "(SIGABRT)" not in ran.stderr and "connectFullMesh failed" not in ran.stderr:
            break  # an error of ours is an exception, and says so
        warnings.warn(
            f"A process of torchrun aborted, or did not find the others:\n{ran.stderr}", stacklevel=2
        )
    return ran


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    ran = in_two_processes(folder, ",".join(KINDS))
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(two, kind):
    one = train(kind, **KINDS[kind])
    expected = {**one.state_dict(), "loss": torch.tensor(one.history.loss)}
    first, second = (torch.load(two / f"{kind}-{rank}.pt") for rank in (0, 1))
    for name, value in expected.items():
        torch.testing.assert_close(
            first[name], second[name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
        torch.testing.assert_close(
            first[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_two_killed_processes_go_on_as_if_nothing_had_been(two, tmp_path):
    killed = in_two_processes(tmp_path, "relu", die_at=33, resumable="yes")
    assert killed.returncode != 0 and not list(tmp_path.glob("*.pt"))
    assert [path.name for path in tmp_path.glob("relu*")] == ["relu.partial"]  # of step 20, whole
    resumed = in_two_processes(tmp_path, "relu", resumable="yes")
    assert resumed.returncode == 0, resumed.stderr
    for rank in (0, 1):
        whole, again = (torch.load(folder / f"relu-{rank}.pt") for folder in (two, tmp_path))
        for name in whole:
            torch.testing.assert_close(again[name], whole[name], rtol=0, atol=0, msg=name)


def test_in_one_process_nothing_happens():
    processes.join()
    x, mask = torch.randn(5, 2), torch.tensor([True, False])
    assert (processes.world(), processes.rank()) == (1, 0)
    assert processes.share_of(x) is x and processes.anywhere(mask) is mask
    processes.leave()
    with processes.joined("mlp-1l", False) as rank:
        assert rank == 0


def test_a_batch_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(CourseError, match="batch of 5 cannot be shared equally by 2"):
        processes.share_of(torch.randn(5, 2))


def test_what_shares_no_batches_is_refused_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CourseError, match="mlp-1l trains in one process"), processes.joined("mlp-1l", False):
        pass
