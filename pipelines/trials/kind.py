"""What a sweep asks of the kind of job that its trials are: trainings, or re-rankings of given hits.

A kind holds all that its trials share when it is made; no method depends on which was called before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pipelines.job.cluster import ClusterResources
from pipelines.job.tracking import TrackedRun
from pipelines.trials.share import Share
from pipelines.trials.trial import Trial


class TrialKind(ABC):
    """One sweep's trials.

    trial: what is known of one. done: what is done in one. unseen: what only the chosen one is measured on. advice: how the user does what
    best.yaml says. processes_last: whether a process runs one trial after the other; what starts processes of its own for every trial has
    none that last.
    costs: what a trial costs, for the Pareto set. weighed: those that a searcher weighs too.
    """

    trial: ClassVar[type[Trial]]
    done: ClassVar[str]
    unseen: ClassVar[str]
    advice: ClassVar[str]
    processes_last: ClassVar[bool] = False
    costs: Sequence[str]
    weighed: Sequence[str] = ()

    def check(self, drawn: Sequence[Mapping[str, Any]]) -> None:
        """ValueError where trials of these parameters do not fit what is there already."""
        return

    @abstractmethod
    def share(self, resources: ClusterResources, *, trials: int) -> Share:
        """How many run at once, and on what. ValueError where none fits."""

    @abstractmethod
    def each(self, share: Share, space: Mapping[str, Any]) -> str:
        """What a trial is, in the line that says that a sweep begins."""

    @abstractmethod
    def estimate(self, first: Mapping[str, Any], space: Mapping[str, Any], resources: ClusterResources, *, trials: int) -> Sequence[str]:
        """Lines of a dry run: the number of trials, resources of each, and hours by a measurement on the first one's parameters."""

    def stopping(self, space: Mapping[str, Any]) -> str:
        """What stops hopeless trials, by name."""
        return "none"

    def scheduler(self, space: Mapping[str, Any]) -> TrialScheduler:
        """What stops hopeless trials."""
        return FIFOScheduler()

    def begin(self, run: TrackedRun, drawn: Sequence[Mapping[str, Any]]) -> None:
        """Makes what all trials need, where it is not there yet, with all of the cluster. drawn: parameters of the trials."""
        return

    @abstractmethod
    def trainable(self, share: Share, run: TrackedRun) -> Any:
        """The function that Tune calls with what it drew, with the resources that it takes."""

    @property
    @abstractmethod
    def progress(self) -> Callable[[Mapping[str, float]], str]:
        """What is said of a record that a trial reports. Tune writes it to disk, so it holds nothing large."""

    @abstractmethod
    def with_measured_costs(self, trials: list[Trial], resources: ClusterResources) -> list[Trial]:
        """The trials with those costs that are measured when none runs."""

    @abstractmethod
    def best_config(self, chosen: Trial, out: Path) -> Any:
        """The config that repeats the chosen trial as a job of its own; its output is below `out`."""

    def draw(self, trials: Sequence[Trial], out: Path) -> None:
        """Figures of this kind alone, as PNG into `out`. trials: finished ones."""
        return

    @abstractmethod
    def test(self, chosen: Trial, resources: ClusterResources) -> dict[str, dict[str, float]]:
        """The chosen one measured on what no trial has seen, once: {name: {measure: value}}; of one that was chosen before, as then."""
