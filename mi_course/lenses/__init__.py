"""Lenses: what a model is about to say, read from its stream, layer by layer.

>>> import torch
>>> from mi_course import lenses, models
>>> shape = models.TinyConfig(n_layers=2, d_model=16, d_vocab=24, norm="rmsnorm")
>>> model = models.TinyTransformer(shape).eval()
>>> tokens = torch.randint(24, (4, 10), generator=torch.Generator().manual_seed(0))
>>> last = lenses.logit_lens().read(model, tokens)[2]  # of the last stream: the logits
>>> bool(torch.allclose(last, model(tokens)))
True
>>> lens = lenses.jacobian_lens(model, tokens, skip=2)
>>> lens, bool(torch.allclose(lens.weights[2], torch.eye(16)))
(Lens(Jacobian lens: layers 0, 1, 2), True)
"""

from mi_course.lenses.hidden_step import (
    ASKED,
    IS,
    PAIR,
    STOP,
    HiddenStep,
    hidden_step_config,
    hidden_step_model,
    narrowed,
)
from mi_course.lenses.jacobian import SKIP, coarse_backward, from_sums, jacobian_lens, jacobians
from mi_course.lenses.lens import Lens, load_lens, logit_lens, random_like
from mi_course.lenses.scores import Exits, early_exits, settled_at, threshold_for
from mi_course.lenses.streams import fingerprint, hook_of, streams, unembed
from mi_course.lenses.text import windows
from mi_course.lenses.translators import ridge_translators, train_translators
