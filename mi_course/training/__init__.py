"""The one training loop: how to train, the loop, its optimisers, what happened, and the file to go on from."""

from mi_course.training.checkpoints import Checkpoint, resume, save_state
from mi_course.training.config import OPTIMIZERS, TrainConfig
from mi_course.training.history import History, TrainingDiverged
from mi_course.training.loop import Callback, Evaluation, Run, Snapshots, as_batch, fit, kind_of
from mi_course.training.optimizers import Muon, as_matrix, by_rate, from_matrix, optimizers, orthogonalised
from mi_course.training.watching import between_steps, in_a_log, progress_bar, quiet, say
