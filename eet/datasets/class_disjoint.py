"""Splits by label, for metric learning: test labels are not in the training images."""

from dataclasses import replace

import numpy as np

from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels
from eet.errors import InputError


def class_disjoint(table: ImageTable) -> ImageTable:
    """Makes the first half of the labels 'train' and the rest 'test', and ignores the table's own splits.

    With C labels, 0 .. C // 2 - 1 train: for CUB-200-2011 the published 1-100 / 101-200, for Stanford Cars the first and last 98. A table
    whose own test labels are in no other split (Stanford Online Products) keeps its splits. Images without a label are left out.

    Raises:
        InputError: there are fewer than two labels.
    """
    if table.num_labels < 2:
        raise InputError(f"{table.root} has {table.num_labels} labels: splitting them in two takes at least two")
    tested, learned = ({*table.labels[rows].tolist()} - {-1} for rows in (table.splits == "test", table.splits != "test"))
    labelled = table.take(table.labels >= 0)
    if tested and learned and not tested & learned:
        return labelled
    splits = np.where(labelled.labels < table.num_labels // 2, "train", "test").astype("<U5")
    return replace(labelled, splits=splits)


def hold_out_labels(table: ImageTable, share: float, seed: int) -> ImageTable:
    """Turns all images of a share of the training labels into the split 'val'.

    A table that already has 'val' is returned unchanged, and so is any table if share is 0.

    Args:
        table: the images.
        share: in 0 .. 1, 1 excluded; round(share * labels) labels are drawn, at least one and not all.
        seed: of the draw.

    Raises:
        InputError: share is out of range, or there is only one label.
    """
    if not 0 <= share < 1:
        raise InputError(f"validation share {share} should be at least 0 (none) and less than 1")
    if share == 0 or (table.splits == "val").any():
        return table
    labels = np.unique(table.labels[table.splits == "train"])
    if len(labels) < 2:
        raise InputError(f"a validation share of {share} takes whole labels, and there is only {len(labels)} to train on: use 0")
    count = min(max(round(share * len(labels)), 1), len(labels) - 1)
    drawn = np.random.default_rng(seed).permutation(labels)[:count]
    splits = np.where((table.splits == "train") & np.isin(table.labels, drawn), "val", table.splits).astype("<U5")
    return replace(table, splits=splits)


def with_own_labels(table: ImageTable) -> ImageTable:
    """The same images with labels renumbered to 0 .. C-1 over the C labels that occur. An image without a label (-1) stays without."""
    labelled = table.labels >= 0
    numbers, used = contiguous_labels(table.labels[labelled].tolist())
    labels = table.labels.copy()
    labels[labelled] = numbers
    return replace(table, labels=labels, label_names=tuple(table.label_names[label] for label in used))
