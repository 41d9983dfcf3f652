"""Sparse autoencoders: a dictionary of directions in which a layer's activations become sparse.

x ≈ x̂ = f W_dec + b_dec with features f ≥ 0, few of them active at a time. Vectors are rows, as in the rest of the
course: feature i reads along column i of W_enc [d_in d_sae] and writes row i of W_dec [d_sae d_in]. x is always the
layer's own activation; inside, it is multiplied by `scale` so that E‖x‖² = d_in, which makes penalties comparable.
Derived in notebook 05, from Bricken et al. (2023) unless it says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from mi_course import processes, sae_step
from mi_course.corpora import generator
from mi_course.errors import CourseError, nearest
from mi_course.models import read_checked, save_checked, shipped_path, write_atomically
from mi_course.training import History, TrainConfig, fit

KINDS = ("relu", "relu_norm", "topk", "batchtopk", "jumprelu", "gated")
WHILE_TRAINING = ("silent", "step")  # buffers that are no part of the result
ALL_DEAD = 20  # steps in which no feature is active: training stops
UNIT_DECODER = ("relu", "topk", "batchtopk", "gated")  # rows of W_dec are kept at length 1


@dataclass(frozen=True)
class SaeConfig:
    """The shape of an autoencoder and what keeps it sparse."""

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

    def __post_init__(self):
        if self.kind not in KINDS:
            raise CourseError(f"There is no autoencoder of kind {self.kind!r}.{nearest(self.kind, KINDS)}")
        if self.d_in < 1 or self.d_sae < 1:
            raise CourseError(
                f"An autoencoder needs d_in ≥ 1 and d_sae ≥ 1, not {self.d_in} and {self.d_sae}."
            )
        if self.kind in ("topk", "batchtopk") and not 1 <= self.k <= self.d_sae:
            raise CourseError(
                f"{self.kind} needs 1 ≤ k ≤ d_sae = {self.d_sae} active features, not k = {self.k}."
            )
        if self.l1 < 0:
            raise CourseError(f"The penalty λ cannot be negative: l1 = {self.l1}.")


class SparseAutoencoder(nn.Module):
    """f = activation((x·scale − b_dec) W_enc + b_enc), x̂ = (f W_dec + b_dec) / scale."""

    def __init__(self, cfg: SaeConfig):
        super().__init__()
        self.cfg = cfg
        rng = generator(cfg.seed)
        directions = torch.randn(cfg.d_sae, cfg.d_in, generator=rng)
        directions = directions / directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        if not cfg.tied:
            self._W_enc_rows = nn.Parameter(
                0.25 * directions
            )  # d_sae d_in: what a feature reads lies side by side
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in))
        self.register_buffer("scale", torch.tensor(1.0))
        if cfg.kind == "jumprelu":
            self.log_threshold = nn.Parameter(torch.full((cfg.d_sae,), math.log(0.1)))
        if cfg.kind == "gated":
            self.r_mag = nn.Parameter(torch.zeros(cfg.d_sae))
            self.b_mag = nn.Parameter(torch.zeros(cfg.d_sae))
        if cfg.kind == "batchtopk":
            self.register_buffer("threshold", torch.tensor(0.0))  # of one input alone, once trained
        self.card: dict = {}

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """How features read; the decoder's transpose where tied."""
        return self.W_dec.T if self.cfg.tied else self._W_enc_rows.T

    # -- the function ----------------------------------------------------------------------------

    def pre(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations. Subtracting b_dec first ties the input's bias to the output's."""
        return (self.scaled(x) - self.b_dec) @ self.W_enc + self.b_enc

    def scaled(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The activations in the units of the inside, in which E‖x‖² = d_in."""
        if x.shape[-1] != self.cfg.d_in:
            raise CourseError(
                f"This autoencoder reads {self.cfg.d_in} numbers a vector; x has shape {list(x.shape)}."
            )
        return x * self.scale

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """From pre-activations to features: ReLU, the k largest, a threshold, or a gate and a magnitude."""
        kind = self.cfg.kind
        if kind == "topk":
            return keep_top(pre.relu(), self.cfg.k)
        if kind == "batchtopk":
            if self.training:
                return keep_top(pre.relu().flatten(), self.cfg.k * (pre.numel() // self.cfg.d_sae)).view_as(
                    pre
                )
            return torch.where(pre > self.threshold, pre.relu(), 0.0)
        if kind == "jumprelu":
            return Jump.apply(pre.relu(), self.log_threshold.exp(), self.cfg.bandwidth)
        if kind == "gated":
            magnitude = ((pre - self.b_enc) * self.r_mag.exp() + self.b_mag).relu()
            return torch.where(pre > 0, magnitude, 0.0)
        return pre.relu()

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The features of activations x."""
        return self.activate(self.pre(x))

    def decode(self, f: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """The activations that features f stand for."""
        return (f @ self.W_dec + self.b_dec) / self.scale

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """x̂, the reconstruction."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def follow_threshold_(self, f: Float[Tensor, "batch d_sae"], rate: float = 0.01) -> None:
        """BatchTopK's threshold for inputs that come alone: a running mean of the smallest active value."""
        smallest = torch.where(f > 0, f, torch.inf).min()
        if bool(smallest.isfinite()):
            self.threshold.lerp_(smallest, rate if self.threshold > 0 else 1.0)

    # -- start and upkeep ------------------------------------------------------------------------

    @torch.no_grad()
    def start_from(self, x: Float[Tensor, "sample d_in"]) -> SparseAutoencoder:
        """Take the scale and the bias from a sample: E‖x·scale‖² = d_in, b_dec its geometric median."""
        check_activations(x, self.cfg.d_in)
        x = x.float()
        if not bool(x.any()):
            raise CourseError("All activations are zero: there is no scale to take from them.")
        self.scale.copy_((self.cfg.d_in / x.square().sum(-1).mean()).sqrt())
        self.b_dec.copy_(geometric_median(x * self.scale))
        return self

    @torch.no_grad()
    def normalise_(self) -> None:
        """Rows of W_dec back to length 1, where the kind asks for it."""
        if self.cfg.kind in UNIT_DECODER:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min(1e-8))

    # -- files -----------------------------------------------------------------------------------

    def save(self, path: str | Path, *, half: bool = False, **card) -> Path:
        """Write `path`.safetensors and its card; `half` stores 16-bit floats."""
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        state = {name: value for name, value in state.items() if name not in WHILE_TRAINING}
        if half:
            state = {name: v.half() if v.ndim > 1 else v for name, v in state.items()}
        return save_checked(path, state, sae=asdict(self.cfg), **card)

    @classmethod
    def load(cls, name_or_path: str | Path) -> SparseAutoencoder:
        """A shipped autoencoder by name, or any saved one by path."""
        path = shipped_path(name_or_path, "sae")
        tensors, card = read_checked(path)
        if "sae" not in card:
            raise CourseError(f"{path} is not an autoencoder: its card has no entry 'sae'.")
        sae = cls(SaeConfig(**card["sae"]))
        try:
            sae.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        except RuntimeError as error:
            raise CourseError(
                f"Card and weights of {path} disagree: {str(error).splitlines()[-1].strip()}"
            ) from error
        sae.card = card
        return sae.eval()


# -- the folder format of SAELens ----------------------------------------------------------------

SAELENS = "6.54.12"  # the release whose loader was read
ARCHITECTURES = {
    "relu": "standard", "relu_norm": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu",
    "gated": "gated",
}  # fmt: skip


def to_saelens(sae: SparseAutoencoder, folder: str | Path, **metadata) -> Path:
    """Write cfg.json and sae_weights.safetensors, which `SAE.load_from_disk` of SAELens reads.

    There is no `scale` there. (x·s − b) W = (x − b/s) (s W), so it goes into the weights and raw activations go in. As
    in SAELens itself, batchtopk becomes jumprelu with its one threshold, and the decoder norms of relu_norm stay.
    """
    cfg, s = sae.cfg, sae.scale
    tensors = {"W_enc": sae.W_enc * s, "W_dec": sae.W_dec / s, "b_dec": sae.b_dec / s}
    tensors |= {"b_gate" if cfg.kind == "gated" else "b_enc": sae.b_enc}
    if cfg.kind == "gated":
        tensors |= {"r_mag": sae.r_mag, "b_mag": sae.b_mag}
    if ARCHITECTURES[cfg.kind] == "jumprelu":
        threshold = sae.log_threshold.exp() if cfg.kind == "jumprelu" else sae.threshold.expand_as(sae.b_enc)
        tensors["threshold"] = threshold
    card = {
        "architecture": ARCHITECTURES[cfg.kind], "d_in": cfg.d_in, "d_sae": cfg.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": SAELENS, "sae_lens_training_version": None, **metadata},
    }  # fmt: skip
    if cfg.kind == "topk":
        card |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    folder = Path(folder)
    blob = save_safetensors(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    )
    text = json.dumps(card, indent=1) + "\n"
    write_atomically({folder / "cfg.json": text.encode(), folder / "sae_weights.safetensors": blob})
    return folder


def from_saelens(folder: str | Path) -> SparseAutoencoder:
    """Read a folder of SAELens (6, or the older flat cfg.json): standard, topk, jumprelu, gated."""
    folder = Path(folder)
    card, tensors = read_saelens(folder)
    kind = {"standard": "relu"}.get(card["architecture"], card["architecture"])
    needed = {"W_enc", "W_dec", "b_dec", *{"gated": ("b_gate", "r_mag", "b_mag"), "jumprelu": ("b_enc", "threshold")}
              .get(kind, ("b_enc",))}  # fmt: skip
    if missing := sorted(needed - tensors.keys()):
        raise CourseError(
            f"{folder} lacks {', '.join(missing)}: it is not a {card['architecture']} autoencoder."
        )
    cfg = SaeConfig(card["d_in"], card["d_sae"], kind, k=int(card.get("k", 0)))
    W_enc, W_dec = tensors["W_enc"], tensors["W_dec"]
    state = {"W_dec": W_dec, "_W_enc_rows": W_enc.T, "b_dec": tensors["b_dec"], "scale": torch.tensor(1.0)}
    state["b_enc"] = tensors["b_gate" if kind == "gated" else "b_enc"]
    if kind == "gated":
        state |= {"r_mag": tensors["r_mag"], "b_mag": tensors["b_mag"]}
    if kind == "jumprelu":
        state["log_threshold"] = tensors["threshold"].clamp_min(1e-30).log()  # ReLU comes before: ≤ 0 is 0
    sae = SparseAutoencoder(cfg)
    try:
        if not card.get(
            "apply_b_dec_to_input", True
        ):  # ours subtracts b_dec first: add back what that takes away
            shift = tensors["b_dec"] @ W_enc
            state["b_enc"] = state["b_enc"] + shift
            if kind == "gated":
                state["b_mag"] = state["b_mag"] + shift * state["r_mag"].exp()
        if card.get("rescale_acts_by_decoder_norm"):  # topk of f‖d‖: the norm moves into the encoder
            norm = W_dec.norm(dim=1, keepdim=True)
            state |= {
                "W_dec": W_dec / norm,
                "_W_enc_rows": W_enc.T * norm,
                "b_enc": state["b_enc"] * norm[:, 0],
            }
        sae.load_state_dict(state)
    except RuntimeError as error:
        raise CourseError(
            f"cfg.json and weights of {folder} disagree: {str(error).splitlines()[-1].strip()}"
        ) from error
    sae.card = {"saelens": card}
    return sae.eval()


def read_saelens(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """cfg.json in the shape of SAELens 6 and the tensors, as 32-bit floats; one sentence for anything else."""
    for name in ("cfg.json", "sae_weights.safetensors"):
        if not (folder / name).is_file():
            raise CourseError(f"{folder} is not an autoencoder folder of SAELens: it has no {name}.")
    try:
        card = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        tensors = load_safetensors((folder / "sae_weights.safetensors").read_bytes())
    except (ValueError, SafetensorError) as error:
        raise CourseError(f"{folder} cannot be read, truncated or of another format: {error}.") from error
    if not isinstance(card, dict) or not all(isinstance(card.get(key), int) for key in ("d_in", "d_sae")):
        raise CourseError(f"cfg.json of {folder} is not one of SAELens: it has no d_in and d_sae.")
    card.setdefault("architecture", "standard")  # before release 6
    old = card.get("activation_fn_str", card.get("activation_fn", "relu"))
    if old == "topk":
        card |= {"architecture": "topk", "k": card.get("activation_fn_kwargs", {}).get("k", card.get("k", 0))}
    known = sorted(set(ARCHITECTURES.values()))
    if card["architecture"] not in known or old not in ("relu", "topk"):
        what = card["architecture"] if card["architecture"] not in known else f"an activation {old}"
        raise CourseError(f"{folder} is of a kind this course has not: {what}.{nearest(what, known)}")
    if card.get("normalize_activations") not in (None, False, "none"):
        raise CourseError(
            f"{folder} expects activations normalised by {card['normalize_activations']!r}; fold that into its weights first."
        )
    if not bool(tensors.get("scaling_factor", torch.ones(1)).eq(1).all()):
        raise CourseError(f"{folder} carries a finetuned scaling_factor, which this course has not.")
    return card, {name: tensor.float() for name, tensor in tensors.items()}


def check_activations(x: Tensor, d_in: int) -> None:
    """One sentence for activations of the wrong width, or with holes."""
    if x.ndim != 2 or x.shape[1] != d_in or not len(x):
        raise CourseError(
            f"Activations are [sample, {d_in}], at least one sample; these are {list(x.shape)}."
        )
    if not bool(x.isfinite().all()):
        raise CourseError("The activations hold NaN or infinity: look at the model that made them.")


def keep_top(values: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
    """The k largest along the last axis, 0 elsewhere; gradients flow through what is kept."""
    top = values.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values)


class Jump(torch.autograd.Function):
    """JumpReLU (Rajamanoharan et al. 2024b): z where z > θ, else 0; its step has a gradient by a kernel of width ε."""

    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0.0)

    @staticmethod
    def backward(ctx, grad):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return torch.where(z > threshold, grad, 0.0), -(threshold * near * grad).flatten(0, -2).sum(0), None


class Step(torch.autograd.Function):
    """1 where z > θ: the term of an L0 penalty, with the same kernel for θ and no gradient for z."""

    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx, grad):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return None, -(near * grad).flatten(0, -2).sum(0), None


def geometric_median(x: Float[Tensor, "sample d_in"], steps: int = 50) -> Float[Tensor, "d_in"]:
    """The point with the least sum of distances to all samples (Weiszfeld's iteration), robust against outliers."""
    centre = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - centre).norm(dim=1).clamp_min(1e-6)
        new = (weight[:, None] * x).sum(0) / weight.sum()
        if torch.allclose(new, centre, atol=1e-6):
            break
        centre = new
    return centre


# -- the loss ------------------------------------------------------------------------------------


def loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    share: float | int = 1.0,
    dead: Bool[Tensor, "d_sae"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch d_sae"]]:
    """‖scale · (x − x̂)‖², a mean over the batch, plus what keeps f sparse; `share` of the penalty while it rises.

    relu λ Σ f_i · relu_norm λ Σ f_i ‖d_i‖ (Conerly et al. 2024) · jumprelu λ ‖f‖₀ · gated λ Σ ReLU(gate) and the error
    of the gate's own reconstruction (Rajamanoharan et al. 2024a) · topk, batchtopk the auxiliary error of `dead`
    features on what is left (Gao et al. 2024). Returns the loss and f.
    """
    cfg, pre = sae.cfg, sae.pre(x)
    f = sae.activate(pre)
    target = x * sae.scale
    error = target - (f @ sae.W_dec + sae.b_dec)
    total = error.square().sum(-1).mean()
    if cfg.kind == "relu":
        total = total + share * cfg.l1 * f.sum(-1).mean()
    elif cfg.kind == "relu_norm":
        total = total + share * cfg.l1 * (f * sae.W_dec.norm(dim=1)).sum(-1).mean()
    elif cfg.kind == "jumprelu":
        active = Step.apply(pre.relu(), sae.log_threshold.exp(), cfg.bandwidth)
        total = total + share * cfg.l1 * active.sum(-1).mean()
    elif cfg.kind == "gated":
        gate = pre.relu()
        by_gate = gate @ sae.W_dec.detach() + sae.b_dec.detach()
        total = total + share * cfg.l1 * gate.sum(-1).mean() + (target - by_gate).square().sum(-1).mean()
    elif dead is not None:
        total = total + cfg.aux * auxiliary_loss(sae, target, error.detach(), dead)
    return total, f


def auxiliary_loss(
    sae: SparseAutoencoder,
    target: Float[Tensor, "batch d_in"],
    error: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, "d_sae"],
) -> Float[Tensor, ""]:
    """How well the dead features' largest pre-activations explain the error: a gradient for what gets none."""
    which = dead.nonzero()[:, 0]
    if not len(which) or not sae.cfg.aux:
        return error.new_zeros(())
    pre = (target - sae.b_dec) @ sae.W_enc[:, which] + sae.b_enc[which]
    revived = keep_top(pre.relu(), min(len(which), max(1, sae.cfg.d_in // 2)))
    return (error - revived @ sae.W_dec[which]).square().sum(-1).mean()


def fast_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    share: float | int,
    dead: Bool[Tensor, "d_sae"],
    work: sae_step.Work,
) -> tuple[Float[Tensor, ""], Bool[Tensor, "d_sae"]]:
    """`loss` of a relu, relu_norm or topk autoencoder by the step of `sae_step`; returns it and who was active."""
    cfg, target = sae.cfg, sae.scaled(x)
    weights = (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec)
    if cfg.kind == "topk":
        total, error, active = sae_step.TopK.apply(target, *weights, cfg.k, work)
        return total + cfg.aux * auxiliary_loss(sae, target, error, dead), active
    lengths = sae.W_dec.norm(dim=1) if cfg.kind == "relu_norm" else torch.ones_like(sae.b_enc)
    return sae_step.ReluL1.apply(target, *weights, share * cfg.l1 * lengths, work)


def projected(
    grad: Float[Tensor, "d_sae d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """The gradient without each row's part along that decoder row, which would only change its length."""
    product = grad * W_dec
    return torch.addcmul(grad, product.sum(1, keepdim=True), W_dec, value=-1, out=product)


# -- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SaeTraining:
    """How to train an autoencoder."""

    steps: int
    batch: int = 512  # small: at equal samples the number of Adam steps decides
    lr: float = 1e-3
    warmup: int = 100  # steps
    decay_share: float = 0.2  # of the steps, at the end
    penalty_warmup: float = 0.2  # share of the steps over which the penalty rises to its value
    dead_after: int = 100_000  # inputs without activity until a feature counts as dead
    resample_at: tuple[float, ...] = ()  # shares of the run at which dead features are reset
    seed: int = 0


class Upkeep:
    """What happens around each step: counts who is alive, keeps the decoder at unit length, resamples the dead.

    The count and the step are buffers of the autoencoder while it is trained, so that a checkpoint holds them.
    """

    def __init__(self, sae: SparseAutoencoder, config: SaeTraining, pool=None, fast: bool = True):
        self.config, self.pool, self.sae, self.hooks = config, pool, sae, []
        sae.register_buffer(
            "silent", torch.zeros_like(sae.b_enc, dtype=torch.long)
        )  # inputs since last active
        sae.register_buffer("step", torch.tensor(0))
        self.resample_at = (
            {round(at * config.steps) for at in config.resample_at} if pool is not None else set()
        )
        fast = fast and sae.cfg.kind in sae_step.KINDS and sae.W_dec.device.type == "cpu"
        self.work = sae_step.Work.for_size(sae.W_dec.numel()) if fast else None
        if sae.cfg.kind in UNIT_DECODER:
            self.hooks.append(sae.W_dec.register_hook(lambda grad: projected(grad, sae.W_dec.detach())))
        self.hooks += [
            p.register_post_accumulate_grad_hook(processes.average_gradient_) for p in sae.parameters()
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

    def loss(self, sae: SparseAutoencoder, x: Tensor) -> Tensor:
        """The loss at this step; also counts for how long each feature has been silent."""
        everything, x = len(x), processes.share_of(x)
        if self.work is not None:
            total, active = fast_loss(sae, x, self.share, self.dead, self.work)
        else:
            total, f = loss(sae, x, self.share, self.dead)
            active = (f.detach() > 0).any(0)
            if sae.cfg.kind == "batchtopk":
                sae.follow_threshold_(f.detach())
        if not bool(total.isfinite()):
            check_activations(x, sae.cfg.d_in)  # is it the input's fault?
        self.part = x[:512]
        sae.silent = torch.where(processes.anywhere(active), 0, sae.silent + everything)
        return processes.mean_value(total)

    def after(self, sae: SparseAutoencoder, step: int, optimizers: list) -> dict:
        """Unit length, resampling at its steps, and what the bar and the history are to say."""
        sae.normalise_()
        sae.step.fill_(step + 1)
        if step + 1 in self.resample_at:
            dead = self.dead
            resample_(sae, dead, self.pool(), optimizers, seed=self.config.seed + step + 1)
            sae.silent[dead] = 0
            return {"resampled": int(dead.sum())}
        if int(sae.silent.min()) >= ALL_DEAD * self.config.batch and step + 1 > max(
            self.resample_at, default=0
        ):
            raise CourseError(
                f"Every feature has died: none was active in {ALL_DEAD} steps up to step {step + 1}. "
                f"Try a tenth of the penalty, l1 = {sae.cfg.l1:g}."
            )
        return self.measures(sae) if step % 20 == 0 else {}

    @torch.no_grad()
    def measures(self, sae: SparseAutoencoder) -> dict:
        """L0 and FVU on a part of the batch, and the share of features that count as dead."""
        f = sae.encode(self.part)
        return {"L0": l0(f), "FVU": fvu(self.part, sae.decode(f)), "dead": float(self.dead.float().mean())}


def train(
    sae: SparseAutoencoder,
    sample: Callable[[int], Tensor],
    config: SaeTraining,
    *,
    pool: Callable[[], Tensor] | None = None,
    fast: bool = True,
    **options,
) -> History:
    """Train in place on `sample(step)` [batch d_in] through `training.fit`; `pool()` gives inputs to resample from.

    `fast` takes the step of `sae_step` where the kind has one, and bfloat16 products where they are faster.
    The history notes L0, FVU and dead share every 20 steps, and how many features were resampled.
    """
    upkeep = Upkeep(sae, config, pool, fast)
    schedule = TrainConfig(
        config.steps,
        config.lr,
        betas=(0.9, 0.999),
        warmup=config.warmup,
        decay_share=config.decay_share,
        seed=config.seed,
    )
    try:
        sae.train()
        return fit(
            sae, sample, schedule, loss=upkeep.loss, after_step=upkeep.after, **{"progress": False} | options
        )
    finally:
        upkeep.end()
        sae.eval()


@torch.no_grad()
def resample_(
    sae: SparseAutoencoder,
    dead: Bool[Tensor, "d_sae"],
    x: Float[Tensor, "sample d_in"],
    optimizers: Collection[torch.optim.Optimizer] = (),
    seed: int = 0,
) -> Int[Tensor, "dead"]:
    """Give each dead feature an input the dictionary explains badly, drawn in proportion to its squared loss.

    Decoder row: the input less b_dec, at length 1. Encoder column: the same direction at 0.2 of the mean length of
    the living ones. Bias 0, and Adam forgets these entries. Returns which inputs were taken.
    """
    n = int(dead.sum())
    if not n:
        return torch.empty(0, dtype=torch.long)
    squared = (sae.scale * (x - sae(x))).square().sum(-1).square()  # loss²
    picked = torch.multinomial(squared.cpu(), n, replacement=n > len(x), generator=generator(seed))
    direction = x[picked] * sae.scale - sae.b_dec
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-8)
    alive = sae.W_enc[:, ~dead].norm(dim=0).mean() if bool((~dead).any()) else torch.tensor(1.0)
    sae.W_dec[dead] = direction
    if not sae.cfg.tied:
        sae._W_enc_rows[dead] = 0.2 * alive * direction
    sae.b_enc[dead] = 0.0
    for optimizer in optimizers:
        for p in (p for p in sae.parameters() if p is not sae.b_dec):
            for slot in optimizer.state.get(p, {}).values():
                if isinstance(slot, Tensor) and slot.shape == p.shape:
                    slot[dead] = 0.0
    return picked


# -- measures: one definition each ---------------------------------------------------------------


@torch.no_grad()
def fvu(x: Float[Tensor, "sample d_in"], x_hat: Float[Tensor, "sample d_in"]) -> float:
    """Fraction of variance unexplained, E‖x − x̂‖² / E‖x − E x‖²: 0 is perfect, 1 is no better than the mean."""
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@torch.no_grad()
def l0(f: Float[Tensor, "sample d_sae"]) -> float:
    """The mean number of active features an input."""
    return float((f > 0).float().sum(-1).mean())


@torch.no_grad()
def density(f: Float[Tensor, "sample d_sae"]) -> Float[Tensor, "d_sae"]:
    """The share of inputs on which each feature is active; 0 is dead, below 1e-6 ultralow (on enough inputs)."""
    return (f > 0).float().mean(0)


@torch.no_grad()
def dead_share(f: Float[Tensor, "sample d_sae"]) -> float:
    """The share of features that were never active."""
    return float((density(f) == 0).float().mean())


def loss_recovered(loss: float, spliced: float, baseline: float) -> float:
    """(L_baseline − L_spliced) / (L_baseline − L): 1 is nothing lost, 0 no better than the ablation named by the baseline.

    Zero ablation is the paper's baseline and, as its authors say, an overestimate; always print mean and resample
    ablation beside it.
    """
    if baseline == loss:
        raise CourseError("The ablation changes nothing: there is no loss to recover.")
    return (baseline - spliced) / (baseline - loss)


def splice(sae: SparseAutoencoder, edit: Callable[[Tensor], Tensor] | None = None, keep_error: bool = False):
    """A hook that puts x̂ in the place of x; `edit(f)` may change the features first.

    With `keep_error` what the autoencoder misses, x − x̂, is added back, so that without an edit nothing changes.
    """

    def hook(x, hook=None):
        f = sae.encode(x)
        x_hat = sae.decode(f if edit is None else edit(f))
        return x_hat + (x - sae.decode(f)) if keep_error else x_hat

    return hook
