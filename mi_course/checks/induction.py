"""Checks of notebook 03, induction heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mi_course import induction
from mi_course.checks import CheckFailed, answer, as_tensor, check, is_number
from mi_course.checks.circuits import check_through
from mi_course.corpora.corpus import generator
from mi_course.induction.scores import icl_scores, patterns
from mi_course.induction.trained import freeze
from mi_course.models import TinyConfig, TinyTransformer

# -- circuits by hand ----------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers that are the same in every run."""
    return torch.randn(shape, generator=generator(seed))


def causal(scores: Tensor) -> Tensor:
    """Attention pattern [query, key] of scores [query, key]."""
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf).softmax(-1)


def guesses(
    tokens: list[int], earlier: Callable = lambda i, n: range(i), take=max, step: int = 1
) -> list[int]:
    """For every position, the token `step` after the copy chosen by `take` among `earlier` places; −1: none."""
    found = []
    for i, token in enumerate(tokens):
        copies = [j for j in earlier(i, len(tokens)) if tokens[j] == token]
        at = take(copies) + step if copies else -1
        found.append(tokens[at] if 0 <= at < len(tokens) else -1)
    return found


def check_induction_guess(function: object) -> None:
    """Exercise 1: what an ideal induction head says, as a list of tokens."""
    cases = [([1, 2, 3, 1, 2, 3],), ([4, 4, 4],), ([1, 2, 1, 3, 1],), ([7, 5, 6, 5, 7, 5],), ([2],)]
    others = lambda i, n: [j for j in range(n) if j != i]
    mistakes = {
        "it peeks at the future: a token counts as its own earlier copy, so the answer is the next token itself. "
        "An earlier copy stands strictly before.": lambda t: guesses(t, lambda i, n: range(i + 1)),
        "it peeks at the future: copies that come later are looked up too.": lambda t: guesses(t, others),
        "it is off by one: it says the copy itself, which is the present token, and not what came after it.":
            lambda t: guesses(t, step=0),
        "it is off by one, the wrong way: it says what came before the copy.":
            lambda t: [-1 if a == -1 else b for a, b in zip(guesses(t), guesses(t, step=-1))],
        "the token just before does not count as an earlier copy here: in 4 4 it does.":
            lambda t: guesses(t, lambda i, n: range(i - 1)),
        "any earlier token is taken for a copy: compare it with the present one.":
            lambda t: [-1, *t[1:]],
        "it takes the earliest copy where the latest is asked for.": lambda t: guesses(t, take=min),
    }  # fmt: skip
    check("induction guess", function, guesses, cases, mistakes, say="no peeking, and one past the copy")


def check_causal_pattern(function: object) -> None:
    """Exercise 4: scores [query, key] to an attention pattern."""
    cases = [(random(n, n, seed=n),) for n in (2, 3, 6)]
    cases.append((cases[-1][0].round(),))  # some scores are exactly 0
    below = lambda s: s.masked_fill(torch.ones_like(s).tril(-1).bool(), -torch.inf).softmax(-1)
    mistakes = {
        "every query sees the future: the mask is missing.": lambda s: s.softmax(-1),
        "the mask is upside down: queries look at the future and not at the past.": below,
        "wrong axis: the softmax runs over queries, and it is each query that shares out its attention over keys.":
            lambda s: s.masked_fill(torch.ones_like(s).triu(1).bool(), -torch.inf).softmax(0),
        "the mask came after the softmax: rows no longer sum to 1, so part of the attention is lost.":
            lambda s: s.softmax(-1).tril(),
        "masked scores were set to 0, and e⁰ = 1 is attention: the future is still seen.":
            lambda s: s.tril().softmax(-1),
        "the mask is off by one: every query still sees the token after it.":
            lambda s: s.masked_fill(torch.ones_like(s).triu(2).bool(), -torch.inf).softmax(-1),
        "a future score that happens to be 0 is not masked: the mask follows from the places, not from the scores.":
            lambda s: s.masked_fill(s.triu(1).bool(), -torch.inf).softmax(-1),
    }  # fmt: skip
    check(
        "causal pattern", function, causal, cases, mistakes, say="rows sum to 1, nothing above the diagonal"
    )


def stripe(pattern: Tensor, period: int, offset: int = 1) -> Tensor:
    """Mean attention of the second copy's queries at `offset` past their first copy."""
    onto = pattern.diagonal(offset=offset - period)[-period:]
    return onto.sum() / period


def check_prefix_matching(function: object) -> None:
    """Exercise 2: the prefix-matching score of one head on two copies."""
    cases = [(causal(3 * random(2 * p, 2 * p, seed=p)), p) for p in (2, 3, 7)]
    everywhere = lambda p, n: p.diagonal(offset=1 - n).sum() / (2 * n)
    mistakes = {
        "the stripe is off by one: this is attention to the earlier copy itself.": lambda p, n: stripe(p, n, 0),
        "the stripe is off by one, the wrong way: this is attention to what came before the earlier copy.":
            lambda p, n: stripe(p, n, -1),
        "wrong axis: rows are queries and columns are keys, and here they are swapped.": lambda p, n: stripe(p.T, n),
        "the first copy is counted in the mean, and it has nothing to match.": everywhere,
        "the whole diagonal counts here: its first entry belongs to the last query of the first copy.":
            lambda p, n: p.diagonal(offset=1 - n).mean(),
        "these are the queries of the first copy, and they have nothing to match.":
            lambda p, n: p[torch.arange(n), torch.arange(n) - n + 1].mean(),
        "this is the mean over all queries and keys: only one key of each query counts.": lambda p, n: p.mean(),
        "a mean is wanted: this is a sum, which grows with the period.": lambda p, n: stripe(p, n) * n,
    }  # fmt: skip
    check("prefix matching", function, stripe, cases, mistakes, say="second copy only, one past the match")


def check_previous_token_scores(function: object) -> None:
    """Exercise 3: a matrix of position scores that makes a previous-token head."""
    cases = [(2, 1.0), (5, 3.0), (8, 100.0), (1, 2.0)]
    right = lambda n, s: s * torch.ones(n - 1).diag(-1)[:n, :n]

    def seen(scores):
        """What the softmax makes of scores: a constant in a row is nothing to it, nor what the mask hides."""
        scores = as_tensor(scores) if is_number(scores) else scores
        square = isinstance(scores, Tensor) and scores.ndim == 2 and scores.shape[0] == scores.shape[1]
        return causal(scores.double()) if square else scores

    mistakes = {
        "it is transposed: position i asks for i + 1, which the mask hides.": lambda n, s: right(n, s).T,
        "this head attends to itself: the stripe is off by one.": lambda n, s: s * torch.eye(n),
        "the sharpness is left out.": lambda n, s: right(n, 1.0),
        "the sharpness counts twice.": lambda n, s: right(n, s * s),
        "this looks two back: the stripe is off by one.": lambda n, s: s * torch.ones(n).diag(-2)[:n, :n],
        "every earlier position scores as high as the one before.": lambda n, s: s * torch.ones(n, n).tril(-1),
    }  # fmt: skip
    say = "row i asks for i − 1"
    visible = {sentence: (lambda n, s, f=f: seen(f(n, s))) for sentence, f in mistakes.items()}
    reference = lambda n, s: seen(right(n, s))
    check_through(seen, "previous-token scores", function, reference, cases, visible, say=say)


def check_composed_pattern(function: object) -> None:
    """Exercise 6: the pattern of a virtual head."""
    cases = [(causal(2 * random(n, n, seed=n)), causal(2 * random(n, n, seed=n + 50))) for n in (2, 3, 6)]
    mistakes = {
        "the heads are in the wrong order: a row vector times first · second would run the later head first.":
            lambda a, b: a @ b,
        "this multiplies entry by entry; attention to attention sums over the place in between.":
            lambda a, b: a * b,
        "it is transposed: rows must stay queries.": lambda a, b: (b @ a).T,
        "one of the two is transposed: both have queries as rows.": lambda a, b: b @ a.T,
        "the later pattern is transposed: both have queries as rows.": lambda a, b: b.T @ a,
        "one head is applied twice.": lambda a, b: b @ b,
        "the earlier head is applied twice.": lambda a, b: a @ a,
        "two patterns in a row are not their mean.": lambda a, b: (a + b) / 2,
    }  # fmt: skip
    check("composed pattern", function, lambda a, b: b @ a, cases, mistakes, say="rows still sum to 1")


def check_k_composition(function: object) -> None:
    """Exercise 7: the raw K-composition score of two heads."""
    shapes = [(random(6, 2, seed=s), random(2, 6, seed=s + 1), random(6, 2, seed=s + 2), random(2, 6, seed=s + 3))
              for s in (0, 10, 20)]  # fmt: skip
    cases = [(V @ O, Q @ K) for V, O, Q, K in shapes]
    score = induction.overlap
    mistakes = {
        "this is Q-composition: the query side of W_QK is read. The published figure had a transposed product too.":
            lambda OV, QK: score(OV, QK),
        "W_OV is transposed: x W_OV is what the head writes, so its columns are the output.":
            lambda OV, QK: score(OV.T, QK.T),
        "both matrices are transposed.": lambda OV, QK: score(OV.T, QK),
        "the norms of the two factors are not divided out, so larger weights look like more composition.":
            lambda OV, QK: (OV @ QK.T).norm(),
        "only one factor's norm is divided out, W_OV's.": lambda OV, QK: (OV @ QK.T).norm() / OV.norm(),
        "only one factor's norm is divided out, W_QK's.": lambda OV, QK: (OV @ QK.T).norm() / QK.norm(),
        "this multiplies entry by entry: composition is a matrix product.":
            lambda OV, QK: (OV * QK.T).norm() / OV.norm() / QK.norm(),
        "this uses the largest singular value; the Frobenius norm is asked for.":
            lambda OV, QK: torch.linalg.matrix_norm(OV @ QK.T, 2)
            / torch.linalg.matrix_norm(OV, 2) / torch.linalg.matrix_norm(QK, 2),
    }  # fmt: skip
    check(
        "K-composition", function, lambda OV, QK: score(OV, QK.T), cases, mistakes, say="the key side is read"
    )


def check_say_two_on(function: object) -> None:
    """Exercise 5: edit the hand-built circuit until it says what came two after the earlier copy."""
    if not callable(function):
        raise CheckFailed("say two on: give the function itself, without calling it.")

    def told(edit: Callable, period: int) -> Tensor:
        """What it says after the first three places: a token, or −1 where no logit stands out and it rests."""
        d_vocab = 12 + period  # never the same
        model = induction.k_composition_circuit(d_vocab, 2 * period + 1)
        edited = edit(model)
        if not hasattr(edited, "run_with_hooks"):
            raise CheckFailed(f"say two on: return the model; this returns a {type(edited).__name__}.")
        tokens = induction.distinct_repeats(d_vocab, 4, period, seed=period)
        with torch.no_grad():
            logits = edited(tokens)[:, 3:]
        return torch.where(logits.amax(-1) > 1.0, logits.argmax(-1), -1)

    def after(n: int) -> Callable:
        def edit(model):
            head = model.blocks[0].attn
            n_ctx = model.cfg.n_ctx
            shift = torch.ones(n_ctx - abs(n)).diag(-n) * 100 * model.cfg.d_head**0.5
            head.W_Q[0, -model.cfg.d_vocab - n_ctx : -model.cfg.d_vocab, :n_ctx] = shift
            return model

        return edit

    def no_output(model):
        model.blocks[0].attn.W_O.zero_()
        return model

    def no_rest(model):
        model.blocks[1].attn.W_K[0, :, -1] = 0
        return after(2)(model)

    periods = (5, 9)
    theirs = [answer("say two on", lambda p=p: told(function, p), ()) for p in periods]
    wrong = {
        "the circuit still says what came one after.": after(1),
        "it says what came three after: one step too far.": after(3),
        "it says the present token again: the shift is gone.": after(0),
        "the head rests on the start token, for the first layer looks at the future, which the mask hides.": after(
            -2
        ),
        "the first layer writes nothing any more, so nothing matches.": no_output,
        "in the first copy it should say nothing, for nothing came before: the second layer has lost its place of rest.": no_rest,
    }
    mistakes = {sentence: (lambda i, e=edit: told(e, periods[i])) for sentence, edit in wrong.items()}
    say = "one matrix moved, and every guess with it"
    cases = [(i,) for i in range(len(periods))]
    check("say two on", lambda i: theirs[i], lambda i: told(after(2), periods[i]), cases, mistakes, say=say)


# -- a trained model taken apart (second half of notebook 03) --------------------------------------


def check_icl_scores(student: object) -> None:
    """Exercise 8: `student(long_losses, short_losses, stretch)` -> the score of each window."""
    draw = generator(11)
    cases = [
        (torch.rand(6, 31, generator=draw), torch.rand(6, 12, generator=draw), 5),
        (torch.arange(1.0, 16).repeat(2, 1), torch.arange(1.0, 8).square().repeat(2, 1), 3),
    ]

    def paired(long, short, stretch, late=slice, early=None):
        return long[:, late(stretch)].mean(1) - short[:, (early or late)(stretch)].mean(1)

    def last(n):
        return slice(-n, None)

    check(
        "ICL score",
        student,
        icl_scores,
        cases,
        {
            "the sign is turned round: learning in context makes the score negative.": lambda *case: (
                -icl_scores(*case)
            ),
            "off by one: the last token of the window is missing.": partial(
                paired, late=lambda n: slice(-n - 1, -1)
            ),
            "one token too many: how many columns does a slice take?": partial(
                paired, late=lambda n: slice(-n - 1, None)
            ),
            "one token too few: how many columns does a slice take?": partial(
                paired, late=lambda n: slice(-n + 1, None)
            ),
            "the two windows are not compared on the same tokens: both must be counted from the end.": partial(
                paired, late=last, early=lambda n: slice(0, n)
            ),
            "this is one window's loss alone: compare it with the other's on the same tokens.": lambda long, short, n: (
                long[:, -n:].mean(1)
            ),
            "the means run over whole windows: compare the tokens that both have, the last of each.": lambda long, short, n: (
                long.mean(1) - short.mean(1)
            ),
            "the long window's mean runs over all of it: compare the same tokens.": lambda long, short, n: (
                long.mean(1) - short[:, -n:].mean(1)
            ),
            "the short window's mean runs over all of it: compare the same tokens.": lambda long, short, n: (
                long[:, -n:].mean(1) - short.mean(1)
            ),
            "the losses are added: the score is a difference.": lambda long, short, n: (
                long[:, -n:].mean(1) + short[:, -n:].mean(1)
            ),
            "all windows are thrown together: one score a window is wanted.": lambda *case: icl_scores(
                *case
            ).mean(),
            "the losses are summed where a mean is wanted.": lambda long, short, n: (
                long[:, -n:].sum(1) - short[:, -n:].sum(1)
            ),
        },
        say="the same tokens, with much and with little before them.",
    )


def check_smear(student: object) -> None:
    """Exercise 9: `student(keys, alpha)` -> keys [batch, pos, d_head], each mixed with the one before it."""
    draw = generator(12)
    cases = [
        (torch.randn(2, 5, 3, generator=draw), torch.tensor(0.7)),
        (torch.randn(1, 4, 2, generator=draw), torch.tensor(-2.0)),
    ]

    def smear(keys, alpha, share=torch.sigmoid, back=True, first="stays"):
        s = share(alpha)
        if back:
            head = {"stays": keys[:, :1], "zero": torch.zeros_like(keys[:, :1]), "last": keys[:, -1:]}[first]
            other = torch.cat([head, keys[:, :-1]], dim=1)
        else:
            other = torch.cat([keys[:, 1:], keys[:, -1:]], dim=1)
        return s * keys + (1 - s) * other

    check(
        "smeared keys",
        student,
        smear,
        cases,
        {
            "the two shares are swapped: σ(α) belongs to the present key.": partial(
                smear, share=lambda a: 1 - torch.sigmoid(a)
            ),
            "the future leaks in: each key is mixed with the one after it.": partial(smear, back=False),
            "the first key is mixed with the last one: torch.roll goes round the end.": partial(
                smear, first="last"
            ),
            "the first key has nothing before it; here it shrinks, and it should stay.": partial(
                smear, first="zero"
            ),
            "nothing of the key before is in it.": lambda keys, alpha: torch.sigmoid(alpha) * keys,
            "the key before has the same share as the present one: the two shares add up to 1.": lambda keys, alpha: (
                torch.sigmoid(alpha) * (keys + torch.cat([keys[:, :1], keys[:, :-1]], dim=1))
            ),
            "the key before is subtracted: keys are mixed.": lambda keys, alpha: (
                2 * torch.sigmoid(alpha) * keys - smear(keys, alpha)
            ),
            "the key before is added whole: the two shares add up to 1.": lambda keys, alpha: (
                torch.sigmoid(alpha) * keys + torch.cat([keys[:, :1], keys[:, :-1]], dim=1)
            ),
            "α is used as it is; its sigmoid is the share.": partial(smear, share=lambda a: a),
        },
        say="one scalar a head, and a key can tell what came before it.",
    )


def check_knock_out(student: object) -> None:
    """Exercise 12: `student(model, tokens, layer, head)` -> logits with that head silent and every pattern kept."""
    cases = []
    for seed, layer, head in ((3, 0, 1), (4, 1, 0), (5, 0, 0)):
        cfg = TinyConfig(2, n_heads=2, d_model=8, d_vocab=9 + seed, n_ctx=10, position_layers=1, seed=seed)
        model = TinyTransformer(cfg).eval()
        with torch.no_grad():
            for block in model.blocks:
                block.attn.W_O.mul_(4)
        tokens = torch.randint(0, cfg.d_vocab, (2, 5 + seed), generator=generator(10 + seed))
        cases.append((model, tokens, layer, head))

    def knocked(model, tokens, layer, head, keep=True, whole_layer=False, other=False, mean=False):
        def zero(z, hook):
            z = z.clone()
            at = slice(None) if whole_layer else (1 - head if other else head)
            z[:, :, at] = z[:, :, at].mean((0, 1)) if mean else 0
            return z

        hooks = freeze(patterns(model, tokens)) if keep else []
        with torch.no_grad():
            return model.run_with_hooks(tokens, fwd_hooks=[*hooks, (f"blocks.{layer}.attn.hook_z", zero)])

    check(
        "pattern-preserving knock-out",
        student,
        knocked,
        cases,
        {
            "the patterns of the later layer moved: freeze those of the intact run first.": partial(
                knocked, keep=False
            ),
            "every head of the layer is silent, and one was meant: mind the axes, z is batch pos head d_head.": partial(
                knocked, whole_layer=True
            ),
            "the other head is silent: heads count from 0.": partial(knocked, other=True),
            "the head still writes its mean; zero was asked for.": partial(knocked, mean=True),
            "nothing is knocked out: the logits are those of the intact model.": lambda model, tokens, *_: (
                model(tokens).detach()
            ),
        },
        say="what the head writes is gone, and every head still looks where it looked.",
    )


def check_qk_positivity(student: object) -> None:
    """Exercise 11: `student(W_E, W_QK, W_OV)` -> Σ Re λ / Σ |λ| of W_E W_QK W_OVᵀ W_Eᵀ."""
    draw = generator(14)
    cases = [
        tuple(torch.randn(*shape, generator=draw) for shape in ((9, 6), (6, 6), (6, 6))),
        (torch.eye(4), torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),
         torch.diag(torch.tensor([1.0, 2, 1, 3]))),
    ]  # fmt: skip

    def share(M):
        values = torch.linalg.eigvals(M)
        return values.real.sum() / values.abs().sum()

    def term(W_E, W_QK, W_OV):
        return W_E @ W_QK @ W_OV.T @ W_E.T

    check(
        "QK positivity",
        student,
        lambda *case: share(term(*case)),
        cases,
        {
            "W_OV is not transposed: what the previous-token head writes is on the key's side.": lambda E, QK, OV: (
                share(E @ QK @ OV @ E.T)
            ),
            "this is the head's plain QK circuit: the previous-token head is missing.": lambda E, QK, OV: (
                share(E @ QK @ E.T)
            ),
            "W_OV stands on the query's side: that is Q-composition.": lambda E, QK, OV: share(
                E @ OV @ QK @ E.T
            ),
            "singular values are never negative, so their share says nothing: take eigenvalues.": lambda *case: (
                torch.tensor(1.0)
            ),
            "the absolute value comes last: first |λ| of each eigenvalue, then the sum.": lambda *case: (
                torch.linalg.eigvals(term(*case)).real.sum() / torch.linalg.eigvals(term(*case)).sum().abs()
            ),
            "the sum of the real parts alone is the trace; divide by the sum of all sizes.": lambda *case: (
                torch.trace(term(*case))
            ),
        },
        say="1 when every pattern matches itself, about 0 for a random head.",
    )


def check_paths_of_order(student: object) -> None:
    """Exercise 10: `student(n_layers, n_heads, order)` -> number of paths through exactly `order` heads."""
    check(
        "terms of an order",
        student,
        lambda n_layers, n_heads, order: math.comb(n_layers, order) * n_heads**order,
        [(2, 12, 0), (2, 12, 1), (2, 12, 2), (3, 4, 2), (1, 4, 2)],
        {
            "heads of one layer cannot feed each other: a path takes at most one head of each layer.": lambda n, h, k: (
                math.comb(n * h, k)
            ),
            "order of the heads: a later layer never feeds an earlier one.": lambda n, h, k: (n * h) ** k,
            "that counts the paths of one choice of layers: which layers does the path pass through?": lambda n, h, k: (
                h**k if k <= n else 0
            ),
            "that counts choices of layers: each of them can be passed through any of its heads.": lambda n, h, k: (
                math.comb(n, k)
            ),
            "layers and heads have changed places: choose the layers, and in each of them one head.": lambda n, h, k: (
                math.comb(n, k) * n**k
            ),
            "layers and heads have changed places: the choice is among layers.": lambda n, h, k: (
                math.comb(h, k) * h**k
            ),
            "each layer of the path has its own choice of head: choices multiply.": lambda n, h, k: (
                math.comb(n, k) * h * k
            ),
            "that counts all paths up to this order, and exactly this order is wanted.": lambda n, h, k: sum(
                math.comb(n, j) * h**j for j in range(k + 1)
            ),
        },
        say="one direct path, then heads, then virtual heads.",
    )


# -- a real model --------------------------------------------------------------------------------


def repeat_losses(row: int, period: int, levels: tuple[float, float, float], seed: int) -> Tensor:
    """Losses [row, 2 · period − 1]: on the first copy, on the token nobody can know, on the second copy."""
    columns = torch.arange(2 * period - 1)
    level = torch.where(columns < period - 1, levels[0], torch.where(columns == period - 1, *levels[1:]))
    return level + 0.3 * torch.randn(row, 2 * period - 1, generator=generator(seed))


def check_share_of_gain_lost(function: object) -> None:
    """Exercise 13: what share of the gain on second copies a knock-out takes.

    `function(intact, cut [row, 2 · period − 1], period) -> 1 − gain(cut) / gain(intact)`, where the gain is the mean loss
    on the first copy less that on the second, without the column `period − 1`.
    """
    cases = [
        (repeat_losses(3, 6, (9.0, 30.0, 2.0), seed=1), repeat_losses(3, 6, (11.0, 4.0, 7.0), seed=2), 6),
        (repeat_losses(2, 3, (5.0, 20.0, 1.0), seed=3), repeat_losses(2, 3, (8.0, 9.0, 4.0), seed=4), 3),
        (repeat_losses(4, 9, (6.0, 1.0, 1.0), seed=5), repeat_losses(4, 9, (5.0, 40.0, 6.0), seed=6), 9),
        (repeat_losses(2, 5, (7.0, 25.0, 3.0), seed=7), repeat_losses(2, 5, (12.0, 11.0, 2.0), seed=8), 5),
    ]
    first = lambda losses, p: losses[:, : p - 1].mean()
    second = lambda losses, p: losses[:, p:].mean()
    share = lambda gain: lambda a, b, p: 1 - gain(b, p) / gain(a, p)
    reference = share(lambda x, p: first(x, p) - second(x, p))
    both = lambda a, b, p: (first(a, p) - second(a, p), first(b, p) - second(b, p))
    mistakes = {
        "this is the share of the gain that is left: the share that went is wanted.":
            lambda a, b, p: both(a, b, p)[1] / both(a, b, p)[0],
        "this is how many nats of the gain went: divide by the intact gain.":
            lambda a, b, p: both(a, b, p)[0] - both(a, b, p)[1],
        "the two runs are exchanged: the share is of the intact gain.":
            lambda a, b, p: 1 - both(a, b, p)[0] / both(a, b, p)[1],
        "it counts only how much dearer the second copy is: if the first became dearer too, that is not the gain's loss.":
            lambda a, b, p: (second(b, p) - second(a, p)) / both(a, b, p)[0],
        "it holds the first copy at its intact loss: the cut changes that one too.":
            lambda a, b, p: 1 - (first(a, p) - second(b, p)) / both(a, b, p)[0],
        "the token nobody could know is counted with the second copy: column period − 1 predicts its first token.":
            share(lambda x, p: first(x, p) - x[:, p - 1 :].mean()),
        "the token nobody could know is counted with the first copy.":
            share(lambda x, p: x[:, :p].mean() - second(x, p)),
        "off by one: the second copy begins a column too late.":
            share(lambda x, p: first(x, p) - x[:, p + 1 :].mean()),
        "the sum over positions is taken, and the copies do not have equally many once one token is left out of each: "
        "take means.":
            share(lambda x, p: x[:, :p].sum() - x[:, p:].sum()),
        "each row's own share is averaged: first the means over rows, then the ratio.":
            lambda a, b, p: (1 - (b[:, : p - 1].mean(1) - b[:, p:].mean(1))
                             / (a[:, : p - 1].mean(1) - a[:, p:].mean(1))).mean(),
        "it is clipped to 0 … 1: a cut that helps has a negative share, and one that reverses the gain more than all.":
            lambda a, b, p: reference(a, b, p).clamp(0, 1),
    }  # fmt: skip
    check(
        "share of the gain", function, reference, cases, mistakes,
        say="both copies are measured in both runs, and the token nobody could know in none",
    )  # fmt: skip
