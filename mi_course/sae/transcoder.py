"""Transcoders: a sparse dictionary that stands for a layer, not for an activation.

An autoencoder rebuilds what it reads. A transcoder (Dunefsky et al. 2024) reads what enters a layer, x [d_in], and rebuilds
what leaves it, y [d_out]: ŷ = f W_dec + b_dec with f = activation((x·scale − centre) W_enc + b_enc). So column i of W_enc says
what feature i reads, row i of W_dec what it writes, and both can be read off the weights. Derived in notebook 07.

>>> import torch
>>> from mi_course import sae
>>> x = torch.randn(256, 8)
>>> y = torch.cat([x[:, :4].relu(), -x[:, :2]], 1)  # a layer, from 8 numbers to 6
>>> transcoder = sae.Transcoder(sae.TranscoderConfig(8, 16, "topk", k=4, d_out=6))
>>> rows = torch.cat([x, y], 1)  # a training row: what is read, and behind it what is to be rebuilt
>>> history = sae.train(transcoder.start_from(rows), lambda step: rows, sae.SaeTraining(50))
>>> list(transcoder(x).shape), sae.fvu(y, transcoder(x).detach()) < 1
([256, 6], True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError
from mi_course.sae.dictionary import (
    Dictionary,
    SaeConfig,
    as_rows,
    check_activations,
    geometric_median,
    unit_scale,
)


@dataclass(frozen=True)
class TranscoderConfig(SaeConfig):
    """The shape of a transcoder: that of an autoencoder, and the width of what it writes.

    Args:
        d_in: width of what enters the layer.
        d_sae: number of features.
        kind: as of an autoencoder.
        l1: λ of the penalty, as there.
        k: active features, as there.
        aux: weight of the auxiliary loss, as there.
        bandwidth: of jumprelu's kernel, as there.
        tied: cannot be.
        seed: of the starting weights.
        prefixes: of nested, as there.
        start_length: as there.
        d_out: width of the layer's output; 0 is d_in.
    """

    d_out: int = 0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "d_out", self.d_out or self.d_in)
        if self.d_out < 1:
            raise CourseError(f"A transcoder writes at least one number, not d_out = {self.d_out}.")
        if self.tied:
            raise CourseError("A transcoder reads one layer and writes another: its weights cannot be tied.")


class Transcoder(Dictionary):
    """f = activation((x·scale − centre) W_enc + b_enc), ŷ = (f W_dec + b_dec) / out_scale.

    Every kind of autoencoder can be one. It is trained by `sae.train` on rows [x y], side by side.

    Args:
        cfg: its shape, a `TranscoderConfig`.
    """

    entry, config, called = "transcoder", TranscoderConfig, "a transcoder"

    def __init__(self, cfg: SaeConfig):
        if not isinstance(cfg, TranscoderConfig):
            raise CourseError("A transcoder is made from a TranscoderConfig: it says d_out as well.")
        super().__init__(cfg)
        rows = torch.randn(cfg.d_sae, cfg.d_out, generator=generator(cfg.seed, 1))
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_out))
        self.register_buffer("centre", torch.zeros(cfg.d_in))
        self.register_buffer("out_scale", torch.tensor(1.0))

    def __repr__(self) -> str:
        """One line: what it is, and what keeps it sparse."""
        cfg = self.cfg
        return f"Transcoder({cfg.kind}, {cfg.d_in} → {cfg.d_sae} features → {cfg.d_out}, {cfg.sparsity})"

    @property
    def row(self) -> int:
        """The width of a training row: what is read, and behind it what is rebuilt."""
        return self.cfg.d_in + self.cfg.d_out

    def centred(self, t: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """What W_enc reads of a scaled input `t`. The paper has no centre: it is b_enc − centre W_enc there."""
        return t - self.centre

    def pair(self, x: Float[Tensor, "*batch row"]) -> tuple[Tensor, Tensor]:
        """What is read of training rows `x` and what is to be rebuilt, both scaled."""
        x, y = self.halves(x)
        return self.scaled(x), y.to(self.W_dec.dtype) * self.out_scale

    def halves(self, rows: Float[Tensor, "*batch row"]) -> tuple[Tensor, Tensor]:
        """Training `rows` cut into what is read and what is rebuilt."""
        if rows.shape[-1] != self.row:
            raise CourseError(
                f"A training row of this transcoder holds {self.cfg.d_in} numbers to read and {self.cfg.d_out} to rebuild, "
                f"side by side; these have {rows.shape[-1]}."
            )
        return rows.split([self.cfg.d_in, self.cfg.d_out], -1)

    def decode(self, f: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """The layer's output that features `f` stand for."""
        return self.rebuilt(f) / self.out_scale

    @torch.no_grad()
    def start_from(self, x: Any) -> Transcoder:
        """Take scales, centre and bias from training rows [… d_in + d_out]: E‖x·scale‖² = d_in, E‖y·out_scale‖² = d_out."""
        rows = as_rows(x).to(self.W_dec.dtype)
        check_activations(rows, self.row)
        x, y = self.halves(rows)
        self.scale.copy_(unit_scale(x))
        self.out_scale.copy_(unit_scale(y))
        self.centre.copy_(geometric_median(x * self.scale))
        self.b_dec.copy_(geometric_median(y * self.out_scale))
        return self

    def missed(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row d_out"]:
        """y − ŷ of training rows `x`, in the units of the inside."""
        x, y = self.halves(x)
        return self.out_scale * (y - self(x))

    def towards(self, x: Float[Tensor, "row d"]) -> tuple[Tensor, Tensor]:
        """What a feature that is to stand for a training row of `x` reads, and what it writes: what was missed there."""
        return self.halves(x)[0] * self.scale - self.centre, self.missed(x)
