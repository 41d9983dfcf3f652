"""Probing and erasing: what can be read from activations, what is used, and what is left when it is gone.

>>> import torch
>>> from mi_course import probing
>>> x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
>>> z = x[:, 0] + 0.3 * x[:, 1] > 0
>>> probe = probing.logistic_probe(x[:1000], z[:1000])
>>> probe.accuracy(x[1000:], z[1000:]) > 0.95
True
>>> erase = probing.leace(x, z)
>>> erase.rank, bool(probing.cross_covariance(erase(x), z).abs().max() < 1e-6)
(1, True)
>>> probing.logistic_probe(erase(x), z).accuracy(erase(x), z) < 0.52
True
"""

from mi_course.probing.adverts import COLUMNS, INTERESTS, Adverts, Users, group_gap
from mi_course.probing.concepts import ConceptTest, concept_test, concept_vector, tcav_score
from mi_course.probing.erasure import (
    Erasure,
    change,
    covariance,
    cross_covariance,
    inlp,
    leace,
    mean_projection,
    oracle_erase,
    random_projection,
)
from mi_course.probing.probes import (
    NonlinearProbe,
    Probe,
    auc,
    balanced,
    control_labels,
    difference_of_means,
    logistic_probe,
    mean_probe,
    mlp_probe,
    precision_at,
)
from mi_course.probing.splits import held_out, inside_text
from mi_course.probing.turns import Games, play
