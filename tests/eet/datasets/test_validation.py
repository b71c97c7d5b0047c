import numpy as np
import pytest

from eet.datasets import ImageTable, hold_out_validation


def make(counts, splits="train"):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    paths = tuple(f"{label}/{row}.jpg" for row, label in enumerate(labels))
    names = tuple(str(label) for label in range(len(counts)))
    return ImageTable("/data", paths, labels, np.full(len(labels), splits), names)


def held_out(table):
    return {path for path, split in zip(table.paths, table.splits, strict=True) if split == "val"}


def per_label(table):
    return [int((table.splits[table.labels == label] == "val").sum()) for label in range(table.num_labels)]


def test_each_label_gives_its_share():
    table = hold_out_validation(make([30, 10, 50]), 0.1, seed=0)
    assert per_label(table) == [3, 1, 5]
    assert hold_out_validation(make([100]), 0.29, seed=0).splits.tolist().count("val") == 29


def test_small_labels_share_the_remainder():
    table = hold_out_validation(make([4] * 10), 0.1, seed=0)
    assert sum(per_label(table)) == 4 and max(per_label(table)) == 1


def test_each_label_keeps_a_training_image():
    table = hold_out_validation(make([1, 2, 3]), 0.99, seed=0)
    assert per_label(table) == [0, 1, 2]


def test_the_choice_does_not_depend_on_the_order_of_rows():
    table = make([7, 13, 4, 9])
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    first = held_out(hold_out_validation(table, 0.25, seed=3))
    assert first == held_out(hold_out_validation(shuffled, 0.25, seed=3))
    assert first != held_out(hold_out_validation(table, 0.25, seed=4))


def test_only_labelled_training_images_are_taken():
    table = make([20, 20])
    labels, splits = table.labels.copy(), table.splits.astype("<U5")
    labels[20:30], splits[30:] = -1, "test"
    mixed = ImageTable(table.root, table.paths, labels, splits, table.label_names)
    result = hold_out_validation(mixed, 0.5, seed=0)
    assert set(np.flatnonzero(result.splits == "val")) < set(range(20))
    assert (result.splits == "val").sum() == 10
    assert (mixed.splits == "val").sum() == 0  # the table given is left as it was


def test_nothing_to_do_returns_the_table():
    table = make([5])
    assert hold_out_validation(table, 0, seed=0) is table
    with_val = ImageTable(table.root, table.paths, table.labels, np.array(["train"] * 4 + ["val"]), table.label_names)
    assert hold_out_validation(with_val, 0.4, seed=0) is with_val


def test_impossible_shares_are_refused():
    with pytest.raises(ValueError, match="should be at least 0"):
        hold_out_validation(make([5]), 1.0, seed=0)
    with pytest.raises(ValueError, match="no label has two images among the 3"):
        hold_out_validation(make([1, 1, 1]), 0.1, seed=0)
