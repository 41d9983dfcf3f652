"""Classic explanations: credit for the inputs of one prediction, beside networks whose mechanism is known.

>>> from mi_course import explanations
>>> network = explanations.random_network(seed=0)
>>> background = network.data(64)
>>> values = explanations.exact_shapley(network, network.instance, background)
>>> gap = network(network.instance[None])[0] - network(background).mean()
>>> abs(float(values.sum() - gap)) < 1e-9
True
>>> explanations.grades(network, values)["additive"]
'right'
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
