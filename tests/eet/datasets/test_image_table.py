import numpy as np
import pytest

from eet.datasets.image_table import ImageTable


def make(paths=("a.jpg", "b.jpg", "c.jpg"), labels=(0, 1, -1), splits=("train", "test", "train"), names=("x", "y")):
    return ImageTable("/data", tuple(paths), np.array(labels, np.int32), np.array(splits), tuple(names))


def test_select_keeps_order_and_label_names():
    train = make().select("train")
    assert train.paths == ("a.jpg", "c.jpg")
    assert train.labels.tolist() == [0, -1] and train.labels.dtype == np.int32
    assert train.label_names == ("x", "y") and train.num_labels == 2
    assert len(make().select("all")) == 3


@pytest.mark.parametrize("split", ["val", "valid"])
def test_select_names_the_splits_present(split):
    with pytest.raises(ValueError, match=r"train \(2\), test \(1\)"):
        make().select(split)


def test_take_by_position_and_by_mask():
    assert make().take(np.array([2, 0])).paths == ("c.jpg", "a.jpg")
    masked = make().take(np.array([False, True, True]))
    assert masked.paths == ("b.jpg", "c.jpg") and masked.splits.tolist() == ["test", "train"]


def test_location_joins_relative_paths_only():
    table = make(paths=("a/b.jpg", "/abs/c.jpg", "s3://bucket/d.jpg"))
    assert [table.location(row) for row in range(3)] == ["/data/a/b.jpg", "/abs/c.jpg", "s3://bucket/d.jpg"]
    remote = ImageTable("s3://bucket/birds/", table.paths, table.labels, table.splits, table.label_names)
    assert remote.location(0) == "s3://bucket/birds/a/b.jpg"


def test_location_keeps_the_options_of_a_root_that_is_a_uri():
    options = "?region=eu-1&endpoint_override=localhost:9000"
    table = ImageTable(f"s3://bucket/photos{options}", ("a/b 100%?.jpg",), np.zeros(1, np.int32), np.array(["test"]), ("x",))
    assert table.location(0) == f"s3://bucket/photos/a/b 100%25%3F.jpg{options}"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"paths": ("a.jpg", "b.jpg", "a.jpg")}, "more than once, for example 'a.jpg'"),
        ({"splits": ("train", "testing", "train")}, "'testing' in 1 rows, for example 'b.jpg': allowed are train, val"),
        ({"labels": (0, 2, 0)}, "outside -1 .. 1, for example 'b.jpg: 2'"),
        ({"labels": (0, 1)}, "every path needs one label"),
    ],
)
def test_inconsistent_columns_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)
