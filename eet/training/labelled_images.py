"""The labelled images of a training: read, checked and split."""

import os
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from eet.datasets import ImageTable, class_disjoint, hold_out_labels, hold_out_validation, split_unseen, with_own_labels
from eet.datasets.readable import unreadable_images
from eet.errors import InputError


@dataclass(frozen=True)
class LabelledImages:
    """Images of a training.

    Attributes:
        train: training images, all with a label.
        val: validation images with a label, or None.
        test: test images with a label, or None.
        unseen: images of labels that are held out of training, as a separate test split; None if no labels are held out.
        skipped: (location, reason) of the images that are left out because they cannot be read.
    """

    train: ImageTable
    val: ImageTable | None
    test: ImageTable | None
    unseen: ImageTable | None = None
    skipped: tuple[tuple[str, str], ...] = ()


def readable_table(table: ImageTable, *, skip_unreadable: bool) -> tuple[ImageTable, tuple[tuple[str, str], ...]]:
    """The images that can be decoded, and (location, reason) of the others. InputError for these unless they are skipped."""
    bad = unreadable_images(table, threads=os.cpu_count() or 1)
    skipped = tuple((table.location(row), reason) for row, reason in bad)
    if bad and not skip_unreadable:
        shown = "; ".join(f"{location}: {reason}" for location, reason in skipped[:5])
        raise InputError(
            f"{len(bad)} of {len(table)} images cannot be read: {shown}. Repair or remove them, or skip them "
            "(on_error skip; in Python skip_unreadable=True)"
        )
    if bad:
        readable = np.ones(len(table), bool)
        readable[[row for row, _ in bad]] = False
        table = table.take(readable)
    return table, skipped


def labelled_images(
    table: ImageTable,
    *,
    validation_share: float = 0.1,
    seed: int = 42,
    disjoint: bool = False,
    skip_unreadable: bool = False,
    unseen_share: float = 0.0,
    unseen_names: Collection[str] = (),
) -> LabelledImages:
    """Splits a table for training, after checking that every image can be decoded (see `eet.datasets.readable`).

    Args:
        table: images of all splits.
        validation_share: share of the training images held out if the table has no val split; 0 for none.
        seed: of the held-out images.
        disjoint: make splits that share no label (`class_disjoint`), validation included; training labels are then renumbered.
        skip_unreadable: leave out unreadable images; otherwise they are an error.
        unseen_share, unseen_names: labels that are held out, see `eet.datasets.split_unseen`.

    Raises:
        InputError: an image cannot be read, a training image has no label, or a label has no training image.
    """
    table, skipped = readable_table(table, skip_unreadable=skip_unreadable)
    unseen = None
    if unseen_share or unseen_names:
        table, unseen = split_unseen(table, share=unseen_share, names=unseen_names, seed=seed)
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
        raise InputError(f"{len(missing)} labels have no training image, for example {missing[:3]}; remove them from the table")
    # Images without a label cannot be evaluated.
    rows_of = {name: np.flatnonzero((table.splits == name) & (table.labels >= 0)) for name in ("val", "test")}
    splits = {name: table.take(rows) if len(rows) else None for name, rows in rows_of.items()}
    return LabelledImages(train, splits["val"], splits["test"], unseen, skipped)
