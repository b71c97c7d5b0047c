"""VegFru: 292 vegetables and fruits, 29,200 training, 14,600 validation and 116,931 test images (Hou et al., 2017)."""

import numpy as np

from eet.datasets.archive import find_archive_root, read_names
from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels, folder_label_names
from eet.errors import InputError

LISTS = {split: f"vegfru_list/vegfru_{split}.txt" for split in ("train", "val", "test")}


def load(root: str) -> ImageTable:
    """Reads vegfru_list/vegfru_{train,val,test}.txt, lines of "PATH LABEL", over veg200_images/ and fru92_images/.

    Label names are the image folders.

    Raises:
        NotFoundError: a list is missing.
        InputError: a line does not end in a whole number.
    """
    folder = find_archive_root(root, None, (*LISTS.values(), "veg200_images", "fru92_images"))
    paths: list[str] = []
    numbers: list[int] = []
    splits: list[str] = []
    for split, file in LISTS.items():
        for line in read_names(folder / file):
            # Folder names may hold spaces, so the label is what follows the last one.
            path, _, label = line.rpartition(" ")
            if not path or not label.isdecimal():
                raise InputError(f"{folder / file}: {line!r} should be a path, a space and a label number")
            paths.append(path)
            numbers.append(int(label))
            splits.append(split)
    labels, used = contiguous_labels(numbers)
    return ImageTable(
        root=str(folder),
        paths=tuple(paths),
        labels=labels,
        splits=np.array(splits, dtype="<U5"),
        label_names=folder_label_names(paths, labels, len(used)) or tuple(str(number) for number in used),
    )
