"""Checks of notebook 05, sparse autoencoders."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_course.checks import as_tensor, check, is_number
from mi_course.checks.circuits import check_through, random


def unit(W: Tensor) -> Tensor:
    """Rows at length 1."""
    return W / W.norm(dim=-1, keepdim=True)


def single(value):
    """A tensor of one element as a number: [1] and [] are the same answer."""
    return value.reshape(()) if isinstance(value, Tensor) and value.numel() == 1 else value


# -- 1: the function --------------------------------------------------------------------------------


def autoencode(x, W_enc, b_enc, W_dec, b_dec):
    f = ((x - b_dec) @ W_enc + b_enc).relu()
    return f, f @ W_dec + b_dec


def side_by_side(pair):
    """(f, x̂) as one matrix, where they are two matrices with a row for each input."""
    if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(is_number(part) for part in pair):
        f, x_hat = map(as_tensor, pair)
        if f.ndim == x_hat.ndim == 2 and len(f) == len(x_hat):
            return torch.cat([f, x_hat], dim=1)
    return pair


def then(features, decode):
    """A wrong pair from how it gets the features and how it decodes them; both see x, W_enc, b_enc, W_dec, b_dec."""
    return lambda *given: ((f := features(*given)), decode(f, *given))


def check_shapes(function: object) -> None:
    """Exercise 1: the features and the reconstruction of a batch of activations.

    `function(x [batch d_in], W_enc [d_in d_sae], b_enc [d_sae], W_dec [d_sae d_in], b_dec [d_in])
    -> (f [batch d_sae], x_hat [batch d_in])`
    """
    cases = []
    for n, d, m in ((3, 4, 9), (5, 6, 11), (2, 5, 5)):
        shapes = ((n, d), (d, m), (m,), (m, d), (d,))
        cases.append(tuple(random(*shape, seed=10 * n + i) for i, shape in enumerate(shapes)))
    right = lambda x, E, b, D, c: ((x - c) @ E + b).relu()
    plain = lambda x, E, b, D, c: (x @ E + b).relu()
    out = lambda f, x, E, b, D, c: f @ D + c
    mistakes = {
        "b_dec is not subtracted before encoding: the bias of the input is tied to that of the output.":
            then(plain, out),
        "b_dec is not added back after decoding.": then(right, lambda f, x, E, b, D, c: f @ D),
        "b_dec is used neither before encoding nor after decoding.": then(plain, lambda f, x, E, b, D, c: f @ D),
        "b_dec is added before encoding: take it away there, and add it after decoding.":
            then(lambda x, E, b, D, c: right(x, E, b, D, -c), out),
        "b_enc is forgotten: without it no feature has a threshold of its own.":
            then(lambda x, E, b, D, c: right(x, E, 0 * b, D, c), out),
        "there is no ReLU: features are never negative, and mostly 0.":
            then(lambda x, E, b, D, c: (x - c) @ E + b, out),
        "the ReLU comes before b_enc is added, so that the bias cannot silence a feature.":
            then(lambda x, E, b, D, c: ((x - c) @ E).relu() + b, out),
        "the reconstruction goes through a ReLU as well: only the features do.":
            then(right, lambda f, x, E, b, D, c: (f @ D + c).relu()),
        "the encoder is taken to be the decoder's transpose, and the two are not tied.":
            then(lambda x, E, b, D, c: right(x, D.T, b, D, c), out),
        "the decoder is taken to be the encoder's transpose, and the two are not tied.":
            then(right, lambda f, x, E, b, D, c: f @ E.T + c),
    }  # fmt: skip
    seen = lambda mistake: lambda *given: side_by_side(mistake(*given))
    mistakes = {sentence: seen(mistake) for sentence, mistake in mistakes.items()} | {
        "the pair is the wrong way round: first the features, then the reconstruction.":
            lambda *given: side_by_side(autoencode(*given)[::-1]),
        "this is the reconstruction alone: return the pair of features and reconstruction.":
            lambda *given: autoencode(*given)[1],
        "these are the features alone: return the pair of features and reconstruction.":
            lambda *given: autoencode(*given)[0],
    }  # fmt: skip
    say = "d_in numbers in, d_sae features, d_in numbers out, and one bias used twice"
    check_through(side_by_side, "features and x̂", function, seen(autoencode), cases, mistakes, say=say)


# -- 2: the loss ------------------------------------------------------------------------------------


def l1_loss(x, f, W_dec, b_dec, l1, by_norm):
    weight = W_dec.norm(dim=1) if by_norm else torch.ones(len(W_dec))
    return (x - f @ W_dec - b_dec).square().sum(1).mean() + l1 * (f * weight).sum(1).mean()


def check_l1_loss(function: object) -> None:
    """Exercise 2: squared error plus λ Σ f_i, or λ Σ f_i ‖d_i‖ where `by_norm`.

    `function(x [batch d_in], f [batch d_sae], W_dec [d_sae d_in], b_dec [d_in], l1, by_norm) -> number`: summed over
    an input's coordinates or features, a mean over the batch.
    """
    cases = []
    for n, d, m in ((3, 4, 7), (6, 5, 9)):
        x, W, b = random(n, d, seed=n), random(m, d, seed=n + 1), random(d, seed=n + 2)
        f = random(n, m, seed=n + 3).relu()
        cases += [(x, f, W, b, 0.7, False), (x, f, W, b, 0.7, True), (x, f, W, b, 0.0, True)]
    error = lambda x, f, W, b: (x - f @ W - b).square()
    fit = lambda x, f, W, b: error(x, f, W, b).sum(1).mean()
    scaled = lambda a, p: (
        lambda x, f, W, b, l, n: a(x) * fit(x, f, W, b) + p(f) * (l1_loss(x, f, W, b, l, n) - fit(x, f, W, b))
    )
    penalty = lambda g: lambda x, f, W, b, l, n: fit(x, f, W, b) + l * g(f, W, n)
    mistakes = {
        "the decoder norms are never used: with by_norm, feature i costs f_i ‖d_i‖.":
            lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, False),
        "the decoder norms are always used: without by_norm, feature i costs f_i.":
            lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, True),
        "by_norm is read the wrong way round.": lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, not n),
        "the decoder norms are squared: feature i costs f_i ‖d_i‖.":
            penalty(lambda f, W, n: (f * (W.norm(dim=1) ** 2 if n else 1)).sum(1).mean()),
        "this divides by the decoder norms: rescaling f_i and d_i would then change the loss.":
            penalty(lambda f, W, n: (f / (W.norm(dim=1) if n else 1)).sum(1).mean()),
        "the squared error is averaged over coordinates, and a sum is wanted: λ would mean something else in each layer.":
            scaled(lambda x: 1 / x.shape[1], lambda f: 1),
        "the penalty is averaged over features, and a sum is wanted: a larger dictionary would pay less.":
            scaled(lambda x: 1, lambda f: 1 / f.shape[1]),
        "error and penalty are both averaged over their last axis, and sums are wanted there.":
            scaled(lambda x: 1 / x.shape[1], lambda f: 1 / f.shape[1]),
        "the batch is summed, and a mean over it is wanted.": scaled(len, len),
        "only the penalty is summed over the batch: take the mean of both.": scaled(lambda x: 1, len),
        "only the error is summed over the batch: take the mean of both.": scaled(len, lambda f: 1),
        "this penalty counts active features (L0), and a count has no gradient: add up the activations.":
            penalty(lambda f, W, n: ((f > 0).float() * (W.norm(dim=1) if n else 1)).sum(1).mean()),
        "this penalty squares the features (L2), which spreads activity out: L1 makes it sparse.":
            penalty(lambda f, W, n: (f * (W.norm(dim=1) if n else 1)).square().sum(1).mean()),
        "λ is left out: the penalty has full weight.":
            lambda x, f, W, b, l, n: l1_loss(x, f, W, b, 1.0, n),
        "b_dec is left out of the reconstruction.": lambda x, f, W, b, l, n: l1_loss(x, f, W, 0 * b, l, n),
        "the penalty is missing: this is the squared error alone.": lambda x, f, W, b, l, n: fit(x, f, W, b),
        "the error is missing: this is the penalty alone.":
            lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, n) - fit(x, f, W, b),
        "the penalty is subtracted: it rewards activity.": scaled(lambda x: 1, lambda f: -1),
        "the error is the distance and not its square.":
            lambda x, f, W, b, l, n: l1_loss(x, f, W, b, l, n) - fit(x, f, W, b)
            + error(x, f, W, b).sum(1).sqrt().mean(),
    }  # fmt: skip
    say = "with norms in it, nothing is gained by long decoder rows"
    check_through(single, "L1 loss", function, l1_loss, cases, mistakes, say=say)


# -- 3: backward through TopK -----------------------------------------------------------------------


def kept(values: Tensor, k: int, dim: int = -1) -> Tensor:
    """Which entries are among the k largest."""
    top = values.topk(k, dim=dim).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(dim, top, True)


def topk_backward(pre, k, grad):
    return grad * (kept(pre, k) & (pre > 0))


def check_topk_backward(function: object) -> None:
    """Exercise 3: the gradient of f = TopK(ReLU(pre)) with respect to pre.

    `function(pre [batch d_sae], k, grad [batch d_sae]) -> [batch d_sae]`, where `grad` is ∂L/∂f.
    """
    cases = [
        (random(n, m, seed=n) - shift, k, random(n, m, seed=n + 20))
        for n, m, k, shift in ((3, 6, 2, 0.0), (5, 8, 5, 0.7), (6, 5, 3, 1.0))
    ]
    mistakes = {
        "the gradient reaches features that were not kept: what f does not use gets none.": lambda p, k, g: g + 0,
        "this is ReLU's backward: of the positive entries, only the k largest were kept.":
            lambda p, k, g: g * (p > 0),
        "a negative entry among the k largest was cut by the ReLU: it gets no gradient.":
            lambda p, k, g: g * kept(p, k),
        "the k largest gradients are kept: which entries pass was decided by pre.":
            lambda p, k, g: g * kept(g, k),
        "the largest sizes are kept: a large negative entry is not among the k largest.":
            lambda p, k, g: g * kept(p.abs(), k),
        "the k largest are taken along the batch: each input keeps k features of its own.":
            lambda p, k, g: g * kept(p, k, 0) * (p > 0),
        "the k largest of the whole batch are kept (that is BatchTopK, with k times the batch): here each row keeps k.":
            lambda p, k, g: g * kept(p.flatten(), k * len(p)).view_as(p) * (p > 0),
        "the k smallest are kept.": lambda p, k, g: g * kept(-p, k),
        "the gradient is multiplied by the feature: where an entry is kept the slope is 1.":
            lambda p, k, g: topk_backward(p, k, g) * p,
        "this is which entries pass: multiply by the gradient that arrives.":
            lambda p, k, g: topk_backward(p, k, torch.ones_like(g)),
        "this is the forward pass: the gradient is wanted.": lambda p, k, g: p * (kept(p, k) & (p > 0)),
    }  # fmt: skip
    say = "k entries a row at most, and the rest learns nothing: hence the auxiliary loss"
    check("TopK backward", function, topk_backward, cases, mistakes, say=say)


# -- 4: the projected gradient ----------------------------------------------------------------------


def projected(grad, W_dec):
    return grad - (grad * W_dec).sum(1, keepdim=True) * W_dec


def check_projected_gradient(function: object) -> None:
    """Exercise 4: the gradient without the part that only changes the length of a decoder row.

    `function(grad [d_sae d_in], W_dec [d_sae d_in]) -> [d_sae d_in]`; the rows of W_dec have length 1.
    """
    cases = [(random(m, d, seed=m), unit(random(m, d, seed=m + 30))) for m, d in ((6, 3), (4, 5), (5, 5))]
    along = lambda g, W: (g * W).sum(1, keepdim=True)
    mistakes = {
        "this is the part along each row: it is to be taken away.": lambda g, W: along(g, W) * W,
        "the part along each row is added, and it is to be taken away.": lambda g, W: g + along(g, W) * W,
        "this projects along columns: feature i's direction is row i of W_dec.":
            lambda g, W: g - (g * W).sum(0, keepdim=True) * W,
        "one product for the whole matrix: every row has its own.": lambda g, W: g - (g * W).sum() * W,
        "each row loses its part along all the other rows too: only its own length is fixed.":
            lambda g, W: g - g @ W.T @ W,
        "the scalar product is taken away from each entry: multiply it by the row's direction.":
            lambda g, W: g - along(g, W),
        "the row's own direction is taken away, whatever the gradient is: weigh it by their scalar product.":
            lambda g, W: g - W,
        "the result is scaled to length 1: a small gradient must stay small.": lambda g, W: unit(projected(g, W)),
        "the roles are swapped: W_dec is projected here.": lambda g, W: projected(W, unit(g)),
        "the roles are swapped: W_dec is projected here, along gradients that do not have length 1.":
            lambda g, W: projected(W, g),
        "the gradient comes back as it was.": lambda g, W: g + 0,
    }  # fmt: skip
    check("projected gradient", function, projected, cases, mistakes, say="orthogonal to its row, every row")


# -- 5: resampling ----------------------------------------------------------------------------------


def resample_probabilities(x, x_hat):
    squared = (x - x_hat).square().sum(1).square()
    return squared / squared.sum()


def check_resampling(function: object) -> None:
    """Exercise 5: with which probability each input is drawn for a dead feature.

    `function(x [sample d_in], x_hat [sample d_in]) -> [sample]`: in proportion to the square of the input's loss,
    where the loss is ‖x − x̂‖².
    """
    cases = [(random(n, d, seed=n), 0.6 * random(n, d, seed=n + 40)) for n, d in ((4, 3), (7, 5), (12, 2))]
    share = lambda v: v / v.sum()
    loss = lambda x, y: (x - y).square().sum(1)
    mistakes = {
        "in proportion to the loss: its square is wanted, so that badly explained inputs stand out.":
            lambda x, y: share(loss(x, y)),
        "in proportion to the distance, the root of the loss: its square is wanted, the fourth power of the distance.":
            lambda x, y: share(loss(x, y).sqrt()),
        "these do not sum to 1: divide by their total.": lambda x, y: loss(x, y).square(),
        "fourth powers are taken of each coordinate: first the loss of the input, then its square.":
            lambda x, y: share((x - y).pow(4).sum(1)),
        "the coordinates' errors are summed with their signs and cancel: square each one first.":
            lambda x, y: share((x - y).sum(1).pow(4)),
        "well explained inputs are preferred: this is turned round.": lambda x, y: share(1 / loss(x, y).square()),
        "every input is equally likely: the loss has no say.": lambda x, y: torch.full((len(x),), 1 / len(x)),
        "a softmax is taken: probabilities in proportion to the squared loss need no exponential.":
            lambda x, y: loss(x, y).square().softmax(0),
        "a softmax of the loss is taken: probabilities in proportion to its square need no exponential.":
            lambda x, y: loss(x, y).softmax(0),
        "the loss is that of x = 0: x̂ has no say.": lambda x, y: share(x.square().sum(1).square()),
        "one probability for each coordinate: inputs are drawn, so sum along the other axis.":
            lambda x, y: share((x - y).square().sum(0).square()),
        "this divides by the largest: divide by the total.":
            lambda x, y: loss(x, y).square() / loss(x, y).square().max(),
    }  # fmt: skip
    say = "dead features go where the dictionary fails"
    check("resampling", function, resample_probabilities, cases, mistakes, say=say)


# -- 6: loss recovered ------------------------------------------------------------------------------


def recovered(losses, against):
    return (losses[against] - losses["spliced"]) / (losses[against] - losses["model"])


def check_loss_recovered(function: object) -> None:
    """Exercise 6: which part of the layer's worth the autoencoder keeps, against the baseline that is asked for.

    `function(losses, against) -> number`, with `losses` a dict of the mean losses "model", "spliced" (x̂ in the place
    of x), "zero", "mean" and "resample" (ablations), and `against` one of the last three.
    """
    lots = [
        {"model": 2.9, "spliced": 3.2, "zero": 4.3, "mean": 4.0, "resample": 4.9},
        {"model": 2.0, "spliced": 2.0, "zero": 3.0, "mean": 3.5, "resample": 3.25},
        {"model": 1.5, "spliced": 2.4, "zero": 1.9, "mean": 2.2, "resample": 3.0},
    ]
    cases = [(dict(losses), against) for losses in lots for against in ("zero", "mean", "resample")]
    part = lambda top, bottom: lambda l, a: top(l, a) / bottom(l, a)
    mistakes = {
        "it is always zero ablation here: use the baseline that is asked for.": lambda l, a: recovered(l, "zero"),
        "it is always mean ablation here: use the baseline that is asked for.": lambda l, a: recovered(l, "mean"),
        "this is the part that is lost: 1 means that nothing is lost.": lambda l, a: 1 - recovered(l, a),
        "this divides by the baseline's loss: divide by the gap between it and the model.":
            part(lambda l, a: l[a] - l["spliced"], lambda l, a: l[a]),
        "this divides by the model's loss: divide by the gap between baseline and model.":
            part(lambda l, a: l[a] - l["spliced"], lambda l, a: l["model"]),
        "a ratio of losses depends on what is left of the text's entropy: compare differences to the baseline.":
            part(lambda l, a: l["model"], lambda l, a: l["spliced"]),
        "a ratio of losses to the baseline's: compare differences to the baseline.":
            part(lambda l, a: l["spliced"], lambda l, a: l[a]),
        "these are nats: divide by the gap between baseline and model.": lambda l, a: l[a] - l["spliced"],
        "the fraction is upside down.": part(lambda l, a: l[a] - l["model"], lambda l, a: l[a] - l["spliced"]),
        "the sign is turned round.": lambda l, a: -recovered(l, a),
        "this is clipped to 0 and 1, which hides a dictionary that is worse than the ablation.":
            lambda l, a: min(1.0, max(0.0, recovered(l, a))),
        "this is in percent: 1 is wanted for all of it.": lambda l, a: 100 * recovered(l, a),
    }  # fmt: skip
    say = "and without its baseline the number says little"
    check_through(single, "loss recovered", function, recovered, cases, mistakes, say=say)


# -- 7: enrichment ----------------------------------------------------------------------------------


def enrichment(f, proxy):
    return proxy[f > 0].double().mean() / proxy.double().mean()


def check_enrichment(function: object) -> None:
    """Exercise 7: how many times more frequent a concept is where the feature is active than in all the text.

    `function(f [sample], proxy [sample] bool) -> number`: active means f > 0.
    """
    cases = []
    for n, rate, seed in ((60, 0.2, 1), (90, 0.1, 2), (200, 0.05, 3)):
        proxy = random(n, seed=seed).argsort() < rate * n
        f = (random(n, seed=seed + 50) - 0.5 + 1.6 * proxy).relu()
        cases.append((f, proxy))
    on, P = lambda f: f > 0, lambda event: event.double().mean()
    mistakes = {
        "this is the purity, P(concept | active): divide by how frequent the concept is anyway.":
            lambda f, p: P(p[on(f)]),
        "this is the recall, P(active | concept): ask which share of the active tokens has the concept.":
            lambda f, p: P(on(f)[p]),
        "this is how often the two meet: divide by how often the feature is active, and by the concept's rate.":
            lambda f, p: P(on(f) & p),
        "the base is the rate where the feature is silent: compare with all tokens.":
            lambda f, p: P(p[on(f)]) / P(p[~on(f)]),
        "this is the recall divided by the concept's rate: the rates must belong to the same event.":
            lambda f, p: P(on(f)[p]) / P(p),
        "this is the purity divided by how often the feature is active: divide by the concept's rate.":
            lambda f, p: P(p[on(f)]) / P(on(f)),
        "tokens are weighed by their activation: each active token counts once.":
            lambda f, p: (f * p).sum() / f.sum() / P(p),
        "this is a ratio of odds: a ratio of shares is wanted.":
            lambda f, p: P(p[on(f)]) / P(~p[on(f)]) / (P(p) / P(~p)),
        "the fraction is upside down.": lambda f, p: P(p) / P(p[on(f)]),
        "this is a difference: a ratio is wanted.": lambda f, p: P(p[on(f)]) - P(p),
        "this is a logarithm: the ratio itself is wanted.": lambda f, p: enrichment(f, p).log(),
        "every token with f ≥ 0 counts as active, and that is all of them: f > 0.":
            lambda f, p: torch.tensor(1.0),
        "only tokens above half of the largest activation count: active means f > 0.":
            lambda f, p: P(p[f > f.max() / 2]) / P(p),
        "only tokens above the mean activation count: active means f > 0.": lambda f, p: P(p[f > f.mean()]) / P(p),
    }  # fmt: skip
    say = "1 is chance, and 1 / rate is the most there can be"
    check_through(single, "enrichment", function, enrichment, cases, mistakes, say=say)


# -- 8: a split -------------------------------------------------------------------------------------


def children(parents, larger, cut):
    cosine = unit(parents) @ unit(larger).T
    return (cosine == cosine.max(0).values) & (cosine >= cut)


def check_split(function: object) -> None:
    """Exercise 8: which features of a larger dictionary are children of which feature of a smaller one.

    `function(parents [n d_in], larger [m d_in], cut) -> bool [n m]`: child j belongs to the parent whose decoder row has
    the largest cosine with its own, if that cosine is at least `cut`; otherwise it is an orphan.
    """
    cases = []
    for n, m, d, seed, cut in ((3, 9, 6, 1, 0.5), (5, 12, 4, 2, 0.3), (2, 7, 8, 3, 0.7)):
        parents = random(n, d, seed=seed) * (1 + torch.arange(n)[:, None])
        near = parents[torch.arange(m) % n] / (1 + torch.arange(m) % n)[:, None]
        larger = (near + random(m, d, seed=seed + 60)) * (1 + torch.arange(m) % 4)[:, None]
        cases.append((parents, larger, cut))
    cases.append(
        (torch.tensor([[1.0, 0, 0, 0], [0, -2, 0, 0]]), torch.tensor([[3.0, 3, 3, 3]]), 0.5)
    )  # on the cut
    cosine = lambda P, L: unit(P) @ unit(L).T
    best = lambda table: table == table.max(0).values
    mistakes = {
        "the rows are not brought to length 1, so a long one looks near: take the cosine.":
            lambda P, L, c: best(P @ L.T) & (P @ L.T >= c),
        "the nearest parent is chosen by the scalar product, and a long parent looks near: take the cosine.":
            lambda P, L, c: best(P @ L.T) & (cosine(P, L) >= c),
        "a child near two parents is given to both: only the nearest counts.": lambda P, L, c: cosine(P, L) >= c,
        "every child gets a parent: below the cut it is an orphan.": lambda P, L, c: best(cosine(P, L)),
        "a child exactly on the cut is an orphan here: it needs at least `cut`, not more.":
            lambda P, L, c: best(cosine(P, L)) & (cosine(P, L) > c),
        "each parent has its nearest child only: a split has several, so choose a parent for each child.":
            lambda P, L, c: best(cosine(P, L).T).T & (cosine(P, L) >= c),
        "the table is transposed: parents along the rows.": lambda P, L, c: children(P, L, c).T,
        "opposite directions count as near: leave out the absolute value.":
            lambda P, L, c: best(cosine(P, L).abs()) & (cosine(P, L).abs() >= c),
        "the nearest parent is the one with the largest cosine: this takes the smallest distance between the rows.":
            lambda P, L, c: best(-torch.cdist(P, L)) & (cosine(P, L) >= c),
        "these are the cosines: say which children belong to which parent.": lambda P, L, c: cosine(P, L),
        "these are the parents' numbers: a table of yes and no is wanted.":
            lambda P, L, c: cosine(P, L).argmax(0),
    }  # fmt: skip
    check("split", function, children, cases, mistakes, say="a child has one parent or none")
