"""A sweep whose trials are trainings by `eet distill`, and their cost."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray import tune
from ray.tune.schedulers import TrialScheduler

from eet.errors import InputError
from eet.storage import Claim, exists
from eet.training import LabelledImages
from eet.vit import read_bundle_record
from pipelines import encode, evaluate, train_teacher
from pipelines.configs.space import with_parameters
from pipelines.configs.train_teacher import TeacherOptions
from pipelines.costs.networks import latencies_ms
from pipelines.distill import DistillConfig, task_of
from pipelines.job.cluster import ClusterResources
from pipelines.job.options import TrainOptions
from pipelines.job.progress import duration
from pipelines.job.tracking import TrackedRun
from pipelines.training.run import measured_rate, run_training
from pipelines.trials.kind import TrialKind
from pipelines.trials.search import default_scheduler, scheduler
from pipelines.trials.share import Share, share_out
from pipelines.trials.training import TrainingTrial, run_trial, teacher_folder, trial_config
from pipelines.trials.trial import BUNDLE_FILE, Trial, add_measured
from pipelines.trials.weight_curves import draw_weight_curves

TEACHERS, TEST_GALLERY, TEST_EVALUATION = "teachers", "test", "test_evaluation"


@dataclass(frozen=True, kw_only=True)
class Trainings(TrialKind):
    """Students, compared by validation mAP; the chosen one is measured on the test split.

    base: the training of a trial, before its parameters are set. trials_dir: folder of the trials. images: shared by all trials.
    """

    trial = TrainingTrial
    done, unseen, advice = "trained", "the test split", "train it again: eet distill"

    base: DistillConfig
    trials_dir: Path
    images: LabelledImages
    costs: Sequence[str]
    scheduler_name: str | None
    grace_epochs: int | None
    concurrent: int | None
    shared_teacher: bool

    @property
    def weighed(self) -> Sequence[str]:  # type: ignore[override]
        return self.costs

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return self.base.train.epochs_of(len(self.images.train))

    @property
    def _teachers(self) -> str | None:
        return str(self.trials_dir.parent / TEACHERS) if self.shared_teacher else None

    def _lengths(self, drawn: Sequence[Mapping[str, Any]]) -> list[int]:
        """The code lengths of trials."""
        return sorted({with_parameters(self.base, parameters).student.bits for parameters in drawn})

    def check(self, drawn: Sequence[Mapping[str, Any]]) -> None:
        """InputError where a given teacher has another code length than the trials."""
        lengths, teacher = self._lengths(drawn), self.base.teacher
        if teacher and lengths != [teacher_bits := read_bundle_record(teacher).num_bits]:
            raise InputError(
                f"--teacher {teacher} has {teacher_bits} bits, the trials {lengths}: use --shared_teacher, which trains one for each length"
            )

    def stopping(self, space: Mapping[str, Any]) -> str:
        return self.scheduler_name or default_scheduler(space)

    def scheduler(self, space: Mapping[str, Any]) -> TrialScheduler:
        return scheduler(self.stopping(space), epochs=self.epochs, grace_epochs=self.grace_epochs)

    def share(self, resources: ClusterResources, *, trials: int) -> Share:
        return share_of(resources, self.base.train, trials=trials, asked=self.concurrent)

    def each(self, share: Share, space: Mapping[str, Any]) -> str:
        return f"{self.base.train.workers} workers of {share.cpus} CPUs; scheduler {self.stopping(space)}"

    def estimate(self, first: Mapping[str, Any], space: Mapping[str, Any], resources: ClusterResources, *, trials: int) -> list[str]:
        """Estimates by timing one micro-batch."""
        train = self.base.train
        share = self.share(resources, trials=trials)
        threads = torch.get_num_threads()
        torch.set_num_threads(share.cpus)
        task = task_of(with_parameters(self.base, first), self.images)
        task = dataclasses.replace(task, joint=task.joint and not self.shared_teacher)
        settings = train.settings(self.base.seed, num_images=len(task.train))
        rate, device = measured_rate(task, settings)
        torch.set_num_threads(threads)
        each = settings.total_steps(len(task.train)) * settings.batch_size / (rate * train.workers)
        gpus = f" and {train.gpus_per_worker:g} GPUs" if resources.gpus else ""
        return [
            f"dry run: {trials} trials of {self.epochs} epochs, {share.concurrent} at once, scheduler {self.stopping(space)}",
            f"  each: {train.workers} workers of {share.cpus} CPUs{gpus}",
            f"  {rate:.1f} images/s measured on this machine's {device} with {share.cpus} threads (alone); about {duration(each)} a trial, "
            f"{each * -(-trials // share.concurrent) / 3600:.2f} h for all where none is stopped; nothing was started",
        ]

    def begin(self, run: TrackedRun, drawn: Sequence[Mapping[str, Any]], claim: Claim) -> None:
        """Trains one unpruned teacher for each code length on the whole cluster, if teachers are shared. Existing ones are kept."""
        if not self.shared_teacher:
            return
        base = self.base
        for bits in self._lengths(drawn):
            folder = teacher_folder(str(self._teachers), bits)
            if exists(f"{folder}/{BUNDLE_FILE}"):
                continue
            print(f"teacher of {bits} bits for all trials:")
            teacher = train_teacher.TrainTeacherConfig(
                out=folder,
                weights=base.weights,
                data=base.data,
                student=TeacherOptions(
                    backbone=base.student.backbone,
                    backbone_options=base.student.backbone_options,
                    bits=bits,
                    hash_input=base.student.hash_input,
                    label_weight=base.student.label_weight,
                    target_codes=base.student.target_codes,
                    image_size=base.student.image_size,
                ),
                train=base.train,
                seed=base.seed,
                tracking_uri=base.tracking_uri,
                address=base.address,
            )
            seen = dataclasses.replace(self.images, test=None)
            run_training(teacher, train_teacher.task_of(teacher, seen), seen, title="teacher", claim=claim, parent_run=run.run_id)

    def trainable(self, share: Share, run: TrackedRun, claim: Claim) -> Any:
        base = dataclasses.replace(self.base, train=dataclasses.replace(self.base.train, cpus_per_worker=share.cpus))
        trainable = tune.with_parameters(
            run_trial, base=base, teachers=self._teachers, images=self.images, parent_run=run.run_id, claim=claim
        )
        # A trial's own process only waits. Tune does not accept zero CPUs, and a larger share would be missing for the workers.
        return tune.with_resources(trainable, tune.PlacementGroupFactory([{"memory": 1}]))

    @property
    def progress(self) -> Callable[[Mapping[str, float]], str]:
        return partial(_progress, epochs=self.epochs)

    def with_measured_costs(self, trials: list[Trial], resources: ClusterResources) -> list[Trial]:
        """Times the finished trials' networks, each architecture once, interleaved, on the same kind of device as the training."""
        bundles = {trial.name: str(trial.folder) for trial in trials if trial.status == "finished"}
        if "latency_ms" not in self.costs or not bundles:
            return trials
        print(f"timing {len(bundles)} networks; nothing else of the sweep runs now")
        threads = self.base.train.cpus_per_worker or resources.cpus_per_worker(1)
        measure: Callable[..., dict[str, float]] = latencies_ms  # Ray's types do not support keyword-only arguments
        timing = ray.remote(measure).options(num_cpus=threads, num_gpus=1 if resources.gpus else 0)
        found = ray.get(timing.remote(bundles, threads=threads))
        return add_measured(trials, "latency_ms", found)

    def best_config(self, chosen: Trial, out: Path) -> DistillConfig:
        return trial_config(self.base, chosen.parameters, out=str(out / "best"), teachers=self._teachers)

    def draw(self, trials: Sequence[Trial], out: Path) -> None:
        draw_weight_curves(trials, out, bits=self.base.student.bits)

    def test(self, chosen: Trial, resources: ClusterResources) -> dict[str, dict[str, float]]:
        """Measures the chosen model on the test split."""
        if self.images.test is None:
            print("note: the dataset has no test split, so the chosen model is not tested")
            return {}
        gallery, evaluation = str(chosen.folder / TEST_GALLERY), chosen.folder / TEST_EVALUATION
        if (evaluation / "metrics.json").exists():
            return json.loads((evaluation / "metrics.json").read_text())
        base = self.base
        shared: dict[str, Any] = {
            "seed": base.seed,
            "address": base.address,
            "tracking_uri": base.tracking_uri,
            "model": str(chosen.folder),
        }
        # Without a GPU in the cluster, this process can do it without starting another.
        engine: Literal["ray", "local"] = "ray" if resources.gpus else "local"
        encode.run(encode.EncodeConfig(data=base.data, split="test", out=gallery, engine=engine, **shared))
        return evaluate.run(evaluate.EvaluateConfig(gallery=gallery, out=str(evaluation), **shared)).measures


def share_of(resources: ClusterResources, train: TrainOptions, *, trials: int, asked: int | None) -> Share:
    """Number of concurrent trainings (see `share_out`). A trial's own process needs no CPU: it waits for its workers."""
    gpus = train.gpus_per_worker if resources.gpus else 0
    return share_out(resources, workers=train.workers, cpus=train.cpus_per_worker, gpus=gpus, trials=trials, asked=asked)


def _progress(record: Mapping[str, float], *, epochs: int) -> str:
    return f"epoch {int(record['epoch'])}/{epochs}  val mAP {record['val_mAP']:.4f}"
