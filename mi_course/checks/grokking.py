"""Checks of notebook 09, grokking."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_course.checks import check, same
from mi_course.checks.circuits import random


def angles(*numbers: float) -> Tensor:
    """Pairs of cosine and sine, one for each angle."""
    x = torch.tensor(numbers).double()
    return torch.stack([x.cos(), x.sin()], dim=-1)


def cosine(a, b, c):
    first, second = a[0] * b[0] - a[1] * b[1], a[1] * b[0] + a[0] * b[1]
    return first * c[0] + second * c[1]


STAGES = {
    (False, True): "where c is the angle 0, the answer is cos of the sum, and yours is not: look at the first identity.",
    (True, False): "where c is a right angle, the answer is sin of the sum, and yours is not: look at the second identity.",
    (False, False): "neither cos nor sin of the sum comes out: try c at the angle 0, and at a right angle.",
}  # fmt: skip


def where(function) -> tuple[bool, bool]:
    """Whether an answer is right where only cos of the sum counts, and where only sin does."""
    x, y, one = angles(0.4, 1.9, 0.0)
    return tuple(same(function(x, y, c), cosine(x, y, c), 1e-5) for c in (one, one.flip(0)))


def check_identities(function: object) -> None:
    """Exercise 1: cos(a + b − c) from six sines and cosines."""
    cases = [tuple(angles(*xs)) for xs in ((0.3, 1.1, 0.4), (2.0, -0.7, 5.0), (4.0, 3.0, 1.0))]
    cases.append(
        tuple(torch.stack([x.cos(), x.sin()]) for x in (random(5, seed=i).double() for i in (1, 2, 3)))
    )
    product = lambda a, b: a[0] * b[0]
    mistakes = {
        "this is cos(a + b + c): the last identity has a plus, since c is taken away.":
            lambda a, b, c: (a[0] * b[0] - a[1] * b[1]) * c[0] - (a[1] * b[0] + a[0] * b[1]) * c[1],
        "this is cos(a − b − c): cos of a sum has a minus.":
            lambda a, b, c: (a[0] * b[0] + a[1] * b[1]) * c[0] + (a[1] * b[0] - a[0] * b[1]) * c[1],
        "cos of the sum has a plus here, and needs a minus.":
            lambda a, b, c: (a[0] * b[0] + a[1] * b[1]) * c[0] + (a[1] * b[0] + a[0] * b[1]) * c[1],
        "sin of the sum has a minus here, and needs a plus.":
            lambda a, b, c: (a[0] * b[0] - a[1] * b[1]) * c[0] + (a[1] * b[0] - a[0] * b[1]) * c[1],
        "cosines are added: angles add, cosines do not.": lambda a, b, c: a[0] + b[0] - c[0],
        "this is cos(a + b): c is not used.": lambda a, b, c: a[0] * b[0] - a[1] * b[1],
        "this is sin(a + b − c).": lambda a, b, c: (a[1] * b[0] + a[0] * b[1]) * c[0] - (a[0] * b[0] - a[1] * b[1]) * c[1],
        "only cosines are multiplied: sines are half of it.": lambda a, b, c: product(a, b) * c[0],
        **{sentence: lambda a, b, c, this=parts: function(a, b, c) if where(function) == this else None
           for parts, sentence in STAGES.items()},
    }  # fmt: skip
    say = "two products for the sum, two more for the difference"
    check("three identities", function, cosine, cases, mistakes, say=say)


def norms_of(M: Tensor) -> Tensor:
    """Of frequencies 0, 1, 2, …"""
    return torch.fft.rfft(M.double(), dim=-1).abs().square().sum(0).sqrt()


def key(M: Tensor, share: float = 0.25, norms=norms_of, first: int = 1, shift: int = 0) -> list[int]:
    found = norms(M)
    largest = found[first:].max()
    return [k + shift for k in range(first, len(found)) if found[k] >= share * largest]


def waves(p: int, sizes: dict[int, float], constant: float, phase: float, rows: int = 4) -> Tensor:
    """Rows of waves of the given sizes with a phase that differs from row to row."""
    n = torch.arange(p).double()
    out = torch.full((rows, p), constant).double()
    for k, size in sizes.items():
        for row in range(rows):
            out[row] += size * (2 * torch.pi * k / p * n + phase * (row + 1) * k).cos()
    return out


def check_key(function: object) -> None:
    """Exercise 2: frequencies above a quarter of the largest norm."""
    cases = [
        (waves(11, {2: 1.0, 4: 0.5}, 0.0, 0.7),),
        (waves(23, {3: 1.0, 7: 0.3, 10: 0.2, 11: 0.1}, 5.0, 0.0),),
        (waves(31, {15: 1.0, 1: 0.4, 8: 0.22}, 0.2, torch.pi / 2),),
        (waves(17, {5: 1.0, 6: 0.55, 8: 0.28, 2: 0.24}, -3.0, 1.0, rows=1),),
        (waves(13, {1: 0.3, 6: 1.0}, 9.0, 0.4),),
        (0.01 * waves(11, {3: 1.0, 5: 0.4}, 0.1, 0.9),),
    ]
    fft = lambda M: torch.fft.rfft(M.double(), dim=-1)
    alone = lambda part: lambda M: getattr(fft(M), part).square().sum(0).sqrt()
    mistakes = {
        "the constant counts among the frequencies: they begin with 1.": lambda M: key(M, first=0),
        "the constant takes part in the largest norm: it is no frequency.":
            lambda M: [k for k in key(M, 0.0) if norms_of(M)[k] >= norms_of(M).max() / 4],
        "frequencies are counted from 0: the first is 1.": lambda M: key(M, shift=-1),
        "only cosines are looked at: a frequency is a pair.": lambda M: key(M, norms=alone("real")),
        "only sines are looked at: a frequency is a pair.": lambda M: key(M, norms=alone("imag")),
        "power is compared with a quarter: a quarter of the norm is a sixteenth of the power.": lambda M: key(M, 0.5),
        "only the largest is returned: all above the threshold are wanted.": lambda M: key(M, 1.0),
        "every frequency is returned: there is a threshold.": lambda M: key(M, 0.0),
        "the rows are added up before their size is taken: phases cancel.":
            lambda M: key(M, norms=lambda M: fft(M).sum(0).abs()),
        "only one row is looked at.": lambda M: key(M, norms=lambda M: fft(M)[0].abs()),
        "they are in falling order.": lambda M: key(M)[::-1],
    }  # fmt: skip
    check("key frequencies", function, key, cases, mistakes, say="a quarter of the largest norm, or more")


def loss_on(logits: Tensor, answers: Tensor, rows: Tensor) -> Tensor:
    picked = logits[rows].log_softmax(-1).gather(1, answers[rows][:, None])
    return -picked.mean()


def restricted(logits: Tensor, D: Tensor, answers: Tensor, test: Tensor) -> Tensor:
    return loss_on(logits.mean(0) + D.T @ (D @ logits), answers, test)


def check_restricted(function: object) -> None:
    """Exercise 3: restricted loss on the test pairs."""
    cases = []
    for n, d, out, s in ((9, 2, 3, 1), (25, 4, 5, 2), (16, 3, 4, 3)):
        D = torch.linalg.qr(torch.cat([torch.ones(n, 1), random(n, d, seed=s)], dim=1)).Q[:, 1:].T.double()
        logits = 2 * random(n, out, seed=s + 10).double() + random(out, seed=s + 20).double()
        test = torch.zeros(n, dtype=torch.bool)
        test[torch.randperm(n, generator=torch.Generator().manual_seed(s))[: n // 2]] = True
        answers = torch.randint(out, (n,), generator=torch.Generator().manual_seed(s + 5))
        cases.append((logits, D.contiguous(), answers, test))
    part = lambda L, D: D.T @ (D @ L)
    mistakes = {
        "the constant is missing: the mean over pairs stays.": lambda L, D, y, t: loss_on(part(L, D), y, t),
        "this is excluded loss: the directions are to be kept, not taken away.":
            lambda L, D, y, t: loss_on(L - part(L, D), y, t),
        "the mean over the candidates is kept: the mean over pairs is wanted.":
            lambda L, D, y, t: loss_on(L.mean(1, keepdim=True) + part(L, D), y, t),
        "this is the loss on training pairs.": lambda L, D, y, t: restricted(L, D, y, ~t),
        "this is the loss on all pairs.": lambda L, D, y, t: restricted(L, D, y, t | ~t),
        "nothing is projected: this is the test loss itself.": lambda L, D, y, t: loss_on(L, y, t),
        "losses are added, not averaged.": lambda L, D, y, t: restricted(L, D, y, t) * t.sum(),
        "the constant is counted twice.": lambda L, D, y, t: loss_on(2 * L.mean(0) + part(L, D), y, t),
        "test pairs are chosen before the projection: directions are functions of all pairs.":
            lambda L, D, y, t: loss_on(L.mean(0) + D[:, t].T @ (D[:, t] @ L[t]), y[t], torch.ones(int(t.sum()), dtype=torch.bool)),
        "the constant is taken over the test pairs alone.": lambda L, D, y, t: loss_on(L[t].mean(0) + part(L, D), y, t),
        "the sign is lost: a loss is minus a log probability.": lambda L, D, y, t: -restricted(L, D, y, t),
        "this is the probability of the right answer, not its loss.":
            lambda L, D, y, t: (L.mean(0) + part(L, D)).softmax(-1)[t].gather(1, y[t][:, None]).mean(),
        "this is the share of wrong answers.":
            lambda L, D, y, t: ((L.mean(0) + part(L, D)).argmax(1) != y)[t].double().mean(),
    }  # fmt: skip
    check("restricted loss", function, restricted, cases, mistakes, say="would the rule alone be right?")


NAMES = ("memorisation", "circuit formation", "clean-up", "done")


def phases(train, test, fitted=0.999, general=0.99, half=lambda start: (start + 1) / 2) -> list[str]:
    names, at, middle = [], 0, 1.0
    for on_train, on_test in zip(train, test, strict=True):
        if at == 0 and on_train >= fitted:
            at, middle = 1, half(on_test)
        if at == 1 and on_test >= middle:
            at = 2
        if at == 2 and on_test >= general:
            at = 3
        names.append(NAMES[at])
    return names


def first_wrong(function, train, test, name: str, cases):
    """The learner's own answer, if `name` is what is wanted at the first look of all cases that differs."""
    for case in cases:
        got, wanted = function(*case), phases(*case)
        if len(got) != len(wanted):
            return None
        differ = [want for mine, want in zip(got, wanted, strict=True) if mine != want]
        if differ:
            return function(train, test) if differ[0] == name else None
    return None


def check_phases(function: object) -> None:
    """Exercise 4: the phase of every look of a run."""
    cases = [
        ([0.1, 0.6, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 0.3, 0.55, 0.62, 0.98, 1.0]),
        ([0.2, 0.9985, 0.999, 1.0, 0.9, 1.0, 1.0], [0.01, 0.05, 0.1, 0.5, 0.54, 0.55, 0.99]),
        ([0.3, 1.0, 1.0, 1.0], [0.3, 0.9, 0.96, 0.3]),
        ([0.5, 0.7, 0.8], [0.6, 0.995, 0.2]),
        ([0.5, 1.0, 1.0, 0.7, 1.0], [0.0, 0.0, 0.995, 0.1, 0.2]),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
        ([0.1, 1.0, 1.0, 1.0, 1.0], [0.0, 0.2, 0.5, 0.5, 0.989]),
        ([0.1, 1.0, 1.0, 1.0, 1.0], [0.0, 0.98, 0.985, 0.99, 0.5]),
    ]

    def at_one_look(train, test):
        names, at, middle = [], 0, 1.0
        for a, b in zip(train, test):
            if at == 0 and a >= 0.999:
                at, middle = 1, (b + 1) / 2
            elif at == 1 and b >= middle:
                at = 2
            elif at == 2 and b >= 0.99:
                at = 3
            names.append(NAMES[at])
        return names

    def forgetful(train, test):
        start = next((b for a, b in zip(train, test) if a >= 0.999), 1.0)
        middle = (start + 1) / 2
        return [
            NAMES[0 if a < 0.999 else 1 if b < middle else 2 if b < 0.99 else 3] for a, b in zip(train, test)
        ]

    def late(train, test):
        right = phases(train, test)
        return [right[0], *right[:-1]] if right[0] == NAMES[0] else right

    mistakes = {
        "half way is taken from 0: it is from the test accuracy at which training was fitted.":
            lambda a, b: phases(a, b, half=lambda start: 0.5),
        "half of the value at t₁ is added: half of the way to 1 is wanted.":
            lambda a, b: phases(a, b, half=lambda start: 1.5 * start),
        "a phase that has begun goes back: it stays, whatever a curve does later.": forgetful,
        "several things can happen at one look: ask again after each.": at_one_look,
        "a phase begins one look too late.": late,
        "training counts as fitted at 0.99 here: 0.999 is wanted.": lambda a, b: phases(a, b, fitted=0.99),
        "the last phase begins at 0.999 here: 0.99 is wanted.": lambda a, b: phases(a, b, general=0.999),
        "memorisation never ends: look at the training accuracy.": lambda a, b: ["memorisation"] * len(a),
        "the end of circuit formation is put at the end of clean-up.":
            lambda a, b: phases(a, b, half=lambda start: 0.99),
        "training and test are exchanged.": lambda a, b: phases(b, a),
        **{f"at the first look that differs, “{name}” is wanted.": lambda a, b, name=name: first_wrong(function, a, b, name, cases)
           for name in NAMES},
    }  # fmt: skip
    check("phases", function, phases, cases, mistakes, say="memory, then a rule, then room is made")


def mirror(train: Tensor) -> Tensor:
    return (~train & train.T).sum() / (~train).sum()


def check_mirror(function: object) -> None:
    """Exercise 5: the share of test pairs whose mirror is trained on."""
    cases = []
    for p, share, s in ((5, 0.4, 1), (7, 0.3, 2), (9, 0.7, 3)):
        cases.append((torch.rand(p, p, generator=torch.Generator().manual_seed(s)) < share,))
    cases.append((torch.tensor([[True, True, False], [False, False, True], [True, False, False]]),))
    mistakes = {
        "the share is of all pairs: of the test pairs is wanted.": lambda t: (~t & t.T).double().mean(),
        "training pairs with a trained mirror are counted.": lambda t: (t & t.T).sum() / t.sum(),
        "these are test pairs whose mirror is a test pair, too.": lambda t: (~t & ~t.T).sum() / (~t).sum(),
        "the share is of the training pairs: of the test pairs is wanted.": lambda t: (~t & t.T).sum() / t.sum(),
        "this is the share of pairs that are trained on.": lambda t: t.double().mean(),
        "they are counted, not their share.": lambda t: (~t & t.T).sum(),
        "the mirror is not used: no test pair is a training pair.": lambda t: (t & ~t).double().sum(),
        "this is the share of pairs that are tested.": lambda t: (~t).double().mean(),
        "pairs with a test pair or a trained mirror are counted: both are wanted.":
            lambda t: (~t | t.T).sum() / (~t).sum(),
    }  # fmt: skip
    check("mirror", function, mirror, cases, mistakes, say="held out is not unseen")


def pattern(score_a: Tensor, score_b: Tensor, score_eq) -> Tensor:
    p = len(score_a)
    eq = torch.as_tensor(score_eq).to(score_a).expand(p, p)
    return torch.stack([score_a[:, None].expand(p, p), score_b.expand(p, p), eq], dim=-1).softmax(-1)


def check_pattern(function: object) -> None:
    """Exercise 6: attention at "=" for every pair, from two columns and a number."""
    cases = [
        (2 * random(p, seed=s), random(p, seed=s + 1) - 0.5, 0.3 * s - 0.5)
        for p, s in ((4, 1), (5, 3), (7, 4))
    ]
    turned = lambda a, b, e: pattern(a, b, e).transpose(0, 1)
    scores = lambda a, b, e: (
        pattern(a, b, e).log() * 0
        + torch.stack(
            [
                a[:, None].expand(len(a), len(a)),
                b.expand(len(a), len(a)),
                torch.full((len(a), len(a)), float(e)),
            ],
            -1,
        )
    )
    mistakes = {
        "rows and columns are exchanged: row a, column b.": turned,
        "a and b are exchanged in the last axis.": lambda a, b, e: pattern(a, b, e)[..., [1, 0, 2]],
        "a and b are exchanged.": lambda a, b, e: pattern(b, a, e),
        "these are scores: a softmax over the three is missing.": scores,
        "the softmax runs over the numbers, and not over the three places.": lambda a, b, e: scores(a, b, e).softmax(0),
        "the softmax runs over b, and not over the three places.": lambda a, b, e: scores(a, b, e).softmax(1),
        "“=” is left out: it is attended to as well.":
            lambda a, b, e: torch.cat([scores(a, b, e)[..., :2].softmax(-1), 0 * scores(a, b, e)[..., :1]], -1),
        "the score of “=” is 0 here.": lambda a, b, e: pattern(a, b, 0.0),
        "these are exponentials: divide by their sum.": lambda a, b, e: scores(a, b, e).exp(),
        "these are logarithms of the attention.": lambda a, b, e: scores(a, b, e).log_softmax(-1),
    }  # fmt: skip
    check(
        "attention as a table",
        function,
        pattern,
        cases,
        mistakes,
        say="two columns and a number are the whole head",
    )


def wave_of(p: int, k: int, sign: int = -1) -> Tensor:
    n = torch.arange(p).double()
    return torch.cos(2 * torch.pi * k / p * (n[:, None, None] + n[None, :, None] + sign * n))


def coefficient(L: Tensor, k: int) -> Tensor:
    wave = wave_of(len(L), k)
    return (L * wave).sum() / wave.square().sum()


def check_coefficient(function: object) -> None:
    """Exercise 7: least squares on one cosine of a + b − c."""
    cases = [
        (3 * wave_of(p, k) + random(p, p, p, seed=p).double() + 2.0, k) for p, k in ((5, 1), (7, 3), (11, 4))
    ]
    cases.append((random(7, 7, 7, seed=9).double() - 1.5 * wave_of(7, 2), 2))
    dot = lambda L, w: (L.double() * w).sum()
    mistakes = {
        "it is divided by the number of entries: divide by the sum of squared cosines.":
            lambda L, k: dot(L, wave_of(len(L), k)) / L.numel(),
        "c is added: the cosine is of a + b − c.": lambda L, k: dot(L, wave_of(len(L), k, 1)) / wave_of(len(L), k).square().sum(),
        "it is not divided: this is the product alone.": lambda L, k: dot(L, wave_of(len(L), k)),
        "it is divided by the norm of the wave, not by its square (a cosine similarity goes by norms).":
            lambda L, k: dot(L, wave_of(len(L), k)) / wave_of(len(L), k).norm(),
        "this is the correlation: it has no size.":
            lambda L, k: dot(L - L.mean(-1, keepdim=True), wave_of(len(L), k)) / wave_of(len(L), k).norm() / (L - L.mean(-1, keepdim=True)).norm(),
        "it is divided by the squares of the logits: turn the two round.":
            lambda L, k: dot(L - L.mean(-1, keepdim=True), wave_of(len(L), k)) / (L - L.mean(-1, keepdim=True)).square().sum(),
        "the frequency is off: the angle is 2πk/p times a number.": lambda L, k: coefficient(L, k % (len(L) // 2) + 1),
        "2π is missing from the angle.": lambda L, k: dot(L, half := torch.cos(k / len(L) * grid(len(L)))) / half.square().sum(),
        "the angle is πk/p: a full turn is 2π.":
            lambda L, k: dot(L, half := torch.cos(torch.pi * k / len(L) * grid(len(L)))) / half.square().sum(),
        "only the first pair is looked at.": lambda L, k: dot(L[0, 0], wave_of(len(L), k)[0, 0]) / wave_of(len(L), k)[0, 0].square().sum(),
        "the sine is taken: cos is 1 at the right answer.":
            lambda L, k: dot(L, s := torch.sin(2 * torch.pi * k / len(L) * grid(len(L)))) / s.square().sum(),
    }  # fmt: skip
    check(
        "cosine coefficient",
        function,
        coefficient,
        cases,
        mistakes,
        atol=1e-4,
        say="one number for p³ logits",
    )


def grid(p: int) -> Tensor:
    """a + b − c."""
    n = torch.arange(p).double()
    return n[:, None, None] + n[None, :, None] - n


def halved(steps, curve, start, of=None, never=-1, strict=False):
    bar = (curve[start] if of is None else of(curve)) / 2
    low = [i for i in range(start, len(steps)) if (curve[i] < bar if strict else curve[i] <= bar)]
    return steps[low[0]] if low else steps[never]


def ahead(steps, measure, loss, start):
    return halved(steps, loss, start) - halved(steps, measure, start)


def check_lead(function: object) -> None:
    """Exercise 8: how many steps a measure has halved before a loss."""
    steps = [0, 10, 20, 50, 100, 150, 200]
    cases = [
        (steps, [4.7, 4.5, 4.0, 2.0, 1.0, 0.1, 0.0], [4.7, 9.0, 15.0, 14.0, 12.0, 7.0, 0.5], 2),
        (steps, [1.0, 2.0, 6.0, 3.0, 2.0, 1.0, 0.5], [4.0, 10.0, 12.0, 12.0, 6.0, 1.0, 0.1], 1),
        (steps, [5.0, 5.0, 5.0, 5.0, 4.0, 4.0, 3.0], [4.7, 8.0, 12.0, 5.0, 1.0, 0.1, 0.0], 2),
        (steps, [5.0, 5.0, 3.0, 2.0, 2.0, 1.0, 1.0], [4.7, 9.0, 15.0, 16.0, 17.0, 16.0, 15.0], 1),
        ([0, 5, 7, 30], [8.0, 2.0, 1.5, 0.9], [8.0, 6.0, 2.9, 1.0], 1),
        ([0, 5, 7, 30], [2.0, 8.0, 4.0, 1.0], [8.0, 8.0, 8.0, 4.0], 1),
        ([0, 4, 9, 11], [8.0, 3.0, 2.0, 1.0], [6.0, 5.0, 4.0, 1.0], 0),
        ([0, 3, 8], [5.0, 5.0, 4.0], [6.0, 6.0, 1.0], 1),
    ]
    by = lambda **how: lambda s, m, x, t: halved(s, x, t, **how) - halved(s, m, t, **how)
    index = lambda s, m, x, t: s.index(halved(s, x, t)) - s.index(halved(s, m, t))
    mistakes = {
        "the sign is turned round: a measure that comes earlier has a positive lead.": lambda s, m, x, t: -ahead(s, m, x, t),
        "half of the first value is taken: half of the value at t₁ is wanted.": by(of=lambda c: c[0]),
        "half of the largest value is taken: half of the value at t₁ is wanted.": by(of=max),
        "the search begins before t₁.": lambda s, m, x, t: (
            s[next((i for i in range(len(s)) if x[i] <= x[t] / 2), -1)] - s[next((i for i in range(len(s)) if m[i] <= m[t] / 2), -1)]),
        "looks are counted, not steps.": index,
        "“at most half” includes half itself.": by(strict=True),
        "one that never halves counts as halved at the last step.": by(never=0),
        "this is when the loss has halved: the measure is missing.": lambda s, m, x, t: halved(s, x, t),
        "this is when the measure has halved: the loss is missing.": lambda s, m, x, t: halved(s, m, t),
        "it is divided by a time: steps are wanted.": lambda s, m, x, t: ahead(s, m, x, t) / s[-1],
        "the last look above half is taken, not the first at half.": lambda s, m, x, t: (
            s[s.index(halved(s, x, t)) - 1] - s[s.index(halved(s, m, t)) - 1]),
        "the last step below half is taken, not the first.": lambda s, m, x, t: (
            max((k for k, v in zip(s, x) if v <= x[t] / 2), default=s[-1]) - max((k for k, v in zip(s, m) if v <= m[t] / 2), default=s[-1])),
    }  # fmt: skip
    check("lead", function, ahead, cases, mistakes, say="in steps, from the plateau on")
