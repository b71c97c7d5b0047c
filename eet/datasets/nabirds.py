"""NABirds: 555 birds, 23,929 training and 24,633 test images (Van Horn et al., CVPR 2015)."""

from eet.datasets.image_table import ImageTable
from eet.datasets.numbered_lists import load_numbered_lists


def load(root: str) -> ImageTable:
    """Reads nabirds/ (or the folder around it): images.txt, image_class_labels.txt, train_test_split.txt.

    classes.txt is a tree of 1011 nodes; the 555 that have images become labels, in order of their numbers.
    """
    return load_numbered_lists(root, "nabirds")
