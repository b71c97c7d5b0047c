"""Options of `eet train-teacher`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eet.options.choices import Fit, HashInput
from eet.options.defaults import DEFAULT_LABEL_WEIGHT
from eet.options.image_size import ImageSize
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, StudentOptions, TrainOptions
from pipelines.job.recipes import fill_groups


@dataclass(kw_only=True)
class TeacherOptions:
    """The teacher's network.

    Attributes:
        backbone: Any timm ViT of one resolution: deit_*, vit_*, eva02_*. It may be larger than the student; patch and image size must be
            the same.
        backbone_options: Further arguments of timm's constructor.
        bits: Length of the hash code, the same as the student's.
        hash_input, label_weight, target_codes: See `eet distill --help`.
        image_size: Side of the input in pixels, or height and width such as '[480,640]'; default the backbone's own.
        fit: See `eet distill --help`; the same as the student's.
    """

    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, object] = field(default_factory=dict)
    bits: int = 64
    hash_input: HashInput | None = None
    label_weight: float = DEFAULT_LABEL_WEIGHT
    target_codes: Literal["separated", "published"] | None = None
    image_size: ImageSize | None = None
    fit: Fit = "crop"

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
            fit=self.fit,
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

    examples: ClassVar[tuple[str, ...]] = ("eet train-teacher --data.root photos --out runs/teacher",)

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
