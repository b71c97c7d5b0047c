"""`eet sweep`: many trainings over a search space on Ray Tune: accuracy against cost on the user's own images."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from eet.errors import InputError
from pipelines.distill import DistillConfig
from pipelines.job.location import LOCATION, WEIGHTS, with_absolute_locations
from pipelines.job.options import DataOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.recipes import fill_groups
from pipelines.training.run import read_labelled_images
from pipelines.trials.training import TrainingTrial
from pipelines.trials.trainings import Trainings
from pipelines.trials.trial import with_parameters
from pipelines.trials.tuning import SweepOptions, SweepResult, run_sweep

FREE_ON_RESUME = ("costs", "train.cpus_per_worker", "train.gpus_per_worker", "train.loader_workers", "train.max_failures")


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

    spaces: ClassVar[Mapping[str, str]] = {
        "loss_weights": "tune_spaces.loss_weights.loss_weights",
        "keep_ratios": "tune_spaces.keep_ratios.keep_ratios",
        "bits": "tune_spaces.bits.bits",
        "joint": "tune_spaces.joint.joint",
    }

    scheduler: Literal["asha", "median", "none"] | None = None
    grace_epochs: int | None = None
    costs: tuple[Literal["gmacs", "latency_ms", "code_bytes", "row_bytes"], ...] = ("gmacs", "code_bytes")
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
            found.append(f"--costs {list(self.costs)}: name one or more of {', '.join(TrainingTrial.cost_names)}, each once")
        if self.teacher and self.shared_teacher:
            found.append("--teacher and --shared_teacher are both given: give the first if a teacher is trained already, else the second")
        return found

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


def run(config: SweepConfig) -> SweepResult:
    """Runs the trials that are not finished yet, and writes tables, figures and best.yaml into config.out."""
    return run_sweep(config, lambda tracking_uri: trainings_of(config, tracking_uri), free_on_resume=FREE_ON_RESUME)


def trainings_of(config: SweepConfig, tracking_uri: str | None = None) -> Trainings:
    """The trials of a sweep, with the images that they share. InputError where trials cannot be compared by them."""
    images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
    if images.val is None:
        raise InputError(
            "trials are compared by validation mAP, and no image is held out: use --train.validation_share 0.1, or a val split"
        )
    return Trainings(
        base=dataclasses.replace(config.base, tracking_uri=tracking_uri),
        trials_dir=config.trials_dir,
        images=images,
        costs=config.costs,
        scheduler_name=config.scheduler,
        grace_epochs=config.grace_epochs,
        concurrent=config.concurrent,
        shared_teacher=config.shared_teacher,
    )
