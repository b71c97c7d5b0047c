"""Labels that are taken out of a training."""

import numpy as np
import pytest

from eet.datasets import ImageTable, split_unseen

LABELS = [0, 0, 1, 1, 2, 2, 3, 3, -1]
SPLITS = ["train", "test", "train", "test", "train", "val", "train", "test", "train"]


def table() -> ImageTable:
    paths = tuple(f"{label}/{row}.jpg" for row, label in enumerate(LABELS))
    return ImageTable("root", paths, np.array(LABELS, np.int32), np.array(SPLITS), ("a", "b", "c", "d"))


def test_named_labels_leave_every_split_and_are_evaluated_on_their_test_images():
    rest, unseen = split_unseen(table(), names=["b", "c"])
    assert rest.label_names == ("a", "d") and rest.labels.tolist() == [0, 0, 1, 1, -1]
    assert rest.paths == ("0/0.jpg", "0/1.jpg", "3/6.jpg", "3/7.jpg", "-1/8.jpg")
    assert rest.splits.tolist() == ["train", "test", "train", "test", "train"]
    # c has no test image, so all of its images are used.
    assert unseen.label_names == ("b", "c") and unseen.paths == ("1/3.jpg", "2/4.jpg", "2/5.jpg")
    assert unseen.labels.tolist() == [0, 1, 1] and set(unseen.splits) == {"test"}


def test_a_share_is_drawn_by_the_seed():
    drawn = {seed: split_unseen(table(), share=0.5, seed=seed)[1].label_names for seed in range(8)}
    assert all(len(names) == 2 for names in drawn.values()) and len(set(drawn.values())) > 1
    assert drawn == {seed: split_unseen(table(), share=0.5, seed=seed)[1].label_names for seed in range(8)}
    assert len(split_unseen(table(), share=0.01)[1].label_names) == 1


def test_nothing_is_taken_out_by_default():
    rest, unseen = split_unseen(table())
    assert rest.paths == table().paths and rest.labels.tolist() == LABELS and len(unseen) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"share": 1.0}, "unseen share 1.0"),
        ({"share": 0.5, "names": ["a"]}, "use one"),
        ({"names": ["b", "e"]}, r"1 unseen labels have no image, for example \['e'\]"),
        ({"names": ["a", "b", "c", "d"]}, "all 4 labels are unseen"),
    ],
)
def test_what_leaves_nothing_or_is_unknown_is_refused(options, error):
    with pytest.raises(ValueError, match=error):
        split_unseen(table(), **options)
