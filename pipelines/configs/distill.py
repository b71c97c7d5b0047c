"""Options of `eet distill`."""

from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.recipes import fill_groups


@dataclass(kw_only=True)
class DistillConfig(JobOptions):
    """Trains a student that prunes patches, with a teacher that does not.

    Attributes:
        out: Folder for the student's bundle, checkpoints, curves and measures.
        teacher: Bundle that `eet train-teacher` wrote: staged training with a frozen teacher. Without it both are trained together.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        resume: Continue an interrupted run in --out.
        data: Labelled images.
        student: The network.
        loss: The objective.
        train: The training.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet distill --data.root photos --out runs/model",
        "eet distill --data.root photos --teacher runs/teacher --student.bits 32 --out runs/small",
    )

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
