"""The driver side of training, shared by distill, train-teacher and train-base: checks, Ray Train, progress, tracking, bundles."""

import csv
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
import torch

from eet.datasets import ImageTable, load_dataset
from eet.device import Device
from eet.errors import InputError
from eet.figures import save_png, training_curves_figure
from eet.gallery import read_model_record
from eet.hashing import shared_codes, target_codes
from eet.metrics import json_values
from eet.storage import Claim, naming_file, read_text, remove_leftovers, write_text
from eet.training import FitSettings, LabelledImages, StepReport, TrainingTask, labelled_images
from eet.vit import PruningSchedule, Student, build_student, is_bundle, scaled_prune_after
from pipelines.job.cluster import WORKERS_END_S, connected
from pipelines.job.errors import JobFailed, is_the_users
from pipelines.job.location import with_absolute_locations
from pipelines.job.measures_table import print_measures
from pipelines.job.options import DataOptions, LoopOptions, StudentOptions
from pipelines.job.output import check_same_options, config_values, default_config, read_written_config, write_config
from pipelines.job.progress import EpochDone, TrainingDisplay, duration
from pipelines.job.progress_board import BoardReader, open_board
from pipelines.job.tracking import read_run_id, tracked, write_run_id
from pipelines.training.mlflow_model import write_mlmodel
from pipelines.training.worker import train_worker

CHECKPOINTS, RUN_NAME = "checkpoints", "run"
NEW_CHECKPOINT = "new"
"""For this name in the folder of checkpoints, workers write a checkpoint under a hidden name; Ray Train copies it."""
MLFLOW_FILE = "mlflow.json"
"""In the folder of checkpoints: the id of the MLflow run."""
SKIPPED_FILE = "skipped.csv"
# Options that may change when a run is resumed: where it runs, and on how many workers, does not change the result.
FREE_ON_RESUME = (
    "resume",
    "address",
    "tracking_uri",
    "dry_run",
    "out",
    "train.recipe",  # the options that it sets are compared
    "train.workers",
    "train.cpus_per_worker",
    "train.gpus_per_worker",
    "train.loader_workers",
    "train.max_failures",
)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training job.

    Attributes:
        out: folder of the bundle.
        history: one record per epoch, see `eet.training.Fitted`.
        test: {network: {protocol: {measure: value}}}.
        epoch: the chosen epoch, from 1; 0 for the initial weights.
    """

    out: Path
    history: list[dict[str, float]]
    test: dict[str, dict[str, dict[str, float]]]
    epoch: int


def read_labelled_images(data: DataOptions, *, validation_share: float, seed: int, disjoint: bool = False) -> LabelledImages:
    """The images of these options, checked and split, see `eet.training.labelled_images`."""
    data = with_absolute_locations(data)
    table = load_dataset(data.name, data.root, table=data.table)
    return labelled_images(
        table,
        validation_share=validation_share,
        seed=seed,
        disjoint=disjoint,
        skip_unreadable=data.on_error == "skip",
        unseen_share=data.unseen_share,
        unseen_names=[line for line in read_text(data.unseen).splitlines() if line] if data.unseen else (),
    )


def new_network(options: StudentOptions, *, num_classes: int, weights: str, seed: int, pruned: bool) -> Student:
    """A new student with these options, or a teacher if not `pruned`."""
    assert options.hash_input is not None  # a recipe has filled it
    network = build_student(
        options.backbone,
        num_classes=num_classes,
        num_bits=options.bits,
        schedule=PruningSchedule((), ()),
        image_size=options.image_size,
        weights=weights,
        backbone_options=options.backbone_options,
        hash_input=options.hash_input,
        label_weight=options.label_weight,
        fit=options.fit,
        seed=seed,
    )
    if not pruned:
        return network
    prune_after = options.prune_after
    if prune_after is None:
        prune_after = scaled_prune_after(len(network.trunk.blocks), len(options.keep_ratios)) if options.keep_ratios else ()
    schedule = PruningSchedule(prune_after, options.keep_ratios)
    num_prefix = network.trunk.num_prefix_tokens
    return network.with_schedule(schedule.rounded(network.num_patches, num_prefix=num_prefix, multiple=options.tokens_multiple))


def target_codes_of(train: ImageTable, options: StudentOptions, *, seed: int) -> np.ndarray:
    """Target codes of the training labels (step 1), int8 (C, b). Prints a note if labels share a code."""
    assert options.target_codes is not None
    num_bits = options.bits
    codes = target_codes(train.labels, num_bits=num_bits, seed=seed, method=options.target_codes)
    if shared := shared_codes(codes):
        print(f"note: {num_bits} bits are too few for {train.num_labels} labels: {shared} labels share a code. Use more --student.bits")
    return codes


def run_training(
    config: Any,
    task: TrainingTask,
    images: LabelledImages,
    *,
    title: str,
    claim: Claim | None,
    parent_run: str | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> TrainingResult:
    """Trains a task on Ray Train, and writes the bundle, curves and measures to config.out; the bundle of a joint teacher to out/teacher.

    Args:
        config: dataclass of the job (out, resume, address, tracking_uri, dry_run, train, ...).
        task: the task.
        images: of the task.
        title: of the job, for displays and the MLflow run.
        claim: on the folder of the job, which may be above config.out. It is checked before each checkpoint is kept and before each
            bundle is written. None in a dry run.
        parent_run: MLflow run of the sweep that starts this training, or None.
        callbacks: Ray Train callbacks, called after every epoch.

    Returns:
        The result; without history and test measures for a dry run.

    Raises:
        InputError: networks, images, options and cluster do not fit each other.
        JobFailed: the loss is not finite, an image cannot be read, another job has taken the folder, the disk is full, or too many
            workers were lost.
    """
    out = Path(config.out).absolute()
    options: LoopOptions = config.train
    settings = options.settings(config.seed, num_images=task.images_per_epoch)
    settings.check(task.images_per_epoch)
    task.objective(settings)  # checks that the networks fit each other; otherwise each worker would fail with this error
    _print_plan(task, settings, images, title)
    if config.dry_run:
        _print_estimate(task, settings)
        return TrainingResult(out, [], {}, 0)
    assert claim is not None
    write_config(config.out, config)
    if images.skipped:
        with naming_file(out / SKIPPED_FILE), (out / SKIPPED_FILE).open("w", newline="") as file:
            csv.writer(file).writerows([("image", "reason"), *images.skipped])
    mlflow_file = out / CHECKPOINTS / MLFLOW_FILE
    run_id = read_run_id(mlflow_file) if (out / CHECKPOINTS / RUN_NAME).exists() else None
    with tracked(f"{title} {out.name}", config.tracking_uri, config.out, config_values(config), parent=parent_run, run_id=run_id) as run:
        write_run_id(mlflow_file, run)
        with _without_unfinished_checkpoints(out), connected(config.ray_address) as resources:
            share = resources.cpus_per_worker(options.workers, gpus_per_worker=options.gpus_per_worker)
            threads = options.cpus_per_worker or share
            if threads > share:  # Ray would wait forever
                raise InputError(f"--train.cpus_per_worker {threads}: {options.workers} workers can have {share} each on this cluster")
            board = open_board()
            loop_config = {
                "task": ray.put(task),
                "settings": settings,
                "threads": threads,
                "board": board,
                "new_checkpoint": str(out / CHECKPOINTS / NEW_CHECKPOINT),
                "claim": claim,
            }
            trainer = _trainer(loop_config, options, out, threads=threads, use_gpu=resources.gpus > 0, callbacks=callbacks)
            display = TrainingDisplay(title, settings.epochs)

            def listen(event: EpochDone | tuple[Any, ...]) -> None:
                if isinstance(event, EpochDone):
                    display(event)
                    run.log_metrics(event.metrics, step=event.epoch + 1)
                else:
                    display(StepReport(*event))

            try:
                with BoardReader(board, listen):
                    result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                claim.check()
                raise _user_error(error) from error
            finally:
                display.close()
            returned = result.return_value
            if "failure" in returned:
                claim.check()
                raise JobFailed(returned["failure"])
        finished = _write_result(out, task, config, returned, claim)
        for network, protocols in finished.test.items():
            for protocol, measures in protocols.items():
                prefix = f"test_{network}_{protocol}".replace(",", "").replace(" ", "_")
                run.log_metrics({f"{prefix}_{name}": value for name, value in measures.items()}, 0)
        for name in ("model.safetensors", "model.json"):
            run.log_artifact(out / name, "bundle")
        with tempfile.TemporaryDirectory() as folder:
            run.log_artifact(write_mlmodel(folder), "bundle")
        for name in task.trained:
            if name != task.chosen:
                run.log_artifact(out / name, name)
        for name in ("history.json", "test.json", "training.png", "config.yaml", SKIPPED_FILE):
            if (out / name).is_file():
                run.log_artifact(out / name)
    print_test(finished.test)
    print(f"bundle: {out}")
    return finished


class _Trainer(ray.train.torch.TorchTrainer):
    def _register_sigint_handler(self, controller: Any) -> None:
        """Keeps the handler of the program: after Ray's own, Ctrl-C would end the process without a message."""


def _trainer(loop_config: dict[str, Any], options: LoopOptions, out: Path, *, threads: int, use_gpu: bool, callbacks: Sequence[Any]) -> Any:
    # The worker sets its number of threads itself; Ray would set it to the CPUs that it reserves, which is the same number here.
    return _Trainer(
        train_worker,
        train_loop_config=loop_config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=options.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": threads} | ({"GPU": options.gpus_per_worker} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=RUN_NAME,
            storage_path=str(out / CHECKPOINTS),
            failure_config=ray.train.FailureConfig(max_failures=options.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=list(callbacks),
        ),
    )


@contextmanager
def _without_unfinished_checkpoints(out: Path) -> Iterator[None]:
    """Removes unfinished checkpoints: those of killed runs at the start, and at the end those of the workers, which have been ended."""
    location = str(out / CHECKPOINTS / NEW_CHECKPOINT)
    remove_leftovers(location)
    try:
        yield
    finally:
        remove_leftovers(location, wait_s=WORKERS_END_S)


def finished_training(config: Any) -> TrainingResult | None:
    """Checks the output folder at the start of a job, before any image is read.

    A folder with a training is never overwritten; --resume with the same config continues it.

    Returns:
        The result of the training in the folder, printed, if --resume is given and it is finished; else None.

    Raises:
        InputError: the folder holds a training and --resume is not given, the options of the training differ, or the folder holds a model
            that no training wrote there.
    """
    out = Path(config.out).absolute()
    started, finished = (out / CHECKPOINTS / RUN_NAME).exists(), is_bundle(out)
    if not config.resume:
        if started or finished:
            raise InputError(f"{out} already holds a training run: continue it with --resume, or choose another --out")
        return None
    if finished and read_written_config(config.out) is None:
        raise InputError(f"{out} holds a model, but no training that could be resumed: choose another --out")
    if started or finished:
        check_same_options(config, FREE_ON_RESUME, defaults=defaults_at_start(config))
    if not finished:
        return None
    history, test = (json.loads(read_text(str(out / name)), object_hook=_numbers) for name in ("history.json", "test.json"))
    print_test(test)
    print(f"{out} is finished: nothing to do")
    return TrainingResult(out, history, test, int(read_model_record(config.out).training["epoch"]))


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """An object of JSON, which has null in the place of what is not a number."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def defaults_at_start(config: Any) -> Any:
    """The job of `config` with the defaults at the time when the training in its folder was started.

    A training from before recipes existed has the defaults of the published recipe.
    """
    if not hasattr(config.train, "recipe"):
        return default_config(config)
    recipe = ((read_written_config(config.out) or {}).get("train") or {}).get("recipe", "published")
    return default_config(config, train=type(config.train)(recipe=recipe))


def _user_error(error: Exception) -> Exception:
    """A JobFailed for an error of a worker that the user can correct, or for lost workers; any other error is returned unchanged."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            inner = getattr(cause, "cause", None)
            if is_the_users(inner) or is_the_users(cause):
                return JobFailed(str(inner if is_the_users(inner) else cause).splitlines()[-1])
            cause = inner if isinstance(inner, BaseException) else cause.__cause__
        lost = getattr(failure, "health_check_failure", failure)
        if isinstance(lost, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError):
            why = " ".join(str(lost).split())[:300]
            return JobFailed(
                "training workers were lost more often than --train.max_failures allows; continue from the last checkpoint "
                f"with --resume ({why})"
            )
    return error


def _write_result(out: Path, task: TrainingTask, config: Any, returned: dict[str, Any], claim: Claim) -> TrainingResult:
    claim.check()
    history, test = returned["history"], returned["test"]
    write_text(str(out / "history.json"), json.dumps(json_values(history), indent=1, allow_nan=False) + "\n")
    write_text(str(out / "test.json"), json.dumps(json_values(test), indent=1, allow_nan=False) + "\n")
    if history:
        shown = [key for key in history[0] if key not in ("epoch", "images_per_s")]
        save_png(training_curves_figure(history, shown, title="training"), out / "training.png")
    for name in task.trained:
        task.networks[name].load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in returned["weights"][name].items()})
    task.set_fitted(returned["fitted"] or {})
    for name in sorted(task.trained, key=lambda name: name == task.chosen):  # the chosen one last: with it the training is finished
        training = {
            "epoch": returned["epoch"],
            "epochs": len(history),
            "images": len(task.train),
            "seed": config.seed,
            "test": test.get(name, {}),
        }
        claim.check()
        task.save(name, out if name == task.chosen else out / name, training)
    return TrainingResult(out, history, test, returned["epoch"])


def _print_plan(task: TrainingTask, settings: FitSettings, images: LabelledImages, title: str) -> None:
    table, num_images = task.train, task.images_per_epoch
    val, test = (0 if split is None else len(split) for split in (task.val, task.test))
    print(
        f"{title}: {table.num_labels} labels, {len(table)} training, {val} validation, {test} test images; "
        f"{settings.epochs} epochs of {settings.steps_per_epoch(num_images)} steps of {settings.batch_size}, "
        f"{settings.warmup(num_images)} of warm-up"
    )
    for name, network in task.networks.items():
        size = sum(parameter.numel() for parameter in network.parameters())
        print(f"  {name}: {task.describe(network)}, {size / 1e6:.1f} M parameters")
    if images.skipped:
        print(f"  skipped {len(images.skipped)} unreadable images:")
        for location, reason in images.skipped[:20]:
            print(f"    {location}: {reason}")


def _print_estimate(task: TrainingTask, settings: FitSettings) -> None:
    rate, device = measured_rate(task, settings)
    left = settings.total_steps(task.images_per_epoch) * settings.batch_size / rate
    print(
        f"dry run: {rate:.1f} images/s measured on this machine's {device} "
        f"with one worker; about {duration(left)} of training; nothing was started"
    )


def measured_rate(task: TrainingTask, settings: FitSettings) -> tuple[float, str]:
    """Images/s of one worker in this process, from the time of a few images, and the kind of device ('cpu', 'cuda')."""
    device = Device.of().torch_device
    objective, size = task.objective(settings).to(device), task.timed_images(settings)
    height, width = task.networks[task.chosen].preprocessing.image_size
    images, labels = torch.randn(size, 3, height, width, device=device), torch.zeros(size, dtype=torch.int64, device=device)
    for _ in range(2):  # the first warms up
        started = time.monotonic()
        objective(images, labels).total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
    return size / seconds, device.type


def print_test(test: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints a table of the measures of each network, for each protocol."""
    if test:
        rankings = {f"{network}, {protocol}": measures for network, protocols in test.items() for protocol, measures in protocols.items()}
        print_measures(rankings, title="test split")
