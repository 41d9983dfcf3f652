"""Sparse autoencoders: a dictionary of directions in which a layer's activations become sparse.

x ≈ x̂ = f W_dec + b_dec with features f ≥ 0, few of them active at a time. Vectors are rows, as in the rest of the
course: feature i reads along column i of W_enc [d_in d_sae] and writes row i of W_dec [d_sae d_in]. x is always the
layer's own activation; inside, it is multiplied by `scale` so that E‖x‖² = d_in, which makes penalties comparable.
Derived in notebook 05, from Bricken et al. (2023) unless it says otherwise.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_course import processes
from mi_course.activations import HUGE, sinks
from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest
from mi_course.files import read_checked, save_checked, shipped_path
from mi_course.sae.kinds import KINDS, Relu

START_LENGTH = {"relu": 0.1}  # of an encoder's rows; 0.25 for other kinds
WHILE_TRAINING = ("silent", "step")  # buffers that are no part of the result


@dataclass(frozen=True)
class SaeConfig:
    """The shape of an autoencoder and what keeps it sparse.

    Args:
        d_in: width of the layer it reads.
        d_sae: number of features.
        kind: `relu`, `relu_norm`, `topk`, `batchtopk`, `jumprelu`, `gated` or `nested`.
        l1: λ of the penalty on f (relu, relu_norm, gated), or on the number of active features (jumprelu).
        k: active features (topk, nested; on average batchtopk).
        aux: weight of the auxiliary loss of topk and batchtopk, which revives dead features.
        bandwidth: of jumprelu's straight-through kernel, in units of the scaled activations.
        tied: W_enc is the transpose of W_dec.
        seed: of the starting weights.
        prefixes: of nested, how many of the first features must rebuild alone, such as (16, 64).
        start_length: of each feature's row of W_enc before training; by default 0.1 for relu, from where as much is explained
            as from SAELens' start (benchmarks/SAE.md), and 0.25 for the other kinds.
    """

    d_in: int  # width of the layer it reads
    d_sae: int  # number of features
    kind: str = "relu"  # see KINDS
    l1: float = (
        0.0  # λ of the penalty on f (relu, relu_norm, gated), or on the number of active features (jumprelu)
    )
    k: int = 0  # active features (topk, and on average batchtopk)
    aux: float = 1 / 32  # weight of the auxiliary loss of topk and batchtopk, which revives dead features
    bandwidth: float = 0.1  # of jumprelu's straight-through kernel, in units of the scaled activations
    tied: bool = False  # W_enc = W_decᵀ: the control of TM-02
    seed: int = 0
    prefixes: tuple[int, ...] | list[int] = ()  # of nested: so many of the first features must rebuild alone
    start_length: float | None = None  # of a row of W_enc before training; see START_LENGTH

    def __post_init__(self):
        object.__setattr__(self, "prefixes", tuple(self.prefixes))  # a card has a list
        if self.kind not in KINDS:
            raise CourseError(f"There is no autoencoder of kind {self.kind!r}.{nearest(self.kind, KINDS)}")
        if self.d_in < 1 or self.d_sae < 1:
            raise CourseError(
                f"An autoencoder needs d_in ≥ 1 and d_sae ≥ 1, not {self.d_in} and {self.d_sae}."
            )
        KINDS[self.kind].check(self)
        if self.start_length is None:
            object.__setattr__(self, "start_length", START_LENGTH.get(self.kind, 0.25))
        if not 0 < self.start_length < math.inf:
            raise CourseError(f"Rows of W_enc need a length above 0 to start at, not {self.start_length}.")
        if self.l1 < 0:
            raise CourseError(f"The penalty λ cannot be negative: l1 = {self.l1}.")

    @property
    def sparsity(self) -> str:
        """What keeps it sparse, in a word."""
        return f"k = {self.k}" if self.k else f"λ = {self.l1:g}"


class Dictionary(nn.Module):
    """Features f = activation(pre(x)) ≥ 0 of what is read, and what they stand for: all that autoencoders and transcoders share.

    A kind of dictionary says what W_enc reads (`centred`), what of a training row is read and what rebuilt (`pair`,
    `missed`, `towards`), how f becomes that (`decode`), and where scales and biases start (`start_from`).

    Args:
        cfg: its shape, a `SaeConfig`.
    """

    parts: processes.Copies = processes.COPIES  # which process has which features: here, each has all
    entry: str  # where its shape stands on a card
    config: type  # what its shape is
    called: str  # in a sentence

    def __init__(self, cfg: SaeConfig):
        super().__init__()
        self.cfg = cfg
        directions = self._drawn()
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        if not cfg.tied:
            self._W_enc_rows = nn.Parameter(
                cfg.start_length * directions
            )  # [d_sae d_in]: a feature's lie side by side
        self.b_enc = nn.Parameter(torch.zeros(len(directions)))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        self.register_buffer("scale", torch.tensor(1.0))
        self.kind.prepare(self)
        self.card: dict = {}

    def _drawn(self) -> Float[Tensor, "d_sae d_in"]:
        """Where the features begin, before their length is set to 1."""
        return torch.randn(self.cfg.d_sae, self.cfg.d_in, generator=generator(self.cfg.seed))

    @property
    def kind(self) -> Relu:
        """What keeps the features sparse."""
        return KINDS[self.cfg.kind]

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """How features read; the decoder's transpose where tied."""
        return self.W_dec.T if self.cfg.tied else self._W_enc_rows.T

    # -- the function ----------------------------------------------------------------------------

    def pre(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations of `x`."""
        return self.read(self.scaled(x))

    def read(self, t: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations of a scaled input `t`."""
        return self.centred(t) @ self.W_enc + self.b_enc

    def scaled(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The activations in the units of the inside, in which E‖x‖² = d_in."""
        if x.shape[-1] != self.cfg.d_in:
            raise CourseError(
                f"{self!r} reads {self.cfg.d_in} numbers a vector; x has shape {list(x.shape)}."
            )
        return x.to(self.W_dec.dtype) * self.scale

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """From pre-activations to features: ReLU, the k largest, a threshold, or a gate and a magnitude."""
        return self.kind.activate(self, pre)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The features of activations x."""
        return self.activate(self.pre(x))

    def rebuilt(self, f: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """What features `f` stand for in the units of the inside."""
        return self.parts.add(f @ self.W_dec) + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """x̂, the reconstruction of `x`; a transcoder's ŷ, the layer's output."""
        return self.decode(self.encode(x))

    # -- upkeep --------------------------------------------------------------------------------

    @torch.no_grad()
    def normalise_(self) -> None:
        """Rows of W_dec back to length 1, where the kind asks for it."""
        if self.kind.unit_decoder:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-8))

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: str | Path, *, half: bool = False, **card) -> Path:
        """Write `path`.safetensors and its card; `half` stores 16-bit floats."""
        return save_checked(path, self._result(half), **{self.entry: asdict(self.cfg)}, **card)

    def _result(self, half: bool) -> dict[str, Tensor]:
        """What is kept of the parameters and buffers here; `half` makes matrices 16-bit floats."""
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        state = {name: value for name, value in state.items() if name not in WHILE_TRAINING}
        return {name: v.half() if half and v.ndim > 1 else v for name, v in state.items()}

    @classmethod
    def load(cls, name_or_path: str | Path) -> Dictionary:
        """A shipped dictionary by name, or any saved one by path.

        `name_or_path` is one or the other.
        """
        path = shipped_path(name_or_path, "sae")
        tensors, card = cls._read(path)
        if cls.entry not in card:
            raise CourseError(f"{path} is not {cls.called}: its card has no entry {cls.entry!r}.")
        try:
            sae = cls(cls.config(**card[cls.entry]))
            sae.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except (RuntimeError, TypeError) as error:
            raise CourseError(
                f"Card and weights of {path} disagree: {str(error).splitlines()[-1].strip()}"
            ) from error
        sae.card = card
        return sae.eval()

    @classmethod
    def _read(cls, path: Path) -> tuple[dict[str, Tensor], dict]:
        """Tensors and card of a saved one."""
        return read_checked(path)


class SparseAutoencoder(Dictionary):
    """f = activation((x·scale − b_dec) W_enc + b_enc), x̂ = (f W_dec + b_dec) / scale.

    Args:
        cfg: its shape, a `SaeConfig`.
    """

    entry, config, called = "sae", SaeConfig, "an autoencoder"

    def __repr__(self) -> str:
        """One line: what it is, and what keeps it sparse."""
        cfg, tied = self.cfg, ", tied" if self.cfg.tied else ""
        return f"SparseAutoencoder({cfg.kind}, {cfg.d_in} → {cfg.d_sae} features, {cfg.sparsity}{tied})"

    @property
    def row(self) -> int:
        """The width of a training row."""
        return self.cfg.d_in

    def centred(self, t: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """What W_enc reads of a scaled input `t`. Subtracting b_dec first ties the input's bias to the output's."""
        return self.parts.spread(t) - self.parts.spread(self.b_dec)

    def pair(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Tensor, Tensor]:
        """What is read of a training row `x` and what is to be rebuilt, scaled: for an autoencoder the same."""
        t = self.scaled(x)
        return t, t

    def decode(self, f: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """The activations that features f stand for."""
        return self.rebuilt(f) / self.scale

    def directions(self, features: Any = slice(None)) -> Float[Tensor, "*feature d_in"]:
        """What a unit of each feature adds to the activation: rows of W_dec, in the layer's own units.

        Args:
            features: numbers, where not all are wanted.
        """
        return self.W_dec[features] / self.scale

    @torch.no_grad()
    def start_from(self, x: Any) -> SparseAutoencoder:
        """Take the scale and the bias from a sample [… d_in]: E‖x·scale‖² = d_in, b_dec its geometric median."""
        x = as_rows(x).to(self.W_dec.dtype)
        check_activations(x, self.cfg.d_in)
        self.scale.copy_(unit_scale(x))
        self.b_dec.copy_(geometric_median(x * self.scale))
        return self

    def missed(self, x: Float[Tensor, "row d_in"]) -> Float[Tensor, "row d_in"]:
        """x − x̂ of training rows `x`, in the units of the inside."""
        return self.scale * (x - self(x))

    def towards(self, x: Float[Tensor, "row d_in"]) -> tuple[Tensor, Tensor]:
        """What a feature that is to stand for a row of `x` reads, and what it writes: for an autoencoder the same."""
        direction = x * self.scale - self.b_dec
        return direction, direction


def checked_autoencoder(sae: Any) -> SparseAutoencoder:
    """`sae` itself, if what its features stand for belongs where they were read; else one sentence."""
    if isinstance(sae, SparseAutoencoder):
        return sae
    if isinstance(sae, Dictionary):
        raise CourseError(
            f"{sae!r} reads at one hook and writes at another: put transcoder(x) in the place of the layer's output."
        )
    raise CourseError(
        f"An autoencoder is a sae.SparseAutoencoder, not of type {type(sae).__name__}; sae.from_saelens reads those of SAELens."
    )


def as_rows(x: Any) -> Float[Tensor, "..."]:
    """Activations `x` of any layout [… d], of torch or NumPy, as rows of 32-bit floats (or wider, as they are)."""
    if not isinstance(x, Tensor | np.ndarray):
        raise CourseError(f"Activations are a tensor [… d_in], not of type {type(x).__name__}.")
    x = torch.as_tensor(x)
    rows = x.reshape(-1, x.shape[-1]) if x.ndim > 2 and x.numel() else x
    return rows if rows.dtype == torch.float64 else rows.float()


def check_activations(x: Tensor, d_in: int) -> None:
    """One sentence for activations `x` [sample d_in] that have another width than `d_in`, or holes."""
    if x.ndim != 2 or x.shape[1] != d_in or not len(x):
        raise CourseError(
            f"Activations are [sample, {d_in}], at least one sample; these are {list(x.shape)}."
        )
    if not bool(x.isfinite().all()):
        raise CourseError("The activations hold NaN or infinity: look at the model that made them.")


def unit_scale(x: Float[Tensor, "row d"]) -> Float[Tensor, ""]:
    """By what activations `x` are multiplied so that E‖x‖² = d; a warning where a few rows of huge norm decide it."""
    if not bool(x.any()):
        raise CourseError("All activations are zero: there is no scale to take from them.")
    if (few := sinks(x)) is not None:
        warnings.warn(
            f"{int(few.sum()):,} of {len(x):,} activations are over {HUGE} times as long as the median: scale and "
            "FVU will be theirs. In real models they stand at the first position: leave it out.",
            stacklevel=3,
        )
    return (x.shape[-1] / x.square().sum(-1).mean()).sqrt()


def geometric_median(x: Float[Tensor, "sample d_in"], steps: int = 50) -> Float[Tensor, "d_in"]:
    """The point with the least sum of distances to all samples (Weiszfeld's iteration), robust against outliers.

    `x` are the samples; at most so many `steps` are taken.
    """
    centre = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - centre).norm(dim=1).clamp_min(1e-6)
        new = (weight[:, None] * x).sum(0) / weight.sum()
        if torch.allclose(new, centre, atol=1e-6):
            break
        centre = new
    return centre
