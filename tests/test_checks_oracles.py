"""Every check of notebook 15: the solution and another right answer pass, wrong ones hear what went wrong."""

from collections import Counter

import torch

from mi_course.checks import oracles as checks
from tests.answers import *  # noqa: F403 — the tests themselves, over RIGHT and WRONG below

# -- right answers: the notebook's, and another one ---------------------------------------------------


def inject(h, v):
    length = v.norm(dim=-1, keepdim=True)
    direction = torch.where(length > 0, v / length.clamp_min(1e-12), 0.0)
    return h + h.norm(dim=-1, keepdim=True) * direction


def inject_by_rows(h, v):
    rows = [a + (a.norm() / b.norm() * b if b.any() else 0 * a) for a, b in zip(h.double(), v.double())]
    return torch.stack(rows)


def chance(prompts, answers):
    by = {}
    for prompt, said in zip(prompts, answers):
        by.setdefault(prompt, []).append(said)
    return sum(max(map(said.count, said)) for said in by.values()) / len(answers)


def chance_by_pairs(prompts, answers):
    best = Counter()
    for (prompt, _), n in Counter(zip(prompts, answers)).items():
        best[prompt] = max(best[prompt], n)
    return torch.tensor(best.total() / len(prompts), dtype=torch.double)


def leaks(templates, yes, limit):
    return [
        int(t) for t in templates.unique() if abs(yes[templates == t].float().mean() - 0.5) > limit + 1e-6
    ]


def leaks_by_counts(templates, yes, limit):
    found = set()
    for t in set(templates.tolist()):
        said = [bool(y) for s, y in zip(templates.tolist(), yes) if s == t]
        if max(said.count(True), said.count(False)) > (0.5 + limit) * len(said) + 1e-6:
            found.add(t)
    return found


def shuffle(v, seed):
    order = torch.randperm(len(v), generator=torch.Generator().manual_seed(seed))
    new = torch.empty_like(v)
    new[order] = v[order.roll(1)]
    return new


def shuffle_by_trying(v, seed):
    rng = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(v), generator=rng)
        if (order != torch.arange(len(v))).all():
            return v[order]


def interval(first, second):
    gap = first.double() - second.double()
    half = 1.96 * gap.std() / len(gap) ** 0.5
    return gap.mean() - half, gap.mean() + half


def interval_by_counts(first, second):
    n, up, down = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    mean = (up - down) / n
    half = 1.96 * (((up + down) / n - mean**2) / n) ** 0.5
    return [mean - half, mean + half]


def split(documents, templates, held_documents, held_templates):
    a = torch.isin(documents, torch.tensor(held_documents))
    b = torch.isin(templates, torch.tensor(held_templates))
    return ~a & ~b, a & b


def split_by_loop(documents, templates, held_documents, held_templates):
    new = [(int(d) in held_documents) + (int(t) in held_templates) for d, t in zip(documents, templates)]
    return [n == 0 for n in new], [n == 2 for n in new]


def premise(said_yes, premise):
    return said_yes[~premise].float().mean(), 1 - said_yes[premise].float().mean()


def premise_by_counts(said_yes, premise):
    both = Counter(zip(said_yes.tolist(), premise.tolist()))
    return [
        both[True, False] / (both[True, False] + both[False, False]),
        both[False, True] / (both[True, True] + both[False, True]),
    ]


def low_rank(W, A, B):
    return W + A @ B, (A.numel() + B.numel()) / W.numel()


def low_rank_by_columns(W, A, B):
    rows, columns = W.shape
    new = W.double()
    for a, b in zip(A.T, B):
        new = new + torch.outer(a, b)
    return [new, torch.tensor(len(B) * (rows + columns) / (rows * columns))]


RIGHT = [
    (checks.check_injection, inject, inject_by_rows),
    (checks.check_chance, chance, chance_by_pairs),
    (checks.check_template, leaks, leaks_by_counts),
    (checks.check_shuffle, shuffle, shuffle_by_trying),
    (checks.check_interval, interval, interval_by_counts),
    (checks.check_split, split, split_by_loop),
    (checks.check_premise, premise, premise_by_counts),
    (checks.check_low_rank, low_rank, low_rank_by_columns),
]


# -- wrong answers, and what they hear ---------------------------------------------------------------


def in_place(h, v):
    h += h.norm(dim=-1, keepdim=True) * v / v.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return h


norm = lambda x: x.norm(dim=-1, keepdim=True)
WRONG = [
    (checks.check_injection, lambda h, v: h + norm(h) * v / norm(v), "makes NaN"),
    (checks.check_injection, lambda h, v: h + v, "its own length"),
    (checks.check_injection, lambda h, v: h + v / norm(v).clamp_min(1e-9), "at length 1"),
    (checks.check_injection, lambda h, v: torch.where(norm(v) > 0, norm(h) * v / norm(v).clamp_min(1e-9), h), "replaces h"),
    (checks.check_injection, in_place, "in place"),
    (checks.check_chance, lambda q, a: 0.5, "one half"),
    (checks.check_chance, lambda q, a: max(map(a.count, a)) / len(a), "does not read the question"),
    (checks.check_chance, lambda q, a: 1 / len(set(a)), "number of different answers"),
    (checks.check_chance, lambda q, a: sum(max(s.count(x) for x in s) / len(s) for s in
     [[y for p, y in zip(q, a) if p == one] for one in set(q)]) / len(set(q)), "every question counts the same"),
    (checks.check_template, lambda t, y, m: [int(i) for i in t.unique() if y[t == i].float().mean() > 0.5 + m + 1e-6],
     "too many yes"),
    (checks.check_template, lambda t, y, m: [int(i) for i in t.unique() if abs(y[t == i].float().mean() - 0.5) <= m + 1e-6],
     "sound templates"),
    (checks.check_template, lambda t, y, m: [int(i) for i in t.unique() if abs(y[t == i].float().mean() - 0.5) >= m - 1e-6],
     "at the limit"),
    (checks.check_template, lambda t, y, m: t.unique().tolist(), "every template"),
    (checks.check_shuffle, lambda v, s: v[torch.randperm(len(v), generator=torch.Generator().manual_seed(s))], "own vector"),
    (checks.check_shuffle, lambda v, s: v.flip(1), "whole rows"),
    (checks.check_shuffle, lambda v, s: v.roll(1, 0), "every seed"),
    (checks.check_shuffle, lambda v, s: v[torch.tensor([1, *[0] * (len(v) - 1)])], "used twice"),
    (checks.check_shuffle, lambda v, s: v[1:], "tensor of the shape"),
    (checks.check_interval, lambda a, b: interval(b, a), "second is compared"),
    (checks.check_interval, lambda a, b: [float((a.double() - b.double()).mean()) + k * float(
        (a.double().var() / len(a) + b.double().var() / len(b)).sqrt()) for k in (-1.96, 1.96)], "separate samples"),
    (checks.check_interval, lambda a, b: [float((a.double() - b.double()).mean()) + k * float((a.double() - b.double()).std())
                                          for k in (-1.96, 1.96)], "root of their number"),
    (checks.check_split, lambda d, t, hd, ht: (~torch.isin(d, torch.tensor(hd)), torch.isin(d, torch.tensor(hd))),
     "only documents"),
    (checks.check_split, lambda d, t, hd, ht: split(d, t, hd, ht)[::-1], "exchanged"),
    (checks.check_split, lambda d, t, hd, ht: (~split(d, t, hd, ht)[1], split(d, t, hd, ht)[1]), "neither may be"),
    (checks.check_premise, lambda s, p: premise(s, p)[::-1], "exchanged"),
    (checks.check_premise, lambda s, p: ((s & ~p).float().mean(), (~s & p).float().mean()), "divides by all"),
    (checks.check_premise, lambda s, p: (s[~p].float().mean(), s[p].float().mean()), "share of no is wanted"),
    (checks.check_low_rank, lambda W, A, B: (A @ B, (A.numel() + B.numel()) / W.numel()), "on top of W"),
    (checks.check_low_rank, lambda W, A, B: (W + A @ B, A.numel() / W.numel()), "only A"),
    (checks.check_low_rank, lambda W, A, B: (W + A @ B, 1.0), "product is counted"),
]  # fmt: skip
