"""Checks of notebook 15, activation oracles."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from mi_course.checks import CheckFailed, answer, as_tensor, check, is_number, passed
from mi_course.checks.circuits import check_through, random


def put_in(h: Tensor, v: Tensor, size=None, way=None) -> Tensor:
    """h + size · way, both as in the paper where they are not given."""
    length = v.norm(dim=-1, keepdim=True)
    way = torch.where(length > 0, v / length.clamp_min(1e-30), 0.0) if way is None else way
    return h + (h.norm(dim=-1, keepdim=True) if size is None else size) * way


def check_injection(function: object) -> None:
    """Exercise 1: h + ‖h‖ v/‖v‖, row by row, and nothing for a vector of zeros."""
    cases = []
    for n, d in ((3, 4), (5, 2), (2, 8)):
        h, v = random(n, d, seed=n) * 3, random(n, d, seed=d + 20) * torch.arange(1, n + 1)[:, None]
        v[n // 2] = 0  # nothing to put in
        cases.append((h, v))
    norm = lambda x: x.norm(dim=-1, keepdim=True)
    direction = lambda v: put_in(torch.zeros_like(v), v, size=1.0)
    mistakes = {
        "a vector of zeros makes NaN: with no direction h stays as it is.": lambda h, v: h + norm(h) * v / norm(v),
        "v goes in at its own length: it is to be as long as h.": lambda h, v: h + v,
        "v goes in at length 1: it is to be as long as h.": lambda h, v: h + direction(v),
        "v replaces h: it is added to it.": lambda h, v: norm(h) * direction(v) + (norm(v) == 0) * h,
        "the result is scaled back to the length of h.": lambda h, v: put_in(h, v) / norm(put_in(h, v)) * norm(h),
        "lengths are taken over all rows together: every row has its own.":
            lambda h, v: put_in(h, v, size=h.norm(), way=v / v.norm()),
        "the length of h is squared.": lambda h, v: put_in(h, v, size=norm(h) ** 2),
        "the two are exchanged: h is put into v.": lambda h, v: put_in(v, h),
        "v is taken away.": lambda h, v: 2 * h - put_in(h, v),
    }  # fmt: skip
    if callable(function) and has_nan(function, cases[0]):
        raise CheckFailed(f"injection: {next(iter(mistakes))}")
    check("injection", function, put_in, cases, mistakes, say="a direction goes in, a length does not")


def has_nan(function, case: tuple) -> bool:
    """Whether the answer is a tensor with NaN."""
    try:
        found = function(*(part.clone() for part in case))
    except Exception:  # the check itself says what is wrong
        return False
    return isinstance(found, Tensor) and bool(found.isnan().any())


def guessed(prompts: list[str], answers: list[str]) -> float:
    """Share that is right where each prompt gets its most frequent answer."""
    by: dict[str, Counter] = {}
    for prompt, said in zip(prompts, answers, strict=True):
        by.setdefault(prompt, Counter())[said] += 1
    return sum(count.most_common(1)[0][1] for count in by.values()) / len(answers)


def check_chance(function: object) -> None:
    """Exercise 2: what the best guesser scores who sees the question and no activation."""
    cases = [
        (["is it about sea"] * 4 + ["is it about farm"] * 2, ["yes", "yes", "yes", "no", "no", "no"]),
        (["q", "w", "q", "w", "q"], ["yes", "no", "yes", "no", "no"]),
        (["where"] * 5 + ["who"] * 3, ["oslo", "rome", "oslo", "lima", "cairo", "anna", "tom", "anna"]),
        (["a", "b", "c", "a"], ["yes", "no", "yes", "no"]),
    ]
    share = lambda counts, n: sum(counts) / n
    top = lambda said: Counter(said).most_common(1)[0][1]
    groups = lambda q, a: [[s for p, s in zip(q, a, strict=True) if p == one] for one in dict.fromkeys(q)]
    mistakes = {
        "one half: not every question has two answers that are equally frequent.": lambda q, a: 0.5,
        "one over the number of different answers: they are not equally frequent.": lambda q, a: 1 / len(set(a)),
        "this guesser does not read the question: it says the same to all of them.": lambda q, a: top(a) / len(a),
        "every wording counts the same: every question counts the same.":
            lambda q, a: share([top(g) / len(g) for g in groups(q, a)], len(groups(q, a))),
        "this guesser draws by the frequencies: one that always says the likeliest does better.":
            lambda q, a: share([sum(n * n for n in Counter(g).values()) / len(g) for g in groups(q, a)], len(a)),
        "these are counts, not a share.": lambda q, a: guessed(q, a) * len(a),
        "this is the rarest answer.": lambda q, a: share([min(Counter(g).values()) for g in groups(q, a)], len(a)),
        "one over the number of answers, question by question: they are not equally frequent.":
            lambda q, a: share([len(g) / len(set(g)) for g in groups(q, a)], len(a)),
    }  # fmt: skip
    check("chance", function, guessed, cases, mistakes, say="what the question alone gives away")


def leaks(templates: Tensor, yes: Tensor, limit: float) -> list[int]:
    """Templates whose share of yes is farther than `limit` from one half."""
    return [
        int(one)
        for one in templates.unique()
        if abs(float(yes[templates == one].double().mean()) - 0.5) > limit + 1e-9
    ]


def check_template(function: object) -> None:
    """Exercise 3: which templates give their answer away."""
    cases = []
    for shares, limit, each in (((0.5, 0.9, 0.4, 0.1), 0.2, 10), ((0.75, 1.0, 0.5), 0.3, 4), ((0.3, 0.7, 0.5), 0.2, 10),
                                ((0.45, 0.6, 0.0, 0.55), 0.12, 20)):  # fmt: skip
        templates = torch.arange(len(shares)).repeat_interleave(each) * 2 + each
        yes = torch.cat([torch.arange(each) < round(share * each) for share in shares])
        order = torch.randperm(len(yes), generator=torch.Generator().manual_seed(each))
        cases.append((templates[order], yes[order], limit))
    share = lambda t, y, one: float(y[t == one].double().mean())
    of = lambda t, test: [int(one) for one in t.unique() if test(one)]
    mistakes = {
        "only templates with too many yes are named: a no gives itself away as well.":
            lambda t, y, m: of(t, lambda one: share(t, y, one) - 0.5 > m + 1e-9),
        "only templates with too few yes are named.": lambda t, y, m: of(t, lambda one: 0.5 - share(t, y, one) > m + 1e-9),
        "the sound templates are named: those that leak are wanted.":
            lambda t, y, m: of(t, lambda one: abs(share(t, y, one) - 0.5) <= m + 1e-9),
        "the distance is taken from the share of yes in all questions: guessing at one half is what a balanced set allows.":
            lambda t, y, m: of(t, lambda one: abs(share(t, y, one) - float(y.double().mean())) > m + 1e-9),
        "a template at the limit does not leak: farther than it is wanted.":
            lambda t, y, m: of(t, lambda one: abs(share(t, y, one) - 0.5) >= m - 1e-9),
        "the share itself is compared with the limit, not its distance from one half.":
            lambda t, y, m: of(t, lambda one: share(t, y, one) > m),
        "every template is named.": lambda t, y, m: t.unique().tolist(),
    }  # fmt: skip

    def named(found):
        return sorted(int(one) for one in found) if isinstance(found, (list, tuple, set, Tensor)) else found

    check_through(
        named,
        "leak",
        function,
        leaks,
        cases,
        mistakes,
        say="a wording that goes with its answer needs no activation",
    )


def two_numbers(found):
    """A pair of numbers as a tensor, however it was handed over; anything else as it is."""
    try:
        return torch.as_tensor([float(end) for end in found]) if isinstance(found, (list, tuple)) else found
    except (TypeError, ValueError, RuntimeError):
        return found


def check_shuffle(function: object) -> None:
    """Exercise 4: every question gets another text's vector."""
    exercise = "shuffle"
    for n, d, seed in ((2, 3, 0), (7, 4, 1), (40, 2, 2)):
        v = random(n, d, seed=n + 5)
        found = [answer(exercise, function, (v, s)) for s in (seed, seed + 1, seed + 2, seed)]
        if not all(is_number(x) and as_tensor(x).shape == v.shape for x in found):
            raise CheckFailed(f"{exercise}: a tensor of the shape of the vectors is wanted, [row d].")
        *found, again = map(as_tensor, found)
        for x in (*found, again):
            place = torch.isclose(x[:, None], v.double(), atol=1e-5).all(-1)  # new row, old row
            if bool(place.diagonal().any()):
                raise CheckFailed(
                    f"{exercise}: some question keeps its own vector, and is then answered rightly for a good reason."
                )
            if not bool(place.any(1).all()):
                raise CheckFailed(
                    f"{exercise}: there are rows that are no text's vector: shuffle whole rows, and leave them whole."
                )
            if not bool((place.sum(0) == 1).all()):
                raise CheckFailed(
                    f"{exercise}: some vector is used twice and another never: each goes to one other question."
                )
        if not torch.allclose(found[0], again, atol=1e-5):
            raise CheckFailed(
                f"{exercise}: the same seed gives another order each time: let the seed decide."
            )
        if n > 10 and all(torch.allclose(found[0], x, atol=1e-5) for x in found[1:]):
            raise CheckFailed(f"{exercise}: every seed gives the same order.")
    passed(exercise, "right vectors, wrong questions")


def paired(first: Tensor, second: Tensor, z: float = 1.96) -> Tensor:
    """Mean of the differences, and where its interval begins and ends."""
    gap = first.double() - second.double()
    half = z * gap.std() / len(gap) ** 0.5
    return torch.stack([gap.mean() - half, gap.mean() + half])


def check_interval(function: object) -> None:
    """Exercise 5: a 95% interval for the difference of two readers on the same questions."""
    cases = []
    for n, s in ((12, 1), (30, 2), (101, 3)):
        hard = random(n, seed=s)
        cases.append((random(n, seed=s + 9) * 0.5 + hard > -0.8, random(n, seed=s + 19) * 0.5 + hard > 0.2))
    two = lambda middle, half: torch.stack([middle - half, middle + half])
    gap = lambda a, b: a.double() - b.double()
    spread = lambda a, b: (a.double().var() / len(a) + b.double().var() / len(b)).sqrt()
    mistakes = {
        "this treats them as two separate samples: the questions are the same, so take the difference question by question.":
            lambda a, b: two(gap(a, b).mean(), 1.96 * spread(a, b)),
        "this is where single differences lie: divide by the root of their number.":
            lambda a, b: two(gap(a, b).mean(), 1.96 * gap(a, b).std()),
        "one standard error each way holds 68%: take 1.96.":
            lambda a, b: two(gap(a, b).mean(), gap(a, b).std() / len(a) ** 0.5),
        "the second is compared with the first: first less second.": lambda a, b: paired(b, a),
        "this divides by the number, not by its root.": lambda a, b: two(gap(a, b).mean(), 1.96 * gap(a, b).std() / len(a)),
        "this is the interval of the first alone.": lambda a, b: paired(a, torch.zeros_like(a)),
        "the variance stands where the standard deviation belongs.":
            lambda a, b: two(gap(a, b).mean(), 1.96 * gap(a, b).var() / len(a) ** 0.5),
        "the ends are exchanged: low first.": lambda a, b: paired(a, b).flip(0),
        "the size of the differences is averaged, without their sign.": lambda a, b: two(
            gap(a, b).abs().mean(), 1.96 * gap(a, b).abs().std() / len(a) ** 0.5),
    }  # fmt: skip

    check_through(
        two_numbers,
        "interval",
        function,
        paired,
        cases,
        mistakes,
        atol=6e-3,
        say="the same questions: a pair each",
    )


def split(
    documents: Tensor, templates: Tensor, held_documents: list, held_templates: list, join=None
) -> list[list[bool]]:
    """Rows to train on and rows to test on."""
    there = lambda x, held: torch.isin(x, torch.tensor(held))
    a, b = there(documents, held_documents), there(templates, held_templates)
    train, test = (~a & ~b, a & b) if join is None else join(a, b)
    return [train.tolist(), test.tolist()]


def check_split(function: object) -> None:
    """Exercise 6: held out by document and by template at once."""
    cases = []
    for n, s in ((16, 1), (30, 2), (24, 3)):
        pick = lambda high, k, n=n: torch.randint(high, (n,), generator=torch.Generator().manual_seed(k))
        cases.append((pick(6, s), pick(4, s + 7), [1, 4] if s < 3 else [0, 2, 5], [0, 2] if s > 1 else [3]))
    wrong = lambda join: lambda d, t, hd, ht: split(d, t, hd, ht, join)
    mistakes = {
        "rows whose document is held out and whose wording is not are trained on: neither may be.":
            wrong(lambda a, b: (~(a & b), a & b)),
        "rows are tested on whose wording, or whose document, was trained on: both must be new.":
            wrong(lambda a, b: (~a & ~b, a | b)),
        "only documents are held out.": wrong(lambda a, b: (~a, a)),
        "only wordings are held out.": wrong(lambda a, b: (~b, b)),
        "training and test are exchanged.": wrong(lambda a, b: (a & b, ~a & ~b)),
        "training takes rows of held-out wordings.": wrong(lambda a, b: (~a, a & b)),
        "training takes rows of held-out documents.": wrong(lambda a, b: (~b, a & b)),
        "tested on every held-out document, in wordings that were trained on as well.": wrong(lambda a, b: (~a & ~b, a)),
        "tested on every held-out wording, about documents that were trained on as well.": wrong(lambda a, b: (~a & ~b, b)),
    }  # fmt: skip

    def listed(found):
        rows = (list, tuple, Tensor)
        if (
            isinstance(found, (list, tuple))
            and len(found) == 2
            and all(isinstance(part, rows) for part in found)
        ):
            return [[bool(row) for row in part] for part in found]
        return found

    check_through(
        listed, "split", function, split, cases, mistakes, say="new documents and new wordings, both at once"
    )


def premises(said_yes: Tensor, premise: Tensor) -> Tensor:
    """Share of yes where the premise is false, and of no where it is true."""
    return torch.stack([said_yes[~premise].double().mean(), (~said_yes[premise]).double().mean()])


def check_premise(function: object) -> None:
    """Exercise 7: how often a false premise is swallowed, and how often a true one is denied."""
    cases = []
    for n, s in ((10, 1), (25, 2), (60, 3)):
        said, premise = random(n, seed=s) > -0.6, random(n, seed=s + 8) > -0.2
        said[:2], premise[:2] = torch.tensor([True, False]), torch.tensor([False, True])
        cases.append((said, premise))
    mean = lambda x: x.double().mean()
    mistakes = {
        "the two are exchanged: the false premise comes first.": lambda s, p: premises(s, p).flip(0),
        "this divides by all questions: each share is of its own kind of premise.":
            lambda s, p: torch.stack([mean(s & ~p), mean(~s & p)]),
        "the second is the share of yes to a true premise: the share of no is wanted.":
            lambda s, p: torch.stack([mean(s[~p]), mean(s[p])]),
        "the first is the share of no to a false premise: the share of yes is wanted.":
            lambda s, p: torch.stack([mean(~s[~p]), mean(~s[p])]),
        "these are counts, not shares.": lambda s, p: torch.stack([(s & ~p).sum(), (~s & p).sum()]).double(),
        "this is the share of false premises among the yes, and of true ones among the no.":
            lambda s, p: torch.stack([mean(~p[s]), mean(p[~s])]),
    }  # fmt: skip

    check_through(
        two_numbers,
        "premise",
        function,
        premises,
        cases,
        mistakes,
        say="one rate means nothing without the other",
    )


def thin(W: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """The updated weight, and behind it the share of its numbers that the update has."""
    share = (A.numel() + B.numel()) / W.numel()
    return torch.cat([(W + A @ B).flatten(), torch.tensor([share])])


def check_low_rank(function: object) -> None:
    """Exercise 8: a low-rank update, and how many numbers it has."""
    cases = [
        (random(r, c, seed=r), random(r, k, seed=c), random(k, c, seed=k + 3))
        for r, c, k in ((6, 4, 1), (5, 9, 2), (8, 8, 3))
    ]
    joined = lambda W, share: torch.cat([W.flatten(), torch.tensor([float(share)])])
    mistakes = {
        "this is the update alone: it goes on top of W.":
            lambda W, A, B: joined(A @ B, (A.numel() + B.numel()) / W.numel()),
        "the update is taken away.": lambda W, A, B: joined(W - A @ B, (A.numel() + B.numel()) / W.numel()),
        "only A is counted: B is saved as well.": lambda W, A, B: joined(W + A @ B, A.numel() / W.numel()),
        "only B is counted: A is saved as well.": lambda W, A, B: joined(W + A @ B, B.numel() / W.numel()),
        "the product is counted: what is saved is A and B.": lambda W, A, B: joined(W + A @ B, 1.0),
        "the share is the rank over the smaller side: count numbers.":
            lambda W, A, B: joined(W + A @ B, A.shape[1] / min(W.shape)),
        "this is how many numbers, not which share of W's.": lambda W, A, B: joined(W + A @ B, A.numel() + B.numel()),
        "W is divided by the update's size: the update's share of W is wanted.":
            lambda W, A, B: joined(W + A @ B, W.numel() / (A.numel() + B.numel())),
    }  # fmt: skip

    def flat(found):
        try:
            weight, share = found
            return torch.cat([torch.as_tensor(weight).flatten().float(), torch.as_tensor([float(share)])])
        except (TypeError, ValueError, RuntimeError):
            return found

    check_through(flat, "low rank", function, thin, cases, mistakes, say="two thin matrices for a wide one")
