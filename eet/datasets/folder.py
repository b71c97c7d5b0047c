"""Class folders: root/LABEL/image, or root/{train,val,test}/LABEL/image."""

from pathlib import Path

import numpy as np

from eet.datasets.image_files import list_image_files
from eet.datasets.image_table import SPLITS, ImageTable
from eet.datasets.labels import contiguous_labels, stored_name
from eet.datasets.stratified import draw_stratified
from eet.errors import InputError, NotFoundError

TEST_SHARE = 0.2
"""Share of each label that becomes 'test' if the folders have no splits."""


def load(root: str) -> ImageTable:
    """Reads a folder with one subfolder per label; images may be in deeper folders.

    If root has a folder train, val or test, those are the splits, with the label folders inside. Otherwise a fifth of each label becomes
    'test' and the rest 'train', with at least one training image per label. The choice depends on a digest of path and label, not on
    where the folder is; images added to one label do not change the split of other labels, except by rounding. Files without an image
    suffix are ignored.

    Args:
        root: local folder or URI.

    Raises:
        NotFoundError: root is not a folder, or holds no image.
        InputError: an image is outside every label folder.
    """
    paths, others = list_image_files(root)
    if not paths:
        raise NotFoundError(f"no image found under {root} ({others} other files): give the folder whose subfolders are the labels")
    splits_above = sorted({path.partition("/")[0] for path in paths} & set(SPLITS))
    depth = 2 if splits_above else 1
    layout = f"{'{' + ','.join(splits_above) + '}/' if splits_above else ''}LABEL/image"
    stray = [path for path in paths if path.count("/") < depth or (splits_above and path.partition("/")[0] not in splits_above)]
    if stray:
        raise InputError(
            f"{len(stray)} images under {Path(root)} are not laid out as {layout}, for example {stray[0]}: "
            "move them, or describe the images in a table (path,label,split) and load that as dataset 'table'"
        )
    labels, names = contiguous_labels([path.split("/")[depth - 1] for path in paths])
    if splits_above:
        splits = np.array([path.partition("/")[0] for path in paths], dtype="<U5")
    else:
        splits = np.where(draw_stratified(paths, labels, TEST_SHARE, seed=0), "test", "train").astype("<U5")
    return ImageTable(root=root, paths=tuple(paths), labels=labels, splits=splits, label_names=tuple(map(stored_name, names)))
