"""Holding out validation images from the training split."""

from dataclasses import replace

import numpy as np

from eet.datasets.image_table import ImageTable
from eet.datasets.stratified import draw_stratified
from eet.errors import InputError


def hold_out_validation(table: ImageTable, share: float, seed: int) -> ImageTable:
    """Turns a stratified share of the split 'train' into 'val'.

    A table that already has 'val' is returned unchanged, and so is any table if share is 0. Each label keeps at least one training image;
    images without a label stay in 'train'. The choice depends on path, label and seed, not on the order of rows.

    Args:
        table: the images.
        share: in 0 .. 1, 1 excluded.
        seed: of the choice.

    Raises:
        InputError: share is out of range, or no label has two training images.
    """
    if not 0 <= share < 1:
        raise InputError(f"validation share {share} should be at least 0 (none) and less than 1")
    if share == 0 or (table.splits == "val").any():
        return table
    rows = np.flatnonzero((table.splits == "train") & (table.labels >= 0))
    drawn = rows[draw_stratified([table.paths[row] for row in rows], table.labels[rows], share, seed)]
    if not len(drawn):
        raise InputError(
            f"a validation share of {share} cannot be held out: no label has two images among the {len(rows)} labelled "
            "ones of split 'train'. Use a validation share of 0, or give a split 'val'"
        )
    splits = table.splits.astype("<U5")
    splits[drawn] = "val"
    return replace(table, splits=splits)
