"""Results of a sweep: a table of its trials on disk and on the terminal, figures, and the config of the chosen trial."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eet.figures import pareto_figure, save_png
from eet.metrics import pareto_set
from pipelines.job.output import write_config
from pipelines.trials.kind import TrialKind
from pipelines.trials.trial import Trial, chosen_trial

if TYPE_CHECKING:
    from rich.table import Table

RESULTS_FILE, PARETO_FILE, BEST_FILE = "results.parquet", "pareto.png", "best.yaml"


def pareto_trials(trials: Sequence[Trial], costs: Sequence[str]) -> set[str]:
    """Names of the finished trials that no other beats in quality and every one of `costs`."""
    finished = [trial for trial in trials if trial.status == "finished"]
    values = [[trial.best[trial.quality], *(-trial.costs[cost] for cost in costs)] for trial in finished]
    stands = pareto_set(np.array(values).reshape(len(finished), 1 + len(costs)))
    return {trial.name for trial, stand in zip(finished, stands, strict=True) if stand}


def results_table(trials: Sequence[Trial], kind: TrialKind) -> pa.Table:
    """The table of all trials, one row for each.

    Columns: trial, status ('finished', 'stopped', 'failed', 'unfinished'), reason, each parameter under its flag's name, the measures and
    costs of the kind, pareto, chosen, and the trial's outputs. Unknown values are null.
    """
    front, chosen = pareto_trials(trials, kind.costs), chosen_trial(trials)
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    columns: dict[str, list[Any]] = {
        "trial": [trial.name for trial in trials],
        "status": [trial.status for trial in trials],
        "reason": [trial.reason for trial in trials],
    }
    columns |= {name: _column([trial.parameters.get(name) for trial in trials]) for name in names}
    columns |= _columns([trial.measures() for trial in trials])
    columns |= {cost: [trial.costs.get(cost) for trial in trials] for cost in kind.trial.cost_names}
    columns |= {
        "pareto": [trial.name in front for trial in trials],
        "chosen": [trial is chosen for trial in trials],
    }
    columns |= _columns([trial.products() for trial in trials])
    return pa.table(columns)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: if a parameter is sometimes a number and sometimes a list, all become text."""
    kinds = {float if isinstance(value, int | float) else type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 else [None if value is None else str(value) for value in values]


def write_results(out: Path, trials: Sequence[Trial], kind: TrialKind, *, title: str) -> None:
    """Writes results.parquet into `out`, and, if a trial has finished, pareto.png, the kind's own figures, and best.yaml."""
    pq.write_table(results_table(trials, kind), out / RESULTS_FILE)
    finished, chosen = [trial for trial in trials if trial.status == "finished"], chosen_trial(trials)
    if chosen is None:
        return
    figure = pareto_figure(
        {kind.trial.cost_names[cost]: [trial.costs[cost] for trial in finished] for cost in kind.costs},
        [trial.best[trial.quality] for trial in finished],
        names=[trial.name for trial in finished],
        quality_name=kind.trial.quality_name,
        chosen=chosen.name,
        title=title,
    )
    save_png(figure, out / PARETO_FILE)
    kind.draw(finished, out)
    best = kind.best_config(chosen, out)
    write_config(best.out, best, location=str(out / BEST_FILE))


def trial_table(
    trials: Sequence[Trial], running: Mapping[str, Mapping[str, float]], *, of: type[Trial], costs: Sequence[str] = ()
) -> "Table":
    """The trials for the terminal; the Pareto set is marked *, the chosen one **. running: last record of unfinished trials."""
    from rich.table import Table

    front, chosen = pareto_trials(trials, costs) if costs else set(), chosen_trial(trials) if costs else None
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    shown = [cost for cost in of.cost_names if any(cost in trial.costs for trial in trials)]
    table = Table()
    for heading in ("trial", *(name.partition(".")[2] or name for name in names), *of.shown({}), *shown, ""):
        table.add_column(heading, justify="left" if heading in ("trial", "") else "right", overflow="fold")
    for trial in trials:
        record = trial.best or running.get(trial.name, {})
        state = "failed: " + trial.reason if trial.status == "failed" else trial.status
        if trial.status == "unfinished":
            state = "running" if record else "waiting"
        mark = " **" if trial is chosen else " *" if trial.name in front else ""
        table.add_row(
            trial.name,
            *(_short(trial.parameters.get(name)) for name in names),
            *of.shown(record).values(),
            *(_short(trial.costs.get(cost)) for cost in shown),
            state + mark,
        )
    return table


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
