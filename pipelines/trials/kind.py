"""The interface of a kind of trial: trainings, or re-rankings of given hits.

An object holds all that its trials share; the order in which its methods are called does not matter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from eet.storage import Claim
from pipelines.job.cluster import ClusterResources
from pipelines.job.tracking import TrackedRun
from pipelines.trials.share import Share
from pipelines.trials.trial import Trial


class TrialKind(ABC):
    """The trials of one sweep.

    Attributes:
        trial: class of a trial's record.
        done: verb for what is done in a trial, for messages.
        unseen: data on which only the chosen trial is measured, for messages.
        advice: how the user applies best.yaml, for messages.
        processes_last: whether one process runs several trials, one after another; false if every trial starts its own processes.
        costs: costs of a trial, for the Pareto set.
        weighed: costs that a searcher also takes into account.
    """

    trial: ClassVar[type[Trial]]
    done: ClassVar[str]
    unseen: ClassVar[str]
    advice: ClassVar[str]
    processes_last: ClassVar[bool] = False
    costs: Sequence[str]
    weighed: Sequence[str] = ()

    def check(self, drawn: Sequence[Mapping[str, Any]]) -> None:
        """InputError where trials with these parameters do not fit what exists already."""
        return

    @abstractmethod
    def share(self, resources: ClusterResources, *, trials: int) -> Share:
        """How many trials run at once, and with which resources. InputError where none fits."""

    @abstractmethod
    def each(self, share: Share, space: Mapping[str, Any]) -> str:
        """Description of a trial, for the line printed at the start of a sweep."""

    @abstractmethod
    def estimate(self, first: Mapping[str, Any], space: Mapping[str, Any], resources: ClusterResources, *, trials: int) -> Sequence[str]:
        """Lines of a dry run: the number of trials, resources of each, and hours, measured with the first parameters."""

    def stopping(self, space: Mapping[str, Any]) -> str:
        """Name of the rule that stops poor trials early."""
        return "none"

    def scheduler(self, space: Mapping[str, Any]) -> TrialScheduler:
        """The rule that stops poor trials early."""
        return FIFOScheduler()

    def begin(self, run: TrackedRun, drawn: Sequence[Mapping[str, Any]], claim: Claim) -> None:
        """Prepares what all trials need and does not exist yet, on the whole cluster.

        Args:
            run: MLflow run of the sweep.
            drawn: parameters of the trials.
            claim: on the folder of the sweep, for checks before files are written.
        """
        return

    @abstractmethod
    def trainable(self, share: Share, run: TrackedRun, claim: Claim) -> Any:
        """The function that Tune calls with drawn parameters, together with its resources."""

    @property
    @abstractmethod
    def progress(self) -> Callable[[Mapping[str, float]], str]:
        """A function that formats a trial's record as text. Tune writes it to disk, so it must be small."""

    @abstractmethod
    def with_measured_costs(self, trials: list[Trial], resources: ClusterResources) -> list[Trial]:
        """The trials, completed with costs that can only be measured when no trial runs."""

    @abstractmethod
    def best_config(self, chosen: Trial, out: Path) -> Any:
        """The config that repeats the chosen trial as a separate job; its output is below `out`."""

    def draw(self, trials: Sequence[Trial], out: Path) -> None:
        """Writes the figures of this kind as PNG into `out`. trials: finished ones."""
        return

    @abstractmethod
    def test(self, chosen: Trial, resources: ClusterResources) -> dict[str, dict[str, float]]:
        """Measures the chosen trial on unseen data, once: {name: {measure: value}}. If it was measured before, returns that result."""
