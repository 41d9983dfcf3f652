"""Training an autoencoder: the loop, its upkeep, resampling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_course.activations import Store, sinks
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, kind_of, nearest, needs
from mi_course.sae import step as sae_step
from mi_course.sae.dictionary import Dictionary, SparseAutoencoder, as_rows, check_activations
from mi_course.sae.losses import fast_loss, loss, projected
from mi_course.sae.measures import l0, unexplained
from mi_course.training import Callback, History, Run, TrainConfig, fit
from mi_course.training.config import schedule_rules

ALL_DEAD = 20  # steps in which no feature is active: training stops
DRAWS = ("loss", "uniform")  # how a dead feature's input is drawn


# -- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SaeTraining:
    """How to train an autoencoder.

    Args:
        steps: of Adam.
        batch: inputs a step; at equal samples the number of steps decides.
        lr: learning rate.
        warmup: steps in which it rises.
        decay_share: of the steps, at the end, in which it falls to 0.
        penalty_warmup: share of the steps over which the penalty rises.
        dead_after: inputs without activity until a feature counts as dead.
        resample_at: shares of the run at which dead features are reset.
        resample_by: "loss" draws their inputs in proportion to the squared loss, "uniform" without looking (the control).
        seed: of everything drawn.
    """

    steps: int
    batch: int = 512  # small: at equal samples the number of Adam steps decides
    lr: float = 1e-3
    warmup: int = 100  # steps
    decay_share: float = 0.2  # of the steps, at the end
    penalty_warmup: float = 0.2  # share of the steps over which the penalty rises to its value
    dead_after: int = 100_000  # inputs without activity until a feature counts as dead
    resample_at: tuple[float, ...] = ()  # shares of the run at which dead features are reset
    resample_by: str = "loss"  # how their inputs are drawn: one of DRAWS
    seed: int = 0

    def __post_init__(self):
        needs("A SaeTraining", {
            **schedule_rules(self),
            "batch ≥ 1, a whole number": isinstance(self.batch, Integral) and self.batch >= 1,
            "0 ≤ penalty_warmup ≤ 1": 0 <= self.penalty_warmup <= 1,
            "dead_after ≥ 1, in inputs": self.dead_after >= 1,
            "resample_at as shares of the run, such as (0.25, 0.5)": isinstance(self.resample_at, tuple | list)
            and all(0 < at <= 1 for at in self.resample_at),
        })  # fmt: skip


class Upkeep(Callback):
    """What happens around each step: counts who is alive, keeps the decoder at unit length, resamples the dead.

    The count and the step are buffers of the autoencoder while it is trained, so that a checkpoint holds them. `sae`
    is trained as `config` says; `pool()` gives the activations that dead features are resampled from (None: no
    resampling); `fast` takes the step of `sae.step` where the kind has one.
    """

    def __init__(self, sae: Dictionary, config: SaeTraining, pool=None, fast: bool = True):
        self.config, self.pool, self.sae, self.hooks = config, pool, sae, []
        sae.register_buffer(
            "silent", torch.zeros_like(sae.b_enc, dtype=torch.long)
        )  # inputs since last active
        sae.register_buffer("step", torch.tensor(0))
        self.resample_at = (
            {round(at * config.steps) for at in config.resample_at} if pool is not None else set()
        )
        plain = sae.W_dec.device.type == "cpu" and sae.W_dec.dtype == torch.float32
        fast = fast and sae.kind.fast and isinstance(sae, SparseAutoencoder) and plain
        self.work = sae_step.Work.for_size(sae.W_dec.numel(), sae.parts) if fast else None
        if sae.kind.unit_decoder:
            self.hooks.append(sae.W_dec.register_hook(lambda grad: projected(grad, sae.W_dec.detach())))
        self.hooks += [
            p.register_post_accumulate_grad_hook(sae.parts.average_gradient_) for p in sae.parameters()
        ]

    @property
    def dead(self) -> Bool[Tensor, "d_sae"]:
        return self.sae.silent >= self.config.dead_after

    @property
    def share(self) -> float:
        """Of the penalty, at this step."""
        rise = self.config.penalty_warmup * self.config.steps
        return min(1.0, (int(self.sae.step) + 1) / rise) if rise else 1.0

    def end(self) -> None:
        """Leave the autoencoder as it is without training."""
        for hook in self.hooks:
            hook.remove()
        del self.sae.silent, self.sae.step

    def loss(self, sae: Dictionary, x: Tensor) -> Tensor:
        """The loss of `sae` on the batch `x` at this step; also counts for how long each feature has been silent."""
        everything, x = len(x), sae.parts.rows(x)
        if self.work is not None:
            total, active = fast_loss(sae, x, self.share, self.dead, self.work)
        else:
            total, f = loss(sae, x, self.share, self.dead)
            active = (f.detach() > 0).any(0)
            sae.kind.follow_(sae, f.detach())
        if not bool(total.isfinite()):
            check_activations(x, sae.row)  # is it the input's fault?
        self.part = x[:512]
        sae.silent = torch.where(sae.parts.anywhere(active), 0, sae.silent + everything)
        return sae.parts.loss(total)

    def after(self, run: Run, step: int) -> dict:
        """After a `step` of `run`: unit length, resampling at its steps, and what the bar and the history are to say."""
        sae = self.sae
        sae.normalise_()
        sae.step.fill_(step + 1)
        if step + 1 in self.resample_at:
            dead = self.dead
            seed, by = self.config.seed + step + 1, self.config.resample_by
            resample_(sae, dead, self.pool(), run.optimizers, seed=seed, by=by)
            sae.silent[dead] = 0
            return {"resampled": sae.parts.counted(int(dead.sum()))[1]}
        if int(sae.parts.smallest(sae.silent.min())) >= ALL_DEAD * self.config.batch and step + 1 > max(
            self.resample_at, default=0
        ):
            raise CourseError(
                f"Every feature has died: none was active in {ALL_DEAD} steps up to step {step + 1}. "
                f"Try a tenth of the penalty, l1 = {sae.cfg.l1:g}."
            )
        return self.measures(sae) if step % 20 == 0 else {}

    @torch.no_grad()
    def measures(self, sae: Dictionary) -> dict:
        """L0 and FVU of `sae` on a part of the batch, beside it FVU without rows of huge norm, and the share of the dead."""
        t, x = sae.pair(self.part)
        f = sae.activate(sae.read(t))
        x_hat = sae.rebuilt(f)
        noted = {
            "L0": sae.parts.total(l0(f)), "FVU": unexplained(x, x_hat), "dead": float(sae.parts.mean(self.dead.float())),
        }  # fmt: skip
        if (few := sinks(x)) is not None and not bool(few.all()):
            noted["FVU without sinks"] = unexplained(x[~few], x_hat[~few])
        return noted


def train(
    sae: Dictionary,
    sample: Any,
    config: Any,
    *,
    pool: Callable[[], Tensor] | None = None,
    fast: bool = True,
    callbacks: Sequence[Callback] = (),
    **options,
) -> History:
    """Train in place through `training.fit`; `pool()` gives inputs to resample from.

    `sample` is a `Store`, of which every step takes the next rows, or a function step → activations [… d_in] in any
    floating format: they are cast to the autoencoder's own.
    `fast` takes the step of `sae_step` where the kind has one, and bfloat16 products where they are faster.
    The history notes L0, FVU and dead share every 20 steps, and how many features were resampled.

    Args:
        sae: is trained in place; a `Transcoder` on rows that hold what it reads and, behind it, what it rebuilds.
        sample: step → inputs [batch d_in], as `Store.sample(batch)` gives.
        config: a `SaeTraining`.
        pool: inputs to resample dead features from.
        fast: by hand-written gradients where there are any.
        callbacks: of `training.fit`, more than its own.
        options: of `training.fit`: `checkpoint`, `evaluate`, `progress`, …
    """
    if not isinstance(config, SaeTraining):
        raise CourseError(f"The third argument is a SaeTraining(steps=…), not {kind_of(config)}.")
    check_draw(config.resample_by)
    sample = rows_of(sae, sample, config)
    schedule = TrainConfig(
        config.steps,
        config.lr,
        betas=(0.9, 0.999),
        warmup=config.warmup,
        decay_share=config.decay_share,
        seed=config.seed,
    )
    upkeep = Upkeep(sae, config, pool, fast)
    try:
        sae.train()
        return fit(
            sae,
            sample,
            schedule,
            loss=upkeep.loss,
            callbacks=[upkeep, *callbacks],
            **{"progress": False} | options,
        )
    finally:
        upkeep.end()
        sae.eval()


def rows_of(sae: Dictionary, sample: Any, config: SaeTraining) -> Any:
    """A function step → rows in the autoencoder's own format; what is neither store nor function is `fit`'s to refuse."""
    if isinstance(sample, Store):
        sample = sample.sample(config.batch)
    if not callable(sample):
        return sample

    def rows(step: int) -> Any:
        x = sample(step)
        return as_rows(x).to(sae.W_dec.dtype) if isinstance(x, Tensor | np.ndarray) else x

    return rows


def check_draw(by: str) -> None:
    """Refuse a name that is none of DRAWS."""
    if by not in DRAWS:
        raise CourseError(
            f"Dead features are drawn by {' or '.join(DRAWS)}, not by {by!r}.{nearest(str(by), DRAWS)}"
        )


@torch.no_grad()
def resample_(
    sae: Dictionary,
    dead: Bool[Tensor, "d_sae"],
    x: Any,
    optimizers: Collection[torch.optim.Optimizer] = (),
    seed: int = 0,
    by: str = "loss",
) -> Int[Tensor, "dead"]:
    """Give each dead feature an input of x [… d_in] that `sae` explains badly, drawn in proportion to its squared loss.

    With `by="uniform"` all inputs are equally likely: the control that tells the drawing from the rest of the reset.

    Decoder row: the input less b_dec, at length 1. Encoder column: the same direction at 0.2 of the mean length of
    the living ones. Bias 0, and Adam forgets these entries. Returns which inputs were taken, for the dead in this
    process. `optimizers` are those whose state is forgotten; `seed` draws the inputs.
    """
    check_draw(by)
    here = int(dead.sum())
    before, n = sae.parts.counted(here)
    if not n:
        return torch.empty(0, dtype=torch.long)
    x = as_rows(x).to(sae.W_dec.dtype)
    squared = sae.missed(x).square().sum(-1).square()  # loss²
    weight = squared.cpu() if by == "loss" else torch.ones(len(x))
    picked = torch.multinomial(weight, n, replacement=n > len(x), generator=generator(seed))
    alive = sae.parts.mean(sae.W_enc[:, ~dead].norm(dim=0)).nan_to_num(1.0)  # 1 where nobody is alive
    picked = picked[before : before + here]
    reads, writes = (d / d.norm(dim=1, keepdim=True).clamp_min(1e-8) for d in sae.towards(x[picked]))
    sae.W_dec[dead] = writes
    if not sae.cfg.tied:
        sae._W_enc_rows[dead] = 0.2 * alive * reads
    sae.b_enc[dead] = 0.0
    for optimizer in optimizers:
        for p in (p for p in sae.parameters() if p is not sae.b_dec):
            for slot in optimizer.state.get(p, {}).values():
                if isinstance(slot, Tensor) and slot.shape == p.shape:
                    slot[dead] = 0.0
    return picked
