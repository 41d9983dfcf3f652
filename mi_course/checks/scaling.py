"""Checks of notebook 07, scaling monosemanticity."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_course.checks import CheckFailed, answer, as_tensor, check
from mi_course.checks.circuits import check_through, random


def parts(n: int, s: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, features at or above 0, rows of different lengths, a bias."""
    f = random(n, s, seed=seed).relu()
    rows = random(s, d, seed=seed + 1) * torch.linspace(0.3, 2.5, s)[:, None]
    return random(n, d, seed=seed + 2) * 2, f, rows, random(d, seed=seed + 3)


def squared(t: Tensor, f: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return (t - f @ W - b).square().sum(1).mean()


def with_norms(t: Tensor, f: Tensor, W: Tensor, b: Tensor, lam: float) -> Tensor:
    return squared(t, f, W, b) + lam * (f * W.norm(dim=1)).sum(1).mean()


def check_loss(function: object) -> None:
    """Exercise 1: squared error and a penalty with decoder norms."""
    cases = [
        (*parts(n, s, d, 10 * n), lam) for n, s, d, lam in ((6, 5, 3, 0.7), (9, 4, 6, 5.0), (4, 8, 5, 2.0))
    ]
    mistakes = {
        "the penalty leaves out what a feature writes: where is its row's length?":
            lambda t, f, W, b, lam: squared(t, f, W, b) + lam * f.sum(1).mean(),
        "the rows' lengths are squared: take the norm.":
            lambda t, f, W, b, lam: squared(t, f, W, b) + lam * (f * W.square().sum(1)).sum(1).mean(),
        "the norm is taken over the features: each row [d] has one.":
            lambda t, f, W, b, lam: squared(t, f, W, b) + lam * f.sum(1).mean() * W.norm(),
        "the squared error is a mean over dimensions: sum there.":
            lambda t, f, W, b, lam: (t - f @ W - b).square().mean() + lam * (f @ W.norm(dim=1)).mean(),
        "the penalty is a sum over inputs: take its mean.":
            lambda t, f, W, b, lam: squared(t, f, W, b) + lam * (f @ W.norm(dim=1)).sum(),
        "the bias of the decoder is forgotten.":
            lambda t, f, W, b, lam: with_norms(t, f, W, 0 * b, lam),
        "the penalty is missing.": lambda t, f, W, b, lam: squared(t, f, W, b),
        "λ is missing.": lambda t, f, W, b, lam: with_norms(t, f, W, b, 1.0),
        "the error is not squared.": lambda t, f, W, b, lam: (t - f @ W - b).norm(dim=1).mean() + lam * (f @ W.norm(dim=1)).mean(),
    }  # fmt: skip
    check(
        "loss with norms", function, with_norms, cases, mistakes, atol=1e-3, say="free rows, and no cheating"
    )


def dead(last: Tensor, seen: int, window: int) -> Tensor:
    silent = torch.where(last < 0, torch.tensor(seen), seen - last)
    return (silent >= window).float().mean()


def check_dead(function: object) -> None:
    """Exercise 2: the share of features silent for at least a window."""
    cases = [
        (torch.tensor([-1, 5, 90, 40, 100, 60, -1]), 100, 40),
        (torch.tensor([10, 20, 30, 39, 0]), 40, 20),
        (torch.tensor([-1, -1, 7]), 12, 20),  # nobody can have been silent for so long
        (torch.tensor([-1, 12, 8, 0]), 12, 12),
        (torch.tensor([-1, 3, -1, 9]), 10, 11),
    ]
    mistakes = {
        "a feature that was never active has been silent for all inputs seen, no more: here the −1 is taken for a time.":
            lambda l, s, w: (s - l >= w).float().mean(),
        "features that were never active are not counted.": lambda l, s, w: ((s - l >= w) & (l >= 0)).float().mean(),
        "only those that were never active are counted.": lambda l, s, w: (l < 0).float().mean(),
        "all that were never active are counted, however few inputs there were.":
            lambda l, s, w: ((s - l >= w) | (l < 0)).float().mean(),
        "“at least”: one that is silent for just the window is dead, too.":
            lambda l, s, w: (torch.where(l < 0, torch.tensor(s), s - l) > w).float().mean(),
        "this is the share of the living.": lambda l, s, w: 1 - dead(l, s, w),
        "the time of the last activity is compared, not how long ago it was.":
            lambda l, s, w: (torch.where(l < 0, torch.tensor(s), l) >= w).float().mean(),
        "this is a number of features: a share is wanted.": lambda l, s, w: dead(l, s, w) * len(l),
    }  # fmt: skip
    check("dead from a log", function, dead, cases, mistakes, say="silence is counted, not remembered")


def half(frequency: Tensor, share: Tensor, level: float = 0.5, log: bool = True) -> Tensor:
    i = int((share >= level).int().argmax())
    part = (level - share[i - 1]) / (share[i] - share[i - 1])
    a, b = (frequency.log() if log else frequency)[i - 1 : i + 1]
    at = a + part * (b - a)
    return at.exp() if log else at


def check_half(function: object) -> None:
    """Exercise 3: the first crossing of one half, on a logarithmic axis."""
    cases = [
        (torch.tensor([0.1, 1.0, 10.0, 100.0]), torch.tensor([0.0, 0.2, 0.9, 1.0])),
        (
            torch.tensor([0.02, 0.3, 4.0, 50.0, 200.0]),
            torch.tensor([0.1, 0.4, 0.55, 0.45, 0.95]),
        ),  # crosses twice
        (torch.tensor([1.0, 4.0, 20.0]), torch.tensor([0.05, 0.5, 0.8])),  # just at one half
        (torch.tensor([1.0, 10.0, 100.0]), torch.tensor([0.3, 0.31, 1.0])),
        (torch.tensor([0.5, 2.0, 3.0, 7.0, 40.0]), torch.tensor([0.0, 0.1, 0.2, 0.3, 0.8])),  # late
    ]
    first = lambda s: int((s >= 0.5).int().argmax())
    mistakes = {
        "the line is drawn in frequency, not in its logarithm.": lambda q, s: half(q, s, log=False),
        "this is the first point at or above one half: go back along the line.": lambda q, s: q[first(s)],
        "this is the last point below one half before the crossing.": lambda q, s: q[first(s) - 1],
        "half way between the two points, wherever the share is.": lambda q, s: (
            q[first(s)] * q[first(s) - 1]
        ).sqrt(),
        "this is the logarithm of the frequency.": lambda q, s: half(q, s).log(),
        "this is the nearest point of the curve: one half lies between points.": lambda q, s: q[
            (s - 0.5).abs().argmin()
        ],
    }
    try:
        check("half point", function, half, cases, mistakes, atol=1e-4, say="on the axis that it lives on")
    except CheckFailed as failed:
        if "Try a tiny one by hand" not in str(failed):
            raise
        for q, s in cases:  # nothing above has a name: does it at least lie where it must?
            low, high, got = q[first(s) - 1], q[first(s)], as_tensor(answer("half point", function, (q, s)))
            if not bool(low - 1e-3 <= got <= high + 1e-3):
                raise CheckFailed(
                    f"half point: the share passes one half between {float(low):g} and {float(high):g}, and yours is "
                    f"{float(got):.4g}, on the frequencies {q.tolist()}."
                ) from None
        raise


def slope_of(a: Tensor, b: Tensor) -> Tensor:
    a = a - a.mean()
    return (a * (b - b.mean())).sum() / a.square().sum()


def undominated(compute: Tensor, loss: Tensor) -> Tensor:
    return torch.stack([~((compute < c) & (loss < v)).any() for c, v in zip(compute, loss)])


def frontier_and_interval(compute, loss, draws, keep=undominated, log=torch.log, inner=0.95, spread=True):
    keep = keep(compute, loss)
    order = compute[keep].argsort()
    a, b = log(compute[keep][order]), log(loss[keep][order])
    picks = [row[: len(a)] % len(a) for row in draws]
    slopes = torch.stack([slope_of(a[p], b[p]) for p in picks if len(p.unique()) > 1])
    ends = [slopes.quantile((1 - inner) / 2), slopes.quantile((1 + inner) / 2)]
    return torch.stack([slope_of(a, b), *ends])


def check_frontier(function: object) -> None:
    """Exercise 4: the frontier's exponent and its bootstrap interval."""
    cases = []
    for n, seed in ((9, 1), (14, 2), (20, 3)):
        compute = (torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 6).exp()
        loss = 3 * compute**-0.3 * (0.4 * random(n, seed=seed).abs()).exp()
        first = int(compute.argmin())
        compute, loss = compute / compute[first], loss / loss[first]
        draws = torch.randint(0, 1000, (60, n), generator=torch.Generator().manual_seed(seed))
        draws[5:15] = 0  # one run alone: the cheapest
        cases.append((compute, loss, draws))
    every = lambda c, v: torch.ones(len(c), dtype=torch.bool)
    later = lambda c, v: torch.stack([~((c > x) & (v < y)).any() for x, y in zip(c, v)])
    whole = frontier_and_interval
    mistakes = {
        "all runs are fitted, not the frontier.": lambda c, v, d: whole(c, v, d, keep=every),
        "runs are dropped because a dearer one is better: only a cheaper one beats them.": lambda c, v, d: whole(c, v, d, keep=later),
        "the line is not in logs.": lambda c, v, d: whole(c, v, d, log=lambda x: x),
        "this is the interval of 90%: 2.5% are left out on each side.": lambda c, v, d: whole(c, v, d, inner=0.9),
        "the ends of the interval are exchanged: the lower first.": lambda c, v, d: whole(c, v, d)[[0, 2, 1]],
        "the exponent has the other sign: loss falls.": lambda c, v, d: -whole(c, v, d),
        "smallest and largest slope are no 95% interval.": lambda c, v, d: whole(c, v, d, inner=1.0),
        "loss and compute are exchanged: loss is a power of compute.":
            lambda c, v, d: torch.cat([1 / whole(c, v, d)[:1], whole(c, v, d)[1:]]),
    }  # fmt: skip

    def flat(answer):
        try:
            return torch.stack([torch.as_tensor(one).double().reshape(()) for one in answer])
        except (TypeError, ValueError, RuntimeError):
            return answer

    check_through(
        flat, "frontier", function, whole, cases, mistakes, atol=1e-3, say="a slope, and how sure it is"
    )


def dictionary(d: int, s: int, seed: int):
    """A dictionary as two functions."""
    W_enc, W_dec = random(d, s, seed=seed), random(s, d, seed=seed + 1) * 0.5
    b_enc, b_dec = 0.3 * random(s, seed=seed + 2), random(d, seed=seed + 3)
    return (lambda x: ((x - b_dec) @ W_enc + b_enc).relu()), (lambda f: f @ W_dec + b_dec)


def clamp(x, encode, decode, feature, value, limit, error=1.0, add=False, scaled=False):
    f = encode(x)
    changed = f.clone()
    changed[:, feature] = value + (f[:, feature] if add else 0) if not scaled else value * f[:, feature]
    new = decode(changed) + error * (x - decode(f))
    return torch.where(x.norm(dim=1, keepdim=True) > limit, x, new)


def check_clamp(function: object) -> None:
    """Exercise 5: one feature fixed, the error term kept, huge rows left alone."""
    cases = []
    for n, d, s, feature, value, limit in (
        (6, 4, 7, 2, 3.0, 20.0),
        (8, 5, 9, 0, 0.0, 60.0),
        (5, 3, 4, 3, 1.5, 9.0),
    ):
        x = random(n, d, seed=n)
        x[1] *= 1.5 * limit / x[1].norm()
        x[2] *= 0.8 * limit / x[2].norm()
        cases.append((x, *dictionary(d, s, 10 * n), feature, value, limit))
    mistakes = {
        "the error term is lost: what does the dictionary miss of x?": lambda *a: clamp(*a, error=0.0),
        "the error term is taken away where it should be added.": lambda *a: clamp(*a, error=-1.0),
        "huge rows are changed as well: leave those above the limit alone.": lambda *a: clamp(
            *a[:-1], torch.inf
        ),
        "only the huge rows are changed.": lambda *a: torch.where(
            a[0].norm(dim=1, keepdim=True) > a[-1], clamp(*a[:-1], torch.inf), a[0]
        ),
        "the value is added to the feature: it is to *become* the value.": lambda *a: clamp(*a, add=True),
        "the feature is multiplied by the value: it is to become the value.": lambda *a: clamp(
            *a, scaled=True
        ),
        "x comes back as it was.": lambda *a: a[0],
        "the error of the *changed* reconstruction is added, which takes the clamp back.": lambda *a: (
            a[0] + 0
        ),
    }
    check(
        "clamp with error",
        function,
        clamp,
        cases,
        mistakes,
        atol=1e-3,
        say="nothing lost but what you meant to change",
    )


def purity(f: Tensor, truth: Tensor, share: float = 0.5) -> Tensor:
    strong = f > f.max(0).values * share
    return torch.stack([truth[strong[:, i]].float().mean() for i in (0, 1)])


def check_page(function: object) -> None:
    """Exercise 6: purity of the strong half, of two features."""
    cases = []
    for n, seed, real in ((60, 1, 0), (80, 2, 1), (90, 3, 1)):
        rng = torch.Generator().manual_seed(seed)
        truth = torch.rand(n, generator=rng) < 0.25
        own = truth * (0.4 + 0.6 * torch.rand(n, generator=rng))
        own = own + ~truth * (torch.rand(n, generator=rng) < 0.8) * 0.6 * torch.rand(
            n, generator=rng
        )  # weak ones drift
        noise = (torch.rand(n, generator=rng) < 0.5) * torch.rand(n, generator=rng)
        noise[int(truth.nonzero()[0])] = 1.2  # its one best example is of the concept
        pair = [own * (1 + seed), noise * 3]
        cases.append((torch.stack(pair if real == 0 else pair[::-1], 1), truth))
    either = lambda rule: lambda f, t: torch.stack([rule(f[:, i], t, f) for i in (0, 1)])
    share = lambda t: t.float().mean() if len(t) else torch.tensor(0.0)
    mistakes = {
        "all active tokens are judged: weak activity drifts, take the upper half.": either(lambda z, t, f: share(t[z > 0])),
        "the single best example decides: any feature has one.": either(lambda z, t, f: t[z.argmax()].float()),
        "the half is taken of the larger maximum of the two: each feature has its own.":
            either(lambda z, t, f: share(t[z > f.max() / 2])),
        "this is recall: of the *strong* tokens, which share has the concept?":
            either(lambda z, t, f: (z[t] > z.max() / 2).float().mean()),
        "these are counts: a share is wanted.": either(lambda z, t, f: (t & (z > z.max() / 2)).sum().float()),
        "this is the share of tokens that are strong and have the concept, among all.":
            either(lambda z, t, f: (t & (z > z.max() / 2)).float().mean()),
        "this is impurity: 1 less it.": lambda f, t: 1 - purity(f, t),
    }  # fmt: skip
    check(
        "two pages",
        function,
        purity,
        cases,
        mistakes,
        say="the purer one is the concept's; top examples flatter",
    )


def nested(t, f, W, b, prefixes, ends=lambda p, s: [*p, s], total=lambda e: sum(e) / len(e)):
    return total([squared(t, f[:, :m], W[:m], b) for m in ends(prefixes, f.shape[1])])


def check_nested(function: object) -> None:
    """Exercise 7: the mean over prefixes and the whole."""
    cases = [
        (*parts(n, s, d, 7 * n), ends)
        for n, s, d, ends in ((6, 8, 4, [2, 5]), (5, 6, 3, [1]), (7, 10, 5, [2, 4, 7]))
    ]
    blocks = lambda t, f, W, b, p: sum(
        squared(t, f[:, a:m], W[a:m], b) for a, m in zip([0, *p], [*p, f.shape[1]])) / (len(p) + 1)  # fmt: skip
    mistakes = {
        "the whole is missing: one term more than there are prefixes.": lambda *a: nested(*a, ends=lambda p, s: p),
        "this is the whole alone.": lambda *a: nested(*a, ends=lambda p, s: [s]),
        "the errors are added up: take their mean.": lambda *a: nested(*a, total=sum),
        "the sum is divided by the number of prefixes: the whole counts, too.": lambda *a: nested(*a, total=sum) / len(a[-1]),
        "these are blocks between the prefixes: each prefix begins with the first feature.": blocks,
        "the *last* features are taken: the first ones must rebuild alone.":
            lambda t, f, W, b, p: sum(squared(t, f[:, -m:], W[-m:], b) for m in [*p, f.shape[1]]) / (len(p) + 1),
        "the bias of the decoder is forgotten.": lambda t, f, W, b, p: nested(t, f, W, 0 * b, p),
        "the error is a mean over dimensions: sum there.": lambda *a: nested(*a) / a[0].shape[1],
    }  # fmt: skip
    check(
        "nested loss",
        function,
        nested,
        cases,
        mistakes,
        atol=1e-3,
        say="small dictionaries inside a large one",
    )


def sent(f, W_dec, out_scale, W_enc, scale):
    return torch.einsum("ns,sr->nsr", f, W_dec @ W_enc * scale / out_scale)


def check_sent(function: object) -> None:
    """Exercise 8: what each feature of a transcoder adds to each feature of a later one."""
    cases = []
    for n, s, d, r, out_scale, scale in (
        (4, 5, 3, 6, 2.0, 0.5),
        (3, 4, 4, 4, 0.7, 1.6),
        (6, 3, 5, 3, 4.0, 3.0),
    ):
        f = random(n, s, seed=n).relu()
        W_dec, W_enc = random(s, d, seed=n + 1), random(d, r, seed=n + 2)
        cases.append((f, W_dec, torch.tensor(out_scale), W_enc, torch.tensor(scale)))
    unit = lambda W, dim: W / W.norm(dim=dim, keepdim=True)
    mistakes = {
        "the connections are there, the activations are not: a silent feature sends nothing.":
            lambda f, W, o, E, s: sent(torch.ones_like(f), W, o, E, s),
        "this is the sum over the earlier features: keep them apart.": lambda *a: sent(*a).sum(1),
        "this is a sum over inputs: keep them apart.": lambda *a: sent(*a).sum(0),
        "the earlier output is multiplied by out_scale: it is divided.": lambda f, W, o, E, s: sent(f, W, 1 / o, E, s),
        "out_scale is forgotten.": lambda f, W, o, E, s: sent(f, W, 1.0, E, s),
        "the later transcoder's scale is forgotten.": lambda f, W, o, E, s: sent(f, W, o, E, 1.0),
        "the later transcoder's input is divided by its scale: it is multiplied.": lambda f, W, o, E, s: sent(f, W, o, E, 1 / s),
        "both scales are forgotten.": lambda f, W, o, E, s: sent(f, W, 1.0, E, 1.0),
        "this is a cosine: lengths of rows and columns count.":
            lambda f, W, o, E, s: sent(f, unit(W, 1), o, unit(E, 0), s),
        "only whether a feature is active counts here: how much, too.":
            lambda f, W, o, E, s: sent((f > 0).float(), W, o, E, s),
        "later and earlier features have changed places: [n s r].": lambda *a: sent(*a).mT,
    }  # fmt: skip
    check("sent on", function, sent, cases, mistakes, atol=1e-4, say="a connection that needs no input")
