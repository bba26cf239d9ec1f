"""Teaching a network: the loop, its schedules, its checkpoints, and how good the result is."""

from d2lcls.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from d2lcls.training.evaluation import Evaluation, evaluate, predict, softmax
from d2lcls.training.loop import Epoch, TrainingDiverged, fit
from d2lcls.training.schedules import SCHEDULES, constant, cosine, exponential, step
from d2lcls.training.steps import make_trainer, train_step

__all__ = [
    "CheckpointError", "Epoch", "Evaluation", "SCHEDULES", "TrainingDiverged", "constant", "cosine",
    "evaluate", "exponential", "fit", "load_checkpoint", "make_trainer", "predict", "save_checkpoint", "softmax",
    "step", "train_step",
]
