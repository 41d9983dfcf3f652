"""Every check of notebook 08: the solution and another right answer pass, wrong ones hear what went wrong."""

import pytest
import torch

from mi_course.checks import CheckFailed
from mi_course.checks import ioi as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def strangers(prompt, names, fresh):
    new = iter(fresh)
    return [next(new) if word in names else word for word in prompt]


def strangers_in_one_text(prompt, names, fresh):
    places = [i for i, word in enumerate(prompt) if word in names]
    made = list(prompt)
    for place, new in zip(places, fresh):
        made[place] = new
    return " ".join(made)


def frozen_norm(writes, w, W_U, right, wrong, eps):
    final = writes.sum(0)
    scale = (final.square().mean() + eps).rsqrt()
    return (writes * scale * w) @ (W_U[:, right] - W_U[:, wrong])


def frozen_norm_by_logits(writes, w, W_U, right, wrong, eps):
    logits = writes * w @ W_U / torch.sqrt(torch.mean(writes.sum(0) ** 2) + eps)
    return (logits[:, right] - logits[:, wrong]).tolist()


def copy_score(x, W_OV, W_U, tokens, k):
    logits = x @ W_OV @ W_U
    own = logits.gather(1, tokens[:, None])
    return ((logits > own).sum(1) < k).float().mean()


def copy_score_by_topk(x, W_OV, W_U, tokens, k):
    found = [int(t) in (row @ W_OV @ W_U).topk(k).indices.tolist() for row, t in zip(x, tokens)]
    return sum(found) / len(found)


def faithfulness(circuit, empty, full):
    low, high = empty.mean(), full.mean()
    return (circuit.mean() - low) / (high - low)


def faithfulness_of_sums(circuit, empty, full):
    return float((circuit - empty).sum() / (full - empty).sum())


def s_inhibition(to_s2, to_s1, intact):
    rise = (to_s1 - intact).masked_fill(to_s2 < 0.3, -torch.inf)
    return divmod(int(rise.argmax()), rise.shape[1])


def s_inhibition_by_loop(to_s2, to_s1, intact):
    heads = [(i, j) for i in range(len(to_s2)) for j in range(to_s2.shape[1]) if to_s2[i, j] >= 0.3]
    return list(max(heads, key=lambda head: float(to_s1[head] - intact[head])))


def position_and_token(clean, flipped, renamed, both):
    lost = torch.stack([clean.mean() - other.mean() for other in (flipped, renamed)])
    return lost / (clean.mean() - both.mean())


def position_and_token_of_sums(clean, flipped, renamed, both):
    drop = (clean - both).sum()
    return [float((clean - flipped).sum() / drop), float((clean - renamed).sum() / drop)]


def strengths(additive, contrastive):
    ahead = additive[1] + additive[2] - additive[0]
    taken = contrastive[1] + contrastive[2] - contrastive[0]
    return float(ahead / taken), float(additive[0] / contrastive[0])


def strengths_by_bisection(additive, contrastive):
    """IO above S from low on, above nobody's 0 up to high."""
    above_s = lambda c: (additive[0] - c * contrastive[0]) > (additive[1:] - c * contrastive[1:]).sum()
    below, above = -100.0, 100.0
    for _ in range(80):
        middle = (below + above) / 2
        below, above = (below, middle) if above_s(middle) else (middle, above)
    return [above, float(additive[0]) / float(contrastive[0])]


def made_up_for(before, after, out):
    others = [head for head in range(len(before)) if head not in out]
    return (after - before).mean(1)[others].sum() / before[out].mean(1).sum()


def made_up_for_by_mask(before, after, out):
    gone = torch.zeros(len(before), dtype=torch.bool)
    gone[out] = True
    return float((after - before)[~gone].sum() / before[gone].sum())


RIGHT = [
    (checks.check_counterfactual, [strangers, strangers_in_one_text]),
    (checks.check_frozen_norm, [frozen_norm, frozen_norm_by_logits]),
    (checks.check_copying, [copy_score, copy_score_by_topk]),
    (checks.check_faithfulness, [faithfulness, faithfulness_of_sums]),
    (checks.check_s_inhibition, [s_inhibition, s_inhibition_by_loop]),
    (checks.check_position_or_token, [position_and_token, position_and_token_of_sums]),
    (checks.check_two_heads, [strengths, strengths_by_bisection]),
    (checks.check_given_back, [made_up_for, made_up_for_by_mask]),
]


@pytest.mark.parametrize(
    "check, function", [(c, f) for c, answers in RIGHT for f in answers], ids=lambda v: v.__name__
)
def test_right_answers_pass(check, function, capsys):
    check(function)
    assert capsys.readouterr().out.startswith("✔ ")


# -- wrong answers: what each is told ------------------------------------------------------------------


def by_person(prompt, names, fresh):
    new = {}
    for word in prompt:
        if word in names:
            new.setdefault(word, fresh[len(new)] if word not in new else None)
    return [new.get(word, word) for word in prompt]


def own_norms(writes, w, W_U, right, wrong, eps):
    scale = (writes.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (writes * scale * w) @ (W_U[:, right] - W_U[:, wrong])


def right_alone(writes, w, W_U, right, wrong, eps):
    scale = (writes.sum(0).square().mean() + eps).rsqrt()
    return (writes * scale * w) @ W_U[:, right]


def brightest(to_s2, to_s1, intact):
    return divmod(int(to_s2.argmax()), to_s2.shape[1])


def largest_rise(to_s2, to_s1, intact):
    return divmod(int((to_s1 - intact).argmax()), to_s1.shape[1])


def level(to_s2, to_s1, intact):
    return s_inhibition(to_s2, to_s1, 0 * intact)


def any_change(to_s2, to_s1, intact):
    return s_inhibition(to_s2, (to_s1 - intact).abs(), 0)


WRONG = [
    (checks.check_counterfactual, by_person, "still said twice"),
    (checks.check_counterfactual, lambda p, n, f: [w for w in p if w not in n], "shorter"),
    (checks.check_counterfactual, lambda p, n, f: strangers(p[::-1], n, f)[::-1], "another order"),
    (checks.check_counterfactual, lambda p, n, f: list(p), "as it was"),
    (checks.check_frozen_norm, own_norms, "its own size"),
    (checks.check_frozen_norm, right_alone, "right answer's logit alone"),
    (checks.check_frozen_norm, lambda x, w, W, r, s, e: x @ (W[:, r] - W[:, s]), "not applied"),
    (checks.check_frozen_norm, lambda x, w, W, r, s, e: frozen_norm(x, w * 0 + 1, W, r, s, e), "weight"),
    (checks.check_frozen_norm, lambda x, w, W, r, s, e: frozen_norm(x, w, W, r, s, 0), "eps"),
    (checks.check_copying, lambda x, M, W, t, k: copy_score(x, -M, W, t, k), "negative copying"),
    (checks.check_copying, lambda x, M, W, t, k: copy_score(x, M.T, W, t, k), "transposed"),
    (checks.check_copying, lambda x, M, W, t, k: copy_score(x, M, W, t, 1), "first place"),
    (checks.check_copying, lambda x, M, W, t, k: copy_score(x, M, W, t, k + 1), "too many"),
    (checks.check_faithfulness, lambda c, e, f: c.mean() / f.mean(), "measure from there"),
    (checks.check_faithfulness, lambda c, e, f: ((c - e) / (f - e)).mean(), "drown"),
    (checks.check_faithfulness, lambda c, e, f: faithfulness(c, e, f).clamp(0, 1), "clipped"),
    (checks.check_faithfulness, lambda c, e, f: 1 - faithfulness(c, e, f), "lacks"),
    (checks.check_s_inhibition, brightest, "looked before"),
    (checks.check_s_inhibition, largest_rise, "never looks"),
    (checks.check_s_inhibition, any_change, "fall"),
    (checks.check_s_inhibition, level, "not the level"),
    (checks.check_s_inhibition, lambda *c: s_inhibition(*c)[::-1], "exchanged"),
    (checks.check_position_or_token, lambda c, f, r, b: position_and_token(c, r, f, b), "position first"),
    (
        checks.check_position_or_token,
        lambda c, f, r, b: [c.mean() - f.mean(), c.mean() - r.mean()],
        "not shares",
    ),
    (
        checks.check_position_or_token,
        lambda c, f, r, b: torch.stack([c.mean() - f.mean(), c.mean() - r.mean()]) / c.mean(),
        "shares of the drop",
    ),
    (
        checks.check_position_or_token,
        lambda c, f, r, b: [(x := position_and_token(c, f, r, b)[0]), 1 - x],
        "add up to 1",
    ),
    (checks.check_two_heads, lambda a, b: strengths(a, b)[::-1], "exchanged"),
    (
        checks.check_two_heads,
        lambda a, b: ((a[2] - a[0]) / (b[2] - b[0]), a[0] / b[0]),
        "both places",
    ),
    (
        checks.check_two_heads,
        lambda a, b: ((a[1] + a[2] - a[0]) / (b[1] + b[2]), a[0] / b[0]),
        "from IO, too",
    ),
    (checks.check_given_back, lambda b, a, o: (a - b).mean(1).sum() / b[o].mean(1).sum(), "that are out"),
    (checks.check_given_back, lambda b, a, o: 1 - made_up_for(b, a, o), "not made up for"),
    (
        checks.check_given_back,
        lambda b, a, o: a[[h for h in range(len(b)) if h not in o]].mean(1).sum() / b[o].mean(1).sum(),
        "how much more",
    ),
]


@pytest.mark.parametrize("check, function, keyword", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, function, keyword):
    with pytest.raises(CheckFailed) as failed:
        check(function)
    assert keyword in str(failed.value)
    assert len(str(failed.value)) < 220


@pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "function, keyword",
    [(lambda: 0, "arguments"), (lambda *case: print("12"), "nothing"), (lambda *case: {"a": 1}, ": ")],
)
def test_unusable_answers_get_a_sentence(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(function)
