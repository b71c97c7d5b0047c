"""The interface of all image lists."""

import abc
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from eet.datasets.places import Places
from eet.datasets.table_formats import BATCH_ROWS


class ListedImages(NamedTuple):
    """A batch of images.

    Attributes:
        item_ids: unique within the whole list.
        uris: location of each image.
        labels: int32 (n,), -1 where unknown; None if all are unknown.
        places: where they were taken; None if the list has no places.
    """

    item_ids: list[str]
    uris: list[str]
    labels: np.ndarray | None
    places: Places | None = None


class ImageList(abc.ABC):
    """Images to encode; each iteration lists them again.

    Attributes:
        description: of the input; equal for equal inputs.
        label_names: index = label; None where labels have no names.
        has_places: whether each batch says where its images were taken.
        ignored: number of files that are not images, in the last complete iteration.
    """

    description: str
    label_names: tuple[str, ...] | None = None
    has_places: bool = False

    def __init__(self, description: str) -> None:
        self.description = description
        self.ignored = 0
        """Files that are not images, in the last complete iteration."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[ListedImages]: ...


def in_batches(pairs: Iterable[tuple[str, str]]) -> Iterator[ListedImages]:
    """Batches of (item_id, uri) pairs without labels."""
    pairs = iter(pairs)
    while batch := list(islice(pairs, BATCH_ROWS)):
        yield ListedImages([item_id for item_id, _ in batch], [uri for _, uri in batch], None)
