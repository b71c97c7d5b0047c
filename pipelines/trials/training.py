"""One trial that is a training, as Ray Tune runs it: the `distill` job, which reports every epoch to Tune and never uses the test split."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from eet.storage import Claim
from eet.training import LabelledImages
from pipelines.configs.space import trial_name, with_parameters
from pipelines.costs.networks import student_costs
from pipelines.distill import DistillConfig, task_of
from pipelines.training.run import run_training
from pipelines.trials.process import TITLE, failure_recorded, parameters_of
from pipelines.trials.trial import BUNDLE_FILE, Trial, begin_trial, read_trial


class TrainingTrial(Trial):
    """A training, compared by validation mAP. Its costs except latency_ms are computed when it starts."""

    quality, quality_name, short_name = "val_mAP", "validation mAP", "mAP"
    cost_names = {
        "gmacs": "GMACs an image",
        "latency_ms": "ms an image",
        "code_bytes": "bytes a code",
        "row_bytes": "bytes a row with tokens",
    }
    tie_cost = "gmacs"
    recorded = ("epoch", "val_mAP", "total", "images_per_s")

    def measures(self) -> dict[str, Any]:
        """val_mAP (of the best epoch), epoch (its number), epochs (number trained), images_per_s (median)."""
        return {
            "val_mAP": self.best.get("val_mAP"),
            "epoch": int(self.best["epoch"]) if self.best else None,
            "epochs": len(self.history),
            "images_per_s": float(np.median([record["images_per_s"] for record in self.history])) if self.history else None,
        }

    def products(self) -> dict[str, Any]:
        """bundle: path of the trained model."""
        return {"bundle": str(self.folder) if self.status == "finished" else None}

    @classmethod
    def shown(cls, record: Mapping[str, float]) -> dict[str, str]:
        return {"val mAP": f"{record['val_mAP']:.4f}" if record else "", "epoch": str(int(record["epoch"])) if record else ""}


class TrialReport(TuneReportCallback):
    """Reports each epoch's record and the costs to Tune, so that a searcher can use both."""

    def __init__(self, costs: dict[str, float]) -> None:
        super().__init__()
        self._costs = costs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        super().after_report(run_context, [{**metrics[0], **self._costs}], checkpoint)


def trial_config(base: DistillConfig, parameters: Mapping[str, Any], *, out: str, teachers: str | None) -> DistillConfig:
    """The config of one trial with output `out`. teachers: folder of frozen teachers, one for each code length; None for base.teacher."""
    config = with_parameters(base, parameters)
    return dataclasses.replace(config, out=out, teacher=teacher_folder(teachers, config.student.bits) if teachers else base.teacher)


def teacher_folder(teachers: str, bits: int) -> str:
    """Folder of the shared teacher for a code length, in which teacher and student must agree."""
    return str(Path(teachers) / f"{bits}_bits")


def run_trial(
    drawn: dict[str, Any], *, base: DistillConfig, teachers: str | None, images: LabelledImages, parent_run: str, claim: Claim
) -> None:
    """Trains one trial in its own folder below base.out; an interrupted training continues from its last epoch.

    Args:
        drawn: dictionary from Tune.
        base: the training whose flags the parameters replace.
        teachers: folder of frozen teachers, one for each code length, or None.
        images: shared by all trials.
        parent_run: MLflow run of the sweep.
        claim: on the folder of the sweep.
    """
    parameters = parameters_of(drawn)
    folder = Path(base.out) / trial_name(parameters)
    config = trial_config(base, parameters, out=str(folder), teachers=teachers)
    if (folder / BUNDLE_FILE).exists():  # the sweep was interrupted before this trial's end was reported
        done = read_trial(folder, of=TrainingTrial)
        tune.report({**done.history[-1], **done.costs})
        return
    # Without the test split, not even its number of images: it is only for the chosen model.
    images = dataclasses.replace(images, test=None)
    with failure_recorded(folder, claim):
        begin_trial(folder, parameters, {})
        task = task_of(config, images)
        costs = student_costs(task.networks["student"])
        begin_trial(folder, parameters, costs)
        run_training(config, task, images, title=TITLE, claim=claim, parent_run=parent_run, callbacks=[TrialReport(costs)])
