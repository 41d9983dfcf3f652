"""Activation patching: put a part of one run into another, and see what becomes of the answer."""

from mi_course.patching.experiment import DIRECTIONS, HEADS, ROWS, SITES, UNITS, Experiment
from mi_course.patching.results import (
    METRICS,
    Answers,
    Logits,
    Node,
    PatchResult,
    Score,
    accuracy,
    kl,
    log_prob,
    logit_diff,
    normalised,
    of_token,
    prob,
    rank,
)
from mi_course.patching.runs import (
    Run,
    checked_pos,
    checked_run,
    chosen,
    noised_embeddings,
    readable,
    record,
    recorded_with,
    same_group,
)
