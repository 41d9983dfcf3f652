"""Classic explanations: credit for the inputs of one prediction, beside networks whose mechanism is known.

>>> import torch
>>> from mi_course import explanations
>>> def model(x):  # an AND of the first two of three features
...     return x[:, 0] * x[:, 1]
>>> x, background = torch.ones(3), torch.zeros(1, 3)
>>> explanations.exact_shapley(model, x, background).tolist()
[0.5, 0.5, 0.0]
>>> explanations.gradient_times_input(model, x).tolist()
[1.0, 1.0, 0.0]
"""

from mi_course.explanations.attention import (
    AttentionClassifier,
    GuidedWords,
    PooledReaders,
    adversarial_attention,
    jensen_shannon,
    leave_one_out,
    logit_gradients,
)
from mi_course.explanations.gradients import gradient_times_input, integrated_gradients
from mi_course.explanations.importance import Importance, permutation_importance
from mi_course.explanations.planted import (
    GRADES,
    HOW,
    KINDS,
    Mechanism,
    PlantedNetwork,
    grades,
    how,
    patched_inputs,
    random_network,
    wilson,
)
from mi_course.explanations.shapley import (
    Estimate,
    coalition_values,
    coalitions,
    conditional_values,
    exact_shapley,
    sampled_shapley,
    shapley_of,
)
from mi_course.explanations.surrogates import (
    Surrogate,
    kernel,
    lime,
    rank_of_change,
    weighted_fit,
    weighted_r_squared,
)
