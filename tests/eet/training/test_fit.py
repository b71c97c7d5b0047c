"""The training loop in this process: without Ray, with drawn birds and a tiny network."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from eet.datasets import synthetic
from eet.hashing import learn_target_codes
from eet.training import Diverged, FitSettings, Fitted, HashingTask, fit, labelled_images, optimizer_of
from eet.vit import PruningSchedule, build_student

SETTINGS = FitSettings(epochs=4, batch_size=16, micro_batch_size=6, seed=42)
OPTIONS = {"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
BITS = 16


def task_on(birds: Path, *, validation_share: float = 0.0, joint: bool = True) -> HashingTask:
    images = labelled_images(synthetic.load(str(birds)), validation_share=validation_share, seed=0)
    teacher = build_student(
        "vit_tiny_patch16_224",
        num_classes=4,
        num_bits=BITS,
        schedule=PruningSchedule((), ()),
        image_size=48,
        weights="none",
        backbone_options=OPTIONS,
        seed=1,
    )
    student = copy.deepcopy(teacher).with_schedule(PruningSchedule((1, 2, 3), (0.5, 0.5, 0.25)))
    codes = learn_target_codes(images.train.labels, num_bits=BITS, seed=0)
    return HashingTask(
        networks={"student": student, "teacher": teacher},
        train=images.train,
        val=images.val,
        test=images.test,
        joint=joint,
        target_codes_Cb=codes,
    )


@pytest.fixture(autouse=True)
def one_thread():
    """One thread, so that sums have one order and runs can be compared bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def equal_weights(one: Fitted, other: Fitted) -> bool:
    return all(torch.equal(value, other.weights[name][key]) for name, state in one.weights.items() for key, value in state.items()) and set(
        one.weights
    ) == set(other.weights)


def comparable(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in record.items() if name != "images_per_s"} for record in history]


def test_the_losses_fall_and_the_networks_have_the_chosen_weights(tiny_birds):
    task = task_on(tiny_birds)
    before = copy.deepcopy(task.networks["student"].state_dict())
    fitted = fit(task, SETTINGS)
    assert [record["epoch"] for record in fitted.history] == [1, 2, 3, 4] and fitted.epoch == 4
    for name in ("teacher_hashing", "teacher_classification", "learning_rate"):
        assert fitted.history[-1][name] < fitted.history[0][name], name
    assert fitted.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)
    after = task.networks["student"].state_dict()
    assert all(torch.equal(value, fitted.weights["student"][name]) for name, value in after.items())
    assert not torch.equal(after["trunk.blocks.0.attn.qkv.weight"], before["trunk.blocks.0.attn.qkv.weight"])
    assert set(fitted.test) == {"student", "teacher"} and set(fitted.test["student"]) == {"encoded", "published"}


def test_training_from_any_checkpoint_gives_exactly_the_same_weights(tiny_birds):
    states: list[dict] = []
    whole = fit(task_on(tiny_birds), SETTINGS, report=lambda record, state: states.append(copy.deepcopy(state())))
    assert len(states) == 4
    for state in states:
        resumed = fit(task_on(tiny_birds), SETTINGS, checkpoint=state)
        assert equal_weights(whole, resumed)
        assert comparable(resumed.history) == comparable(whole.history) and resumed.test == whole.test


def test_micro_batches_change_only_the_order_of_sums(tiny_birds):
    whole = fit(task_on(tiny_birds), dataclasses.replace(SETTINGS, micro_batch_size=16, epochs=2))
    parts = fit(task_on(tiny_birds), dataclasses.replace(SETTINGS, micro_batch_size=5, epochs=2))
    for name, value in whole.weights["student"].items():
        torch.testing.assert_close(value, parts.weights["student"][name], atol=1e-5, rtol=1e-4)


def test_the_epoch_of_the_best_validation_is_chosen(tiny_birds):
    fitted = fit(task_on(tiny_birds, validation_share=0.25), dataclasses.replace(SETTINGS, batch_size=8))
    measured = [record["val_mAP"] for record in fitted.history]
    assert len(measured) == 4 and fitted.epoch == 1 + int(np.argmax(measured))


def test_a_frozen_teacher_does_not_change(tiny_birds):
    task = task_on(tiny_birds, joint=False)
    before = copy.deepcopy(task.networks["teacher"].state_dict())
    fitted = fit(task, dataclasses.replace(SETTINGS, epochs=1))
    assert set(fitted.weights) == {"student"} and set(fitted.test) == {"student", "teacher"}
    assert all(torch.equal(value, before[name]) for name, value in task.networks["teacher"].state_dict().items())


def test_steps_are_reported_with_mean_losses_and_the_last_of_each_epoch(tiny_birds):
    steps: list = []
    fitted = fit(task_on(tiny_birds), dataclasses.replace(SETTINGS, epochs=2), on_step=steps.append)
    assert [(step.epoch, step.step, step.steps) for step in steps] == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]
    assert steps[-1].losses["total"] == pytest.approx(fitted.history[-1]["total"], rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(tiny_birds):
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) in epoch 1: lower learning_rate"):
        fit(task_on(tiny_birds), dataclasses.replace(SETTINGS, learning_rate=1e30, warmup_steps=0))


def test_heads_have_their_own_learning_rate(tiny_birds):
    task = task_on(tiny_birds)
    settings = dataclasses.replace(SETTINGS, learning_rate=0.1, head_learning_rate=0.5, weight_decay=0.2)
    objective = task.objective(settings)
    heads = {
        id(parameter)
        for network in task.networks.values()
        for module in (network.head_hash, network.trunk.head)
        for parameter in module.parameters()
    }
    backbones, own = optimizer_of(objective, settings).param_groups
    assert {id(parameter) for parameter in own["params"]} == heads and len(heads) == 8
    assert (backbones["lr"], own["lr"], own["weight_decay"], own["momentum"]) == (0.1, 0.5, 0.2, 0.9)
    total = len(list(task.networks["student"].parameters())) + len(list(task.networks["teacher"].parameters()))
    assert len(backbones["params"]) + len(own["params"]) == total
    assert isinstance(optimizer_of(objective, dataclasses.replace(settings, optimizer="adamw")), torch.optim.AdamW)
