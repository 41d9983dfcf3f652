"""Activation patching: put a part of one run into another, and see what becomes of the answer.

>>> import torch
>>> from mi_course import models, patching
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=2, n_heads=2, d_vocab=24))
>>> clean, corrupted = torch.tensor([[1, 2, 3, 1]]), torch.tensor([[1, 4, 3, 1]])
>>> experiment = patching.Experiment(model, clean, corrupted, right=[2], wrong=[4])
>>> experiment.sweep("z", positions="all")
PatchResult(z: denoising, logit_diff, layer 2 × head 2)
>>> round(float(experiment.patch(patching.Node("resid_pre", 0))), 3)  # all of layer 0's input
1.0
"""

from mi_course.patching.direct import DirectAttribution, direct_attribution
from mi_course.patching.experiment import ROWS, Experiment
from mi_course.patching.intervals import bootstrap
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
from mi_course.patching.pair import DIRECTIONS
from mi_course.patching.results import PatchResult
from mi_course.patching.runs import (
    Run,
    checked_run,
    noised_embeddings,
    readable,
    record,
    record_some,
    recorded_with,
    same_group,
)
