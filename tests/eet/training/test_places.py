"""Training of base models on drawn places."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from eet.datasets import ImageTable, Places, load_dataset, synthetic
from eet.embedding import build_base, load_base
from eet.errors import InputError
from eet.training import FitSettings, Mining, PlaceTask, fit, place_images
from eet.training.images import AugmentedImages

SIZE = (28, 40)  # height and width
VIT = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
SETTINGS = FitSettings(epochs=3, batch_size=8, optimizer="sgd", learning_rate=0.02, warmup_steps=0, seed=1)


@pytest.fixture
def table(tiny_birds) -> ImageTable:
    """Birds along a street: those of one label at one place, images of another label 40 metres on. Every third image is a query."""
    birds = synthetic.load(str(tiny_birds))
    rows = len(birds)
    metres = np.stack([birds.labels * 40.0 + np.arange(rows) % 5, np.zeros(rows)], axis=1)
    roles = np.where(np.arange(rows) % 3 == 0, "query", "database")
    splits = np.where(np.arange(rows) % 2 == 0, "train", np.where(np.arange(rows) % 4 == 1, "val", "test")).astype("<U5")
    places = Places(metres, np.full(rows, "z"), roles, np.full(rows, ""))
    return ImageTable(birds.root, birds.paths, np.full(rows, -1, np.int32), splits, (), places)


def task_of(table: ImageTable, **options) -> PlaceTask:
    images = place_images(table)
    model = build_base(
        "deit_tiny_patch16_224", embedding_width=6, image_size=SIZE, weights="none", backbone_options=VIT, fit="squash", seed=4
    )
    return PlaceTask(
        networks={"base": model},
        train=images.train,
        val=images.val,
        test=images.test,
        loss="triplet",
        loss_options={"negatives": 2},
        mining=Mining(candidates=10, queries_per_round=4),
        **options,
    )


@pytest.mark.slow
def test_triplets_are_mined_again_in_an_epoch_and_training_goes_on_from_a_checkpoint(table, tmp_path):
    states = []

    def report(record, state):
        torch.save(state(), tmp_path / "state.pt")
        states.append(torch.load(tmp_path / "state.pt"))

    task = task_of(table)
    assert task.images_per_epoch % 4 == 0 and task.sampler(SETTINGS, rank=0, world=1, micro_batch_size=8).steps_per_round == 2
    whole = fit(task, SETTINGS, report=report)
    assert whole.history[-1]["triplet"] < whole.history[0]["triplet"] and "val_recall@5" in whole.history[0]
    assert set(whole.test["base"]) == {"25 metres"} and whole.test["base"]["25 metres"]["queries"] == (
        (task.test.places.roles_N == "query").sum() - whole.test["base"]["25 metres"]["queries_without_relevant"]
    )
    resumed = fit(task_of(table), SETTINGS, checkpoint=states[0])
    assert all(torch.equal(resumed.weights["base"][name], value) for name, value in whole.weights["base"].items())
    task.save("base", tmp_path, {"epochs": 3})
    again = load_dataset("table", table.root, table=str(tmp_path / "split.csv"))
    assert len(again) == len(table) and set(again.places.roles_N) == {"query", "database"}
    assert load_base(tmp_path).embedding_width == 6


def test_batches_that_cannot_be_made_are_refused_before_any_worker_starts(table):
    with pytest.raises(InputError, match="a batch of 10 images: use a multiple of 4"):
        task_of(table).objective(replace(SETTINGS, batch_size=10))


def test_streets_are_not_mirrored(table, monkeypatch):
    def first(images: AugmentedImages, index) -> None:
        raise InputError(f"mirrored: {images.flip}")

    monkeypatch.setattr(AugmentedImages, "__getitem__", first)
    with pytest.raises(InputError, match="mirrored: False"):
        fit(task_of(table), SETTINGS)


def teacher_of(size: tuple[int, int], width: int = 6):
    return build_base("deit_tiny_patch16_224", embedding_width=width, image_size=size, weights="none", backbone_options=VIT, seed=9)


@pytest.mark.slow
def test_a_student_follows_a_teacher_alone_and_from_a_checkpoint(table, tmp_path):
    def task():
        plain = task_of(table, loss_weight=0.0, following={"cosine": 1.0, "distance": 0.5})
        return replace(plain, networks={**plain.networks, "teacher": teacher_of((56, 44))})

    def report(record, state):
        torch.save(state(), tmp_path / "state.pt")
        states.append(torch.load(tmp_path / "state.pt"))

    states: list = []
    taught = task()
    before = {name: value.clone() for name, value in taught.networks["teacher"].state_dict().items()}
    whole = fit(taught, SETTINGS, report=report)
    first, last = whole.history[0], whole.history[-1]
    assert last["follow_cosine"] < first["follow_cosine"] and {"triplet", "follow_distance"} <= set(first)
    assert last["total"] == pytest.approx(last["follow_cosine"] + 0.5 * last["follow_distance"], abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in taught.networks["teacher"].state_dict().items())
    assert set(whole.test) == {"base", "teacher"} and set(whole.weights) == {"base"}
    resumed = fit(task(), SETTINGS, checkpoint=states[1])
    assert all(torch.equal(resumed.weights["base"][name], value) for name, value in whole.weights["base"].items())


def test_a_teacher_sees_the_students_images_at_its_own_size_and_norm(table):
    task = task_of(table, following={"cosine": 2.0})
    for size in (SIZE, (56, 56), (32, 72)):
        teacher = teacher_of(size)
        teacher.backbone.preprocessing = replace(teacher.preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
        objective = replace(task, networks={**task.networks, "teacher": teacher}).objective(SETTINGS)
        assert not objective.train().teacher.training and objective.model.training
        pixels = torch.rand(8, 3, *SIZE, generator=torch.Generator().manual_seed(0))
        images = task.networks["base"].preprocessing.normalise((pixels * 255).permute(0, 2, 3, 1).round().to(torch.uint8))
        pixels = ((pixels * 255).round() / 255).to(torch.float32)
        scaled = pixels if size == SIZE else torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        seen = (scaled - 0.5) / torch.tensor([0.5, 0.25, 0.5]).view(3, 1, 1)
        with torch.no_grad():
            losses = objective(images, torch.zeros(8))
            expected = (1 - (task.networks["base"].embed(images) * teacher.embed(seen)).sum(dim=1)).mean()
        torch.testing.assert_close(losses.terms["follow_cosine"], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(losses.total, losses.terms["triplet"] + 2 * expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="6 wide and the teacher's 5"):
        replace(task, networks={**task.networks, "teacher": teacher_of(SIZE, width=5)}).objective(SETTINGS)


def test_places_need_positions_and_training_images(table):
    with pytest.raises(InputError, match="no positions"):
        place_images(replace(table, places=None))
    with pytest.raises(InputError, match="no image is in split 'train'"):
        place_images(replace(table, splits=np.full(len(table), "test")))
