import numpy as np
import pytest
import torch

from eet.datasets import synthetic
from eet.datasets.readable import unreadable_images
from eet.images import Preprocessing
from eet.training.images import AugmentedImages, EvaluationImages, open_image, step_loader, view_random
from eet.training.samplers import LabelSampler, StepSampler, epoch_order

PREPROCESSING = Preprocessing.published((48, 48))


@pytest.fixture(scope="module")
def table(tiny_birds):
    return synthetic.load(str(tiny_birds)).select("train")


def sampler(*, num_images=53, batch_size=12, micro=100, rank=0, world=1, seed=5, epoch=0):
    made = StepSampler(num_images, batch_size=batch_size, micro_batch_size=micro, rank=rank, world=world, seed=seed)
    made.epoch = epoch
    return made


def test_an_epoch_visits_every_image_once_in_its_own_order():
    orders = [epoch_order(100, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(100))
    assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(epoch_order(100, 1, 0), orders[0])


def test_order_and_views_use_different_random_numbers():
    assert epoch_order(100, 1, 0).tolist() != view_random(1, 0, "a").permutation(100).tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_workers_share_each_global_batch(world):
    order = epoch_order(53, 5, 2)
    workers = [list(sampler(rank=rank, world=world, epoch=2)) for rank in range(world)]
    for step in range(53 // 12):
        shares = [worker[step] for worker in workers]
        assert {len(share) for share in shares} == {12 // world}
        rows = [row for share in shares for epoch, row in share]
        assert sorted(rows) == sorted(order[12 * step : 12 * step + 12])
        assert {epoch for share in shares for epoch, _ in share} == {2}
    assert {len(worker) for worker in workers} == {4}


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("micro", [1, 4, 5, 6, 12, 64])
def test_micro_batches_split_a_workers_share_and_change_nothing_else(world, micro):
    for rank in range(world):
        whole, cut = sampler(rank=rank, world=world), sampler(rank=rank, world=world, micro=micro)
        sizes = cut.micro_batches()
        assert sum(sizes) == 12 // world and max(sizes) <= micro and min(sizes) >= 1
        batches = list(cut)
        assert len(batches) == len(cut) == cut.steps * len(sizes)
        assert [len(batch) for batch in batches] == sizes * cut.steps
        joined = [item for batch in batches for item in batch]
        assert joined == [item for batch in whole for item in batch]


def test_the_incomplete_batch_is_left_out_and_has_other_images_in_the_next_epoch():
    left_out = [set(range(53)) - {row for batch in sampler(epoch=epoch) for _, row in batch} for epoch in range(3)]
    assert [len(rows) for rows in left_out] == [5, 5, 5]
    assert left_out[0] != left_out[1]


def test_a_view_depends_only_on_seed_epoch_and_item(table):
    turned = table.take(np.arange(len(table))[::-1])
    images, other = AugmentedImages(table, PREPROCESSING, seed=7), AugmentedImages(turned, PREPROCESSING, seed=7)
    for row in (0, 5, 31):
        view, label = images[2, row]
        again, label_again = other[2, len(table) - 1 - row]
        assert torch.equal(view, again) and label == label_again == table.labels[row]
        assert not torch.equal(view, images[3, row][0])
        assert not torch.equal(view, AugmentedImages(table, PREPROCESSING, seed=8)[2, row][0])


def test_two_items_with_the_same_image_get_different_views():
    assert view_random(0, 0, "a.jpg").random() != view_random(0, 0, "b.jpg").random()


LABELS = np.repeat(np.arange(7), [9, 2, 5, 3, 4, 1, 8])  # 32 images


def label_batches(*, batch_size=8, per_label=2, world=1, seed=5, epoch=0):
    """The batches of an epoch, put together from the shares of the workers."""
    workers = [
        LabelSampler(LABELS, images_per_label=per_label, batch_size=batch_size, rank=rank, world=world, seed=seed) for rank in range(world)
    ]
    for worker in workers:
        worker.epoch = epoch
    shares = list(zip(*map(list, workers), strict=True))
    assert {len(share) for of_step in shares for share in of_step} == {batch_size // world}
    assert [len(worker) for worker in workers] == [len(shares)] * world
    return [[items[place % world][place // world] for place in range(batch_size)] for items in shares]


def test_every_image_of_a_batch_has_a_positive_and_labels_are_drawn_evenly():
    for epoch in range(20):
        batches = label_batches(epoch=epoch)
        assert len(batches) == 32 // 8
        for batch in batches:
            labels = LABELS[[row for _, row, _ in batch]]
            assert np.bincount(labels, minlength=7).max() == 2 and len(set(labels.tolist())) == 4
            for label in set(labels.tolist()) - {5}:
                assert len({row for _, row, _ in batch if LABELS[row] == label}) == 2


def test_a_batch_of_more_labels_than_exist_repeats_labels_with_other_images():
    (batch,) = label_batches(batch_size=28)
    rows = [row for _, row, _ in batch]
    assert np.bincount(LABELS[rows]).tolist() == [4] * 7
    for label, count in enumerate(np.bincount(LABELS)):
        assert len({row for row in rows if LABELS[row] == label}) == min(count, 4)


def test_label_batches_depend_on_seed_and_epoch_not_on_the_workers():
    one = label_batches(epoch=3)
    assert label_batches(epoch=3, world=2) == one == label_batches(epoch=3, world=4)
    assert label_batches(epoch=4) != one != label_batches(epoch=3, seed=6)


def test_an_image_that_is_repeated_in_an_epoch_gets_another_view(table):
    seen: dict[int, list[int]] = {}
    for batch in label_batches(epoch=2):
        for _, row, visit in batch:
            seen.setdefault(row, []).append(visit)
    assert all(visits == list(range(len(visits))) for visits in seen.values()) and max(map(len, seen.values())) > 1
    images = AugmentedImages(table, PREPROCESSING, seed=7)
    assert torch.equal(images[2, 3][0], images[2, 3, 0][0])
    assert not torch.equal(images[2, 3, 0][0], images[2, 3, 1][0])


@pytest.mark.parametrize("processes", [0, 2])
def test_the_loader_gives_the_samplers_batches_from_any_number_of_processes(table, processes):
    images = AugmentedImages(table, PREPROCESSING, seed=7)
    steps = sampler(num_images=len(table), batch_size=16, micro=6, epoch=1)
    batches = list(step_loader(images, steps, processes=processes, pin=False))
    for (batch, labels), wanted in zip(batches, steps, strict=True):
        assert torch.equal(batch, torch.stack([images[index][0] for index in wanted]))
        assert labels.tolist() == [table.labels[row] for _, row in wanted] and labels.dtype == torch.int64


def test_evaluation_images_are_not_augmented(table):
    images = EvaluationImages(table, PREPROCESSING)
    assert len(images) == len(table)
    assert torch.equal(images[3], PREPROCESSING(open_image(table, 3)))


def test_unreadable_images_are_found_with_their_rows(tmp_path):
    synthetic.write(tmp_path, num_labels=2, images_per_label=3, test_per_label=0, image_size=32)
    table = synthetic.load(str(tmp_path))
    assert unreadable_images(table, threads=2) == []
    (tmp_path / table.paths[1]).write_bytes(b"")
    (tmp_path / table.paths[4]).unlink()
    found = unreadable_images(table, threads=2)
    assert [row for row, _ in found] == [1, 4] and all(reason for _, reason in found)
    with pytest.raises(ValueError, match=table.paths[4]):
        open_image(table, 4)
