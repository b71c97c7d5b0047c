"""What a sweep leaves: a table of its trials on disk and on the terminal, figures, and the config of the chosen one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eet.figures import pareto_figure, save_png, weight_curves_figure
from eet.metrics import pareto_set
from pipelines.distill import DistillConfig
from pipelines.output import write_config
from pipelines.trials import Trial, chosen_trial, trial_config

if TYPE_CHECKING:
    from rich.table import Table

RESULTS_FILE, PARETO_FILE, BEST_FILE = "results.parquet", "pareto.png", "best.yaml"
COSTS = {"gmacs": "GMACs an image", "latency_ms": "ms an image", "code_bytes": "bytes a code", "row_bytes": "bytes a row with tokens"}
WEIGHTS = {"loss.beta": "beta", "loss.sigma": "sigma"}  # the paper's figures 4 and 5


def pareto_trials(trials: Sequence[Trial], costs: Sequence[str]) -> set[str]:
    """Names of the finished trials that no other beats in validation mAP and every one of `costs`."""
    finished = [trial for trial in trials if trial.status == "finished"]
    values = [[trial.best["val_mAP"], *(-trial.costs[cost] for cost in costs)] for trial in finished]
    stands = pareto_set(np.array(values).reshape(len(finished), 1 + len(costs)))
    return {trial.name for trial, stand in zip(finished, stands, strict=True) if stand}


def results_table(trials: Sequence[Trial], costs: Sequence[str]) -> pa.Table:
    """One row a trial.

    Columns: trial, status ('finished', 'stopped', 'failed', 'unfinished'), reason, each parameter under its flag's name, val_mAP (of the
    best epoch), epoch (which that was), epochs (that were trained), images_per_s (median), the costs, pareto, chosen, bundle (its path).
    What is not known of a trial is null.
    """
    front, chosen = pareto_trials(trials, costs), chosen_trial(trials)
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    columns: dict[str, list[Any]] = {
        "trial": [trial.name for trial in trials],
        "status": [trial.status for trial in trials],
        "reason": [trial.reason for trial in trials],
    }
    columns |= {name: _column([trial.parameters.get(name) for trial in trials]) for name in names}
    columns |= {
        "val_mAP": [trial.best.get("val_mAP") for trial in trials],
        "epoch": [int(trial.best["epoch"]) if trial.best else None for trial in trials],
        "epochs": [len(trial.history) for trial in trials],
        "images_per_s": [float(np.median([r["images_per_s"] for r in trial.history])) if trial.history else None for trial in trials],
    }
    columns |= {cost: [trial.costs.get(cost) for trial in trials] for cost in COSTS}
    columns |= {
        "pareto": [trial.name in front for trial in trials],
        "chosen": [trial is chosen for trial in trials],
        "bundle": [str(trial.folder) if trial.status == "finished" else None for trial in trials],
    }
    return pa.table(columns)


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: where a parameter is now a number and now a list, all as text."""
    kinds = {float if isinstance(value, int | float) else type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 else [None if value is None else str(value) for value in values]


def weight_line(trials: Sequence[Trial], weight: str) -> list[Trial]:
    """Of finished trials those that differ in `weight` alone, in its order: the largest such group, of equal ones that with the best trial.
    Empty where no two do, as in a random space.
    """
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        others = {name: value for name, value in trial.parameters.items() if name != weight}
        alike.setdefault(str(sorted(others.items())), []).append(trial)
    line = max(alike.values(), key=lambda group: (len(group), max(trial.best["val_mAP"] for trial in group)))
    return sorted(line, key=lambda trial: trial.parameters[weight]) if len(line) > 1 else []


def write_results(
    out: Path, trials: Sequence[Trial], costs: Sequence[str], base: DistillConfig, *, teachers: str | None, title: str
) -> None:
    """results.parquet, pareto.png, map_over_beta.png and map_over_sigma.png where these were swept, and best.yaml, into `out`."""
    pq.write_table(results_table(trials, costs), out / RESULTS_FILE)
    finished, chosen = [trial for trial in trials if trial.status == "finished"], chosen_trial(trials)
    if chosen is None:
        return
    quality = [trial.best["val_mAP"] for trial in finished]
    figure = pareto_figure(
        {COSTS[cost]: [trial.costs[cost] for trial in finished] for cost in costs},
        quality,
        names=[trial.name for trial in finished],
        quality_name="validation mAP",
        chosen=chosen.name,
        title=title,
    )
    save_png(figure, out / PARETO_FILE)
    for weight, name in WEIGHTS.items():
        drawn = [trial for trial in finished if trial.parameters.get(weight, 0) > 0]
        if len({trial.parameters[weight] for trial in drawn}) < 2:
            continue
        by_bits: dict[int, list[Trial]] = {}
        for trial in drawn:
            by_bits.setdefault(trial.parameters.get("student.bits", base.student.bits), []).append(trial)
        points = {f"{bits} bits": _points(by_bits[bits], weight) for bits in sorted(by_bits)}
        lines = {f"{bits} bits": _points(line, weight) for bits in by_bits if (line := weight_line(by_bits[bits], weight))}
        save_png(
            weight_curves_figure(lines, points, weight=name, quality="validation mAP", title=f"mAP over {name}"),
            out / f"map_over_{name}.png",
        )
    best = trial_config(base, chosen.parameters, out=str(out / "best"), teachers=teachers)
    write_config(best.out, best, location=str(out / BEST_FILE))


def _points(trials: Sequence[Trial], weight: str) -> tuple[list[float], list[float]]:
    return [trial.parameters[weight] for trial in trials], [trial.best["val_mAP"] for trial in trials]


def trial_table(trials: Sequence[Trial], running: Mapping[str, Mapping[str, float]], costs: Sequence[str] = ()) -> "Table":
    """The trials for the terminal; the Pareto set is marked *, the chosen one **. running: last record of those not finished yet."""
    from rich.table import Table

    front, chosen = pareto_trials(trials, costs) if costs else set(), chosen_trial(trials) if costs else None
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    shown = [cost for cost in COSTS if any(cost in trial.costs for trial in trials)]
    table = Table()
    for heading in ("trial", *(name.partition(".")[2] or name for name in names), "val mAP", "epoch", *shown, ""):
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
            f"{record['val_mAP']:.4f}" if record else "",
            str(int(record["epoch"])) if record else "",
            *(_short(trial.costs.get(cost)) for cost in shown),
            state + mark,
        )
    return table


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
