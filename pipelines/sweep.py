"""`eet sweep`: many trials over a search space on Ray Tune, for whoever must pick a model, or a way to match: accuracy against cost on
their own data.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune

from eet.storage import write_text
from pipelines.cli import JobFailed
from pipelines.cluster import ClusterResources, Node, connected
from pipelines.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.output import changed_flags, check_same_options, config_values, write_config
from pipelines.sweep_rerankings import METRICS_FILE, GivenHitsOptions, Rerankings
from pipelines.sweep_results import BEST_FILE, PARETO_FILE, RESULTS_FILE, pareto_trials, trial_table, write_results
from pipelines.sweep_trainings import Trainings
from pipelines.tracking import TrackedRun, default_tracking_uri, tracked
from pipelines.trial_kind import TrialKind
from pipelines.trial_outcomes import TrialOutcomes
from pipelines.trial_run import PLANNED
from pipelines.trial_search import optuna_search
from pipelines.trials import Trial, chosen_trial, drawn_parameters, has_grid, read_trials

SPACES = {
    "loss_weights": "tune_spaces.loss_weights.loss_weights",
    "keep_ratios": "tune_spaces.keep_ratios.keep_ratios",
    "bits": "tune_spaces.bits.bits",
    "joint": "tune_spaces.joint.joint",
    "matching": "tune_spaces.matching.matching",
}
TRIALS, TUNE_STATE, SWEEP_FILE = "trials", "tune", "sweep.json"
OF_TRAININGS = ("scheduler", "grace_epochs", "costs", "teacher", "shared_teacher", "weights", "data", "student", "loss", "train")
OF_RERANKINGS = ("match",)
# What a resumed sweep may say anew: none of it changes a trial. More trials are drawn behind the first ones.
FREE_ON_RESUME = (
    "resume",
    "address",
    "tracking_uri",
    "dry_run",
    "out",
    "trials",
    "concurrent",
    "costs",
    "train.cpus_per_worker",
    "train.gpus_per_worker",
    "train.loader_workers",
    "train.max_failures",
)


@dataclass(kw_only=True)
class SweepConfig(JobOptions):
    """Runs one trial for each point of a search space, and says which to take. What is not in the space is as the flags say.

    A trial trains a student, as `eet distill` would, and is judged by validation mAP: the test split is measured once, for the chosen one.
    With --match.hits a trial trains nothing: it re-ranks these hits, as `eet rerank` would, and is judged by MAP@R on half of their
    queries; the chosen one is measured once on the other half. Flags of the one kind are refused with the other.

    Attributes:
        out: Folder for the table of trials, figures, best.yaml, and the trials' own folders.
        space: loss_weights, keep_ratios, bits, joint; matching, with --match.hits; or the dotted path of a function of your own
            (module.function, on PYTHONPATH) that gives a Ray Tune dictionary over the flags of `eet distill`, or with --match.hits of
            `eet rerank`.
        space_options: What the space is given, for example '{form: grid}'.
        trials: How many, where the space is random; a grid has its own number.
        search: random draws (and grids), or optuna (extra 'optuna'), which draws the next trial by what the others reached.
        scheduler: What stops hopeless trainings: asha, median, or none. Default asha for random draws whose cost is the same, else none: by
            mAP alone the cheap end of a Pareto set would be stopped first, and a grid is there to be complete.
        grace_epochs: Epochs before a training may be stopped; default a ninth of all.
        costs: What a model costs, for the Pareto set: gmacs (multiply-adds of an image), latency_ms (timed behind the last trial on an idle
            device), code_bytes, row_bytes (with tokens). Of re-rankings it is always the milliseconds a query, timed behind the last one.
        concurrent: Trials at once; default as many as the cluster holds with a CPU (and a share of a GPU) for each worker.
        teacher: Bundle of a trained teacher for all trials.
        shared_teacher: Train one teacher for each code length first, and let all trials follow it, frozen: a trial costs the student alone.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        resume: Go on with a sweep in --out that was cut off: failed trials again, finished ones never.
        data: Labelled images.
        student: The network.
        loss: The objective.
        train: The training of each trial.
        match: Given hits, and what of their re-ranking is the same for all trials.
    """

    out: str
    space: str
    space_options: dict[str, Any] = field(default_factory=dict)
    trials: int = 20
    search: Literal["random", "optuna"] = "random"
    scheduler: Literal["asha", "median", "none"] | None = None
    grace_epochs: int | None = None
    costs: tuple[Literal["gmacs", "latency_ms", "code_bytes", "row_bytes"], ...] = ("gmacs", "code_bytes")
    concurrent: int | None = None
    teacher: str | None = None
    shared_teacher: bool = False
    weights: str = "timm"
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    match: GivenHitsOptions = field(default_factory=GivenHitsOptions)

    def problems(self) -> list[str]:
        # Of a group that is not used only that it was given is wrong.
        found = super().problems(leave=OF_TRAININGS if self.reranks else OF_RERANKINGS)
        found += self.local_only("out", "teacher", "weights")
        for name in ("trials", "grace_epochs", "concurrent"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if self.reranks and (given := self._given(OF_TRAININGS)):
            found.append(f"{', '.join(given)}: of trainings, but with --match.hits or --space matching trials re-rank hits; leave them out")
        if not self.reranks and (given := self._given(OF_RERANKINGS)):
            found.append(f"{', '.join(given)}: of re-rankings, but without --match.hits trials are trainings; give it, or leave them out")
        kind = self.kind
        found += kind.problems()
        try:
            space = space_of(self.space, self.space_options)
            drawn = drawn_parameters(space, trials=max(1, self.trials), seed=self.seed)
            found += dict.fromkeys(f"--space: {problem}" for parameters in drawn for problem in kind.trial_problems(parameters))
        except ValueError as error:
            return [*found, f"--space: {error}"]
        if self.search == "optuna":
            if has_grid(space):
                found.append("--search optuna draws its own points: use the random form of the space")
            if importlib.util.find_spec("optuna") is None:
                found.append("--search optuna needs the package optuna: pip install 'eet[optuna]'")
        return found

    def _given(self, names: Sequence[str]) -> list[str]:
        """Those of these flags, and of the groups of these names, that are not as they are by default."""
        return [f"--{flag}" for flag in changed_flags(self) if flag.partition(".")[0] in names]

    @property
    def reranks(self) -> bool:
        """Whether trials are re-rankings of given hits, not trainings."""
        return self.match.hits is not None or self.space == "matching"

    @property
    def kind(self) -> TrialKind:
        """What a trial is."""
        trials = Path(self.out).absolute() / TRIALS
        return Rerankings(self, trials) if self.reranks else Trainings(self, trials)


@dataclass(frozen=True)
class SweepResult:
    """The trials, names of the Pareto set, the chosen trial (None after a dry run) and what `TrialKind.test` measured of it: of a training
    {protocol: {measure: value}}, of a re-ranking {'before', 'reranked': {measure: value}}.
    """

    trials: list[Trial]
    pareto: set[str]
    chosen: Trial | None
    test: dict[str, dict[str, float]]


def run(config: SweepConfig) -> SweepResult:
    """Runs the trials that are not finished yet, and writes tables, figures and best.yaml into config.out."""
    out = Path(config.out).absolute()
    _check_output(config, out)
    space = space_of(config.space, config.space_options)
    given = config
    # Said to every trial, whose own folder lies elsewhere.
    config = dataclasses.replace(config, tracking_uri=config.tracking_uri or default_tracking_uri(config.out))
    kind = config.kind
    kind.read()
    planned = [] if config.search == "optuna" else drawn_parameters(space, trials=config.trials, seed=config.seed)
    if has_grid(space):
        print(f"note: {config.space} is a grid of {len(planned)} trials; --trials is not used")
    elif planned and len(planned) < config.trials:
        print(f"note: {config.space} has {len(planned)} different draws in {config.trials}: each is {kind.done} once")
    # Optuna's points are not drawn yet; but where there are few different ones, many random draws hold them all.
    kind.check(planned or drawn_parameters(space, trials=200, seed=config.seed))
    if config.dry_run:
        _dry_run(config, kind, space, planned)
        return SweepResult([], set(), None, {})
    write_config(given.out, given)
    begun = json.loads((out / SWEEP_FILE).read_text())["run"] if (out / SWEEP_FILE).exists() else None
    with (
        tracked(f"sweep {out.name}", config.tracking_uri, config.out, config_values(config), run_id=begun) as run,
        connected(config.ray_address) as resources,
    ):
        write_text(str(out / SWEEP_FILE), json.dumps({"run": run.run_id}) + "\n")
        run.end_children("%", "KILLED")  # of a sweep that was killed
        if len(resources.nodes) > 1 and str(config.tracking_uri).startswith("sqlite:"):
            print("note: trials on several nodes write to one sqlite file; if that fails, name an MLflow server by --tracking-uri")
        kind.begin(run)
        left = _run_trials(config, out, kind, space, planned, resources, run)
        trials = kind.with_measured_costs(read_trials(out / TRIALS, planned, of=kind.trial), resources)
        write_results(out, trials, kind, title=f"{config.space}: accuracy against cost")
        _print(trials, kind)
        if left:
            raise JobFailed(f"stopped with {left} trials still to run, and {kind.unseen} not touched: go on with --resume")
        chosen = chosen_trial(trials)
        if chosen is None:
            reasons = {trial.reason for trial in trials if trial.reason}
            raise JobFailed(f"no trial finished: {'; '.join(sorted(reasons)[:3])}")
        test = kind.test(chosen, resources)
        for name, measures in test.items():
            run.log_metrics({f"test_{name}_{measure}": value for measure, value in measures.items()}, 0)
        run.log_metrics({chosen.quality: chosen.best[chosen.quality], **{cost: chosen.costs[cost] for cost in kind.costs}}, 0)
        for file in [*sorted(out.glob("*.png")), out / RESULTS_FILE, out / BEST_FILE, *out.glob(METRICS_FILE)]:
            run.log_artifact(file)
    print(f"chosen: {chosen.folder} ({', '.join(f'{name} {value}' for name, value in chosen.parameters.items())})")
    print(f"{kind.advice} --config {out / BEST_FILE}; trials: {out / RESULTS_FILE}; {out / PARETO_FILE}")
    return SweepResult(trials, pareto_trials(trials, kind.costs), chosen, test)


def space_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The Tune dictionary of a space, by its name or a function's dotted path. ValueError for an unknown one or options it cannot take."""
    path = SPACES.get(name, name)
    module_name, _, function_name = path.rpartition(".")
    if os.getcwd() not in sys.path:  # as of `python -m`: a module beside the user is found by the console script too
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} is neither one of {', '.join(SPACES)} nor the dotted path of a function: {error}") from error
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise ValueError(f"{name}{inspect.signature(function)} cannot take --space_options {dict(options)}: {error}") from error
    return function(**options)


def _check_output(config: SweepConfig, out: Path) -> None:
    begun = (out / SWEEP_FILE).exists()
    if not config.resume:
        if begun or (out / TRIALS).exists():
            raise ValueError(f"{out} holds a sweep already: go on with --resume, or choose another --out")
        return
    check_same_options(config, (*FREE_ON_RESUME, *(OF_TRAININGS if config.reranks else OF_RERANKINGS)))


def _run_trials(
    config: SweepConfig,
    out: Path,
    kind: TrialKind,
    space: Mapping[str, Any],
    planned: list[dict[str, Any]],
    resources: ClusterResources,
    run: TrackedRun,
) -> int:
    """Runs what is planned and not finished, or lets Optuna draw what is missing. Returns how many trials were left when it was stopped."""
    known = read_trials(out / TRIALS, planned, of=kind.trial)
    again = [trial.parameters for trial in known if trial.to_run]
    count = len(again) if planned else config.trials - sum(not trial.to_run for trial in known)
    if count < 1:
        print(f"all {len(known)} trials are there")
        return 0
    share = kind.share(resources, trials=count)
    print(f"sweep {config.space}: {count} trials, {share.concurrent} at once, each {kind.each(share, space)}")
    outcomes = TrialOutcomes(out / TRIALS, of=kind.trial, progress=kind.progress, run=run, planned=planned, scheduler=kind.stopping(space))
    search = None
    if not planned:
        search = optuna_search(space, out, quality=kind.trial.quality, costs=kind.weighed, again=again, known=len(known), seed=config.seed)
    # Tune's own files for each trial would repeat what the trials' folders hold.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    tuner = tune.Tuner(
        kind.trainable(share, run),
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
    finally:
        outcomes.close()
    # At a Ctrl-C Tune ends its trials and returns as if all were done.
    left = sum(trial.status == "unfinished" for trial in read_trials(out / TRIALS, planned, of=kind.trial))
    left += 0 if planned else count - len(results)
    if left:
        run.end_children("%", "KILLED")
    return left


def _print(trials: list[Trial], kind: TrialKind) -> None:
    from rich.console import Console

    Console(width=None if os.isatty(1) else 180).print(trial_table(trials, {}, of=kind.trial, costs=kind.costs))
    print(f"** chosen by {kind.trial.quality_name}; * no other beats it in {kind.trial.short_name} and {', '.join(kind.costs)}")


def _dry_run(config: SweepConfig, kind: TrialKind, space: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]) -> None:
    """What the kind estimates for the cluster there is; of a local one, nothing is started to know it."""
    if config.ray_address == "local":
        resources = ClusterResources((Node(os.cpu_count() or 1, torch.cuda.device_count()),))
    else:
        with connected(config.ray_address) as resources:
            pass
    for line in kind.estimate(planned[0] if planned else {}, space, resources, trials=len(planned) or config.trials):
        print(line)
