"""`eet train-teacher`: an unpruned teacher alone, for staged distillation."""

from dataclasses import dataclass, field
from typing import Literal

from eet.training import HashingTask, LabelledImages
from eet.vit import DEFAULT_LABEL_WEIGHT, HashInput
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, StudentOptions, TrainOptions
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
class TeacherOptions:
    """The teacher's network.

    Attributes:
        backbone: Any timm ViT with a CLS token: deit_*, vit_*. It may be larger than the student; patch and image size must be the same.
        backbone_options: Further arguments of timm's constructor.
        bits: Length of the hash code, the same as the student's.
        hash_input, label_weight, target_codes: See `eet distill --help`.
        image_size: Side of the input in pixels; default the backbone's own.
    """

    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, object] = field(default_factory=dict)
    bits: int = 64
    hash_input: HashInput | None = None
    label_weight: float = DEFAULT_LABEL_WEIGHT
    target_codes: Literal["separated", "published"] | None = None
    image_size: int | None = None

    def as_student(self) -> StudentOptions:
        """The same network without a pruning stage."""
        return StudentOptions(
            backbone=self.backbone,
            backbone_options=self.backbone_options,
            bits=self.bits,
            hash_input=self.hash_input,
            label_weight=self.label_weight,
            target_codes=self.target_codes,
            keep_ratios=(),
            image_size=self.image_size,
        )

    def problems(self) -> list[str]:
        return self.as_student().problems()


@dataclass(kw_only=True)
class TrainTeacherConfig(JobOptions):
    """Trains an unpruned ViT to hash.

    Attributes:
        out: Folder for the teacher's bundle, checkpoints, curves and measures.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        resume: Continue a run in --out that was cut off.
        data: Labelled images.
        student: The network; a teacher has no pruning stages.
        train: The training.
    """

    out: str = field(metadata=LOCATION)
    weights: str = field(default="timm", metadata=WEIGHTS)
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    student: TeacherOptions = field(default_factory=TeacherOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        fill_groups(self, "student")

    def problems(self) -> list[str]:
        return super().problems() + self.local_only("out", "weights")


def run(config: TrainTeacherConfig) -> TrainingResult:
    """Trains, and writes the bundle that `--teacher` takes into config.out."""
    check_output(config)
    images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
    return run_training(config, task_of(config, images), images, title="train-teacher")


def task_of(config: TrainTeacherConfig, images: LabelledImages) -> HashingTask:
    """Network, codes and images of the run."""
    network = config.student.as_student()
    return HashingTask(
        networks={
            "teacher": new_network(network, num_classes=images.train.num_labels, weights=config.weights, seed=config.seed, pruned=False)
        },
        joint=True,
        train=images.train,
        val=images.val,
        test=images.test,
        unseen=images.unseen,
        target_codes_Cb=target_codes_of(images.train, network, seed=config.seed),
        probe=bool(config.train.probe),
        seed=config.seed,
    )
