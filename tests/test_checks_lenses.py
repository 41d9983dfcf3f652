"""Every check of notebook 11: the solution and another right answer pass, wrong ones hear what went wrong."""

import torch
import torch.nn.functional as F

from mi_course.checks import lenses as checks
from tests.answers import *  # noqa: F403 — the tests themselves, over RIGHT and WRONG below

# -- right answers: the notebook's, and another one ---------------------------------------------------


def lens(stream, w, W_U, eps):
    return stream / (stream.square().mean(-1, keepdim=True) + eps).sqrt() * w @ W_U


def lens_by_rms_norm(stream, w, W_U, eps):
    return F.rms_norm(stream, w.shape, w, eps) @ W_U


def kl(final, lens):
    p, q = final.log_softmax(-1), lens.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def kl_by_torch(final, lens):
    return F.kl_div(lens.log_softmax(-1), final.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def frozen(parts, w, direction, eps):
    return parts @ (w * direction) / (parts.sum(0).square().mean() + eps).sqrt()


def frozen_by_loop(parts, w, direction, eps):
    total = sum(parts)
    scale = (sum(float(v) ** 2 for v in total) / len(total) + eps) ** 0.5
    return [float((part * w * direction).sum()) / scale for part in parts]


def jacobian(x, A, B):
    return torch.eye(len(x)) + (A * (x @ A > 0).float() @ B).T


def jacobian_by_autograd(x, A, B):
    with torch.enable_grad():
        return torch.autograd.functional.jacobian(lambda v: v + (v @ A).relu() @ B, x)


def left_over(slopes, x, baseline, f_x, f_baseline):
    return ((x - baseline) * slopes.mean(0)).sum() - (f_x - f_baseline)


def left_over_by_steps(slopes, x, baseline, f_x, f_baseline):
    walked = sum(float(slope @ (x - baseline)) for slope in slopes) / len(slopes)
    return walked + f_baseline - f_x


def key_effect(scores, key, new, slopes):
    changed = scores.clone()
    changed[key] = new
    return ((changed.softmax(-1) - scores.softmax(-1)) * slopes).sum()


def key_effect_by_where(scores, key, new, slopes):
    changed = torch.where(torch.arange(len(scores)) == key, torch.tensor(new), scores)
    return float(changed.softmax(-1) @ slopes) - float(scores.softmax(-1) @ slopes)


def leave(choices, sure, threshold, final):
    ready = torch.cat([sure >= threshold, torch.ones(1, len(final), dtype=torch.bool)])
    layer = ready.int().argmax(0)
    said = torch.cat([choices, final[None]]).gather(0, layer[None])[0]
    return (len(choices) - layer).float().mean() / len(choices), (said == final).float().mean()


def leave_by_loop(choices, sure, threshold, final):
    n, saved, kept = len(choices), 0, 0
    for row in range(len(final)):
        at = next((k for k in range(n) if sure[k, row] >= threshold), n)
        saved += (n - at) / n
        kept += int(final[row] == (choices[at, row] if at < n else final[row]))
    return [saved / len(final), kept / len(final)]


def suspects(scores, controls, chance):
    return {k for k in scores if scores[k] > chance + 0.1 and controls[k] >= scores[k] - 0.1}


def suspects_listed(scores, controls, chance):
    return [k for k, v in scores.items() if v - chance > 0.1 and v - controls[k] <= 0.1]


RIGHT = [
    (checks.check_logit_lens, lens, lens_by_rms_norm),
    (checks.check_kl, kl, kl_by_torch),
    (checks.check_frozen, frozen, frozen_by_loop),
    (checks.check_jacobian, jacobian, jacobian_by_autograd),
    (checks.check_completeness, left_over, left_over_by_steps),
    (checks.check_qk_fix, key_effect, key_effect_by_where),
    (checks.check_exits, leave, leave_by_loop),
    (checks.check_suspects, suspects, suspects_listed),
]


# -- wrong answers, and what they hear ---------------------------------------------------------------

WRONG = [
    (checks.check_logit_lens, lambda x, w, U, e: x @ U, "norm is left out"),
    (checks.check_logit_lens, lambda x, w, U, e: x / x.norm(dim=-1, keepdim=True) * w @ U, "root of the mean square"),
    (checks.check_logit_lens, lambda x, w, U, e: lens(x, w, U, e).softmax(-1), "gives logits"),
    (checks.check_kl, lambda f, g: kl(g, f), "exchanged"),
    (checks.check_kl, lambda f, g: -(f.softmax(-1) * g.log_softmax(-1)).sum(-1), "cross-entropy"),
    (checks.check_kl, lambda f, g: kl(f, g).mean(), "one number for each"),
    (checks.check_frozen, lambda p, w, u, e: p / (p.square().mean(-1, keepdim=True) + e).sqrt() * w @ u, "its own scale"),
    (checks.check_frozen, lambda p, w, u, e: p @ (w * u), "scale is left out"),
    (checks.check_frozen, lambda p, w, u, e: frozen(p, w, u, e).sum(), "only the total"),
    (checks.check_jacobian, lambda x, A, B: (A * (x @ A > 0).float() @ B).T, "identity, is left out"),
    (checks.check_jacobian, lambda x, A, B: torch.eye(len(x)) + (A @ B).T, "counts as on"),
    (checks.check_jacobian, lambda x, A, B: jacobian(x, A, B).T, "turn it over"),
    (checks.check_completeness, lambda g, x, b, f, f0: (x * g.mean(0)).sum() - (f - f0), "taken for 0"),
    (checks.check_completeness, lambda g, x, b, f, f0: ((x - b) * g.mean(0)).sum() - f, "f.baseline. is missing"),
    (checks.check_completeness, lambda g, x, b, f, f0: ((x - b) * g.mean(0)).sum(), "what do they miss"),
    (checks.check_qk_fix, lambda s, k, new, g: (new - s[k]) * s.softmax(-1)[k] * (g[k] - s.softmax(-1) @ g), "tangent"),
    (checks.check_qk_fix, lambda s, k, new, g: -key_effect(s, k, new, g), "Old less new|old less new"),
    (checks.check_qk_fix, lambda s, k, new, g: (new - s[k]) * g[k], "scores are compared"),
    (checks.check_exits, lambda c, s, t, f: leave(c, s, t, f)[::-1], "exchanged"),
    (checks.check_exits, lambda c, s, t, f: leave(c, s - 1e-6, t, f), "above the threshold only"),
    (checks.check_exits, lambda c, s, t, f: (leave(c, s, t, f)[0] * len(c), leave(c, s, t, f)[1]), "not their share"),
    (checks.check_suspects, lambda s, c, chance: {k for k in s if c[k] >= s[k] - 0.1}, "at chance reads nothing"),
    (checks.check_suspects, lambda s, c, chance: set(s), "every lens is named"),
    (checks.check_suspects, lambda s, c, chance: {k for k in s if s[k] > chance + 0.1 and c[k] < s[k] - 0.1}, "honest ones"),
]  # fmt: skip
