"""Labels as a dataset writes them, made contiguous and given readable names."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Original = TypeVar("Original", int, str)


def contiguous_labels(originals: Sequence[Original]) -> tuple[np.ndarray, list[Original]]:
    """Maps the labels of N images to 0 .. C-1 in sorted order of the originals.

    Returns labels (N,) int32 and the C originals, sorted. Labels without an image get no number: NABirds lists 1011
    and uses 555.
    """
    used = sorted(set(originals))
    number = {original: label for label, original in enumerate(used)}
    return np.array([number[original] for original in originals], dtype=np.int32), used


def folder_label_names(paths: Sequence[str], labels: np.ndarray, num_labels: int) -> tuple[str, ...] | None:
    """The name of the folder that holds the images of each label; None unless it is one folder name per label.

    `paths` N of str, `labels` (N,) int, -1 for unknown. Two labels in one folder, or one label in folders of two
    names, give None: then folders do not say what the label is.
    """
    names: dict[int, str] = {}
    for path, label in zip(paths, labels.tolist(), strict=True):
        if label < 0:
            continue
        folder, _, _ = path.rpartition("/")
        name = folder.rpartition("/")[2]
        if not name or names.setdefault(label, name) != name:
            return None
    if len(names) < num_labels or len(set(names.values())) < num_labels:
        return None
    return tuple(names[label] for label in range(num_labels))
