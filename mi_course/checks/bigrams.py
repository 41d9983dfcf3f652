"""Checks of notebook 01, bigrams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mi_course import bigrams
from mi_course.checks import CheckFailed, check
from mi_course.corpora.corpus import generator


def some_counts(d_vocab: int, seed: int) -> Tensor:
    """Uneven counts [token next] with zeros in them; rows and columns have different sums."""
    draw = generator(seed)
    scale = torch.tensor([40.0, 9.0, 3.0, 1.0]).repeat(d_vocab)[:d_vocab, None]
    counts = (scale * torch.rand(d_vocab, d_vocab, generator=draw) ** 3).round().long()
    counts[0, 1] += 7  # so that no row or column is empty by accident
    return counts + torch.eye(d_vocab, dtype=torch.long).roll(1, 0)


COUNTS = [(some_counts(4, 0),), (some_counts(6, 1),), (torch.tensor([[0, 8], [1, 1]]),)]


# -- counting ------------------------------------------------------------------------------------


def paired(first: Tensor, second: Tensor, d_vocab: int) -> Tensor:
    """Counts of (first, second), whatever the two are."""
    codes = (first * d_vocab + second).flatten()
    return torch.bincount(codes, minlength=d_vocab**2).view(d_vocab, d_vocab)


def check_count_matrix(function: object) -> None:
    """Exercise 1: counts [token, next] of rows of tokens."""
    rows = [torch.randint(5, (3, 9), generator=generator(s)) for s in (0, 1)]
    cases = [(torch.tensor([[0, 1, 1, 2]]), 3), (rows[0], 5), (rows[1], 7)]
    mistakes = {
        "rows and columns are exchanged: the row is the present token, the column is the next one.": lambda t, v: (
            bigrams.count_matrix(t, v).T
        ),
        "a pair reaches across the end of a row: the last token of one row is not followed by the first of the next.": lambda t, v: (
            bigrams.count_matrix(t.flatten(), v)
        ),
        "every token is paired with itself: nothing has been shifted.": lambda t, v: paired(t, t, v),
        "the shift is two: these are pairs with a token between them.": lambda t, v: paired(
            t[:, :-2], t[:, 2:], v
        ),
        "the last token of a row is followed by the first of the same row: a roll goes round in a circle.": lambda t, v: (
            paired(t, t.roll(-1, 1), v)
        ),
        "each pair is counted once at most: `counts[a, b] += 1` with index tensors forgets repeated pairs.": lambda t, v: (
            bigrams.count_matrix(t, v).clamp_max(1)
        ),
        "different pairs share a number, so that they are counted together: multiply the first token by d_vocab.": lambda t, v: (
            torch.bincount((t[:, :-1] + t[:, 1:]).flatten(), minlength=v * v).view(v, v)
        ),
        "these are shares, not counts: leave the division for later.": lambda t, v: bigrams.log_bigram(
            bigrams.count_matrix(t, v)
        ).exp(),
    }
    check(
        "count matrix", function, bigrams.count_matrix, cases, mistakes,
        say="all a zero-layer model can ever learn of a text",
    )  # fmt: skip


# -- losses that can be known beforehand -----------------------------------------------------------


def entropy(n: Tensor) -> float:
    """Entropy in nats of the shares of any counts."""
    p = n.double().flatten() / n.sum()
    return float(-torch.xlogy(p, p).sum())


def row_entropies(n: Tensor) -> list[float]:
    return [entropy(row) for row in n]


def weighted(n: Tensor, p: Tensor) -> float:
    """−Σ p log p of each row of p, averaged by how often its token occurs."""
    return float((n.sum(1) / n.sum() * -torch.xlogy(p, p).sum(1)).sum())


def check_unigram_loss(function: object) -> None:
    """Exercise 2: the lowest loss of a model that gives the same answer after every token."""
    mistakes = {
        "these are the shares of the present token, and the next one is to be predicted: sum over the other axis.": lambda n: (
            entropy(n.sum(1))
        ),
        "this is the conditional entropy: it lets the answer depend on the present token.": bigrams.conditional_entropy,
        "this is in bits: use the natural logarithm.": lambda n: (
            entropy(n.sum(0)) / torch.log(torch.tensor(2.0)).item()
        ),
        "this is the loss of guessing uniformly; a constant answer may still prefer common tokens.": lambda n: (
            float(torch.tensor(float(len(n))).log())
        ),
        "every token weighs the same here, and common tokens are paid for more often: weight by their share.": lambda n: (
            float(-(n.sum(0) / n.sum()).log().mean())
        ),
        "counts are not shares yet: divide by their total before taking logarithms.": lambda n: float(
            -torch.xlogy(n.sum(0), n.sum(0)).sum()
        ),
        "this is the joint entropy of pairs: only the next token is to be predicted.": entropy,
        "the sign is wrong: a loss is minus a logarithm.": lambda n: -entropy(n.sum(0)),
    }
    check(
        "unigram loss", function, lambda n: entropy(n.sum(0)), COUNTS, mistakes,
        say="the floor of a model that does not look at its input",
    )  # fmt: skip


def check_conditional_entropy(function: object) -> None:
    """Exercise 3: H(next | token) of a count matrix."""
    mistakes = {
        "this is the joint entropy of the pair: the present token is given for free, so subtract what it costs.": entropy,
        "this is in bits: use the natural logarithm.": lambda n: (
            bigrams.conditional_entropy(n) / torch.log(torch.tensor(2.0)).item()
        ),
        "every row weighs the same here: weight a row by how often its token occurs.": lambda n: (
            sum(row_entropies(n)) / len(n)
        ),
        "this is the entropy of the next token alone: condition on the present one.": lambda n: entropy(
            n.sum(0)
        ),
        "rows and columns are exchanged: this is the entropy of the present token given the next one.": lambda n: (
            bigrams.conditional_entropy(n.T.contiguous())
        ),
        "the rows' entropies are added up without weights: average them, weighted by how often each token occurs.": lambda n: (
            sum(row_entropies(n))
        ),
        "a row is weighted by how often its token comes next: weight it by how often the token stands first.": lambda n: (
            sum(w * h for w, h in zip((n.sum(0) / n.sum()).tolist(), row_entropies(n), strict=True))
        ),
        "columns were divided by their sums: p(next | token) divides each row by its own.": lambda n: (
            weighted(n, n / n.sum(0, keepdim=True))
        ),
        "rows were divided by the sums of other rows: keep the dimension of the sum (keepdim).": lambda n: (
            weighted(n, n / n.sum(1))
        ),
        "counts are not shares yet: divide each row by its sum before taking logarithms.": lambda n: weighted(
            n, n
        ),
        "the rows' entropies are summed with their counts as weights: divide by the number of pairs.": lambda n: (
            bigrams.conditional_entropy(n) * int(n.sum())
        ),
        "one entropy a row is not yet one number: average them, weighted by how often each token occurs.": lambda n: (
            torch.tensor(row_entropies(n))
        ),
        "the sign is wrong: −Σ p log p is never negative.": lambda n: -bigrams.conditional_entropy(n),
    }
    check(
        "conditional entropy", function, bigrams.conditional_entropy, COUNTS, mistakes,
        say="no zero-layer model gets below it",
    )  # fmt: skip


# -- tables --------------------------------------------------------------------------------------


def check_row_centred(function: object) -> None:
    """Exercise 4: a table without the constants that softmax cannot see."""
    draw = generator(4)
    tables = [3 * torch.randn(n, n, generator=draw) + 5 * torch.randn(n, 1, generator=draw) for n in (3, 6)]
    mistakes = {
        "columns were centred: softmax runs along a row, so it is a row's constant that cannot be seen.": lambda t: (
            t - t.mean(0)
        ),
        "one mean was taken off the whole table: each row has a constant of its own.": lambda t: t - t.mean(),
        "rows and columns were both centred: what a column has in common is seen by softmax and must stay.": lambda t: (
            t - t.mean(1, keepdim=True) - t.mean(0) + t.mean()
        ),
        "the row's mean was subtracted along the wrong axis: keep its dimension (keepdim).": lambda t: (
            t - t.mean(1)
        ),
        "the rows were scaled too: softmax does see a factor.": lambda t: (
            (t - t.mean(1, keepdim=True)) / t.std(1, keepdim=True)
        ),
        "this is log softmax: it takes off each row's log-sum-exp, which is another constant than the mean.": lambda t: (
            t.log_softmax(-1)
        ),
        "the row's largest entry was taken off instead of its mean.": lambda t: (
            t - t.max(1, keepdim=True).values
        ),
    }
    check(
        "row centring", function, bigrams.row_centred, [(t,) for t in tables], mistakes,
        say="two tables may now be compared",
    )  # fmt: skip


def check_table_from_weights(function: object) -> None:
    """Exercise 5: log p(next | token) straight from the two matrices."""
    draw = generator(5)
    shapes = [(6, 3), (4, 4)]
    cases = [(torch.randn(v, d, generator=draw), torch.randn(d, v, generator=draw)) for v, d in shapes]
    mistakes = {
        "these are logits: one step is missing until a row is a log-probability.": lambda e, u: e @ u,
        "these are probabilities, and their logarithms are wanted.": lambda e, u: (e @ u).softmax(-1),
        "the softmax runs down the columns: each row has to be a distribution over next tokens.": lambda e, u: (
            (e @ u).log_softmax(0)
        ),
        "rows and columns are exchanged: the row is the present token.": lambda e, u: (
            (e @ u).log_softmax(-1).T
        ),
        "the table is transposed, as the papers write it: with row vectors the present token is the row.": lambda e, u: (
            (u.T @ e.T).log_softmax(-1)
        ),
        "the product is the papers' W_U W_E: with row vectors the embedding comes first.": lambda e, u: (
            u @ e
        ).log_softmax(-1),
        "centring removes a row's constant, but log-probabilities have one of their own: exp of a row sums to 1.": lambda e, u: (
            bigrams.row_centred(e @ u)
        ),
    }
    check(
        "table from weights", function, lambda e, u: (e @ u).log_softmax(-1), cases, mistakes,
        say="the whole model, read without running it",
    )  # fmt: skip


# -- weights by hand -----------------------------------------------------------------------------


def loss_of(weights, counts: Tensor):
    """The loss of a zero-layer model of the given weights; None passes through."""
    if weights is None:
        return None
    if not isinstance(weights, (tuple, list)) or len(weights) != 2:
        raise CheckFailed("weights by hand: return the pair W_E, W_U.")
    W_E, W_U = (torch.as_tensor(w).detach().double() for w in weights)
    if W_E.ndim != 2 or W_U.ndim != 2 or len(W_E) != len(counts) or W_U.shape != (W_E.shape[1], len(counts)):
        raise CheckFailed(
            f"weights by hand: W_E {list(W_E.shape)} and W_U {list(W_U.shape)} do not fit {len(counts)} tokens: "
            "W_E is [token, d_model] and W_U is [d_model, next]."
        )
    return float(bigrams.count_loss(W_E @ W_U, counts))


def check_weights_by_hand(function: object) -> None:
    """Exercise 6: W_E and W_U, without training, whose loss is the floor to a thousandth of a nat."""

    def by_hand(wrong: Callable) -> Callable:
        return lambda counts: loss_of((torch.eye(len(counts)).double(), wrong(counts)), counts)

    def loss(counts):
        try:
            return loss_of(function(counts), counts)
        except CheckFailed as failed:
            refused.append(failed)
            raise

    share = lambda n: bigrams.log_bigram(n).exp()
    mistakes = {
        "the logits are probabilities; softmax would exponentiate them again: take logarithms.": by_hand(
            share
        ),
        "the logits are counts; softmax would exponentiate them: take logarithms.": by_hand(
            lambda n: n.double()
        ),
        "rows and columns are exchanged: this table says what comes before a token.": by_hand(
            lambda n: (n.T.double() + 1e-9).log()
        ),
        "this is the best constant answer: the table does not depend on the present token yet.": by_hand(
            lambda n: (n.sum(0).double() + 1e-9).log().expand(len(n), -1)
        ),
        "one count was added to every pair: on so few counts that costs more than a thousandth of a nat.": by_hand(
            lambda n: (n + 1.0).log()
        ),
    }
    refused: list[CheckFailed] = []
    try:
        check(
            "weights by hand", function if not callable(function) else loss, bigrams.conditional_entropy, COUNTS,
            mistakes, atol=1e-3, say="the floor is reached without a step of training",
        )  # fmt: skip
    except CheckFailed:
        if refused:
            raise refused[0] from None
        raise


# -- one token further back ------------------------------------------------------------------------


def check_trigram_backoff(function: object) -> None:
    """Exercise 7: p(c | a b) from the triple's counts, leaning on the bigram with a given strength."""
    draw = generator(7)
    cases = []
    for strength in (20.0, 3.0):
        n_abc = torch.randint(0, 9, (6,), generator=draw)
        n_ab = n_abc + torch.randint(0, 30, (6,), generator=draw)
        n_abc[0] = n_ab[0] = 0  # a context never seen
        cases.append((n_abc, n_ab, torch.rand(6, generator=draw), strength))
    mistakes = {
        "the imagined observations are missing below the line: the probabilities sum to more than 1.": lambda n, m, p, k: (
            (n + k * p) / m.clamp_min(1)
        ),
        "the imagined observations are spread evenly: they should follow the bigram.": lambda n, m, p, k: (
            (n + k / len(p)) / (m + k)
        ),
        "the strength is missing above the line: probabilities sum to less than 1.": lambda n, m, p, k: (
            (n + p) / (m + k)
        ),
        "the bigram is missing above the line: what was never seen would still be impossible.": lambda n, m, p, k: (
            n / (m + k)
        ),
        "the context's own counts are missing above the line.": lambda n, m, p, k: k * p / (m + k),
        "below the line stands how often the context was seen, not the triple.": lambda n, m, p, k: (
            (n + k * p) / (n + k)
        ),
        "the strength is missing: a context seen once would be trusted as much as one seen a thousand times.": lambda n, m, p, k: (
            (n + p) / (m + 1)
        ),
        "one imagined observation of each token: the imagined ones should follow the bigram.": lambda n, m, p, k: (
            (n + k) / (m + k)
        ),
        "counts and bigram change places: the more a context was seen, the more its own counts should weigh.": lambda n, m, p, k: (
            (k * n + m * p) / (m.clamp_min(1) * (m + k))
        ),
        "the bigram is used only where the context is new: a context seen once is still hardly known.": lambda n, m, p, k: (
            torch.where(m > 0, n / m.clamp_min(1), p)
        ),
        "both are averaged with the same weight whatever the counts.": lambda n, m, p, k: (
            (n / m.clamp_min(1) + p) / 2
        ),
        "this is minus the logarithm: the probability itself is wanted.": lambda n, m, p, k: (
            -((n + k * p) / (m + k)).log()
        ),
    }
    check(
        "trigram back-off", function, lambda n, m, p, k: (n + k * p) / (m + k), cases, mistakes,
        say="little evidence leans on the bigram, much evidence stands alone",
    )  # fmt: skip
