"""Training without Ray: the task (what is trained), the settings (how), and the loop."""

from eet.training.fit import Diverged, Fitted, StepReport, fit, optimizer_of
from eet.training.hashing import HashingTask
from eet.training.labelled_images import LabelledImages, labelled_images
from eet.training.metric_learning import MetricLearningTask
from eet.training.mined_groups import Mining
from eet.training.places import PlaceTask, place_images
from eet.training.settings import CPU_MICRO_BATCH, FitSettings, learning_rate_factor
from eet.training.task import TrainingTask

__all__ = [
    "CPU_MICRO_BATCH",
    "Diverged",
    "FitSettings",
    "Fitted",
    "HashingTask",
    "LabelledImages",
    "MetricLearningTask",
    "Mining",
    "PlaceTask",
    "StepReport",
    "TrainingTask",
    "fit",
    "labelled_images",
    "learning_rate_factor",
    "optimizer_of",
    "place_images",
]
