"""The table that every dataset is read into: path, label, split."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from eet.datasets.image_files import image_location
from eet.datasets.places import ROLES, Places
from eet.errors import InputError
from eet.storage import check_location

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """Images of a dataset, N rows with C labels. No image is opened.

    Raises:
        InputError: the columns differ in length, a path occurs twice, is empty or holds credentials, a split is not train, val or test, or
            a label is outside -1 .. C-1.
    """

    root: str
    """Folder or URI that `paths` are relative to."""
    paths: tuple[str, ...]
    """N paths relative to `root`, '/'-separated, unique; or absolute paths or URIs. Also the item_id."""
    labels: np.ndarray
    """(N,) int32, 0 .. C-1, or -1 where unknown."""
    splits: np.ndarray
    """(N,) of str: 'train', 'val' or 'test'."""
    label_names: tuple[str, ...]
    """C names, index = label."""
    places: Places | None = None
    """Position, role and condition of each image; None in a dataset without positions."""

    def __post_init__(self) -> None:
        for path in self.paths:
            check_location(path, "the location of an image")
        rows = len(self.paths)
        assert self.labels.dtype == np.int32, self.labels.dtype
        if self.labels.shape != (rows,) or self.splits.shape != (rows,):
            raise InputError(
                f"{rows} paths came with labels of shape {self.labels.shape} and splits of shape {self.splits.shape}: "
                "every path needs one label and one split"
            )
        assert self.places is None or len(self.places.roles_N) == rows
        if len(set(self.paths)) != rows:
            twice = [path for path, times in Counter(self.paths).items() if times > 1]
            raise InputError(
                f"{len(twice)} paths come more than once, for example {_examples(twice)}: a path names its item, so list each image once"
            )
        unknown = np.flatnonzero(~np.isin(self.splits, SPLITS))
        if len(unknown):
            found = sorted({str(self.splits[row]) for row in unknown})
            raise InputError(
                f"unknown splits {_examples(found)} in {len(unknown)} rows, for example "
                f"{_examples([self.paths[row] for row in unknown])}: allowed are {', '.join(SPLITS)}"
            )
        outside = np.flatnonzero((self.labels < -1) | (self.labels >= self.num_labels))
        if len(outside):
            raise InputError(
                f"{len(outside)} labels are outside -1 .. {self.num_labels - 1}, for example "
                f"{_examples([f'{self.paths[row]}: {self.labels[row]}' for row in outside])}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_labels(self) -> int:
        """C, the number of label names; some may have no image in this table."""
        return len(self.label_names)

    def select(self, split: str) -> "ImageTable":
        """The rows of one split, in order, with all label names.

        Args:
            split: 'train', 'val', 'test' or 'all'.

        Raises:
            InputError: another name, or an empty split; the message names the splits that have images.
        """
        if split == "all":
            return self
        present = ", ".join(f"{name} ({count})" for name in SPLITS if (count := int((self.splits == name).sum())))
        if split not in SPLITS:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}, all; this dataset has {present}")
        rows = np.flatnonzero(self.splits == split)
        if not len(rows):
            raise InputError(f"no image is in split {split!r}; {self.root} has {present or 'no images at all'}")
        return self.take(rows)

    def with_role(self, role: str) -> "ImageTable":
        """The rows of one role, in order. InputError where the table has none of it."""
        found = Counter([] if self.places is None else self.places.roles_N.tolist())
        if not found[role]:
            present = ", ".join(f"{name} ({found[name]})" for name in ROLES if found[name])
            raise InputError(f"no image of {self.root} has the role {role!r}; it has {present or 'no roles at all'}")
        assert self.places is not None
        return self.take(self.places.roles_N == role)

    def take(self, rows: np.ndarray) -> "ImageTable":
        """The rows given by position (int) or by mask (bool, (N,)), in that order, with all label names."""
        positions = np.arange(len(self))[rows]
        return replace(
            self,
            paths=tuple(self.paths[row] for row in positions),
            labels=self.labels[positions],
            splits=self.splits[positions],
            places=None if self.places is None else self.places.take(positions),
        )

    def location(self, row: int) -> str:
        """The location of a row's image: its path below root; an absolute path or a URI is unchanged."""
        return image_location(self.root, self.paths[row])


def _examples(values: list[str], limit: int = 3) -> str:
    shown = ", ".join(repr(value) for value in values[:limit])
    return shown if len(values) <= limit else f"{shown}, ..."
