"""Stanford Cars: 196 models, 8,144 training and 8,041 test images (Krause et al., 2013)."""

from pathlib import Path

import numpy as np

from eet.datasets.archive import find_archive_root
from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels
from eet.errors import InputError, NotFoundError

TRAIN = "devkit/cars_train_annos.mat"
TEST = "cars_test_annos_withlabels.mat"
META = "devkit/cars_meta.mat"


def load(root: str) -> ImageTable:
    """Reads devkit/*.mat over cars_train/ and cars_test/; names from devkit/cars_meta.mat where it exists.

    The test annotations with labels are a separate download, in devkit/ or in the folder around it.

    Raises:
        NotFoundError: a file is missing.
        InputError: the annotations have no labels.
    """
    folder = find_archive_root(root, "stanford_cars", (TRAIN, "cars_train", "cars_test"))
    test = folder / "devkit" / TEST
    if not test.exists():
        test = folder / TEST
    if not test.exists():
        raise NotFoundError(
            f"{TEST} not found in {folder / 'devkit'} nor in {folder}: the devkit's own test annotations carry no "
            "labels, this file is downloaded separately"
        )
    paths: list[str] = []
    numbers: list[int] = []
    splits: list[str] = []
    for split, file in (("train", folder / TRAIN), ("test", test)):
        annotations = _read_structs(file, "annotations")
        missing = {"class", "fname"} - set(annotations.dtype.names or ())
        if missing:
            raise InputError(f"{file}: its annotations have no field {', '.join(sorted(missing))}")
        paths += [f"cars_{split}/{name}" for name in annotations["fname"]]
        numbers += [int(number) for number in annotations["class"]]
        splits += [split] * len(annotations)
    labels, used = contiguous_labels(numbers)
    return ImageTable(
        root=str(folder),
        paths=tuple(paths),
        labels=labels,
        splits=np.array(splits, dtype="<U5"),
        label_names=_label_names(folder / META, used),
    )


def _read_structs(file: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat

    content = loadmat(str(file), squeeze_me=True)
    if name not in content:
        raise InputError(f"{file} holds no variable {name!r}")
    return np.atleast_1d(content[name])


def _label_names(file: Path, used: list[int]) -> tuple[str, ...]:
    if not file.exists():
        return tuple(str(number) for number in used)
    names = _read_structs(file, "class_names")
    if used and (used[0] < 1 or used[-1] > len(names)):
        raise InputError(f"{file} names {len(names)} labels, counted from 1; the images use {used[0]} to {used[-1]}")
    return tuple(str(names[number - 1]) for number in used)
