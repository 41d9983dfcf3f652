"""Every check of notebook 05: the solution and another right answer pass, wrong ones hear what went wrong."""

import pytest
import torch

from mi_course.checks import CheckFailed
from mi_course.checks import sae as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def autoencode(x, W_enc, b_enc, W_dec, b_dec):
    f = ((x - b_dec) @ W_enc + b_enc).relu()
    return f, f @ W_dec + b_dec


def autoencode_one_by_one(x, W_enc, b_enc, W_dec, b_dec):
    rows = [[max(0.0, float((row - b_dec) @ W_enc[:, i] + b_enc[i])) for i in range(len(b_enc))] for row in x]
    f = torch.tensor(rows)
    return [f, torch.stack([b_dec + sum(a * d for a, d in zip(row, W_dec, strict=True)) for row in f])]


def l1_loss(x, f, W_dec, b_dec, l1, by_norm):
    price = W_dec.norm(dim=1) if by_norm else 1.0
    return (x - (f @ W_dec + b_dec)).square().sum(-1).mean() + l1 * (f * price).sum(-1).mean()


def l1_loss_by_rescaling(x, f, W_dec, b_dec, l1, by_norm):
    if by_norm:  # the same loss for features rescaled so that every decoder row has length 1
        length = W_dec.norm(dim=1, keepdim=True)
        return l1_loss_by_rescaling(x, f * length.T, W_dec / length, b_dec, l1, False)
    return float(((x - f @ W_dec - b_dec) ** 2).sum() / len(x) + l1 * f.abs().sum() / len(x))


def topk_backward(pre, k, grad):
    passes = torch.zeros_like(pre).scatter(-1, pre.topk(k).indices, 1.0)
    return grad * passes * (pre > 0)


def topk_backward_by_autograd(pre, k, grad):
    with torch.enable_grad():
        leaf = pre.clone().requires_grad_()
        top = leaf.relu().topk(k)
        torch.zeros_like(leaf).scatter(-1, top.indices, top.values).backward(grad)
    return leaf.grad * (pre > 0)


def projected(grad, W_dec):
    return grad - (grad * W_dec).sum(1, keepdim=True) * W_dec


def projected_by_rows(grad, W_dec):
    size = W_dec.shape[1]
    return torch.stack([g @ (torch.eye(size) - torch.outer(w, w)) for g, w in zip(grad, W_dec, strict=True)])


def probabilities(x, x_hat):
    loss = (x - x_hat).square().sum(1)
    return loss**2 / (loss**2).sum()


def probabilities_by_norms(x, x_hat):
    weights = [float((a - b).norm()) ** 4 for a, b in zip(x, x_hat, strict=True)]
    return [weight / sum(weights) for weight in weights]


def recovered(losses, against):
    return (losses[against] - losses["spliced"]) / (losses[against] - losses["model"])


def recovered_as_one_minus_lost(losses, against):
    return torch.tensor([1 - (losses["spliced"] - losses["model"]) / (losses[against] - losses["model"])])


def enrichment(f, proxy):
    return proxy[f > 0].float().mean() / proxy.float().mean()


def enrichment_by_bayes(f, proxy):
    return float((f[proxy] > 0).double().mean() / (f > 0).double().mean())


def children(parents, larger, cut):
    cosine = torch.nn.functional.cosine_similarity(parents[:, None], larger[None], dim=-1)
    mine = torch.arange(len(parents))[:, None] == cosine.argmax(0)
    return mine & (cosine >= cut)


def children_one_by_one(parents, larger, cut):
    table = [[0] * len(larger) for _ in parents]
    for j, row in enumerate(larger):
        near = [float(row @ p / row.norm() / p.norm()) for p in parents]
        if max(near) >= cut:
            table[near.index(max(near))][j] = 1
    return table


RIGHT = [
    (checks.check_shapes, [autoencode, autoencode_one_by_one]),
    (checks.check_l1_loss, [l1_loss, l1_loss_by_rescaling]),
    (checks.check_topk_backward, [topk_backward, topk_backward_by_autograd]),
    (checks.check_projected_gradient, [projected, projected_by_rows]),
    (checks.check_resampling, [probabilities, probabilities_by_norms]),
    (checks.check_loss_recovered, [recovered, recovered_as_one_minus_lost]),
    (checks.check_enrichment, [enrichment, enrichment_by_bayes]),
    (checks.check_split, [children, children_one_by_one]),
]


@pytest.mark.parametrize(
    "check, function", [(c, f) for c, answers in RIGHT for f in answers], ids=lambda v: v.__name__
)
def test_right_answers_pass(check, function, capsys):
    check(function)
    assert capsys.readouterr().out.startswith("✔ ")


# -- wrong answers: what each is told ------------------------------------------------------------------


def cosines(parents, larger):
    return torch.nn.functional.cosine_similarity(parents[:, None], larger[None], dim=-1)


def share(values):
    return values / values.sum()


WRONG = [
    (checks.check_shapes, lambda x, E, b, D, c: ((f := (x @ E + b).relu()), f @ D + c), "not subtracted"),
    (checks.check_shapes, lambda x, E, b, D, c: ((f := ((x - c) @ E + b).relu()), f @ D), "not added back"),
    (checks.check_shapes, lambda x, E, b, D, c: ((f := (x - c) @ E + b), f @ D + c), "no ReLU"),
    (checks.check_shapes, lambda x, E, b, D, c: ((f := ((x - c) @ D.T + b).relu()), f @ D + c), "not tied"),
    (checks.check_shapes, lambda *given: autoencode(*given)[::-1], "wrong way round"),
    (checks.check_shapes, lambda *given: autoencode(*given)[1], "reconstruction alone"),
    (checks.check_shapes, lambda *given: autoencode(*given)[0], "features alone"),
    (checks.check_l1_loss, lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, False), "never used"),
    (checks.check_l1_loss, lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, True), "always used"),
    (
        checks.check_l1_loss,
        lambda x, f, W, b, l, n: (x - f @ W - b).square().mean() + l * (f * (W.norm(dim=1) if n else 1)).sum(1).mean(),
        "averaged over coordinates",
    ),
    (checks.check_l1_loss, lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, n) * len(x), "batch is summed"),
    (checks.check_l1_loss, lambda x, f, W, b, l, n: l1_loss(x, f, W, b, 0.0, n), "penalty is missing"),
    (
        checks.check_l1_loss,
        lambda x, f, W, b, l, n: l1_loss(x, f, W, b, 0, n) + l * ((f > 0) * (W.norm(dim=1) if n else 1.0)).sum(1).mean(),
        "L0",
    ),
    (checks.check_topk_backward, lambda p, k, g: g.clone(), "not kept"),
    (checks.check_topk_backward, lambda p, k, g: g * (p > 0), "ReLU's backward"),
    (checks.check_topk_backward, lambda p, k, g: g * (p >= p.topk(k).values[:, -1:]), "cut by the ReLU"),
    (checks.check_topk_backward, lambda p, k, g: topk_backward(p, k, g) * p, "slope is 1"),
    (checks.check_topk_backward, lambda p, k, g: topk_backward(p, k, p), "forward pass"),
    (checks.check_projected_gradient, lambda g, W: (g * W).sum(1, keepdim=True) * W, "to be taken away"),
    (checks.check_projected_gradient, lambda g, W: g - (g * W).sum(0, keepdim=True) * W, "columns"),
    (checks.check_projected_gradient, lambda g, W: g - g @ W.T @ W, "other rows"),
    (checks.check_projected_gradient, lambda g, W: g - W, "weigh it"),
    (checks.check_projected_gradient, lambda g, W: g.clone(), "as it was"),
    (checks.check_resampling, lambda x, y: share((x - y).square().sum(1)), "its square is wanted"),
    (checks.check_resampling, lambda x, y: share((x - y).norm(dim=1)), "root of the loss"),
    (checks.check_resampling, lambda x, y: (x - y).square().sum(1).square(), "do not sum to 1"),
    (checks.check_resampling, lambda x, y: torch.ones(len(x)) / len(x), "equally likely"),
    (checks.check_resampling, lambda x, y: share((x - y).square().sum(0).square()), "other axis"),
    (checks.check_loss_recovered, lambda l, a: recovered(l, "zero"), "asked for"),
    (checks.check_loss_recovered, lambda l, a: 1 - recovered(l, a), "part that is lost"),
    (checks.check_loss_recovered, lambda l, a: l["model"] / l["spliced"], "ratio of losses"),
    (checks.check_loss_recovered, lambda l, a: l[a] - l["spliced"], "nats"),
    (checks.check_loss_recovered, lambda l, a: min(max(recovered(l, a), 0), 1), "clipped"),
    (checks.check_enrichment, lambda f, p: p[f > 0].float().mean(), "purity"),
    (checks.check_enrichment, lambda f, p: (f[p] > 0).float().mean(), "recall"),
    (checks.check_enrichment, lambda f, p: p[f > 0].float().mean() / p[f == 0].float().mean(), "silent"),
    (checks.check_enrichment, lambda f, p: f[p].sum() / f.sum() / p.float().mean(), "weighed"),
    (checks.check_enrichment, lambda f, p: enrichment(f, p).log(), "logarithm"),
    (checks.check_split, lambda P, L, c: cosines(P, L) >= c, "two parents"),
    (checks.check_split, lambda P, L, c: (P @ L.T >= c) & (P @ L.T == (P @ L.T).max(0).values), "length 1"),
    (checks.check_split, lambda P, L, c: cosines(P, L) == cosines(P, L).max(0).values, "orphan"),
    (
        checks.check_split,
        lambda P, L, c: (cosines(P, L) == cosines(P, L).max(1, keepdim=True).values) & (cosines(P, L) >= c),
        "nearest child only",
    ),
    (checks.check_split, lambda P, L, c: children(P, L, c).T, "transposed"),
]  # fmt: skip


@pytest.mark.parametrize("check, function, keyword", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, function, keyword):
    with pytest.raises(CheckFailed) as failed:
        check(function)
    assert keyword in str(failed.value)
    assert len(str(failed.value)) < 220


def test_a_reference_without_a_rescaling_gain():
    """What check_l1_loss teaches: with norms, halving d_i and doubling f_i leaves the loss; without, it changes it."""
    rng = torch.Generator().manual_seed(0)
    x, W, b = (
        torch.randn(5, 4, generator=rng),
        torch.randn(6, 4, generator=rng),
        torch.randn(4, generator=rng),
    )
    f = torch.randn(5, 6, generator=rng).relu()
    for by_norm in (True, False):
        before, after = (checks.l1_loss(x, f * s, W / s, b, 0.5, by_norm) for s in (1.0, 2.0))
        assert torch.allclose(before, after) == by_norm


def changes_its_input(*case):
    for part in case:
        if isinstance(part, torch.Tensor):
            part.copy_(~part if part.dtype == torch.bool else part + 1)
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
        (not_a_number, "NaN"),
    ],
)
def test_unusable_answers_get_a_sentence(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(function)


@pytest.mark.parametrize(
    "check", [c for c, _ in RIGHT if c is not checks.check_loss_recovered], ids=lambda c: c.__name__
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
