"""Indirect object identification: who was not said twice.

>>> from mi_course import ioi
>>> model, said = ioi.by_values(), ioi.sentences(50, seed=1)
>>> answers = model(said.tokens)[:, -1].argmax(-1)
>>> bool((answers == said.io).all())
True
"""

from mi_course.ioi.by_hand import (
    Sentences,
    by_keys,
    by_queries,
    by_values,
    gated_spare,
    one_layer,
    sentences,
)
from mi_course.ioi.circuits import Knockout, greedy, minimality, random_circuits
from mi_course.ioi.edges import all_edges, run_edges
from mi_course.ioi.heads import (
    BOUNDS,
    CLASSES,
    Copying,
    attention,
    attention_write_correlation,
    copy_scores,
    roles,
    writes_along,
)
from mi_course.ioi.held import held_at_end
from mi_course.ioi.prompts import ROLES, Prompts, Task
