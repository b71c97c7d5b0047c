"""`eet sweep`: many trainings over a search space on Ray Tune: accuracy against cost on the user's own images."""

import dataclasses

from eet.errors import InputError
from pipelines.configs.sweep import SweepConfig
from pipelines.training.run import read_labelled_images
from pipelines.trials.trainings import Trainings
from pipelines.trials.tuning import SweepResult, run_sweep

FREE_ON_RESUME = ("costs", "train.cpus_per_worker", "train.gpus_per_worker", "train.loader_workers", "train.max_failures")


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
