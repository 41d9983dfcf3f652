"""Who reads whom: composition scores, cuts, copying."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_course.corpora.corpus import generator
from mi_course.errors import CourseError, nearest
from mi_course.induction.by_hand import blank
from mi_course.models import TinyConfig, TinyTransformer

# -- who reads whom ------------------------------------------------------------------------------


@torch.no_grad()
def cut_composition(
    model: TinyTransformer, tokens: Int[Tensor, "batch pos"], letter: str
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits on `tokens` when the second layer's `letter` (Q, K or V) no longer sees what the first layer wrote.

    One of three paths between the layers is cut, and the two others stay: a circuit that lives on K-composition dies
    with "K" and is untouched by "Q" and "V". `model` has two attention-only layers. Derived in notebook 03.
    """
    cfg = model.cfg
    if letter not in ("Q", "K", "V"):
        raise CourseError(f"There is no path {letter!r} between heads.{nearest(str(letter), 'QKV')}")
    if cfg.n_layers != 2 or cfg.norm != "none" or cfg.d_mlp or cfg.smeared or cfg.positions == "rotary":
        raise CourseError(
            "cut_composition needs two attention-only layers without norm, smearing or rotary positions."
        )
    _, cache = model.run_with_cache(tokens, return_type=None, names_filter="blocks.0.hook_attn_out")
    W = getattr(model.blocks[1].attn, f"W_{letter}")
    through = torch.einsum("bpm,hmd->bphd", cache["attn_out", 0], W)
    hook = (f"blocks.1.attn.hook_{letter.lower()}", lambda x, hook: x - through)
    return model.run_with_hooks(tokens, fwd_hooks=[hook])


def overlap(
    write: Float[Tensor, "*many d_model d_model"], read: Float[Tensor, "*more d_model d_model"]
) -> Float[Tensor, "*most"]:
    """‖write · read‖ / (‖write‖ ‖read‖) in Frobenius norms: how much of what one map writes the other reads.

    1 for rank-one maps that fit, 0 where nothing is read; about 1/√d_model for unrelated random maps.
    """
    norm = torch.linalg.matrix_norm
    return norm(write @ read) / (norm(write) * norm(read))


@torch.no_grad()
def composition_scores(
    model: TinyTransformer, earlier: int = 0, later: int = 1, *, baseline: bool = True
) -> dict[str, Float[Tensor, "earlier_head later_head"]]:
    """How much heads of layer `later` read of what heads of layer `earlier` write, through Q, K and V.

    With rows as vectors, head h₁ writes x W_OV¹; the later head reads it as a query through W_QK², as a key through
    (W_QK²)ᵀ, as a value through W_OV². The score is the `overlap` of the two maps, less that of random heads of the
    same shapes (Elhage et al. 2021; their figure was later corrected for a transposed product: it is K that needs the
    transpose, not Q). Without `baseline` nothing is taken off; `model` may have any number of layers. Derived in
    notebook 03.
    """
    model.head(earlier, 0), model.head(later, 0)
    if earlier >= later:
        raise CourseError(
            f"Layer {later} comes before layer {earlier + 1}: it reads nothing of layer {earlier}."
        )
    write, QK = model.W_OV[earlier][:, None], model.W_QK[later][None]
    chance = random_composition_scores(model.cfg).mean() if baseline else 0.0
    reads = {"Q": QK, "K": QK.mT, "V": model.W_OV[later][None]}
    return {letter: overlap(write, read) - chance for letter, read in reads.items()}


@torch.no_grad()
def known_composition() -> tuple[TinyTransformer, Float[Tensor, "letter earlier_head later_head"]]:
    """A model whose composition scores are known, and the scores, for Q, K and V. Derived in notebook 03.

    Heads of width 1 in a stream of 6. Three early ones write dimension 1, dimension 2, and half-and-half; three late
    ones read dimension 1 with their Q, their K, their V.
    """
    probe = blank(n_layers=2, n_heads=3, head_width=1, d_model=6, d_vocab=2, n_ctx=2, positions="none")
    e = torch.eye(6)
    early, late = (layer.attn for layer in probe.blocks)
    early.W_V[:] = e[0][None, :, None]
    for head, direction in enumerate([e[1], e[2], (e[1] + e[2]) / 2**0.5]):
        early.W_O[head, 0] = 3.0 * direction  # the size must not matter
    late.W_O[:] = e[3][None, None]
    for head in range(3):
        for place, W in enumerate((late.W_Q, late.W_K, late.W_V)):
            W[head, :, 0] = (
                e[1] if place == head else e[4 + (place - head) % 3 - 1]
            )  # one of Q, K, V reads it
    expected = torch.zeros(3, 3, 3)
    for kind in range(3):
        expected[kind, :, kind] = torch.tensor([1, 0, 0.5**0.5])
    return probe, expected


def random_composition_scores(cfg: TinyConfig, n: int = 200, *, seed: int = 0) -> Float[Tensor, "n"]:
    """The raw score of n pairs of Gaussian heads, of the width and stream of `cfg`: the null of `composition_scores`.

    `seed` draws them, and they are not trained.
    """
    shape, draw = (n, cfg.d_model, cfg.d_head), generator(seed)
    heads = zip(*(torch.randn(shape, generator=draw) for _ in range(4)))
    # one pair at a time: n matrices of d_model² numbers would not fit everywhere
    return torch.stack([overlap(V @ O.T, Q @ K.T) for V, O, Q, K in heads])


@torch.no_grad()
def copying_scores(model: TinyTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "layer head"]:
    """How much of what each head says on its own speaks for the tokens it attends to, from −1 to 1.

    A head's direct logits z W_O W_U, less their mean over the vocabulary, through a ReLU, are what it raises. Of what
    it raises among the tokens of the sequence, the share that falls on the attended token (weighted by attention) is
    doubled, less 1 (after Olsson et al. 2022, head activation evaluators). 1: it raises the attended tokens alone;
    −1: never those. A sum over all queries comes before the division, so that a resting head that writes nothing does
    not count. `tokens` are those that `model` reads. Derived in notebook 03.
    """
    needed = lambda name: name.endswith(("hook_z", "hook_pattern"))
    _, cache = model.run_with_cache(tokens, return_type=None, names_filter=needed)
    scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    present = torch.zeros(len(tokens), 1, model.cfg.d_vocab).scatter(-1, tokens[:, None], 1.0)
    for layer, block in enumerate(model.blocks):
        for head, W_O in enumerate(block.attn.W_O):
            logits = cache["z", layer][:, :, head] @ (W_O @ model.W_U)  # batch query out
            raised = (logits - logits.mean(-1, keepdim=True)).relu() * present
            keys = tokens[:, None].expand(-1, tokens.shape[1], -1)  # batch query key
            attended = (cache["pattern", layer][:, head] * raised.gather(-1, keys)).sum()
            scores[layer, head] = 2 * attended / raised.sum().clamp_min(1e-9) - 1
    return scores
