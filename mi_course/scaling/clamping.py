"""Clamping: fix one feature, decode, add the untouched error, and let the model go on from there.

With f_i the feature, d_i its decoder row and v the value that it is given, decoding and adding the error x − x̂ back gives

    x' = x̂(f with f_i = v) + (x − x̂(f)) = x + (v − f_i) d_i / scale

so nothing that the dictionary misses is lost, and no clamp changes nothing. Derived in notebook 07, from Templeton et al.
(2024).

>>> import torch
>>> from mi_course import sae, scaling
>>> dictionary = sae.SparseAutoencoder(sae.SaeConfig(8, 16)).requires_grad_(False)
>>> x = torch.randn(3, 8)
>>> f = dictionary.encode(x)
>>> bool(torch.allclose(scaling.clamped(dictionary, x, 2, f[:, 2]), x, atol=1e-6))
True
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.activations import activations
from mi_course.errors import CourseError
from mi_course.models import next_token_loss
from mi_course.patching.forward import Forward
from mi_course.patching.layout import Layout
from mi_course.sae import Dictionary, checked_autoencoder, checked_feature
from mi_course.scaling.reading import huge

UNKNOWN = (NotImplementedError, AttributeError, KeyError, TypeError)
NOT_REBUILT = (
    "This architecture's forward pass is not rebuilt exactly, so the model cannot go on from a stream here: clamp in a hook "
    "(`clamped`) instead."
)


def clamped(
    sae: Dictionary,
    x: Float[Tensor, "*batch d"],
    feature: int,
    value: float | int | Tensor,
    limit: float | int = torch.inf,
) -> Float[Tensor, "*batch d"]:
    """The stream with one feature set to a value and the error term kept; rows longer than `limit` are left alone.

    Args:
        sae: the dictionary.
        x: the stream.
        feature: its number.
        value: what the feature becomes, in the dictionary's own units; one number, or one for each row.
        limit: of a row's length.
    """
    row = checked_autoencoder(sae).directions(checked_feature(sae, feature))
    change = (value - sae.encode(x)[..., feature])[..., None] * row
    return torch.where(huge(x, limit)[..., None], x, x + change)


def replaced(
    sae: Dictionary, x: Float[Tensor, "*batch d"], limit: float | int = torch.inf
) -> Float[Tensor, "*batch d"]:
    """x̂ in the place of x, the error term lost; rows longer than `limit` are left alone.

    Args:
        sae: the dictionary.
        x: the stream.
        limit: of a row's length.
    """
    return torch.where(huge(x, limit)[..., None], x, checked_autoencoder(sae)(x))


class Rest:
    """A model from one layer on, as a function of the stream that enters it; differentiable.

    Args:
        model: a `TinyTransformer` or a raw `TransformerBridge`.
        layer: the block that is the first of the rest.
    """

    def __init__(self, model, layer: int):
        try:
            self.forward = Forward(model)
        except UNKNOWN as error:
            raise CourseError(NOT_REBUILT) from error
        self.layer, self.model, self.compared = layer, model, 0
        if not 0 <= layer < self.forward.n_layers:
            raise CourseError(f"There is no block {layer}: the model has 0 … {self.forward.n_layers - 1}.")

    @torch.no_grad()
    def stream(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """What enters the layer when the model reads `tokens`; the rest is compared with the model on the first of them."""
        hook = f"blocks.{self.layer}.hook_resid_pre"
        x = activations(self.model, hook, tokens, torch.float32).view(*tokens.shape, -1)
        if tokens.shape[1] > self.compared:
            self.compare(tokens[:1], x[:1])
        return x

    def compare(self, tokens: Int[Tensor, "1 pos"], x: Float[Tensor, "1 pos d_model"]) -> None:
        """A sentence where the rest does not make of `x` what the model makes of `tokens`."""
        whole = self.model(tokens).float()
        try:
            same = torch.allclose(self(x), whole, atol=1e-3 * float(whole.abs().max()), rtol=1e-3)
        except UNKNOWN as error:
            raise CourseError(NOT_REBUILT) from error
        if not same:
            raise CourseError(NOT_REBUILT)
        self.compared = tokens.shape[1]

    def __call__(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits when the stream `x` enters the layer."""
        forward, layout = self.forward, Layout.of(torch.zeros(x.shape[:2], dtype=torch.long))
        ids, hidden = layout.ids, layout.hidden(x.shape[1])
        for i in range(self.layer, forward.n_layers):
            q, k, v = forward.project(i, x, ids)
            q, k = forward.turned(i, q, k, ids)
            out = forward.write(i, forward.mix(forward.scores(i, q, k, hidden).softmax(-1), v))
            mid = x if forward.parallel else x + out
            wrote = forward.mlp_write(i, forward.neurons(i, mid)) if forward.has_mlp else 0
            x = (x + out if forward.parallel else mid) + wrote
        return forward.readout(x)


def mass(
    logits: Float[Tensor, "batch pos d_vocab"], words: Int[Tensor, "word"], first: int = 1
) -> Float[Tensor, "batch"]:
    """The log of the probability that the next token is one of `words`: of the mean over positions, one number a text.

    Args:
        logits: of the model.
        words: token numbers.
        first: the first position that counts.
    """
    p = logits[:, first:].log_softmax(-1)[..., words].logsumexp(-1)
    return p.logsumexp(1) - torch.tensor(float(p.shape[1])).log()


def next_loss(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], first: int = 1
) -> float:
    """The mean loss on the next token, in nats, from position `first` on.

    Args:
        logits: of the model.
        tokens: what it read.
        first: the first position that counts.
    """
    return float(next_token_loss(logits[:, first:], tokens[:, first:]))


def first_order(
    rest: Rest,
    sae: Dictionary,
    x: Float[Tensor, "batch pos d_model"],
    score,
    top: Float[Tensor, "d_sae"],
    limit: float | int = torch.inf,
) -> Float[Tensor, "d_sae"]:
    """For each feature, how much a score would rise if the feature's maximum were added everywhere, to first order.

    One gradient of the score with respect to the stream serves all features: the sum over positions of ∂score/∂x · d_i,
    times the feature's maximum.

    Args:
        rest: the model from the layer on.
        sae: the dictionary.
        x: the stream on some texts.
        score: logits → one number.
        top: each feature's maximum.
        limit: rows longer than this are not added to.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        slope = torch.autograd.grad(score(rest(leaf)), leaf)[0]
    total = torch.where(huge(x, limit)[..., None], 0.0, slope).flatten(0, -2).sum(0)
    return checked_autoencoder(sae).directions().detach() @ total * top


def doses(
    rest: Rest,
    sae: Dictionary,
    x: Float[Tensor, "batch pos d_model"],
    tokens: Int[Tensor, "batch pos"],
    words: Int[Tensor, "word"],
    feature: int,
    values: Sequence[float],
    limit: float | int = torch.inf,
    base: Float[Tensor, "batch pos d_vocab"] | None = None,
) -> list[tuple[float, float]]:
    """For each value of a clamp: by what factor the topic's probability grows, and by how many nats the loss.

    The factor is a geometric mean over texts.

    Args:
        rest: the model from the layer on.
        sae: the dictionary.
        x: the stream on the texts.
        tokens: of the texts.
        words: the topic's tokens.
        feature: the one that is clamped.
        values: what it becomes, in the dictionary's units.
        limit: rows longer than this are left alone.
        base: the logits without a clamp, where they are known.
    """
    with torch.no_grad():
        base = rest(x) if base is None else base
        before, loss = mass(base, words), next_loss(base, tokens)
        found = []
        for value in values:
            logits = rest(clamped(sae, x, feature, value, limit))
            factor = float((mass(logits, words) - before).mean().exp())
            found.append((factor, next_loss(logits, tokens) - loss))
    return found
