"""Training in several processes that each take a share of every batch; in one process nothing here does anything.

`torchrun --nproc-per-node N -m mi_course train sae-…` starts N of them. All hold the same weights and the same
optimiser state: gradients are averaged before every step, so N processes compute what one would, in floating point.

>>> from mi_course import processes
>>> processes.world(), processes.rank()  # in one process
(1, 0)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from mi_course.errors import CourseError


@contextmanager
def joined(name: str, shared: bool = True) -> Iterator[int]:
    """`with joined(name) as rank:` trains together with the other processes of torchrun, if there are any.

    A recipe called `name` that is not `shared` is refused where there are several.
    """
    if started() > 1 and not shared:
        raise CourseError(f"{name} trains in one process: start it without torchrun.")
    try:
        join()
        yield rank()
    finally:
        leave()


def started() -> int:
    """How many processes torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes of torchrun: tensors on a GPU over NCCL, others over gloo."""
    if started() > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Say goodbye, so that no process waits for another."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process; the first, 0, writes the files."""
    return dist.get_rank() if world() > 1 else 0


def share_of(x: Float[Tensor, "batch d"]) -> Float[Tensor, "share d"]:
    """The rows of the batch `x` that are this process's work."""
    n = world()
    if len(x) % n:
        raise CourseError(f"A batch of {len(x)} cannot be shared equally by {n} processes.")
    return x if n == 1 else x[rank() :: n]


def average_gradient_(p: torch.nn.Parameter) -> None:
    """The mean of the gradient of the parameter `p` over all processes, in place."""
    if world() > 1:
        dist.all_reduce(p.grad)
        p.grad /= world()


def anywhere(mask: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """True where the mask is true in any process."""
    if world() == 1:
        return mask
    count = mask.int()
    dist.all_reduce(count)
    return count > 0


def mean_value(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The loss with the value of all processes' mean and the gradient of this one's."""
    if world() == 1:
        return loss
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    return loss + (mean / world() - loss.detach())
