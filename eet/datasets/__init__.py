"""Datasets of look-alike things: one module per benchmark, all read into the same table of path, label and split."""

from collections.abc import Callable

from eet.datasets import aircraft, cars, cub, folder, food101, nabirds, sop, synthetic, table_file, vegfru
from eet.datasets.class_disjoint import class_disjoint, hold_out_labels, with_own_labels
from eet.datasets.image_files import IMAGE_SUFFIXES, list_image_files
from eet.datasets.image_table import SPLITS, ImageTable
from eet.datasets.unseen import split_unseen
from eet.datasets.validation import hold_out_validation
from eet.errors import InputError

DATASETS: dict[str, Callable[..., ImageTable]] = {
    "cub": cub.load,
    "nabirds": nabirds.load,
    "aircraft": aircraft.load,
    "food101": food101.load,
    "vegfru": vegfru.load,
    "cars": cars.load,
    "sop": sop.load,
    "folder": folder.load,
    "table": table_file.load,
    "synthetic": synthetic.load,
}
"""Loader of each dataset by name. Every one takes the root folder; "table" also takes the table."""


def load_dataset(name: str, root: str | None, *, table: str | None = None) -> ImageTable:
    """Reads the dataset `name` at `root`, the folder as its archive unpacks or the folder around that.

    `table` is for the dataset "table" alone, which reads root/split.csv without it and takes the table's own folder
    for root where root is None. Raises ValueError for an unknown name, a table with another dataset, or no root;
    FileNotFoundError when root is not laid out as the dataset is.
    """
    if name not in DATASETS:
        raise InputError(f"dataset {name!r} is not one of {', '.join(DATASETS)}")
    if name == "table":
        return table_file.load(root, table)
    if table is not None:
        raise InputError(f"the table {table} was given for dataset {name!r}; only dataset 'table' reads one")
    if root is None:
        raise InputError(f"dataset {name!r} needs its root folder")
    return DATASETS[name](root)


__all__ = [
    "DATASETS",
    "IMAGE_SUFFIXES",
    "SPLITS",
    "ImageTable",
    "class_disjoint",
    "hold_out_labels",
    "hold_out_validation",
    "list_image_files",
    "load_dataset",
    "split_unseen",
    "with_own_labels",
]
