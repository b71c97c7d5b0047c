"""The trials of a sweep: which parameters each has, the job that it is, and what its folder says of it."""

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
# Flags of the job that a trial is that are one for the whole sweep.
FIXED = {
    DistillConfig: ("out", "teacher", "resume", "address", "tracking_uri", "dry_run", "data"),
    RerankConfig: ("out", "hits", "gallery", "queries", "engine", "workers", "seed", "address", "tracking_uri", "dry_run"),
}
Job = TypeVar("Job", DistillConfig, RerankConfig)


def drawn_parameters(space: Mapping[str, Any], *, trials: int, seed: int) -> list[dict[str, Any]]:
    """The parameters of every trial, drawn before any runs, so that a sweep can be told, priced and resumed from the seed alone.

    A space with a grid gives its product once; else `trials` draws, of which the first n are those of a sweep of n trials. Draws that are
    equal count once.
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
    """Whether a space has a grid somewhere; the number of its trials is then the grid's."""
    return any(isinstance(value, Mapping) and ("grid_search" in value or has_grid(value)) for value in space.values())


def plain(value: Any) -> Any:
    """Drawn values as JSON knows them: numbers of Python, not of numpy; lists, not tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def trial_name(parameters: Mapping[str, Any]) -> str:
    """Eight characters that equal parameters share: the name of the trial's folder."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]


def with_parameters(base: Job, parameters: Mapping[str, Any]) -> Job:
    """The job with some of its flags replaced: {'loss.beta': 0.3, 'student.keep_ratios.0': 0.5, 'seed': 7}.

    A number behind a flag's name is a place in its list, and all places from 0 must be given; text for a flag that is no text is read as on
    the command line ('[4, 8, 10]'). ValueError, naming all of them, for flags that the job lacks or a sweep holds fixed.
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
            raise InputError(f"{flag} is given at the places {sorted(at)}: give all of them, from 0")
        values[flag] = [at[place] for place in range(len(at))]
    known = {flag: now for flag, now in _flags(base) if flag.partition(".")[0] not in FIXED[type(base)]}
    unknown = [flag for flag in values if flag not in known]
    if unknown:
        raise InputError(f"the space moves {', '.join(unknown)}, which a trial does not have: it may move {', '.join(known)}")
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
    """What a trial's folder says. A subclass says what such trials are judged by.

    quality: the measure in its records that it is judged by, higher is better. quality_name, short_name: as people call it, in full and
    where it is clear of what. cost_names: every cost that a trial can have, with its unit. tie_cost: of trials of equal quality the one of
    the least is chosen. recorded: what is kept of the records of a trial that does not come to its end.
    parameters: what was drawn. costs: those that are known, {} before it began. history: records of the epochs that are known, of a
    finished trial all; of a trial without epochs one. reason: why it failed or was stopped.
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
        """The record of the highest quality, the earliest of equals (whose weights a bundle holds); {} before any."""
        return max(self.history, key=lambda record: record[self.quality], default={})

    @property
    def to_run(self) -> bool:
        """Whether a resumed sweep runs it: finished and stopped ones it never does."""
        return self.status in ("failed", "unfinished")

    @abstractmethod
    def measures(self) -> dict[str, Any]:
        """What results.parquet says of how well it did; None for what is not known."""

    def products(self) -> dict[str, Any]:
        """What results.parquet says of what it left."""
        return {}

    @classmethod
    @abstractmethod
    def shown(cls, record: Mapping[str, float]) -> dict[str, str]:
        """A record on the terminal: {heading: text}; {} has the same headings."""


def begin_trial(folder: Path, parameters: Mapping[str, Any], costs: Mapping[str, float]) -> None:
    """Writes what the trial is into its folder, and takes away how it ended the last time."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / TRIAL_FILE, {"parameters": dict(parameters), "costs": dict(costs)})
    (folder / OUTCOME_FILE).unlink(missing_ok=True)


def add_costs(trial: Trial, costs: Mapping[str, float]) -> Trial:
    """The trial with further costs, which its folder says too."""
    trial = dataclasses.replace(trial, costs={**trial.costs, **costs})
    _write(trial.folder / TRIAL_FILE, {"parameters": trial.parameters, "costs": trial.costs})
    return trial


def add_measured(trials: Sequence[Trial], cost: str, found: Mapping[str, float]) -> list[Trial]:
    """The trials, those that `found` names with what it says of that cost."""
    return [add_costs(trial, {cost: found[trial.name]}) if trial.name in found else trial for trial in trials]


def end_trial(folder: Path, status: Status, reason: str, history: Sequence[Mapping[str, float]]) -> None:
    """Writes how a trial without a bundle ended."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / OUTCOME_FILE, {"status": status, "reason": reason, "history": list(history)})


def _write(path: Path, record: dict[str, Any]) -> None:
    writing = path.with_suffix(".writing")
    writing.write_text(json.dumps(record, indent=1) + "\n")
    writing.replace(path)  # whole or not at all


def read_trial(folder: Path, parameters: Mapping[str, Any] | None = None, *, of: type[Trial]) -> Trial:
    """The trial of a folder; of one that is not there yet, from its parameters. of: its kind."""
    begun = _read(folder / TRIAL_FILE) or {"parameters": dict(parameters or {}), "costs": {}}
    status: Status = "unfinished"
    reason, history = "", []
    if (folder / BUNDLE_FILE).is_file():  # written last
        status, history = "finished", json.loads((folder / HISTORY_FILE).read_text())
    elif outcome := _read(folder / OUTCOME_FILE):
        status, reason, history = outcome["status"], outcome["reason"], outcome["history"]
    return of(folder.name, folder, begun["parameters"], begun["costs"], status, reason, history)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def read_trials(root: Path, planned: Sequence[Mapping[str, Any]] = (), *, of: type[Trial]) -> list[Trial]:
    """The planned trials in their order, begun or not, then those that a searcher drew."""
    trials = {name: read_trial(root / name, parameters, of=of) for parameters in planned if (name := trial_name(parameters))}
    begun = sorted(root.glob(f"*/{TRIAL_FILE}"), key=lambda file: (file.stat().st_mtime_ns, file))
    for file in begun:
        trials.setdefault(file.parent.name, read_trial(file.parent, of=of))
    return list(trials.values())


def chosen_trial(trials: Sequence[Trial]) -> Trial | None:
    """Of the finished trials the one of the highest quality, of equals the cheapest, of those the first; None where none finished."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda trial: (trial.best[trial.quality], -trial.costs[trial.tie_cost]), default=None)
