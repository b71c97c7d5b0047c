"""`eet distill`: a pruned student and its teacher, together (joint) or behind a teacher that is trained already (staged)."""

from dataclasses import dataclass, field

from eet.vit import load_bundle
from pipelines.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.training import LabelledImages, TrainingResult, new_network, read_labelled_images, run_training, target_codes_of
from pipelines.training_worker import TrainingPlan


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

    out: str
    teacher: str | None = None
    weights: str = "timm"
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    train: TrainOptions = field(default_factory=TrainOptions)


def run(config: DistillConfig) -> TrainingResult:
    """Trains, and writes the bundle that `--model` takes into config.out."""
    images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
    return run_training(config, plan_of(config, images), images, title="distill")


def plan_of(config: DistillConfig, images: LabelledImages) -> TrainingPlan:
    """Networks, codes and images of the run. Heads of student and teacher are drawn apart, as published."""
    num_classes = images.train.num_labels
    student = new_network(config.student, num_classes=num_classes, weights=config.weights, seed=config.seed, pruned=True)
    codes = target_codes_of(images.train, num_bits=config.student.bits, seed=config.seed)
    if config.teacher is None:
        teacher = new_network(config.student, num_classes=num_classes, weights=config.weights, seed=config.seed, pruned=False)
        teacher.reset_heads(_generator(config.seed + 1))
    else:
        teacher = load_bundle(config.teacher)
        if teacher.num_classes != num_classes:
            raise ValueError(
                f"--teacher {config.teacher} knows {teacher.num_classes} labels, the dataset has {num_classes}: train one on this dataset"
            )
    return TrainingPlan(
        networks={"student": student, "teacher": teacher},
        joint=config.teacher is None,
        train=images.train,
        val=images.val,
        test=images.test,
        target_codes_Cb=codes,
        loss=config.loss,
        options=config.train,
        seed=config.seed,
        threads=0,
        board=None,
    )


def _generator(seed: int):  # type: ignore[no-untyped-def]  # torch.Generator, imported late
    import torch

    return torch.Generator().manual_seed(seed)
