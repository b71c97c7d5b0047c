"""Options of `eet sweep`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from pipelines.configs.distill import DistillConfig
from pipelines.configs.space import with_parameters
from pipelines.configs.sweep_options import SweepOptions
from pipelines.job.location import LOCATION, WEIGHTS, with_absolute_locations
from pipelines.job.options import DataOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.recipes import fill_groups

Cost = Literal["gmacs", "latency_ms", "code_bytes", "row_bytes"]
"""A cost of a model."""


@dataclass(kw_only=True)
class SweepConfig(SweepOptions):
    """Trains a student for each point of a search space, as `eet distill` does, and chooses the best.

    Options outside the space come from the flags. Trials are compared by validation mAP; the test split is measured once, at the end.

    Attributes:
        out: Folder for the table of trials, figures, best.yaml, and the trials' own folders.
        space: loss_weights, keep_ratios, bits, joint; or the dotted path of your own function (module.function, on PYTHONPATH) that
            returns a Ray Tune dictionary over the flags of `eet distill`.
        space_options: Arguments of the space, for example '{form: grid}'.
        trials: Total number of trials of a random space; a grid has its own number.
        search: random (draws, and grids), or optuna (extra 'optuna'), which draws the next trial from the results of earlier ones.
        scheduler: Rule that stops poor trainings early: asha, median, or none. Default asha for random draws of equal cost, else none: by
            mAP alone the cheap end of a Pareto set would be stopped first, and a grid should be complete.
        grace_epochs: Epochs before a training may be stopped; default a ninth of all.
        costs: Costs of a model, for the Pareto set: gmacs (multiply-adds of an image), latency_ms (timed after the last trial on an idle
            device), code_bytes, row_bytes (with tokens).
        concurrent: Trials at once; default as many as fit the cluster with a CPU (and a share of a GPU) for each worker.
        teacher: Bundle of a trained teacher for all trials.
        shared_teacher: First train one teacher for each code length, and use it, frozen, in all trials, which then train only students.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        resume: Continue an interrupted sweep in --out: failed trials run again, finished ones do not.
        data: Labelled images.
        student: The network.
        loss: The objective.
        train: The training of each trial.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet sweep --data.root photos --space keep_ratios --trials 12 --out runs/sweep",)

    spaces: ClassVar[Mapping[str, str]] = {
        "loss_weights": "tune_spaces.loss_weights.loss_weights",
        "keep_ratios": "tune_spaces.keep_ratios.keep_ratios",
        "bits": "tune_spaces.bits.bits",
        "joint": "tune_spaces.joint.joint",
    }

    scheduler: Literal["asha", "median", "none"] | None = None
    grace_epochs: int | None = None
    costs: tuple[Cost, ...] = ("gmacs", "code_bytes")
    teacher: str | None = field(default=None, metadata=LOCATION)
    shared_teacher: bool = False
    weights: str = field(default="timm", metadata=WEIGHTS)
    data: DataOptions = field(default_factory=DataOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        fill_groups(self, "student", "loss")

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("teacher", "weights")
        if self.grace_epochs is not None and self.grace_epochs < 1:
            found.append(f"--grace_epochs {self.grace_epochs}: use 1 or more")
        if not self.costs or len(set(self.costs)) < len(self.costs):
            found.append(f"--costs {list(self.costs)}: name one or more of {', '.join(get_args(Cost))}, each once")
        if self.teacher and self.shared_teacher:
            found.append("--teacher and --shared_teacher are both given: give the first if a teacher is trained already, else the second")
        return found or self.space_problems()

    def trial_problems(self, parameters: Mapping[str, Any]) -> list[str]:
        shared, own = (
            [problem for group in (config.student, config.loss, config.train) for problem in group.problems()]
            for config in (self.base, with_parameters(self.base, parameters))
        )
        return [problem for problem in own if problem not in shared]

    @property
    def base(self) -> DistillConfig:
        """The training of a trial, before its parameters are set."""
        return with_absolute_locations(
            DistillConfig(
                out=str(self.trials_dir),
                teacher=self.teacher,
                weights=self.weights,
                data=self.data,
                student=self.student,
                loss=self.loss,
                train=self.train,
                seed=self.seed,
                address=self.address,
                tracking_uri=self.tracking_uri,
            )
        )
