"""Every check of notebook 00: the solution and another right answer pass, wrong ones hear what went wrong."""

from contextlib import contextmanager

import pytest
import torch

from mi_course.checks import CheckFailed
from mi_course.checks import tools_tour as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def names():
    return dict(checks.HOOK_NAMES)


def attention(pattern, batch, head, query, key):
    return pattern[batch, head, query, key]


def attention_as_a_number(pattern, batch, head, query, key):
    return float(pattern.permute(3, 2, 1, 0)[key, query, head, batch])


def previous(pattern):
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean((0, -1))


def previous_in_a_loop(pattern):
    batch, n_heads, n_pos, _ = pattern.shape
    return [
        sum(float(pattern[b, h, q, q - 1]) for b in range(batch) for q in range(1, n_pos))
        / (batch * (n_pos - 1))
        for h in range(n_heads)
    ]


def zeroed(z, head):
    z = z.clone()
    z[:, :, head] = 0
    return z


def zeroed_by_mask(z, head):
    keep = (torch.arange(z.shape[2]) != head).float()
    return z * keep[None, None, :, None]


def averaged(z, head):
    z = z.clone()
    z[:, :, head] = z[:, :, head].mean((0, 1))
    return z


def averaged_flat(z, head):
    mean = z[:, :, head].flatten(0, 1).sum(0) / (z.shape[0] * z.shape[1])
    return torch.cat([z[:, :, :head], mean.expand(*z.shape[:2], 1, -1), z[:, :, head + 1 :]], dim=2)


def effect(write, W_U, right, wrong):
    return (write * (W_U[:, right] - W_U[:, wrong]).permute(1, 2, 0)).sum(-1)


def effect_by_logits(write, W_U, right, wrong):
    logits = write @ W_U
    one_hot = torch.nn.functional.one_hot
    return (logits * (one_hot(right, W_U.shape[1]) - one_hot(wrong, W_U.shape[1]))).sum(-1)


@contextmanager
def temporary(model, name, edit):
    point = model.hook_dict[name]
    handle = point.register_forward_hook(lambda module, given, activation: edit(activation, point))
    try:
        yield
    finally:
        handle.remove()


def temporary_by_model(model, name, edit):
    return model.hooks([(name, edit)])


class Temporary:
    def __init__(self, model, name, edit):
        self.point, self.edit = model.hook_dict[name], edit

    def __enter__(self):
        self.handle = self.point.register_forward_hook(lambda m, given, a: self.edit(a, self.point))

    def __exit__(self, *error):
        self.handle.remove()


def usable(stream, times):
    norm = stream.norm(dim=-1)
    return norm <= times * norm.median(dim=1, keepdim=True).values


def usable_in_a_loop(stream, times):
    rows = [(row**2).sum(-1) for row in stream]
    return [[bool(one <= times**2 * norms.median()) for one in norms] for norms in rows]


RIGHT = {
    checks.check_hook_names: [
        names,
        lambda: {key: f"{name}" for key, name in reversed(names().items())},
        lambda: tuple(names().values()),
        lambda: list(names().values()),
    ],
    checks.check_attention_paid: [attention, attention_as_a_number],
    checks.check_previous_token_score: [previous, previous_in_a_loop],
    checks.check_zero_head: [zeroed, zeroed_by_mask],
    checks.check_mean_ablate: [averaged, averaged_flat],
    checks.check_direct_effect: [effect, effect_by_logits],
    checks.check_temporary_hook: [temporary, temporary_by_model, Temporary],
    checks.check_usable: [usable, usable_in_a_loop],
}


@contextmanager
def removing_the_last(model, name, edit):
    point = model.hook_dict[name]
    point.register_forward_hook(lambda m, given, activation: edit(activation, point))
    try:
        yield
    finally:
        point._forward_hooks.popitem()


@contextmanager
def tidy_after_exceptions(model, name, edit):
    point = model.hook_dict[name]
    handle = point.register_forward_hook(lambda m, given, activation: edit(activation, point))
    try:
        yield
    except Exception:
        handle.remove()
        raise
    handle.remove()


@contextmanager
def with_its_name(model, name, edit):
    handle = model.hook_dict[name].register_forward_hook(lambda m, given, activation: edit(activation, name))
    try:
        yield
    finally:
        handle.remove()


# -- wrong answers, each with a word its message must hold --------------------------------------------


def in_place(z, head):
    z[:, :, head] = 0
    return z


def printed(z, head):
    print(zeroed(z, head))


def only_head(z, head):
    return z - zeroed(z, head)


@contextmanager
def without_finally(model, name, edit):
    point = model.hook_dict[name]
    handle = point.register_forward_hook(lambda m, given, activation: edit(activation, point))
    yield
    handle.remove()


@contextmanager
def never_removed(model, name, edit):
    point = model.hook_dict[name]
    point.register_forward_hook(lambda m, given, activation: edit(activation, point))
    yield


@contextmanager
def swallowing(model, name, edit):
    point = model.hook_dict[name]
    handle = point.register_forward_hook(lambda m, given, activation: edit(activation, point))
    try:
        yield
    except Exception:
        pass
    handle.remove()


@contextmanager
def removing_all(model, name, edit):
    point = model.hook_dict[name]
    point.register_forward_hook(lambda m, given, activation: edit(activation, point))
    try:
        yield
    finally:
        point._forward_hooks.clear()


@contextmanager
def dropping(model, name, edit):
    point = model.hook_dict[name]

    def hook(module, given, activation):
        edit(activation, point)

    handle = point.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def straight(model, name, edit):
    handle = model.hook_dict[name].register_forward_hook(edit)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def twice(model, name, edit):
    point = model.hook_dict[name]
    handle = point.register_forward_hook(lambda m, given, a: edit(edit(a, point), point))
    try:
        yield
    finally:
        handle.remove()


def bare(model, name, edit):
    handle = model.hook_dict[name].register_forward_hook(lambda m, given, a: edit(a, m))
    yield
    handle.remove()


@contextmanager
def not_written(model, name, edit):
    raise NotImplementedError
    yield


def answers(**changes):
    return lambda: names() | changes


WRONG = [
    (checks.check_hook_names, answers(a="pattern"), "no hook is called"),
    (checks.check_hook_names, answers(a="blocks.2.attn.hook_pattern"), "no hook is called"),
    (checks.check_hook_names, answers(a=("pattern", 1)), "a string"),
    (checks.check_hook_names, answers(a="blocks.0.attn.hook_pattern"), "wrong layer"),
    (checks.check_hook_names, answers(b="blocks.0.hook_resid_post"), "another quantity"),
    (checks.check_hook_names, answers(b="hook_embed"), "neither"),
    (checks.check_hook_names, answers(c="blocks.1.attn.hook_z"), "neither"),
    (checks.check_hook_names, answers(d="blocks.1.attn.hook_attn_out"), "no hook is called"),
    (checks.check_hook_names, lambda: {"a": names()["a"]}, "no answer to b"),
    (checks.check_hook_names, lambda: list(names().values())[:3], "dictionary"),
    (checks.check_hook_names, lambda: set(names().values()), "dictionary"),
    (checks.check_hook_names, lambda: tuple(names().values())[::-1], "another quantity"),
    (checks.check_hook_names, lambda: print(names()), "print"),
    (checks.check_attention_paid, lambda p, b, h, q, k: p[b, h, k, q], "query and key are swapped"),
    (checks.check_attention_paid, lambda p, b, h, q, k: p[h, b, q, k], "batch and head are swapped"),
    (checks.check_attention_paid, lambda p, b, h, q, k: p[h, b, k, q], "and query and key as well"),
    (checks.check_attention_paid, lambda p, b, h, q, k: p[b, h, q], "whole row"),
    (checks.check_attention_paid, lambda p, b, h, q, k: p[:, h, q, k].mean(), "averaged over the batch"),
    (checks.check_attention_paid, lambda p, b, h, q, k: p[b, :, q, k].mean(), "averaged over heads"),
    (checks.check_attention_paid, lambda p, b, h: p[b, h], "arguments"),
    (checks.check_attention_paid, lambda p, b, h, q, k: "0.5", "type str"),
    (checks.check_attention_paid, lambda p, b, h, q, k: float("nan"), "NaN"),
    (checks.check_previous_token_score, lambda p: p.diagonal(offset=1, dim1=-2, dim2=-1).mean((0, -1)), "future"),
    (checks.check_previous_token_score, lambda p: p.diagonal(dim1=-2, dim2=-1).mean((0, -1)), "off by one"),
    (checks.check_previous_token_score, lambda p: p.diagonal(offset=-2, dim1=-2, dim2=-1).mean((0, -1)), "two"),
    (checks.check_previous_token_score, lambda p: p.diagonal(offset=-1, dim1=-2, dim2=-1).mean((1, -1)), "axis"),
    (checks.check_previous_token_score, lambda p: p.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1), "batch"),
    (checks.check_previous_token_score, lambda p: p.diagonal(offset=-1, dim1=-2, dim2=-1).mean(), "one number"),
    (checks.check_previous_token_score, lambda p: p.diagonal(offset=-1, dim1=-2, dim2=-1).sum((0, -1)) /
        (p.shape[0] * p.shape[-1]), "first query"),
    (checks.check_zero_head, lambda z, head: z.index_fill(1, torch.tensor([head]), 0.0), "a position is silenced"),
    (checks.check_zero_head, lambda z, head: z.index_fill(0, torch.tensor([head]), 0.0), "row of the batch"),
    (checks.check_zero_head, lambda z, head: z.index_fill(3, torch.tensor([head]), 0.0), "coordinate"),
    (checks.check_zero_head, lambda z, head: 0 * z, "all heads"),
    (checks.check_zero_head, only_head, "other heads"),
    (checks.check_zero_head, in_place, "in place"),
    (checks.check_zero_head, printed, "print"),
    (checks.check_zero_head, lambda z: z, "arguments"),
    (checks.check_zero_head, lambda z, head: torch.cat([z[:, :, :head], z[:, :, head + 1 :]], 2), "cut out"),
    (checks.check_mean_ablate, zeroed, "zero-ablation"),
    (checks.check_mean_ablate, lambda z, h: checks.replaced(z, h, z[:, :, h].mean(0)), "batch alone"),
    (checks.check_mean_ablate, lambda z, h: checks.replaced(z, h, z[:, :, h].mean(1, keepdim=True)), "positions alone"),
    (checks.check_mean_ablate, lambda z, h: checks.replaced(z, h, z[:, :, h].mean()), "d_head"),
    (checks.check_mean_ablate, lambda z, h: checks.replaced(z, h, z.mean((0, 1, 2))), "all heads together"),
    (checks.check_mean_ablate, lambda z, h: z.mean((0, 1)).expand_as(z), "every head"),
    (checks.check_mean_ablate, in_place, "in place"),
    (checks.check_direct_effect, lambda w, U, r, x: -effect(w, U, r, x), "sign"),
    (checks.check_direct_effect, lambda w, U, r, x: (w * (U[r] - U[x])).sum(-1), "rows of W_U"),
    (checks.check_direct_effect, lambda w, U, r, x: (w * U[:, r].permute(1, 2, 0)).sum(-1), "wrong token is left out"),
    (checks.check_direct_effect, lambda w, U, r, x: w * (U[:, r] - U[:, x]).permute(1, 2, 0), "sum over d_model"),
    (checks.check_direct_effect, lambda w, U, r, x: effect(w, U, r, x).mean(), "averaged"),
    (checks.check_direct_effect, lambda w, U, r, x: effect_by_logits(w, U, r, x).softmax(-1), "by hand"),
    (checks.check_temporary_hook, twice, "not what `edit` makes"),
    (checks.check_temporary_hook, without_finally, "after an error"),
    (checks.check_temporary_hook, never_removed, "after the block"),
    (checks.check_temporary_hook, swallowing, "swallowed"),
    (checks.check_temporary_hook, removing_all, "somebody else"),
    (checks.check_temporary_hook, removing_the_last, "need not be yours"),
    (checks.check_temporary_hook, tidy_after_exceptions, "after Ctrl-C"),
    (checks.check_temporary_hook, with_its_name, "takes the hook second"),
    (checks.check_temporary_hook, dropping, "does nothing"),
    (checks.check_temporary_hook, straight, "raises"),
    (checks.check_temporary_hook, bare, "contextmanager"),
    (checks.check_temporary_hook, not_written, "not written yet"),
    (checks.check_temporary_hook, lambda model, name, edit: None, "contextmanager"),
    (checks.check_usable, lambda s, t: ~usable(s, t), "turned round"),
    (checks.check_usable, lambda s, t: s.norm(dim=-1) <= t * s.norm(dim=-1).mean(1, keepdim=True), "mean"),
    (checks.check_usable, lambda s, t: torch.arange(s.shape[1]).expand(s.shape[:2]) > 0, "position 0"),
    (checks.check_usable, lambda s, t: s.norm(dim=-1) <= t * s.norm(dim=-1).median(), "own"),
    (checks.check_usable, lambda s, t: usable(s.transpose(0, 1), t).T, "over the batch"),
    (checks.check_usable, lambda s, t: usable((s**2).sum(-1, keepdim=True), t), "root"),
    (checks.check_usable, lambda s, t: s.norm(dim=-1) < t * s.norm(dim=-1).median(1, keepdim=True).values, "at most"),
]  # fmt: skip


@pytest.mark.parametrize("check, right", [(check, right) for check, all in RIGHT.items() for right in all])
def test_right_answers_pass(check, right, capsys):
    check(right)
    assert capsys.readouterr().out.startswith("✔")


@pytest.mark.parametrize("check, wrong, word", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, wrong, word):
    with pytest.raises(CheckFailed, match=word):
        check(wrong)


@pytest.mark.parametrize("check", RIGHT)
def test_every_check_refuses_at_least_three_wrong_answers(check):
    assert sum(row[0] is check for row in WRONG) >= 3


def test_probabilities_are_not_logits():
    def of_probabilities(write, W_U, right, wrong):
        return effect((write @ W_U).softmax(-1), torch.eye(W_U.shape[1]), right, wrong)

    with pytest.raises(CheckFailed, match="softmax"):
        checks.check_direct_effect(of_probabilities)


def test_no_message_gives_a_hook_name_away():
    for wanted in checks.HOOK_NAMES.values():
        for given in {*checks.tiny().hook_dict, "pattern", "hook_resid_pre", wanted[:-1]}:
            if given != wanted:
                assert wanted not in checks.wrong_name(given, wanted)
