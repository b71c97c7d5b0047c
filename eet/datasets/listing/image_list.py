"""The interface of all image lists."""

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from eet.datasets.table_formats import BATCH_ROWS
from eet.storage import without_secrets


class ListedImages(NamedTuple):
    """A batch of images.

    Attributes:
        item_ids: unique within the whole list.
        uris: location of each image.
        labels: int32 (n,), -1 where unknown; None if all are unknown.
    """

    item_ids: list[str]
    uris: list[str]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns.

    If neither path nor image is given, a column "path" is used if it exists, else a column "image". Giving both is an error.

    Attributes:
        path: column of the images' paths.
        image: column of the images' bytes, or of structs {bytes, path}, as in dataset hubs.
        item_id: column of the ids; default the path, or FILE/row for an image column.
        label: column of the labels, if there is one; also the key of a label in the KEY.json of a tar shard.
    """

    path: str | None = None
    image: str | None = None
    item_id: str | None = None
    label: str = "label"


class ImageList(abc.ABC):
    """Images to encode; each iteration lists them again.

    Attributes:
        description: of the input; equal for equal inputs.
        label_names: index = label; None where labels have no names.
        ignored: number of files that are not images, in the last complete iteration.
    """

    description: str
    label_names: tuple[str, ...] | None = None

    def __init__(self, description: str) -> None:
        self.description = without_secrets(description)
        self.ignored = 0
        """Files that are not images, in the last complete iteration."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[ListedImages]: ...


def in_batches(pairs: Iterable[tuple[str, str]]) -> Iterator[ListedImages]:
    """Batches of (item_id, uri) pairs without labels."""
    pairs = iter(pairs)
    while batch := list(islice(pairs, BATCH_ROWS)):
        yield ListedImages([item_id for item_id, _ in batch], [uri for _, uri in batch], None)
