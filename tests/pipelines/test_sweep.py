"""A sweep: draws, resources, records of trials, and a sweep that runs, loses a trial, and continues."""

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from ray import tune

from eet.vit import PruningSchedule, build_student, load_bundle, save_bundle
from pipelines import sweep
from pipelines.cli import main
from pipelines.configs.space import drawn_parameters, space_of, trial_name, with_parameters
from pipelines.configs.sweep import Cost
from pipelines.configs.sweep_options import TRIALS
from pipelines.costs import networks
from pipelines.costs.networks import latencies_ms, student_costs
from pipelines.distill import DistillConfig
from pipelines.job.cluster import ClusterResources, Node
from pipelines.job.errors import JobFailed
from pipelines.job.options import DataOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.sweep import SweepConfig, trainings_of
from pipelines.trials import outcomes as outcomes_module
from pipelines.trials import trainings, tuning
from pipelines.trials.process import PLANNED
from pipelines.trials.results import pareto_trials, results_table, write_results
from pipelines.trials.search import STUDY_FILE, default_scheduler, optuna_search, scheduler
from pipelines.trials.share import Share
from pipelines.trials.training import TrainingTrial, trial_config
from pipelines.trials.trainings import share_of
from pipelines.trials.trial import Trial, begin_trial, chosen_trial, end_trial, read_trial, read_trials
from pipelines.trials.weight_curves import weight_line
from tune_spaces.keep_ratios import keep_ratios
from tune_spaces.loss_weights import loss_weights

NETWORK = {"backbone": "vit_tiny_patch16_224", "backbone_options": {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}}
TRAIN = TrainOptions(recipe="published", epochs=2, batch_size=8, cpus_per_worker=1, validation_share=0.25, max_failures=0)


def config_of(out: Path, birds: Path, **changes) -> SweepConfig:
    options = {
        "space": "loss_weights",
        "weights": "none",
        "data": DataOptions(name="synthetic", root=str(birds)),
        "student": StudentOptions(**NETWORK, image_size=48, bits=16),
        "train": TRAIN,
        **changes,
    }
    return SweepConfig(out=str(out), **options)


# --- parameters


def test_the_first_draws_are_those_of_a_shorter_sweep_and_come_from_the_seed():
    few, many = (drawn_parameters(loss_weights(), trials=trials, seed=5) for trials in (3, 9))
    assert many[:3] == few and len({trial_name(parameters) for parameters in many}) == 9
    assert drawn_parameters(loss_weights(), trials=3, seed=6) != few
    assert json.loads(json.dumps(few)) == few  # nothing of numpy is left


def test_a_grid_has_its_own_number_and_equal_draws_count_once():
    assert len(drawn_parameters(loss_weights("grid"), trials=3, seed=0)) == 25
    mixed = {"student.bits": tune.grid_search([16, 32]), "loss.beta": tune.uniform(0, 1)}
    assert len(drawn_parameters(mixed, trials=3, seed=0)) == 2
    assert len(drawn_parameters({"student.bits": tune.choice([16, 32])}, trials=30, seed=0)) == 2


def test_parameters_take_the_place_of_flags_and_of_places_in_a_list():
    base = DistillConfig(out="x", student=StudentOptions(bits=16))
    drawn = {"student.keep_ratios.1": 0.3, "student.keep_ratios.0": 0.7, "student.prune_after": "[2, 5]", "loss.beta": 0.2, "seed": 7}
    config = with_parameters(base, drawn)
    assert config.student == dataclasses.replace(base.student, keep_ratios=(0.7, 0.3), prune_after=(2, 5))
    assert (config.loss, config.seed) == (LossOptions(beta=0.2), 7) and base.seed == 42
    assert with_parameters(base, {"train.optimizer": "adamw"}).train.optimizer == "adamw"


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        ({"loss.gamma": 1, "student.bits": 8, "out": "y"}, r"changes loss.gamma, out, which"),
        ({"data.root": "y"}, "changes data.root"),
        ({"student.keep_ratios.1": 0.5}, r"at the indexes \[1\]"),
    ],
)
def test_parameters_that_a_trial_does_not_have_are_refused(drawn, message):
    with pytest.raises(ValueError, match=message):
        with_parameters(DistillConfig(out="x"), drawn)


def test_a_space_of_the_user_s_own_goes_by_its_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "own_space.py").write_text("def rates(top=0.1):\n    return {'train.learning_rate': {'grid_search': [0.01, top]}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    space = space_of("own_space.rates", {"top": 0.3}, SweepConfig.spaces)
    assert drawn_parameters(space, trials=1, seed=0) == [{"train.learning_rate": 0.01}, {"train.learning_rate": 0.3}]
    with pytest.raises(ValueError, match="cannot take --space_options"):
        space_of("own_space.rates", {"bottom": 0.3}, SweepConfig.spaces)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os.system", "os.system belongs to Python itself"),
        ("shutil.rmtree", "belongs to Python itself"),
        ("numpy.save", "numpy.save is no space"),
        ("torch.hub.load", "torch.hub.load is no space"),
        ("tune_spaces.keep_ratios.combinations", "is no space"),
        ("own.system", "own.system is no space: a space is a function that own itself defines"),
        ("own.Rates", "own.Rates is no space"),
        ("nowhere.f", "neither one of"),
    ],
)
def test_what_is_no_space_is_not_called(tmp_path, monkeypatch, name, message):
    """A config names the space: it must not run any command."""
    (tmp_path / "own.py").write_text("from os import system\nclass Rates:\n    def __init__(self, **options): raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message):
        space_of(name, {"command": f"touch {tmp_path}/called"}, SweepConfig.spaces)
    assert not (tmp_path / "called").exists()


def test_what_is_impossible_is_reported_all_at_once_before_anything_starts(tmp_path, capsys):
    flags = ["--data.root", "x", "--trials", "0", "--concurrent", "0", "--costs", "[]", "--teacher", "t", "--shared_teacher"]
    assert main(["sweep", "--space", "keep_ratio", "--out", str(tmp_path / "out"), *flags]) == 2
    errors = capsys.readouterr().err
    for problem in ("--trials 0", "--concurrent 0", "--costs []", "--teacher and --shared-teacher", "neither one of loss_weights"):
        assert problem in errors
    own = config_of(tmp_path / "out", tmp_path, space="bits", space_options={"lengths": [16]}, search="optuna")
    assert any("draws its own points" in problem for problem in own.problems())
    assert config_of(tmp_path / "out", tmp_path).problems() == []


def test_the_costs_that_the_flag_allows_are_those_of_a_training():
    assert set(get_args(Cost)) == set(TrainingTrial.cost_names)


def test_a_trial_s_own_impossible_value_is_reported_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "wrong_space.py").write_text("def rates():\n    return {'train.learning_rate': {'grid_search': [0.01, -1.0]}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = config_of(tmp_path / "out", tmp_path, space="wrong_space.rates").problems()
    assert problem == "--space: --train.learning_rate -1.0: must be above 0, and finite"


@pytest.mark.parametrize("flag", ["--hits", "--gallery", "--top", "--match.hits"])
def test_flags_of_a_sweep_of_re_rankings_are_unknown(flag, tmp_path, capsys):
    assert main(["sweep", "--space", "bits", "--out", str(tmp_path / "out"), "--data.root", "x", flag, "9"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith(f"eet sweep: {flag}: there is no such flag")


# --- resources


@pytest.mark.parametrize(
    ("nodes", "train", "trials", "asked", "expected"),
    [
        ([(2, 0)], {}, 9, None, Share(2, 1)),
        ([(8, 0)], {}, 3, None, Share(3, 2)),  # the CPUs are shared out among fewer trials
        ([(8, 0)], {}, 9, 2, Share(2, 4)),
        ([(8, 0)], {"workers": 3}, 9, None, Share(2, 1)),
        ([(3, 0), (3, 0)], {"cpus_per_worker": 2}, 9, None, Share(2, 2)),  # no worker lies on two nodes
        ([(16, 1)], {}, 9, None, Share(1, 16)),
        ([(16, 1)], {"gpus_per_worker": 0.25}, 9, None, Share(4, 4)),
        ([(16, 2), (16, 0)], {"gpus_per_worker": 0.5}, 9, None, Share(4, 4)),
        ([(4, 4)], {"workers": 2}, 9, None, Share(2, 1)),
    ],
)
def test_as_many_trials_run_as_the_cluster_holds(nodes, train, trials, asked, expected):
    resources = ClusterResources(tuple(Node(*node) for node in nodes))
    share = share_of(resources, TrainOptions(**train), trials=trials, asked=asked)
    assert share == expected
    # What Ray is asked for at once is there.
    workers = share.concurrent * train.get("workers", 1)
    assert workers * share.cpus <= resources.cpus
    if resources.gpus:
        assert workers * train.get("gpus_per_worker", 1) <= resources.gpus


def test_trials_that_do_not_fit_are_refused_but_on_a_cluster_that_grows(capsys):
    small = ClusterResources((Node(2, 0),))
    for train, asked in (({"workers": 4, "batch_size": 64}, None), ({"cpus_per_worker": 3}, None), ({}, 3)):
        with pytest.raises(ValueError, match="do not fit the cluster of 1 nodes with 2 CPUs and 0 GPUs"):
            share_of(small, TrainOptions(**train), trials=9, asked=asked)
    growing = dataclasses.replace(small, grows=True)
    assert share_of(growing, TrainOptions(cpus_per_worker=3), trials=9, asked=5) == Share(5, 3)
    assert "waiting for the cluster to grow" in capsys.readouterr().out


def test_trials_are_stopped_by_map_only_where_they_cost_the_same():
    assert default_scheduler(loss_weights()) == "asha"
    assert default_scheduler(loss_weights("grid")) == default_scheduler(keep_ratios()) == "none"
    assert default_scheduler(loss_weights(bits=(16, 32))) == "none"


@pytest.mark.parametrize("name", ["asha", "median"])
@pytest.mark.parametrize("judged_at", [3, 9])
def test_a_hopeless_trial_is_stopped_but_not_one_that_has_only_its_bundle_to_write(name, judged_at):
    found = scheduler(name, epochs=9, grace_epochs=judged_at)
    trials = [type("Trial", (), {"trial_id": str(number)})() for number in range(5)]
    waiting = type("Waiting", (), {"status": "PENDING"})()  # for whose sake the median rule would pause a trial
    controller = type("Controller", (), {"get_live_trials": lambda self: [waiting]})()
    for trial in trials:
        found.on_trial_add(controller, trial)
    for number, trial in enumerate(trials):
        value = 0.1 if number == 4 else 0.9
        actions = [found.on_trial_result(controller, trial, {"epoch": epoch, "val_mAP": value}) for epoch in range(1, judged_at + 1)]
        stopped = number == 4 and judged_at < 9
        assert actions == ["CONTINUE"] * (judged_at - 1) + ["STOP" if stopped else "CONTINUE"], number


@pytest.mark.parametrize("costs", [("gmacs", "code_bytes"), ("latency_ms",)])
def test_optuna_goes_on_after_what_is_known_and_draws_nothing_twice(tmp_path, costs):
    optuna = pytest.importorskip("optuna")
    space = keep_ratios(depth=6)
    counted = [cost for cost in costs if cost != "latency_ms"] or ["gmacs"]

    def search(again, known):
        found = optuna_search(space, tmp_path, quality="val_mAP", costs=costs, again=again, known=known, seed=1)
        found.set_search_properties(None, None, space)
        return found

    first = search([], known=0)
    drawn = [first.suggest(f"t{number}") for number in range(3)]
    first.on_trial_complete("t0", {"val_mAP": 0.5, **dict.fromkeys(counted, 1.0)})
    assert first.metric == ["val_mAP", *counted] and first.mode == ["max", *("min" for _ in counted)]
    # Cut off here: one is known, two are run again as they were drawn, and only then comes something new.
    second = search(drawn[1:], known=3)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / STUDY_FILE}")
    assert [trial.values for trial in study.trials if trial.state.name == "COMPLETE"] == [[0.5, *(1.0 for _ in counted)]]
    again = [second.suggest(f"u{number}") for number in range(4)]
    assert again[:2] == drawn[1:]
    assert all(new not in drawn for new in again[2:])
    assert {len(with_parameters(DistillConfig(out="x"), parameters).student.keep_ratios) for parameters in again} == {3}


# --- folders and results


def finished(root: Path, parameters, val_maps, **costs) -> Trial:
    folder = root / trial_name(parameters)
    begin_trial(folder, parameters, {"gmacs": 1.0, "code_bytes": 2.0, "row_bytes": 9.0, **costs})
    history = [{"epoch": epoch, "val_mAP": value, "images_per_s": 5.0} for epoch, value in enumerate(val_maps, start=1)]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "model.json").write_text("{}")
    return read_trial(folder, of=TrainingTrial)


def test_a_trial_s_folder_says_how_it_stands_and_what_resume_does(tmp_path):
    drawn = [{"loss.beta": value} for value in (0.1, 0.2, 0.3, 0.4, 0.5)]
    names = [trial_name(parameters) for parameters in drawn]
    finished(tmp_path, drawn[0], [0.1, 0.3, 0.3])
    begin_trial(tmp_path / names[1], drawn[1], {})
    end_trial(tmp_path / names[1], "failed", "the loss is nan", [{"epoch": 1, "val_mAP": 0.1, "images_per_s": 2.0}])
    begin_trial(tmp_path / names[2], drawn[2], {})
    begin_trial(tmp_path / names[4], drawn[4], {})
    end_trial(tmp_path / names[4], "stopped", "by asha after epoch 1", [])
    trials = read_trials(tmp_path, drawn[:4], of=TrainingTrial)
    assert [trial.name for trial in trials] == names  # planned ones in order, started or not, then what a searcher drew
    assert [trial.status for trial in trials] == ["finished", "failed", "unfinished", "unfinished", "stopped"]
    assert [trial.to_run for trial in trials] == [False, True, True, True, False]
    assert trials[0].best["epoch"] == 2 and trials[3].parameters == drawn[3]
    begin_trial(tmp_path / names[1], drawn[1], {})
    assert read_trial(tmp_path / names[1], of=TrainingTrial).status == "unfinished"  # started again, it has not failed yet


def test_the_chosen_trial_has_the_highest_map_and_of_equals_the_least_macs(tmp_path):
    reached = [(0.4, 3), (0.5, 2), (0.5, 1), (0.1, 0.5)]
    trials = [finished(tmp_path, {"seed": n}, [value], gmacs=cost) for n, (value, cost) in enumerate(reached)]
    end_trial(tmp_path / "x", "stopped", "", [{"epoch": 1, "val_mAP": 0.9}])
    trials.append(read_trial(tmp_path / "x", of=TrainingTrial))
    assert chosen_trial(trials).parameters == {"seed": 2}
    assert {trial.parameters["seed"] for trial in trials if trial.name in pareto_trials(trials, ["gmacs"])} == {2, 3}
    assert chosen_trial([]) is None and pareto_trials([], ["gmacs"]) == set()


def test_results_have_a_row_a_trial_with_what_is_known(tmp_path, tiny_birds):
    drawn = [{"loss.beta": 0.1, "student.prune_after": "[1, 2]"}, {"loss.beta": 0.2, "student.prune_after": "[2, 3]"}]
    trials = [finished(tmp_path, drawn[0], [0.1, 0.4, 0.2])]
    begin_trial(tmp_path / trial_name(drawn[1]), drawn[1], {"gmacs": 2.0})
    end_trial(tmp_path / trial_name(drawn[1]), "failed", "the loss is nan", [])
    kind = trainings_of(config_of(tmp_path, tiny_birds, costs=("gmacs",)))
    rows = results_table(read_trials(tmp_path, drawn, of=TrainingTrial), kind).to_pylist()
    assert rows[0] == {
        "trial": trials[0].name, "status": "finished", "reason": "", **drawn[0], "val_mAP": 0.4, "epoch": 2, "epochs": 3,
        "images_per_s": 5.0, "gmacs": 1.0, "latency_ms": None, "code_bytes": 2.0, "row_bytes": 9.0, "pareto": True, "chosen": True,
        "bundle": str(trials[0].folder),
    }  # fmt: skip
    assert rows[1]["status"] == "failed" and rows[1]["reason"] == "the loss is nan" and rows[1]["gmacs"] == 2.0
    assert (rows[1]["val_mAP"], rows[1]["bundle"], rows[1]["pareto"], rows[1]["chosen"]) == (None, None, False, False)


def test_a_line_of_the_figures_joins_trials_that_differ_in_that_weight_alone(tmp_path):
    grid = [{"loss.beta": beta, "loss.sigma": sigma} for beta in (0.1, 0.01, 1.0) for sigma in (1.0, 2.0)]
    trials = [finished(tmp_path, parameters, [0.9 if parameters["loss.sigma"] == 2 else 0.1]) for parameters in grid]
    assert [trial.parameters for trial in weight_line(trials, "loss.beta")] == [
        {"loss.beta": 0.01, "loss.sigma": 2.0}, {"loss.beta": 0.1, "loss.sigma": 2.0}, {"loss.beta": 1.0, "loss.sigma": 2.0},
    ]  # fmt: skip
    random = [finished(tmp_path, {"loss.beta": n / 10, "loss.sigma": n / 3}, [0.1]) for n in range(1, 5)]
    assert weight_line(random, "loss.beta") == []


def test_distill_takes_best_yaml_as_it_is(tmp_path, tiny_birds, capsys):
    drawn = drawn_parameters(loss_weights("figures", bits=(16, 24)), trials=1, seed=0)
    trials = [finished(tmp_path / "trials", parameters, [0.1 + n / 100]) for n, parameters in enumerate(drawn)]
    kind = trainings_of(config_of(tmp_path, tiny_birds))
    write_results(tmp_path, trials, kind, title="t")
    assert {"results.parquet", "pareto.png", "map_over_beta.png", "map_over_sigma.png", "best.yaml"} <= {p.name for p in tmp_path.iterdir()}
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 18
    written = yaml.safe_load((tmp_path / "best.yaml").read_text())
    best = drawn[-1]
    assert (written["loss"]["beta"], written["loss"]["sigma"]) == (best["loss.beta"], best["loss.sigma"])
    assert (written["student"]["bits"], written["out"]) == (best["student.bits"], str(tmp_path / "best"))
    assert main(["distill", "--config", str(tmp_path / "best.yaml"), "--dry-run"]) == 0
    assert "24 training, 8 validation, 16 test images" in capsys.readouterr().out


def test_with_shared_teachers_each_code_length_follows_its_own():
    base = DistillConfig(out="x", teacher=None)
    config = trial_config(base, {"student.bits": 24}, out="y", teachers="z")
    assert (config.out, config.teacher) == ("y", "z/24_bits")
    assert trial_config(dataclasses.replace(base, teacher="t"), {}, out="y", teachers=None).teacher == "t"


def test_a_stopped_trial_is_reported_and_its_workers_cpus_are_freed_once_its_own_processes_are_gone(
    tmp_path, tiny_birds, monkeypatch, capsys
):
    freed: list[str] = []
    monkeypatch.setattr(outcomes_module, "remove_placement_group", lambda group: freed.append(group.id.hex()))
    clock = [100.0]
    monkeypatch.setattr(outcomes_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    run = type("Run", (), {"ended": [], "end_children": lambda self, *ended: self.ended.append(ended)})()
    progress = trainings_of(config_of(tmp_path, tiny_birds, train=dataclasses.replace(TRAIN, epochs=9))).progress
    outcomes = outcomes_module.TrialOutcomes(tmp_path, of=TrainingTrial, progress=progress, run=run, planned=[], scheduler="asha")
    groups = ["ab" * 18, "cd" * 18]
    drawn = [{"loss.beta": 0.1}, {"loss.beta": 0.2}]
    trials = [type("Trial", (), {"config": {"planned": parameters}})() for parameters in drawn]
    for trial, group in zip(trials, groups, strict=True):
        outcomes.on_trial_result(1, trials, trial, {"epoch": 1, "val_mAP": 0.25, "images_per_s": 3.0, "placement_group": group})
    outcomes.on_trial_complete(1, trials, trials[0])
    stopped = read_trial(tmp_path / trial_name(drawn[0]), of=TrainingTrial)
    assert (stopped.status, stopped.reason, stopped.best["val_mAP"]) == ("stopped", "by asha after epoch 1", 0.25)
    assert run.ended == [(f"trial {stopped.name}", "KILLED")]
    outcomes.on_step_end(2, trials)
    assert freed == []
    clock[0] += outcomes_module.GRACE_S
    outcomes.on_step_end(3, trials)
    assert freed == groups[:1]
    outcomes.on_trial_error(4, trials, trials[1])
    outcomes.close()
    assert freed == groups
    assert read_trial(tmp_path / trial_name(drawn[1]), of=TrainingTrial).reason == "its process was lost"
    assert f"trial {stopped.name}  epoch 1/9  val mAP 0.2500\n" in capsys.readouterr().out


# --- costs


def tiny_student(**changes):
    options = {"num_classes": 4, "num_bits": 12, "schedule": PruningSchedule((2,), (0.5,)), "weights": "none", "seed": 0, **changes}
    return build_student(NETWORK["backbone"], image_size=48, backbone_options=NETWORK["backbone_options"], **options)


def test_costs_are_those_of_a_gallery_s_row_and_of_the_network():
    costs = student_costs(tiny_student())
    assert (costs["code_bytes"], costs["row_bytes"]) == (2, 2 + 18 * (2 * 32 + 2 + 2))  # 18 of 36 patches are kept
    assert student_costs(tiny_student(schedule=PruningSchedule((), ())))["gmacs"] > costs["gmacs"] > 0
    assert student_costs(tiny_student(num_bits=64))["code_bytes"] == 8


def test_networks_that_differ_in_weights_alone_are_timed_once(tmp_path, monkeypatch):
    timed = []

    def seconds(calls, *, repeats, device):
        for call in calls.values():
            call()
        timed.append(len(calls))
        return {kind: [place + 1.0, place + 2.0, 99.0] for place, kind in enumerate(calls)}

    monkeypatch.setattr(networks, "interleaved_seconds", seconds)
    for name, changes in (("a", {}), ("b", {"seed": 1}), ("c", {"schedule": PruningSchedule((), ())})):
        save_bundle(tiny_student(**changes), tmp_path / name)
    found = latencies_ms({name: str(tmp_path / name) for name in "abc"}, threads=torch.get_num_threads())
    assert timed == [2]
    assert found == {"a": 250.0, "b": 250.0, "c": 375.0}  # the medians, 2 and 3 s, over a batch of 8


# --- jobs


def test_without_validation_images_there_is_nothing_to_judge_by(tiny_birds, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "connected", None)  # must not be reached
    with pytest.raises(ValueError, match="--train.validation_share 0.1, or a val split"):
        sweep.run(config_of(tmp_path / "out", tiny_birds, train=dataclasses.replace(TRAIN, validation_share=0)))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_trials_resources_and_hours_and_writes_nothing(tiny_birds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(tuning.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(trainings, "measured_rate", lambda task, settings: (2.0, "cpu"))
    sweep.run(config_of(tmp_path / "out", tiny_birds, trials=5, dry_run=True, train=dataclasses.replace(TRAIN, epochs=300)))
    output = capsys.readouterr().out
    # 300 epochs of 3 steps of 8 at 2 images/s: an hour each; five of them, two at a time: three hours.
    assert "5 trials of 300 epochs, 2 at once, scheduler asha" in output and "1 workers of 1 CPUs" in output
    assert "about 60 min a trial, 3.00 h for all" in output and "nothing was started" in output
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_is_stopped_leaves_its_table_and_the_test_split_alone(tiny_birds, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "connected", lambda address: nullcontext(ClusterResources((Node(2, 0),))))
    monkeypatch.setattr(trainings.encode, "run", None)  # must not be reached

    def cut_off():  # at a Ctrl-C Tune returns as if all were done
        finished(tmp_path / "out" / "trials", drawn_parameters(loss_weights(), trials=3, seed=42)[1], [0.5])

    monkeypatch.setattr(tuning.tune, "Tuner", lambda *_, **__: SimpleNamespace(fit=cut_off))
    with pytest.raises(JobFailed, match="stopped with 2 trials still to run, and the test split not used yet"):
        sweep.run(config_of(tmp_path / "out", tiny_birds, trials=3))
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["unfinished", "finished", "unfinished"]
    assert [run.info.status for run in runs_of(tmp_path / "out")] == ["FAILED"]


@pytest.fixture(scope="module")
def swept(ray_session, tiny_birds, tmp_path_factory):
    """A sweep of two trials under ASHA, of which one diverges; the config, and what it returned."""
    out = tmp_path_factory.mktemp("sweeps") / "out"
    (out.parent / "own_rates.py").write_text("def rates():\n    return {'train.learning_rate': {'grid_search': [0.01, 1e30]}}\n")
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(out.parent)
    config = config_of(out, tiny_birds, space="own_rates.rates", scheduler="asha", train=dataclasses.replace(TRAIN, warmup_steps=0))
    yield config, sweep.run(config)
    patch.undo()


def runs_of(out: Path):
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{out.parent / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("eet").experiment_id], order_by=["attributes.start_time"])


@pytest.mark.timeout(600)
def test_a_trial_that_fails_is_reported_with_its_reason_and_the_others_finish(swept):
    config, result = swept
    good, wild = result.trials
    assert (good.status, wild.status) == ("finished", "failed")
    assert "lower learning_rate" in wild.reason
    assert result.chosen is not None and result.chosen.name == good.name
    assert len(good.history) == 2 and good.best["val_mAP"] == max(record["val_mAP"] for record in good.history)
    rows = pq.read_table(Path(config.out) / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "failed"] and rows[0]["bundle"] == str(good.folder)
    assert load_bundle(rows[0]["bundle"]).num_bits == 16


@pytest.mark.timeout(600)
def test_the_test_split_is_measured_for_the_chosen_model_alone(swept):
    config, result = swept
    assert json.loads((result.chosen.folder / "test.json").read_text()) == {}
    assert set(result.test) == {"encoded", "published"}
    assert result.test["encoded"]["queries"] == 16


@pytest.mark.timeout(600)
def test_mlflow_has_one_parent_with_the_trials_under_it_and_each_its_status(swept):
    config, result = swept
    runs = {run.info.run_name: run for run in runs_of(Path(config.out))}
    parent = runs["sweep out"]
    children = {name: run for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert {name: run.info.status for name, run in children.items()} == {
        f"trial {result.trials[0].name}": "FINISHED",
        f"trial {result.trials[1].name}": "FAILED",
    }
    assert parent.info.status == "FINISHED" and "test_encoded_mAP" in parent.data.metrics
    assert [run.data.params["train.learning_rate"] for run in children.values()].count("0.01") == 1


class StandInTuner:
    """Runs no trial: it notes which it was given, and writes that they failed. test_sweep_matching.py resumes with Tune itself."""

    given: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, trainable: Any, *, param_space: dict[str, Any], run_config: tune.RunConfig, **_: Any) -> None:
        self.trials = Path(run_config.storage_path) / TRIALS
        StandInTuner.given[:] = param_space[PLANNED]["grid_search"]

    def fit(self) -> list[Any]:
        for parameters in self.given:
            end_trial(self.trials / trial_name(parameters), "failed", "again", [])
        return self.given


@pytest.mark.timeout(600)
def test_resume_runs_failed_trials_again_and_finished_ones_never(swept, monkeypatch):
    config, result = swept
    good, wild = result.trials
    before = (good.folder / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="--resume"):
        sweep.run(config)
    with pytest.raises(ValueError, match=r"other options \(train.epochs"):
        sweep.run(dataclasses.replace(config, resume=True, train=dataclasses.replace(config.train, epochs=3)))
    monkeypatch.setattr(tuning.tune, "Tuner", StandInTuner)
    again = sweep.run(dataclasses.replace(config, resume=True))
    assert StandInTuner.given == [wild.parameters]
    assert [(trial.status, trial.reason) for trial in again.trials] == [("finished", ""), ("failed", "again")]
    assert (good.folder / "model.safetensors").stat().st_mtime_ns == before
    assert again.test == result.test
    parents = [run for run in runs_of(Path(config.out)) if run.info.run_name == "sweep out"]
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
