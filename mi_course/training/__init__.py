"""The one training loop: how to train, the loop, its optimisers, what happened, and the file to go on from.

>>> from mi_course import corpora, models, training
>>> model = models.TinyTransformer(models.TinyConfig(n_layers=1, d_vocab=24))
>>> batches = lambda step: corpora.repeated_tokens(24, batch=8, period=5, seed=step)
>>> history = training.fit(model, batches, training.TrainConfig(steps=3), progress=False)
>>> len(history.loss)
3
"""

from mi_course.training.checkpoints import Checkpoint, history_of, resume, save_state
from mi_course.training.config import OPTIMIZERS, TrainConfig
from mi_course.training.history import History, TrainingDiverged
from mi_course.training.loop import Callback, Copies, Evaluation, Run, Snapshots, as_batch, fit
from mi_course.training.lora import LowRank, Updates, add_update, low_rank, updated
from mi_course.training.optimizers import Muon, as_matrix, by_rate, from_matrix, optimizers, orthogonalised
from mi_course.training.watching import between_steps, in_a_log, progress_bar, quiet, say
