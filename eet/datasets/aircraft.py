"""FGVC-Aircraft: 100 variants, 6,667 training and 3,333 test images (Maji et al., 2013)."""

import numpy as np

from eet.datasets.archive import check_names, find_archive_root, read_names, read_pairs
from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels

LISTS = {"train": "data/images_variant_trainval.txt", "test": "data/images_variant_test.txt"}
VARIANTS = "data/variants.txt"


def load(root: str) -> ImageTable:
    """Reads fgvc-aircraft-2013b/ (or the folder around it) by variant; train is the published trainval list.

    Raises:
        NotFoundError: a list is missing.
        InputError: a list uses a variant that variants.txt lacks.
    """
    folder = find_archive_root(root, "fgvc-aircraft-2013b", (VARIANTS, *LISTS.values(), "data/images"))
    variants = read_names(folder / VARIANTS)
    paths: list[str] = []
    names: list[str] = []
    splits: list[str] = []
    for split, file in LISTS.items():
        pairs = [(image, variant) for _, image, variant in read_pairs(folder / file)]
        check_names(folder / file, variants, folder / VARIANTS, [variant for _, variant in pairs])
        paths += [f"data/images/{image}.jpg" for image, _ in pairs]
        names += [variant for _, variant in pairs]
        splits += [split] * len(pairs)
    labels, used = contiguous_labels(names)
    return ImageTable(
        root=str(folder),
        paths=tuple(paths),
        labels=labels,
        splits=np.array(splits, dtype="<U5"),
        label_names=tuple(used),
    )
