"""CUB-200-2011: 200 birds, 5,994 training and 5,794 test images (Wah et al., 2011)."""

from eet.datasets.image_table import ImageTable
from eet.datasets.numbered_lists import load_numbered_lists


def load(root: str) -> ImageTable:
    """Reads CUB_200_2011/ (or the folder around it): images.txt, image_class_labels.txt, train_test_split.txt."""
    return load_numbered_lists(root, "CUB_200_2011")
