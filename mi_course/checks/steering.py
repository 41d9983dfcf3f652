"""Checks of notebook 12, steering."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mi_course.checks import check
from mi_course.checks.circuits import check_through, random
from mi_course.checks.probing import labels, spread


def at_length(v: Tensor, norm) -> Tensor:
    return v * (norm / v.norm(dim=-1, keepdim=True))


def vector(x: Tensor, z: Tensor, norm: float) -> Tensor:
    return at_length(spread(x, z), norm)


def check_vector(function: object) -> None:
    """Exercise 1: a steering vector of a given length."""
    cases = [(random(n, d, seed=n) + 1.0, labels(n, n), float(n) / 3) for n, d in ((7, 3), (12, 5), (20, 2))]
    mistakes = {
        "it points from the rows with the behaviour to those without.": lambda x, z, n: -vector(x, z, n),
        "its length is that of the difference: bring it to `norm`.": lambda x, z, n: spread(x, z),
        "it is multiplied by `norm` without being brought to length 1 first.": lambda x, z, n: spread(x, z) * n,
        "its length is 1.": lambda x, z, n: vector(x, z, 1.0),
        "this is the mean of the rows with the behaviour alone: what all rows share is in it.": lambda x, z, n: at_length(x[z].mean(0), n),
        "the mean of all rows is taken away, not that of the rows without: where classes differ in size that is shorter, and the length hides it.":
            lambda x, z, n: spread(x, z) * n / (x[z].mean(0) - x.mean(0)).norm(),
        "sums are compared, not means: the classes are not equally large.": lambda x, z, n: at_length(x[z].sum(0) - x[~z].sum(0), n),
        "each row is brought to length 1 before the means: then long rows count less.":
            lambda x, z, n: vector(at_length(x, 1.0), z, n),
        "the length is measured by the sum of absolute values.": lambda x, z, n: spread(x, z) * n / spread(x, z).abs().sum(),
        "the length is measured by its square.": lambda x, z, n: spread(x, z) * n / spread(x, z).square().sum(),
    }  # fmt: skip
    check("steering vector", function, vector, cases, mistakes, atol=1e-4, say="two means, one length")


def added(stream: Tensor, v: Tensor, real: Tensor, spare: bool = True) -> Tensor:
    first = real.long().cumsum(1) == 1
    where = real & ~first if spare else real
    return stream + where[..., None] * v


def padded(lengths: list[int]) -> Tensor:
    longest = max(lengths)
    return torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]


def check_add(function: object) -> None:
    """Exercise 2: a hook that adds at the right positions of left-padded rows."""
    cases = []
    for lengths, d in (([5, 3, 4], 3), ([2, 6], 4), ([4, 4, 1], 2)):
        real = padded(lengths)
        cases.append((random(*real.shape, d, seed=d), random(d, seed=d + 9), real))
    not_first_column = lambda s, v, r: s + (torch.arange(s.shape[1]) > 0)[:, None] * v
    mistakes = {
        "each row's first real token is steered as well: leave it alone.": lambda s, v, r: added(s, v, r, spare=False),
        "the first *column* is left alone: rows are padded on the left, so a row's first token stands further right.": not_first_column,
        "pads are not steered, and neither is column 0; but a row's first real token is, where it stands further right.":
            lambda s, v, r: s + (r & (torch.arange(r.shape[1]) > 0))[..., None] * v,
        "every position is steered, pads too.": lambda s, v, r: s + v,
        "only the last position is steered.": lambda s, v, r: torch.cat([s[:, :-1], s[:, -1:] + v], dim=1),
        "only the first real token is steered: it is the one to leave alone.": lambda s, v, r: s + (r.long().cumsum(1) == 1)[..., None] * v,
        "the vector is taken away.": lambda s, v, r: added(s, -v, r),
        "the stream is replaced by the vector there: add it.":
            lambda s, v, r: torch.where((r & (r.long().cumsum(1) > 1))[..., None], v, s),
        "this is only what is added: the stream is missing.": lambda s, v, r: added(s, v, r) - s,
        "two tokens of each row are left alone.": lambda s, v, r: s + (r.long().cumsum(1) > 2)[..., None] * v,
        "pads are steered, too.": lambda s, v, r: s + (r.long().cumsum(1) != 1)[..., None] * v,
    }  # fmt: skip
    check("hook", function, added, cases, mistakes, say="everywhere but at each row's first token")


def taken_out(x: Tensor, v: Tensor) -> Tensor:
    u = v / v.norm()
    return x - (x @ u)[:, None] * u


def check_take_out(function: object) -> None:
    """Exercise 3: the projection, and its removal."""
    cases = [(random(n, d, seed=n) + 0.5, 3 * random(d, seed=n + 1)) for n, d in ((4, 3), (6, 5), (9, 2))]
    mistakes = {
        "v is not of length 1: divide by its square.": lambda x, v: x - (x @ v)[:, None] * v,
        "it is divided by the length once: v occurs twice in the projection.": lambda x, v: x - (x @ v)[:, None] * v / v.norm(),
        "v itself is taken away, as much from every row: each row has its own part.": lambda x, v: x - v,
        "the unit vector is taken away, as much from every row.": lambda x, v: x - v / v.norm(),
        "this is the part along v: what is left is wanted.": lambda x, v: x - taken_out(x, v),
        "the part along v is mirrored, not removed: it is taken away twice.": lambda x, v: 2 * taken_out(x, v) - x,
        "it is added.": lambda x, v: 2 * x - taken_out(x, v),
        "the mean part is taken from every row.": lambda x, v: x - (x @ v).mean() * v / (v @ v),
        "coordinates are multiplied one by one: the part along v is one number a row.": lambda x, v: x - x * v * v / (v @ v),
        "the rows' mean is gone as well.": lambda x, v: taken_out(x - x.mean(0), v),
    }  # fmt: skip
    check("projection", function, taken_out, cases, mistakes, atol=1e-4, say="nothing along v is left")


def writer(W: Tensor, b: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return taken_out(W, v), taken_out(b[None], v)[0]


def check_writer(function: object) -> None:
    """Exercise 4: make a writer orthogonal to a direction."""
    cases = [
        (random(m, d, seed=m), random(d, seed=m + 1), 2 * random(d, seed=m + 2))
        for m, d in ((5, 3), (4, 4), (2, 6))
    ]

    def flat(answer):
        try:
            W, b = answer
            return torch.cat([torch.as_tensor(W).flatten().float(), torch.as_tensor(b).flatten().float()])
        except (TypeError, ValueError, RuntimeError):
            return answer

    joined = lambda W, b, v: flat(writer(W, b, v))
    left = lambda W, v: W - torch.outer(v, v @ W) / (v @ v) if len(W) == len(v) else None
    mistakes = {
        "the bias is left as it was: it writes to the stream, too.": lambda W, b, v: flat((taken_out(W, v), b)),
        "only the bias is changed.": lambda W, b, v: flat((W, writer(W, b, v)[1])),
        "v is not of length 1.": lambda W, b, v: flat((W - torch.outer(W @ v, v), b - (b @ v) * v)),
        "these are the parts along v: what is left is wanted.": lambda W, b, v: flat((W, b)) - joined(W, b, v),
        "the projection is taken from the side that is read, not from the one that is written.":
            lambda W, b, v: flat((left(W, v), writer(W, b, v)[1])),
        "they are mirrored: the part along v is taken away twice.": lambda W, b, v: 2 * joined(W, b, v) - flat((W, b)),
        "the part along v is added.": lambda W, b, v: 2 * flat((W, b)) - joined(W, b, v),
        "every row loses the same, the mean part: each has its own.":
            lambda W, b, v: flat((W - (W @ v).mean() * v / (v @ v), writer(W, b, v)[1])),
        "nothing has changed.": lambda W, b, v: flat((W, b)),
    }  # fmt: skip
    say = "what it writes has no part along v"
    check_through(flat, "writer", function, joined, cases, mistakes, atol=1e-4, say=say)


def window(doses: list, rates: list, costs: list, enough: float, bearable: float):
    works = [d for d, r, c in zip(doses, rates, costs) if r >= enough and c <= bearable]
    return [works[0], works[-1]] if works else []


def check_window(function: object) -> None:
    """Exercise 5: the working window of a dose curve."""
    cases = [
        ([0.0, 0.15, 0.3, 0.45, 0.6, 0.9], [0.0, 0.1, 0.3, 0.8, 0.9, 0.5], [0.0, 0.1, 0.2, 0.4, 0.7, 2.0], 0.3, 0.5),
        ([0.0, 1.0, 2.0], [0.1, 0.2, 0.3], [0.0, 0.1, 0.2], 0.7, 1.0),
        ([0.0, 0.1, 0.2, 0.4, 0.8], [0.1, 0.6, 0.7, 0.9, 0.9], [0.0, 0.1, 0.2, 0.3, 0.4], 0.5, 0.35),
        ([0.0, 1.0, 2.0, 3.0], [0.0, 0.7, 0.9, 1.0], [0.0, 0.5, 0.6, 0.9], 0.7, 0.6),
        ([-1.0, 0.0, 1.0, 2.0], [0.9, 0.0, 0.8, 0.6], [0.9, 0.0, 0.2, 0.3], 0.5, 0.4),
        ([0.5, 1.0], [0.9, 0.95], [2.0, 3.0], 0.5, 1.0),
    ]  # fmt: skip
    kept = lambda test: (
        lambda d, r, c, e, b: (lambda w: [w[0], w[-1]] if w else [])(
            [x for x, y, z in zip(d, r, c) if test(y, z, e, b)]
        )
    )
    mistakes = {
        "the cost is not looked at: a dose that breaks the text does not work.": kept(lambda y, z, e, b: y >= e),
        "only the cost is looked at.": kept(lambda y, z, e, b: z <= b),
        "a rate that is just enough is enough.": kept(lambda y, z, e, b: y > e and z <= b),
        "a cost that is just bearable is borne.": kept(lambda y, z, e, b: y >= e and z < b),
        "either is taken as enough: both are needed.": kept(lambda y, z, e, b: y >= e or z <= b),
        "the best dose alone is given: smallest and largest are wanted.":
            lambda d, r, c, e, b: [d[r.index(max(r))]] * 2,
        "positions are given, not doses.": lambda d, r, c, e, b: [d.index(x) for x in window(d, r, c, e, b)],
        "an empty window is not noticed.": lambda d, r, c, e, b: window(d, r, c, e, b) or [0.0, 0.0],
        "it is taken as the whole range between the first dose that is enough and the last that is bearable.":
            lambda d, r, c, e, b: [min(x for x, y in zip(d, r) if y >= e), max(x for x, y in zip(d, c) if y <= b)],
    }  # fmt: skip
    as_list = lambda answer: list(answer) if isinstance(answer, tuple) else answer
    say = "enough of it, at a bearable cost"
    check_through(as_list, "working window", function, window, cases, mistakes, say=say)


def controls(v: Tensor, noise: Tensor) -> Tensor:
    return at_length(noise, v.norm())


def check_controls(function: object) -> None:
    """Exercise 6: random controls of equal norm."""
    cases = [
        (3 * random(d, seed=d), random(n, d, seed=n + 20) * torch.arange(1, n + 1)[:, None])
        for n, d in ((4, 3), (6, 8), (2, 5))
    ]
    mistakes = {
        "they are as long as chance made them: bring each to the vector's length.": lambda v, n: n,
        "their length is 1.": lambda v, n: at_length(n, 1.0),
        "they are multiplied by the vector's length, whatever their own is.": lambda v, n: n * v.norm(),
        "they are brought to the right length together: each row needs its own factor.": lambda v, n: n * v.norm() / n.norm(),
        "the columns are brought to the length, not the rows.": lambda v, n: n * v.norm() / n.norm(dim=0),
        "the sum of absolute values is taken for the length.": lambda v, n: n * v.abs().sum() / n.abs().sum(1, keepdim=True),
        "their mean length is right, each one's is not.": lambda v, n: n * v.norm() / n.norm(dim=1).mean(),
        "the vector is added to them: a control knows nothing of it.": lambda v, n: controls(v, n) + v,
        "the length is off by a square.": lambda v, n: n * v.norm().square() / n.square().sum(1, keepdim=True),
    }  # fmt: skip
    check("random controls", function, controls, cases, mistakes, atol=1e-4, say="as long, and about nothing")


def word_share(text: str, listed: set) -> float:
    found = re.findall(r"[a-z]+", text.lower())
    return sum(w in listed for w in found) / len(found) if found else 0.0


def check_word_share(function: object) -> None:
    """Exercise 7: a rule score that is not fooled."""
    sea, french = {"sea", "ship", "waves"}, {"le", "la", "de"}
    cases = [
        ("The sea was calm, and the ship lay still.", sea),
        ("This season we search for a new relationship.", sea),
        ("SEA! Sea, sea: waves. The end", sea),
        ("Lead the ladies to the table", french),
        ("Le chat de la voisine", french),
        ("...", sea),
        ("", french),
        ("ship ship shipping", sea),
    ]
    split = lambda t: t.split()
    share = lambda hits, n: hits / n if n else 0.0
    mistakes = {
        "parts of words count: there is a sea in “season” and a ship in “relationship”.":
            lambda t, s: share(sum(any(w in x for w in s) for x in re.findall(r"[a-z]+", t.lower())), len(re.findall(r"[a-z]+", t.lower()))),
        "capitals are another word here: turn everything to small letters.":
            lambda t, s: share(sum(w in s for w in re.findall(r"[A-Za-z]+", t)), len(re.findall(r"[A-Za-z]+", t))),
        "a comma or full stop hides the word before it.":
            lambda t, s: share(sum(w in s for w in split(t.lower())), len(split(t))),
        "capitals and punctuation both hide words.": lambda t, s: share(sum(w in s for w in split(t)), len(split(t))),
        "each listed word counts once, however often it occurs.":
            lambda t, s: share(len(s & set(re.findall(r"[a-z]+", t.lower()))), len(re.findall(r"[a-z]+", t.lower()))),
        "words are counted: their share is wanted.": lambda t, s: sum(w in s for w in re.findall(r"[a-z]+", t.lower())),
        "this is whether one occurs: the share is wanted.": lambda t, s: float(word_share(t, s) > 0),
        "it is divided by the length of the list, not of the text.":
            lambda t, s: sum(w in s for w in re.findall(r"[a-z]+", t.lower())) / len(s),
        "it is divided by letters, not by words.": lambda t, s: share(sum(w in s for w in re.findall(r"[a-z]+", t.lower())), len(t)),
        "occurrences anywhere in the text are counted, inside of words too.":
            lambda t, s: share(sum(t.lower().count(w) for w in s), len(re.findall(r"[a-z]+", t.lower()))),
        "this is the share of words that are not listed.": lambda t, s: 1 - word_share(t, s),
    }  # fmt: skip
    check(
        "word share",
        function,
        word_share,
        cases,
        mistakes,
        say="whole words, in any case, without their commas",
    )
