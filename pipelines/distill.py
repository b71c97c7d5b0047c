"""`eet distill`: trains a pruned student, together with its teacher (joint) or with a teacher that is already trained (staged)."""

import numpy as np
import torch

from eet.errors import InputError
from eet.training import HashingTask, LabelledImages
from eet.vit import Student, load_bundle, read_bundle_record
from pipelines.configs.distill import DistillConfig
from pipelines.job.held_output import held_output
from pipelines.training.run import (
    TrainingResult,
    finished_training,
    new_network,
    read_labelled_images,
    run_training,
    target_codes_of,
)


def run(config: DistillConfig) -> TrainingResult:
    """Trains the student, and writes its bundle, which is the --model of other jobs, to config.out."""
    with held_output(config) as claim:
        if (finished := finished_training(config)) is not None:
            return finished
        images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
        return run_training(config, task_of(config, images), images, title="distill", claim=claim)


def task_of(config: DistillConfig, images: LabelledImages) -> HashingTask:
    """The task of the run. The heads of student and teacher get different random weights, as published."""
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
    """Loads a teacher for staged training.

    Args:
        path: its bundle.
        label_names: of the training labels.
        student: the network that it will teach.

    Returns:
        The teacher, and its target codes, int8 (C, b) in {-1, +1}, which the student gets too.

    Raises:
        InputError: the teacher prunes, was trained on other labels, or its input is normalised differently from that of the student.
    """
    teacher, record = load_bundle(path), read_bundle_record(path)
    if teacher.schedule.prune_after:
        raise InputError(f"--teacher {path} prunes, so it is a student; a joint run keeps its teacher in {path}/teacher")
    if record.target_codes is None or record.label_names != label_names:
        raise InputError(f"--teacher {path} was not trained on the {len(label_names)} labels of this dataset: train one on this dataset")
    own, other = student.preprocessing, teacher.preprocessing
    if (own.mean, own.std) != (other.mean, other.std):
        raise InputError(
            f"--teacher {path} needs images normalised with mean {other.mean} and std {other.std}, the student with {own.mean} and "
            f"{own.std}: both get the same images, so choose backbones with the same normalisation"
        )
    if own.fit != other.fit:
        raise InputError(f"--teacher {path} sees images that are fitted by {other.fit}: give the student --student.fit {other.fit}")
    return teacher, record.target_codes
