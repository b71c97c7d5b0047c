"""The labelled images of a training: read, checked and split."""

import os
from dataclasses import dataclass

import numpy as np

from eet.datasets import ImageTable, class_disjoint, hold_out_labels, hold_out_validation, with_own_labels
from eet.datasets.readable import unreadable_images
from eet.errors import InputError


@dataclass(frozen=True)
class LabelledImages:
    """Images of a training. skipped: (location, reason) of those that were left out because they cannot be read."""

    train: ImageTable
    val: ImageTable | None
    test: ImageTable | None
    skipped: tuple[tuple[str, str], ...] = ()


def labelled_images(
    table: ImageTable, *, validation_share: float = 0.1, seed: int = 42, disjoint: bool = False, skip_unreadable: bool = False
) -> LabelledImages:
    """The splits of a table, every image decoded once to know that it can be (see `eet.datasets.readable`).

    Args:
        table: all splits.
        validation_share: share of the training images held out where the table has no val split; 0 holds out none.
        seed: of what is held out.
        disjoint: splits that share no label (`class_disjoint`), validation too; labels of the training images are then counted anew.
        skip_unreadable: leave unreadable images out; else they are an error.

    Raises:
        ValueError: an image cannot be read, a training image has no label, or a label has no training image.
    """
    bad = unreadable_images(table, threads=os.cpu_count() or 1)
    skipped = tuple((table.location(row), reason) for row, reason in bad)
    if bad and not skip_unreadable:
        shown = "; ".join(f"{location}: {reason}" for location, reason in skipped[:5])
        raise InputError(
            f"{len(bad)} of {len(table)} images cannot be read: {shown}. Mend or remove them, or have them skipped "
            "(on_error skip; in Python skip_unreadable=True)"
        )
    if bad:
        readable = np.ones(len(table), bool)
        readable[[row for row, _ in bad]] = False
        table = table.take(readable)
    if disjoint:
        table = hold_out_labels(class_disjoint(table), validation_share, seed)
        train = with_own_labels(table.select("train"))
    else:
        table = hold_out_validation(table, validation_share, seed)
        train = table.select("train")
    unlabelled = int((train.labels < 0).sum())
    if unlabelled:
        raise InputError(f"{unlabelled} training images have no label, for example {train.paths[int(np.argmin(train.labels))]}")
    present = np.bincount(train.labels, minlength=train.num_labels) > 0
    if not present.all():
        missing = [train.label_names[label] for label in np.flatnonzero(~present)]
        raise InputError(f"{len(missing)} labels have no training image, for example {missing[:3]}; take them out of the table")
    # An image without a label cannot be judged.
    judged = {name: np.flatnonzero((table.splits == name) & (table.labels >= 0)) for name in ("val", "test")}
    splits = {name: table.take(rows) if len(rows) else None for name, rows in judged.items()}
    return LabelledImages(train, splits["val"], splits["test"], skipped)
