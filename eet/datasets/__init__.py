"""Datasets of look-alike things: one module per benchmark. All are read into the same table of path, label and split."""

from collections.abc import Callable

from eet.datasets import aircraft, cars, cub, folder, food101, msls, nabirds, sop, synthetic, table_file, utm_names, vegfru
from eet.datasets.class_disjoint import class_disjoint, hold_out_labels, with_own_labels
from eet.datasets.image_files import IMAGE_SUFFIXES, list_image_files
from eet.datasets.image_table import SPLITS, ImageTable
from eet.datasets.place_cells import with_cell_labels
from eet.datasets.places import ROLES, Places
from eet.datasets.unseen import split_unseen
from eet.datasets.validation import hold_out_validation
from eet.errors import InputError
from eet.options.choices import Role

DATASETS: dict[str, Callable[..., ImageTable]] = {
    "cub": cub.load,
    "nabirds": nabirds.load,
    "aircraft": aircraft.load,
    "food101": food101.load,
    "vegfru": vegfru.load,
    "cars": cars.load,
    "sop": sop.load,
    "msls": msls.load,
    "utm_names": utm_names.load,
    "folder": folder.load,
    "table": table_file.load,
    "synthetic": synthetic.load,
}
"""Name -> loader. Every loader takes the root folder; "table" also takes the table."""


def load_dataset(name: str, root: str | None, *, table: str | None = None, subtask: str | None = None) -> ImageTable:
    """Reads a dataset.

    Args:
        name: a name in DATASETS.
        root: the folder that the dataset's archive unpacks to, or the folder around it.
        table: file for the dataset "table" only; default root/split.csv. If root is None, the folder of the table is the root.
        subtask: for the dataset "msls" only; default all.

    Raises:
        InputError: an unknown name, a table or a subtask for another dataset, or no root.
        NotFoundError: the files in root are not laid out as in the dataset.
    """
    if name not in DATASETS:
        raise InputError(f"dataset {name!r} is not one of {', '.join(DATASETS)}")
    if name == "table":
        return table_file.load(root, table)
    if table is not None:
        raise InputError(f"the table {table} was given for dataset {name!r}; only dataset 'table' reads one")
    if root is None:
        raise InputError(f"dataset {name!r} needs its root folder")
    if subtask is not None:
        if name != "msls":
            raise InputError(f"the subtask {subtask} was given for dataset {name!r}; only dataset 'msls' has subtasks")
        return msls.load(root, subtask)
    return DATASETS[name](root)


__all__ = [
    "DATASETS",
    "IMAGE_SUFFIXES",
    "ROLES",
    "SPLITS",
    "ImageTable",
    "Places",
    "Role",
    "class_disjoint",
    "hold_out_labels",
    "hold_out_validation",
    "list_image_files",
    "load_dataset",
    "split_unseen",
    "with_cell_labels",
    "with_own_labels",
]
