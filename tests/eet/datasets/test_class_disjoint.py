import numpy as np
import pytest

from eet.datasets import ImageTable, class_disjoint, hold_out_labels, with_own_labels


def table_of(labels, splits, num_labels=None) -> ImageTable:
    names = tuple("abcdefghij"[: num_labels or max(labels) + 1])
    paths = tuple(f"{number}.jpg" for number in range(len(labels)))
    return ImageTable("root", paths, np.array(labels, np.int32), np.array(splits, "<U5"), names)


def labels_by_split(table: ImageTable) -> dict[str, set[int]]:
    return {split: set(table.labels[table.splits == split].tolist()) for split in set(table.splits.tolist())}


def test_the_first_half_of_the_labels_trains_and_the_rest_tests_whatever_the_own_splits():
    splits = ["train", "test", "val", "train", "test", "train", "test"]
    halves = class_disjoint(table_of([0, 0, 1, 2, 3, 4, -1], splits))
    assert labels_by_split(halves) == {"train": {0, 1}, "test": {2, 3, 4}}
    assert halves.paths == tuple(f"{number}.jpg" for number in range(6))  # the one without a label can be in neither
    assert halves.label_names == ("a", "b", "c", "d", "e")


def test_splits_that_share_no_label_are_kept():
    own = table_of([4, 4, 3, 0, 1], ["train", "train", "val", "test", "test"])
    kept = class_disjoint(own)
    assert kept.splits.tolist() == own.splits.tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_table_with_one_split_only_is_halved(split):
    assert labels_by_split(class_disjoint(table_of([0, 1, 2, 3], [split] * 4))) == {"train": {0, 1}, "test": {2, 3}}


def test_one_label_cannot_be_split():
    with pytest.raises(ValueError, match="has 1 labels"):
        class_disjoint(table_of([0, 0], ["train", "test"]))


@pytest.mark.parametrize(("share", "held"), [(0.3, 2), (0.01, 1), (0.99, 5)])
def test_validation_takes_whole_labels_of_training(share, held):
    table = table_of([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6], ["train"] * 10 + ["test"])
    found = labels_by_split(hold_out_labels(table, share, seed=3))
    assert len(found["val"]) == held and found["val"] | found["train"] == set(range(6)) and not found["val"] & found["train"]
    assert found["test"] == {6}
    assert labels_by_split(hold_out_labels(table, share, seed=3)) == found
    assert {frozenset(labels_by_split(hold_out_labels(table, share, seed=seed))["val"]) for seed in range(8)} != {frozenset(found["val"])}


def test_validation_is_left_alone_where_there_is_some_or_none_is_wanted():
    table = table_of([0, 1, 2], ["train", "val", "train"])
    assert hold_out_labels(table, 0.5, seed=0) is table
    table = table_of([0, 1, 2], ["train"] * 3)
    assert hold_out_labels(table, 0, seed=0) is table
    with pytest.raises(ValueError, match="less than 1"):
        hold_out_labels(table, 1, seed=0)
    with pytest.raises(ValueError, match="whole labels"):
        hold_out_labels(table_of([0, 1], ["train", "test"]), 0.5, seed=0)


def test_own_labels_are_renumbered_with_their_names():
    part = with_own_labels(table_of([4, 1, 4, 3], ["train"] * 4))
    assert part.labels.tolist() == [2, 0, 2, 1] and part.labels.dtype == np.int32
    assert part.label_names == ("b", "d", "e")
