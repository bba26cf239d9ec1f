"""Teaching a network: the loop, its schedules, its checkpoints, and how good the result is."""

from d2lcls.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from d2lcls.training.evaluation import Evaluation, evaluate, evaluate_classes, predict, softmax
from d2lcls.training.loop import Epoch, TrainingDiverged, fit
from d2lcls.training.losses import cross_entropy, focal
from d2lcls.training.range_test import lr_range_test
from d2lcls.training.schedules import SCHEDULES, constant, cosine, exponential, linear, step
from d2lcls.training.steps import make_trainer, train_step

__all__ = [
    "CheckpointError", "Epoch", "Evaluation", "SCHEDULES", "TrainingDiverged", "constant", "cosine",
    "cross_entropy", "evaluate", "evaluate_classes", "exponential", "fit", "focal", "linear",
    "load_checkpoint", "lr_range_test", "make_trainer", "predict", "save_checkpoint", "softmax", "step", "train_step",
]
