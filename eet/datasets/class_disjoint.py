"""Splits by label, for metric learning: what is tested was never seen in training."""

import numpy as np

from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels
from eet.errors import InputError


def class_disjoint(table: ImageTable) -> ImageTable:
    """The first half of the labels as 'train', the rest as 'test', whatever the table's own splits were.

    With C labels, 0 .. C // 2 - 1 train: of CUB-200-2011 the published 1-100 / 101-200, of Stanford Cars the first 98 / last 98. A table
    whose own test labels are in no other split (Stanford Online Products) is returned as it is. Images without a label are left out.
    Raises ValueError where there are fewer than two labels.
    """
    if table.num_labels < 2:
        raise InputError(f"{table.root} has {table.num_labels} labels: splitting them in two takes at least two")
    tested, learned = ({*table.labels[rows].tolist()} - {-1} for rows in (table.splits == "test", table.splits != "test"))
    labelled = table.take(table.labels >= 0)
    if tested and learned and not tested & learned:
        return labelled
    splits = np.where(labelled.labels < table.num_labels // 2, "train", "test").astype("<U5")
    return ImageTable(labelled.root, labelled.paths, labelled.labels, splits, labelled.label_names)


def hold_out_labels(table: ImageTable, share: float, seed: int) -> ImageTable:
    """Turns all images of a share of the training labels into 'val', which chooses the checkpoint.

    `share` in 0 .. 1, 1 excluded: round(share * labels) are drawn by `seed`, at least one and not all. A table that has 'val' already is
    returned as it is, and so is any table when share is 0. Raises ValueError when share is outside its range, or there is but one label.
    """
    if not 0 <= share < 1:
        raise InputError(f"validation share {share} should be at least 0 (none) and less than 1")
    if share == 0 or (table.splits == "val").any():
        return table
    labels = np.unique(table.labels[table.splits == "train"])
    if len(labels) < 2:
        raise InputError(f"a validation share of {share} takes whole labels, and there is but {len(labels)} to train on: use 0")
    count = min(max(round(share * len(labels)), 1), len(labels) - 1)
    drawn = np.random.default_rng(seed).permutation(labels)[:count]
    splits = np.where((table.splits == "train") & np.isin(table.labels, drawn), "val", table.splits).astype("<U5")
    return ImageTable(table.root, table.paths, table.labels, splits, table.label_names)


def with_own_labels(table: ImageTable) -> ImageTable:
    """The same images with labels counted anew, 0 .. C-1 over the C labels that they have. Every image must have one."""
    assert (table.labels >= 0).all()
    labels, used = contiguous_labels(table.labels.tolist())
    return ImageTable(table.root, table.paths, labels, table.splits, tuple(table.label_names[label] for label in used))
