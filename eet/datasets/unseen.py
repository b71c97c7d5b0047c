"""Labels that are held out of training, so that codes are evaluated on labels that were never trained."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from eet.datasets.class_disjoint import with_own_labels
from eet.datasets.image_table import ImageTable
from eet.errors import InputError


def split_unseen(table: ImageTable, *, share: float = 0.0, names: Collection[str] = (), seed: int = 42) -> tuple[ImageTable, ImageTable]:
    """Takes labels, with all their images, out of a table.

    Args:
        table: all splits.
        share: share of the labels to take out, in [0, 1): round(share * labels), but at least one if the share is above 0.
        names: names of the labels to take out, instead of a share.
        seed: of the random choice of labels.

    Returns:
        A table of the rest, with the remaining labels numbered from 0 in their order; images without a label are in it. And a table of the
        images to evaluate the labels that were taken out, numbered from 0 too, all with split 'test': the test images of these labels; for
        labels without test images, all their images.

    Raises:
        InputError: a share outside its range, share and names both given, a name that no image has, or no label left to train on.
    """
    if not 0 <= share < 1:
        raise InputError(f"unseen share {share}: use 0 (none) to below 1")
    if share and names:
        raise InputError("a share of unseen labels and their names are both given: use one")
    present = np.unique(table.labels[table.labels >= 0])
    if names:
        by_name = {table.label_names[label]: label for label in present}
        if missing := sorted(set(names) - set(by_name)):
            raise InputError(f"{len(missing)} unseen labels have no image, for example {missing[:3]}; labels are {list(by_name)[:3]} ...")
        unseen = np.array(sorted(by_name[name] for name in set(names)))
    else:
        count = max(1, round(share * len(present))) if share else 0
        unseen = np.sort(np.random.default_rng(seed).permutation(present)[:count])
    if len(unseen) == len(present):
        raise InputError(f"all {len(present)} labels are unseen: leave at least one to train on")
    with_test = np.unique(table.labels[table.splits == "test"])
    is_unseen = np.isin(table.labels, unseen)
    evaluated = with_own_labels(table.take(is_unseen & ((table.splits == "test") | ~np.isin(table.labels, with_test))))
    return with_own_labels(table.take(~is_unseen)), replace(evaluated, splits=np.full(len(evaluated), "test"))
