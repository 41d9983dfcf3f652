"""Checks of notebook 06, activation patching."""

from __future__ import annotations

import torch

from mi_course.checks import CheckFailed, answer, as_tensor, check, is_number, passed
from mi_course.checks.circuits import check_through, random

# -- 1: the normalised score ------------------------------------------------------------------------


def normalised(score, corrupted, clean):
    return (score.mean(-1) - corrupted.mean()) / (clean.mean() - corrupted.mean())


def check_normalised(function: object) -> None:
    """Exercise 1: the score of patched runs on the scale where the corrupted run is 0 and the clean run is 1.

    `function(score [node batch], corrupted [batch], clean [batch]) -> [node]`: means over the batch, then the ratio.
    """
    cases = []
    for nodes, batch, seed in ((4, 3, 1), (2, 5, 2), (6, 4, 3)):
        corrupted, clean = random(batch, seed=seed) - 2, random(batch, seed=seed + 10) + 2
        cases.append((2.5 * random(nodes, batch, seed=seed + 20), corrupted, clean))
    mean = lambda view: lambda s, a, b: view(s.mean(-1), a.mean(), b.mean())
    mistakes = {
        "the ends are swapped: the corrupted run is 0 and the clean run is 1.":
            mean(lambda s, a, b: (s - b) / (a - b)),
        "the corrupted score is not taken away first, so the corrupted run itself does not come out at 0.":
            mean(lambda s, a, b: s / (b - a)),
        "this divides by the clean score alone, so the clean run does not come out at 1.":
            mean(lambda s, a, b: (s - a) / b),
        "this divides by the corrupted score alone, so the clean run does not come out at 1.":
            mean(lambda s, a, b: (s - a) / a),
        "a ratio of scores has no fixed 0: measure from the corrupted run.": mean(lambda s, a, b: s / b),
        "the sign is turned round.": mean(lambda s, a, b: (a - s) / (b - a)),
        "this is not divided by the gap: models and prompts cannot be compared.": mean(lambda s, a, b: s - a),
        "this is clipped to 0 and 1, which hides patches that harm, or that overshoot.":
            lambda *given: normalised(*given).clamp(0, 1),
        "the ratio is taken for each prompt and then averaged: one prompt with a small gap would drown the others.":
            lambda s, a, b: ((s - a) / (b - a)).mean(-1),
        "sums and means are mixed: the number of prompts must cancel.":
            lambda s, a, b: (s.sum(-1) - a.sum()) / (b.mean() - a.mean()),
        "the patched scores are summed over the batch, and a mean is wanted there too.":
            lambda s, a, b: (s.sum(-1) - a.mean()) / (b.mean() - a.mean()),
        "a ratio for every prompt: average over the batch, the last axis.": lambda s, a, b: (s - a) / (b - a),
        "all nodes are thrown together: one number for each is wanted.":
            lambda s, a, b: normalised(s, a, b).mean(),
    }  # fmt: skip
    say = "0 is the corrupted run, 1 the clean one, and nothing keeps a patch between them"
    check("normalised score", function, normalised, cases, mistakes, say=say)


# -- 2: one head at one position --------------------------------------------------------------------


def patch_head(z, source, head, pos):
    patched = z.clone()
    patched[:, pos, head] = source[:, pos, head]
    return patched


def check_patch_head(function: object) -> None:
    """Exercise 2: what the host run's heads write, with one head at one position taken from the source run.

    `function(z [batch pos head d_head], source [batch pos head d_head], head, pos) -> [batch pos head d_head]`
    """
    cases = []
    for shape, head, pos in (((4, 5, 4, 3), 1, 3), ((3, 4, 4, 2), 2, 0), ((2, 6, 3, 3), 0, -1)):
        cases.append((random(*shape, seed=head), random(*shape, seed=head + 10), head, pos))

    def at(place):
        """Patch at `place(head, pos)` instead."""

        def patched(z, source, head, pos):
            z, where = z.clone(), place(head, pos)
            z[where] = source[where]
            return z

        return patched

    def swapped(z, source, read, write):
        z = z.clone()
        z[:, write[0], write[1]] = source[:, read[0], read[1]]
        return z

    every = slice(None)
    mistakes = {
        "the head is patched at all positions: only one was meant.": at(lambda h, p: (every, every, h)),
        "all positions from this one on are patched: only one was meant.":
            at(lambda h, p: (every, slice(p, None), h)),
        "all positions up to this one are patched: only one was meant.":
            at(lambda h, p: (every, slice(p + 1), h)),
        "all positions before this one are patched: only this one was meant.":
            at(lambda h, p: (every, slice(p), h)),
        "a negative pos is taken for 0: it counts from the end.":
            lambda z, s, h, p: patch_head(z, s, h, max(p, 0)),
        "at a negative pos nothing is patched: it counts from the end.":
            lambda z, s, h, p: patch_head(z, s if p >= 0 else z, h, p),
        "all heads of that position are patched: only one was meant.": at(lambda h, p: (every, p)),
        "the axes are swapped: z is batch, pos, head, d_head.": at(lambda h, p: (every, h, p)),
        "the axes are swapped where the patch is written: z is batch, pos, head, d_head.":
            lambda z, s, h, p: swapped(z, s, (p, h), (h, p)),
        "the axes are swapped where the source is read: it is batch, pos, head, d_head.":
            lambda z, s, h, p: swapped(z, s, (h, p), (p, h)),
        "the position is read as the prompt: z is batch, pos, head, d_head.": at(lambda h, p: (p, every, h)),
        "only the first prompt is patched: the whole batch is wanted.": at(lambda h, p: (0, p, h)),
        "source and host are swapped: everything else must come from z.":
            lambda z, s, h, p: patch_head(s, z, h, p),
        "everything comes from the source: that is the other run, not a patch.": lambda z, s, h, p: s + 0,
        "nothing is patched.": lambda z, s, h, p: z + 0,
        "the source is added to what was there: it takes its place.":
            lambda z, s, h, p: z + patch_head(torch.zeros_like(z), s, h, p),
        "the head is silenced: patching puts the source's activation there.":
            lambda z, s, h, p: patch_head(z, torch.zeros_like(s), h, p),
        "the source is averaged over prompts: each prompt has its own counterpart.":
            lambda z, s, h, p: patch_head(z, s.mean(0, keepdim=True).expand_as(s), h, p),
        "this is the patched part alone: return all of z.": lambda z, s, h, p: s[:, p, h],
    }  # fmt: skip
    check("patch a head", function, patch_head, cases, mistakes, say="one head, one place, and a new tensor")


# -- 3: two directions ------------------------------------------------------------------------------

NODES = ("A", "B", "C")


def network(gate, read):
    """run(inputs, **patch) -> values of A, B, C and out; a node named in `patch` takes that value instead of its own."""

    def run(inputs, **patch):
        values = dict(zip("AB", inputs)) | patch
        values["C"] = patch.get("C", gate(values["A"], values["B"]))
        return values | {"out": read(values)}

    return run


def networks() -> list:
    """AND, OR (its C is 1 when neither input is there, as in the notebook), an AND with a way around it; and one
    whose A hurts by itself, so that effects are negative and above 1."""
    both = lambda a, b: max(0.0, a + b - 1)
    neither = lambda a, b: max(0.0, 1 - a - b)
    return [
        network(both, lambda v: 4 * v["C"] - 1),
        network(neither, lambda v: 4 - 3 * v["C"]),
        network(both, lambda v: 2 * v["C"] + 1.5 * v["A"] - 0.5),
        network(both, lambda v: 4 * v["C"] - 1.5 * v["A"] + 0.5),
    ]


def gap_closed(run, patched, clean, corrupted, direction):
    """Which part of the gap between the runs this patch closes (denoising) or opens (noising)."""
    top, bottom = run(clean)["out"], run(corrupted)["out"]
    value = (patched - bottom) / (top - bottom)
    return value if direction == "denoising" else 1 - value


def effects(run, clean, corrupted, direction, *, read=gap_closed, together=None, source=None):
    """The effect of each node; a mistake reads, groups or sources it in another way."""
    host, other = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    source = source or (lambda run, host, other: run(other))
    values, found = source(run, host, other), []
    for number, node in enumerate(NODES):
        nodes = together(number) if together else [node]
        patched = run(host, **{n: values[n] for n in nodes})["out"]
        found.append(read(run, patched, clean, corrupted, direction))
    return found


def by_node(found):
    """Effects by name as a list in the order A, B, C."""
    if isinstance(found, dict) and set(found) == set(NODES):
        found = [found[node] for node in NODES]
    if isinstance(found, (list, tuple)) and all(is_number(value) for value in found):
        return [as_tensor(value).sum().item() for value in found]
    return found


def check_effects(function: object) -> None:
    """Exercise 3: how much of the gap each node closes when denoised, or opens when noised.

    `function(run, clean, corrupted, direction) -> [effect of A, of B, of C]`, with `run(inputs, **patch)` the network,
    `clean` and `corrupted` its inputs, and `direction` "denoising" or "noising".
    """
    ways = ("denoising", "noising")
    cases = [(run, (1.0, 1.0), (0.0, 0.0), way) for run in networks() for way in ways]
    cases += [(run, (0.75, 1.0), (0.0, 0.25), way) for run in networks() for way in ways]
    value = lambda run, p, a, b, way: gap_closed(run, p, a, b, "denoising")
    host = lambda run, a, b, way: run(b if way == "denoising" else a)["out"]
    gap = lambda run, a, b, way: (run(a)["out"] - run(b)["out"]) * (1 if way == "denoising" else -1)
    wrong = lambda **how: lambda *given: effects(*given, **how)
    mistakes = {
        "the directions are swapped: denoising patches clean values into the corrupted run.":
            lambda run, a, b, way: effects(run, a, b, ways[way == "denoising"]),
        "the direction is not looked at: this denoises, always.":
            lambda run, a, b, way: effects(run, a, b, "denoising"),
        "the direction is not looked at: this noises, always.":
            lambda run, a, b, way: effects(run, a, b, "noising"),
        "noising is read on the scale of values, where no effect is 1: the effect is the part that is lost, 1 − value.":
            wrong(read=value),
        "1 − value is taken in both directions: a denoised node that restores everything has effect 1.":
            wrong(read=lambda *given: 1 - value(*given)),
        "1 − value is taken for denoising: it belongs to noising.":
            wrong(read=lambda run, p, a, b, way: 1 - gap_closed(run, p, a, b, way)),
        "the effects are not divided by the gap between the two runs.":
            wrong(read=lambda run, p, a, b, way: gap_closed(run, p, a, b, way) * (run(a)["out"] - run(b)["out"])),
        "the effects are not divided by the gap between the two runs, and their sign is lost.":
            wrong(read=lambda run, p, a, b, way: abs(p - host(run, a, b, way))),
        "the effects are differences of outputs: divide by the gap, and let the full effect be 1 in both directions.":
            wrong(read=lambda run, p, a, b, way: p - host(run, a, b, way)),
        "the host's output is not taken away before the division by the gap.":
            wrong(read=lambda run, p, a, b, way: p / gap(run, a, b, way)),
        "the change is divided by the host's output: divide by the gap between the two runs.":
            wrong(read=lambda run, p, a, b, way: p / host(run, a, b, way) - 1),
        "the change is divided by the source's output: divide by the gap between the two runs.":
            wrong(read=lambda *g: (g[1] - host(g[0], *g[2:])) / (gap(g[0], *g[2:]) + host(g[0], *g[2:]))),
        "these are the patched outputs: compare with both runs.": wrong(read=lambda run, p, a, b, way: p),
        "the patches pile up: each node is patched alone, and the one before it goes back.":
            wrong(together=lambda i: NODES[: i + 1]),
        "all other nodes are patched instead of this one.":
            wrong(together=lambda i: [n for n in NODES if n != NODES[i]]),
        "all nodes are patched at once, each time.": wrong(together=lambda i: NODES),
        "each node gets the host run's own value, and that is no patch: record the other run.":
            wrong(source=lambda run, host, other: run(host)),
        "nodes are set to 1 or to 0: patching takes the value that the other run had.":
            wrong(source=lambda run, host, other: dict.fromkeys(NODES, float(sum(other) > sum(host)))),
        "nodes are set to 0 in both directions: patching takes the other run's value.":
            wrong(source=lambda run, host, other: dict.fromkeys(NODES, 0.0)),
        "all effects are positive: a node that hurts has an effect below 0, so its sign must stay.":
            wrong(read=lambda *given: abs(gap_closed(*given))),
        "the effects are cut off below 0: a node that hurts has an effect below 0.":
            wrong(read=lambda *given: max(0.0, gap_closed(*given))),
        "the effects are cut off above 1: a node can close more than the gap where another one hurts.":
            wrong(read=lambda *given: min(1.0, gap_closed(*given))),
        "the effects are cut off to lie between 0 and 1: a node that hurts lies below, and one that makes up for it above.":
            wrong(read=lambda *given: min(1.0, max(0.0, gap_closed(*given)))),
        "noising has a minus sign: the effect is the size of what is lost.":
            wrong(read=lambda run, p, a, b, way: gap_closed(run, p, a, b, way) * (1 if way == "denoising" else -1)),
    }  # fmt: skip
    say = "an AND shows all its parts to noising, an OR to denoising"
    check_through(by_node, "effects of A, B and C", function, effects, cases, mistakes, say=say)


# -- 4: what may be concluded -----------------------------------------------------------------------

CONCLUSIONS = [
    ("a", {
        "b": "denoising asks whether a part is enough, and this reads necessity from it: only noising could show that.",
        "d": "one head was patched: nothing here says that another one would do as well.",
        "g": "this is the wrong way round: denoising tests sufficiency, and says nothing of need.",
    }),
    ("c", {
        "d": "AND and OR are confused: if either were enough, denoising one of them would have shown it.",
        "e": "a part that does nothing alone in a denoising may still be needed: look at the two together, and at noising.",
        "f": "a spare part would hide the loss when one of them is noised, and here each loss is total.",
        "a": "neither of them is enough alone: denoising one gives 0.",
        "b": "true of each, and the two together say more.",
        "g": "need was tested, but so was more: which result shows what the two do together?",
    }),
    ("d", {
        "a": "true of each, and noising both says more.",
        "c": "AND and OR are confused: if both were needed, noising one of them would have cost everything.",
        "e": "noising one costs nothing while the other still works: look at both together, and at denoising.",
        "b": "noising one of them costs nothing, so the model does not need that one.",
        "f": "a spare part is silent until the first is gone. Here both carry the answer in the clean run: how do we know?",
    }),
    ("f", {
        "e": "a single ablation understates a part that has a stand-in: what did the other head do in that run?",
        "b": "the model manages without it at a cost of 4%: something took its place.",
        "c": "if both were needed, zeroing one would have cost nearly everything.",
        "d": "in the intact run the second head is nearly silent: they do not do the same thing side by side.",
        "a": "this was a noising: nothing was tested for being enough.",
        "g": "the cost was 4%: what makes it so small?",
    }),
]  # fmt: skip


def letters(answers) -> list[str]:
    """The four letters from "abcd", "a b c d", a list, or a dict in the order of its keys."""
    if isinstance(answers, dict):
        answers = [answers[key] for key in sorted(answers)]
    return [part.strip(" .,()").lower() for part in answers if part.strip(" .,()")]


def check_conclusions(function: object) -> None:
    """Exercise 4: which statement each of four results allows. `function() -> four letters`."""
    exercise = "conclusions"
    if not callable(function):
        raise CheckFailed(f"{exercise}: give the function itself, without calling it.")
    given = answer(exercise, function, ())
    try:
        given = letters(given)
    except (TypeError, AttributeError):
        raise CheckFailed(
            f"{exercise}: the answer is of type {type(given).__name__}; four letters are wanted."
        ) from None
    if len(given) != len(CONCLUSIONS) or not set(given) <= set("abcdefg"):
        raise CheckFailed(f"{exercise}: four letters from a to g are wanted, one for each result.")
    for number, (letter, (right, readings)) in enumerate(zip(given, CONCLUSIONS), start=1):
        if letter != right:
            why = readings.get(letter, "what was patched into which run, and what was not tested?")
            raise CheckFailed(f"{exercise}: result {number}: {why}")
    passed(exercise, "each direction answers its own question, and one patch at a time cannot see a gate")


# -- 5: means of each template ----------------------------------------------------------------------


def template_means(acts, template):
    same = (template[:, None] == template[None]).to(acts.dtype)
    return torch.einsum("pq,q...->p...", same / same.sum(1, keepdim=True), acts)


def check_template_means(function: object) -> None:
    """Exercise 5: for each prompt the mean activation of the prompts of its own template.

    `function(acts [prompt ...], template [prompt]) -> [prompt ...]`
    """
    cases = []
    for ids, rest in (
        ([2, 0, 2, 5, 0, 5], (3,)),
        ([1, 1, 0, 3, 0, 1, 3, 3], (4, 2)),
        ([7, 4, 4, 7, 7, 4, 7], (2, 3)),
    ):
        cases.append((random(len(ids), *rest, seed=len(ids)), torch.tensor(ids)))  # fmt: skip

    def each(statistic):
        """The mistake that takes another statistic of a template's prompts."""
        return lambda acts, t: torch.stack(
            [statistic(acts[t == i], a).expand(a.shape) for i, a in zip(t, acts)]
        )

    others = lambda group, own: (group.sum(0) - own) / (len(group) - 1)
    rows = lambda acts, t: torch.stack([acts[t == i].mean(0) for i in t.unique()])
    mistakes = {
        "this is the mean of all prompts: what a template has in common would be ablated too.":
            lambda acts, t: acts.mean(0).expand_as(acts),
        "one number for each template: only prompts are averaged, every position and feature keeps its own mean.":
            each(lambda group, own: group.mean()),
        "features are averaged as well: only prompts are.":
            each(lambda group, own: group.mean(0).mean(-1, keepdim=True)),
        "positions are averaged as well: only prompts are.":
            each(lambda group, own: group.mean(0).mean(0, keepdim=True)),
        "this is the median: one prompt would decide.": each(lambda group, own: group.median(0).values),
        "these are sums: divide by the number of prompts of that template, not by 1.":
            each(lambda group, own: group.sum(0)),
        "the sum of a template is divided by the number of all prompts.":
            lambda acts, t: each(lambda group, own: group.sum(0))(acts, t) / len(acts),
        "the prompt itself is left out of its mean: here every prompt of the template counts.": each(others),
        "the prompts of all other templates are averaged: the prompt's own is wanted.":
            lambda acts, t: torch.stack([acts[t != i].mean(0) for i in t]),
        "the means stand in the order of the templates: prompts are not sorted, so look each one's template up.":
            lambda acts, t: rows(acts, t).repeat_interleave(t.unique(return_counts=True)[1], 0),
        "one row for each template: every prompt gets its template's mean, so the shape stays.":
            rows,
        "the mean is taken away: it takes the activation's place.":
            lambda acts, t: acts - template_means(acts, t),
        "every template has the same weight in one mean for all: each prompt keeps to its own.":
            lambda acts, t: rows(acts, t).mean(0).expand_as(acts),
        "this is the first prompt of each template: the mean is wanted.": each(lambda group, own: group[0]),
    }  # fmt: skip
    say = "what the template says stays, what the prompt says goes"
    check("template means", function, template_means, cases, mistakes, say=say)


# -- 6: direct, and through a head -------------------------------------------------------------------


def direct_and_mediated(host, patched, pattern, W_OV, W_U, head):
    change = patched - host
    return change[-1] @ W_U, pattern[head, -1] @ change @ W_OV[head] @ W_U


def pair(found):
    """Two rows of logits as one matrix."""
    if isinstance(found, (tuple, list)) and len(found) == 2 and all(is_number(part) for part in found):
        rows = [as_tensor(part) for part in found]
        return torch.stack(rows) if rows[0].shape == rows[1].shape else found
    return found


def check_direct_and_mediated(function: object) -> None:
    """Exercise 6: how a change of what a layer-0 head writes reaches the last position's logits, by two ways.

    `function(host [pos d_model], patched [pos d_model], pattern [head query key], W_OV [head d_model d_model],
    W_U [d_model d_vocab], head) -> (direct [d_vocab], through layer 1's `head` [d_vocab])`
    """
    cases = []
    for n_pos, d, heads, vocab, head in ((4, 3, 3, 5, 1), (3, 5, 2, 4, 0), (5, 4, 4, 6, 3)):
        pattern = random(heads, n_pos, n_pos, seed=n_pos).masked_fill(
            torch.ones(n_pos, n_pos).triu(1) > 0, -torch.inf
        )
        streams = random(2, n_pos, d, seed=n_pos + 10)
        weights = random(heads, d, d, seed=n_pos + 20), random(d, vocab, seed=n_pos + 30)
        cases.append((*streams, pattern.softmax(-1), *weights, head))  # fmt: skip
    straight = lambda x, A, OV, U, h: x[-1] @ U
    through = lambda x, A, OV, U, h: A[h, -1] @ x @ OV[h] @ U
    whole = lambda x, A, OV, U, h: sum(through(x, A, OV, U, i) for i in range(len(A)))
    total = lambda *given: straight(*given) + whole(*given)

    def ways(direct=straight, mediated=through, change=lambda a, b: b - a):
        return lambda a, b, *rest: pair((direct(change(a, b), *rest), mediated(change(a, b), *rest)))

    mistakes = {
        "the direct part is the total effect: layer 1 was not frozen, and its heads pass the change on.":
            ways(direct=total),
        "the direct part still holds what goes through that head: freeze it at the host run.":
            ways(direct=lambda *given: straight(*given) + through(*given)),
        "the mediated part is the total effect: freeze the other heads, and take the direct way off.":
            ways(mediated=total),
        "the mediated part holds the direct way too: take it off.":
            ways(mediated=lambda *given: straight(*given) + through(*given)),
        "the mediated part runs through all heads of layer 1: freeze all but one.": ways(mediated=whole),
        "the change is mediated through the wrong head.":
            ways(mediated=lambda x, A, OV, U, h: through(x, A, OV, U, (h + 1) % len(A))),
        "the change is mediated through the wrong head: heads are counted from 0.":
            ways(mediated=lambda x, A, OV, U, h: through(x, A, OV, U, h - 1)),
        "W_OV is transposed: vectors are rows, and a head writes x W_OV.":
            ways(mediated=lambda x, A, OV, U, h: through(x, A, OV.mT, U, h)),
        "only the last position of the change is read: rows of the pattern are queries, columns the keys they read from.":
            ways(mediated=lambda x, A, OV, U, h: A[h, -1, -1] * x[-1] @ OV[h] @ U),
        "the pattern is left out: the change is summed over all positions.":
            ways(mediated=lambda x, A, OV, U, h: x.sum(0) @ OV[h] @ U),
        "W_OV is left out: what a head reads is not what it writes.":
            ways(mediated=lambda x, A, OV, U, h: A[h, -1] @ x @ U),
        "the direct way is read at the first position: the last one says the answer.":
            ways(direct=lambda x, A, OV, U, h: x[0] @ U),
        "the head looks out from the first position: the last one is the query.":
            ways(mediated=lambda x, A, OV, U, h: A[h, 0] @ x @ OV[h] @ U),
        "the direct way sums over positions: only the last one is read out.":
            ways(direct=lambda x, A, OV, U, h: x.sum(0) @ U),
        "the sign is turned round: what the patch adds is patched − host.": ways(change=lambda a, b: a - b),
        "the sign of the direct part is turned round, and the mediated part is right.":
            ways(direct=lambda *given: -straight(*given)),
        "the direct part is what the patched run writes: take the host's away there too.":
            lambda a, b, *rest: pair((straight(b, *rest), through(b - a, *rest))),
        "this is what the patched run writes: its difference from the host run is the effect.":
            ways(change=lambda a, b: b),
        "the pair is the wrong way round: first direct, then mediated.":
            lambda *given: pair(direct_and_mediated(*given)[::-1]),
        "these are vectors in the residual stream: go on to the logits with W_U.":
            lambda a, b, A, OV, U, h: pair(((b - a)[-1], A[h, -1] @ (b - a) @ OV[h])),
    }  # fmt: skip
    right = lambda *given: pair(direct_and_mediated(*given))
    say = "add the other heads' parts, and nothing of the total effect is left over"
    check_through(pair, "direct and mediated", function, right, cases, mistakes, say=say)


# -- 7: attribution patching -------------------------------------------------------------------------


def attribution(clean, corrupted, clean_grad, corrupted_grad):
    return ((clean - corrupted) * corrupted_grad).sum(-1).mean(0)


def check_attribution(function: object) -> None:
    """Exercise 7: what denoising each head would do, to first order.

    `function(clean, corrupted, clean_grad, corrupted_grad) -> [layer head]`, each [batch layer head d_head]: the
    activations of both runs, and the gradients of every prompt's own score with respect to them.
    """
    cases = []
    for number, shape in enumerate(((3, 2, 4, 5), (2, 3, 2, 3), (4, 4, 3, 2))):
        cases.append(tuple(random(*shape, seed=10 * number + part) for part in range(4)))
    total = lambda product: lambda a, b, ga, gb: product(a, b, ga, gb).sum(-1).mean(0)
    norm = lambda x: x.norm(dim=-1)
    mistakes = {
        "the sign is turned round: the step goes from the host run to the source, here from corrupted to clean.":
            total(lambda a, b, ga, gb: (b - a) * gb),
        "this is the gradient of the wrong run: the line is drawn where the host stands, and denoising starts corrupted.":
            total(lambda a, b, ga, gb: (a - b) * ga),
        "this is noising: sign and gradient both belong to the other direction.":
            total(lambda a, b, ga, gb: (b - a) * ga),
        "the mean of both gradients is another method: to first order it is the host's gradient alone.":
            total(lambda a, b, ga, gb: (a - b) * (ga + gb) / 2),
        "each run's activation goes with its own gradient here: one gradient, the host's, for the difference.":
            total(lambda a, b, ga, gb: a * ga - b * gb),
        "the batch is summed, and a mean is wanted.": lambda *given: attribution(*given) * len(given[0]),
        "the components are averaged: a dot product sums them.":
            lambda *given: attribution(*given) / given[0].shape[-1],
        "a product of lengths is always positive, and forgets whether the change points along the gradient.":
            lambda a, b, ga, gb: (norm(a - b) * norm(gb)).mean(0),
        "the lengths are divided out: this is a cosine, and the size of the change matters.":
            lambda a, b, ga, gb: ((a - b) * gb).sum(-1).div(norm(a - b) * norm(gb)).mean(0),
        "this is the gradient alone: a steep direction matters only if the activation changes along it.":
            total(lambda a, b, ga, gb: gb),
        "this is the length of the gradient: multiply by the change of the activation.":
            lambda a, b, ga, gb: norm(gb).mean(0),
        "this is the change alone: multiply by the gradient.": total(lambda a, b, ga, gb: a - b),
        "gradient times activation compares with an activation of 0: compare with the other run.":
            total(lambda a, b, ga, gb: b * gb),
        "the clean activation times the gradient: take the host's own activation away first.":
            total(lambda a, b, ga, gb: a * gb),
        "the sign is thrown away: some heads work against the answer.":
            lambda *given: attribution(*given).abs(),
        "the sign is thrown away before the mean over prompts.":
            lambda a, b, ga, gb: ((a - b) * gb).sum(-1).abs().mean(0),
        "the absolute values of all products are summed: a dot product lets them cancel.":
            total(lambda a, b, ga, gb: ((a - b) * gb).abs()),
        "means are taken before the product: each prompt has its own change and its own gradient.":
            lambda a, b, ga, gb: ((a - b).mean(0) * gb.mean(0)).sum(-1),
        "one number for each prompt and head: the mean over the batch, the first axis, is missing.":
            lambda a, b, ga, gb: ((a - b) * gb).sum(-1),
    }  # fmt: skip
    say = "two forward passes and one backward, for all heads at once; a straight line, and no more"
    check("attribution patching", function, attribution, cases, mistakes, say=say)


# -- 8: damage is not recovery -----------------------------------------------------------------------


VERDICTS = ("restored", "damaged", "nothing")


def score_of(logits, right, wrong):
    rows = torch.arange(len(logits))
    return logits[rows, right] - logits[rows, wrong]


def accuracy_of(logits, right, wrong):
    return (logits.argmax(-1) == right).double().mean()


def said(recovered, gained):
    return "restored" if gained > 0 else "damaged" if recovered > 0.3 else "nothing"


def judged(
    *runs,
    score=score_of,
    accuracy=accuracy_of,
    share=lambda low, here, high: (here - low) / (high - low),
    gain=lambda low, here, high: here - low,
    verdict=said,
):
    """(recovered share, gain in accuracy, verdict) of the runs corrupted, patched, clean; a mistake judges otherwise."""
    *logits, right, wrong = runs
    recovered = share(*(score(run, right, wrong).mean() for run in logits))
    gained = gain(*(accuracy(run, right, wrong) for run in logits))
    return recovered, gained, verdict(recovered, gained)


def coded(found):
    """Two numbers and the verdict's number."""
    three = isinstance(found, (tuple, list)) and len(found) == 3
    if not three or not all(is_number(n) and as_tensor(n).numel() == 1 for n in found[:2]):
        raise CheckFailed("damage or recovery: return three things, two numbers and a word.")
    if found[2] not in VERDICTS:
        raise CheckFailed(f"damage or recovery: the verdict is one of {', '.join(VERDICTS)}.")
    return [*(as_tensor(n).item() for n in found[:2]), float(VERDICTS.index(found[2]))]


def answered(n: int, vocab: int, seed: int):
    """Logits of a corrupted and of a clean run, the right tokens, and the wrong ones."""
    corrupted, clean = random(n, vocab, seed=seed), random(n, vocab, seed=seed + 50)
    rows, right = torch.arange(n), (3 * torch.arange(n) + 1) % vocab
    wrong = (right + 1) % vocab
    corrupted[rows, wrong] += 5
    clean[rows, right] += 5
    corrupted[[2, 3], right[[2, 3]]] += 9  # two prompts are answered rightly all the same
    clean[1, wrong[1]] += 9  # and one wrongly
    return corrupted, clean, right, wrong


def check_damage_or_recovery(function: object) -> None:
    """Exercise 8: did the patch restore the answer, or only flatten the logits?

    `function(corrupted, patched, clean [batch d_vocab], right, wrong [batch]) -> (recovered, gained, verdict)`: the
    recovered share of the logit difference, the gain in accuracy over the corrupted run, and "restored" if accuracy
    rises, else "damaged" if more than 0.3 is recovered, else "nothing".
    """
    cases = []
    for n, vocab, seed in ((6, 7, 1), (5, 9, 2)):
        corrupted, clean, right, wrong = answered(n, vocab, seed)
        third = corrupted.clone()
        third[torch.arange(n), right] += 8
        third[torch.arange(n), (right + 2) % vocab] += (
            15  # neither the right token nor the wrong one comes out on top
        )
        for patched in (0.1 * corrupted, 0.2 * corrupted + 0.8 * clean, 0.95 * corrupted, third):
            cases.append((corrupted, patched, clean, right, wrong))
    judge = lambda **how: lambda *given: coded(judged(*given, **how))
    of_right = lambda read: judge(score=lambda L, r, w: read(L).gather(1, r[:, None]))
    mistakes = {
        "these are probabilities: a difference of logits is wanted.":
            judge(score=lambda L, r, w: score_of(L.softmax(-1), r, w)),
        "this is the probability of the right token: its logit's lead over the wrong token's is wanted.":
            of_right(lambda L: L.softmax(-1)),
        "this is the right token's log probability: its logit's lead over the wrong token's is wanted.":
            of_right(lambda L: L.log_softmax(-1)),
        "this is the right token's logit alone: a boost that both tokens share must cancel.": of_right(lambda L: L),
        "the logit difference is not normalised: 0 is the corrupted run and 1 the clean one.":
            judge(share=lambda low, here, high: here - low),
        "the recovered share is turned round: 0 is the corrupted run and 1 the clean one.":
            judge(share=lambda low, here, high: (high - here) / (high - low)),
        "the recovered share forgets the corrupted run, which must come out at 0.":
            judge(share=lambda low, here, high: here / high),
        "accuracy is counted for the wrong token.": judge(accuracy=lambda L, r, w: accuracy_of(L, w, r)),
        "accuracy is decided between two tokens: the right one must stand above all others, a third one too.":
            judge(accuracy=lambda L, r, w: (score_of(L, r, w) > 0).double().mean()),
        "this is the accuracy of the patched run: its gain over the corrupted run is wanted.":
            judge(gain=lambda low, here, high: here),
        "the gain is measured from the clean run: the patch was made in the corrupted one.":
            judge(gain=lambda low, here, high: here - high),
        "the sign of the gain is turned round.": judge(gain=lambda low, here, high: low - here),
        "the gain is divided by the gap: here it is a plain difference of accuracies.":
            judge(gain=lambda low, here, high: (here - low) / (high - low)),
        "the verdict rests on the recovered share alone, and that is the trap: look at accuracy first.":
            judge(verdict=lambda recovered, gained: "restored" if recovered > 0.3 else "nothing"),
        "a patch that changes next to nothing has not damaged anything: mind the third verdict.":
            judge(verdict=lambda recovered, gained: "restored" if gained > 0 else "damaged"),
    }  # fmt: skip

    def off(part: int):
        """The learner's answer in one part, the right one in the others; a verdict follows from its two numbers."""

        def mixed(*given):
            theirs, right = function(*given), list(judged(*given))
            right[part] = theirs[part]
            return coded(right if part == 2 else [*right[:2], said(*right[:2])])

        return mixed

    mistakes |= {
        "the recovered share is off, and the rest is right: means of logit differences first, then the ratio.": off(
            0
        ),
        "the gain is off, and the rest is right: whose accuracy less whose?": off(1),
        "the verdict is off, and the rest is right: which of the two numbers is asked first?": off(2),
    }
    say = "a flattened run looks half restored, and answers no better"
    check_through(coded, "damage or recovery", function, judge(), cases, mistakes, say=say)


# -- 9: an interval over prompts --------------------------------------------------------------------


def check_effect_interval(function: object) -> None:
    """Exercise 9: the bootstrap interval of a normalised effect.

    `function(patched, corrupted, clean [prompt], draws [n prompt], level) -> (low, high)`: for each draw the three means
    over its prompts and the share of the gap, then the ends of the middle `level` of these shares.
    """
    cases = []
    for prompts, n, level, seed in ((6, 60, 0.8, 1), (9, 90, 0.5, 2), (5, 75, 0.9, 3)):
        corrupted, clean = 0.7 * random(prompts, seed=seed) - 2, 2 * random(prompts, seed=seed + 10) + 4
        share = 0.4 + 0.5 * random(prompts, seed=seed + 20)
        patched = corrupted + share * (clean - corrupted) + random(prompts, seed=seed + 30)
        rng = torch.Generator().manual_seed(seed)
        draws = torch.randint(prompts, (n, prompts), generator=rng)
        cases.append((patched, corrupted, clean, draws, level))

    def ends(effect, level, cut=2):
        outside = (1 - level) / cut
        return torch.stack([torch.quantile(effect, outside), torch.quantile(effect, 1 - outside)])

    def drawn(p, a, b, d):
        low, high = a[d].mean(1), b[d].mean(1)
        return (p[d].mean(1) - low) / (high - low)

    def pair(found):
        if isinstance(found, tuple | list) and all(map(is_number, found)):
            found = [float(end) for end in found if as_tensor(end).numel() == 1]
        if not is_number(found):
            raise CheckFailed(
                "interval of an effect: two numbers are wanted, the lower end and the upper one."
            )
        return as_tensor(found)

    normal = lambda e, level: torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=e.dtype)) * e.std()
    fixed = lambda p, a, b, d: (p[d].mean(1) - a.mean()) / (b.mean() - a.mean())
    mistakes = {
        "the gap is taken from all prompts: it is a mean over the same prompts, so draw it too.":
            lambda p, a, b, d, level: ends(fixed(p, a, b, d), level),
        "each prompt's own share is averaged: first the means of the draw, then the ratio.":
            lambda p, a, b, d, level: ends(((p - a) / (b - a))[d].mean(1), level),
        "this is the interval of the score: put each draw on the scale where corrupted is 0 and clean is 1.":
            lambda p, a, b, d, level: ends(p[d].mean(1), level),
        "too much is cut off: half of what lies outside the middle is below it, half above.":
            lambda p, a, b, d, level: ends(drawn(p, a, b, d), level, cut=1),
        "the two ends are the wrong way round: the lower one comes first.":
            lambda p, a, b, d, level: ends(drawn(p, a, b, d), level).flip(0),
        "these are the largest and the smallest draw: only the middle of them is wanted.":
            lambda p, a, b, d, level: torch.stack([drawn(p, a, b, d).min(), drawn(p, a, b, d).max()]),
        "this assumes a bell curve, mean and standard deviation: take the draws as they are.":
            lambda p, a, b, d, level: torch.stack([drawn(p, a, b, d).mean() + sign * normal(drawn(p, a, b, d), level)
                                                   for sign in (-1, 1)]),
        "the corrupted and the clean run are exchanged: the corrupted one is 0.":
            lambda p, a, b, d, level: ends(drawn(p, b, a, d), level),
        "`draws` are not used: these are quantiles over the prompts themselves.":
            lambda p, a, b, d, level: ends((p - a) / (b - a), level),
        "the means run over the draws: each row of `draws` is one draw, and its mean is over the row.":
            lambda p, a, b, d, level: ends((p[d].mean(0) - a[d].mean(0)) / (b[d].mean(0) - a[d].mean(0)), level),
    }  # fmt: skip
    reference = lambda p, a, b, d, level: ends(drawn(p, a, b, d), level)
    say = "prompts go together, and the gap is as uncertain as the patch"
    check_through(pair, "interval of an effect", function, reference, cases, mistakes, say=say)
