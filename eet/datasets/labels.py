"""Converting the labels of a dataset to contiguous numbers with readable names."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Original = TypeVar("Original", int, str, tuple[int, str])


def contiguous_labels(originals: Sequence[Original]) -> tuple[np.ndarray, list[Original]]:
    """Maps the labels of N images to 0 .. C-1 in sorted order of the originals.

    Labels without an image get no number: NABirds lists 1011 and uses 555.

    Returns:
        labels: int32 (N,).
        originals: the C original labels, sorted.
    """
    used = sorted(set(originals))
    number = {original: label for label, original in enumerate(used)}
    return np.array([number[original] for original in originals], dtype=np.int32), used


def stored_name(name: str) -> str:
    """A name as files can hold it: one that is not UTF-8 (lone surrogates, as from `os.fsdecode`) with backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def folder_label_names(paths: Sequence[str], labels: np.ndarray, num_labels: int) -> tuple[str, ...] | None:
    """Names of labels from the names of their folders.

    Args:
        paths: N paths.
        labels: integers (N,), -1 for unknown.
        num_labels: number of labels.

    Returns:
        The name of each label's folder; None if two labels share a folder name or a label has several.
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
    return tuple(stored_name(names[label]) for label in range(num_labels))
