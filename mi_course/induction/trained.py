"""A trained model taken apart: its log, its windows of change, heads silenced or frozen, and labels."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course import circuits
from mi_course.errors import CourseError
from mi_course.files import read_checked, shipped_path
from mi_course.induction.scores import patterns
from mi_course.models import TinyTransformer, load

# -- a trained model taken apart -----------------------------------------------------------------

Heads = Collection[tuple[int, int]]  # (layer, head), both from 0


def training_log(name: str) -> dict[str, Tensor]:
    """What was measured while the shipped model `name` was trained: `step`, `icl`, `held_out`, `prefix`, `token_losses` …

    One entry an evaluation, a hundredth of the schedule apart; `loss` alone has one a step.
    """
    tensors, _ = read_checked(shipped_path(name, "log"))
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def snapshots(name: str) -> dict[int, TinyTransformer]:
    """Step → the shipped model `name` as it was before that step of training; step 0 is untrained."""
    tensors, _ = read_checked(shipped_path(name, "snapshots"))
    cfg, along_the_way = load(name).cfg, {}
    for i, step in enumerate(tensors.pop("step").tolist()):
        model = TinyTransformer(cfg)
        model.load_state_dict({key: weights[i].float() for key, weights in tensors.items()}, strict=False)
        along_the_way[step] = model.eval()
    return along_the_way


def smoothed(values: Float[Tensor, "eval *rest"], width: int = 5) -> Float[Tensor, "eval *rest"]:
    """Means of `values` over `width` neighbouring evaluations (an odd number), fewer at the two ends."""
    half = width // 2
    return torch.stack([values[max(0, i - half) : i + half + 1].mean(0) for i in range(len(values))])


def rise_window(
    steps: Int[Tensor, "eval"], curve: Float[Tensor, "eval"], low: float = 0.1, high: float = 0.9
) -> tuple[int, int]:
    """The `steps` at which a `curve` first reaches the shares `low` (10%) and `high` (90%) of its final value."""
    share = curve / curve[-1]
    return tuple(int(steps[(share >= level).nonzero()[0, 0]]) for level in (low, high))


def window_overlap(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Steps that both windows hold, as a share of the longer one: 1 for the same window, 0 for disjoint ones.

    `a` and `b` are (first step, last step).
    """
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / max(a[1] - a[0], b[1] - b[0], 1)


def bend(values: Float[Tensor, "eval"], width: int = 3) -> Float[Tensor, "eval"]:
    """Second difference of three adjacent means of `width` evaluations in `values`; NaN where they do not fit.

    Negative where a falling curve turns down. Means keep the noise of single evaluations out.
    """
    means = values.unfold(0, width, 1).mean(-1)  # entry i is centred on evaluation i + width // 2
    middle = means[2 * width :] - 2 * means[width:-width] + means[: -2 * width]
    out = torch.full_like(values, torch.nan)
    start = width + width // 2
    out[start : start + len(middle)] = middle
    return out


def turning_angles(path: Float[Tensor, "eval plane"], reach: float) -> Float[Tensor, "eval"]:
    """Degrees by which a path turns at each of its points, seen from a distance.

    The angle between the way in, from the last earlier point at least `reach` away, and the way out, to the first
    later point at least `reach` away: 0 is straight on, 180 is back. Jitter smaller than `reach` does not count.
    NaN where the path does not get that far before and after.
    """
    angles = torch.full((len(path),), torch.nan)
    for i, here in enumerate(path):
        far = ((path - here).norm(dim=-1) >= reach).nonzero()[:, 0]
        before, after = far[far < i], far[far > i]
        if len(before) and len(after):
            way_in, way_out = here - path[before[-1]], path[after[0]] - here
            cos = torch.cosine_similarity(way_in, way_out, dim=0).clamp(-1, 1)
            angles[i] = cos.arccos().rad2deg()
    return angles


def silence(heads: Heads) -> list[tuple[str, Callable]]:
    """Hooks that set the output of each of `heads`, (layer, head) pairs, to zero."""

    def zero(z, hook, head):
        z = z.clone()
        z[:, :, head] = 0
        return z

    return [(f"blocks.{layer}.attn.hook_z", partial(zero, head=head)) for layer, head in heads]


def freeze(kept: list[Float[Tensor, "batch head query key"]]) -> list[tuple[str, Callable]]:
    """Hooks that put an earlier run's attention patterns, `kept` one a layer, back."""
    return [
        (f"blocks.{layer}.attn.hook_pattern", lambda _, hook, kept=pattern: kept)
        for layer, pattern in enumerate(kept)
    ]


@torch.no_grad()
def losses_without(
    model: TinyTransformer,
    windows: Int[Tensor, "window pos"],
    heads: Heads,
    *,
    keep_patterns: bool = True,
    batch: int = 8,
) -> Float[Tensor, "window pos-1"]:
    """Loss of `model` in nats at every position of `windows`, `batch` at a time, with the output of `heads` set to zero.

    With `keep_patterns` every head still looks where it looked in the intact run (Olsson et al. 2022, argument 3),
    so only what the heads *write* is missed; without, later heads also choose where to look without it.
    In the last layer the two are the same. Derived in notebook 03.
    """
    for layer, head in heads:
        model.head(layer, head)
    rows = []
    for tokens in windows.split(batch):
        hooks = (freeze(patterns(model, tokens)) if keep_patterns else []) + silence(heads)
        rows.append(model.run_with_hooks(tokens, return_type="loss", loss_per_token=True, fwd_hooks=hooks))
    return torch.cat(rows)


@torch.no_grad()
def logits_by_order(
    model: TinyTransformer, tokens: Int[Tensor, "batch pos"]
) -> list[Float[Tensor, "batch pos d_vocab"]]:
    """Logits from the paths through at most 0, 1, …, n_layers heads, all patterns frozen (Elhage et al. 2021).

    Order 0 is the direct path; order 1 adds every head reading the embedding; order 2 adds virtual heads; the last
    equals the model. Where heads *look* is never cut, so Q- and K-composition are not tested by this. Positions that
    are written into the stream (learned, sinusoidal) count as part of the embedding. Needs a model whose stream is a
    sum: attention only, no norm, no bias. `tokens` are those that `model` reads. Derived in notebook 03.
    """
    cfg = model.cfg
    if cfg.norm != "none" or cfg.d_mlp or cfg.bias:
        raise CourseError("Terms have an order only in an attention-only model without norm and bias.")
    kept, embedding = patterns(model, tokens), model(tokens, stop_at_layer=0)
    writes = [torch.zeros_like(embedding) for _ in range(cfg.n_layers)]
    logits = [embedding @ model.W_U]
    for _ in range(cfg.n_layers):
        reads = [embedding + sum(writes[:layer]) for layer in range(cfg.n_layers)]  # one head shorter
        writes = [attended(model, layer, kept[layer], x) for layer, x in enumerate(reads)]
        logits.append((embedding + sum(writes)) @ model.W_U)
    return logits


def attended(
    model: TinyTransformer,
    layer: int,
    pattern: Float[Tensor, "batch head query key"],
    x: Float[Tensor, "batch key d_model"],
) -> Float[Tensor, "batch query d_model"]:
    """What the `layer` of `model` writes when its heads look as `pattern` says and read `x`: Σ_h A^h x W_OV^h."""
    values = torch.einsum("bkm,hmd->bhkd", x, model.W_V[layer])
    return torch.einsum("bhqk,bhkd,hdm->bqm", pattern, values, model.W_O[layer])


def previous_token_term(
    model: TinyTransformer, previous: tuple[int, int], head: tuple[int, int]
) -> Float[Tensor, "d_head d_head"]:
    """A small matrix with the non-zero eigenvalues of the QK term of `head` that runs through `previous`.

    The term of Elhage et al. (2021), Id ⊗ A^previous ⊗ W, scores every query token against the token *before* each
    key: W = W_E W_QK (W_OV^previous)ᵀ W_Eᵀ, tokens × tokens and of rank d_head. XY and YX share their non-zero
    eigenvalues, so W_Kᵀ (W_OV^previous)ᵀ W_Eᵀ · W_E W_Q has them too, and their sum, the trace. Both are (layer,
    head) of `model`.
    """
    (l1, h1), (l2, h2) = model.head(*previous), model.head(*head)
    if l1 >= l2:
        raise CourseError(f"Head {l2}.{h2} cannot read what {l1}.{h1} writes: it is not above it.")
    carried = model.W_E @ model.W_OV[l1, h1] @ model.W_K[l2, h2]  # key side: [token, d_head]
    return carried.T @ model.W_E @ model.W_Q[l2, h2]


def labels(
    model: TinyTransformer, scores: dict[str, Float[Tensor, "layer head"]], bound: float = 0.6
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(induction heads, previous-token heads) of a two-layer model.

    An induction head is labelled by its weights alone, so that its behaviour can be tested: a head of the second layer whose
    OV circuit and whose QK term through the strongest previous-token head both have an eigenvalue score above
    `bound` (MF-13). A previous-token head gives more than half of its attention to the token before. `scores`
    are `head_scores`. The rule that was written first, prefix score above 0.3, misses a weak head of seed 0:
    notebook 03 shows both.
    """
    if model.cfg.n_layers != 2:
        raise CourseError(f"Induction heads are labelled in two layers; this model has {model.cfg.n_layers}.")
    heads = range(model.cfg.n_heads)
    strongest = (0, int(scores["previous"][0].argmax()))
    induction = [
        (1, head)
        for head in heads
        if circuits.eigenvalue_score(circuits.ov_core(model, 1, head)) > bound
        and circuits.eigenvalue_score(previous_token_term(model, strongest, (1, head))) > bound
    ]
    return induction, [(0, head) for head in heads if scores["previous"][0, head] > 0.5]
