"""Toy models of superposition: features, models, closed forms, geometry.

>>> import torch
>>> from mi_course import superposition
>>> pentagon = superposition.polytope("pentagon")  # five directions in two dimensions
>>> superposition.feature_dimensionality(pentagon).round(decimals=2)  # 2/5 each
tensor([0.4000, 0.4000, 0.4000, 0.4000, 0.4000], dtype=torch.float64)
"""

from mi_course.superposition.closed_forms import antipodal_loss, crossover, ignored_loss
from mi_course.superposition.features import Features, Quadrature, importances
from mi_course.superposition.geometry import (
    REPRESENTED,
    components,
    cosines,
    cross_part_overlap,
    feature_dimensionality,
    feature_norms,
    features_per_dimension,
    features_per_neuron,
    largest_changes,
    monosemantic,
    on_list,
    optimal_attack,
    polytope,
    regular_polygon,
    represented,
    square_antiprism,
    tegum,
    tight_frame,
    top_share,
)
from mi_course.superposition.models import (
    MAX_BYTES,
    ToyConfig,
    ToyModels,
    WeightedError,
    affordable,
    checked,
    step_bytes,
    with_weights,
)
from mi_course.superposition.training import best_of, fitting, train
