"""Checks of notebook 02, skip-trigrams."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mi_course.checks import answer, as_tensor, check, is_number
from mi_course.corpora.corpus import generator


def random(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers that are the same in every run."""
    return torch.randn(shape, generator=generator(seed, 2))


def check_through(view: Callable, exercise: str, function: object, reference, cases, mistakes, **how) -> None:
    """`check`, comparing `view(answer)` where different answers can be equally right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a complex answer is looked at, and then viewed as real
        theirs = [view(answer(exercise, function, case)) for case in cases]
    numbered = lambda f: lambda i: f(*cases[i])
    wrong = {sentence: numbered(mistake) for sentence, mistake in mistakes.items()}
    places = [(i,) for i in range(len(cases))]
    check(exercise, lambda i: theirs[i], numbered(reference), places, wrong, **how)


def masked(scores: Tensor) -> Tensor:
    """Scores [query, key] with −∞ where the key comes later than the query."""
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)


def attention_pattern(Q: Tensor, K: Tensor) -> Tensor:
    return masked(Q @ K.T / Q.shape[1] ** 0.5).softmax(-1)


def check_attention_pattern(function: object) -> None:
    """Exercise 1: queries and keys [pos, d_head] to a causal attention pattern [query, key]."""
    cases = [(2 * random(n, d, seed=n), 2 * random(n, d, seed=n + 50)) for n, d in ((2, 4), (5, 3), (6, 9))]
    cases.append((cases[-1][0].round(), cases[-1][1].clamp_min(0).round()))  # some scores are exactly 0
    scores = lambda Q, K: Q @ K.T / Q.shape[1] ** 0.5
    mistakes = {
        "the mask is missing: every query sees the future.": lambda Q, K: scores(Q, K).softmax(-1),
        "the scores are not divided by √d_head, so the pattern is too sharp.":
            lambda Q, K: masked(Q @ K.T).softmax(-1),
        "the scores are divided by d_head and not by its root, so the pattern is too flat.":
            lambda Q, K: masked(Q @ K.T / Q.shape[1]).softmax(-1),
        "wrong axis: the softmax runs over queries, and each query shares out its attention over keys.":
            lambda Q, K: masked(scores(Q, K)).softmax(0),
        "queries and keys are swapped: row i belongs to the query at position i.":
            lambda Q, K: attention_pattern(K, Q),
        "the mask came after the softmax: rows no longer sum to 1.": lambda Q, K: scores(Q, K).softmax(-1).tril(),
        "masked scores were set to 0, and e⁰ = 1 is attention: the future is still seen.":
            lambda Q, K: scores(Q, K).tril().softmax(-1),
        "the mask is off by one: every query still sees the token after it.":
            lambda Q, K: scores(Q, K).masked_fill(torch.ones(len(Q), len(K)).triu(2).bool(), -torch.inf).softmax(-1),
        "the scores are multiplied by √d_head: divide by it.":
            lambda Q, K: masked(Q @ K.T * Q.shape[1] ** 0.5).softmax(-1),
        "queries meet queries here, and keys are left out.": lambda Q, K: attention_pattern(Q, Q),
        "keys meet keys here, and queries are left out.": lambda Q, K: attention_pattern(K, K),
        "√ of the number of positions is divided out: it is d_head, the length of a query.":
            lambda Q, K: masked(Q @ K.T / len(Q) ** 0.5).softmax(-1),
        "a future score that happens to be 0 is not masked: the mask follows from the places, not from the scores.":
            lambda Q, K: scores(Q, K).masked_fill(scores(Q, K).triu(1).bool(), -torch.inf).softmax(-1),
        "the mask and √d_head are both missing.": lambda Q, K: (Q @ K.T).softmax(-1),
    }  # fmt: skip
    say = "rows sum to 1, and nothing looks ahead"
    check("attention pattern", function, attention_pattern, cases, mistakes, say=say)


def head_path(pattern: Tensor, x: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    return pattern @ x @ W_V @ W_O @ W_U


def check_head_path(function: object) -> None:
    """Exercise 2: one head's term of the path expansion, [pos, d_vocab]."""
    cases = []
    for n, d, k, v, s in ((3, 4, 2, 5, 1), (5, 6, 3, 4, 2)):
        shapes = ((n, d), (d, k), (k, d), (d, v))
        x, V, O, U = (random(*shape, seed=10 * s + i) for i, shape in enumerate(shapes))
        cases.append((masked(random(n, n, seed=s)).softmax(-1), x, V, O, U))
    mistakes = {
        "the pattern is transposed: its rows are queries, and each query gathers from keys.":
            lambda A, x, V, O, U: head_path(A.T, x, V, O, U),
        "the pattern is left out: every position writes what it reads itself.":
            lambda A, x, V, O, U: x @ V @ O @ U,
        "the direct path is in it: one term of the sum is wanted.":
            lambda A, x, V, O, U: x @ U + head_path(A, x, V, O, U),
        "W_U is left out: this is what the head writes into the stream, not into the logits.":
            lambda A, x, V, O, U: head_path(A, x, V, O, torch.eye(len(U))),
        "the values are left out: this carries the stream itself to the logits.": lambda A, x, V, O, U: A @ x @ U,
    }  # fmt: skip
    check(
        "one head's path", function, head_path, cases, mistakes, say="A mixes positions, W_OV mixes features"
    )


def ov_table(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor, head: int) -> Tensor:
    return W_E @ W_V[head] @ W_O[head] @ W_U


def check_ov_table(function: object) -> None:
    """Exercise 3: the table [source, out] of one head, with W_V and W_O given for all heads."""
    cases = []
    for v, d, k, h, s in ((5, 5, 2, 3, 1), (7, 4, 3, 3, 2)):
        shapes = ((v, d), (h, d, k), (h, k, d), (d, v))
        E, V, O, U = (random(*shape, seed=10 * s + i) for i, shape in enumerate(shapes))
        cases += [(E, V, O, U, 1), (E, V, O, U, 2)]
    mistakes = {
        "it is transposed: rows are source tokens, columns are out tokens.": lambda *c: ov_table(*c).T,
        "W_U is forgotten: the columns are directions of the stream, not out tokens.":
            lambda E, V, O, U, h: E @ V[h] @ O[h],
        "W_E is forgotten: the rows are directions of the stream, not source tokens.":
            lambda E, V, O, U, h: V[h] @ O[h] @ U,
        "wrong head: heads count from 0.": lambda E, V, O, U, h: ov_table(E, V, O, U, h - 1),
        "wrong head: whichever is asked for, it takes head 0.": lambda E, V, O, U, h: ov_table(E, V, O, U, 0),
        "all heads are summed, and one is asked for.":
            lambda E, V, O, U, h: sum(ov_table(E, V, O, U, i) for i in range(len(V))),
        "the direct path is added: it is not this head's.":
            lambda E, V, O, U, h: ov_table(E, V, O, U, h) + E @ U,
    }  # fmt: skip
    check("OV table", function, ov_table, cases, mistakes, say="source along the rows, out along the columns")


def wrong_pairs(rules: list[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    dests = {(s, d) for s, d, _ in rules}
    outs = {(s, o) for s, _, o in rules}
    return {(s, d, o) for s, d in dests for t, o in outs if s == t} - set(rules)


def check_wrong_pairs(function: object) -> None:
    """Exercise 5: the skip-trigrams a single head raises although nobody wanted them."""
    keep = [("keep", "in", "mind"), ("keep", "at", "bay")]
    lot = [
        *keep,
        ("keep", "up", "pace"),
        ("try", "⏎", "except"),
        ("bring", "in", "line"),
        ("bring", "to", "mind"),
    ]
    cases = [(keep,), (lot,), ([("try", "⏎", "except"), ("for", "i", "in")],)]
    every = lambda rules: {(s, d, o) for s, _, _ in rules for _, d, _ in rules for _, _, o in rules}
    mistakes = {
        "the wanted rules are in it: leave them out.": lambda r: wrong_pairs(r) | set(r),
        "different sources are mixed: attention to `keep` writes what `keep` writes, whatever `bring` would write.":
            lambda r: every(r) - set(r),
        "any source goes with any out here: the out must be one that this source writes.":
            lambda r: {(s, d, o) for s, d, _ in r for _, _, o in r} - set(r),
        "destination and out have changed places: (source, destination, out).":
            lambda r: {(s, o, d) for s, d, o in wrong_pairs(r)},
        "only one of each pair of wrong ones is there: the bug goes both ways.":
            lambda r: {t for t in wrong_pairs(r) if r.index(next(x for x in r if x[:2] == t[:2]))
                       < r.index(next(x for x in r if (x[0], x[2]) == (t[0], t[2])))},
        "nothing comes out, yet the two circuits of a head meet only in the source.": lambda r: set(),
    }  # fmt: skip
    say = "same source, somebody else's destination"
    check_through(collected, "wrong pairs", function, wrong_pairs, cases, mistakes, say=say)


def collected(answer):
    """A list, a set or a tuple of triples as a set; anything else as it is."""
    try:
        return {tuple(triple) for triple in answer} if not isinstance(answer, (str, dict)) else answer
    except TypeError:
        return answer


def best_triples(looks: Tensor, says: Tensor, k: int) -> list[tuple[int, int, int]]:
    """The k largest looks[dest, source] · says[source, out]."""
    return largest(torch.einsum("ds,so->sdo", looks, says), k)


def largest(product: Tensor, k: int) -> list[tuple[int, int, int]]:
    _, V, W = product.shape
    return [(i // (V * W), i // W % V, i % W) for i in product.flatten().topk(k).indices.tolist()]


def check_best_triples(function: object) -> None:
    """Exercise 4: the k best skip-trigrams (source, dest, out) by attention × OV entry."""
    cases = [
        (random(n, n, seed=n).softmax(-1), random(n, n, seed=n + 9), k) for n, k in ((3, 3), (5, 4), (6, 8))
    ]
    given = lambda letters, looks, says: torch.einsum(letters, looks, says)
    mistakes = {
        "QK is read the wrong way round: its rows are destinations and its columns are sources.":
            lambda a, w, k: largest(given("sd,so->sdo", a, w), k),
        "OV is read the wrong way round: its rows are sources and its columns are outs.":
            lambda a, w, k: largest(given("ds,os->sdo", a, w), k),
        "the two tables have changed places: `looks` is attention, `says` is what is written.":
            lambda a, w, k: largest(given("ds,so->sdo", w, a), k),
        "the order of the three is off: (source, destination, out).":
            lambda a, w, k: [(d, s, o) for s, d, o in best_triples(a, w, k)],
        "attention and OV are added, and they multiply: what is not attended to writes nothing.":
            lambda a, w, k: largest(a.T[:, :, None] + w[:, None], k),
        "the sizes are ranked: a large negative entry pushes its out token down.":
            lambda a, w, k: largest(given("ds,so->sdo", a, w).abs(), k),
        "these are the smallest.": lambda a, w, k: largest(-given("ds,so->sdo", a, w), k),
        "the list is in rising order: the best comes first.": lambda a, w, k: best_triples(a, w, k)[::-1],
    }  # fmt: skip
    say = "where to look, times what to write"
    check_through(in_order, "best skip-trigrams", function, best_triples, cases, mistakes, say=say)


def in_order(answer):
    """Triples in a list, a tuple or a tensor as a list of tuples; anything else as it is."""
    rows = answer.tolist() if isinstance(answer, Tensor) else answer
    try:
        return [tuple(map(int, row)) for row in rows] if isinstance(rows, (list, tuple)) else answer
    except (TypeError, ValueError):
        return answer


def positivity(M: Tensor) -> Tensor:
    values = torch.linalg.eigvals(M)
    return values.real.sum() / values.abs().sum()


def check_copying_score(function: object) -> None:
    """Exercise 6: Σλ / Σ|λ| of a square table."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5]])
    cases = [(torch.eye(3),), (-2 * torch.eye(2),), (turn,), (random(6, 6, seed=1) - 1.5 * torch.eye(6),)]
    eig = torch.linalg.eigvals
    mistakes = {
        "this is the trace alone: divide by the sum of the sizes, or a loud head seems to copy better.":
            lambda M: torch.trace(M),
        "the absolute value comes last here, so the sign is lost: first |λ| of each eigenvalue, then their sum.":
            lambda M: eig(M).real.sum().abs() / eig(M).abs().sum(),
        "the absolute value is taken of the sum: take it of each eigenvalue, then sum.":
            lambda M: eig(M).real.sum() / eig(M).sum().abs(),
        "below the line stands Σ|Re λ|: the size of a complex eigenvalue has its imaginary part too.":
            lambda M: eig(M).real.sum() / eig(M).real.abs().sum(),
        "this is the share of eigenvalues with a positive real part: their sizes count too.":
            lambda M: (eig(M).real > 0).float().mean(),
        "a mean stands above the line and a sum below it, or the other way round: take sums of both.":
            lambda M: eig(M).real.mean() / eig(M).abs().sum(),
        "a sum stands above the line and a mean below it: take sums of both.":
            lambda M: eig(M).real.sum() / eig(M).abs().mean(),
        "this is divided by the number of eigenvalues and not by their sizes.": lambda M: eig(M).real.mean(),
        "singular values are never negative, so their ratio is always 1: take eigenvalues.":
            lambda M: torch.tensor(1.0),
        "this takes the diagonal: its sum equals Σλ, but Σ|λ| is not the sum of its sizes.":
            lambda M: torch.trace(M) / M.diagonal().abs().sum(),
    }  # fmt: skip
    say = "1 copies, −1 forbids, 0 does neither"
    check_through(real, "copying score", function, positivity, cases, mistakes, atol=1e-4, say=say)


def real(value):
    """A complex number whose imaginary part is rounding error counts as real."""
    if isinstance(value, complex):
        return value.real if abs(value.imag) < 1e-4 else value
    if isinstance(value, Tensor) and value.is_complex() and bool((value.imag.abs() < 1e-4).all()):
        return value.real
    return value


def spectrum(matrix: Tensor) -> Tensor:
    """Shape and coefficients of the characteristic polynomial: equal for equal eigenvalues, whatever their order."""
    powers = [torch.linalg.matrix_power(matrix.double(), p).trace() for p in range(1, len(matrix) + 1)]
    return torch.stack([torch.tensor(float(len(matrix))).double(), *powers])


def is_square(value) -> bool:
    """A square matrix, as a tensor or as nested lists."""
    shape = as_tensor(value).shape if is_number(value) else ()
    return len(shape) == 2 and shape[0] == shape[1]


def check_small_matrix(function: object) -> None:
    """Exercise 7: given X [V, k] and Y [k, V], a k × k matrix with the non-zero eigenvalues of X Y."""
    cases = [
        (random(v, k, seed=v) / v**0.5, random(k, v, seed=v + 5) / v**0.5)
        for v, k in ((4, 2), (9, 3), (30, 4))
    ]
    seen = lambda M: spectrum(as_tensor(M)) if is_square(M) else M
    mistakes = {
        "this is the large table itself: it has the right eigenvalues and many zeros besides, at the price of V × V.":
            lambda X, Y: spectrum(X @ Y),
        "this is the Gram matrix of X alone, and Y decides the eigenvalues too.": lambda X, Y: spectrum(X.T @ X),
        "this is the Gram matrix of Y alone, and X decides the eigenvalues too.": lambda X, Y: spectrum(Y @ Y.T),
        "the corner of the large table is not enough: every row and column counts.":
            lambda X, Y: spectrum((X @ Y)[: len(Y), : len(Y)]),
    }  # fmt: skip
    right = lambda X, Y: spectrum(Y @ X)
    say = "same eigenvalues, and nothing of size V × V"
    check_through(seen, "small matrix", function, right, cases, mistakes, atol=1e-4, say=say)
