"""`eet sweep`: many trainings over a search space on Ray Tune, for whoever must pick a model: accuracy against cost on their own data."""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray import tune

from eet.vit import read_bundle_record
from pipelines import encode, evaluate, train_teacher
from pipelines.cli import JobFailed
from pipelines.cluster import ClusterResources, Node, connected, largest_share, places
from pipelines.distill import DistillConfig, plan_of
from pipelines.network_cost import latencies_ms
from pipelines.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.output import absolute, check_same_options, config_values, exists, write_config, write_text
from pipelines.progress import duration
from pipelines.sweep_results import BEST_FILE, COSTS, PARETO_FILE, RESULTS_FILE, pareto_trials, trial_table, write_results
from pipelines.tracking import TrackedRun, default_tracking_uri, tracked
from pipelines.training import LabelledImages, measured_rate, read_labelled_images, run_training
from pipelines.trial_outcomes import TrialOutcomes
from pipelines.trial_run import PLANNED, run_trial
from pipelines.trial_search import default_scheduler, optuna_search, scheduler
from pipelines.trials import (
    BUNDLE_FILE,
    Trial,
    add_costs,
    chosen_trial,
    drawn_parameters,
    has_grid,
    read_trials,
    teacher_folder,
    with_parameters,
)

SPACES = {
    "loss_weights": "tune_spaces.loss_weights.loss_weights",
    "keep_ratios": "tune_spaces.keep_ratios.keep_ratios",
    "bits": "tune_spaces.bits.bits",
    "joint": "tune_spaces.joint.joint",
}
TRIALS, TEACHERS, TUNE_STATE, SWEEP_FILE = "trials", "teachers", "tune", "sweep.json"
TEST_GALLERY, TEST_EVALUATION = "test", "test_evaluation"
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
    """Trains one student for each point of a search space, as `eet distill` would, and says which to take.

    What is not in the space is as the flags say. Trials are judged by validation mAP: the test split is measured once, for the chosen one.

    Attributes:
        out: Folder for the table of trials, figures, best.yaml, and the trials' own folders.
        space: loss_weights, keep_ratios, bits, joint, or the dotted path of a function of your own (module.function, on PYTHONPATH) that
            gives a Ray Tune dictionary over the flags of `eet distill`.
        space_options: What the space is given, for example '{form: grid}'.
        trials: How many, where the space is random; a grid has its own number.
        search: random draws (and grids), or optuna (extra 'optuna'), which draws the next trial by what the others reached.
        scheduler: What stops hopeless trials: asha, median, or none. Default asha for random draws whose cost is the same, else none: by
            mAP alone the cheap end of a Pareto set would be stopped first, and a grid is there to be complete.
        grace_epochs: Epochs before a trial may be stopped; default a ninth of all.
        costs: What a model costs, for the Pareto set: gmacs (multiply-adds of an image), latency_ms (timed behind the last trial on an idle
            device), code_bytes, row_bytes (with tokens).
        concurrent: Trials at once; default as many as the cluster holds with a CPU (and a share of a GPU) for each worker.
        teacher: Bundle of a trained teacher for all trials.
        shared_teacher: Train one teacher for each code length first, and let all trials follow it, frozen: a trial costs the student alone.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        resume: Go on with a sweep in --out that was cut off: failed trials again, finished ones never.
        data: Labelled images.
        student: The network.
        loss: The objective.
        train: The training of each trial.
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

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out", "teacher", "weights")
        for name in ("trials", "grace_epochs", "concurrent"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if not self.costs or len(set(self.costs)) < len(self.costs):
            found.append(f"--costs {list(self.costs)}: name one or more of {', '.join(COSTS)}, each once")
        if self.teacher and self.shared_teacher:
            found.append("--teacher and --shared_teacher are both given: the first is trained already, the second would be trained")
        try:
            space = space_of(self.space, self.space_options)
            found += self._problems_of_trials(space)
        except ValueError as error:
            return [*found, f"--space: {error}"]
        if self.search == "optuna":
            if has_grid(space):
                found.append("--search optuna draws its own points: use the random form of the space")
            if importlib.util.find_spec("optuna") is None:
                found.append("--search optuna needs the package optuna: pip install 'eet[optuna]'")
        return found

    def _problems_of_trials(self, space: Mapping[str, Any]) -> list[str]:
        """What is impossible in trials and not in the flags that they share, each once."""
        ours = set(super().problems())
        configs = [with_parameters(self.base, drawn) for drawn in drawn_parameters(space, trials=max(1, self.trials), seed=self.seed)]
        groups = [group for config in configs for group in (config.student, config.loss, config.train)]
        return list(dict.fromkeys(f"--space: {problem}" for group in groups for problem in group.problems() if problem not in ours))

    @property
    def base(self) -> DistillConfig:
        """The training that a trial is, before its parameters."""
        data = dataclasses.replace(self.data, root=absolute(self.data.root), table=absolute(self.data.table))
        return DistillConfig(
            out=str(Path(self.out).absolute() / TRIALS),
            teacher=absolute(self.teacher),
            weights=self.weights if self.weights in ("timm", "none") else str(absolute(self.weights)),
            data=data,
            student=self.student,
            loss=self.loss,
            train=self.train,
            seed=self.seed,
            address=self.address,
            tracking_uri=self.tracking_uri,
        )


@dataclass(frozen=True)
class SweepResult:
    """The trials, names of the Pareto set, the chosen trial (None after a dry run) and its test measures {protocol: {measure: value}}."""

    trials: list[Trial]
    pareto: set[str]
    chosen: Trial | None
    test: dict[str, dict[str, float]]


def run(config: SweepConfig) -> SweepResult:
    """Runs the trials that are not finished yet, and writes tables, figures and best.yaml into config.out."""
    out = Path(config.out).absolute()
    _check_output(config, out)
    space = space_of(config.space, config.space_options)
    images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed)
    if images.val is None:
        raise ValueError("trials are judged by validation mAP, and no image is held out: use --train.validation_share 0.1, or a val split")
    planned = [] if config.search == "optuna" else drawn_parameters(space, trials=config.trials, seed=config.seed)
    if has_grid(space):
        print(f"note: {config.space} is a grid of {len(planned)} trials; --trials is not used")
    elif planned and len(planned) < config.trials:
        print(f"note: {config.space} has {len(planned)} different draws in {config.trials}: each is trained once")
    # Optuna's points are not drawn yet; but lengths are few, and many random draws hold them all.
    drawn = planned or drawn_parameters(space, trials=200, seed=config.seed)
    lengths = sorted({with_parameters(config.base, parameters).student.bits for parameters in drawn})
    if config.teacher and lengths != [teacher_bits := read_bundle_record(config.teacher).num_bits]:
        raise ValueError(
            f"--teacher {config.teacher} has {teacher_bits} bits, the trials {lengths}: use --shared_teacher, which trains one each"
        )
    if config.dry_run:
        _dry_run(config, images, planned)
        return SweepResult([], set(), None, {})
    write_config(config.out, config)
    begun = json.loads((out / SWEEP_FILE).read_text())["run"] if (out / SWEEP_FILE).exists() else None
    # Said to every trial, whose own folder lies elsewhere.
    config = dataclasses.replace(config, tracking_uri=config.tracking_uri or default_tracking_uri(config.out))
    with (
        tracked(f"sweep {out.name}", config.tracking_uri, config.out, config_values(config), run_id=begun) as run,
        connected(config.ray_address) as resources,
    ):
        write_text(str(out / SWEEP_FILE), json.dumps({"run": run.run_id}) + "\n")
        run.end_children("%", "KILLED")  # of a sweep that was killed
        if len(resources.nodes) > 1 and str(config.tracking_uri).startswith("sqlite:"):
            print("note: trials on several nodes write to one sqlite file; if that fails, name an MLflow server by --tracking-uri")
        _train_teachers(config, out, images, lengths, run)
        teachers = str(out / TEACHERS) if config.shared_teacher else None
        left = _run_trials(config, out, space, planned, images, resources, run, teachers)
        trials = read_trials(out / TRIALS, planned)
        if "latency_ms" in config.costs:
            trials = _with_latency(trials, resources, config)
        write_results(out, trials, config.costs, config.base, teachers=teachers, title=f"{config.space}: accuracy against cost")
        _print(trials, config)
        if left:
            raise JobFailed(f"stopped with {left} trials still to run, and the test split not touched: go on with --resume")
        chosen = chosen_trial(trials)
        if chosen is None:
            reasons = {trial.reason for trial in trials if trial.reason}
            raise JobFailed(f"no trial finished: {'; '.join(sorted(reasons)[:3])}")
        test = _test(config, chosen, images, gpu=resources.gpus > 0)
        for protocol, measures in test.items():
            run.log_metrics({f"test_{protocol}_{name}": value for name, value in measures.items()}, 0)
        run.log_metrics({"val_mAP": chosen.best["val_mAP"], **{cost: chosen.costs[cost] for cost in config.costs}}, 0)
        for file in sorted(out.glob("*.png")) + [out / RESULTS_FILE, out / BEST_FILE]:
            run.log_artifact(file)
    print(f"chosen: {chosen.folder} ({', '.join(f'{name} {value}' for name, value in chosen.parameters.items())})")
    print(f"train it again: eet distill --config {out / BEST_FILE}; trials: {out / RESULTS_FILE}; {out / PARETO_FILE}")
    return SweepResult(trials, pareto_trials(trials, config.costs), chosen, test)


def space_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The Tune dictionary of a space, by its name or a function's dotted path. ValueError for an unknown one or options it cannot take."""
    path = SPACES.get(name, name)
    module_name, _, function_name = path.rpartition(".")
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
    check_same_options(config, FREE_ON_RESUME)


@dataclass(frozen=True)
class Share:
    """How many trials run at once, and the CPUs of each of a trial's workers."""

    concurrent: int
    cpus: int


def share_of(resources: ClusterResources, train: TrainOptions, *, trials: int, asked: int | None) -> Share:
    """Trials at once, so that every one that Tune starts has room for its workers: Ray Train would wait for ever for room.

    A trial's own process takes no CPU: it waits for its workers. asked: the user's number. ValueError where fewer than asked (or none) fit,
    but on a cluster that grows Ray asks for more nodes.
    """
    gpus = train.gpus_per_worker if resources.gpus else 0
    fit = places(resources.nodes, cpus=train.cpus_per_worker or 1, gpus=gpus) // train.workers
    if fit < (asked or 1) and resources.grows:
        print(f"note: the {len(resources.nodes)} nodes there are hold {fit} trials at once; waiting for the cluster to grow")
        fit = asked or 1
    if fit < (asked or 1):
        each = f"{train.workers} workers of {train.cpus_per_worker or 1} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise ValueError(
            f"{asked or 1} trials at once, {each} each, do not fit the cluster of {len(resources.nodes)} nodes with {resources.cpus} CPUs "
            f"and {resources.gpus} GPUs: it holds {fit}"
        )
    concurrent = min(asked or fit, trials)
    return Share(concurrent, train.cpus_per_worker or largest_share(resources.nodes, concurrent * train.workers, gpus=gpus) or 1)


def _run_trials(
    config: SweepConfig,
    out: Path,
    space: Mapping[str, Any],
    planned: list[dict[str, Any]],
    images: LabelledImages,
    resources: ClusterResources,
    run: TrackedRun,
    teachers: str | None,
) -> int:
    """Runs what is planned and not finished, or lets Optuna draw what is missing. Returns how many trials were left when it was stopped."""
    known = read_trials(out / TRIALS, planned)
    again = [trial.parameters for trial in known if trial.to_run]
    count = len(again) if planned else config.trials - sum(not trial.to_run for trial in known)
    if count < 1:
        print(f"all {len(known)} trials are there")
        return 0
    share = share_of(resources, config.train, trials=count, asked=config.concurrent)
    base = dataclasses.replace(config.base, train=dataclasses.replace(config.train, cpus_per_worker=share.cpus))
    stopping = config.scheduler or default_scheduler(space)
    print(
        f"sweep {config.space}: {count} trials, {share.concurrent} at once, each {config.train.workers} workers of {share.cpus} CPUs; "
        f"scheduler {stopping}"
    )
    outcomes = TrialOutcomes(out / TRIALS, epochs=config.train.epochs, run=run, planned=planned, scheduler=stopping)
    trainable = tune.with_parameters(run_trial, base=base, teachers=teachers, images=images, parent_run=run.run_id)
    # Tune's own files for each trial would repeat what the trials' folders hold.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    tuner = tune.Tuner(
        # A trial's own process only waits, and a share of a CPU would be missing for its workers; but Tune does not take nothing.
        tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}])),
        param_space={PLANNED: tune.grid_search(again)} if planned else dict(space),
        tune_config=tune.TuneConfig(
            search_alg=None if planned else optuna_search(space, out, costs=config.costs, again=again, known=len(known), seed=config.seed),
            scheduler=scheduler(stopping, epochs=config.train.epochs, grace_epochs=config.grace_epochs),
            num_samples=1 if planned else count,
            max_concurrent_trials=share.concurrent,
        ),
        run_config=tune.RunConfig(name=TUNE_STATE, storage_path=str(out), callbacks=[outcomes], verbose=0),
    )
    try:
        results = tuner.fit()
    finally:
        outcomes.close()
    # At a Ctrl-C Tune ends its trials and returns as if all were done.
    left = sum(trial.status == "unfinished" for trial in read_trials(out / TRIALS, planned)) + (0 if planned else count - len(results))
    if left:
        run.end_children("%", "KILLED")
    return left


def _train_teachers(config: SweepConfig, out: Path, images: LabelledImages, lengths: Sequence[int], run: TrackedRun) -> None:
    """One unpruned teacher for each code length, on all of the cluster; those that are there stay."""
    if not config.shared_teacher:
        return
    base = config.base
    for bits in lengths:
        folder = teacher_folder(str(out / TEACHERS), bits)
        if exists(f"{folder}/{BUNDLE_FILE}"):
            continue
        print(f"teacher of {bits} bits for all trials:")
        teacher = train_teacher.TrainTeacherConfig(
            out=folder,
            weights=base.weights,
            data=base.data,
            student=train_teacher.TeacherOptions(
                backbone=base.student.backbone,
                backbone_options=base.student.backbone_options,
                bits=bits,
                hash_input=base.student.hash_input,
                image_size=base.student.image_size,
            ),
            train=base.train,
            seed=base.seed,
            tracking_uri=base.tracking_uri,
            address=base.address,
        )
        seen = dataclasses.replace(images, test=None)
        run_training(teacher, train_teacher.plan_of(teacher, seen), seen, title="teacher", parent_run=run.run_id)


def _with_latency(trials: list[Trial], resources: ClusterResources, config: SweepConfig) -> list[Trial]:
    """Times the finished trials' networks, each architecture once, interleaved, on the kind of device that they were trained on."""
    bundles = {trial.name: str(trial.folder) for trial in trials if trial.status == "finished"}
    if not bundles:
        return trials
    print(f"timing {len(bundles)} networks; nothing else of the sweep runs now")
    threads = config.train.cpus_per_worker or resources.cpus_per_worker(1)
    timing = ray.remote(latencies_ms).options(num_cpus=threads, num_gpus=1 if resources.gpus else 0)
    found = ray.get(timing.remote(bundles, threads=threads))
    return [add_costs(trial, {"latency_ms": found[trial.name]}) if trial.name in found else trial for trial in trials]


def _test(config: SweepConfig, chosen: Trial, images: LabelledImages, *, gpu: bool) -> dict[str, dict[str, float]]:
    """The chosen model on the test split, once: of one that was chosen before, what was measured then."""
    if images.test is None:
        print("note: the dataset has no test split, so the chosen model is not tested")
        return {}
    gallery, evaluation = str(chosen.folder / TEST_GALLERY), chosen.folder / TEST_EVALUATION
    if (evaluation / "metrics.json").exists():
        return json.loads((evaluation / "metrics.json").read_text())
    base = config.base
    shared = {"seed": base.seed, "address": base.address, "tracking_uri": base.tracking_uri, "model": str(chosen.folder)}
    # Without a GPU somewhere this process is as good a place as any, and starts nothing.
    encode.run(encode.EncodeConfig(data=base.data, split="test", out=gallery, engine="ray" if gpu else "local", **shared))
    return evaluate.run(evaluate.EvaluateConfig(gallery=gallery, out=str(evaluation), **shared)).measures


def _print(trials: list[Trial], config: SweepConfig) -> None:
    from rich.console import Console

    Console(width=None if os.isatty(1) else 180).print(trial_table(trials, {}, config.costs))
    print(f"** chosen by validation mAP; * no other beats it in mAP and {', '.join(config.costs)}")


def _dry_run(config: SweepConfig, images: LabelledImages, planned: Sequence[Mapping[str, Any]]) -> None:
    """Number of trials, resources of each, and hours by the time of one micro-batch of the first."""
    count = len(planned) or config.trials
    space = space_of(config.space, config.space_options)
    if config.ray_address == "local":
        resources = ClusterResources((Node(os.cpu_count() or 1, torch.cuda.device_count()),))
    else:
        with connected(config.ray_address) as resources:
            pass
    share = share_of(resources, config.train, trials=count, asked=config.concurrent)
    first = with_parameters(config.base, planned[0] if planned else {})
    threads = torch.get_num_threads()
    torch.set_num_threads(share.cpus)
    plan = plan_of(first, images)
    plan = dataclasses.replace(plan, joint=plan.joint and not config.shared_teacher)
    rate, device = measured_rate(plan)
    torch.set_num_threads(threads)
    each = plan.total_steps * config.train.batch_size / (rate * config.train.workers)
    gpus = f" and {config.train.gpus_per_worker:g} GPUs" if resources.gpus else ""
    stopping = config.scheduler or default_scheduler(space)
    print(f"dry run: {count} trials of {config.train.epochs} epochs, {share.concurrent} at once, scheduler {stopping}")
    print(f"  each: {config.train.workers} workers of {share.cpus} CPUs{gpus}")
    print(
        f"  {rate:.1f} images/s measured on this machine's {device} with {share.cpus} threads (alone); about {duration(each)} a trial, "
        f"{each * -(-count // share.concurrent) / 3600:.2f} h for all where none is stopped; nothing was started"
    )
