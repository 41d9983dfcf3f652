"""The Jacobian lens: the average derivative of the last stream with respect to an earlier one.

    J_l = mean over prompts and source positions t of  Σ_{t' ≥ t} ∂h_final(t') / ∂h_l(t)

(Gurnee et al. 2026). One forward pass a batch of prompts. Then, for each of d_model outputs, a cotangent of ones at all
target positions: attention is causal, so what arrives at t is the sum over t' ≥ t already, for all layers in the same
backward pass. Derived in notebook 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mi_course.errors import CourseError
from mi_course.lenses.backward import BlockBack, of_prompt, rebuilt
from mi_course.lenses.lens import Lens
from mi_course.lenses.streams import (
    checked_layers,
    checked_model,
    checked_prompts,
    fingerprint,
    hook_of,
    keeping,
    run_through,
    streams,
    without_learning,
)

SKIP = 16  # positions at the start that are no source: attention rests on them
ROWS = 1024  # cotangents × positions of one backward pass: more do not fit the processor's cache
Matrices = dict[int, Float[Tensor, "d_model d_model"]]


class _Coarse(torch.autograd.Function):
    """x Wᵀ + b, and backwards a product of 16-bit numbers: half the width, twice the speed where a processor can."""

    @staticmethod
    def forward(ctx, x, W, b):
        ctx.W = W.to(torch.bfloat16)
        return F.linear(x, W, b)

    @staticmethod
    def backward(ctx, slope):
        return (slope.to(torch.bfloat16) @ ctx.W).to(slope.dtype), None, None


class coarse_backward(TorchFunctionMode):
    """`with coarse_backward():` every linear layer runs forward as it is and hands 16-bit products backwards.

    Activations stay exact, and so does the stream's own share of each derivative; J moves by about 0.2% of its norm.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and args[1].dtype == torch.float32:
            b = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            return _Coarse.apply(args[0], args[1], b)
        return function(*args, **(kwargs or {}))


def checked_positions(name: str, positions: Sequence[int] | None, n: int, skip: int) -> list[int]:
    """Positions that are there; by default all from `skip` on but the last, which has no next token."""
    found = (
        list(range(skip, n - 1)) if positions is None else sorted({p % n for p in positions if -n <= p < n})
    )
    if not found or (positions is not None and len(found) != len(set(positions))):
        raise CourseError(
            f"Prompts of {n} tokens have no such {name} ({positions or f'all from {skip} on but the last'})."
        )
    return found


def jacobians(
    model, tokens: Int[Tensor, "prompt pos"], layers: Sequence[int] | None = None, *, skip: int = SKIP,
    sources: Sequence[int] | None = None, targets: Sequence[int] | None = None, batch: int = 1, coarse: bool = False,
) -> Iterator[Matrices]:  # fmt: skip
    """For each batch of prompts in turn, layer → the sum of their J [out in].

    Args:
        model: any with hooks, raw, in evaluation mode.
        tokens: the prompts, equally long.
        layers: 0 … n_layers.
        skip: positions at the start that are neither source nor target.
        sources: positions to average over, in place of all but skipped ones and the last.
        targets: positions to sum over, likewise.
        batch: prompts a run.
        coarse: backward products in 16 bits.
    """
    checked_model(model)
    tokens, layers = checked_prompts(model, tokens), checked_layers(model, layers)
    n = tokens.shape[1]
    sources, targets = (
        checked_positions(name, given, n, skip)
        for name, given in (("sources", sources), ("targets", targets))
    )
    with without_learning(model):
        forward = rebuilt(model)
        for rows in tokens.split(batch):
            fast = (
                None if forward is None else by_hand(model, forward, rows, layers, sources, targets, coarse)
            )
            yield of_batch(model, rows, layers, sources, targets, coarse) if fast is None else fast


def by_hand(model, forward, tokens, layers: list[int], sources, targets, coarse: bool) -> Matrices | None:
    """The same without autograd, prompt by prompt; None where the rebuilt last block is not the model's own."""
    n, total = model.cfg.n_layers, {}
    for row in tokens:
        x = {
            i: found[0] for i, found in streams(model, row[None], range(min(layers[0], n - 1), n + 1)).items()
        }
        last = BlockBack(forward, n - 1, x[n - 1], x[n - 1].dtype).forward_stream
        if not torch.allclose(last, x[n], rtol=1e-4, atol=1e-4 * float(x[n].abs().max())):
            return None
        for layer, J in of_prompt(forward, x, layers, sources, targets, coarse).items():
            total[layer] = J + total.get(layer, 0)
    return total


def of_batch(
    model, tokens, layers: list[int], sources: list[int], targets: list[int], coarse: bool
) -> Matrices:
    """Layer → the sum over a batch of prompts of J [out in]."""
    found: dict[int, Tensor] = {}
    n, first = model.cfg.n_layers, layers[0]

    def root(x, hook):
        found[first] = x.detach().requires_grad_()
        return found[first]

    hooks = [(hook_of(model, first), root)]
    hooks += [(hook_of(model, layer), keeping(found, layer)) for layer in sorted({*layers[1:], n} - {first})]
    with torch.enable_grad():
        if coarse:
            with coarse_backward():
                run_through(model, tokens, hooks)
        else:
            run_through(model, tokens, hooks)
        streams, final = [found[layer] for layer in layers], found[n]
        if final.grad_fn is None:  # the last stream alone: its own derivative
            streams, final = [found[n]], found[n] * 1.0
    d, per = final.shape[-1], max(1, ROWS // tokens.numel())
    sums = {layer: torch.zeros(d, d) for layer in layers}
    for start in range(0, d, per):
        outputs = torch.arange(start, min(start + per, d))
        cotangent = final.new_zeros(len(outputs), *final.shape)
        each = torch.arange(len(outputs))
        cotangent[each[:, None], :, torch.tensor(targets)[None], outputs[:, None]] = 1.0
        slopes = torch.autograd.grad(
            final, streams, cotangent, retain_graph=outputs[-1] < d - 1, is_grads_batched=True
        )
        for layer, slope in zip(layers, slopes):
            sums[layer][outputs] = slope[:, :, sources].float().mean(2).sum(1)
    return sums


def jacobian_lens(
    model, tokens: Int[Tensor, "prompt pos"], layers: Sequence[int] | None = None, *, skip: int = SKIP,
    sources: Sequence[int] | None = None, targets: Sequence[int] | None = None, batch: int = 1, coarse: bool = False,
) -> Lens:  # fmt: skip
    """J_l averaged over prompts, as a lens (W_l = J_lᵀ). Every prompt counts alike.

    Cost: about 2 · weights · tokens · d_model multiplications. Args as for `jacobians`.

    Args:
        model: any with hooks, raw, in evaluation mode.
        tokens: the prompts [prompt pos], equally long.
        layers: 0 … n_layers, all by default.
        skip: positions at the start that are neither source nor target.
        sources: positions to average over.
        targets: positions to sum over.
        batch: prompts a run.
        coarse: backward products in 16 bits, about twice as fast where the processor has them, within 1%.
    """
    total: Matrices = {}
    parts = jacobians(
        model, tokens, layers, skip=skip, sources=sources, targets=targets, batch=batch, coarse=coarse
    )
    for part in parts:
        total = {layer: J + total.get(layer, 0) for layer, J in part.items()}
    return from_sums(model, total, len(tokens))


def from_sums(model, total: Matrices, prompts: int) -> Lens:
    """The lens of `model` from `total`, layer → the sum of J over so many `prompts`."""
    return Lens("Jacobian lens", {layer: J.T / prompts for layer, J in total.items()}, {}, fingerprint(model))
