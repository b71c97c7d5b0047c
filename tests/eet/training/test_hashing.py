"""Values that a hashing task fits before and after its epochs: probes, the temperature, the rotation of a joint hash."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eet.datasets import synthetic
from eet.hashing import fit_itq, fit_within_label_whitening, learn_target_codes
from eet.metrics import encoded_protocol
from eet.training import FitSettings, HashingTask, fit, labelled_images
from eet.training.hashing import TEMPERATURES
from eet.training.images import EvaluationImages
from eet.vit import PruningSchedule, build_student

SETTINGS = FitSettings(epochs=1, batch_size=16, micro_batch_size=8, optimizer="adamw", learning_rate=1e-3)
BITS = 16


def task_on(
    birds: Path, hash_input: Any, *, validation_share: float = 0.0, probe: bool = True, unseen: tuple[str, ...] = ()
) -> HashingTask:
    images = labelled_images(synthetic.load(str(birds)), validation_share=validation_share, seed=0, unseen_names=unseen)
    teacher = build_student(
        "vit_tiny_patch16_224",
        num_classes=images.train.num_labels,
        num_bits=BITS,
        schedule=PruningSchedule((), ()),
        image_size=48,
        weights="none",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2},
        hash_input=hash_input,
        seed=1,
    )
    return HashingTask(
        networks={"student": copy.deepcopy(teacher).with_schedule(PruningSchedule((1, 2), (0.5, 0.5))), "teacher": teacher},
        train=images.train,
        val=images.val,
        test=images.test,
        unseen=images.unseen,
        joint=True,
        target_codes_Cb=learn_target_codes(images.train.labels, num_bits=BITS, seed=0),
        probe=probe,
    )


@torch.no_grad()
def outputs(network, table):
    images = EvaluationImages(table, network.preprocessing)
    return network.eval()(torch.stack([images[row] for row in range(len(images))]), tokens=False)


def joint_input(out, network, temperature: float) -> np.ndarray:
    powers = np.exp(out.logits.double().numpy() / temperature)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    weight, bias = (value.double().numpy() for value in (network.whitening.weight, network.whitening.bias))
    appearance = out.embedding.double().numpy() @ weight.T + bias
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (appearance, probabilities)]
    return np.concatenate([unit[0], network.label_weight * unit[1]], axis=1)


def test_a_joint_hash_is_a_rotation_of_the_trained_networks_outputs_for_the_training_images(tiny_birds):
    task = task_on(tiny_birds, "joint")
    fitted = fit(task, SETTINGS)
    for name, network in task.networks.items():
        out = outputs(network, task.train)
        whitening = fit_within_label_whitening(out.embedding.numpy(), task.train.labels)
        np.testing.assert_allclose(network.whitening.weight.numpy(), whitening.weight_bD, atol=1e-3)
        np.testing.assert_allclose(network.whitening.bias.numpy(), whitening.bias_b, atol=1e-3)
        read = joint_input(out, network, 1.0)
        weight, bias = (value.detach().double().numpy() for value in (network.head_hash.weight, network.head_hash.bias))
        np.testing.assert_allclose(out.hash.numpy(), read @ weight.T + bias, atol=1e-5)
        np.testing.assert_allclose(bias, -weight @ read.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(weight @ weight.T, np.eye(BITS), atol=1e-5)
        # Not exactly the same rotation: the last digit of a feature may change a sign, and then the iteration differs.
        plain = fit_itq(read.astype(np.float32), num_bits=BITS, seed=task.seed)
        errors = [np.square(np.sign(hashed) - hashed).mean() for hashed in (out.hash.numpy(), read @ plain.weight_bD.T + plain.bias_b)]
        assert errors[0] == pytest.approx(errors[1], rel=0.05)
        assert set(fitted.test[name]) == {"encoded"}  # its codes are not target codes


def test_the_temperature_is_the_one_with_the_highest_mAP_on_validation_images(tiny_birds, monkeypatch):
    monkeypatch.setattr("eet.training.hashing.LEAST_MATCHED", 2)
    task = task_on(tiny_birds, "probabilities", validation_share=0.4)
    fit(task, SETTINGS)
    network = task.networks["student"]
    chosen, quality = network.temperature, {}
    for network.temperature in TEMPERATURES:
        codes = np.packbits(outputs(network, task.val).hash.numpy() > 0, axis=1)
        quality[network.temperature] = encoded_protocol(codes, task.val.labels, num_bits=BITS)["mAP"]
    assert quality[chosen] == max(quality.values())
    assert chosen in TEMPERATURES


def test_without_enough_validation_images_the_temperature_is_1(tiny_birds):
    task = task_on(tiny_birds, "joint", validation_share=0.4)
    fit(task, SETTINGS)
    assert task.networks["student"].temperature == 1.0


def test_training_starts_at_the_probe_and_its_measures_are_the_first_row(tiny_birds):
    task = task_on(tiny_birds, "probabilities")
    none = fit(task, dataclasses.replace(SETTINGS, epochs=0))
    assert none.epoch == 0 and none.history == []
    assert none.test["student"] == none.test["student, frozen with a probe"]
    assert none.test["teacher"] == none.test["teacher, frozen with a probe"]
    accuracy = (outputs(task.networks["teacher"], task.train).logits.argmax(dim=1).numpy() == task.train.labels).mean()
    assert accuracy > 0.5  # of 4 labels
    trained = fit(task_on(tiny_birds, "probabilities"), SETTINGS)
    assert trained.test["student, frozen with a probe"] == none.test["student"]
    plain = fit(task_on(tiny_birds, "probabilities", probe=False), SETTINGS)
    assert set(plain.test) == {"student", "teacher"}
    assert not torch.equal(plain.weights["student"]["trunk.head.weight"], trained.weights["student"]["trunk.head.weight"])


def test_measuring_the_probe_does_not_change_the_training(tiny_birds):
    measured, unmeasured = task_on(tiny_birds, "joint"), task_on(tiny_birds, "joint")
    unmeasured = dataclasses.replace(unmeasured, test=None)
    assert all(
        torch.equal(value, other)
        for one, two in zip(fit(measured, SETTINGS).weights.values(), fit(unmeasured, SETTINGS).weights.values(), strict=True)
        for value, other in zip(one.values(), two.values(), strict=True)
    )


def test_held_out_labels_are_evaluated_too(tiny_birds):
    names = synthetic.load(str(tiny_birds)).label_names[:2]
    task = task_on(tiny_birds, "joint", unseen=names)
    assert task.networks["student"].num_classes == 2
    measures = fit(task, dataclasses.replace(SETTINGS, epochs=0)).test["student"]
    codes = np.packbits(outputs(task.networks["student"], task.unseen).hash.numpy() > 0, axis=1)
    assert measures["unseen labels"] == encoded_protocol(codes, task.unseen.labels, num_bits=BITS)


def test_a_resumed_training_ends_with_the_same_joint_hash(tiny_birds):
    settings, states = dataclasses.replace(SETTINGS, epochs=2), []
    whole = fit(task_on(tiny_birds, "joint"), settings, report=lambda record, state: states.append(copy.deepcopy(state())))
    resumed = fit(task_on(tiny_birds, "joint"), settings, checkpoint=states[0])
    assert resumed.test.keys() == whole.test.keys()
    for name, heads in whole.fitted.items():
        others = resumed.fitted[name]
        for one, other in zip((*heads[:-1], *heads.whitening), (*others[:-1], *others.whitening), strict=True):
            assert (one is None and other is None) or np.array_equal(one, other)
