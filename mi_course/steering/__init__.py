"""Steering: directions out of contrasts, what is done with them to a running model or its weights, and what that costs.

>>> import torch
>>> from mi_course import models, steering
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=2, d_vocab=20, d_mlp=64)).eval()
>>> prompts, loud = torch.arange(40).reshape(8, 5) % 17, torch.arange(8) < 4
>>> x = steering.activations(model, prompts, layers=[1])[1]
>>> found = steering.direction(x, loud, 1, model)
>>> with steering.steered(model, [steering.Add(found, coefficient=2.0)]):
...     moved = model(prompts)
>>> bool((moved[:, 0] == model(prompts)[:, 0]).all()), bool((moved == model(prompts)).all())
(True, False)
"""

from mi_course.steering.directions import Direction, activations, direction, shuffled
from mi_course.steering.doses import Point, best_rate, gain_over, rising_steps, working_window
from mi_course.steering.edits import Ablate, Add, Cap, Edit, Where, steered, unit, without, writes
from mi_course.steering.generating import generate, left_padded, mean_loss, texts
from mi_course.steering.scores import (
    BEHAVIOURS,
    about_the_sea,
    distinct,
    exclaims,
    in_capitals,
    in_french,
    is_positive,
    occurrences,
    refuses,
    refuses_strictly,
    share,
    words,
)
from mi_course.steering.weights import orthogonalised, writers
