"""Grokking: a network that memorises arithmetic modulo p, then finds its trigonometry.

>>> from mi_course import grokking
>>> task = grokking.Task(p=113)
>>> logits = grokking.trigonometric_logits(113, [14, 35, 41, 42, 52])
>>> right = (logits.argmax(1) == task.answers).all()
>>> bool(right), round(grokking.margin(logits, task.answers), 2)
(True, 2.41)
>>> run = grokking.shipped("grokking")
>>> run.grokked
True
"""

from mi_course.grokking.by_hand import margin, trigonometric_logits
from mi_course.grokking.fourier import (
    KEY,
    PARTS,
    component,
    constant,
    cosine_fit,
    directions,
    fourier_basis,
    frequency_norms,
    gini,
    key_frequencies,
    neuron_shares,
    power_in,
)
from mi_course.grokking.network import (
    Weights,
    head_tables,
    logits_of,
    model_of,
    network,
    neurons,
    weights_of,
)
from mi_course.grokking.progress import (
    Phases,
    excluded_loss,
    fastest_fall,
    halved,
    lead,
    measures,
    other_frequencies,
    phases,
    restricted_loss,
    rise,
)
from mi_course.grokking.runs import DidNotGrok, Run, look, nll, seen, setting, shipped, train
from mi_course.grokking.sweep import PHASES, Small, Sweep, grid, shipped_sweep, sweep
from mi_course.grokking.task import OPERATIONS, Task
