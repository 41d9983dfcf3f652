"""Training in several processes; in one process nothing here does anything.

`torchrun --nproc-per-node N -m mi_course train sae-…` starts N of them, and there are two ways to divide the work.
`Copies`: all hold the same weights and optimiser state, each takes a share of every batch, and gradients are averaged
before every step. `Shards` (`--shard`): each holds s/N of a dictionary's s features and sees every batch whole; what is
summed over features is summed over processes. Either way N processes compute what one would, in floating point.

>>> from mi_course import processes
>>> processes.world(), processes.rank()  # in one process
(1, 0)
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course import files
from mi_course.errors import CourseError

PIECE = 2**26  # bytes that travel at a time into a file


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


def need_torchrun(name: str) -> None:
    """One sentence where torchrun did not start this process, and the dictionary `name` would not be cut."""
    if "WORLD_SIZE" not in os.environ:
        raise CourseError(
            "--shard cuts a dictionary among the processes that torchrun starts: "
            f"torchrun --nproc-per-node 2 -m mi_course train {name} --shard"
        )


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


def any_of(asked: bool) -> bool:
    """Whether any process was `asked` to do something, so that all do it after the same step."""
    if world() == 1:
        return asked
    count = torch.tensor(int(asked))
    dist.all_reduce(count)
    return bool(count)


def wait() -> None:
    """Until all processes are here."""
    any_of(False)


def seen_by_all(there: bool, what: Any) -> bool:
    """Whether the file `what` is there; one sentence where some processes see it and others do not."""
    if any_of(there) and any_of(not there):
        raise CourseError(f"Not all processes see {what}: the folder must be one that all of them can read.")
    return there


# -- who has what ------------------------------------------------------------------------------------


class Copies:
    """Every process has all features and takes a share of every batch; a process alone has all of both.

    What is asked about features is answered from this process's own: nothing is added up.
    """

    def rows(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "share d"]:
        """The rows of the batch `x` that are this process's work."""
        return share_of(x)

    def average_gradient_(self, p: torch.nn.Parameter) -> None:
        """The gradient of the parameter `p` over the whole batch, in place."""
        average_gradient_(p)

    def anywhere(self, active: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """Which features are active on the whole batch, from who is `active` on this process's rows."""
        return anywhere(active)

    def loss(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss over the whole batch, from its `value` on this process's rows."""
        return mean_value(value)

    def add_(self, x: Tensor) -> Tensor:
        """A sum over features, from this process's part `x`; in place and without a gradient."""
        return x

    def add(self, x: Tensor) -> Tensor:
        """A sum over features, from this process's part `x`, of which each process has the gradient."""
        return x

    def spread(self, x: Tensor) -> Tensor:
        """`x` as all features read it; its gradient is the sum of what they say."""
        return x

    def total(self, number: float | int) -> float | int:
        """A number summed over features, from this process's `number`."""
        return number

    def mean(self, x: Float[Tensor, "n"]) -> Float[Tensor, ""]:
        """The mean of `x` over all features that it is about."""
        return x.mean()

    def smallest(self, x: Tensor) -> Tensor:
        """The least of all processes' single numbers `x`."""
        return x

    def counted(self, n: int) -> tuple[int, int]:
        """How many of something the processes before this one have, and how many all, when this one has `n`."""
        return 0, n

    def keep_top(self, values: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
        """The `k` largest of `values` ≥ 0 along the last axis, 0 elsewhere; gradients flow through what is kept."""
        top = values.topk(min(k, values.shape[-1]), dim=-1, sorted=False)
        return torch.zeros_like(values).scatter(-1, top.indices, self.kept(top.values, k))

    def kept(self, values: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
        """This process's largest `values`, 0 where they are not among the `k` largest of all."""
        return values

    def chosen(
        self, f: Float[Tensor, "batch n"], features: Int[Tensor, "batch n"], k: int
    ) -> tuple[Float[Tensor, "batch m"], Int[Tensor, "batch m"]]:
        """Of values `f` of `features` those that are among the `k` largest of all processes; a 0 fills a row up."""
        return f, features


class Shards(Copies):
    """Every process has an equal part of the features, one after another, and sees every batch whole.

    Plain collectives of torch.distributed, not DTensor: the k largest over a cut axis is no operation that DTensor
    keeps cut (it would gather every pre-activation), and gradients written out by hand need two places only, a sum
    and a choice. All processes get the same bits from a sum, and so take the same step with what they all have.
    """

    def rows(self, x):
        """All of the batch `x`."""
        return x

    def average_gradient_(self, p):
        """Nothing: the gradient of `p` is already over the whole batch."""

    def anywhere(self, active):
        """As it is: `active` was seen on the whole batch."""
        return active

    def loss(self, value):
        """As it is: `value` is the same in all processes."""
        return value

    @torch.no_grad()
    def add_(self, x):
        """The sum of all processes' `x`, in place."""
        if world() > 1:
            dist.all_reduce(x)
        return x

    def add(self, x):
        """The sum of all processes' `x`. All go on to one loss, so its gradient is each process's own already."""
        return Added.apply(x, self)

    def spread(self, x):
        """`x`, the same in all processes; its gradient is the sum of theirs."""
        return Spread.apply(x, self)

    def total(self, number):
        """The sum of all processes' `number`."""
        return float(self.add_(torch.tensor(number, dtype=torch.double)))

    def mean(self, x):
        """The mean over all processes' `x`."""
        both = self.add_(torch.stack([x.sum(), torch.tensor(float(len(x))).to(x)]))
        return both[0] / both[1]

    @torch.no_grad()
    def smallest(self, x):
        """The least of all processes' `x`."""
        if world() > 1:
            dist.all_reduce(x := x.clone(), dist.ReduceOp.MIN)
        return x

    def counted(self, n):
        """How many of something the processes before this one have, and how many all, when this one has `n`."""
        counts = gathered(torch.tensor(n))
        return int(counts[: rank()].sum()), int(counts.sum())

    @torch.no_grad()
    def among(self, values: Float[Tensor, "*batch n"], k: int) -> Bool[Tensor, "*batch n"]:
        """Which `values` ≥ 0 are among the `k` largest of all processes along the last axis: k in all, exactly.

        Every process offers k places, of which it fills min(k, its features), and all choose by the same rule: so no
        process need know whose the others' candidates are, and values alone travel.
        """
        n = values.shape[-1]
        everyone = gathered(F.pad(values, (0, k - n), value=-1.0))  # process *batch k
        best = torch.cat(list(everyone), -1).topk(k, dim=-1, sorted=False).indices
        mask = torch.zeros(*values.shape[:-1], k * world(), dtype=torch.bool, device=values.device)
        return mask.scatter_(-1, best, True)[..., k * rank() : k * rank() + n]

    def kept(self, values, k):
        """This process's largest `values`, 0 where they are not among the `k` largest of all."""
        return values * self.among(values, k)

    def chosen(self, f, features, k):
        """Of values `f` of `features` those that are among the `k` largest, in as few columns as hold any row's."""
        if world() == 1:
            return f, features
        f = f.masked_fill(~self.among(f, k), 0.0)
        f, at = f.topk(max(1, int((f > 0).sum(1).max())), dim=1, sorted=False)
        return f, features.gather(1, at)


class Added(torch.autograd.Function):
    """The sum over processes; its gradient is that of the sum."""

    @staticmethod
    def forward(ctx, x, parts):
        """The sum of `x` over the processes that `parts` speaks for."""
        return parts.add_(x.clone())

    @staticmethod
    def backward(ctx, grad):
        """`grad`, which all processes have."""
        return grad, None


class Spread(torch.autograd.Function):
    """The same in all processes; its gradient is the sum over them."""

    @staticmethod
    def forward(ctx, x, parts):
        """`x` as it is; `parts` adds up later."""
        ctx.parts = parts
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        """The sum of every process's `grad`."""
        return ctx.parts.add_(grad.clone()), None


COPIES, SHARDS = Copies(), Shards()


@torch.no_grad()
def gathered(x: Float[Tensor, "*n"] | Int[Tensor, "*n"]) -> Tensor:
    """`x` of every process, of one shape in all, along a new first axis."""
    out = x.new_empty(world(), *x.shape)
    if world() == 1:
        out[0] = x
    else:
        dist.all_gather(list(out.unbind(0)), x.contiguous())
    return out


def equal_parts(size: int, n: int) -> int:
    """How many of `size` features each of `n` processes has; one sentence where they would not have equally many."""
    if size % n:
        fits = max(m for m in range(1, n) if size % m == 0)
        raise CourseError(
            f"A dictionary of {size} features cannot be cut into {n} equal parts: --nproc-per-node {fits} could."
        )
    return size // n


# -- one file, written and read in parts ---------------------------------------------------------------


def whole_file(
    tensors: dict[str, Tensor], cut: Collection[str], metadata: dict[str, str] | None = None
) -> Iterator[bytes]:
    """The bytes of a safetensors file, in which the tensors named in `cut` are whole: all processes call this together.

    The first process yields them, a piece at a time, as the others send their parts; the others yield nothing. So no
    process ever holds more than its own part. `tensors` are this process's, `metadata` goes into the file's head.
    """
    n, me = world(), rank()
    shapes = {
        name: (n * t.shape[0], *t.shape[1:]) if name in cut else tuple(t.shape) for name, t in tensors.items()
    }
    if me == 0:
        yield files.safetensors_head({name: (t.dtype, shapes[name]) for name, t in tensors.items()}, metadata)
    for name, t in tensors.items():
        mine = t.detach().cpu().contiguous().flatten().view(torch.uint8)
        for sender in range(n if name in cut else 1):
            for piece in mine.split(PIECE):
                if me == 0:
                    here = piece if sender == 0 else torch.empty_like(piece)
                    if sender > 0:
                        dist.recv(here, sender)
                    yield here.numpy().tobytes()
                elif me == sender:
                    dist.send(piece, 0)


def part_of(file: Any, name: str, path: Any) -> Tensor:
    """This process's part, along the first axis, of the tensor `name` in an open safetensors `file` at `path`."""
    tensor = file.get_slice(name)
    rows = tensor.get_shape()[0]
    if rows % world():
        raise CourseError(
            f"{name} in {path} has {rows} rows, which {world()} processes cannot share equally."
        )
    part = rows // world()
    return tensor[rank() * part : (rank() + 1) * part]
