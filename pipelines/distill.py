"""`eet distill`: a pruned student and its teacher, together (joint) or behind a teacher that is trained already (staged)."""

from dataclasses import dataclass, field

import numpy as np
import torch

from eet.errors import InputError
from eet.training import HashingTask, LabelledImages
from eet.vit import Student, load_bundle, read_bundle_record
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.recipes import fill_groups
from pipelines.training.run import (
    TrainingResult,
    check_output,
    new_network,
    read_labelled_images,
    run_training,
    target_codes_of,
)


@dataclass(kw_only=True)
class DistillConfig(JobOptions):
    """Trains a student that prunes, taught by one that does not.

    Attributes:
        out: Folder for the student's bundle, checkpoints, curves and measures.
        teacher: Bundle that `eet train-teacher` wrote: staged training, the teacher frozen. Without it both learn together.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        resume: Continue a run in --out that was cut off.
        data: Labelled images.
        student: The network.
        loss: The objective.
        train: The training.
    """

    out: str = field(metadata=LOCATION)
    teacher: str | None = field(default=None, metadata=LOCATION)
    weights: str = field(default="timm", metadata=WEIGHTS)
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        fill_groups(self, "student", "loss")

    def problems(self) -> list[str]:
        return super().problems() + self.local_only("out", "teacher", "weights")


def run(config: DistillConfig) -> TrainingResult:
    """Trains, and writes the bundle that `--model` takes into config.out."""
    check_output(config)
    images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
    return run_training(config, task_of(config, images), images, title="distill")


def task_of(config: DistillConfig, images: LabelledImages) -> HashingTask:
    """Networks, codes and images of the run. Heads of student and teacher are drawn apart, as published."""
    assert config.loss.beta is not None  # a recipe has filled it
    num_classes = images.train.num_labels
    student = new_network(config.student, num_classes=num_classes, weights=config.weights, seed=config.seed, pruned=True)
    if config.teacher is None:
        codes = target_codes_of(images.train, config.student, seed=config.seed)
        teacher = new_network(config.student, num_classes=num_classes, weights=config.weights, seed=config.seed, pruned=False)
        teacher.reset_heads(torch.Generator().manual_seed(config.seed + 1))
    else:
        teacher, codes = trained_teacher(config.teacher, images.train.label_names, student)
    return HashingTask(
        networks={"student": student, "teacher": teacher},
        joint=config.teacher is None,
        train=images.train,
        val=images.val,
        test=images.test,
        unseen=images.unseen,
        target_codes_Cb=codes,
        probe=bool(config.train.probe),
        seed=config.seed,
        beta=config.loss.beta,
        sigma=config.loss.sigma,
        masked_patches=config.loss.masked_patches,
    )


def trained_teacher(path: str, label_names: tuple[str, ...], student: Student) -> tuple[Student, np.ndarray]:
    """A frozen teacher and the target codes it learned, which are the student's too.

    ValueError where it prunes, learned other labels, or wants its input normalised otherwise than the student.
    """
    teacher, record = load_bundle(path), read_bundle_record(path)
    if teacher.schedule.prune_after:
        raise InputError(f"--teacher {path} prunes, so it is a student; a joint run keeps its teacher in {path}/teacher")
    if record.target_codes is None or record.label_names != label_names:
        raise InputError(f"--teacher {path} learned other labels than this dataset's {len(label_names)}: train one on this dataset")
    ours, theirs = student.preprocessing, teacher.preprocessing
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        raise InputError(
            f"--teacher {path} takes images normalised by mean {theirs.mean} and std {theirs.std}, the student by {ours.mean} and "
            f"{ours.std}: both see the same images, so choose backbones of one normalisation"
        )
    return teacher, record.target_codes
