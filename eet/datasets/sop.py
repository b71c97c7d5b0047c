"""Stanford Online Products: 22,634 products, 59,551 training and 60,502 test images of other products (Song et al., CVPR 2016)."""

import numpy as np

from eet.datasets.archive import find_archive_root, read_names
from eet.datasets.image_table import ImageTable
from eet.datasets.labels import contiguous_labels
from eet.errors import InputError

LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
COLUMNS = "image_id class_id super_class_id path"


def load(root: str) -> ImageTable:
    """Reads Stanford_Online_Products/ (or the folder around it): Ebay_{train,test}.txt, a header line and lines of four values.

    A label is a product (class_id), named by its number.

    Raises:
        NotFoundError: a list is missing.
        InputError: a line has another form.
    """
    folder = find_archive_root(root, "Stanford_Online_Products", tuple(LISTS.values()))
    paths: list[str] = []
    products: list[int] = []
    splits: list[str] = []
    for split, file in LISTS.items():
        header, *lines = read_names(folder / file) or [""]
        if header != COLUMNS:
            raise InputError(f"{folder / file} begins with {header!r}; it should name its columns: {COLUMNS}")
        for line in lines:
            values = line.split(maxsplit=3)
            if len(values) < 4 or not values[1].isdecimal():
                raise InputError(f"{folder / file}: {line!r} should be {COLUMNS}, class_id a whole number")
            paths.append(values[3])
            products.append(int(values[1]))
            splits.append(split)
    labels, used = contiguous_labels(products)
    return ImageTable(
        root=str(folder),
        paths=tuple(paths),
        labels=labels,
        splits=np.array(splits, dtype="<U5"),
        label_names=tuple(str(product) for product in used),
    )
