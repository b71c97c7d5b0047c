"""Searchers, which draw the trials of a sweep, and schedulers, which stop trials early."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from pipelines.configs.space import has_grid

STUDY_FILE = "optuna.db"
REDUCTION = 3  # a third of the trials continues after each rung of ASHA


def moves_cost(space: Mapping[str, Any]) -> bool:
    """Whether trials of a space differ in the cost of the model."""
    return any(name.startswith("student") for name in space)


def default_scheduler(space: Mapping[str, Any]) -> str:
    """'asha' for random draws of equal cost, else 'none': by mAP alone the cheap would be stopped first, and a grid should be complete."""
    return "none" if has_grid(space) or moves_cost(space) else "asha"


class _ToTheEnd:
    """Changes Tune's schedulers in two ways.

    A trial that has trained all its epochs is not stopped, because it only has to write its bundle. No trial is paused (as the median rule
    does while it has few trials to compare), because all its workers would have to start again.
    """

    last_epoch: int

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = super().on_trial_result(controller, trial, result)  # type: ignore[misc]
        stop = action == TrialScheduler.STOP and result["epoch"] < self.last_epoch
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


class _Asha(_ToTheEnd, ASHAScheduler):
    pass


class _Median(_ToTheEnd, MedianStoppingRule):
    pass


def scheduler(name: str, *, epochs: int, grace_epochs: int | None) -> TrialScheduler:
    """'asha', 'median' or 'none', by validation mAP over epochs. grace_epochs: no trial is stopped before; default a ninth of all."""
    if name == "none":
        return FIFOScheduler()
    grace_period = min(grace_epochs or max(1, epochs // 9), epochs)
    judged: dict[str, Any] = {"time_attr": "epoch", "metric": "val_mAP", "mode": "max", "grace_period": grace_period}
    found = _Asha(max_t=epochs, reduction_factor=REDUCTION, **judged) if name == "asha" else _Median(**judged)
    found.last_epoch = epochs
    return found


def optuna_search(
    space: Mapping[str, Any],
    out: Path,
    *,
    quality: str,
    costs: Sequence[str],
    again: Sequence[Mapping[str, Any]],
    known: int,
    seed: int,
) -> tune.search.Searcher:
    """Optuna's searcher. Its study is stored in the folder `out`, so that a resumed sweep knows earlier results.

    Args:
        space: the Tune dictionary.
        out: folder of the study.
        quality: name of the reported measure to maximise.
        costs: costs to minimise, if the space changes them. Multiply-adds replace latency, which is measured at the end.
        again: parameters of interrupted trials, which come first.
        known: number of trials drawn already.
        seed: of the draws.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    counted = [cost for cost in costs if cost != "latency_ms"] if moves_cost(space) else []
    if moves_cost(space) and "latency_ms" in costs and "gmacs" not in counted:
        counted.append("gmacs")  # latency is measured when no trial runs; until then multiply-adds replace it
    drawn = [{name: value for name, value in parameters.items() if name in space} for parameters in again]
    return OptunaSearch(
        metric=[quality, *counted] if counted else quality,
        mode=["max", *("min" for _ in counted)] if counted else "max",
        points_to_evaluate=drawn or None,
        seed=seed + known,  # a resumed sweep must not draw its first points again
        study_name="sweep",
        storage=optuna.storages.RDBStorage(f"sqlite:///{out / STUDY_FILE}"),
    )
