"""Checks of notebook 11, lenses and attribution."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_course.checks import check
from mi_course.checks.circuits import check_through, random


def rms(x: Tensor, eps: float) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + eps).sqrt()


def read(stream: Tensor, w: Tensor, W_U: Tensor, eps: float) -> Tensor:
    return stream / rms(stream, eps) * w @ W_U


def check_logit_lens(function: object) -> None:
    """Exercise 1: the final norm, then the unembedding."""
    cases = [
        (random(n, d, seed=n) * 3 + 0.5, random(d, seed=d).abs() + 0.5, random(d, v, seed=v), eps)
        for n, d, v, eps in ((3, 4, 6, 0.1), (5, 6, 4, 0.3), (1, 8, 9, 1e-5))
    ]
    mistakes = {
        "the norm is left out: W_U reads a stream of another length.": lambda x, w, U, e: x @ U,
        "the norm's weight w is left out.": lambda x, w, U, e: x / rms(x, e) @ U,
        "the stream is weighted, and not divided by its length.": lambda x, w, U, e: x * w @ U,
        "the weight comes before the norm: first the length, then w.": lambda x, w, U, e: x * w / rms(x * w, e) @ U,
        "it is divided by the length ‖x‖: the root of the mean square is wanted.":
            lambda x, w, U, e: x / x.norm(dim=-1, keepdim=True) * w @ U,
        "a sum of squares stands in the place of their mean.":
            lambda x, w, U, e: x / (x.square().sum(-1, keepdim=True) + e).sqrt() * w @ U,
        "one length for all positions: each has its own.": lambda x, w, U, e: x / (x.square().mean() + e).sqrt() * w @ U,
        "the mean square is taken over positions: over the stream's own entries is wanted.":
            lambda x, w, U, e: x / (x.square().mean(0) + e).sqrt() * w @ U,
        "eps is left out.": lambda x, w, U, e: x / rms(x, 0.0) * w @ U,
        "eps stands outside the root.": lambda x, w, U, e: x / (rms(x, 0.0) + e) * w @ U,
        "it is divided by the mean square, without the root.": lambda x, w, U, e: x / rms(x, e) ** 2 * w @ U,
        "it is multiplied by the length: divide.": lambda x, w, U, e: x * rms(x, e) * w @ U,
        "the mean is taken away: this is RMSNorm, which does not.":
            lambda x, w, U, e: read(x - x.mean(-1, keepdim=True), w, U, e),
        "probabilities are returned: the lens gives logits.": lambda x, w, U, e: read(x, w, U, e).softmax(-1),
    }  # fmt: skip
    check(
        "logit lens",
        function,
        read,
        cases,
        mistakes,
        atol=1e-4,
        say="norm, then unembedding: never one without the other",
    )


def far(final: Tensor, lens: Tensor) -> Tensor:
    p, q = final.log_softmax(-1), lens.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def check_kl(function: object) -> None:
    """Exercise 2: KL from the final distribution to the lens'."""
    cases = [(random(n, v, seed=n) * 2, random(n, v, seed=n + 20)) for n, v in ((2, 3), (4, 5), (3, 7))]
    logs = lambda x: x.log_softmax(-1)
    mistakes = {
        "the two are exchanged: what the model says in the end is what the lens is held against.": lambda f, g: far(g, f),
        "both directions are added: one is wanted.": lambda f, g: far(f, g) + far(g, f),
        "this is the cross-entropy: the final distribution's own entropy is still in it.":
            lambda f, g: -(logs(f).exp() * logs(g)).sum(-1),
        "logits are compared, not log probabilities.": lambda f, g: (logs(f).exp() * (f - g)).sum(-1),
        "the mean over tokens is not the sum.": lambda f, g: (logs(f).exp() * (logs(f) - logs(g))).mean(-1),
        "positions are added up: one number for each is wanted.": lambda f, g: far(f, g).sum(),
        "positions are averaged: one number for each is wanted.": lambda f, g: far(f, g).mean(),
        "the softmax runs over positions: tokens are the last axis.":
            lambda f, g: (f.softmax(0) * (f.log_softmax(0) - g.log_softmax(0))).sum(-1),
        "weights are missing: every token counts by its probability in the end.": lambda f, g: (logs(f) - logs(g)).sum(-1),
        "this is the distance of the probabilities, not a divergence.":
            lambda f, g: (logs(f).exp() - logs(g).exp()).abs().sum(-1),
    }  # fmt: skip
    check("KL", function, far, cases, mistakes, atol=1e-4, say="0 where the lens says what will be said")


def frozen(parts: Tensor, w: Tensor, direction: Tensor, eps: float) -> Tensor:
    return parts @ (w * direction) / rms(parts.sum(0), eps)


def check_frozen(function: object) -> None:
    """Exercise 3: every part's own logit, the final norm's scale held."""
    cases = [
        (random(n, d, seed=n) + 0.3, random(d, seed=d).abs() + 0.4, random(d, seed=d + 9), eps)
        for n, d, eps in ((3, 4, 0.1), (5, 6, 0.4), (2, 8, 1e-5))
    ]
    own = lambda p, w, u, e: p / rms(p, e) * w @ u
    mistakes = {
        "every part is divided by its own scale: the norm saw their sum.": own,
        "the scale is left out: the last stream was divided by it.": lambda p, w, u, e: p @ (w * u),
        "the norm's weight is left out.": lambda p, w, u, e: p @ u / rms(p.sum(0), e),
        "only the total is returned: one number for each part is wanted.":
            lambda p, w, u, e: frozen(p, w, u, e).sum(),
        "the scale is that of the mean of the parts: the stream is their sum.":
            lambda p, w, u, e: p @ (w * u) / rms(p.mean(0), e),
        "the scale is taken over all parts' entries together.": lambda p, w, u, e: p @ (w * u) / (p.square().mean() + e).sqrt(),
        "‖x‖ stands in the place of the root of the mean square.": lambda p, w, u, e: p @ (w * u) / p.sum(0).norm(),
        "it is multiplied by the scale: divide.": lambda p, w, u, e: p @ (w * u) * rms(p.sum(0), e),
        "eps is left out.": lambda p, w, u, e: frozen(p, w, u, 0.0),
        "it is divided by the mean square, without the root.": lambda p, w, u, e: p @ (w * u) / rms(p.sum(0), e) ** 2,
    }  # fmt: skip
    check("frozen norm", function, frozen, cases, mistakes, atol=1e-4, say="parts that add up to the logit")


def two_layers(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """∂y/∂x of y = x + relu(x A) B, as [out in]."""
    on = (x @ A > 0).float()
    return torch.eye(len(x)) + ((A * on) @ B).T


def check_jacobian(function: object) -> None:
    """Exercise 4: the Jacobian of one block by hand."""
    cases = [
        (random(d, seed=d), random(d, m, seed=m), random(m, d, seed=m + 5))
        for d, m in ((3, 5), (4, 6), (2, 3))
    ]
    cases.append((torch.tensor([1.0, 0.0]), torch.eye(2), random(2, 2, seed=9)))  # a neuron at 0 is not on
    on = lambda x, A: (x @ A > 0).float()
    one = lambda x: torch.eye(len(x))
    mistakes = {
        "the stream's own share, the identity, is left out.": lambda x, A, B: two_layers(x, A, B) - one(x),
        "this is [in out]: turn it over.": lambda x, A, B: two_layers(x, A, B).T,
        "every neuron counts as on: those below 0 pass nothing.": lambda x, A, B: one(x) + (A @ B).T,
        "the neurons that are off are taken for on.": lambda x, A, B: one(x) + ((A * (1 - on(x, A))) @ B).T,
        "activations stand where their slopes (0 or 1) are wanted.": lambda x, A, B: one(x) + ((A * (x @ A).relu()) @ B).T,
        "A and B are exchanged.": lambda x, A, B: one(x) + (B.T @ (A * on(x, A)).T).T,
        "the identity is taken away: it is added.": lambda x, A, B: two_layers(x, A, B) - 2 * one(x),
    }  # fmt: skip
    check("Jacobian", function, two_layers, cases, mistakes, say="identity, plus the neurons that are on")


def completeness(slopes: Tensor, x: Tensor, baseline: Tensor, f_x: float, f_baseline: float) -> Tensor:
    return ((x - baseline) * slopes.mean(0)).sum() - (f_x - f_baseline)


def check_completeness(function: object) -> None:
    """Exercise 5: how much of f(x) − f(baseline) the attributions miss."""
    cases = [
        (random(s, d, seed=s), random(d, seed=d), random(d, seed=d + 3), 1.7 + s, 0.4 * d)
        for s, d in ((4, 3), (6, 2), (9, 5))
    ]
    mistakes = {
        "the baseline is taken for 0: attributions are along x − baseline.":
            lambda g, x, b, f, f0: (x * g.mean(0)).sum() - (f - f0),
        "the gradients along the way are added: their mean is wanted.":
            lambda g, x, b, f, f0: ((x - b) * g.sum(0)).sum() - (f - f0),
        "the sum is held against f(x) alone: f(baseline) is missing.":
            lambda g, x, b, f, f0: ((x - b) * g.mean(0)).sum() - f,
        "only the last gradient is used: this is gradient × input.":
            lambda g, x, b, f, f0: ((x - b) * g[-1]).sum() - (f - f0),
        "only the first gradient is used.": lambda g, x, b, f, f0: ((x - b) * g[0]).sum() - (f - f0),
        "the way goes from x to the baseline.": lambda g, x, b, f, f0: ((b - x) * g.mean(0)).sum() - (f - f0),
        "f(x) and f(baseline) are exchanged.": lambda g, x, b, f, f0: ((x - b) * g.mean(0)).sum() - (f0 - f),
        "this is the sum of the attributions: what do they miss?": lambda g, x, b, f, f0: ((x - b) * g.mean(0)).sum(),
        "it is the other way round: attributions less the difference.":
            lambda g, x, b, f, f0: -completeness(g, x, b, f, f0),
        "the difference is added: take it away.": lambda g, x, b, f, f0: ((x - b) * g.mean(0)).sum() + (f - f0),
        "features are averaged: their sum is wanted.": lambda g, x, b, f, f0: ((x - b) * g.mean(0)).mean() - (f - f0),
    }  # fmt: skip
    check(
        "completeness",
        function,
        completeness,
        cases,
        mistakes,
        atol=1e-4,
        say="the parts add up, or something is missing",
    )


def fixed(scores: Tensor, key: int, new: float, slopes: Tensor) -> Tensor:
    changed = scores.clone()
    changed[key] = new
    return ((changed.softmax(-1) - scores.softmax(-1)) * slopes).sum()


def check_qk_fix(function: object) -> None:
    """Exercise 6: one key's effect, the softmax recomputed."""
    cases = [
        (random(n, seed=n) * 2, key, new, random(n, seed=n + 7))
        for n, key, new in ((3, 0, 4.0), (5, 4, -2.0), (6, 2, 1.5))
    ]

    def tangent(s, k, new, g):
        p = s.softmax(-1)
        return (new - s[k]) * p[k] * (g[k] - (p * g).sum())

    mistakes = {
        "this is the tangent: recompute the softmax with the new score.": tangent,
        "only the changed key's own weight is counted: all weights of the row move.":
            lambda s, k, new, g: (fixed(s, k, new, g * (torch.arange(len(s)) == k))),
        "this is the new pattern's value: what it is more than the old one is wanted.":
            lambda s, k, new, g: (torch.cat([s[:k], torch.tensor([new]), s[k + 1 :]]).softmax(-1) * g).sum(),
        "old less new: the other way round.": lambda s, k, new, g: -fixed(s, k, new, g),
        "the new score is added to the old one: it takes its place.": lambda s, k, new, g: fixed(s, k, float(s[k]) + new, g),
        "scores are compared, not the weights behind the softmax.": lambda s, k, new, g: (new - s[k]) * g[k],
        "the mean over keys is not the sum.": lambda s, k, new, g: fixed(s, k, new, g) / len(s),
        "the slopes are left out.": lambda s, k, new, g: fixed(s, k, new, 0 * g + 1),
    }  # fmt: skip
    check("QK fix", function, fixed, cases, mistakes, say="exact through the softmax, linear from there")


def leave(choices: Tensor, sure: Tensor, threshold: float, final: Tensor) -> tuple[Tensor, Tensor]:
    n = len(choices)
    ready = torch.cat([sure >= threshold, torch.ones(1, sure.shape[1], dtype=torch.bool)])
    layer = ready.int().argmax(0)
    said = torch.cat([choices, final[None]]).gather(0, layer[None])[0]
    return (n - layer).float().mean() / n, (said == final).float().mean()


def check_exits(function: object) -> None:
    """Exercise 7: what leaving early saves, and how often the answer stays."""
    cases = []
    for n, rows, threshold, seed in ((3, 5, 0.6, 1), (4, 8, 0.8, 2), (6, 12, 0.5, 3)):
        rng = torch.Generator().manual_seed(seed)
        choices = torch.randint(3, (n, rows), generator=rng)
        sure = torch.rand(n, rows, generator=rng)
        sure[0, 0] = threshold  # sure enough: at the threshold one leaves
        sure[:, 1] = 0.0  # never sure
        cases.append((choices, sure, threshold, torch.randint(3, (rows,), generator=rng)))

    def last_unsure(c, s, t, f):
        n = len(c)
        below = torch.arange(1, n + 1)[:, None] * (s < t)
        layer = below.amax(0)
        said = torch.cat([c, f[None]]).gather(0, layer[None])[0]
        return (n - layer).float().mean() / n, (said == f).float().mean()

    mistakes = {
        "whoever is never sure leaves at layer 0: the last stream is theirs.":
            lambda c, s, t, f: leave(c, torch.where((s >= t).any(0), s, torch.ones_like(s)), t, f),
        "one leaves above the threshold only: at it is sure enough.": lambda c, s, t, f: leave(c, s - 1e-6, t, f),
        "one leaves at the first layer from which on one stays sure; the first sure one is wanted.": last_unsure,
        "layers that are run are counted, not those that are saved.":
            lambda c, s, t, f: (1 - leave(c, s, t, f)[0], leave(c, s, t, f)[1]),
        "saved layers are counted, not their share.":
            lambda c, s, t, f: (leave(c, s, t, f)[0] * len(c), leave(c, s, t, f)[1]),
        "the two are exchanged.": lambda c, s, t, f: leave(c, s, t, f)[::-1],
        "disagreement is counted.": lambda c, s, t, f: (leave(c, s, t, f)[0], 1 - leave(c, s, t, f)[1]),
        "tokens leave where they are unsure.": lambda c, s, t, f: leave(c, 2 * t - s, t, f),
    }  # fmt: skip
    flat = lambda out: (
        torch.stack([torch.as_tensor(v).float().reshape(()) for v in out])
        if isinstance(out, (tuple, list))
        else out
    )
    flatten = lambda answer: attempt_flat(flat, answer)
    wanted = lambda c, s, t, f: torch.stack(leave(c, s, t, f))
    heard = {
        said: (lambda c, s, t, f, wrong=wrong: torch.stack(list(wrong(c, s, t, f))))
        for said, wrong in mistakes.items()
    }
    check_through(
        flatten, "early exit", function, wanted, cases, heard, say="a threshold buys layers with answers"
    )


def attempt_flat(flat, answer):
    """The answer as one tensor, or as it is where it is no pair of numbers."""
    try:
        return flat(answer)
    except (TypeError, ValueError, RuntimeError):
        return answer


def suspects(scores: dict[str, float], controls: dict[str, float], chance: float) -> set[str]:
    return {name for name, score in scores.items() if score > chance + 0.1 and controls[name] >= score - 0.1}


def check_suspects(function: object) -> None:
    """Exercise 8: which lens reads something that is not there."""
    cases = [
        (
            {"logit": 0.3, "tuned": 0.95, "Jacobian": 0.9},
            {"logit": 0.05, "tuned": 0.92, "Jacobian": 0.06},
            0.05,
        ),
        (
            {"logit": 0.06, "tuned": 0.5, "Jacobian": 0.7},
            {"logit": 0.05, "tuned": 0.1, "Jacobian": 0.75},
            0.05,
        ),
        ({"a": 0.5, "b": 0.55, "c": 0.9, "d": 0.4}, {"a": 0.5, "b": 0.52, "c": 0.7, "d": 0.39}, 0.5),
        ({"a": 0.8, "b": 0.9}, {"a": 0.75, "b": 0.85}, 0.25),
        ({"a": 0.1, "b": 0.5, "c": 0.15}, {"a": 0.1, "b": 0.4, "c": 0.15}, 0.0),  # at both limits
        ({"a": 0.1, "b": 0.3}, {"a": 0.6, "b": 0.1}, 0.05),  # a control above its lens
    ]

    def pick(rule):
        return lambda s, c, chance: {k for k in s if rule(s[k], c[k], chance)}

    mistakes = {
        "a lens at chance reads nothing: it cannot read what is not there.": pick(lambda s, c, chance: c >= s - 0.1),
        "any control above chance counts: it is one that does as well as the lens.":
            pick(lambda s, c, chance: s > chance + 0.1 and c > chance + 0.1),
        "these are the lenses whose control fails: they are the honest ones.":
            pick(lambda s, c, chance: s > chance + 0.1 and c < s - 0.1),
        "a control may be a little below: within .1 is as well.": pick(lambda s, c, chance: s > chance + 0.1 and c >= s),
        "these are all lenses that read something.": pick(lambda s, c, chance: s > chance + 0.1),
        "these are the lenses at chance.": pick(lambda s, c, chance: s <= chance + 0.1),
        "every lens is named.": pick(lambda s, c, chance: True),
        "no lens is named.": pick(lambda s, c, chance: False),
    }  # fmt: skip

    def names(answer):
        return {str(name) for name in answer} if isinstance(answer, (list, tuple, set)) else answer

    say = "a lens that reads the same where nothing is there has told you about itself"
    check_through(names, "suspects", function, suspects, cases, mistakes, say=say)
