"""What every form of listing gives."""

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from eet.datasets.table_formats import BATCH_ROWS
from eet.storage import without_secrets


class ListedImages(NamedTuple):
    """A batch of pictures. item_ids: unique over the whole list. uris: where each lies. labels: (n,) int32, -1 where unknown, or None."""

    item_ids: list[str]
    uris: list[str]
    labels: np.ndarray | None


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns.

    path: of the image's path; None means "path". image: of its bytes (or of a struct {bytes, path}, as dataset hubs write it); None
    means "image". A name that is given wins: `image` over a column that happens to be called "path". With neither, a column "path" is taken
    where there is one, else a column "image"; both given are a ValueError. item_id: default the path, or FILE/row for an image column.
    label: left out where there is no such column; also the key of a label in the KEY.json of a tar shard.
    """

    path: str | None = None
    image: str | None = None
    item_id: str | None = None
    label: str = "label"


class ImageList(abc.ABC):
    """Pictures to encode, listed anew with each iteration.

    description: what was listed, the same for the same input. label_names: index = label; None where labels have no names.
    """

    description: str
    label_names: tuple[str, ...] | None = None

    def __init__(self, description: str) -> None:
        self.description = without_secrets(description)
        self.ignored = 0
        """Files of the last whole iteration that are no pictures."""

    @abc.abstractmethod
    def __iter__(self) -> Iterator[ListedImages]: ...


def in_batches(pairs: Iterable[tuple[str, str]]) -> Iterator[ListedImages]:
    """(item_id, uri) pairs without labels, gathered."""
    pairs = iter(pairs)
    while batch := list(islice(pairs, BATCH_ROWS)):
        yield ListedImages([item_id for item_id, _ in batch], [uri for _, uri in batch], None)
