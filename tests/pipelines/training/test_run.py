"""Training on Ray Train, with drawn birds and a tiny network."""

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir
from pathlib import Path

import numpy as np
import pytest
import ray
import safetensors.numpy
import torch
import yaml
from gate import Gate, wait_until
from local_training import trained_here

from eet.datasets import synthetic
from eet.errors import EetError, InputError
from eet.storage import OWNER_FILE, claimed
from eet.training import HashingTask
from eet.training.samplers import StepSampler
from eet.vit import is_bundle, load_bundle, read_bundle_record, save_bundle
from pipelines import distill, train_teacher
from pipelines.configs.train_teacher import TeacherOptions
from pipelines.job.errors import JobFailed
from pipelines.job.options import DataOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.output import check_same_options, config_values
from pipelines.training.run import TrainingResult, defaults_at_start, new_network

NETWORK = {"backbone": "vit_tiny_patch16_224", "backbone_options": {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}}
EPOCHS = 4
# One thread, so that sums are added in one order and runs can be compared bit by bit.
TRAIN = TrainOptions(
    recipe="published", epochs=EPOCHS, batch_size=16, cpus_per_worker=1, validation_share=0, max_failures=1, micro_batch_size=6
)

pytestmark = pytest.mark.timeout(300)


def config_of(out: Path, birds: Path, **changes) -> distill.DistillConfig:
    options = {
        "weights": "none",
        "data": DataOptions(name="synthetic", root=str(birds)),
        "student": StudentOptions(**NETWORK, image_size=48, bits=16),
        "train": TRAIN,
        **changes,
    }
    return distill.DistillConfig(out=str(out), **options)


def weights_of(bundle: Path) -> bytes:
    return (bundle / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def reference(ray_session, tiny_birds, runs) -> TrainingResult:
    """One worker, not interrupted; the other runs are compared with it. Its folder is relative, which a worker cannot resolve."""
    with chdir(runs):
        return distill.run(config_of(Path("reference"), tiny_birds))


def test_joint_training_writes_two_trained_bundles(reference, runs, tiny_birds):
    student, teacher = load_bundle(runs / "reference"), load_bundle(runs / "reference" / "teacher")
    assert student.schedule.keep_ratios == (0.5, 0.5, 0.25) and teacher.schedule.keep_ratios == ()
    start = distill.task_of(
        config_of(runs / "other", tiny_birds),
        distill.read_labelled_images(DataOptions(name="synthetic", root=str(tiny_birds)), validation_share=0, seed=42),
    )
    for trained, name in ((student, "student"), (teacher, "teacher")):
        before = start.networks[name].state_dict()
        assert all(torch.isfinite(value).all() for value in trained.state_dict().values())
        moved = [key for key, value in trained.state_dict().items() if not torch.equal(value, before[key])]
        assert {"head_hash.weight", "trunk.head.weight", "trunk.blocks.0.attn.qkv.weight"} <= set(moved)
    record = read_bundle_record(runs / "reference")
    assert record.label_names == synthetic.load(str(tiny_birds)).label_names
    assert record.target_codes.shape == (4, 16) and record.label_counts.tolist() == [8] * 4
    assert (record.training["epochs"], record.training["images"], record.training["joint"]) == (EPOCHS, 32, True)


@pytest.mark.parametrize(("multiple", "kept"), [(1, (18, 9, 2)), (8, (15, 7, 7))])
def test_stages_keep_multiples_of_tokens_if_requested(tiny_options, multiple, kept):
    """36 patches and the CLS token: 19, 10 and 3 tokens, or 16, 8 and 8."""
    options = dataclasses.replace(tiny_options, tokens_multiple=multiple)
    student = new_network(options, num_classes=4, weights="none", seed=1, pruned=True)
    assert student.schedule.kept_counts(student.num_patches) == kept
    assert (student.schedule.keep_ratios == (0.5, 0.5, 0.25)) == (multiple == 1), "the published ratios are part of a model's record"
    assert new_network(options, num_classes=4, weights="none", seed=1, pruned=False).schedule.keep_ratios == ()


def test_a_teacher_that_sees_the_whole_image_wants_a_student_that_does(tiny_options, tmp_path):
    squashing = dataclasses.replace(tiny_options, fit="squash")
    teacher = new_network(squashing, num_classes=2, weights="none", seed=1, pruned=False)
    save_bundle(teacher, tmp_path, label_names=("a", "b"), target_codes=np.ones((2, 16), np.int8), label_counts=np.ones(2, np.int64))
    seeing, cropping = (new_network(options, num_classes=2, weights="none", seed=1, pruned=True) for options in (squashing, tiny_options))
    found, _ = distill.trained_teacher(str(tmp_path), ("a", "b"), seeing)
    assert found.preprocessing == seeing.preprocessing and found.preprocessing.fit == "squash"
    with pytest.raises(InputError, match="give the student --student.fit squash"):
        distill.trained_teacher(str(tmp_path), ("a", "b"), cropping)


def test_a_job_from_before_a_flag_existed_had_its_default(tmp_path):
    config = config_of(tmp_path, tmp_path)
    values = config_values(config)
    del values["loss"], values["train"]["recipe"], values["train"]["probe"]
    del values["student"]["tokens_multiple"], values["student"]["target_codes"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    free, defaults = ("train.recipe",), defaults_at_start(config)
    check_same_options(config, free, defaults=defaults)
    for changes, message in (
        ({"student": dataclasses.replace(config.student, tokens_multiple=8)}, "student.tokens_multiple: 1 then, 8 now"),
        ({"loss": LossOptions(beta=0.7)}, "loss.beta: 0.1 then, 0.7 now"),
        ({"student": dataclasses.replace(config.student, backbone_options={})}, "student.backbone_options: None then, {} now"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            check_same_options(dataclasses.replace(config, **changes), free, defaults=defaults)
    check_same_options(dataclasses.replace(config, loss=LossOptions(beta=0.7)), (*free, "loss"), defaults=defaults)


def test_history_has_every_loss_term_and_the_cosine_ends_at_zero(reference):
    assert [record["epoch"] for record in reference.history] == list(range(1, EPOCHS + 1))
    names = set(reference.history[0]) - {"epoch"}
    assert {"total", "learning_rate", "images_per_s"} < names and len(names) > 5
    assert all(np.isfinite(list(record.values())).all() for record in reference.history)
    for name in ("teacher_hashing", "teacher_classification", "learning_rate"):
        assert reference.history[-1][name] < reference.history[0][name], name
    assert reference.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    assert reference.epoch == EPOCHS  # no images are held out, so the last epoch is chosen


def test_the_recorded_test_measures_of_both_networks_are_those_of_their_bundles(reference, runs, tiny_birds):
    from eet.images import read_image
    from eet.metrics import encoded_protocol, published_protocol

    assert set(reference.test) == {"student", "teacher"}
    table = synthetic.load(str(tiny_birds)).select("test")
    record = read_bundle_record(runs / "reference")
    for name, folder in (("student", runs / "reference"), ("teacher", runs / "reference" / "teacher")):
        network = load_bundle(folder)
        with torch.inference_mode():
            images = torch.stack([network.preprocess(read_image(table.location(row))) for row in range(len(table))])
            codes = np.packbits((network(images, tokens=False).hash > 0).numpy(), axis=1)
        encoded = encoded_protocol(codes, table.labels, num_bits=16)
        published = published_protocol(codes, table.labels, record.target_codes, record.label_counts)
        assert reference.test[name]["encoded"]["mAP"] == pytest.approx(encoded["mAP"], abs=1e-6)
        assert reference.test[name]["published"]["mAP"] == pytest.approx(published["mAP"], abs=1e-6)
    assert json.loads((runs / "reference" / "test.json").read_text()) == reference.test


def test_mlflow_has_parameters_a_point_per_epoch_artifacts_and_the_status(reference, runs):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "eet"]
    (run,) = [found for found in client.search_runs([experiment.experiment_id]) if found.info.run_name == "distill reference"]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "16" and run.data.params["student.backbone_options.depth"] == "4"
    for name in ("total", "learning_rate", "images_per_s"):
        points = client.get_metric_history(run.info.run_id, name)
        assert {point.step: point.value for point in points} == {record["epoch"]: record[name] for record in reference.history}
    assert run.data.metrics["test_student_encoded_mAP"] == pytest.approx(reference.test["student"]["encoded"]["mAP"])
    assert "test_teacher_published_P_at_1" in run.data.metrics
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"history.json", "test.json", "training.png", "config.yaml", "bundle"} <= files
    logged = {file.path for file in client.list_artifacts(run.info.run_id, "bundle")}
    assert logged == {"bundle/model.json", "bundle/model.safetensors", "bundle/MLmodel"}


def test_two_workers_give_the_parameters_of_one(reference, runs, tiny_birds):
    two = dataclasses.replace(TRAIN, workers=2, micro_batch_size=4)
    result = distill.run(config_of(runs / "two", tiny_birds, train=two))
    for bundle in (".", "teacher"):
        one = safetensors.numpy.load_file(runs / "reference" / bundle / "model.safetensors")
        for name, value in safetensors.numpy.load_file(runs / "two" / bundle / "model.safetensors").items():
            np.testing.assert_allclose(value, one[name], atol=1e-5, err_msg=f"{bundle} {name}")
    for found, expected in zip(result.history, reference.history, strict=True):
        for name in set(found) - {"images_per_s"}:
            assert found[name] == pytest.approx(expected[name], abs=1e-4), name


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedTask(HashingTask):
    """A task whose worker stops at the start of some epochs, once each, until it is killed. gates: by epoch, from 0."""

    gates: dict[int, Gate]

    def sampler(self, settings, *, rank, world, micro_batch_size):
        return GatedSampler(self.gates, super().sampler(settings, rank=rank, world=world, micro_batch_size=micro_batch_size))


class GatedSampler(StepSampler):
    def __init__(self, gates: dict[int, Gate], sampler: StepSampler) -> None:
        super().__init__(
            sampler.num_images, batch_size=sampler.batch_size, micro_batch_size=sampler.micro_batch_size, rank=0, world=1, seed=sampler.seed
        )
        self.gates = gates

    def __iter__(self):
        if self.epoch in self.gates:
            self.gates[self.epoch].arrive()
        return super().__iter__()


def kill_at(gates: dict[int, Gate], snapshot: Path) -> list[int]:
    """Kills the worker at each gate in turn, when a checkpoint exists for a restart; the gate then lets the next worker pass."""
    killed = []
    for gate in gates.values():
        wait_until(lambda gate=gate: bool(gate.arrivals()))
        wait_until(lambda: snapshot.is_file() and "checkpoint_" in snapshot.read_text())
        os.kill(gate.arrivals()[0].pid, signal.SIGKILL)
        killed.append(gate.arrivals()[0].pid)
        gate.open()
    return killed


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisturbedTask(HashingTask):
    """A task whose worker calls `disturb` at the start of the second epoch, when the first has a checkpoint."""

    disturb: Callable[[], None]

    def sampler(self, settings, *, rank, world, micro_batch_size):
        sampler = super().sampler(settings, rank=rank, world=world, micro_batch_size=micro_batch_size)
        return DisturbedSampler(self.disturb, sampler)


class DisturbedSampler(GatedSampler):
    def __init__(self, disturb: Callable[[], None], sampler: StepSampler) -> None:
        super().__init__({}, sampler)
        self.disturb = disturb

    def __iter__(self):
        if self.epoch == 1:
            self.disturb()
        return super().__iter__()


def limit_files() -> None:
    """As on a full disk, no file of this process grows any more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("lost", ["disk", "folder"])
def test_a_training_that_cannot_keep_a_checkpoint_ends_with_one_message(ray_session, runs, tiny_birds, monkeypatch, lost):
    """The disk is full, or another job has taken the folder."""
    out = runs / f"lost-{lost}"
    disturb = limit_files if lost == "disk" else (out / OWNER_FILE).unlink
    task_of = distill.task_of
    monkeypatch.setattr(distill, "task_of", lambda *given: DisturbedTask(**vars(task_of(*given)), disturb=disturb))
    message = rf"File too large: '{out}/checkpoints/.*/training.pt'" if lost == "disk" else f"{out} is held by nobody"
    with pytest.raises(EetError, match=message) as failure:
        distill.run(config_of(out, tiny_birds, train=dataclasses.replace(TRAIN, max_failures=0 if lost == "disk" else 1)))
    assert len(str(failure.value).splitlines()) == 1
    snapshot = json.loads((out / "checkpoints" / "run" / "checkpoint_manager_snapshot.json").read_text())
    assert len(snapshot["checkpoint_results"]) == 1, "the checkpoint of the second epoch was kept"
    assert not is_bundle(out) and not is_bundle(out / "teacher")


def printed_epochs(output: str) -> list[int]:
    return [int(line.split("/")[0].removeprefix("epoch ")) for line in output.splitlines() if line.startswith("epoch ")]


def test_a_killed_worker_is_replaced_and_an_interrupted_run_resumed_exactly(reference, runs, tiny_birds, capsys, monkeypatch):
    """The worker dies, is replaced from its checkpoint (max_failures=1), and dies again, which ends the run; --resume finishes it."""
    out = runs / "cut"
    config = config_of(out, tiny_birds)
    gates = {epoch: Gate(runs / f"gate-{epoch}") for epoch in (1, 3)}
    task_of = distill.task_of
    monkeypatch.setattr(distill, "task_of", lambda *given: GatedTask(**vars(task_of(*given)), gates=gates))
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_at, gates, out / "checkpoints" / "run" / "checkpoint_manager_snapshot.json")
        with pytest.raises(JobFailed, match="--resume"):
            distill.run(config)
        assert len(killing.result()) == 2
    monkeypatch.undo()
    assert not (out / "model.json").exists()
    message = printed_epochs(capsys.readouterr().out)
    assert message.count(1) == 1, f"the replaced worker started again: {message}"
    assert message and max(message) < EPOCHS

    with pytest.raises(ValueError, match="--resume"):
        distill.run(config)
    other = dataclasses.replace(config, resume=True, loss=LossOptions(beta=0.5))
    with pytest.raises(ValueError, match=r"other options \(loss"):
        distill.run(other)

    resumed = distill.run(dataclasses.replace(config, resume=True))
    assert printed_epochs(capsys.readouterr().out)[0] > 1
    for bundle in (".", "teacher"):
        assert weights_of(out / bundle) == weights_of(runs / "reference" / bundle)
    same = [{name: value for name, value in record.items() if name != "images_per_s"} for record in resumed.history]
    assert same == [{name: value for name, value in record.items() if name != "images_per_s"} for record in reference.history]
    assert resumed.test == reference.test

    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("eet").experiment_id], "run_name = 'distill cut'")
    assert [run.info.status for run in found] == ["FINISHED"]  # the resumed job continued it


class Killed(BaseException):
    """The process ends here."""


def test_a_bundle_is_not_written_into_the_folder_of_another_job(reference, runs, tiny_birds, monkeypatch):
    """It is taken after the last epoch, when the teacher's bundle has been written."""
    out = runs / "taken"
    shutil.copytree(runs / "reference", out)
    for name in ("model.safetensors", "model.json"):
        (out / name).unlink()
    save = HashingTask.save
    with ExitStack() as other, monkeypatch.context() as patch:

        def save_and_lose(task, name, *given):
            save(task, name, *given)
            other.enter_context(claimed(str(out), take_over=True))

        patch.setattr(HashingTask, "save", save_and_lose)
        with trained_here(), pytest.raises(EetError, match="is held by another job"):
            distill.run(config_of(out, tiny_birds, resume=True))
        assert is_bundle(out / "teacher") and not is_bundle(out)


def test_a_run_interrupted_before_its_bundles_are_written_is_finished_by_resume(reference, runs, tiny_birds, capsys, monkeypatch):
    """It is interrupted twice: before the first of its bundles, and before the second."""
    out = runs / "unwritten"
    shutil.copytree(runs / "reference", out)
    for name in ("model.safetensors", "model.json", "test.json", "history.json"):
        (out / name).unlink()
    shutil.rmtree(out / "teacher")
    save = HashingTask.save
    for written in (0, 1):
        done: list[str] = []

        def save_or_die(task, name, *given, written=written, done=done):
            if len(done) == written:
                raise Killed
            done.append(name)
            save(task, name, *given)

        with monkeypatch.context() as patch, trained_here(), pytest.raises(Killed):
            patch.setattr(HashingTask, "save", save_or_die)
            distill.run(config_of(out, tiny_birds, resume=True))
        assert not is_bundle(out) and is_bundle(out / "teacher") == bool(written)
    capsys.readouterr()
    resumed = distill.run(config_of(out, tiny_birds, resume=True))
    assert printed_epochs(capsys.readouterr().out) == []  # nothing is trained again
    for bundle in (".", "teacher"):
        assert weights_of(out / bundle) == weights_of(runs / "reference" / bundle)
    assert (resumed.history, resumed.test) == (reference.history, reference.test)


@pytest.fixture(scope="module")
def teacher(ray_session, tiny_birds, runs) -> tuple[TrainingResult, str]:
    """A teacher alone, on birds with one broken image, and validation images held out."""
    birds = runs / "broken_birds"
    shutil.copytree(tiny_birds, birds)
    table = synthetic.load(str(birds)).select("train")
    (birds / table.paths[0]).write_bytes(b"not an image")
    network = TeacherOptions(**NETWORK, image_size=48, bits=16)
    config = train_teacher.TrainTeacherConfig(
        out=str(runs / "teacher"),
        weights="none",
        data=DataOptions(name="synthetic", root=str(birds), on_error="skip"),
        student=network,
        train=dataclasses.replace(TRAIN, epochs=3, batch_size=8, validation_share=0.25, optimizer="adamw", learning_rate=1e-3),
    )
    with trained_here():
        return train_teacher.run(config), table.location(0)


def test_a_teacher_alone_is_chosen_by_validation_map_and_skips_unreadable_images(teacher, runs):
    result, _ = teacher
    measured = [record["val_mAP"] for record in result.history]
    assert len(measured) == 3 and result.epoch == 1 + int(np.argmax(measured))
    bundle = load_bundle(runs / "teacher")
    assert bundle.schedule.keep_ratios == () and bundle.num_bits == 16
    assert set(result.test) == {"teacher"}
    record = read_bundle_record(runs / "teacher")
    assert record.label_counts.sum() == 23  # 32 without the broken image and without a quarter
    assert not (runs / "teacher" / "teacher").exists()


def test_staged_training_does_not_change_the_teacher(teacher, tiny_birds, runs):
    before = weights_of(runs / "teacher")
    train = dataclasses.replace(TRAIN, epochs=1)
    network = StudentOptions(**NETWORK, image_size=48, bits=16, hash_input="probabilities")
    with trained_here():
        result = distill.run(config_of(runs / "staged", tiny_birds, teacher=str(runs / "teacher"), student=network, train=train))
    assert weights_of(runs / "teacher") == before
    assert not (runs / "staged" / "teacher").exists()
    assert set(result.test) == {"student", "teacher"}
    student = load_bundle(runs / "staged")
    assert student.schedule.keep_ratios == (0.5, 0.5, 0.25)
    record, of_teacher = read_bundle_record(runs / "staged"), read_bundle_record(runs / "teacher")
    assert record.training["joint"] is False
    assert np.array_equal(record.target_codes, of_teacher.target_codes)  # the codes on which the teacher was trained, not new ones
    assert student.hash_input == "probabilities"
    learned = student.head_hash.weight.detach().numpy().T  # starts at the target codes, and one epoch changes it little
    assert 0 < np.abs(learned - record.target_codes).max() < 0.1


def test_the_best_recipe_ends_with_joint_codes_and_measures_of_trained_and_untrained_labels(ray_session, tiny_birds, runs):
    names = synthetic.load(str(tiny_birds)).label_names
    (runs / "unseen.txt").write_text(f"{names[1]}\n{names[3]}\n")
    data = DataOptions(name="synthetic", root=str(tiny_birds), unseen=str(runs / "unseen.txt"))
    train = TrainOptions(epochs=1, batch_size=8, cpus_per_worker=1, workers=2, validation_share=0.25)
    student = StudentOptions(**NETWORK, image_size=48, bits=24, label_weight=0.5)
    result = distill.run(config_of(runs / "best", tiny_birds, data=data, student=student, train=train))
    rows = {"student", "teacher", "student, frozen with a probe", "teacher, frozen with a probe"}
    assert set(result.test) == rows and all(set(measures) == {"encoded", "unseen labels"} for measures in result.test.values())
    for folder in (runs / "best", runs / "best" / "teacher"):
        network, record = load_bundle(folder), read_bundle_record(folder)
        assert (network.hash_input, network.label_weight, network.num_bits) == ("joint", 0.5, 24)
        assert record.label_names == (names[0], names[2])
        # The bundle has a rotation fitted on rank 0: it keeps lengths in the few directions that the 12 training images span.
        kept = network.head_hash.weight.detach().T @ network.head_hash.weight.detach()
        torch.testing.assert_close(kept @ kept, kept, atol=1e-4, rtol=0)
        assert 1 < kept.trace().item() < 12


def test_an_unreadable_image_stops_the_job_before_training_and_is_named(tiny_birds, tmp_path, monkeypatch):
    birds = tmp_path / "birds"
    shutil.copytree(tiny_birds, birds)
    bad = [synthetic.load(str(birds)).location(row) for row in (0, 40)]
    for location in bad:
        Path(location).write_bytes(b"")
    monkeypatch.setattr("pipelines.training.run.connected", None)  # must not be reached
    with pytest.raises(ValueError, match="2 of 48 images cannot be read") as refusal:
        distill.run(config_of(tmp_path / "out", birds))
    assert all(location in str(refusal.value) for location in bad) and "on_error skip" in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_skipped_images_are_counted_and_listed(tiny_birds, tmp_path, capsys):
    birds = tmp_path / "birds"
    shutil.copytree(tiny_birds, birds)
    bad = synthetic.load(str(birds)).location(3)
    Path(bad).write_bytes(b"")
    data = DataOptions(name="synthetic", root=str(birds), on_error="skip")
    distill.run(config_of(tmp_path / "out", birds, data=data, dry_run=True))
    message = capsys.readouterr().out
    assert "31 training" in message and "skipped 1 unreadable images" in message and bad in message


def test_a_dry_run_prints_a_plan_and_writes_nothing(tiny_birds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.training.run.connected", None)
    distill.run(config_of(tmp_path / "deep" / "out", tiny_birds, dry_run=True))
    message = capsys.readouterr().out
    assert "4 labels, 32 training" in message and f"{EPOCHS} epochs of 2 steps of 16" in message and "nothing was started" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"warmup_steps": 2 * EPOCHS + 1}, f"warmup_steps {2 * EPOCHS + 1} is more than the {2 * EPOCHS} steps"),
        ({"batch_size": 64, "warmup_steps": 0}, "more than the 32 training images"),
    ],
)
def test_an_impossible_training_is_refused_before_anything_is_written(tiny_birds, tmp_path, train, message):
    with pytest.raises(ValueError, match=message):
        distill.run(config_of(tmp_path / "out", tiny_birds, train=dataclasses.replace(TRAIN, **train)))
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(60)  # Ray itself would wait forever
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 8}, "8 workers do not fit the cluster"),
        ({"workers": 2, "cpus_per_worker": 3}, "--train.cpus_per_worker 3: 2 workers can have 2 each"),
    ],
)
def test_workers_that_the_cluster_cannot_hold_are_refused(ray_session, tiny_birds, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        distill.run(config_of(tmp_path / "out", tiny_birds, train=dataclasses.replace(TRAIN, **changes)))


def test_a_finished_folder_is_not_trained_again(reference, runs, tiny_birds, tmp_path, capsys):
    before = weights_of(runs / "reference")
    with pytest.raises(ValueError, match="already holds a training run"):
        distill.run(config_of(runs / "reference", tiny_birds))
    assert distill.run(config_of(runs / "reference", tiny_birds, resume=True)) == reference
    printed = capsys.readouterr().out
    assert "is finished: nothing to do" in printed and "mAP" in printed
    with pytest.raises(ValueError, match="seed"):
        distill.run(config_of(runs / "reference", tiny_birds, resume=True, seed=99))
    shutil.copytree(runs / "reference", tmp_path / "copied", ignore=shutil.ignore_patterns("checkpoints", "config.yaml"))
    with pytest.raises(ValueError, match="holds a model, but no training that could be resumed"):
        distill.run(config_of(tmp_path / "copied", tiny_birds, resume=True))
    assert weights_of(runs / "reference") == before


def test_a_teacher_of_other_labels_is_refused(teacher, tmp_path, runs):
    synthetic.write(tmp_path / "more", num_labels=5, images_per_label=4, test_per_label=0, image_size=48)
    with pytest.raises(ValueError, match="was not trained on the 5 labels of this dataset"):
        distill.run(config_of(tmp_path / "out", tmp_path / "more", teacher=str(runs / "teacher")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 24}, "the student has 24 bits, the teacher 16"),
        ({"backbone_options": {**NETWORK["backbone_options"], "patch_size": 16}}, "same patch and image size"),
    ],
)
def test_a_teacher_that_does_not_fit_the_student_is_refused_before_anything_starts(teacher, tiny_birds, tmp_path, runs, changes, message):
    student = StudentOptions(**{**NETWORK, "image_size": 48, "bits": 16, **changes})
    with pytest.raises(ValueError, match=message):
        distill.run(config_of(tmp_path / "out", tiny_birds, student=student, teacher=str(runs / "teacher")))
    assert not (tmp_path / "out").exists()


def test_a_student_cannot_be_a_teacher(reference, tiny_birds, tmp_path, runs):
    with pytest.raises(ValueError, match="is a student"):
        distill.run(config_of(tmp_path / "out", tiny_birds, teacher=str(runs / "reference")))


def test_networks_depend_on_the_seed_and_share_a_backbone_but_not_heads(tiny_birds, runs):
    images = distill.read_labelled_images(DataOptions(name="synthetic", root=str(tiny_birds)), validation_share=0, seed=0)
    tasks = [distill.task_of(config_of(runs / "x", tiny_birds, seed=seed), images) for seed in (1, 1, 2)]
    states = [{name: network.state_dict() for name, network in task.networks.items()} for task in tasks]
    for name in ("student", "teacher"):
        first, again, other = (state[name] for state in states)
        assert all(torch.equal(value, again[key]) for key, value in first.items())
        for head in ("head_hash", "trunk.head"):
            assert not torch.equal(first[f"{head}.weight"], other[f"{head}.weight"])
            assert not first[f"{head}.bias"].any() and first[f"{head}.weight"].abs().max() < 0.1  # trunc_normal(0.02)
    student, teacher = states[0]["student"], states[0]["teacher"]
    heads = {key for key in student if "head" in key}
    assert all(torch.equal(student[key], teacher[key]) for key in student.keys() - heads)
    assert not any(torch.equal(student[key], teacher[key]) for key in heads if key.endswith("weight"))


def test_an_existing_session_is_left_open(reference):
    assert ray.is_initialized()
