"""What a patch is measured with: functions of the logits, one number a prompt.

Derived in notebook 06; their traps after Heimersheim & Nanda (2024).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from mi_course.errors import CourseError

Logits = Float[Tensor, "*rest batch d_vocab"]
Score = Float[Tensor, "*rest batch"]
Answers = Int[Tensor, "batch"]


def of_token(logits: Logits, token: Answers) -> Score:
    """Each prompt's entry in `logits` at its own `token`."""
    return logits.gather(-1, token.expand(logits.shape[:-1])[..., None])[..., 0]


def logit_diff(logits: Logits, right: Answers, wrong: Answers) -> Score:
    """Logit of the right answer less that of the wrong one; linear in the last residual stream up to its norm.

    `logits` are those at the prompts' answers, `right` and `wrong` one token id for each prompt.
    """
    return of_token(logits, right) - of_token(logits, wrong)


def log_prob(logits: Logits, right: Answers) -> Score:
    """log p(right) in nats; it saturates near 0, and cannot tell promoting `right` from holding others down.

    `logits` are those at the prompts' answers, `right` one token id for each prompt.
    """
    return of_token(logits.log_softmax(-1), right)


def prob(logits: Logits, right: Answers) -> Score:
    """p(right): exponential in the logits, blind near 0 and 1."""
    return log_prob(logits, right).exp()


def accuracy(logits: Logits, right: Answers) -> Score:
    """1 where the largest logit is the right answer's; the first of equal ones counts as the largest.

    `logits` are those at the prompts' answers, `right` one token id for each prompt.
    """
    return (logits.argmax(-1) == right).to(logits.dtype)


def rank(logits: Logits, right: Answers) -> Score:
    """How many tokens stand above the right answer, 0 at the top; an equal one counts half.

    `logits` are those at the prompts' answers, `right` one token id for each prompt.
    """
    own = of_token(logits, right)[..., None]
    return ((logits > own).sum(-1) + ((logits == own).sum(-1) - 1) / 2).to(logits.dtype)


def kl(logits: Logits, reference: Float[Tensor, "batch d_vocab"]) -> Score:
    """KL(reference ‖ patched) in nats over the whole vocabulary: 0 where the reference run is restored.

    `logits` are the patched ones, `reference` those of the run they are held against.
    """
    p, q = reference.log_softmax(-1), logits.log_softmax(-1)
    return (p.exp() * (p - q)).nan_to_num(nan=0.0).sum(-1)


METRICS = {
    "logit_diff": logit_diff, "log_prob": log_prob, "prob": prob, "accuracy": accuracy, "rank": rank, "kl": kl,
}  # fmt: skip


def normalised(score, corrupted: float | int, clean: float | int):
    """(score − corrupted) / (clean − corrupted): 0 at the corrupted run, 1 at the clean one."""
    if clean == corrupted:
        raise CourseError(
            f"Clean and corrupted score the same ({clean:.4g}): there is no distance to measure an effect in."
        )
    return (score - corrupted) / (clean - corrupted)
