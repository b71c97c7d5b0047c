"""The trials of a sweep: their parameters, their jobs, and the records in their folders."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from eet.storage import write_text
from pipelines.configs.space import trial_name

TRIAL_FILE, OUTCOME_FILE, HISTORY_FILE, BUNDLE_FILE = "trial.json", "outcome.json", "history.json", "model.json"
Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True)
class Trial(ABC):
    """The record of a trial in its folder. Subclasses define the measure that compares trials.

    Class attributes:
        quality: the measure in the records that compares trials; higher is better.
        quality_name: its full name, for display.
        short_name: its short name, for display.
        cost_names: every cost that a trial can have -> its unit.
        tie_cost: among trials of equal quality, the one with the lowest value of this cost is chosen.
        recorded: measures that are kept from the records of an unfinished trial.

    Attributes:
        parameters: drawn parameters.
        costs: known costs; {} before the start.
        history: known records of epochs, all of them for a finished trial; a trial without epochs has one.
        reason: why it failed or was stopped.
    """

    quality: ClassVar[str]
    quality_name: ClassVar[str]
    short_name: ClassVar[str]
    cost_names: ClassVar[Mapping[str, str]]
    tie_cost: ClassVar[str]
    recorded: ClassVar[tuple[str, ...]]

    name: str
    folder: Path
    parameters: dict[str, Any]
    costs: dict[str, float]
    status: Status
    reason: str
    history: list[dict[str, float]]

    @property
    def best(self) -> dict[str, float]:
        """The record of the highest quality, of equal ones the earliest (whose weights are in the bundle); {} if there is none."""
        return max(self.history, key=lambda record: record[self.quality], default={})

    @property
    def to_run(self) -> bool:
        """Whether a resumed sweep runs this trial; not if it is finished or stopped."""
        return self.status in ("failed", "unfinished")

    @abstractmethod
    def measures(self) -> dict[str, Any]:
        """The measures for results.parquet; None where unknown."""

    def products(self) -> dict[str, Any]:
        """The outputs of the trial, for results.parquet."""
        return {}

    @classmethod
    @abstractmethod
    def shown(cls, record: Mapping[str, float]) -> dict[str, str]:
        """A record for the terminal: {heading: text}; an empty record has the same headings."""


def begin_trial(folder: Path, parameters: Mapping[str, Any], costs: Mapping[str, float]) -> None:
    """Writes the trial's parameters and costs into its folder, and removes the outcome of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / TRIAL_FILE, {"parameters": dict(parameters), "costs": dict(costs)})
    (folder / OUTCOME_FILE).unlink(missing_ok=True)


def add_costs(trial: Trial, costs: Mapping[str, float]) -> Trial:
    """Adds costs to a trial, also in its folder."""
    trial = dataclasses.replace(trial, costs={**trial.costs, **costs})
    _write(trial.folder / TRIAL_FILE, {"parameters": trial.parameters, "costs": trial.costs})
    return trial


def add_measured(trials: Sequence[Trial], cost: str, found: Mapping[str, float]) -> list[Trial]:
    """The trials with a measured cost. found: trial name -> value."""
    return [add_costs(trial, {cost: found[trial.name]}) if trial.name in found else trial for trial in trials]


def end_trial(folder: Path, status: Status, reason: str, history: Sequence[Mapping[str, float]]) -> None:
    """Writes the outcome of a trial without a bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / OUTCOME_FILE, {"status": status, "reason": reason, "history": list(history)})


def _write(path: Path, record: dict[str, Any]) -> None:
    write_text(str(path), json.dumps(record, indent=1) + "\n")


def read_trial(folder: Path, parameters: Mapping[str, Any] | None = None, *, of: type[Trial]) -> Trial:
    """Reads a trial from its folder, or makes it from its parameters if the folder does not exist. of: class of the trial."""
    started = _read(folder / TRIAL_FILE) or {"parameters": dict(parameters or {}), "costs": {}}
    status: Status = "unfinished"
    reason, history = "", []
    if (folder / BUNDLE_FILE).is_file():  # written last
        status, history = "finished", json.loads((folder / HISTORY_FILE).read_text())
    elif outcome := _read(folder / OUTCOME_FILE):
        status, reason, history = outcome["status"], outcome["reason"], outcome["history"]
    return of(folder.name, folder, started["parameters"], started["costs"], status, reason, history)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def read_trials(trials_dir: Path, planned: Sequence[Mapping[str, Any]] = (), *, of: type[Trial]) -> list[Trial]:
    """The planned trials in their order, started or not, then those that a searcher drew."""
    trials = {name: read_trial(trials_dir / name, parameters, of=of) for parameters in planned if (name := trial_name(parameters))}
    started = sorted(trials_dir.glob(f"*/{TRIAL_FILE}"), key=lambda file: (file.stat().st_mtime_ns, file))
    for file in started:
        trials.setdefault(file.parent.name, read_trial(file.parent, of=of))
    return list(trials.values())


def chosen_trial(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial of the highest quality, of equal ones the cheapest, then the first; None if none is finished."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda trial: (trial.best[trial.quality], -trial.costs[trial.tie_cost]), default=None)
