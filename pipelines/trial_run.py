"""One trial of a sweep, as Ray Tune runs it: the `distill` training, which tells Tune of every epoch and never sees the test split."""

import dataclasses
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from pipelines.cli import JobFailed
from pipelines.distill import DistillConfig, plan_of
from pipelines.network_cost import student_costs
from pipelines.output import flat_values
from pipelines.training import LabelledImages, run_training
from pipelines.trials import BUNDLE_FILE, begin_trial, end_trial, plain, read_trial, trial_config, trial_name

PLANNED = "planned"  # under this key Tune hands over parameters that were drawn beforehand
TITLE = "trial"


class TrialReport(TuneReportCallback):
    """Hands each epoch's record to Tune, with the costs beside it, so that a searcher can weigh both."""

    def __init__(self, costs: dict[str, float]) -> None:
        super().__init__()
        self._costs = costs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        super().after_report(run_context, [{**metrics[0], **self._costs}], checkpoint)


def parameters_of(drawn: dict[str, Any]) -> dict[str, Any]:
    """The trial's parameters in what Tune hands over."""
    return flat_values(plain(drawn.get(PLANNED, drawn)))


def run_trial(drawn: dict[str, Any], *, base: DistillConfig, teachers: str | None, images: LabelledImages, parent_run: str) -> None:
    """Trains one trial in its own folder below base.out; a training that was cut off there goes on from its last epoch.

    base: the training whose flags the parameters replace. teachers: folder of frozen teachers, one for each code length, or None.
    images: read once, for all. parent_run: the sweep's MLflow run.
    """
    parameters = parameters_of(drawn)
    folder = Path(base.out) / trial_name(parameters)
    config = trial_config(base, parameters, out=str(folder), teachers=teachers)
    if (folder / BUNDLE_FILE).exists():  # the sweep was cut off before it heard of the end
        done = read_trial(folder)
        tune.report({**done.history[-1], **done.costs})
        return
    # Of the test split not even the number of images: it is for the one model that is chosen.
    images = dataclasses.replace(images, test=None)
    begin_trial(folder, parameters, {})
    try:
        plan = plan_of(config, images)
        costs = student_costs(plan.networks["student"])
        begin_trial(folder, parameters, costs)
        run_training(config, plan, images, title=TITLE, parent_run=parent_run, callbacks=[TrialReport(costs)])
    except Exception as error:
        end_trial(folder, "failed", reason_of(error), [])
        raise


def reason_of(error: Exception) -> str:
    """One line that says why a trial failed: its own message, or the error's kind and last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = "" if isinstance(error, JobFailed | ValueError) else f"{type(error).__name__}: "
    return f"{kind}{lines[-1] if lines else ''}"[:300]
