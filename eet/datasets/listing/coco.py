"""JSON lists in the format of COCO and iNaturalist: images, annotations, categories."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from eet.datasets.image_files import folder_of, image_location
from eet.datasets.listing.image_list import BATCH_ROWS, ImageList, ListedImages
from eet.errors import InputError
from eet.storage import resolve


class CocoImages(ImageList):
    """The images of one COCO file; item_id is an image's file_name, its label the category of its annotations.

    The file is an object with `images` [{id, file_name}], and may have `annotations` [{image_id, category_id}] and `categories`
    [{id, name}]. Labels are numbered 0 .. C-1 in the order of category ids, including categories without an image. They are named by
    `name` (with the id where two categories have one name; by the id alone where `categories` are missing). An image without annotation
    has no label. An image of several categories has none either, because the right one is unknown; a warning and `ambiguous` count
    these. The whole file is read at once: about 1 GB of memory for a million images.

    Args:
        location: of the file.
        root: folder that file_name is relative to; default the folder of the file. Absolute paths and URIs are unchanged.

    Raises:
        InputError: the file is not in this format.
    """

    def __init__(self, location: str, *, root: str | None = None) -> None:
        super().__init__(location)
        self._location = location
        self._root = root if root is not None else folder_of(location)
        content = self._read()
        images = self._records(content, "images", "id", "file_name")
        annotations = self._records(content, "annotations", "image_id", "category_id") if content.get("annotations") else []
        categories = self._records(content, "categories", "id") if content.get("categories") else []
        self._paths = [self._path(record["file_name"]) for record in images]
        if not images:
            raise InputError(f"{location} lists no image: images is empty")
        names = {record["id"]: str(record.get("name", record["id"])) for record in categories}
        if not categories:
            names = {category: str(category) for category in {record["category_id"] for record in annotations}}
        number_of = {category: number for number, category in enumerate(sorted(names, key=_order))}
        self.label_names = _distinct(names) if names else None
        self._labels_N = np.full(len(images), -1, np.int32)
        row_of = {record["id"]: row for row, record in enumerate(images)}
        several: set[int] = set()
        for record in annotations:
            row, number = row_of.get(record["image_id"]), number_of.get(record["category_id"])
            if number is None:
                raise InputError(f"{location}: an annotation has category_id {record['category_id']!r}, which is none of its categories")
            if row is None:
                raise InputError(f"{location}: an annotation has image_id {record['image_id']!r}, which is none of its images")
            if self._labels_N[row] not in (-1, number):
                several.add(row)
            self._labels_N[row] = number
        self._labels_N[list(several)] = -1
        self.ambiguous = len(several)
        """Images with annotations of more than one category."""
        if several:
            warnings.warn(
                f"{self.description}: {self.ambiguous} of {len(images)} images have annotations of several categories, such as "
                f"{self._paths[min(several)]}: they are listed without a label",
                stacklevel=2,
            )

    def __iter__(self) -> Iterator[ListedImages]:
        for first in range(0, len(self._paths), BATCH_ROWS):
            paths = self._paths[first : first + BATCH_ROWS]
            labels = None if self.label_names is None else self._labels_N[first : first + BATCH_ROWS]
            yield ListedImages(paths, [image_location(self._root, path) for path in paths], labels)

    def _read(self) -> dict[str, Any]:
        filesystem, path = resolve(self._location)
        try:
            with filesystem.open_input_stream(path, compression=None) as file:
                content = json.loads(file.read())
        except ValueError as error:
            raise InputError(f"{self._location} is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise InputError(
                f"{self._location} is no list of images in COCO format: allowed is an object with images [{{id, file_name}}], and "
                "annotations [{image_id, category_id}] and categories [{id, name}] for labels. A table of JSON lines is called .jsonl"
            )
        return content

    def _records(self, content: dict[str, Any], name: str, *keys: str) -> list[dict[str, Any]]:
        records = content[name]
        if not isinstance(records, list):
            raise InputError(f"{self._location}: {name} should be a list of objects with {', '.join(keys)}")
        for number, record in enumerate(records):
            if not isinstance(record, dict) or any(not isinstance(record.get(key), int | str) for key in keys):
                raise InputError(f"{self._location}: {name}[{number}] is {str(record)[:80]}; it should be an object with {', '.join(keys)}")
        return records

    def _path(self, file_name: object) -> str:
        if not isinstance(file_name, str) or not file_name:
            raise InputError(f"{self._location}: an image has file_name {file_name!r}; it should be its path")
        return file_name


def _distinct(names: dict[Any, str]) -> tuple[str, ...]:
    """The names in the order of their categories; names that occur twice get the id."""
    counts: dict[str, int] = {}
    for name in names.values():
        counts[name] = counts.get(name, 0) + 1
    return tuple(names[key] if counts[names[key]] == 1 else f"{names[key]} ({key})" for key in sorted(names, key=_order))


def _order(category: int | str) -> tuple[bool, int | str]:
    """Numbers before texts."""
    return isinstance(category, str), category
