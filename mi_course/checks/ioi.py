"""Checks of notebook 08, indirect object identification."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_course.checks import check
from mi_course.checks.circuits import check_through, random

NAMES = {"Ann", "Ben", "Cleo", "Dirk", "Eva", "Fred", "Gina", "Hugo"}


# -- 1: a counterfactual that keeps the syntax -----------------------------------------------------------


def replaced(prompt: list[str], names: set[str], fresh: list[str]) -> list[str]:
    left = iter(fresh)
    return [next(left) if word in names else word for word in prompt]


def as_words(answer):
    """Words in any container, or in one text."""
    if isinstance(answer, str):
        return answer.split()
    try:
        return [str(word) for word in answer]
    except TypeError:
        return answer


def check_counterfactual(function: object) -> None:
    """Exercise 1: the same sentence about three people of whom nobody is said twice."""
    texts = (
        ("when Ann and Ben went out , Ben gave a drink to", "Cleo Dirk Eva"),
        ("Eva met Fred ; later Eva wrote a letter to", "Hugo Ann Ben"),
        ("then Gina and Hugo met , Fred came , Gina told a joke to", "Ann Ben Cleo Dirk"),
        ("so Ann saw Dirk in Eva street and Dirk waved to", "Ben Ann Fred"),
    )
    cases = [(text.split(), set(NAMES), fresh.split()) for text, fresh in texts[:-1]]
    cases += [(text.split(), {"Ann", "Dirk"}, fresh.split()) for text, fresh in texts[-1:]]

    def by_person(prompt, names, fresh):
        new = {}
        for word in prompt:
            if word in names and word not in new:
                new[word] = fresh[len(new)]
        return [new.get(word, word) for word in prompt]

    def last_only(prompt, names, fresh):
        last = max(i for i, word in enumerate(prompt) if word in names)
        return [fresh[0] if i == last else word for i, word in enumerate(prompt)]

    def but_last(prompt, names, fresh):
        last = max(i for i, word in enumerate(prompt) if word in names)
        return [
            word if i == last else new
            for i, (word, new) in enumerate(zip(prompt, replaced(prompt, names, fresh)))
        ]

    def backwards(prompt, names, fresh):
        return replaced(prompt[::-1], names, fresh)[::-1]

    def one_by_one(prompt, names, fresh):
        made = list(prompt)
        for new in fresh:
            where = [i for i, word in enumerate(made) if word in names]
            made[where[0]] = new
        return made

    mistakes = {
        "a person gets one new name wherever it stands, so somebody is still said twice.": by_person,
        "only the last name is new: the first two still are the prompt's own.": last_only,
        "the last name is the prompt's own.": but_last,
        "the new names come in another order: the first one goes to the first place.": backwards,
        "a name that has just been put in is replaced again: go through the places once.": one_by_one,
        "the names are gone, and the sentence is shorter: positions no longer agree.":
            lambda p, n, f: [word for word in p if word not in n],
        "the sentence is as it was.": lambda p, n, f: p,
        "other words than names changed.": lambda p, n, f: [f[i % len(f)] for i in range(len(p))],
    }  # fmt: skip
    say = "the same syntax, and nobody to be found"
    check_through(as_words, "counterfactual", function, replaced, cases, mistakes, say=say)


# -- 2: frozen-norm attribution --------------------------------------------------------------------------


def attributed(writes: Tensor, w: Tensor, W_U: Tensor, right: int, wrong: int, eps: float) -> Tensor:
    final = writes.sum(0)
    scale = (final.square().mean() + eps).rsqrt()
    return (writes * scale * w) @ (W_U[:, right] - W_U[:, wrong])


def check_frozen_norm(function: object) -> None:
    """Exercise 2: each write's share of a logit difference, behind an RMSNorm that is held."""
    cases = []
    for parts, d, V, s in ((3, 4, 6, 1), (7, 8, 5, 2), (1, 3, 4, 3), (4, 6, 9, 4)):
        scale = 0.05 if s == 4 else 1.0  # where eps counts
        eps = 0.02 if s == 4 else 1e-5
        cases.append(
            (
                scale * random(parts, d, seed=s),
                random(d, seed=s + 20),
                random(d, V, seed=s + 40),
                s % V,
                (s + 2) % V,
                eps,
            )
        )

    def own_norm(writes, w, W_U, right, wrong, eps):
        scale = (writes.square().mean(-1, keepdim=True) + eps).rsqrt()
        return (writes * scale * w) @ (W_U[:, right] - W_U[:, wrong])

    def mean_norm(writes, w, W_U, right, wrong, eps):
        scale = (writes.mean(0).square().mean() + eps).rsqrt()
        return (writes * scale * w) @ (W_U[:, right] - W_U[:, wrong])

    def summed(writes, w, W_U, right, wrong, eps):
        scale = (writes.sum(0).square().sum() + eps).rsqrt()
        return (writes * scale * w) @ (W_U[:, right] - W_U[:, wrong])

    one = torch.ones_like
    zero = lambda W, column: W * (torch.arange(W.shape[1]) != column)
    mistakes = {
        "each write is normed by its own size: one scale, that of the final stream, holds for all.": own_norm,
        "the norm is not applied at all.": lambda x, w, W, r, s, e: x @ (W[:, r] - W[:, s]),
        "the norm's weight is missing.": lambda x, w, W, r, s, e: attributed(x, one(w), W, r, s, e),
        "this is the right answer's logit alone: its difference to the wrong one is wanted.":
            lambda x, w, W, r, s, e: attributed(x, w, zero(W, s), r, s, e),
        "the final stream is the sum of the writes, not their mean.": mean_norm,
        "the mean of squares belongs under the root, not their sum.": summed,
        "right and wrong are exchanged.": lambda x, w, W, r, s, e: attributed(x, w, W, s, r, e),
        "eps is left out: it counts where the stream is small.": lambda x, w, W, r, s, e: attributed(x, w, W, r, s, 0.0),
        "the parts are added up: one number for each is wanted.":
            lambda x, w, W, r, s, e: attributed(x, w, W, r, s, e).sum(),
    }  # fmt: skip
    say = "the parts sum to the logit difference"
    check("frozen norm", function, attributed, cases, mistakes, atol=1e-4, say=say)


# -- 3: the copying test -----------------------------------------------------------------------------------


def copying(x: Tensor, W_OV: Tensor, W_U: Tensor, tokens: Tensor, k: int) -> Tensor:
    logits = x @ W_OV @ W_U
    own = logits.gather(1, tokens[:, None])
    return ((logits > own).sum(1) < k).float().mean()


def check_copying(function: object) -> None:
    """Exercise 3: the share of names that are among the k largest logits of what a head writes of them."""
    cases = []
    for n, d, V, k, s in ((6, 8, 12, 3, 1), (10, 5, 20, 5, 2), (8, 6, 9, 1, 3), (7, 4, 30, 10, 4)):
        W_U = random(d, V, seed=s)
        tokens = torch.randperm(V, generator=torch.Generator().manual_seed(s))[:n]
        sign = torch.where(torch.arange(n) % 3 == 0, -1.0, 1.0)[:, None]
        cases.append(
            (
                sign * W_U.T[tokens] + random(n, d, seed=s + 9),
                torch.eye(d) + 0.4 * random(d, d, seed=s + 5),
                W_U,
                tokens,
                k,
            )
        )

    in_order = lambda x, M, W, t, k: copying(x, M, W, torch.arange(len(t)), k)
    place = lambda x, M, W, t: (lambda y: (y > y.gather(1, t[:, None])).sum(1).float())(x @ M @ W)
    mistakes = {
        "these are the k smallest: that is negative copying.": lambda x, M, W, t, k: copying(x, -M, W, t, k),
        "only the first place counts here: the k largest are asked for.": lambda x, M, W, t, k: copying(x, M, W, t, 1),
        "one place too many: there are k largest.": lambda x, M, W, t, k: copying(x, M, W, t, k + 1),
        "one place too few: there are k largest.": lambda x, M, W, t, k: copying(x, M, W, t, k - 1),
        "W_OV stands on the wrong side or is transposed: vectors are rows.":
            lambda x, M, W, t, k: copying(x, M.T, W, t, k),
        "the head is left out: this is what the stream itself says.":
            lambda x, M, W, t, k: copying(x, torch.eye(len(M)), W, t, k),
        "name i is `tokens[i]`, not number i.": in_order,
        "they are counted: a share is wanted.": lambda x, M, W, t, k: copying(x, M, W, t, k) * len(t),
        "this is the mean place of the names.": lambda x, M, W, t, k: place(x, M, W, t).mean(),
        "this is the logit of the names themselves.":
            lambda x, M, W, t, k: (x @ M @ W).gather(1, t[:, None]).mean(),
    }  # fmt: skip
    check("copying", function, copying, cases, mistakes, say="chance would be k / d_vocab")


# -- 4: faithfulness ----------------------------------------------------------------------------------------


def faithful(circuit: Tensor, empty: Tensor, full: Tensor) -> Tensor:
    return (circuit.mean() - empty.mean()) / (full.mean() - empty.mean())


def check_faithfulness(function: object) -> None:
    """Exercise 4: what the circuit keeps, from the model without any head to the whole model."""
    cases = []
    for n, shift, s in ((5, 0.0, 1), (9, -2.0, 2), (30, 1.5, 3), (4, 0.5, 4)):
        empty, full = random(n, seed=s) + shift, random(n, seed=s + 9) + 4.0
        cases.append((random(n, seed=s + 30) + (6.0 if s == 3 else -3.0 if s == 4 else 2.0), empty, full))
    mistakes = {
        "no heads at all already score something: measure from there.": lambda c, e, f: c.mean() / f.mean(),
        "each prompt's ratio is averaged: prompts whose two ends are close drown the others.":
            lambda c, e, f: ((c - e) / (f - e)).mean(),
        "this is what the circuit lacks.": lambda c, e, f: 1 - faithful(c, e, f),
        "numerator and denominator are both measured from the model without heads.":
            lambda c, e, f: c.mean() / (f.mean() - e.mean()),
        "the denominator, too, starts where no head runs.": lambda c, e, f: (c.mean() - e.mean()) / f.mean(),
        "it is clipped to 0 … 1: a circuit can do more than the model, or harm.":
            lambda c, e, f: faithful(c, e, f).clamp(0, 1),
        "sizes only: a circuit that harms has a negative score.": lambda c, e, f: faithful(c, e, f).abs(),
        "empty and full are exchanged.": lambda c, e, f: faithful(c, f, e),
        "this is a difference and not a share.": lambda c, e, f: c.mean() - e.mean(),
        "the median is taken: it is a mean over prompts.":
            lambda c, e, f: (c.median() - e.median()) / (f.median() - e.median()),
    }  # fmt: skip
    say = "0 is no heads, 1 is the model, and nothing stops it at 1"
    check("faithfulness", function, faithful, cases, mistakes, atol=1e-4, say=say)


# -- 5: the S-inhibition head from two heat maps -------------------------------------------------------------


def inhibiting(to_s2: Tensor, to_s1: Tensor, intact: Tensor) -> tuple[int, int]:
    rise = (to_s1 - intact).masked_fill(to_s2 < 0.3, -torch.inf)
    layer, head = divmod(int(rise.argmax()), rise.shape[1])
    return layer, head


def pair_of(answer):
    """(layer, head) in any container."""
    try:
        return tuple(int(x) for x in answer)
    except (TypeError, ValueError):
        return answer


def check_s_inhibition(function: object) -> None:
    """Exercise 5: the head that looks at S2 and without which the mover looks at S1."""
    cases = []
    for layers, heads, s in ((3, 4, 1), (4, 2, 2), (2, 6, 3), (5, 3, 4)):
        draw = torch.Generator().manual_seed(s)
        to_s2 = 0.25 * torch.rand(layers, heads, generator=draw)
        n = layers * heads
        intact = 0.3 + 0.1 * torch.rand(layers, heads, generator=draw)
        rise = 0.05 * (torch.rand(layers, heads, generator=draw) - 0.5)
        first, second, third, fourth, fifth = torch.randperm(n, generator=draw)[:5].tolist()
        to_s2.view(-1)[[first, second, third, fifth]] = torch.tensor([0.45, 0.9, 0.3, 0.4])
        rise.view(-1)[[first, second, third, fourth, fifth]] = torch.tensor([0.2, 0.02, 0.15, 0.4, 0.01])
        intact.view(-1)[fifth] = 0.6  # looked at S1 before, too: a level is no rise
        rise.view(-1)[second if s % 2 else third] = -0.28  # a fall is no rise
        if s == 4:  # it looks with just the bound
            to_s2.view(-1)[first] = 0.3
        cases.append((to_s2, intact + rise, intact))
    at = lambda score: divmod(int(score.argmax()), score.shape[1])
    mistakes = {
        "it looks at S2 most, but without it the mover looks where it looked before.": lambda a, b, i: at(a),
        "without it the mover looks at S1 most, but it never looks at S2 itself.": lambda a, b, i: at(b - i),
        "the mover looked at S1 before, too: take the rise, not the level.":
            lambda a, b, i: at(b.masked_fill(a < 0.3, -9)),
        "a fall is taken for a rise: the mover should look at S1 *more* without it.":
            lambda a, b, i: at((b - i).abs().masked_fill(a < 0.3, -1)),
        "this head makes the mover look at S1 least.": lambda a, b, i: at((i - b).masked_fill(a < 0.3, -9)),
        "a product lets one map stand in for the other: both tests must be passed.": lambda a, b, i: at(a * b),
        "layer and head are exchanged.": lambda a, b, i: inhibiting(a, b, i)[::-1],
        "a head that looks with exactly the bound passes.": lambda a, b, i: at((b - i).masked_fill(a <= 0.3, -9)),
        "a (layer, head) is wanted, counted from 0.": lambda a, b, i: tuple(x + 1 for x in inhibiting(a, b, i)),
    }  # fmt: skip
    say = "where it looks, and what it changes"
    check_through(pair_of, "S-inhibition", function, inhibiting, cases, mistakes, say=say)


# -- 6: position or token ------------------------------------------------------------------------------------


def shares(clean: Tensor, flipped: Tensor, renamed: Tensor, both: Tensor) -> Tensor:
    drop = clean.mean() - both.mean()
    return torch.stack([(clean.mean() - other.mean()) / drop for other in (flipped, renamed)])


def check_position_or_token(function: object) -> None:
    """Exercise 6: the shares of a drop that two counterfactuals explain."""
    cases = []
    for n, s in ((6, 1), (15, 2), (4, 3)):
        level = 5 + random(n, seed=s)
        noise = [random(n, seed=s + 10 * i) for i in (1, 2, 3)]
        cases.append(
            (level, level - 4 + noise[0], level + (0.5 if s == 3 else -0.5) + noise[1], level - 6 + noise[2])
        )
    mean = lambda x: x.mean()
    mistakes = {
        "the two are exchanged: position first.": lambda *c: shares(*c).flip(0),
        "this is what is left, not what is lost.":
            lambda c, f, r, b: torch.stack([mean(f), mean(r)]) / mean(c),
        "shares of the whole difference: shares of the drop are wanted.":
            lambda c, f, r, b: torch.stack([mean(c) - mean(f), mean(c) - mean(r)]) / mean(c),
        "these are drops and not shares of one.": lambda c, f, r, b: torch.stack([mean(c) - mean(f), mean(c) - mean(r)]),
        "each prompt's ratio is averaged: average the differences first.":
            lambda c, f, r, b: torch.stack([((c - f) / (c - b)).mean(), ((c - r) / (c - b)).mean()]),
        "the two need not add up to 1: each is measured on its own.":
            lambda c, f, r, b: (lambda p: torch.stack([p, 1 - p]))(shares(c, f, r, b)[0]),
        "they are divided by their own sum, and not by the drop of both.":
            lambda c, f, r, b: torch.stack([mean(c) - mean(f), mean(c) - mean(r)]) / (2 * mean(c) - mean(f) - mean(r)),
        "signs are lost: a counterfactual may help.": lambda *c: shares(*c).abs(),
    }  # fmt: skip
    say = "two measurements, and nothing makes them add up"
    check("position or token", function, shares, cases, mistakes, atol=1e-4, say=say)


# -- 7: how loud the contrastive head must be ----------------------------------------------------------------


def range_of(additive: Tensor, contrastive: Tensor) -> tuple[float, float]:
    low = (additive[1] + additive[2] - additive[0]) / (contrastive[1] + contrastive[2] - contrastive[0])
    return float(low), float(additive[0] / contrastive[0])


def check_two_heads(function: object) -> None:
    """Exercise 7: between which strengths of the contrastive head IO comes out on top."""
    rows = (
        ((0.3, 0.4, 0.3), (0.1, 0.2, 0.7)),
        ((0.5, 0.25, 0.25), (0.05, 0.05, 0.9)),
        ((0.2, 0.2, 0.6), (0.02, 0.3, 0.68)),
        ((0.25, 0.3, 0.3), (0.2, 0.15, 0.5)),
    )
    cases = [(torch.tensor(a), torch.tensor(b)) for a, b in rows]
    mistakes = {
        "S stands there twice: both places count for it.":
            lambda a, b: (float((a[2] - a[0]) / (b[2] - b[0])), float(a[0] / b[0])),
        "the contrastive head takes from IO, too.":
            lambda a, b: (float((a[1] + a[2] - a[0]) / (b[1] + b[2])), float(a[0] / b[0])),
        "IO must beat S, not only be above 0: where are their logits equal?":
            lambda a, b: (float((a[1] + a[2]) / (b[1] + b[2])), float(a[0] / b[0])),
        "the two ends are exchanged.": lambda a, b: range_of(a, b)[::-1],
        "too loud, and IO falls below a name that is not there at all (logit 0).":
            lambda a, b: (range_of(a, b)[0], float("1e9")),
        "the heads are exchanged.": lambda a, b: tuple(1 / x for x in range_of(a, b)),
        "the order is IO, S1, S2.": lambda a, b: range_of(a.flip(0), b.flip(0)),
    }  # fmt: skip
    say = "loud enough to silence S, not so loud that IO goes with it"
    check("two heads", function, range_of, cases, mistakes, atol=1e-4, say=say)


# -- 8: who gives it back -------------------------------------------------------------------------------------


def given_back(before: Tensor, after: Tensor, out: list[int]) -> Tensor:
    others = [head for head in range(len(before)) if head not in out]
    return (after - before)[others].mean(1).sum() / before[out].mean(1).sum()


def check_given_back(function: object) -> None:
    """Exercise 8: the share of what knocked-out heads wrote that other heads make up for."""
    cases = []
    for heads, n, out, s in ((6, 5, [1, 4], 1), (4, 8, [0], 2), (9, 3, [2, 3, 8], 3)):
        before = random(heads, n, seed=s)
        before[out] = before[out].abs() + 1
        after = before + 0.4 * random(heads, n, seed=s + 9)
        after[out] = 0.3 * random(len(out), n, seed=s + 20)  # a mean is no zero
        cases.append((before, after, out))

    def with_out(before, after, out):
        return (after - before).mean(1).sum() / before[out].mean(1).sum()

    def only_rises(before, after, out):
        change = (after - before).mean(1)
        others = [h for h in range(len(before)) if h not in out]
        return change[others].clamp(min=0).sum() / before[out].mean(1).sum()

    def after_alone(before, after, out):
        others = [h for h in range(len(before)) if h not in out]
        return after[others].mean(1).sum() / before[out].mean(1).sum()

    def ratios(before, after, out):
        others = [h for h in range(len(before)) if h not in out]
        return ((after - before)[others].sum(0) / before[out].sum(0)).mean()

    everything = lambda b, a, out: given_back(b, a, out) * b[out].mean(1).sum() / b.mean(1).sum()
    mistakes = {
        "the heads that are out are counted among the others.": with_out,
        "only heads that rise are counted: some fall.": only_rises,
        "this is what the others write, not how much more.": after_alone,
        "each prompt's ratio is averaged: average first.": ratios,
        "it is divided by what all heads wrote.": everything,
        "this is what is not made up for.": lambda *c: 1 - given_back(*c),
        "this is a difference and not a share.": lambda b, a, out: given_back(b, a, out) * b[out].mean(1).sum(),
        "sizes are added up: what one head gives another may take.":
            lambda b, a, out: (a - b)[[h for h in range(len(b)) if h not in out]].mean(1).abs().sum() / b[out].mean(1).sum(),
    }  # fmt: skip
    say = "it can be anything: nobody promised that it lies between 0 and 1"
    check("given back", function, given_back, cases, mistakes, atol=1e-4, say=say)
