"""One layer, taken apart: paths, the two circuits of a head, and the skip-trigrams they spell.

Every quantity is from Elhage et al. (2021) and derived by hand in notebook 02. Vectors are rows: a table has its
source token, or its query, along the rows. "Source" is the token attended to, "destination" the present one, and
"out" the next one.

>>> import torch
>>> from mi_course import circuits
>>> circuits.eigenvalue_score(torch.tensor([[2.0, 0.0], [0.0, -1.0]]))  # Σλ / Σ|λ|
0.3333333333333333
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.models import TinyTransformer

# -- paths ---------------------------------------------------------------------------------------


@torch.no_grad()
def path_terms(
    model: TinyTransformer, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "term batch pos d_vocab"]:
    """The logits of a one-layer model as a sum of paths: the direct path first, then one path a head.

    x W_E W_U + Σ_h A^h x W_E W_OV^h W_U (Elhage et al. 2021, "path expansion"); x holds one-hot rows, A^h is the
    head's attention pattern. Exact without norms and biases: the terms add up to the logits. `tokens` are ids, one
    row a text. Derived in notebook 02.
    """
    cfg = model.cfg
    if cfg.n_layers != 1 or cfg.d_mlp or cfg.norm != "none" or cfg.bias:
        raise CourseError("Paths add up like this in one attention-only layer without norm and biases.")
    _, cache = model.run_with_cache(tokens, return_type=None)
    stream = cache["resid_pre", 0]
    writes = [stream] + [cache["pattern", 0][:, h] @ stream @ model.W_OV[0, h] for h in range(cfg.n_heads)]
    return torch.stack(writes) @ model.W_U


@torch.no_grad()
def score_parts(
    model: TinyTransformer, head: int, tokens: Int[Tensor, "pos"]
) -> dict[str, Float[Tensor, "query key"]]:
    """A head's attention scores, before mask and softmax, split by what the query and the key are read from.

    Shortformer positions reach Q and K only, so (x + p) W_QK (x + p)ᵀ / √d_head has four parts, named "query ← key":
    token ← token, token ← position, position ← token and position ← position. What depends on the query alone is
    invisible to the softmax. `model` has one layer or more, of which the first is read; `head` is one of its heads,
    `tokens` one text. Derived in notebook 02.
    """
    if model.cfg.positions != "shortformer":
        raise CourseError(
            "Scores split into four parts where positions are shortformer: seen by Q and K only."
        )
    reads = {"token": model.W_E[tokens], "position": model.W_pos[: len(tokens)]}
    W_QK = model.W_QK[model.head(0, head)] / model.cfg.d_head**0.5
    return {f"{q} ← {k}": reads[q] @ W_QK @ reads[k].T for q in reads for k in reads}


# -- skip-trigrams -------------------------------------------------------------------------------


def attention_lift(
    scores: Float[Tensor, "dest source"], frequency: Float[Tensor, "token"]
) -> Float[Tensor, "dest source"]:
    """How much more, in nats, a destination looks at a source than at the text's average token.

    lift[d, s] = S[d, s] − log Σ_k f_k exp S[d, k], with f the token frequencies of the text and S divided by √d_head.
    Softmax does not see what is added to a whole row, so raw scores cannot be compared between destinations; lifts
    can. 0: like any token. `scores` is S; `frequency` is f, counts or shares. Derived in notebook 02.
    """
    if len(frequency) != scores.shape[1]:
        raise CourseError(f"{len(frequency)} frequencies do not fit a table of {scores.shape[1]} sources.")
    weight = (frequency / frequency.sum()).clamp_min(1e-12).log()
    return scores - (scores + weight).logsumexp(-1, keepdim=True)


def typical_attention(lift: Float[Tensor, "..."], others: int) -> Float[Tensor, "..."]:
    """Attention to one source among so many other tokens drawn from the text: e^lift / (e^lift + others).

    At lift 0 it is the uniform share. It takes the others at their average, which no real context has.
    """
    return torch.sigmoid(lift - torch.tensor(float(others)).log())


@torch.no_grad()
def skip_trigram_logits(
    model: TinyTransformer,
    triples: Int[Tensor, "triple 3"],
    frequency: Float[Tensor, "token"],
    others: int = 64,
) -> Float[Tensor, "head triple"]:
    """What each head adds to the logit of `out` at `dest` when `source` stands among `others` other tokens.

    QK × OV: the typical attention of dest to source, times the entry [source, out] of W_E W_OV W_U less the mean of
    its row (a constant on all outs changes nothing). `triples` holds (source, dest, out); heads add up. It knows no
    positions and no competition, hence not the whole story (MF-09). `model` has one layer; `frequency` holds the
    text's token frequencies, for `attention_lift`. Derived in notebook 02.
    """
    source, dest, out = triples.T
    rows = []
    for head in range(model.cfg.n_heads):
        lift = attention_lift(model.full_QK(0, head) / model.cfg.d_head**0.5, frequency)
        OV = model.full_OV(0, head)
        written = (OV - OV.mean(-1, keepdim=True))[source, out]
        rows.append(typical_attention(lift[dest, source], others) * written)
    return torch.stack(rows)


@torch.no_grad()
def table_ranks(
    model: TinyTransformer, triples: Int[Tensor, "triple 3"], frequency: Float[Tensor, "token"]
) -> Int[Tensor, "triple head 2"]:
    """Where skip-trigrams (source, dest, out) stand in each head's tables; 1 is the top.

    Column 0: rank of `dest` among all destinations that may look at the source (QK, by `attention_lift`). Column 1:
    rank of `out` in the source's row of the OV table. `model` has one layer; `triples` holds (source, dest, out), and
    `frequency` the text's token frequencies. Derived in notebook 02.
    """
    source, dest, out = triples.T
    ranks = torch.zeros(len(triples), model.cfg.n_heads, 2, dtype=torch.long)
    for head in range(model.cfg.n_heads):
        looks = attention_lift(model.full_QK(0, head) / model.cfg.d_head**0.5, frequency)[:, source].T
        says = model.full_OV(0, head)[source]
        for column, values, entry in ((0, looks, dest), (1, says, out)):
            ranks[:, head, column] = (values > values.gather(1, entry[:, None])).sum(1) + 1
    return ranks


def occurring_triples(
    windows: Int[Tensor, "window pos"], d_vocab: int, *, gap: tuple[int, int] = (1, 64), at_least: int = 10
) -> tuple[Int[Tensor, "triple 3"], Int[Tensor, "triple"]]:
    """Skip-trigrams (source, dest, out) found at `at_least` places of the text, and how often each was.

    Out comes right after dest, with `gap` tokens (least, most) between source and dest; a source that stands there
    twice counts once. Most of the d_vocab³ triples occur in no text, and of those the tables say nothing that was
    ever trained: rank only these. Gap 0 would be plain trigrams. `windows` are texts of equal length, with ids below
    `d_vocab`. Derived in notebook 02.
    """
    least, most = gap
    if not 0 <= least <= most or windows.shape[1] < least + 3:
        raise CourseError(f"Gaps of {least} to {most} tokens do not fit windows of {windows.shape[1]}.")
    V, codes = d_vocab, []
    for dest in range(least + 1, windows.shape[1] - 1):
        before = windows[:, max(0, dest - most - 1) : dest - least].sort(dim=1).values
        first = torch.ones_like(before, dtype=torch.bool)
        first[:, 1:] = before[:, 1:] != before[:, :-1]
        pair = windows[:, dest] * V + windows[:, dest + 1]
        codes.append((before * V**2 + pair[:, None])[first])
    code, count = torch.cat(codes).unique(return_counts=True)
    code, count = code[count >= at_least], count[count >= at_least]
    return torch.stack([code // V**2, code // V % V, code % V], dim=1), count


# -- copying -------------------------------------------------------------------------------------


def ov_core(model: TinyTransformer, layer: int, head: int) -> Float[Tensor, "d_head d_head"]:
    """A d_head × d_head matrix with all non-zero eigenvalues of the table W_E W_V W_O W_U.

    XY and YX share their non-zero eigenvalues: with X = W_E W_V and Y = W_O W_U the small product is Y X. The table
    has d_vocab − d_head more, all zero. `layer` and `head` name the head of `model`. Derived in notebook 02.
    """
    layer, head = model.head(layer, head)
    return (model.W_O[layer, head] @ model.W_U) @ (model.W_E @ model.W_V[layer, head])


def eigenvalue_score(matrix: Float[Tensor, "rows cols"] | Complex[Tensor, "rows cols"]) -> float:
    """Σλ / Σ|λ| over the eigenvalues: 1 if all are positive, −1 if all are negative, about 0 for random matrices.

    On an OV table it measures copying: a source token raises its own logit, on average over the eigenvectors (Elhage
    et al. 2021). The imaginary parts cancel in pairs. Σλ is the trace; all eigenvalues can be positive while a
    diagonal entry is negative, so 1 is no proof of copying (MF-08). `matrix` is square, real or complex. Derived in
    notebook 02.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise CourseError(f"Eigenvalues need a square matrix, not one of shape {list(matrix.shape)}.")
    eigenvalues = torch.linalg.eigvals(
        matrix.detach().to(torch.cdouble if matrix.is_complex() else torch.double)
    )
    size = eigenvalues.abs().sum()
    if size == 0:
        raise CourseError("A matrix whose eigenvalues are all zero has no copying score.")
    return float(eigenvalues.sum().real / size)
