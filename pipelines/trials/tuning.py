"""A sweep on Ray Tune for any kind of trial: runs missing trials, and writes tables, figures and best.yaml."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from eet.errors import InputError
from eet.storage import Claim
from pipelines.configs.space import drawn_parameters, has_grid
from pipelines.configs.sweep_options import TRIALS, SweepOptions
from pipelines.job.cluster import ClusterResources, Node, connected
from pipelines.job.errors import JobFailed
from pipelines.job.held_output import held_output
from pipelines.job.output import check_same_options, config_values, write_config
from pipelines.job.tracking import TrackedRun, default_tracking_uri, read_run_id, tracked, write_run_id
from pipelines.trials.kind import TrialKind
from pipelines.trials.outcomes import TrialOutcomes
from pipelines.trials.process import PLANNED
from pipelines.trials.results import BEST_FILE, PARETO_FILE, RESULTS_FILE, pareto_trials, trial_table, write_results
from pipelines.trials.search import optuna_search
from pipelines.trials.trial import Trial, chosen_trial, read_trials

TUNE_STATE, SWEEP_FILE = "tune", "sweep.json"
# Options that may differ in a resumed sweep, because they do not change a trial. Additional trials are drawn after the first ones.
FREE_ON_RESUME = ("resume", "address", "tracking_uri", "dry_run", "out", "trials", "concurrent")


@dataclass(frozen=True)
class SweepResult:
    """The trials, names of the Pareto set, the chosen trial (None after a dry run), and its measures by `TrialKind.test`.

    These are {protocol: {measure: value}} for a training, and {'before', 'reranked': {measure: value}} for a re-ranking.
    """

    trials: list[Trial]
    pareto: set[str]
    chosen: Trial | None
    test: dict[str, dict[str, float]]


def run_sweep(config: SweepOptions, read_kind: Callable[[str], TrialKind], *, free_on_resume: Sequence[str] = ()) -> SweepResult:
    """Runs the trials that are not finished yet, and writes tables, figures and best.yaml into config.out.

    Args:
        config: options of the sweep.
        read_kind: tracking URI -> the kind of trial, with all that trials share.
        free_on_resume: further flags of this sweep that may differ when it is resumed.
    """
    with held_output(config) as claim:
        return _run_held(config, read_kind, free_on_resume, claim)


def _run_held(
    config: SweepOptions, read_kind: Callable[[str], TrialKind], free_on_resume: Sequence[str], claim: Claim | None
) -> SweepResult:
    out = Path(config.out).absolute()
    _check_output(config, out, free_on_resume)
    space = config.drawn_space()
    # Passed to every trial, whose own folder is elsewhere.
    tracking_uri = config.tracking_uri or default_tracking_uri(config.out)
    kind = read_kind(tracking_uri)
    planned = [] if config.search == "optuna" else drawn_parameters(space, trials=config.trials, seed=config.seed)
    if has_grid(space):
        print(f"note: {config.space} is a grid of {len(planned)} trials; --trials is not used")
    elif planned and len(planned) < config.trials:
        print(f"note: {config.space} has {len(planned)} different draws in {config.trials}: each is {kind.done} once")
    # Optuna's points are not drawn yet; but if there are few distinct ones, many random draws contain them all.
    drawn = planned or drawn_parameters(space, trials=200, seed=config.seed)
    kind.check(drawn)
    if config.dry_run:
        _dry_run(config, kind, space, planned)
        return SweepResult([], set(), None, {})
    assert claim is not None
    write_config(config.out, config)
    with (
        tracked(f"sweep {out.name}", tracking_uri, config.out, config_values(config), run_id=read_run_id(out / SWEEP_FILE)) as run,
        connected(config.ray_address) as resources,
    ):
        write_run_id(out / SWEEP_FILE, run)
        run.end_children("%", "KILLED")  # left by a killed sweep
        if len(resources.nodes) > 1 and tracking_uri.startswith("sqlite:"):
            print("note: trials on several nodes write to one sqlite file; if that fails, name an MLflow server by --tracking-uri")
        kind.begin(run, drawn, claim)
        left = _run_trials(config, out, kind, space, planned, resources, run, claim)
        claim.check()
        trials = kind.with_measured_costs(read_trials(out / TRIALS, planned, of=kind.trial), resources)
        write_results(out, trials, kind, title=f"{config.space}: accuracy against cost")
        _print(trials, kind)
        if left:
            raise JobFailed(f"stopped with {left} trials still to run, and {kind.unseen} not used yet: continue with --resume")
        chosen = chosen_trial(trials)
        if chosen is None:
            reasons = {trial.reason for trial in trials if trial.reason}
            raise JobFailed(f"no trial finished: {'; '.join(sorted(reasons)[:3])}")
        test = kind.test(chosen, resources)
        for name, measures in test.items():
            run.log_metrics({f"test_{name}_{measure}": value for measure, value in measures.items()}, 0)
        run.log_metrics({chosen.quality: chosen.best[chosen.quality], **{cost: chosen.costs[cost] for cost in kind.costs}}, 0)
        for file in [*sorted(out.glob("*.png")), out / RESULTS_FILE, out / BEST_FILE, *out.glob("metrics.json")]:
            run.log_artifact(file)
    print(f"chosen: {chosen.folder} ({', '.join(f'{name} {value}' for name, value in chosen.parameters.items())})")
    print(f"{kind.advice} --config {out / BEST_FILE}; trials: {out / RESULTS_FILE}; {out / PARETO_FILE}")
    return SweepResult(trials, pareto_trials(trials, kind.costs), chosen, test)


def _check_output(config: SweepOptions, out: Path, free_on_resume: Sequence[str]) -> None:
    exists = (out / SWEEP_FILE).exists()
    if not config.resume:
        if exists or (out / TRIALS).exists():
            raise InputError(f"{out} holds a sweep already: continue it with --resume, or choose another --out")
        return
    check_same_options(config, (*FREE_ON_RESUME, *free_on_resume))


def _run_trials(
    config: SweepOptions,
    out: Path,
    kind: TrialKind,
    space: Mapping[str, Any],
    planned: list[dict[str, Any]],
    resources: ClusterResources,
    run: TrackedRun,
    claim: Claim,
) -> int:
    """Runs planned trials that are not finished, or lets Optuna draw the missing ones. Returns the number of trials left if stopped."""
    known = read_trials(out / TRIALS, planned, of=kind.trial)
    again = [trial.parameters for trial in known if trial.to_run]
    count = len(again) if planned else config.trials - sum(not trial.to_run for trial in known)
    if count < 1:
        print(f"all {len(known)} trials are finished")
        return 0
    share = kind.share(resources, trials=count)
    print(f"sweep {config.space}: {count} trials, {share.concurrent} at once, each {kind.each(share, space)}")
    outcomes = TrialOutcomes(out / TRIALS, of=kind.trial, progress=kind.progress, run=run, planned=planned, scheduler=kind.stopping(space))
    search = None
    if not planned:
        search = optuna_search(space, out, quality=kind.trial.quality, costs=kind.weighed, again=again, known=len(known), seed=config.seed)
    # Tune's own files for each trial would repeat the contents of the trials' folders.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    tuner = tune.Tuner(
        kind.trainable(share, run, claim),
        param_space={PLANNED: tune.grid_search(again)} if planned else dict(space),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=kind.scheduler(space),
            num_samples=1 if planned else count,
            max_concurrent_trials=share.concurrent,
            reuse_actors=kind.processes_last,
        ),
        run_config=tune.RunConfig(name=TUNE_STATE, storage_path=str(out), callbacks=[outcomes], verbose=0),
    )
    try:
        results = tuner.fit()
    except KeyboardInterrupt:
        run.end_children("%", "KILLED")
        raise
    finally:
        outcomes.close()
    left = sum(trial.status == "unfinished" for trial in read_trials(out / TRIALS, planned, of=kind.trial))
    left += 0 if planned else count - len(results)
    if left:
        run.end_children("%", "KILLED")
    return left


def _print(trials: list[Trial], kind: TrialKind) -> None:
    from rich.console import Console

    Console(width=None if os.isatty(1) else 180).print(trial_table(trials, {}, of=kind.trial, costs=kind.costs))
    print(f"** chosen by {kind.trial.quality_name}; * no other beats it in {kind.trial.short_name} and {', '.join(kind.costs)}")


def _dry_run(config: SweepOptions, kind: TrialKind, space: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]) -> None:
    """Prints the kind's estimate for the cluster. For a local one, Ray is not started."""
    if config.ray_address == "local":
        resources = ClusterResources((Node(os.cpu_count() or 1, torch.cuda.device_count()),))
    else:
        with connected(config.ray_address) as resources:
            pass
    for line in kind.estimate(planned[0] if planned else {}, space, resources, trials=len(planned) or config.trials):
        print(line)
