"""The network that groks, and the same network computed exactly at a quarter of the cost.

The answer is read at "=", the third token, and nowhere else. There the query is the same for every pair, and what a
head scores and copies depends on one number alone: two tables with a row for each of the p numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.models import TinyConfig, TinyTransformer


class Weights(NamedTuple):
    """The weights of one layer, in TransformerLens' names and shapes; of many networks, with one leading axis.

    Args:
        W_E: what each number, and "=", is in the stream.
        W_pos: what is added at each of the three places.
        W_Q: queries.
        W_K: keys.
        W_V: values.
        W_O: what a head writes.
        W_in: what each neuron reads.
        W_out: what each neuron writes.
        W_U: the logit of each number; the last column, that of "=", is not used.
    """

    W_E: Tensor  # p+1 d_model
    W_pos: Tensor  # 3 d_model
    W_Q: Tensor  # head d_model d_head
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor  # head d_head d_model
    W_in: Tensor  # d_model d_mlp
    W_out: Tensor  # d_mlp d_model
    W_U: Tensor  # d_model p+1

    @property
    def p(self) -> int:
        """The modulus: there is one token more, "="."""
        return self.W_E.shape[-2] - 1

    @property
    def W_L(self) -> Float[Tensor, "*runs neuron p"]:
        """W_out W_U: what a neuron adds to the logit of each number (the paper's neuron-logit map)."""
        return self.W_out @ self.W_U[..., : self.p]

    def of(self, run: int) -> Weights:
        """Those of one network of many: number `run` along the leading axis."""
        return Weights(*(W[run] for W in self))

    @property
    def norm(self) -> Float[Tensor, "*runs"]:
        """The sum of the squares of all weights, the paper's weight norm."""
        runs = self.W_E.ndim - 2
        return sum(W.detach().square().flatten(runs).sum(-1) for W in self)


def network(
    p: int = 113, seed: int = 0, *, d_model: int = 128, n_heads: int = 4, d_mlp: int = 512
) -> TinyTransformer:
    """The paper's network: one layer with ReLU neurons, learned positions, no norm, no tied weights.

    No biases: at "=" the stream is a constant plus what the heads bring, and the constant does their work. All
    weights start at standard deviation 1/√d_model.

    Args:
        p: the modulus; token p is "=".
        seed: of the starting weights.
        d_model: width of the stream.
        n_heads: heads of the layer.
        d_mlp: neurons.
    """
    shape = {"n_layers": 1, "n_heads": n_heads, "d_model": d_model, "d_mlp": d_mlp}
    model = TinyTransformer(TinyConfig(**shape, d_vocab=p + 1, n_ctx=3, positions="learned", seed=seed))
    draw = generator(seed, 92)
    with torch.no_grad():
        for W in model.parameters():
            W.copy_(torch.randn(W.shape, generator=draw) * d_model**-0.5)
    return model


def weights_of(model: TinyTransformer) -> Weights:
    """The weights of a one-layer network `model`, not copied."""
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    return Weights(
        model.W_E, model.W_pos, attn.W_Q, attn.W_K, attn.W_V, attn.W_O, mlp.W_in, mlp.W_out, model.W_U
    )


def model_of(weights: Weights) -> TinyTransformer:
    """A network with copies of these `weights`, open at every hook."""
    n_heads, d_model, _ = weights.W_Q.shape
    model = network(weights.p, d_model=d_model, n_heads=n_heads, d_mlp=weights.W_in.shape[-1])
    with torch.no_grad():
        for ours, given in zip(weights_of(model), weights, strict=True):
            ours.copy_(given)
    return model.eval()


def head_tables(weights: Weights) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Scores and values of the three tokens as "=" sees them.

    The scores of a [… p head], of b [… p head], of "=" [… 1 head]; the values [… p head d_head] likewise. The score of
    a number is x · u with u = W_K W_Q^T x_= / √d_head, one vector a head.

    Args:
        weights: of one network or of many.
    """
    E, pos, W_Q, W_K, W_V, *_ = weights
    p, d_head = weights.p, W_Q.shape[-1]
    first, second = E[..., :p, :] + pos[..., :1, :], E[..., :p, :] + pos[..., 1:2, :]
    last = E[..., p:, :] + pos[..., 2:3, :]  # … 1 d_model
    query = torch.einsum("...qd,...hde->...he", last, W_Q)
    u = torch.einsum("...he,...hde->...dh", query, W_K) * d_head**-0.5
    V = W_V.transpose(-3, -2).flatten(-2)  # … d_model head·d_head
    shape = W_V.shape[-3], d_head
    tokens = first, second, last
    return tuple(x @ u for x in tokens), tuple((x @ V).unflatten(-1, shape) for x in tokens)


def neurons(weights: Weights, pairs: Int[Tensor, "pair 2"]) -> tuple[Tensor, Tensor]:
    """The stream before the neurons [… pair d_model] and the neurons' activations [… pair neuron], at "=".

    Args:
        weights: of one network or of many.
        pairs: numbers a and b of each.
    """
    a, b = pairs.unbind(-1)
    (score_a, score_b, score_eq), (value_a, value_b, value_eq) = head_tables(weights)
    score_a, score_b = score_a[..., a, :], score_b[..., b, :]
    pattern = torch.stack([score_a, score_b, score_eq.expand_as(score_a)], dim=-1).softmax(-1)
    z = pattern[..., :1] * value_a[..., a, :, :] + pattern[..., 1:2] * value_b[..., b, :, :]
    z = z + pattern[..., 2:] * value_eq  # … pair head d_head
    resid_mid = weights.W_E[..., weights.p :, :] + weights.W_pos[..., 2:3, :]
    resid_mid = resid_mid + z.flatten(-2) @ weights.W_O.flatten(-3, -2)
    return resid_mid, (resid_mid @ weights.W_in).relu()


def logits_of(weights: Weights, pairs: Int[Tensor, "pair 2"]) -> Float[Tensor, "*runs pair p"]:
    """The logits of the p numbers at "=" for each of `pairs`: equal to the model's own, up to rounding.

    Neurons act through W_L = W_out W_U, one product of small matrices. A quarter of the model's time, since nothing
    is computed at a and at b, where nobody reads. Derived in notebook 09.

    Args:
        weights: of one network, or of many, all of which read the same pairs.
        pairs: numbers a and b of each.
    """
    resid_mid, post = neurons(weights, pairs)
    return resid_mid @ weights.W_U[..., : weights.p] + post @ weights.W_L
