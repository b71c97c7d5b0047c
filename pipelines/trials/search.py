"""What draws the trials of a sweep, and what stops them before their end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from pipelines.trials.trial import has_grid

STUDY_FILE = "optuna.db"
REDUCTION = 3  # of every rung of ASHA a third goes on


def moves_cost(space: Mapping[str, Any]) -> bool:
    """Whether trials of a space differ in what the model costs."""
    return any(name.startswith("student") for name in space)


def default_scheduler(space: Mapping[str, Any]) -> str:
    """'asha' for random draws of equal cost, else 'none': by mAP alone the cheap would go first, and a grid is there to be complete."""
    return "none" if has_grid(space) or moves_cost(space) else "asha"


class _ToTheEnd:
    """Stops a trial or lets it train, with two exceptions to Tune's schedulers: none is stopped that has trained all its epochs, as it only
    writes its bundle; and none is paused (as the median rule does while it has few to compare), as all its workers would start anew.
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
    """'asha', 'median' or 'none', by validation mAP over epochs. grace_epochs: before them none is stopped; default a ninth of all."""
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
    """Optuna's search, its study in the folder `out`: what earlier trials reached is known after a resume.

    quality: what trials report that is to be high. costs: weighed beside it, where the space moves them; latency, which is measured at the
    end, is stood for by multiply-adds.
    again: parameters of trials that were cut off: they come first, as they were drawn. known: how many trials were drawn already.
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    counted = [cost for cost in costs if cost != "latency_ms"] if moves_cost(space) else []
    if moves_cost(space) and "latency_ms" in costs and "gmacs" not in counted:
        counted.append("gmacs")  # time is measured when no trial runs; until then multiply-adds stand for it
    drawn = [{name: value for name, value in parameters.items() if name in space} for parameters in again]
    return OptunaSearch(
        metric=[quality, *counted] if counted else quality,
        mode=["max", *("min" for _ in counted)] if counted else "max",
        points_to_evaluate=drawn or None,
        seed=seed + known,  # after a resume it must not draw its first points again
        study_name="sweep",
        storage=optuna.storages.RDBStorage(f"sqlite:///{out / STUDY_FILE}"),
    )
