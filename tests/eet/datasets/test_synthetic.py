import itertools
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from eet.datasets import load_dataset, synthetic

LABELS, UNSEEN, PER_LABEL = 16, 4, 24


def picture(label, index, *, num_labels=8, image_size=64, seed=0):
    image, mask = synthetic.draw(label, index, num_labels=num_labels, image_size=image_size, seed=seed)
    return np.asarray(image), mask


def parts_shared(one, other):
    return sum(map(str.__eq__, one, other))


@pytest.fixture(scope="module")
def drawn():
    """PER_LABEL images of each of 16 labels: pixels (N, 48, 48, 3), labels (N,)."""
    rows = [(label, number * LABELS + label) for label in range(LABELS) for number in range(PER_LABEL)]
    pixels = [picture(label, index, num_labels=LABELS, image_size=48, seed=3)[0] for label, index in rows]
    return np.array(pixels), np.array([label for label, _ in rows])


def nearest_neighbour_accuracy(features_NF, labels_N):
    """Share of images whose nearest other image, by the sum of absolute differences, has their label."""
    features_NF = features_NF.astype(np.float32)
    distances_NN = np.array([np.abs(features_NF - row).sum(axis=1) for row in features_NF])
    np.fill_diagonal(distances_NN, np.inf)
    return (labels_N[distances_NN.argmin(axis=1)] == labels_N).mean()


def histograms(pixels_NHWC, bins):
    """Counts of colours, (N, product of bins)."""
    images = pixels_NHWC.reshape(len(pixels_NHWC), -1, 3)
    return np.array([np.histogramdd(image, bins=bins, range=[(0, 256)] * 3)[0].ravel() for image in images])


def test_a_picture_depends_on_its_arguments_only():
    first, first_mask = picture(3, 11)
    picture(0, 0, num_labels=20)
    again, again_mask = picture(3, 11)
    assert (first == again).all() and (first_mask == again_mask).all()
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert first_mask.shape == (64, 64) and first_mask.dtype == bool
    for other in (picture(4, 11), picture(3, 12), picture(3, 11, seed=1)):
        assert (other[0] != first).any()


def test_the_bird_covers_a_seventh_to_a_quarter():
    shares = [picture(7 * row % 256, row, num_labels=256, image_size=size)[1].mean() for row in range(50) for size in (48, 96)]
    assert 0.15 <= min(shares) and max(shares) <= 0.26


def test_another_label_changes_nothing_outside_the_bird():
    for index in range(4):
        pictures = [picture(label, index, num_labels=LABELS) for label in range(0, LABELS, 2)]
        for (one, one_mask), (other, other_mask) in itertools.combinations(pictures, 2):
            changed = (one != other).any(axis=2)
            assert not (changed & ~(one_mask | other_mask)).any()
            assert 60 < changed.sum() < 0.8 * (one_mask | other_mask).sum()


def test_the_mask_is_the_bird_and_nothing_else(monkeypatch):
    """Without a background of its own, a picture shows nothing but its bird: the mask says where."""
    image, mask = picture(5, 2)
    monkeypatch.setattr(synthetic, "BACKGROUND_CONTRAST", 0.9)
    other, same_mask = picture(5, 2)
    assert (mask == same_mask).all()
    inside = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
    changed = (image != other).any(axis=2)
    # Between two strokes that nearly touch, a little of the background shows.
    assert (changed & inside).sum() < 0.02 * inside.sum(), "the bird hides what lies behind it"
    assert changed[~mask].mean() > 0.9


def test_place_pose_and_colour_vary():
    centres = np.array([np.argwhere(picture(0, index)[1]).mean(axis=0) for index in range(30)])
    assert (centres.std(axis=0) > 1).all()
    colours = np.array([image[mask].mean(axis=0) for image, mask in (picture(0, index) for index in range(30))])
    assert (colours.std(axis=0) > 10).all()


@pytest.mark.parametrize("bins", [(4, 4, 4), (8, 8, 8)])
def test_colour_histograms_do_not_tell_the_label(drawn, bins):
    pixels, labels = drawn
    assert nearest_neighbour_accuracy(histograms(pixels, bins), labels) < 2 / LABELS


def test_histograms_of_hue_saturation_and_value_do_not_tell_the_label(drawn):
    pixels, labels = drawn
    hsv = np.array([np.asarray(Image.fromarray(image).convert("HSV")) for image in pixels])
    assert nearest_neighbour_accuracy(histograms(hsv, (12, 4, 6)), labels) < 2 / LABELS


def test_what_lies_around_the_bird_does_not_tell_the_label(drawn):
    """The strips above and below the largest bird: images of one label are no more alike there than others."""
    pixels, labels = drawn
    strips = np.concatenate([pixels[:, :4], pixels[:, -4:]], axis=1)
    means = strips.reshape(len(pixels), 2, 4, 12, 4, 3).mean(axis=(2, 4))
    assert nearest_neighbour_accuracy(means.reshape(len(pixels), -1), labels) < 2 / LABELS


def test_labels_share_few_parts_and_every_part_has_several_labels():
    for num_labels in (8, 12, 16):
        parts = synthetic.label_parts(num_labels)
        assert len(set(parts)) == num_labels
        for position in range(4):
            assert min(Counter(label[position] for label in parts).values()) >= 2
        assert max(parts_shared(a, b) for a, b in itertools.combinations(parts, 2)) == 1


def test_unseen_labels_are_made_of_parts_that_are_trained():
    parts = synthetic.label_parts(LABELS)
    unseen = synthetic.unseen_labels(LABELS, UNSEEN)
    assert len(set(unseen)) == UNSEEN and list(unseen) == sorted(unseen)
    trained = [parts[label] for label in range(LABELS) if label not in unseen]
    for position in range(4):
        used = Counter(label[position] for label in trained)
        assert {parts[label][position] for label in unseen} <= set(used)
        assert min(used.values()) >= 3
    assert synthetic.unseen_labels(LABELS, 0) == ()
    with pytest.raises(ValueError, match="15 unseen of 16 labels"):
        synthetic.unseen_labels(LABELS, 15)


@pytest.mark.parametrize("num_labels", [2, 5, 36, 256])
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
    assert not (tmp_path / "unseen.txt").exists()


def test_unseen_labels_have_test_images_alone_and_are_listed(tmp_path):
    synthetic.write(tmp_path / "all", num_labels=6, images_per_label=2, test_per_label=2, image_size=32)
    table = synthetic.write(tmp_path / "some", num_labels=6, images_per_label=2, test_per_label=2, unseen=2, image_size=32)
    names = (tmp_path / "some" / "unseen.txt").read_text().splitlines()
    assert names == [table.label_names[label] for label in synthetic.unseen_labels(6, 2)]
    for label, name in enumerate(table.label_names):
        assert Counter(table.splits[table.labels == label].tolist()) == ({"test": 2} if name in names else {"train": 2, "test": 2})
    path = table.select("test").paths[0]
    assert (tmp_path / "all" / path).read_bytes() == (tmp_path / "some" / path).read_bytes(), "the others' images are the same"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": 8, "index": 0}, "label 8 is not in 0 .. 7"),
        ({"label": 0, "index": 0, "num_labels": 257}, "parts for 2 to 256"),
        ({"label": 0, "index": 0, "image_size": 16}, "image size 16"),
    ],
)
def test_impossible_pictures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        picture(**arguments)


def test_wrong_counts_and_missing_masks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 training and 0 test images"):
        synthetic.write(tmp_path, images_per_label=0, test_per_label=0)
    with pytest.raises(FileNotFoundError, match="only images drawn"):
        synthetic.read_mask(tmp_path, "images/x/0000.png")
