"""The trials of a sweep: their parameters, their jobs, and the records in their folders."""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import yaml

from eet.errors import InputError
from pipelines.distill import DistillConfig
from pipelines.job.output import flat_values
from pipelines.rerank import RerankConfig

TRIAL_FILE, OUTCOME_FILE, HISTORY_FILE, BUNDLE_FILE = "trial.json", "outcome.json", "history.json", "model.json"
Status = Literal["finished", "stopped", "failed", "unfinished"]
# Flags of a trial's job that are the same for the whole sweep.
FIXED = {
    DistillConfig: ("out", "teacher", "resume", "address", "tracking_uri", "dry_run", "data"),
    RerankConfig: ("out", "hits", "gallery", "queries", "engine", "workers", "seed", "address", "tracking_uri", "dry_run"),
}
Job = TypeVar("Job", DistillConfig, RerankConfig)


def drawn_parameters(space: Mapping[str, Any], *, trials: int, seed: int) -> list[dict[str, Any]]:
    """The parameters of every trial, drawn before any runs, so that a sweep can be described, estimated and resumed from its seed.

    A space with a grid yields its product once. Otherwise there are `trials` draws; the first n of them are the same as in a sweep of n
    trials. Equal draws count once.
    """
    from ray.tune.search.variant_generator import generate_variants

    random = np.random.RandomState(seed)
    drawn: dict[str, dict[str, Any]] = {}
    for _ in range(1 if has_grid(space) else trials):
        for _, variant in generate_variants(dict(space), random_state=random):
            parameters = flat_values(plain(variant))
            drawn.setdefault(trial_name(parameters), parameters)
    return list(drawn.values())


def has_grid(space: Mapping[str, Any]) -> bool:
    """Whether a space contains a grid, which then determines the number of trials."""
    return any(isinstance(value, Mapping) and ("grid_search" in value or has_grid(value)) for value in space.values())


def plain(value: Any) -> Any:
    """Drawn values in the types of JSON: Python numbers, not numpy's; lists, not tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def trial_name(parameters: Mapping[str, Any]) -> str:
    """Name of the trial's folder: eight characters, equal for equal parameters."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]


def with_parameters(base: Job, parameters: Mapping[str, Any]) -> Job:
    """The job with some of its flags replaced: {'loss.beta': 0.3, 'student.keep_ratios.0': 0.5, 'seed': 7}.

    A number at the end of a flag's name is an index into its list; all indexes from 0 must be given. Text for a flag of another type is
    parsed as on the command line ('[4, 8, 10]').

    Raises:
        InputError: flags that the job lacks, or that a sweep must not change; the message names all of them.
    """
    values: dict[str, Any] = {}
    items: dict[str, dict[int, Any]] = {}
    for key, value in parameters.items():
        flag, _, place = key.rpartition(".")
        if place.isdigit():
            items.setdefault(flag, {})[int(place)] = value
        else:
            values[key] = value
    for flag, at in items.items():
        if sorted(at) != list(range(len(at))):
            raise InputError(f"{flag} is given at the indexes {sorted(at)}: give all indexes from 0")
        values[flag] = [at[place] for place in range(len(at))]
    known = {flag: now for flag, now in _flags(base) if flag.partition(".")[0] not in FIXED[type(base)]}
    unknown = [flag for flag in values if flag not in known]
    if unknown:
        raise InputError(f"the space changes {', '.join(unknown)}, which a trial does not have: it may change {', '.join(known)}")
    groups: dict[str, dict[str, Any]] = {}
    for flag, value in values.items():
        group, _, name = flag.rpartition(".")
        if isinstance(value, str) and not isinstance(known[flag], str):
            value = yaml.safe_load(value)
        groups.setdefault(group, {})[name] = tuple(value) if isinstance(value, list) else value
    changes = groups.pop("", {})
    changes |= {group: dataclasses.replace(getattr(base, group), **fields) for group, fields in groups.items()}
    return dataclasses.replace(base, **changes)


def _flags(config: Any) -> Iterator[tuple[str, Any]]:
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{entry.name}.{inner.name}", getattr(value, inner.name)) for inner in dataclasses.fields(value))
        else:
            yield entry.name, value


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
    writing = path.with_suffix(".writing")
    writing.write_text(json.dumps(record, indent=1) + "\n")
    writing.replace(path)  # completely or not at all


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
