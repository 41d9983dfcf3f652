"""Checks of notebook 00, the tools tour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mi_course import models
from mi_course.checks import CheckFailed, answer, check, passed
from mi_course.corpora.corpus import generator


def random(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers that are the same in every run."""
    return torch.randn(shape, generator=generator(seed))


def random_pattern(batch: int, head: int, pos: int, seed: int = 0) -> Tensor:
    """Attention [batch head query key]: rows sum to 1, nothing above the diagonal."""
    scores = random(batch, head, pos, pos, seed=seed)
    return scores.masked_fill(torch.ones(pos, pos).triu(1).bool(), -torch.inf).softmax(-1)


def tiny() -> models.TinyTransformer:
    """A model of two layers with every hook there is."""
    config = models.TinyConfig(n_layers=2, n_heads=2, d_model=8, d_vocab=11, n_ctx=6, positions="learned")
    return models.TinyTransformer(config)


# -- names ---------------------------------------------------------------------------------------

HOOK_NAMES = {
    "a": "blocks.1.attn.hook_pattern",
    "b": "blocks.0.hook_resid_pre",
    "c": "blocks.0.attn.hook_v",
    "d": "blocks.1.hook_attn_out",
}


def check_hook_names(function: object) -> None:
    """Exercise 1: the names of four hooks, as a dictionary (or in the order of the questions)."""
    name = "hook names"
    names = answer(name, function, ())
    if isinstance(names, (tuple, list)) and len(names) == len(HOOK_NAMES):
        names = dict(zip(HOOK_NAMES, names))  # in the order of the questions
    if not isinstance(names, dict):
        raise CheckFailed(f"{name}: a dictionary with the keys a, b, c and d is wanted.")
    for key, wanted in HOOK_NAMES.items():
        if key not in names:
            raise CheckFailed(f"{name}: there is no answer to {key} yet.")
        if names[key] != wanted:
            raise CheckFailed(f"{name}: {key}: {wrong_name(names[key], wanted)}")
    passed(name, "layers count from 0, and each block has its own hooks")


def wrong_name(given, wanted: str) -> str:
    """What is the matter with a hook's name, in a sentence."""
    if not isinstance(given, str):
        return f"a name is a string, not a {type(given).__name__}. Short forms are for reading a cache."
    if given not in tiny().hook_dict:
        return f"no hook is called {given!r}. `list(model.hook_dict)` shows all of them, in full."
    layer, there = given.split(".")[1:2], wanted.split(".")[1]
    if given.split(".")[-1] == wanted.split(".")[-1]:
        return f"{given!r} is the wrong layer: layers count from 0."
    if layer != [there]:
        return f"neither the layer nor the quantity of {given!r} is what is asked for."
    return f"the right layer, but {given!r} is another quantity. The table of names says what each one holds."


# -- reading -------------------------------------------------------------------------------------


def check_attention_paid(function: object) -> None:
    """Exercise 2: how much of its attention one position of one head pays to another."""
    pattern = random_pattern(4, 3, 4)  # head and batch indices may be mistaken for each other
    another = random_pattern(3, 4, 5).flip(0)
    cases = [
        (pattern, 1, 2, 3, 1),
        (pattern, 0, 1, 3, 0),
        (pattern, 2, 0, 2, 1),
        (pattern, 2, 1, 3, 2),
        (pattern, 1, 0, 2, 2),
        (another, 0, 2, 4, 1),
    ]
    mistakes = {
        "query and key are swapped: the reader stands on the third axis, what it reads on the last. "
        "(Zero is a hint: nobody sees the future.)": lambda p, b, h, q, k: p[b, h, k, q],
        "batch and head are swapped: rows come first, then heads.": lambda p, b, h, q, k: p[h, b, q, k],
        "batch and head are swapped, and query and key as well.": lambda p, b, h, q, k: p[h, b, k, q],
        "the head's whole row of attention comes back, where one number is asked for.":
            lambda p, b, h, q, k: p[b, h, q],
        "it is averaged over the batch, where one row is asked for.": lambda p, b, h, q, k: p[:, h, q, k].mean(),
        "it is averaged over heads, where one head is asked for.": lambda p, b, h, q, k: p[b, :, q, k].mean(),
    }  # fmt: skip
    check(
        "attention paid", function, lambda p, b, h, q, k: p[b, h, q, k], cases, mistakes,
        say="batch, head, query, key",
    )  # fmt: skip


def check_previous_token_score(function: object) -> None:
    """Exercise 3: mean attention of each head to the position just before the query."""
    cases = [(random_pattern(3, 2, 5, seed=1),), (random_pattern(2, 4, 7, seed=2),)]

    def at(pattern: Tensor, offset: int) -> Tensor:
        return pattern.diagonal(offset=offset, dim1=-2, dim2=-1)

    mistakes = {
        "it peeks at the future: this is the attention to the position after the query, and the mask makes it 0.":
            lambda p: at(p, 1).mean((0, -1)),
        "off by one: this is the attention of each position to itself.": lambda p: at(p, 0).mean((0, -1)),
        "off by one: it looks two positions back.": lambda p: at(p, -2).mean((0, -1)),
        "the first query is counted although nothing comes before it: divide by the number of queries that have "
        "a predecessor.": lambda p: at(p, -1).sum(-1).mean(0) / p.shape[-1],
        "wrong axis: heads are averaged away, where each head has its own score.":
            lambda p: at(p, -1).mean((1, -1)),
        "the batch is still there: average over rows as well.": lambda p: at(p, -1).mean(-1),
        "it is summed over queries, where a mean is asked for.": lambda p: at(p, -1).mean(0).sum(-1),
        "everything is averaged into one number, where each head has its own score.": lambda p: at(p, -1).mean(),
    }  # fmt: skip
    check(
        "previous-token score", function, lambda p: at(p, -1).mean((0, -1)), cases, mistakes,
        say="one number a head, 1 for a perfect previous-token head",
    )  # fmt: skip


# -- editing -------------------------------------------------------------------------------------


def replaced(z: Tensor, head: int, value) -> Tensor:
    """A copy of z with one head's rows replaced."""
    z = z.clone()
    z[:, :, head] = value
    return z


def check_zero_head(function: object) -> None:
    """Exercise 4: z [batch pos head d_head] with one head silenced."""
    cases = [(random(5, 4, 3, 6, seed=3), 1), (random(4, 5, 4, 4, seed=4), 2)]

    def zeroed(axis: int) -> Callable:
        return lambda z, head: z.index_fill(axis, torch.tensor([head]), 0.0)

    mistakes = {
        "wrong axis: a position is silenced, in all heads. The axes are batch, pos, head, d_head.": zeroed(1),
        "wrong axis: a whole row of the batch is silenced.": zeroed(0),
        "wrong axis: one coordinate of every head is silenced.": zeroed(3),
        "all heads are silenced, where one is asked for.": lambda z, head: torch.zeros_like(z),
        "the other heads are silenced, and the one asked for is the only one left.":
            lambda z, head: z - zeroed(2)(z, head),
        "nothing has changed. Was the edited copy returned?": lambda z, head: z,
        "the head is cut out: later code needs z in its full shape, with zeros in the head's place.":
            lambda z, head: z[:, :, [h for h in range(z.shape[2]) if h != head]],
    }  # fmt: skip
    check("zero head", function, zeroed(2), cases, mistakes, say="one head silent, the others untouched")


def check_mean_ablate(function: object) -> None:
    """Exercise 5: z with one head's output replaced by its mean over batch and positions."""
    cases = [(random(5, 4, 3, 6, seed=5), 1), (random(4, 5, 4, 4, seed=6), 2)]
    mistakes = {
        "this is zero-ablation: the head falls silent, where it should say what it says on average.":
            lambda z, head: replaced(z, head, 0.0),
        "the mean runs over the batch alone, so each position keeps a mean of its own: average over positions too.":
            lambda z, head: replaced(z, head, z[:, :, head].mean(0)),
        "the mean runs over positions alone, so each row keeps a mean of its own: average over the batch too.":
            lambda z, head: replaced(z, head, z[:, :, head].mean(1, keepdim=True)),
        "the mean runs over d_head as well, and leaves one number of a whole vector.":
            lambda z, head: replaced(z, head, z[:, :, head].mean()),
        "the mean is that of all heads together, not of this one.":
            lambda z, head: replaced(z, head, z.mean((0, 1, 2))),
        "every head is replaced by its mean, where one is asked for.":
            lambda z, head: z.mean((0, 1), keepdim=True).expand_as(z),
        "nothing has changed. Was the edited copy returned?": lambda z, head: z,
    }  # fmt: skip
    check(
        "mean ablation", function, lambda z, head: replaced(z, head, z[:, :, head].mean((0, 1))), cases,
        mistakes, say="the head says the same wherever it is asked",
    )  # fmt: skip


# -- attribution ---------------------------------------------------------------------------------


def check_direct_effect(function: object) -> None:
    """Exercise 6: what a write [batch pos d_model] adds to logit(right) − logit(wrong), [batch pos]."""
    cases = []
    for seed in (7, 8):
        tokens = torch.randint(0, 6, (2, 3, 4), generator=generator(seed))
        right, wrong = tokens[0], (tokens[0] + 1 + tokens[1] % 5) % 6
        cases.append((random(3, 4, 6, seed=seed), random(6, 6, seed=seed + 10), right, wrong))

    def effect(write, W_U, right, wrong):
        return ((write @ W_U).gather(-1, right[..., None]) - (write @ W_U).gather(-1, wrong[..., None]))[
            ..., 0
        ]

    def of_right(write, W_U, right, wrong):
        return (write @ W_U).gather(-1, right[..., None])[..., 0]

    def of_probabilities(write, W_U, right, wrong):
        p = (write @ W_U).softmax(-1)
        return (p.gather(-1, right[..., None]) - p.gather(-1, wrong[..., None]))[..., 0]

    mistakes = {
        "the sign is turned round: right minus wrong is asked for.": lambda *case: -effect(*case),
        "rows of W_U are taken, and a token's logit is read with a column of W_U [d_model d_vocab].":
            lambda write, W_U, right, wrong: effect(write, W_U.T, right, wrong),
        "the wrong token is left out: a logit alone means nothing, only differences reach the softmax.": of_right,
        "only the wrong token is left: right minus wrong is asked for.":
            lambda write, W_U, right, wrong: of_right(write, W_U, wrong, right),
        "a softmax has crept in: credit is shared out in logits, which add up; probabilities do not.":
            of_probabilities,
        "the sum over d_model is missing.":
            lambda write, W_U, right, wrong: write * (W_U.T[right] - W_U.T[wrong]),
        "it is averaged, where one number for every row and position is asked for.":
            lambda *case: effect(*case).mean(),
    }  # fmt: skip
    check("direct effect", function, effect, cases, mistakes, say="a write, a column of W_U minus another")


# -- tidying up ----------------------------------------------------------------------------------


def hooks_on(model) -> int:
    """Hooks attached anywhere in the model."""
    return sum(len(point._forward_hooks) + len(point._backward_hooks) for point in model.hook_dict.values())


class Planned(Exception):
    """Raised inside the block on purpose."""


class Stopped(KeyboardInterrupt):
    """What Ctrl-C raises, inside the block on purpose: no `Exception`."""


def check_temporary_hook(function: object) -> None:
    """Exercise 7: a context manager that attaches a hook and takes it off again, whatever happens."""
    name = "temporary hook"
    if not callable(function):
        raise CheckFailed(f"{name}: give the function itself, without calling it.")
    for at, edit in (("blocks.0.attn.hook_z", turned), ("hook_embed", halved)):  # each on a model of its own
        hook_comes_and_goes(name, function, at, edit)
    passed(name, "attached inside, gone afterwards, also after an error")


def hook_comes_and_goes(name: str, function: Callable, at: str, edit: Callable) -> None:
    """One place and one edit: what the block does to the model, and what it leaves behind."""
    model, tokens = tiny(), torch.tensor([[1, 2, 3]])
    model.hook_dict[at].register_forward_hook(lambda module, given, z: z)  # somebody else's, to be left alone
    before, plain, changed = hooks_on(model), model(tokens).detach(), []
    wanted = model.run_with_hooks(tokens, fwd_hooks=[(at, edit)]).detach()
    inside(name, function, model, at, edit, lambda: changed.append(model(tokens).detach()))
    if torch.equal(changed[0], plain):
        raise CheckFailed(
            f"{name}: inside the block the hook does nothing. Is what `edit` returns handed on?"
        )
    if not torch.equal(changed[0], wanted):
        raise CheckFailed(f"{name}: inside the block the activation is not what `edit` makes of it.")
    kept(name, model, before)
    guests = [model.hook_dict[at], model.hook_dict["hook_pos_embed"]]
    inside(name, function, model, at, edit, lambda: guests.extend(guest(point) for point in guests[:2]))
    for point, handle in zip(guests[:2], guests[2:], strict=True):
        if handle.id not in point._forward_hooks:
            raise CheckFailed(
                f"{name}: a hook that somebody else attached inside the block is gone. The last hook need not be yours."
            )
        handle.remove()
    kept(name, model, before)
    for error, said in ((Planned, "an error"), (Stopped, "Ctrl-C")):
        if not inside(name, function, model, at, edit, stumble(error)):
            raise CheckFailed(f"{name}: {said} inside the block is swallowed. Clean up, and let it pass.")
        if hooks_on(model) > before:
            raise CheckFailed(
                f"{name}: after {said} inside the block the hook is still attached. Which part of `try` always runs?"
            )


def kept(name: str, model, before: int) -> None:
    """After the block: the learner's hook gone, those of others still there."""
    if hooks_on(model) < before:
        raise CheckFailed(f"{name}: a hook that somebody else had attached is gone. Take off only your own.")
    if hooks_on(model) > before:
        raise CheckFailed(f"{name}: after the block the hook is still attached.")


def guest(point):
    """Somebody else's hook, attached while the learner's is there."""
    return point.register_forward_hook(lambda module, given, activation: activation)


def stumble(error: type[BaseException]) -> Callable[[], None]:
    """What raises this error when it is called."""

    def act():
        raise error

    return act


def turned(activation, hook):
    """An edit whose answer cannot come about by itself."""
    as_asked(activation, hook)
    return 1 - 2 * activation


def halved(activation, hook):
    """Another one."""
    as_asked(activation, hook)
    return activation / 2 + 3


def as_asked(activation, hook) -> None:
    """Whether an edit is given what `model.hooks` would give it."""
    if not isinstance(activation, Tensor):
        raise TypeError(f"`edit` takes the activation first, and got a {type(activation).__name__}")
    if not hasattr(hook, "name"):
        raise TypeError(
            f"`edit` takes the hook second, whose name it may ask, and got a {type(hook).__name__}"
        )


def inside(name: str, function: Callable, model, at: str, edit: Callable, act: Callable) -> bool:
    """Run `act` inside the learner's block; whether the planned error came out of it."""
    try:
        context = function(model, at, edit)
        if not hasattr(type(context), "__enter__"):
            raise CheckFailed(f"{name}: `with` cannot open it. Is `@contextmanager` above the function?")
        with context:
            act()
    except (Planned, Stopped):
        return True
    except CheckFailed:
        raise
    except NotImplementedError as error:
        raise CheckFailed(f"{name}: not written yet.") from error
    except Exception as error:
        raise CheckFailed(f"{name}: it raises {type(error).__name__} ({error}).") from error
    return False


# -- a real stream -------------------------------------------------------------------------------


def streams(batch: int, pos: int, giants: dict[tuple[int, int], float | int], seed: int) -> Tensor:
    """Streams of ordinary length but for the giants, {(row, position): times as long}; rows differ in scale."""
    stream = random(batch, pos, 6, seed=seed)
    stream = (
        stream / stream.norm(dim=-1, keepdim=True) * (1 + 0.3 * random(batch, pos, 1, seed=seed + 1).tanh())
    )
    for place, times in giants.items():
        stream[place] *= times
    return stream * 40.0 ** torch.arange(batch)[:, None, None]


def check_usable(function: object) -> None:
    """Exercise 8: which positions of a stream are of ordinary length.

    `function(stream [batch pos d_model], times) -> mask [batch pos]`, true where the norm is at most `times` times the
    median norm of its row.
    """
    cases = [
        (streams(3, 7, {(0, 0): 200, (1, 0): 150, (1, 2): 90, (2, 5): 30}, seed=1), 10.0),
        (streams(2, 9, {(0, 4): 12, (1, 0): 300}, seed=2), 4.0),
        (streams(4, 6, {(3, 3): 1000, (3, 0): 8, (1, 1): 3.2}, seed=3), 5.0),  # three rows have no giant
        (
            torch.eye(5)[None] * torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0])[:, None],
            3.0,
        ),  # one stands right at the bar
    ]
    length = lambda stream: stream.norm(dim=-1)
    middle = lambda norm: norm.median(dim=1, keepdim=True).values
    mistakes = {
        "the mask is turned round: true is for positions that may be used.":
            lambda s, t: length(s) > t * middle(length(s)),
        "it compares with the mean: one giant moves the mean, and hides behind it.":
            lambda s, t: length(s) <= t * length(s).mean(1, keepdim=True),
        "position 0 is left out whatever it is: other positions can be as long, and the first need not be.":
            lambda s, t: (torch.arange(s.shape[1]) > 0).expand(s.shape[:2]),
        "one median is taken over all rows: each row is to be compared with its own.":
            lambda s, t: length(s) <= t * length(s).median(),
        "the median is taken over the batch: it is over the positions of a row.":
            lambda s, t: length(s) <= t * length(s).median(dim=0, keepdim=True).values,
        "these are squared lengths: take the root before you compare.":
            lambda s, t: length(s) ** 2 <= t * middle(length(s) ** 2),
        "it adds up the entries, and signs cancel: a length is the root of the sum of squares.":
            lambda s, t: s.sum(-1) <= t * middle(s.sum(-1)),
        "each entry is compared by itself: it is the vector's length that counts.":
            lambda s, t: s.abs() <= t * s.abs().median(dim=1, keepdim=True).values,
        "a position right at the bar may be used: at most, not less than.":
            lambda s, t: length(s) < t * middle(length(s)),
    }  # fmt: skip
    check(
        "usable positions", function, lambda s, t: length(s) <= t * middle(length(s)), cases, mistakes,
        say="a giant is found where it stands, and does not hide behind a mean",
    )  # fmt: skip
