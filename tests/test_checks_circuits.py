"""Every check of notebook 02: the solution and another right answer pass, wrong ones hear what went wrong."""

import pytest
import torch

from mi_course.checks import CheckFailed
from mi_course.checks import circuits as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def pattern(Q, K):
    scores = Q @ K.T / Q.shape[1] ** 0.5
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def pattern_row_by_row(Q, K):
    rows = torch.zeros(len(Q), len(K))
    for i, q in enumerate(Q):
        weight = ((K[: i + 1] @ q) / Q.shape[1] ** 0.5).exp()
        rows[i, : i + 1] = weight / weight.sum()
    return rows


def path(A, x, W_V, W_O, W_U):
    return A @ x @ W_V @ W_O @ W_U


def path_by_einsum(A, x, W_V, W_O, W_U):
    return torch.einsum("qk,kd,de,em,mv->qv", A, x, W_V, W_O, W_U)


def table(W_E, W_V, W_O, W_U, head):
    return W_E @ (W_V[head] @ W_O[head]) @ W_U


def table_of_all_heads(W_E, W_V, W_O, W_U, head):
    return torch.einsum("sd,hde,hem,mo->hso", W_E, W_V, W_O, W_U)[head]


def wrong_pairs(rules):
    raised = [(s, d, o) for s, d, _ in rules for t, _, o in rules if s == t]
    return [triple for triple in dict.fromkeys(raised) if triple not in rules]


def wrong_pairs_by_source(rules):
    found = set()
    for source in {s for s, _, _ in rules}:
        mine = [rule for rule in rules if rule[0] == source]
        found |= {(source, a[1], b[2]) for a in mine for b in mine}
    return found - set(rules)


def best(looks, says, k):
    V = len(looks)
    product = looks.T[:, :, None] * says[:, None, :]
    return [(i // V**2, i // V % V, i % V) for i in product.flatten().topk(k).indices.tolist()]


def best_as_tensor(looks, says, k):
    return torch.tensor(best(looks, says, k))


def best_by_sorting(looks, says, k):
    V = range(len(looks))
    triples = [(s, d, o) for s in V for d in V for o in V]
    return sorted(triples, key=lambda t: -float(looks[t[1], t[0]] * says[t[0], t[2]]))[:k]


def score(M):
    values = torch.linalg.eigvals(M)
    return values.sum() / values.abs().sum()


def score_by_trace(M):
    return float(M.trace() / torch.linalg.eigvals(M.double()).abs().sum())


def small(X, Y):
    return Y @ X


def small_turned(X, Y):
    turn = torch.linalg.qr(torch.randn(len(Y), len(Y)))[0]
    return turn.T @ (X.T @ Y.T) @ turn


RIGHT = [
    (checks.check_attention_pattern, [pattern, pattern_row_by_row]),
    (checks.check_head_path, [path, path_by_einsum]),
    (checks.check_ov_table, [table, table_of_all_heads]),
    (checks.check_wrong_pairs, [wrong_pairs, wrong_pairs_by_source]),
    (checks.check_best_triples, [best, best_by_sorting, best_as_tensor]),
    (checks.check_copying_score, [score, score_by_trace]),
    (checks.check_small_matrix, [small, small_turned]),
]


@pytest.mark.parametrize(
    "check, function", [(c, f) for c, answers in RIGHT for f in answers], ids=lambda v: v.__name__
)
def test_right_answers_pass(check, function, capsys):
    check(function)
    assert capsys.readouterr().out.startswith("✔ ")


# -- wrong answers: what each is told ------------------------------------------------------------------


def scores(Q, K):
    return Q @ K.T / Q.shape[1] ** 0.5


def eig(M):
    return torch.linalg.eigvals(M)


WRONG = [
    (checks.check_attention_pattern, lambda Q, K: scores(Q, K).softmax(-1), "mask is missing"),
    (checks.check_attention_pattern, lambda Q, K: pattern(Q * Q.shape[1] ** 0.5, K), "√d_head"),
    (checks.check_attention_pattern, lambda Q, K: pattern(K, Q), "swapped"),
    (
        checks.check_attention_pattern,
        lambda Q, K: scores(Q, K).masked_fill(torch.ones(len(Q), len(Q)).triu(1).bool(), -torch.inf).softmax(0),
        "wrong axis",
    ),
    (checks.check_attention_pattern, lambda Q, K: scores(Q, K).softmax(-1).tril(), "after the softmax"),
    (checks.check_head_path, lambda A, x, V, O, U: A.T @ x @ V @ O @ U, "transposed"),
    (checks.check_head_path, lambda A, x, V, O, U: x @ U + A @ x @ V @ O @ U, "direct path"),
    (checks.check_head_path, lambda A, x, V, O, U: x @ V @ O @ U, "left out"),
    (checks.check_head_path, lambda A, x, V, O, U: A @ x @ V @ O, "W_U is left out"),
    (checks.check_ov_table, lambda *c: table(*c).T, "transposed"),
    (checks.check_ov_table, lambda E, V, O, U, h: E @ V[h] @ O[h], "W_U is forgotten"),
    (checks.check_ov_table, lambda E, V, O, U, h: table(E, V, O, U, h - 1), "wrong head"),
    (checks.check_ov_table, lambda E, V, O, U, h: table(E, V, O, U, 0), "wrong head"),
    (checks.check_ov_table, lambda E, V, O, U, h: sum(table(E, V, O, U, i) for i in range(3)), "all heads"),
    (checks.check_wrong_pairs, lambda r: set(wrong_pairs(r)) | set(r), "leave them out"),
    (
        checks.check_wrong_pairs,
        lambda r: {(s, d, o) for s, _, _ in r for _, d, _ in r for _, _, o in r} - set(r),
        "sources are mixed",
    ),
    (checks.check_wrong_pairs, lambda r: [(s, o, d) for s, d, o in wrong_pairs(r)], "changed places"),
    (checks.check_wrong_pairs, lambda r: [], "nothing comes out"),
    (checks.check_best_triples, lambda a, w, k: best(a.T, w, k), "QK is read the wrong way round"),
    (checks.check_best_triples, lambda a, w, k: best(a, w.T, k), "OV is read the wrong way round"),
    (checks.check_best_triples, lambda a, w, k: [(d, s, o) for s, d, o in best(a, w, k)], "order of the three"),
    (checks.check_best_triples, lambda a, w, k: best(a, w, k)[::-1], "rising order"),
    (checks.check_copying_score, lambda M: M.trace(), "trace alone"),
    (checks.check_copying_score, lambda M: eig(M).sum().abs() / eig(M).abs().sum(), "sign is lost"),
    (checks.check_copying_score, lambda M: eig(M).real.sum() / eig(M).real.abs().sum(), "imaginary part"),
    (checks.check_copying_score, lambda M: (eig(M).real > 0).float().mean(), "share of eigenvalues"),
    (checks.check_copying_score, lambda M: torch.linalg.svdvals(M).sum() / torch.linalg.svdvals(M).sum(), "singular"),
    (checks.check_small_matrix, lambda X, Y: X @ Y, "large table"),
    (checks.check_small_matrix, lambda X, Y: X.T @ X, "Gram"),
    (checks.check_small_matrix, lambda X, Y: (X @ Y)[: len(Y), : len(Y)], "corner"),
]  # fmt: skip


@pytest.mark.parametrize("check, function, keyword", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, function, keyword):
    with pytest.raises(CheckFailed) as failed:
        check(function)
    assert keyword in str(failed.value)
    assert len(str(failed.value)) < 220


def changes_its_input(*case):
    for part in case:
        if isinstance(part, torch.Tensor):
            part += 1
    return case[0]


def not_a_number(*case):
    return torch.full((3, 3), float("nan"))


@pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "function, keyword",
    [
        (lambda: 0, "arguments"),
        (lambda *case: print("12"), "nothing"),
        (lambda *case: "twelve", ": "),
        (lambda *case: case[0][10**9], "raises"),
        (torch.eye(2), "function itself"),
        (not_a_number, ": "),
    ],
)
def test_unusable_answers_get_a_sentence(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(function)


@pytest.mark.parametrize(
    "check", [c for c, _ in RIGHT if c is not checks.check_wrong_pairs], ids=lambda c: c.__name__
)
def test_inputs_stay_as_they_were(check):
    with pytest.raises(CheckFailed, match="in place"):
        check(changes_its_input)


@pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda c: c.__name__)
def test_unwritten_answers_are_told_so(check):
    def unwritten(*case):
        raise NotImplementedError

    with pytest.raises(CheckFailed, match="not written yet"):
        check(unwritten)
