"""Checks of notebook 12: solutions and other right answers pass, wrong ones hear what went wrong."""

import re

import torch

from mi_course.checks import steering as checks
from tests.answers import *  # noqa: F403


def steering_vector(x, z, norm):
    v = x[z].mean(0) - x[~z].mean(0)
    return v * norm / v.norm()


def steering_vector_by_weights(x, z, norm):
    share = z.float() / z.sum() - (~z).float() / (~z).sum()
    return norm * torch.nn.functional.normalize(share @ x, dim=0)


def add_vector(stream, v, real):
    first = real.long().argmax(1)
    where = real & (torch.arange(real.shape[1]) != first[:, None])
    return stream + where[..., None] * v


def add_by_loop(stream, v, real):
    out = stream.clone()
    for row, mask in zip(out, real):
        row[mask.nonzero()[1:, 0]] += v
    return out


def take_out(x, v):
    return x - (x @ v / (v @ v))[:, None] * v


def take_out_by_matrix(x, v):
    u = v / v.norm()
    return x @ (torch.eye(len(v)) - torch.outer(u, u))


def writer(W, b, v):
    P = torch.eye(len(v)) - torch.outer(v, v) / (v @ v)
    return W @ P, P @ b


def writer_as_list(W, b, v):
    u = v / v.norm()
    return [W - (W @ u)[:, None] * u, b - (b @ u) * u]


def window(doses, rates, costs, enough, bearable):
    works = [d for d, r, c in zip(doses, rates, costs) if r >= enough and c <= bearable]
    return [works[0], works[-1]] if works else []


def window_as_tuple(doses, rates, costs, enough, bearable):
    works = [i for i in range(len(doses)) if not (rates[i] < enough or costs[i] > bearable)]
    return (doses[min(works)], doses[max(works)]) if works else ()


def controls(v, noise):
    return noise / noise.norm(dim=1, keepdim=True) * v.norm()


def controls_by_loop(v, noise):
    return torch.stack([row * (v.norm() / row.norm()) for row in noise])


def word_share(text, listed):
    found = re.findall("[a-z]+", text.lower())
    return sum(word in listed for word in found) / max(len(found), 1)


def word_share_by_stripping(text, listed):
    found = [w.strip(".,!?:;").lower() for w in text.split()]
    found = [w for w in found if w]
    return torch.tensor(0.0 if not found else sum(map(listed.__contains__, found)) / len(found))


RIGHT = [
    (checks.check_vector, steering_vector, steering_vector_by_weights),
    (checks.check_add, add_vector, add_by_loop),
    (checks.check_take_out, take_out, take_out_by_matrix),
    (checks.check_writer, writer, writer_as_list),
    (checks.check_window, window, window_as_tuple),
    (checks.check_controls, controls, controls_by_loop),
    (checks.check_word_share, word_share, word_share_by_stripping),
]

WRONG = [
    (checks.check_vector, lambda x, z, n: -steering_vector(x, z, n), "to those without"),
    (checks.check_vector, lambda x, z, n: x[z].mean(0) - x[~z].mean(0), "bring it to"),
    (checks.check_vector, lambda x, z, n: n * (x[z].mean(0) - x[~z].mean(0)), "length 1 first"),
    (checks.check_add, lambda s, v, r: s + v, "pads too"),
    (checks.check_add, lambda s, v, r: s + r[..., None] * v, "first real token"),
    (checks.check_add, lambda s, v, r: torch.cat([s[:, :1], s[:, 1:] + v], 1), "column"),
    (checks.check_take_out, lambda x, v: x - (x @ v)[:, None] * v, "length 1"),
    (checks.check_take_out, lambda x, v: (x @ v / (v @ v))[:, None] * v, "part along v"),
    (checks.check_take_out, lambda x, v: x - v, "as much from every row"),
    (checks.check_writer, lambda W, b, v: (writer(W, b, v)[0], b), "bias is left"),
    (checks.check_writer, lambda W, b, v: (W - torch.outer(W @ v, v), b - (b @ v) * v), "length 1"),
    (checks.check_writer, lambda W, b, v: (W, b), "nothing has changed"),
    (checks.check_window, lambda d, r, c, e, b: window(d, r, [0.0] * len(d), e, b), "cost is not looked at"),
    (checks.check_window, lambda d, r, c, e, b: [x + 1e-6 for x in []] or window(d, [x - 1e-6 for x in r], c, e, b), "just enough"),
    (checks.check_window, lambda d, r, c, e, b: [d[r.index(max(r))]] * 2, "best dose alone"),
    (checks.check_controls, lambda v, n: n, "as chance made them"),
    (checks.check_controls, lambda v, n: n / n.norm(dim=1, keepdim=True), "length is 1"),
    (checks.check_controls, lambda v, n: n * v.norm() / n.norm(), "its own factor"),
    (checks.check_word_share, lambda t, s: sum(w in s for w in t.lower().split()) / max(len(t.split()), 1), "comma or full stop"),
    (checks.check_word_share, lambda t, s: sum(w in s for w in re.findall("[A-Za-z]+", t)) / max(len(re.findall("[A-Za-z]+", t)), 1), "small letters"),
    (checks.check_word_share, lambda t, s: sum(w in s for w in re.findall("[a-z]+", t.lower())), "share is wanted"),
]  # fmt: skip
