"""Direct logit attribution: what each part writes into the last stream, read by the final norm and the unembedding.

The one definition of the course. Derived in notebook 08; Elhage et al. (2021), Wang et al. (2022, §3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.patching.forward import Forward
from mi_course.patching.question import Question
from mi_course.patching.runs import Run


@dataclass(frozen=True, eq=False)
class DirectAttribution:
    """What each part adds to the logit difference of every prompt, with the final norm's scale held at the run's.

    Args:
        heads: of each head.
        mlps: of each MLP; no layers where there are none.
        embed: of what entered block 0.
        rest: of biases, the final norm's and the unembedding's included.
    """

    heads: Float[Tensor, "layer head batch"]
    mlps: Float[Tensor, "mlp batch"]
    embed: Float[Tensor, "batch"]
    rest: Float[Tensor, "batch"]

    @property
    def total(self) -> Float[Tensor, "batch"]:
        """All parts together: the logit difference itself."""
        return self.heads.sum((0, 1)) + self.mlps.sum(0) + self.embed + self.rest


@torch.no_grad()
def direct_attribution(run: Run, right, wrong, pos=-1, *, scale_of: Run | None = None) -> DirectAttribution:
    """The logit difference as a sum over parts, (w / scale) · (W_U[right] − W_U[wrong]) for each write w.

    The final norm divides by a number that all parts make together; it is *frozen* at what it was in this run (or in
    `scale_of`), and then every part adds its own. So the sum is exact, and yet no part's number says what its removal
    would do: without it the scale is another, and later parts read another stream. Derived in notebook 08.

    Args:
        run: a recorded run of a model whose forward is rebuilt.
        right: one token id a prompt.
        wrong: one token id a prompt.
        pos: where the answer is read.
        scale_of: another run, whose final norm is held instead.
    """
    forward = run.engine
    if not isinstance(forward, Forward):
        raise CourseError("Direct attribution needs a plain pre-norm transformer (GPT-2's kind).")
    if run.made:
        raise CourseError(f"This is a {run.made} run, which no forward gave: its parts make no logits.")
    asked = Question(run, forward.cfg.d_vocab, right, wrong, pos, "logit_diff")
    rows, at = torch.arange(asked.n_batch, device=asked.device), asked.pos
    final = (scale_of or run).acts["resid_post", forward.n_layers - 1][rows, at]
    direction = forward.W_U.T[asked.right] - forward.W_U.T[asked.wrong]  # batch d_model
    reader = frozen_reader(forward, final, direction)
    read = lambda x: (x * reader).sum(-1)  # noqa: E731
    heads = [
        read(forward.head_writes(i, run.acts["z", i][rows, at][:, None])[:, 0].transpose(0, 1))
        for i in range(forward.n_layers)
    ]
    mlps, bias = final.new_zeros(0, asked.n_batch), torch.zeros_like(final)
    for layer in forward.layers:
        bias = bias if layer.b_O is None else bias + layer.b_O
    if forward.has_mlp:
        mlps = torch.stack([read(run.acts["mlp_out", i][rows, at]) for i in range(forward.n_layers)])
    embed = read(run.acts["resid_pre", 0][rows, at])
    return DirectAttribution(torch.stack(heads), mlps, embed, read(bias) + constant(forward, asked))


def frozen_reader(
    forward: Forward, final: Float[Tensor, "batch d_model"], direction: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "batch d_model"]:
    """The vector whose dot product with a write is its logit, the norm of `final` held."""
    kind, norm = forward.cfg.normalization_type, getattr(forward.model, "ln_final", None)
    if kind is None:
        return direction
    weighted = direction * norm.w.detach()
    if kind == "RMS":
        return weighted * (final.square().mean(-1, keepdim=True) + forward.cfg.eps).rsqrt()
    spread = (final.var(-1, unbiased=False, keepdim=True) + forward.cfg.eps).rsqrt()
    return (weighted - weighted.mean(-1, keepdim=True)) * spread  # a write is centred, too


def constant(forward: Forward, asked: Question) -> Float[Tensor, "batch"]:
    """What the final norm's bias and the unembedding's add, whatever the stream says."""
    none = torch.zeros(asked.n_batch, dtype=forward.W_U.dtype, device=asked.device)
    if forward.cfg.normalization_type == "LN":
        shift = forward.model.ln_final.b.detach() @ forward.W_U
        none = none + shift[asked.right] - shift[asked.wrong]
    return none if forward.b_U is None else none + forward.b_U[asked.right] - forward.b_U[asked.wrong]
