import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from eet.datasets import load_dataset, synthetic


def picture(label, index, *, num_labels=8, image_size=96, seed=0):
    image, mask = synthetic.draw(label, index, num_labels=num_labels, image_size=image_size, seed=seed)
    return np.asarray(image), mask


def test_a_picture_depends_on_its_arguments_only():
    first, first_mask = picture(3, 11)
    picture(0, 0, num_labels=20)
    again, again_mask = picture(3, 11)
    assert (first == again).all() and (first_mask == again_mask).all()
    assert first.shape == (96, 96, 3) and first.dtype == np.uint8
    assert first_mask.shape == (96, 96) and first_mask.dtype == bool
    for other in (picture(4, 11), picture(3, 12), picture(3, 11, seed=1)):
        assert (other[0] != first).any()


def test_the_bird_covers_a_tenth_to_three_tenths():
    shares = [picture(row % 108, row, num_labels=108, image_size=size)[1].mean() for row in range(50) for size in (64, 96)]
    assert 0.10 <= min(shares) and max(shares) <= 0.30


def test_another_label_changes_nothing_outside_the_bird():
    for index in range(4):
        pictures = [picture(label, index) for label in range(8)]
        for (one, one_mask), (other, other_mask) in itertools.combinations(pictures, 2):
            changed = (one != other).any(axis=2)
            assert not (changed & ~(one_mask | other_mask)).any()
            assert 60 < changed.sum() < 0.8 * (one_mask | other_mask).sum()


def test_place_pose_and_colour_vary():
    centres = np.array([np.argwhere(picture(0, index)[1]).mean(axis=0) for index in range(30)])
    assert (centres.std(axis=0) > 4).all()


def test_colour_histograms_do_not_tell_the_label():
    def histogram(label, number):
        image, _ = picture(label, number * 8 + label, image_size=48)
        return np.histogramdd(image.reshape(-1, 3) // 64, bins=(4, 4, 4), range=[(0, 4)] * 3)[0].ravel()

    gallery = np.array([histogram(label, number) for label in range(8) for number in range(20)])
    queries = np.array([histogram(label, number) for label in range(8) for number in range(20, 30)])
    nearest = np.abs(queries[:, None] - gallery[None]).sum(axis=2).argmin(axis=1) // 20
    assert (nearest == np.arange(len(queries)) // 10).mean() <= 1 / 8 + 0.1


def test_no_part_belongs_to_one_label_and_no_two_labels_differ_by_one_part():
    for num_labels in (8, 12, 16):
        parts = synthetic.label_parts(num_labels)
        assert len(set(parts)) == num_labels
        for position in range(4):
            assert min(Counter(label[position] for label in parts).values()) >= 2
        assert max(sum(map(str.__eq__, a, b)) for a, b in itertools.combinations(parts, 2)) <= 2


@pytest.mark.parametrize("num_labels", [2, 5, 36, 108])
def test_label_names_are_distinct_and_sorted(num_labels):
    names = synthetic.label_names(num_labels)
    assert len(set(names)) == num_labels and list(names) == sorted(names)


def test_what_is_written_is_read_back(tmp_path):
    written = synthetic.write(tmp_path, num_labels=3, images_per_label=3, test_per_label=2, image_size=48, seed=5)
    table = load_dataset("synthetic", str(tmp_path))
    assert table.paths == written.paths and table.label_names == written.label_names == synthetic.label_names(3)
    assert Counter(table.splits.tolist()) == {"train": 9, "test": 6}
    assert len({Image.open(table.location(row)).tobytes() for row in range(len(table))}) == len(table)
    # Row 7 is picture 2 of label 1: pictures are numbered across labels, so that no background comes twice.
    image, mask = picture(1, 2 * 3 + 1, num_labels=3, image_size=48, seed=5)
    assert table.labels[7] == 1
    assert (np.asarray(Image.open(table.location(7))) == image).all()
    assert (synthetic.read_mask(table.root, table.paths[7]) == mask).all()
    assert synthetic.read_mask(table.root, table.paths[7]).dtype == bool


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": 8, "index": 0}, "label 8 is not in 0 .. 7"),
        ({"label": 0, "index": 0, "num_labels": 109}, "parts for 2 to 108"),
        ({"label": 0, "index": 0, "image_size": 16}, "image size 16"),
    ],
)
def test_impossible_pictures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        picture(**arguments)


def test_wrong_counts_and_missing_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 training and 0 test images"):
        synthetic.write(tmp_path, images_per_label=0, test_per_label=0)
    with pytest.raises(FileNotFoundError, match="only pictures drawn"):
        synthetic.read_mask(tmp_path, "images/x/0000.png")
