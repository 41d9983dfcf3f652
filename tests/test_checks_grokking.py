"""Every check of notebook 09: the solution and another right answer pass, wrong ones hear what went wrong."""

import torch

from mi_course.checks import grokking as checks
from tests.answers import *  # noqa: F403 — the tests themselves, over RIGHT and WRONG below

# -- right answers: the notebook's, and another one ---------------------------------------------------


def identities(a, b, c):
    cos_sum = a[0] * b[0] - a[1] * b[1]
    sin_sum = a[1] * b[0] + a[0] * b[1]
    return cos_sum * c[0] + sin_sum * c[1]


def identities_by_complex_numbers(a, b, c):
    x, y, z = (torch.complex(torch.as_tensor(v[0]), torch.as_tensor(v[1])) for v in (a, b, c))
    return (x * y * z.conj()).real


def key(M):
    norms = torch.fft.rfft(M, dim=-1).abs().square().sum(0).sqrt()
    norms[0] = 0
    return [k for k in range(1, len(norms)) if norms[k] >= norms.max() / 4]


def key_by_waves(M):
    p = M.shape[1]
    n, norms = torch.arange(p).double(), {}
    for k in range(1, (p - 1) // 2 + 1):
        w = 2 * torch.pi * k / p
        norms[k] = float((M @ (w * n).cos()).square().sum() + (M @ (w * n).sin()).square().sum())
    return sorted(k for k, power in norms.items() if power >= max(norms.values()) / 16)


def restricted(logits, D, answers, test):
    kept = logits.mean(0) + D.T @ (D @ logits)
    log_p = kept.log_softmax(-1)[test]
    return -log_p[torch.arange(len(log_p)), answers[test]].mean()


def restricted_by_cross_entropy(logits, D, answers, test):
    projector = torch.ones(len(logits), len(logits)).double() / len(logits) + D.T @ D
    return float(torch.nn.functional.cross_entropy((projector @ logits)[test], answers[test]))


def phases(train, test):
    names, phase, half = [], "memorisation", None
    for on_train, on_test in zip(train, test):
        if phase == "memorisation" and on_train >= 0.999:
            phase, half = "circuit formation", (on_test + 1) / 2
        if phase == "circuit formation" and on_test >= half:
            phase = "clean-up"
        if phase == "clean-up" and on_test >= 0.99:
            phase = "done"
        names.append(phase)
    return names


def phases_by_events(train, test):
    looks, never = range(len(train)), len(train)
    fitted = next((i for i in looks if train[i] >= 0.999), never)
    half = (1 + test[fitted]) / 2 if fitted < never else 2
    jump = next((i for i in looks if i >= fitted and test[i] >= half), never)
    done = next((i for i in looks if i >= jump and test[i] >= 0.99), never)
    names = ["memorisation", "circuit formation", "clean-up", "done"]
    return [names[(i >= fitted) + (i >= jump) + (i >= done)] for i in looks]


def mirror(train):
    return (~train & train.T).sum() / (~train).sum()


def mirror_by_loop(train):
    p = len(train)
    tested = [(a, b) for a in range(p) for b in range(p) if not train[a, b]]
    return sum(bool(train[b, a]) for a, b in tested) / len(tested)


def pattern(score_a, score_b, score_eq):
    p = len(score_a)
    to_eq = torch.as_tensor(score_eq).to(score_a).expand(p, p)
    scores = [score_a[:, None].expand(p, p), score_b[None, :].expand(p, p), to_eq]
    return torch.stack(scores, dim=-1).softmax(-1)


def pattern_by_loop(score_a, score_b, score_eq):
    out = torch.zeros(len(score_a), len(score_b), 3)
    for a, x in enumerate(score_a):
        for b, y in enumerate(score_b):
            weights = torch.stack([x, y, torch.tensor(float(score_eq))]).exp()
            out[a, b] = weights / weights.sum()
    return out


def coefficient(L, k):
    n = torch.arange(len(L)).double()
    wave = torch.cos(2 * torch.pi * k / len(L) * (n[:, None, None] + n[None, :, None] - n))
    centred = L.double() - L.double().mean(-1, keepdim=True)
    return (centred * wave).sum() / wave.square().sum()


def coefficient_by_lstsq(L, k):
    n = torch.arange(len(L)).double()
    wave = torch.cos(2 * torch.pi * k / len(L) * (n[:, None, None] + n[None, :, None] - n))
    return torch.linalg.lstsq(wave.reshape(-1, 1), L.double().reshape(-1, 1)).solution[0, 0]


def lead(steps, measure, loss, start):
    def halved(curve):
        low = [i for i in range(start, len(steps)) if curve[i] <= curve[start] / 2]
        return steps[low[0]] if low else steps[-1]

    return halved(loss) - halved(measure)


def lead_by_tensors(steps, measure, loss, start):
    at = []
    for curve in (measure, loss):
        late = torch.tensor(curve[start:])
        low = (late <= late[0] / 2).nonzero()
        at.append(steps[start + int(low[0, 0])] if len(low) else steps[-1])
    return torch.tensor(at[1] - at[0])


RIGHT = [
    (checks.check_identities, identities, identities_by_complex_numbers),
    (checks.check_key, key, key_by_waves),
    (checks.check_restricted, restricted, restricted_by_cross_entropy),
    (checks.check_phases, phases, phases_by_events),
    (checks.check_mirror, mirror, mirror_by_loop),
    (checks.check_pattern, pattern, pattern_by_loop),
    (checks.check_coefficient, coefficient, coefficient_by_lstsq),
    (checks.check_lead, lead, lead_by_tensors),
]


# -- wrong answers, and what they hear ---------------------------------------------------------------

WRONG = [
    (checks.check_identities, lambda a, b, c: a[0] + b[0] - c[0], "angles add, cosines do not"),
    (checks.check_identities, lambda a, b, c: identities(a, b, (c[0], -c[1])), "a \\+ b \\+ c"),
    (checks.check_identities, lambda a, b, c: a[0] * b[0] - a[1] * b[1], "c is not used"),
    (checks.check_key, lambda M: [k - 1 for k in key(M)], "counted from 0"),
    (checks.check_key, lambda M: checks.key(M, norms=lambda M: torch.fft.rfft(M).real.square().sum(0).sqrt()), "only cosines"),
    (checks.check_key, lambda M: checks.key(M, 0.5), "sixteenth of the power"),
    (checks.check_restricted, lambda L, D, y, t: checks.loss_on(L - D.T @ (D @ L), y, t), "excluded loss"),
    (checks.check_restricted, lambda L, D, y, t: checks.loss_on(D.T @ (D @ L), y, t), "constant is missing"),
    (checks.check_restricted, lambda L, D, y, t: restricted(L, D, y, ~t), "on training pairs"),
    (checks.check_phases, lambda a, b: checks.phases(a, b, half=lambda start: 0.5), "taken from 0"),
    (checks.check_phases, lambda a, b: ["memorisation"] * len(a), "never ends"),
    (checks.check_phases, lambda a, b: phases(b, a), "exchanged"),
    (checks.check_mirror, lambda t: (t & t.T).sum() / t.sum(), "training pairs with"),
    (checks.check_mirror, lambda t: t.double().mean(), "share of pairs that are trained on"),
    (checks.check_mirror, lambda t: (~t & t.T).double().mean(), "share is of all pairs"),
    (checks.check_pattern, lambda a, b, e: pattern(a, b, e).transpose(0, 1), "rows and columns"),
    (checks.check_pattern, lambda a, b, e: pattern(a, b, 0.0), "is 0 here"),
    (checks.check_pattern, lambda a, b, e: pattern(a, b, e)[..., [1, 0, 2]], "exchanged in the last axis"),
    (checks.check_coefficient, lambda L, k: (L * checks.wave_of(len(L), k)).sum() / L.numel(), "number of entries"),
    (checks.check_coefficient, lambda L, k: (L * checks.wave_of(len(L), k)).sum(), "not divided"),
    (checks.check_coefficient, lambda L, k: (L * checks.wave_of(len(L), k, 1)).sum() / checks.wave_of(len(L), k).square().sum(), "c is added"),
    (checks.check_lead, lambda s, m, x, t: -lead(s, m, x, t), "turned round"),
    (checks.check_lead, lambda s, m, x, t: checks.halved(s, x, t, of=max) - checks.halved(s, m, t, of=max), "largest value"),
    (checks.check_lead, lambda s, m, x, t: checks.halved(s, x, t), "measure is missing"),
]  # fmt: skip
