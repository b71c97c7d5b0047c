"""Which pictures there are to encode, however they are stored: one module per form.

A list is iterated in batches, never held whole, so that hundreds of millions of pictures can be listed.
"""

from eet.datasets.listing.image_list import Columns, ImageList, ListedImages
from eet.datasets.listing.of_location import list_images

__all__ = ["Columns", "ImageList", "ListedImages", "list_images"]
