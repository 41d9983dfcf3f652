"""Zero layers: what a model knows that sees only the present token.

Without layers a transformer is the table `W_E W_U`, and every question about it is a question about counts.
Derived by hand in notebook 01. Shapes: `token` (the present one), `next`; losses and entropies in nats a token.

>>> import torch
>>> from mi_course import bigrams
>>> counts = bigrams.count_matrix(torch.tensor([[0, 1, 0, 1, 1]]), 2)
>>> counts.tolist()
[[0, 2], [1, 1]]
>>> round(bigrams.conditional_entropy(counts), 3)  # nats a token: no bigram model does better
0.347
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_course.errors import CourseError
from mi_course.models import TinyConfig, TinyTransformer
from mi_course.training import History, TrainConfig, fit

Counts = Int[Tensor, "token next"]
Table = Float[Tensor, "token next"]


def count_matrix(tokens: Int[Tensor, "*batch pos"], d_vocab: int) -> Counts:
    """How often each token is followed by each: counts[a, b] is the number of times b comes right after a.

    Pairs never reach across the ends of rows. Rows are the present token, as in `W_E W_U`; the matrix is all that a
    zero-layer model can ever learn of the text (it is a sufficient statistic). `tokens` are ids below `d_vocab`, the
    size of the vocabulary. Derived in notebook 01.
    """
    if tokens.shape[-1] < 2:
        raise CourseError("Counting pairs needs at least two tokens in a row.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab:
        raise CourseError(
            f"Token ids {int(tokens.min())}…{int(tokens.max())} leave the vocabulary 0…{d_vocab - 1}."
        )
    pairs = tokens[..., :-1] * d_vocab + tokens[..., 1:]
    return torch.bincount(pairs.flatten(), minlength=d_vocab**2).view(d_vocab, d_vocab)


def count_loss(table: Table, counts: Int[Tensor, "tokens nexts"]) -> Float[Tensor, ""]:
    """The mean next-token loss of a table of logits over all the pairs that were counted, in nats.

    −Σ_ab n_ab log softmax(T_a)_b / N: the same number as a sum over the tokens themselves, with the same gradient, at
    the price of one d_vocab × d_vocab softmax. `table` holds logits, a row for each token; `counts` is a
    `count_matrix`. Derived in notebook 01.
    """
    if table.shape != counts.shape:
        raise CourseError(f"A table {list(table.shape)} cannot be judged by counts {list(counts.shape)}.")
    return -(counts.to(table.dtype) * table.log_softmax(-1)).sum() / filled(counts).sum()


def conditional_entropy(counts: Counts) -> float:
    """H(next | token) of the counted pairs, in nats: no model that sees one token can do better on them.

    Σ_a (n_a / N) H(n_a· / n_a). It is 0 if every token has one successor, and at most ln(d_vocab). Unseen pairs add
    nothing (0 log 0 = 0). `counts` is a `count_matrix`. Derived in notebook 01.
    """
    n = filled(counts).double()
    rows = n.sum(-1)
    return float((torch.xlogy(rows, rows).sum() - torch.xlogy(n, n).sum()) / n.sum())


def log_bigram(counts: Counts) -> Float[Tensor, "token next"]:
    """log p(next | token) of the counts, in float64: −∞ where a pair, or a whole row, was never seen."""
    n = filled(counts).double()
    return (n / n.sum(-1, keepdim=True).clamp_min(1)).log()


def row_centred(table: Table, where: Bool[Tensor, "token next"] | None = None) -> Table:
    """The table less the mean of each row over the entries `where`; entries elsewhere become 0.

    Softmax cannot see what is added to a whole row of logits, so two tables are only comparable after each
    row's constant is gone. A row without entries becomes 0. Derived in notebook 01.
    """
    where = torch.ones_like(table, dtype=torch.bool) if where is None else where
    kept = torch.where(where, table, 0)
    mean = kept.sum(-1, keepdim=True) / where.sum(-1, keepdim=True).clamp_min(1)
    return torch.where(where, table - mean, 0)


def log_bigram_correlation(
    table: Table, counts: Counts, at_least: int = 20, shuffle: int | None = None
) -> float:
    """Pearson r of a table's logits and the log-bigram, both row-centred, over pairs counted `at_least` times.

    The mean of a row runs over the same pairs, since log p is −∞ at unseen ones. 1: the table is the log-bigram up to
    a constant in each row. With `shuffle` (a seed) the log-bigram's rows are permuted first: what is left is what all
    rows share, the null to compare with. `table` holds logits, a row for each token; `counts` is a `count_matrix`.
    Derived in notebook 01.
    """
    target, seen = log_bigram(counts), counts >= at_least
    if shuffle is not None:
        order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(shuffle))
        target, seen = target[order], seen[order]
    if int(seen.sum()) < 3:
        raise CourseError(f"Fewer than three pairs were counted {at_least} times: nothing to correlate.")
    x, y = (row_centred(t.detach().double(), seen)[seen] for t in (table, target))
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def train_on_counts(
    counts: Counts, d_model: int, *, steps: int = 100, lr: float = 0.03, seed: int = 0
) -> tuple[TinyTransformer, History]:
    """A zero-layer model trained on the count matrix: every step sees all of the text.

    `History.loss` is then the loss over the whole text at each step. Short memory (betas .8, .9) suits a loss without
    noise. `counts` is a `count_matrix`, `d_model` the width of the model (the rank its table can have), `lr` the
    largest learning rate of so many `steps`; `seed` draws the first weights. Derived in notebook 01.
    """
    cfg = TinyConfig(n_layers=0, n_heads=1, d_model=d_model, d_vocab=len(counts), positions="none", seed=seed)
    model = TinyTransformer(cfg)
    config = TrainConfig(steps=steps, lr=lr, warmup=5, decay_share=0.5, betas=(0.8, 0.9), seed=seed)
    history = fit(model, lambda step: counts, config, loss=lambda m, n: count_loss(m.direct_path(), n))
    return model, history


def smoothed_bigram(counts: Counts, strength: float = 100.0) -> Float[Tensor, "token next"]:
    """p(next | token) that leans on the unigram where the row has few counts: every entry is above 0.

    (n_ab + k p(b)) / (n_a + k), with k = `strength` imagined observations (a Dirichlet prior; MacKay and
    Peto 1995) and p(b) itself smoothed by one count a token. k = 0 would be the raw counts.
    """
    if strength <= 0:
        raise CourseError(
            f"strength={strength} must be above 0, or unseen pairs would cost an infinite loss."
        )
    n = filled(counts).double()
    unigram = (n.sum(0) + 1) / (n.sum() + len(n))
    return (n + strength * unigram) / (n.sum(-1, keepdim=True) + strength)


def smoothed_trigram_losses(
    train: Int[Tensor, "train"],
    text: Int[Tensor, "pos"],
    d_vocab: int,
    strength: float = 20.0,
    below: float = 100.0,
) -> Float[Tensor, "pos-2"]:
    """Nats paid for each token of `text` from the third on by a trigram count model of `train`.

    p(c | a b) = (n_abc + k p(c | b)) / (n_ab + k), where p(c | b) is the smoothed bigram of strength `below`: a
    context never seen falls back on the bigram, a frequent one trusts its own counts. `train` and `text` are token
    ids below `d_vocab`; `strength` is k, how many tokens' worth the bigram weighs. Derived in notebook 01.
    """
    if len(train) < 3 or len(text) < 3:
        raise CourseError("A trigram model needs at least three tokens to count and three to judge.")
    bigram = smoothed_bigram(count_matrix(train, d_vocab), below)
    a, b, c = text[:-2], text[1:-1], text[2:]
    n_ab = occurrences(train[:-2] * d_vocab + train[1:-1], a * d_vocab + b)
    triples = (train[:-2] * d_vocab + train[1:-1]) * d_vocab + train[2:]
    n_abc = occurrences(triples, (a * d_vocab + b) * d_vocab + c)
    return -((n_abc + strength * bigram[b, c]) / (n_ab + strength)).log()


def occurrences(codes: Int[Tensor, "n"], asked: Int[Tensor, "m"]) -> Int[Tensor, "m"]:
    """How often each asked number stands among the codes."""
    codes = codes.sort().values
    return torch.searchsorted(codes, asked, right=True) - torch.searchsorted(codes, asked)


def filled(counts: Counts) -> Counts:
    """The counts themselves, if there is anything in them."""
    if int(counts.sum()) == 0 or int(counts.min()) < 0:
        raise CourseError("The count matrix is empty or has negative entries.")
    return counts
