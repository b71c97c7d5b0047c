"""The three lists of CUB-200-2011 and NABirds: image id to path, to label, to split."""

from pathlib import Path

import numpy as np

from eet.datasets.archive import find_archive_root, read_pairs
from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels
from eet.errors import InputError

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")


def load_numbered_lists(root: str, wrapper: str) -> ImageTable:
    """Joins images.txt, image_class_labels.txt and train_test_split.txt by image id; 1 in the last means train.

    Label names come from classes.txt if it exists, else they are the original numbers.

    Raises:
        NotFoundError: a list is missing.
        InputError: the lists disagree.
    """
    folder = find_archive_root(root, wrapper, (*LISTS, "images"))
    path_of, label_of, split_of = (_read_column(folder / name) for name in LISTS)
    for column, name in ((label_of, LISTS[1]), (split_of, LISTS[2])):
        apart = sorted(path_of.keys() ^ column.keys())
        if apart:
            raise InputError(
                f"{folder / name} and {LISTS[0]} list different images: {len(apart)} ids are in one of them only, "
                f"for example {', '.join(apart[:3])}"
            )
    for image, split in split_of.items():
        if split not in ("0", "1"):
            raise InputError(f"{folder / LISTS[2]}: image {image} has {split!r}; allowed are 1 (train) and 0 (test)")
    labels, used = contiguous_labels([_label_number(folder / LISTS[1], image, label_of[image]) for image in path_of])
    return ImageTable(
        root=str(folder),
        paths=tuple(f"images/{path}" for path in path_of.values()),
        labels=labels,
        splits=np.array(["train" if split_of[image] == "1" else "test" for image in path_of], dtype="<U5"),
        label_names=_label_names(folder / "classes.txt", used),
    )


def _read_column(path: Path) -> dict[str, str]:
    column: dict[str, str] = {}
    for number, image, value in read_pairs(path):
        if image in column:
            raise InputError(f"{path}, line {number}: image {image} occurs twice")
        column[image] = value
    return column


def _label_number(path: Path, image: str, label: str) -> int:
    if not label.isdecimal():
        raise InputError(f"{path}: image {image} has label {label!r}; it should be a whole number")
    return int(label)


def _label_names(path: Path, used: list[int]) -> tuple[str, ...]:
    if not path.exists():
        return tuple(str(label) for label in used)
    names = {_label_number(path, name, first): name for _, first, name in read_pairs(path)}
    nameless = [label for label in used if label not in names]
    if nameless:
        raise InputError(f"{path} has no name for label {', '.join(str(label) for label in nameless[:3])}, which images use")
    return tuple(names[label] for label in used)
