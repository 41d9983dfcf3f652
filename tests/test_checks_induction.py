"""Every check of notebook 03: the solution and another right answer pass, wrong ones hear what went wrong."""

import pytest
import torch

from mi_course.checks import CheckFailed
from mi_course.checks import induction as checks

# -- circuits by hand ----------------------------------------------------------------------------


def guess(tokens):
    found = []
    for i, token in enumerate(tokens):
        earlier = [j for j in range(i) if tokens[j] == token]
        found.append(tokens[earlier[-1] + 1] if earlier else -1)
    return found


def guess_with_a_memory(tokens):
    after, found = {}, []
    for i, token in enumerate(tokens):
        if i:
            after[tokens[i - 1]] = token
        found.append(after.get(token, -1))
    return found


def guess_peeking(tokens):
    return [tokens[i + 1] if i + 1 < len(tokens) else -1 for i in range(len(tokens))]


def guess_later(tokens):
    found = []
    for i, token in enumerate(tokens):
        others = [j for j in range(len(tokens)) if j != i and tokens[j] == token]
        at = others[-1] + 1 if others else -1
        found.append(tokens[at] if 0 <= at < len(tokens) else -1)
    return found


def guess_the_copy(tokens):
    return [token if token in tokens[:i] else -1 for i, token in enumerate(tokens)]


def guess_earliest(tokens):
    return [tokens[tokens.index(t) + 1] if t in tokens[:i] else -1 for i, t in enumerate(tokens)]


def pattern(scores):
    n = len(scores)
    return scores.masked_fill(~torch.ones(n, n).tril().bool(), -torch.inf).softmax(-1)


def pattern_by_exponentials(scores):
    weights = scores.exp().tril()
    return weights / weights.sum(1, keepdim=True)


def strict_pattern(scores):
    return scores.masked_fill(torch.ones_like(scores).triu(0).bool(), -torch.inf).softmax(-1)


def prefix(pattern, period):
    queries = torch.arange(period, 2 * period)
    return pattern[queries, queries - period + 1].mean()


def prefix_in_a_loop(pattern, period):
    return sum(float(pattern[q, q - period + 1]) for q in range(period, 2 * period)) / period


def shift(n, sharpness):
    scores = torch.zeros(n, n)
    for i in range(1, n):
        scores[i, i - 1] = sharpness
    return scores


def shift_with_a_constant(n, sharpness):
    return shift(n, sharpness) + torch.arange(n)[:, None] - 5.0  # softmax cannot see what a row has in common


def shift_that_wraps(n, sharpness):
    return sharpness * torch.eye(n).roll(-1, 1)  # what the first row asks for, the mask hides


def shift_by_a_penalty(n, sharpness):
    return torch.where(torch.arange(n)[:, None] - torch.arange(n) == 1, 0.0, -sharpness)


def k_score(W_OV, W_QK):
    return (W_OV @ W_QK.T).norm() / (W_OV.norm() * W_QK.norm())


def k_score_by_trace(W_OV, W_QK):
    product = W_QK @ W_OV.T
    squares = [torch.trace(M @ M.T) for M in (product, W_OV, W_QK)]
    return (squares[0] / squares[1] / squares[2]) ** 0.5


def position_block(model):
    V, P = model.cfg.d_vocab, model.cfg.n_ctx
    return slice(2 * V, 2 * V + P), P


def two_on(model):
    block, P = position_block(model)
    W_Q = model.blocks[0].attn.W_Q
    W_Q[0, block, :P] = W_Q.max() * torch.ones(P - 2).diag(-2)
    return model


def two_on_by_keys(model):
    block, P = position_block(model)
    model.blocks[0].attn.W_K[0, block, :P] = torch.ones(P - 1).diag(1)  # position j answers for j + 1
    return model


def three_on(model):
    block, P = position_block(model)
    model.blocks[0].attn.W_K[0, block, :P] = torch.ones(P - 2).diag(2)
    return model


def seventeen(model):
    P = model.cfg.n_ctx
    model.blocks[0].attn.W_Q[0, 34 : 34 + P, :P] = model.blocks[0].attn.W_Q.max() * torch.ones(P - 2).diag(-2)
    return model


def restless(model):
    model.blocks[1].attn.W_Q[0, :, -1] = 0
    return two_on(model)


def shift_gone(model):
    block, P = position_block(model)
    model.blocks[0].attn.W_K[0, block, :P] = torch.ones(P - 1).diag(-1)
    return model


def silent(model):
    model.blocks[0].attn.W_V.zero_()
    return model


def share_lost(intact, cut, period):
    gain = lambda losses: losses[:, : period - 1].mean() - losses[:, period:].mean()
    return 1 - gain(cut) / gain(intact)


def share_lost_by_sums(intact, cut, period):
    gains = []
    for losses in (intact, cut):
        halves = torch.cat([losses[:, : period - 1], -losses[:, period:]], dim=1)
        gains.append(float(halves.double().sum()))
    return (gains[0] - gains[1]) / gains[0]


def share_by_row(intact, cut, period):
    return torch.stack([share_lost(a[None], b[None], period) for a, b in zip(intact, cut)]).mean()


def share_with_the_unknown(intact, cut, period):
    gain = lambda losses: losses[:, : period - 1].mean() - losses[:, period - 1 :].mean()
    return 1 - gain(cut) / gain(intact)


def share_of_the_second_copy(intact, cut, period):
    rise = (cut - intact)[:, period:].mean()
    return rise / (intact[:, : period - 1].mean() - intact[:, period:].mean())


RIGHT = [
    (checks.check_share_of_gain_lost, share_lost),
    (checks.check_share_of_gain_lost, share_lost_by_sums),
    (checks.check_induction_guess, guess),
    (checks.check_induction_guess, guess_with_a_memory),
    (checks.check_causal_pattern, pattern),
    (checks.check_causal_pattern, pattern_by_exponentials),
    (checks.check_prefix_matching, prefix),
    (checks.check_prefix_matching, prefix_in_a_loop),
    (checks.check_previous_token_scores, shift),
    (checks.check_previous_token_scores, lambda n, s: s * torch.eye(n + 1)[:n, 1:]),
    (checks.check_composed_pattern, lambda first, second: second @ first),
    (checks.check_composed_pattern, lambda first, second: torch.einsum("qm,mk->qk", second, first)),
    (checks.check_k_composition, k_score),
    (checks.check_k_composition, k_score_by_trace),
    (checks.check_previous_token_scores, shift_with_a_constant),
    (checks.check_previous_token_scores, shift_that_wraps),
    (checks.check_previous_token_scores, shift_by_a_penalty),
    (checks.check_say_two_on, two_on),
    (checks.check_say_two_on, two_on_by_keys),
]  # fmt: skip

WRONG = [
    (checks.check_share_of_gain_lost, lambda a, b, p: 1 - share_lost(a, b, p), "that is left"),
    (checks.check_share_of_gain_lost, lambda a, b, p: share_lost(b, a, p), "exchanged"),
    (checks.check_share_of_gain_lost, share_of_the_second_copy, "dearer too"),
    (checks.check_share_of_gain_lost, share_with_the_unknown, "counted with the second"),
    (checks.check_share_of_gain_lost, share_by_row, "each row's own"),
    (checks.check_share_of_gain_lost, lambda a, b, p: share_lost(a, b, p).clamp(0, 1), "clipped"),
    (checks.check_share_of_gain_lost, lambda a, b, p: share_lost(a[:, 1:], b[:, 1:], p), "too late|by hand"),
    (checks.check_induction_guess, guess_peeking, "future"),
    (checks.check_induction_guess, guess_later, "later"),
    (checks.check_induction_guess, guess_the_copy, "off by one"),
    (checks.check_induction_guess, guess_earliest, "earliest"),
    (checks.check_induction_guess, lambda tokens: print(tokens), "print"),
    (checks.check_causal_pattern, lambda s: s.softmax(-1), "mask is missing"),
    (checks.check_causal_pattern, lambda s: pattern(s.T).T, "axis|right"),
    (checks.check_causal_pattern, lambda s: s.masked_fill(torch.ones_like(s).triu(1) > 0, -1e9).softmax(0), "axis"),
    (checks.check_causal_pattern, lambda s: s.softmax(-1).tril(), "sum to 1"),
    (checks.check_causal_pattern, lambda s: (s * torch.ones_like(s).tril()).softmax(-1), "e⁰"),
    (checks.check_causal_pattern, strict_pattern, "NaN"),
    (checks.check_prefix_matching, lambda p, n: p.diagonal(offset=-n).mean(), "off by one"),
    (checks.check_prefix_matching, lambda p, n: p.diagonal(offset=-n - 1)[-n:].sum() / n, "came before"),
    (checks.check_prefix_matching, lambda p, n: prefix(p.T, n), "axis"),
    (checks.check_prefix_matching, lambda p, n: p.diagonal(offset=1 - n).mean(), "whole diagonal"),
    (checks.check_prefix_matching, lambda p, n: n * prefix(p, n), "sum"),
    (checks.check_previous_token_scores, lambda n, s: shift(n, s).T, "transposed"),
    (checks.check_previous_token_scores, lambda n, s: s * torch.eye(n), "itself"),
    (checks.check_previous_token_scores, lambda n, s: shift(n, 1), "sharpness"),
    (checks.check_composed_pattern, lambda first, second: first @ second, "order"),
    (checks.check_composed_pattern, lambda first, second: first * second, "entry by entry"),
    (checks.check_composed_pattern, lambda first, second: (second @ first).T, "transposed"),
    (checks.check_composed_pattern, lambda first: first, "arguments"),
    (checks.check_k_composition, lambda OV, QK: k_score(OV, QK.T), "Q-composition"),
    (checks.check_k_composition, lambda OV, QK: k_score(OV.T, QK), "W_OV is transposed"),
    (checks.check_k_composition, lambda OV, QK: (OV @ QK.T).norm(), "norms"),
    (checks.check_k_composition, lambda OV, QK: k_score(OV, QK).item() + float("nan"), "NaN"),
    (checks.check_say_two_on, lambda model: model, "one after"),
    (checks.check_say_two_on, three_on, "three"),
    (checks.check_say_two_on, shift_gone, "present token"),
    (checks.check_say_two_on, silent, "nothing"),
    (checks.check_say_two_on, seventeen, "say two on"),
    (checks.check_say_two_on, restless, "place of rest"),
    (checks.check_say_two_on, lambda model: None, "return"),
]  # fmt: skip


def name(item):
    return getattr(item, "__name__", str(item))


@pytest.mark.parametrize("check, solution", RIGHT, ids=name)
def test_right_answers_pass(check, solution, capsys):
    check(solution)
    assert capsys.readouterr().out.startswith("✔")


@pytest.mark.parametrize("check, mistake, keyword", WRONG, ids=name)
def test_wrong_answers_hear_what_went_wrong(check, mistake, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(mistake)
