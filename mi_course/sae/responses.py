"""What a feature responds to and what it does: correlations with a proxy, logit weights, ablation, a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.corpora import scripts
from mi_course.corpora.corpus import Corpus, generator
from mi_course.errors import CourseError
from mi_course.models import TinyTransformer
from mi_course.sae.dictionary import Dictionary, SparseAutoencoder, checked_autoencoder

HOOK = "blocks.0.mlp.hook_post"

# -- measures ------------------------------------------------------------------------------------


def proxy_correlation(
    f: Float[Tensor, "*sample d_sae"], proxy: Bool[Tensor, "*sample"]
) -> Float[Tensor, "d_sae"]:
    """Pearson's r of each feature with a yes-or-no proxy; 0 for features, or a proxy, that never change.

    `f` are the features' activations.
    """
    f, proxy = f.reshape(-1, f.shape[-1]), proxy.flatten()
    return correlations(f, proxy[:, None])[:, 0]


def correlations(
    a: Float[Tensor, "*rows n"], b: Float[Tensor, "*others m"] | Bool[Tensor, "*others m"], chunk: int = 16384
) -> Float[Tensor, "n m"]:
    """Pearson's r of every column of `a` with every column of `b`, in pieces of `chunk` rows; 0 where one is constant."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    if len(a) != len(b) or len(a) < 2:
        raise CourseError(
            f"A correlation needs the same two or more samples: here are {len(a)} and {len(b)}."
        )
    product = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64)
    sums = [torch.zeros(2, t.shape[1], dtype=torch.float64) for t in (a, b)]
    for pair in zip(a.split(chunk), b.split(chunk), strict=True):
        pair = [t.float() for t in pair]
        product += pair[0].T @ pair[1]
        for total, t in zip(sums, pair, strict=True):
            total += torch.stack([t.sum(0), torch.linalg.vector_norm(t, dim=0).square()])
    (mean_a, spread_a), (mean_b, spread_b) = (mean_and_spread(total / len(a)) for total in sums)
    return ((product / len(a) - torch.outer(mean_a, mean_b)) / torch.outer(spread_a, spread_b)).float()


def mean_and_spread(moments: Float[Tensor, "2 n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Mean and standard deviation from `moments`, E x and E x²; a constant has an infinite one, to correlate with nothing."""
    mean, square = moments
    variance = square - mean.square()
    return mean, torch.where(variance > 1e-6 * square, variance.clamp_min(0).sqrt(), torch.inf)


def from_rare_to_frequent(density: Float[Tensor, "d_sae"], n: int, least: float | int = 0) -> list[int]:
    """Numbers of `n` features, evenly spaced from the rarest to the most frequent: a choice that looks at nothing else.

    Args:
        density: share of inputs on which each feature is active.
        n: how many; fewer where fewer are alive.
        least: leave out features whose density is not above 0, or below this.
    """
    alive = ((density > 0) & (density >= least)).nonzero()[:, 0]
    if not len(alive) or n < 1:
        raise CourseError(
            f"There are {len(alive)} features to choose {n} from: at least one of each is needed."
        )
    ranked, n = alive[density[alive].argsort()], min(n, len(alive))
    return ranked[[len(ranked) * k // n for k in range(n)]].tolist()


def best_match(
    f_a: Float[Tensor, "*sample n"], f_b: Float[Tensor, "*sample m"]
) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """For each feature of a dictionary the best correlated one of another, on the same tokens: r and its number.

    `f_a` and `f_b` are the activations of the one and the other.
    """
    return tuple(correlations(f_a, f_b).max(dim=1))


def enrichment(f: Float[Tensor, "*sample"], proxy: Bool[Tensor, "*sample"]) -> float:
    """P(concept | f > 0) / P(concept): 1 is chance. 0 for a feature that is never active.

    `f` are one feature's activations; `proxy` says where the concept is.
    """
    if not bool(proxy.any()):
        raise CourseError("The concept does not occur in these tokens: nothing can be enriched.")
    return float(proxy[f > 0].float().mean() / proxy.float().mean()) if bool((f > 0).any()) else 0.0


def intervals(
    f: Float[Tensor, "*sample"], n: int = 5, each: int = 3, seed: int = 0
) -> list[Int[Tensor, "example"]]:
    """Up to `each` samples, at random, from each of n equal intervals of (0, max f], the strongest interval first.

    Top examples alone flatter a feature: most of its activity is weak (Bolukbasi et al. 2021). `f` are one feature's
    activations; `seed` draws the samples.
    """
    f = f.flatten() if f.dtype == torch.float64 else f.flatten().float()
    rng, top = generator(seed), f.max()
    level = torch.where(f > 0, (f / top * n).ceil().clamp(1, n), 0)
    members = (
        [(level == step).nonzero()[:, 0] for step in range(n, 0, -1)] if top > 0 else [f.nonzero()[:0, 0]] * n
    )
    return [m[torch.randperm(len(m), generator=rng)[:each]] for m in members]


def hook_of(sae: Dictionary) -> str:
    """Which activations the autoencoder `sae` reads: what its card says, else the neurons of the first layer."""
    return sae.card.get("hook", HOOK)


def logit_weights(sae: Dictionary, model: TinyTransformer) -> Float[Tensor, "d_sae d_vocab"]:
    """What a unit of each feature adds to each logit by the direct path, W_dec · W_out · (norm's gain) · W_U.

    The final norm also divides by the stream's size, a positive number that differs from token to token. `sae` is a
    dictionary of activations of `model`.
    """
    layer, kind = hook_of(sae).removeprefix("blocks.").split(".", 1)
    rows = checked_autoencoder(sae).directions().detach()
    if kind == "mlp.hook_post":
        rows = rows @ model.blocks[int(layer)].mlp.W_out.detach()
    elif kind not in ("hook_mlp_out", "hook_attn_out", "hook_resid_mid", "hook_resid_post", "hook_resid_pre"):
        raise CourseError(f"There is no direct path from {hook_of(sae)} to the logits.")
    gain = getattr(getattr(model, "ln_final", None), "w", None)
    return (rows if gain is None else rows * gain.detach()) @ model.W_U.detach()


@torch.no_grad()
def ablation_effect(
    sae: Dictionary, model: TinyTransformer, tokens: Int[Tensor, "window pos"], feature: int
) -> Float[Tensor, "window pos-1"]:
    """Rise of each next token's loss, in nats, when one feature's part f_i d_i is taken out of x everywhere.

    What the autoencoder misses stays in. Entry p belongs to the prediction made at position p. `tokens` are windows
    of text that `model` reads, `feature` is a number of `sae`.
    """

    direction = checked_autoencoder(sae).directions(checked_feature(sae, feature))

    def remove(x, hook=None):
        return (x - sae.encode(x)[..., feature, None] * direction).to(x.dtype)

    loss = lambda hooks: model.run_with_hooks(
        tokens, fwd_hooks=hooks, return_type="loss", loss_per_token=True
    )
    return loss([(hook_of(sae), remove)]) - loss([])


# -- a recording ---------------------------------------------------------------------------------


@runtime_checkable
class Spelling(Protocol):
    """What a page needs of the place its text comes from: a `Corpus`, or whatever has this much."""

    name: str

    def spelt(self, tokens: Any) -> list[str]:
        """How each of `tokens` is spelt."""


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """Chosen features on fixed windows: computed once, for many pages.

    Args:
        sae: the autoencoder.
        model: whose activations it reads.
        corpus: where the windows come from.
        tokens: the windows.
        script: of each token, where the corpus knows it.
        features: the numbers of the chosen ones.
        f: their activations, window by window.
        density: the share of tokens on which each feature is active, of all features.
        neurons: the chosen features' correlation with each activation of the layer.
        proxies: their correlation with each script, where the corpus knows scripts.
    """

    sae: SparseAutoencoder
    model: TinyTransformer
    corpus: Spelling
    tokens: Int[Tensor, "window pos"]
    script: Int[Tensor, "window pos"] | None  # of each token, where the corpus knows
    features: tuple[int, ...]  # which
    f: Float[Tensor, "sample feature"]  # their activations, window by window
    density: Float[Tensor, "d_sae"]  # of all features
    neurons: Float[Tensor, "feature d_in"]  # correlation with each activation of the layer
    proxies: Float[Tensor, "feature script"] | None  # correlation with each script

    def __repr__(self) -> str:
        return f"{len(self.features)} features on {self.tokens.numel():,} tokens of {self.corpus.name}"

    def column(self, feature: int) -> int:
        """Where a feature stands in f."""
        if feature not in self.features:
            raise CourseError(f"Feature {feature} was not recorded: name it in record(…, features=[…]).")
        return self.features.index(feature)


def checked_feature(sae: SparseAutoencoder, feature: object) -> int:
    """The number `feature` itself, if `sae` has it, or one sentence."""
    if not isinstance(feature, int) or not 0 <= feature < sae.cfg.d_sae:
        raise CourseError(f"There is no feature {feature!r}: they are numbered 0…{sae.cfg.d_sae - 1}.")
    return feature


@torch.no_grad()
def record(
    sae: SparseAutoencoder,
    model: TinyTransformer,
    corpus: Corpus,
    features: Sequence[int] | None = None,
    *,
    windows: int = 512,
    split: str = "held_out",
    seed: int = 0,
) -> Recording:
    """Run `model` on `windows` that do not overlap and keep what `features` (default: all) do there.

    `sae` reads its activations; the windows come from one `split` of `corpus`, "train" or "held_out", and are drawn
    by `seed`.
    """
    chosen = tuple(checked_feature(sae, i) for i in (range(sae.cfg.d_sae) if features is None else features))
    stream, n_ctx = corpus.stream(split), model.cfg.n_ctx
    blocks = torch.randperm(len(stream) // n_ctx, generator=generator(seed))[:windows].sort().values
    if not len(blocks) or not chosen:
        raise CourseError("A recording needs a feature and text for at least one window.")
    where = blocks[:, None] * n_ctx + torch.arange(n_ctx)
    tokens = stream[where].long()
    script = corpus.script(split)[where] if hasattr(corpus, "script") else None
    kept, total, x = [], torch.zeros(sae.cfg.d_sae), []
    for part in tokens.split(64):
        _, cache = model.run_with_cache(
            part, return_type=None, names_filter=lambda name: name == hook_of(sae)
        )
        x.append(cache[hook_of(sae)].flatten(0, 1))
        f = sae.encode(x[-1])
        kept.append(f[:, list(chosen)])
        total += (f > 0).sum(0)
    f, x = torch.cat(kept), torch.cat(x)
    proxies = None
    if script is not None:
        proxies = correlations(f, script.flatten()[:, None] == torch.arange(len(scripts.SCRIPTS)))
    return Recording(
        sae, model, corpus, tokens, script, chosen, f, total / len(f), correlations(f, x), proxies
    )
