"""Food-101: 101 dishes, 75,750 training and 25,250 test images (Bossard et al., ECCV 2014)."""

import numpy as np

from eet.datasets.archive import check_names, find_archive_root, read_names
from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels
from eet.errors import InputError

LISTS = {"train": "meta/train.txt", "test": "meta/test.txt"}
CLASSES = "meta/classes.txt"


def load(root: str) -> ImageTable:
    """Reads food-101/ (or the folder around it): meta/{classes,train,test}.txt, lines of CLASS/ID.

    Raises:
        NotFoundError: a list is missing.
        InputError: a line is not CLASS/ID, or its class is not listed.
    """
    folder = find_archive_root(root, "food-101", (CLASSES, *LISTS.values(), "images"))
    classes = read_names(folder / CLASSES)
    images: list[str] = []
    splits: list[str] = []
    for split, file in LISTS.items():
        listed = read_names(folder / file)
        for line in listed:
            if line.count("/") != 1:
                raise InputError(f"{folder / file}: {line!r} should be CLASS/ID")
        check_names(folder / file, classes, folder / CLASSES, [line.partition("/")[0] for line in listed])
        images += listed
        splits += [split] * len(listed)
    labels, used = contiguous_labels([image.partition("/")[0] for image in images])
    return ImageTable(
        root=str(folder),
        paths=tuple(f"images/{image}.jpg" for image in images),
        labels=labels,
        splits=np.array(splits, dtype="<U5"),
        label_names=tuple(used),
    )
