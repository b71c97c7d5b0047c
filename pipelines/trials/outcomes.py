"""The driver's reaction to reports of trials: outcomes on disk, status in MLflow, and lines or a live table on the terminal."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import PlacementGroupID, tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipelines.configs.space import trial_name
from pipelines.job.tracking import TrackedRun
from pipelines.trials.process import TITLE, parameters_of
from pipelines.trials.results import trial_table
from pipelines.trials.trial import Trial, end_trial, read_trial, read_trials

GRACE_S = 5  # a trial's processes must end before its workers' placement groups are removed, or they would request new ones


class TrialOutcomes(tune.Callback):
    """Tune's callback in the driver's process.

    Args:
        trials_dir: folder of the trials.
        of: class of the trials.
        progress: formats a record as text.
        run: MLflow run of the sweep.
        planned: parameters drawn beforehand, for the table.
        scheduler: name of the rule that stops trials.
    """

    def __init__(
        self,
        trials_dir: Path,
        *,
        of: type[Trial],
        progress: Callable[[Mapping[str, float]], str],
        run: TrackedRun,
        planned: list[dict[str, Any]],
        scheduler: str,
    ) -> None:
        self._trials_dir, self._of, self._progress = trials_dir, of, progress
        self._run, self._planned, self._scheduler = run, planned, scheduler
        self._records: dict[str, list[dict[str, float]]] = {}
        self._live: Any = None
        self._rooms: dict[str, str] = {}
        self._ended: list[tuple[float, str]] = []

    def setup(self, *_: Any, **__: Any) -> None:
        """Called when Tune starts. The live display starts only now: before, Tune pickles this object, and a display cannot be pickled."""
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=2)
            self._live.start()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        name = trial_name(parameters_of(trial.config))
        if "placement_group" in result:
            self._rooms[name] = result["placement_group"]
        record = {key: float(result[key]) for key in self._of.recorded if key in result}
        self._records.setdefault(name, []).append(record)
        self._say(name, self._progress(record))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        name = trial_name(parameters_of(trial.config))
        if read_trial(self._trials_dir / name, of=self._of).status == "finished":
            self._say(name, "finished")
            return
        epoch = int(self._records[name][-1]["epoch"])
        self._end(name, "stopped", f"by {self._scheduler} after epoch {epoch}", mlflow_status="KILLED")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        name = trial_name(parameters_of(trial.config))
        recorded = read_trial(self._trials_dir / name, of=self._of)  # a trial records the reason itself if it can
        reason = recorded.reason if recorded.status == "failed" else "its process was lost"
        self._end(name, "failed", reason, mlflow_status="FAILED")

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self._give_back(before=time.monotonic() - GRACE_S)

    def _give_back(self, before: float) -> None:
        """Removes placement groups of workers whose trial ended before `before`.

        Ray Train leaves them when a trial is ended from outside (its cleaner needs the dashboard, which a local session lacks), and the
        next trial would wait forever.
        """
        for ended, group_id in [entry for entry in self._ended if entry[0] <= before]:
            self._ended.remove((ended, group_id))
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))

    def _end(self, name: str, status: Any, reason: str, *, mlflow_status: str) -> None:
        if name in self._rooms:
            self._ended.append((time.monotonic(), self._rooms.pop(name)))
        end_trial(self._trials_dir / name, status, reason, self._records.get(name, []))
        # Its process is gone and cannot end its MLflow run.
        self._run.end_children(f"{TITLE} {name}", mlflow_status)
        self._say(name, f"{status}: {reason}")

    def _say(self, name: str, what: str) -> None:
        if self._live is None:
            print(f"trial {name}  {what}", flush=True)
        else:
            last = {name: records[-1] for name, records in self._records.items()}
            self._live.update(trial_table(read_trials(self._trials_dir, self._planned, of=self._of), last, of=self._of))

    def close(self) -> None:
        """Ends the display."""
        self._give_back(before=math.inf)
        if self._live is not None:
            self._live.stop()
