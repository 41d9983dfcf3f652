"""Every check of notebook 06: the solution and another right answer pass, wrong ones hear what went wrong."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mi_course.checks import CheckFailed, attempt, same
from mi_course.checks import patching as checks

# -- right answers: the notebook's, and another one ---------------------------------------------------


def normalised(score, corrupted, clean):
    low, high = corrupted.mean(), clean.mean()
    return (score.mean(dim=-1) - low) / (high - low)


def normalised_by_sums(score, corrupted, clean):
    gap = (clean - corrupted).sum()
    return [float((row - corrupted).sum() / gap) for row in score]


def patch_head(z, source, head, pos):
    patched = z.clone()
    patched[:, pos, head] = source[:, pos, head]
    return patched


def patch_head_with_a_mask(z, source, head, pos):
    mask = torch.zeros(z.shape[1:3], dtype=torch.bool)
    mask[pos, head] = True
    return torch.where(mask[None, :, :, None], source, z)


def effects(run, clean, corrupted, direction):
    host, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    before, after, values = run(host)["out"], run(source)["out"], run(source)
    return [(run(host, **{node: values[node]})["out"] - before) / (after - before) for node in "ABC"]


def effects_by_values(run, clean, corrupted, direction):
    top, bottom, found = run(clean), run(corrupted), {}
    for node in "CAB":
        if direction == "denoising":
            out = run(corrupted, **{node: top[node]})["out"]
        else:
            out = run(clean, **{node: bottom[node]})["out"]
        value = torch.tensor((out - bottom["out"]) / (top["out"] - bottom["out"]))
        found[node] = value if direction == "denoising" else 1 - value
    return found


def conclusions():
    return "acdf"


def conclusions_as_a_table():
    return {2: "c", 1: "A", 3: "d", 4: "f."}


def template_means(acts, template):
    means = torch.empty_like(acts)
    for one in template.unique():
        means[template == one] = acts[template == one].mean(0)
    return means


def template_means_by_index_add(acts, template):
    size = int(template.max()) + 1
    total = torch.zeros(size, *acts.shape[1:]).index_add(0, template, acts)
    count = torch.bincount(template, minlength=size).clamp(min=1)
    return (total / count.view(-1, *[1] * (acts.ndim - 1)))[template]


def direct_and_mediated(host, patched, pattern, W_OV, W_U, head):
    change = patched - host
    through = (pattern[head] @ change @ W_OV[head])[-1]
    return change[-1] @ W_U, through @ W_U


def direct_and_mediated_by_two_runs(host, patched, pattern, W_OV, W_U, head):
    def logits(direct, *reads):
        wrote = [A @ stream @ OV for A, stream, OV in zip(pattern, reads, W_OV, strict=True)]
        return (direct + sum(wrote))[-1] @ W_U

    frozen = [host] * len(pattern)
    moved = [patched if h == head else host for h in range(len(pattern))]
    before = logits(host, *frozen)
    return torch.stack([logits(patched, *frozen) - before, logits(host, *moved) - before])


def attribution(clean, corrupted, clean_grad, corrupted_grad):
    return ((clean - corrupted) * corrupted_grad).sum(dim=-1).mean(dim=0)


def attribution_by_einsum(clean, corrupted, clean_grad, corrupted_grad):
    return torch.einsum("blhd,blhd->lh", clean - corrupted, corrupted_grad) / len(clean)


def judged(corrupted, patched, clean, right, wrong):
    def measured(logits):
        rows = torch.arange(len(logits))
        lead = logits[rows, right] - logits[rows, wrong]
        return lead.mean(), (logits.argmax(-1) == right).float().mean()

    (low, before), (here, after), (high, _) = map(measured, (corrupted, patched, clean))
    recovered, gained = (here - low) / (high - low), after - before
    return recovered, gained, "restored" if gained > 0 else "damaged" if recovered > 0.3 else "nothing"


def judged_by_log_probabilities(corrupted, patched, clean, right, wrong):
    def lead(logits):
        p = logits.double().log_softmax(-1)
        return sum(float(row[r] - row[w]) for row, r, w in zip(p, right, wrong, strict=True))

    hits = [sum(int(row.argmax()) == int(r) for row, r in zip(run, right)) for run in (patched, corrupted)]
    recovered = (lead(patched) - lead(corrupted)) / (lead(clean) - lead(corrupted))
    gained = (hits[0] - hits[1]) / len(right)
    if gained > 0:
        return [recovered, gained, "restored"]
    return [recovered, gained, "damaged" if recovered > 0.3 else "nothing"]


def interval(patched, corrupted, clean, draws, level):
    low, high = corrupted[draws].mean(1), clean[draws].mean(1)
    effect = (patched[draws].mean(1) - low) / (high - low)
    return torch.quantile(effect, (1 - level) / 2), torch.quantile(effect, (1 + level) / 2)


def interval_in_a_loop(patched, corrupted, clean, draws, level):
    effects = []
    for draw in draws.tolist():
        gap = sum(float(clean[i] - corrupted[i]) for i in draw)
        effects.append(sum(float(patched[i] - corrupted[i]) for i in draw) / gap)
    return list(np.percentile(effects, [50 * (1 - level), 50 * (1 + level)]))


RIGHT = [
    (checks.check_normalised, [normalised, normalised_by_sums]),
    (checks.check_patch_head, [patch_head, patch_head_with_a_mask]),
    (checks.check_effects, [effects, effects_by_values]),
    (checks.check_conclusions, [conclusions, conclusions_as_a_table]),
    (checks.check_template_means, [template_means, template_means_by_index_add]),
    (checks.check_direct_and_mediated, [direct_and_mediated, direct_and_mediated_by_two_runs]),
    (checks.check_attribution, [attribution, attribution_by_einsum]),
    (checks.check_damage_or_recovery, [judged, judged_by_log_probabilities]),
    (checks.check_effect_interval, [interval, interval_in_a_loop]),
]


@pytest.mark.parametrize(
    "check, function", [(c, f) for c, answers in RIGHT for f in answers], ids=lambda v: v.__name__
)
def test_right_answers_pass(check, function, capsys):
    check(function)
    assert capsys.readouterr().out.startswith("✔ ")


# -- wrong answers: what each is told ------------------------------------------------------------------


def put(z, source, *place):
    z = z.clone()
    z[place] = source[place]
    return z


def turned(direction):
    return {"denoising": "noising", "noising": "denoising"}[direction]


def values(run, clean, corrupted, direction):
    """What noising reads as if it were denoising."""
    found = effects(run, clean, corrupted, direction)
    return found if direction == "denoising" else [1 - effect for effect in found]


def effects_piled_up(run, clean, corrupted, direction):
    host, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    before, other, patch, found = run(host)["out"], run(source), {}, []
    for node in "ABC":
        patch[node] = other[node]
        found.append((run(host, **patch)["out"] - before) / (other["out"] - before))
    return found


def effects_in_logits(run, clean, corrupted, direction):
    gap = run(clean)["out"] - run(corrupted)["out"]
    return [effect * gap for effect in effects(run, clean, corrupted, direction)]


def effects_of_ones_and_zeros(run, clean, corrupted, direction):
    host, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    value, before = float(direction == "denoising"), run(host)["out"]
    gap = run(source)["out"] - before
    return [(run(host, **{node: value})["out"] - before) / gap for node in "ABC"]


def effects_of_nothing(run, clean, corrupted, direction):
    return [0.0, 0.0, 0.0]


def leave_one_out(acts, template):
    same = (template[:, None] == template).float() - torch.eye(len(template))
    return torch.einsum("pq,q...->p...", same / same.sum(1, keepdim=True), acts)


def table_of_means(acts, template):
    return torch.stack([acts[template == one].mean(0) for one in template.unique()])


def probabilities(corrupted, patched, clean, right, wrong):
    recovered, _, _ = judged(*(run.softmax(-1) for run in (corrupted, patched, clean)), right, wrong)
    gained = judged(corrupted, patched, clean, right, wrong)[1]
    return recovered, gained, "restored" if gained > 0 else "damaged" if recovered > 0.3 else "nothing"


def counted_for_the_wrong_token(corrupted, patched, clean, right, wrong):
    recovered, gained = (
        judged(corrupted, patched, clean, *tokens)[i]
        for i, tokens in ((0, (right, wrong)), (1, (wrong, right)))
    )
    return recovered, gained, "restored" if gained > 0 else "damaged" if recovered > 0.3 else "nothing"


def fooled(corrupted, patched, clean, right, wrong):
    recovered, gained, _ = judged(corrupted, patched, clean, right, wrong)
    return recovered, gained, "restored" if recovered > 0.3 else "nothing"


def between_two(corrupted, patched, clean, right, wrong):
    rows = torch.arange(len(right))
    better = [(run[rows, right] > run[rows, wrong]).float().mean() for run in (patched, corrupted)]
    recovered, gained = judged(corrupted, patched, clean, right, wrong)[0], better[0] - better[1]
    return recovered, gained, "restored" if gained > 0 else "damaged" if recovered > 0.3 else "nothing"


def with_another_share(*given):
    recovered, gained, _ = judged(*given)
    recovered = recovered**3
    return recovered, gained, "restored" if gained > 0 else "damaged" if recovered > 0.3 else "nothing"


def gap_of_all(patched, corrupted, clean, draws, level):
    return interval(
        patched, corrupted.mean().expand_as(patched), clean.mean().expand_as(patched), draws, level
    )


def total(host, patched, pattern, W_OV, W_U, head):
    change = patched - host
    return (change + sum(A @ change @ OV for A, OV in zip(pattern, W_OV)))[-1] @ W_U


WRONG = [
    (checks.check_normalised, lambda s, a, b: normalised(s, b, a), "ends are swapped"),
    (checks.check_normalised, lambda s, a, b: s.mean(-1) / (b.mean() - a.mean()), "not taken away first"),
    (checks.check_normalised, lambda s, a, b: (s.mean(-1) - a.mean()) / b.mean(), "clean score alone"),
    (checks.check_normalised, lambda s, a, b: (s.mean(-1) - a.mean()) / a.mean(), "corrupted score alone"),
    (checks.check_normalised, lambda s, a, b: s.mean(-1) / b.mean(), "ratio of scores"),
    (checks.check_normalised, lambda s, a, b: normalised(s, a, b).clamp(0, 1), "clipped"),
    (checks.check_normalised, lambda s, a, b: ((s - a) / (b - a)).mean(-1), "for each prompt and then averaged"),
    (checks.check_normalised, lambda s, a, b: s.mean(-1) - a.mean(), "not divided by the gap"),
    (checks.check_normalised, lambda s, a, b: (s - a) / (b - a), "average over the batch"),
    (checks.check_normalised, lambda s, a, b: (s.mean() - a.mean()) / (b.mean() - a.mean()), "thrown together"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, slice(None), slice(None), h), "at all positions"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, slice(None), slice(p, None), h), "from this one on"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, slice(None), slice(p + 1), h), "up to this one"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, slice(None), slice(p), h), "before this one"),
    (checks.check_patch_head, lambda z, s, h, p: patch_head(z, s, h, p if p > 0 else 0), "taken for 0"),
    (checks.check_patch_head, lambda z, s, h, p: torch.where((torch.arange(z.shape[1]) == p)[:, None, None] & (torch.arange(z.shape[2]) == h)[:, None], s, z), "nothing is patched: it counts"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, slice(None), p), "all heads"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, slice(None), h, p), "axes are swapped"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, p, slice(None), h), "as the prompt"),
    (checks.check_patch_head, lambda z, s, h, p: put(z, s, 0, p, h), "first prompt"),
    (checks.check_patch_head, lambda z, s, h, p: patch_head(s, z, h, p), "source and host"),
    (checks.check_patch_head, lambda z, s, h, p: s.clone(), "the other run"),
    (checks.check_effects, lambda r, a, b, way: effects(r, a, b, turned(way)), "directions are swapped"),
    (checks.check_effects, values, "1 − value"),
    (checks.check_effects, lambda *given: [1 - e for e in effects(*given)], "belongs to noising|in both directions"),
    (checks.check_effects, effects_in_logits, "not divided by the gap"),
    (checks.check_effects, effects_piled_up, "pile up"),
    (checks.check_effects, effects_of_nothing, "no patch"),
    (checks.check_effects, effects_of_ones_and_zeros, "the value that the other run had"),
    (checks.check_conclusions, lambda: "bcdf", "result 1: .*necessity"),
    (checks.check_conclusions, lambda: "addf", "result 2: AND and OR"),
    (checks.check_conclusions, lambda: "accf", "result 3: AND and OR"),
    (checks.check_conclusions, lambda: "acde", "result 4: a single ablation"),
    (checks.check_conclusions, lambda: ["a", "e", "d", "f"], "result 2: .*does nothing alone"),
    (checks.check_conclusions, lambda: ("a", "c", "d", "d"), "result 4: .*nearly silent"),
    (checks.check_conclusions, lambda: "gcdf", "result 1: .*wrong way round"),
    (checks.check_conclusions, lambda: "abdf", "result 2: true of each, and the two together"),
    (checks.check_conclusions, lambda: "acaf", "result 3: true of each, and noising both"),
    (checks.check_conclusions, lambda: "acda", "result 4: this was a noising"),
    (checks.check_conclusions, lambda: "acdg", "result 4: the cost was 4%"),
    (checks.check_conclusions, lambda: "acgf", "result 3: what was patched"),
    (checks.check_template_means, lambda a, t: a.mean(0).expand_as(a), "mean of all prompts"),
    (checks.check_template_means, lambda a, t: template_means(a.mean(-1, keepdim=True).expand_as(a), t), "features are averaged"),
    (checks.check_template_means, lambda a, t: template_means(a.flatten(1).mean(1).view(-1, *[1] * (a.ndim - 1)).expand_as(a), t), "one number for each template"),
    (checks.check_template_means, lambda a, t: template_means(a, t) * torch.tensor([int((t == i).sum()) for i in t]).view(-1, *[1] * (a.ndim - 1)), "these are sums"),
    (checks.check_template_means, leave_one_out, "left out"),
    (checks.check_template_means, lambda a, t: torch.stack([a[t == i].median(0).values for i in t]), "median"),
    (checks.check_template_means, table_of_means, "shape stays"),
    (checks.check_template_means, lambda a, t: table_of_means(a, t).repeat_interleave(t.unique(return_counts=True)[1], dim=0), "order of the templates"),
    (checks.check_template_means, lambda a, t: a - template_means(a, t), "taken away"),
    (checks.check_direct_and_mediated, lambda *g: (total(*g), direct_and_mediated(*g)[1]), "layer 1 was not frozen"),
    (checks.check_direct_and_mediated, lambda *g: (direct_and_mediated(*g)[0], total(*g)), "freeze the other heads"),
    (checks.check_direct_and_mediated, lambda *g: (direct_and_mediated(*g)[0], total(*g) - direct_and_mediated(*g)[0]), "freeze all but one"),
    (checks.check_direct_and_mediated, lambda a, b, A, OV, U, h: direct_and_mediated(a, b, A.roll(1, 0), OV.roll(1, 0), U, h), "wrong head"),
    (checks.check_direct_and_mediated, lambda a, b, A, OV, U, h: direct_and_mediated(a, b, A, OV.transpose(1, 2), U, h), "W_OV is transposed"),
    (checks.check_direct_and_mediated, lambda a, b, A, OV, U, h: direct_and_mediated(a, b, A.transpose(1, 2), OV, U, h), "rows of the pattern are queries"),
    (checks.check_direct_and_mediated, lambda a, b, *g: direct_and_mediated(b, a, *g), "sign"),
    (checks.check_direct_and_mediated, lambda *g: (-direct_and_mediated(*g)[0], direct_and_mediated(*g)[1]), "sign of the direct part"),
    (checks.check_direct_and_mediated, lambda a, b, *g: (direct_and_mediated(0 * a, b, *g)[0], direct_and_mediated(a, b, *g)[1]), "the host's away there too"),
    (checks.check_direct_and_mediated, lambda a, b, *g: direct_and_mediated(0 * a, b, *g), "its difference"),
    (checks.check_direct_and_mediated, lambda *g: direct_and_mediated(*g)[::-1], "wrong way round"),
    (checks.check_attribution, lambda a, b, ga, gb: attribution(b, a, ga, gb), "sign is turned round"),
    (checks.check_attribution, lambda a, b, ga, gb: attribution(a, b, gb, ga), "wrong run"),
    (checks.check_attribution, lambda a, b, ga, gb: attribution(b, a, gb, ga), "noising"),
    (checks.check_attribution, lambda a, b, ga, gb: (a * ga - b * gb).sum(-1).mean(0), "its own gradient"),
    (checks.check_attribution, lambda a, b, ga, gb: ((a - b) * gb).sum((0, -1)), "batch is summed"),
    (checks.check_attribution, lambda a, b, ga, gb: ((a - b).norm(dim=-1) * gb.norm(dim=-1)).mean(0), "product of lengths"),
    (checks.check_attribution, lambda a, b, ga, gb: gb.sum(-1).mean(0), "gradient alone"),
    (checks.check_attribution, lambda a, b, ga, gb: (b * gb).sum(-1).mean(0), "gradient times activation"),
    (checks.check_attribution, lambda a, b, ga, gb: ((a - b) * gb).mean((0, -1)), "dot product sums"),
    (checks.check_attribution, lambda a, b, ga, gb: torch.cosine_similarity(a - b, gb, dim=-1).mean(0), "cosine"),
    (checks.check_damage_or_recovery, probabilities, "these are probabilities"),
    (checks.check_damage_or_recovery, counted_for_the_wrong_token, "for the wrong token"),
    (checks.check_damage_or_recovery, between_two, "between two tokens"),
    (checks.check_damage_or_recovery, fooled, "the trap"),
    (checks.check_damage_or_recovery, lambda *g: (*judged(*g)[:2], judged(*g)[2].replace("nothing", "damaged")), "third verdict"),
    (checks.check_damage_or_recovery, lambda *g: judged(*g)[:2], "three things"),
    (checks.check_damage_or_recovery, with_another_share, "recovered share is off"),
    (checks.check_damage_or_recovery, lambda *g: (judged(*g)[0], 2 * judged(*g)[1], judged(*g)[2]), "gain is off"),
    (checks.check_damage_or_recovery, lambda *g: (*judged(*g)[:2], "nothing"), "verdict is off"),
    (checks.check_effects, lambda r, a, b, way: effects(r, a, b, "noising"), "this noises, always"),
    (checks.check_effects, lambda r, a, b, way: effects(r, a, b, "denoising"), "this denoises, always"),
    (checks.check_damage_or_recovery, lambda *g: (*judged(*g)[:2], "fine"), "one of restored"),
    (checks.check_effect_interval, gap_of_all, "draw it too"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval((p - a) / (b - a), 0 * a, 0 * a + 1, d, level), "own share"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval(p, 0 * a, 0 * a + 1, d, level), "interval of the score"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval(p, a, b, d, 2 * level - 1), "too much is cut off"),
    (checks.check_effect_interval, lambda *g: interval(*g)[::-1], "wrong way round"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval(p, a, b, d, 1.0), "only the middle"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval(p, b, a, d, level), "exchanged"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval(p, a, b, d.T, level), "over the draws"),
    (checks.check_effect_interval, lambda p, a, b, d, level: interval(p, a, b, torch.arange(len(p))[:, None], level), "over the prompts themselves"),
]  # fmt: skip


@pytest.mark.parametrize("check, function, keyword", WRONG)
def test_wrong_answers_hear_what_went_wrong(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword) as failed:
        check(function)
    assert len(str(failed.value)) < 220


def test_the_networks_are_the_gates_of_the_paper():
    """Denoising sees an OR whole and an AND not at all, noising the other way round (AP-02, AP-03)."""
    gate_and, gate_or, _ = checks.networks()
    ask = lambda run, way: effects(run, (1.0, 1.0), (0.0, 0.0), way)
    assert ask(gate_and, "denoising") == [0, 0, 1] and ask(gate_and, "noising") == [1, 1, 1]
    assert ask(gate_or, "denoising") == [1, 1, 1] and ask(gate_or, "noising") == [0, 0, 1]


def test_direct_and_mediated_parts_sum_to_the_total():
    """What exercise 6 says at its end: with patterns and layers frozen, nothing is left over."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=rng)
    given = draw(4, 5), draw(4, 5), draw(3, 4, 4).softmax(-1), draw(3, 5, 5), draw(5, 6)
    parts = [checks.direct_and_mediated(*given, head) for head in range(3)]
    torch.testing.assert_close(parts[0][0] + sum(part[1] for part in parts), total(*given, 0))


def test_a_flattened_run_is_damage():
    corrupted, clean, right, wrong = checks.answered(6, 7, 1)
    recovered, gained, verdict = judged(corrupted, 0.1 * corrupted, clean, right, wrong)
    assert recovered > 0.3 and gained == 0 and verdict == "damaged"


# -- whatever else is handed in --------------------------------------------------------------------------

FUNCTIONS = [check for check, _ in RIGHT if check is not checks.check_conclusions]


def changes_its_input(*case):
    for part in case:
        if isinstance(part, torch.Tensor):
            part.add_(1)
    return case[0]


@pytest.mark.parametrize("check", FUNCTIONS, ids=lambda c: c.__name__)
@pytest.mark.parametrize(
    "function, keyword",
    [
        (lambda: 0, "arguments"),
        (lambda *case: print("12"), "nothing"),
        (lambda *case: "twelve", ": "),
        (lambda *case: case[10**9], "raises"),
        (torch.eye(2), "function itself"),
        (lambda *case: torch.full((3, 3), float("nan")), "NaN"),
    ],
)
def test_unusable_answers_get_a_sentence(check, function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        check(function)


@pytest.mark.parametrize(
    "function, keyword",
    [
        (lambda: print("abcd"), "nothing"),
        (lambda: "abc", "four letters"),
        (lambda: "wxyz", "four letters"),
        (lambda: 4, "of type int"),
        (lambda: [1, 2, 3, 4], "of type list"),
        (lambda run: "acdf", "arguments"),
        ("acdf", "function itself"),
    ],
)
def test_letters_that_cannot_be_read(function, keyword):
    with pytest.raises(CheckFailed, match=keyword):
        checks.check_conclusions(function)


@pytest.mark.parametrize(
    "check", [c for c in FUNCTIONS if c is not checks.check_effects], ids=lambda c: c.__name__
)
def test_inputs_stay_as_they_were(check):
    with pytest.raises(CheckFailed, match="in place"):
        check(changes_its_input)


@pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda c: c.__name__)
def test_unwritten_answers_are_told_so(check):
    def unwritten(*case):
        raise NotImplementedError

    with pytest.raises(CheckFailed, match="not written yet"):
        check(unwritten)


@pytest.mark.parametrize("check", FUNCTIONS, ids=lambda c: c.__name__)
def test_every_named_mistake_is_a_mistake_of_its_own(check, monkeypatch):
    """It has an answer to every test input, not the right one, and no other mistake gives the same answers."""
    seen = {}

    def gather(exercise, function, reference, cases, mistakes, *, atol=1e-5, say=""):
        seen.update(reference=reference, cases=cases, mistakes=mistakes)

    monkeypatch.setattr(checks, "check", gather)
    monkeypatch.setattr(checks, "check_through", lambda view, *given, **how: gather(*given, **how))
    check(None)
    answers = {"the right answer": [seen["reference"](*case) for case in seen["cases"]]}
    answers |= {
        name: [attempt(f, case) for case in seen["cases"]]
        for name, f in seen["mistakes"].items()
        if "the rest is right" not in name
    }
    assert [name for name, given in answers.items() if any(one is None for one in given)] == []
    pairs = [
        (one, other)
        for one, other in combinations(answers, 2)
        if all(same(a, b, 1e-5) for a, b in zip(answers[one], answers[other]))
    ]
    assert pairs == [] and len(seen["mistakes"]) >= 3
