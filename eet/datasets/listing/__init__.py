"""Listing the images to encode: one module per form of storage.

A list is iterated in batches and never held completely, so that hundreds of millions of images can be listed.
"""

from eet.datasets.listing.image_list import ImageList, ListedImages
from eet.datasets.listing.of_location import list_images
from eet.options.columns import Columns

__all__ = ["Columns", "ImageList", "ListedImages", "list_images"]
