"""Induction heads: scores, circuits by hand, composition, trained models taken apart.

>>> from mi_course import induction
>>> model = induction.k_composition_circuit()
>>> scores = induction.head_scores(model, period=5, copies=2)["prefix"]
>>> scores.round(decimals=2)
tensor([[0.0000],
        [0.8800]])
"""

from mi_course.induction.by_hand import (
    REST,
    blank,
    copy_and_rest,
    distinct_repeats,
    k_composition_circuit,
    q_composition_circuit,
    rest_on_start,
    stretches,
    two_back_circuit,
)
from mi_course.induction.composition import (
    composition_scores,
    copying_scores,
    cut_composition,
    known_composition,
    overlap,
    random_composition_scores,
)
from mi_course.induction.scores import (
    START,
    head_scores,
    icl_score,
    icl_scores,
    icl_windows,
    losses_by_position,
    patterns,
    prefix_matching_scores,
    previous_token_scores,
)
from mi_course.induction.trained import (
    Heads,
    attended,
    bend,
    freeze,
    labels,
    logits_by_order,
    losses_without,
    previous_token_term,
    rise_window,
    silence,
    smoothed,
    snapshots,
    training_log,
    turning_angles,
    window_overlap,
)
