"""Activation patching: put a part of one run into another, and see what becomes of the answer."""

from mi_course.patching.experiment import DIRECTIONS, ROWS, Experiment
from mi_course.patching.metrics import (
    METRICS,
    Answers,
    Logits,
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
from mi_course.patching.nodes import HEADS, SITES, UNITS, Node, checked_pos, chosen
from mi_course.patching.results import PatchResult
from mi_course.patching.runs import (
    Run,
    checked_run,
    noised_embeddings,
    readable,
    record,
    recorded_with,
    same_group,
)
