"""JSON lists in the format of COCO and iNaturalist: images, annotations, categories."""

import warnings
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from eet.datasets.image_files import folder_of, image_location
from eet.datasets.listing.image_list import BATCH_ROWS, ImageList, ListedImages
from eet.errors import InputError
from eet.storage import one_line, resolve

_READ_BYTES = 2**20


class CocoImages(ImageList):
    """The images of one COCO file; item_id is an image's file_name, its label the category of its annotations.

    The file is an object with `images` [{id, file_name}], and may have `annotations` [{image_id, category_id}] and `categories`
    [{id, name}]. Labels are numbered 0 .. C-1 in the order of category ids, whether or not a category has an image, and named by `name`
    (with the id where two categories have one name; by the id alone where `categories` are missing). An image without annotation has no
    label. An image of several categories has none either: which of them is meant is not known. A warning counts these, and so does
    `ambiguous`. The file is read as a stream, once for each of its lists and once more when it is iterated: what is held is some forty
    bytes an image or annotation, whatever else its records hold.

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
        image_ids = _Ids()
        for record in self._images():
            image_ids.append(record["id"])
        if not len(image_ids):
            raise InputError(f"{location} lists no image: images is empty")
        names = {record["id"]: str(record.get("name", record["id"])) for record in self._records("categories", "id")}
        declared = bool(names)
        annotated, category_of = _Ids(), array("q")
        place_of = {category: place for place, category in enumerate(names)}
        for record in self._records("annotations", "image_id", "category_id"):
            category = record["category_id"]
            if declared and category not in names:
                raise InputError(f"{location}: an annotation has category_id {category!r}, which is none of its categories")
            annotated.append(record["image_id"])
            category_of.append(place_of.setdefault(category, len(place_of)))
        names = names or {category: str(category) for category in place_of}
        self.label_names = _distinct(names) if names else None
        number_of = {category: number for number, category in enumerate(sorted(names, key=_order))}
        rows_A = image_ids.rows_of(annotated)
        if (missing := np.flatnonzero(rows_A < 0)).size:
            raise InputError(f"{location}: an annotation has image_id {annotated[missing[0]]!r}, which is none of its images")
        labels_A = np.array([number_of[category] for category in place_of], np.int32)[np.frombuffer(category_of, np.int64)]
        first_N = np.full(len(image_ids), np.iinfo(np.int32).max, np.int32)
        self._labels_N = np.full(len(image_ids), -1, np.int32)
        np.minimum.at(first_N, rows_A, labels_A)
        np.maximum.at(self._labels_N, rows_A, labels_A)
        several = np.flatnonzero((self._labels_N >= 0) & (self._labels_N != first_N))
        self._labels_N[several] = -1
        self.ambiguous = len(several)
        """Images with annotations of more than one category."""
        if self.ambiguous:
            example = next(islice(self._images(), int(several[0]), None))
            warnings.warn(
                f"{self.description}: {self.ambiguous} of {len(image_ids)} images have annotations of several categories, such as "
                f"{example['file_name']}: they are listed without a label",
                stacklevel=2,
            )

    def __iter__(self) -> Iterator[ListedImages]:
        images, first = self._images(), 0
        while paths := [record["file_name"] for record in islice(images, BATCH_ROWS)]:
            labels = None if self.label_names is None else self._labels_N[first : first + len(paths)]
            yield ListedImages(paths, [image_location(self._root, path) for path in paths], labels)
            first += len(paths)

    def _images(self) -> Iterator[dict[str, Any]]:
        for record in self._records("images", "id", "file_name"):
            if not isinstance(record["file_name"], str) or not record["file_name"]:
                raise InputError(f"{self._location}: an image has file_name {record['file_name']!r}; it should be its path")
            yield record

    def _records(self, name: str, *keys: str) -> Iterator[dict[str, Any]]:
        """The objects in one of the file's lists. None where there is no such list, but images must be one."""
        number = -1
        for number, record in enumerate(self._values(f"{name}.item")):
            if not isinstance(record, dict) or any(not isinstance(record.get(key), int | str) for key in keys):
                raise InputError(f"{self._location}: {name}[{number}] is {str(record)[:80]}; it should be an object with {', '.join(keys)}")
            yield record
        if number >= 0:
            return
        value = next(self._values(name), None)
        if name == "images" and not isinstance(value, list):
            raise InputError(
                f"{self._location} is no list of images in COCO format: allowed is an object with images [{{id, file_name}}], and "
                "annotations [{image_id, category_id}] and categories [{id, name}] for labels. A table of JSON lines is called .jsonl"
            )
        if value:
            raise InputError(f"{self._location}: {name} should be a list of objects with {', '.join(keys)}")

    def _values(self, place: str) -> Iterator[Any]:
        """What stands at a place of the file, in the words of ijson: `images.item` is each entry of the list `images`."""
        import ijson

        filesystem, path = resolve(self._location)
        with filesystem.open_input_stream(path, compression=None, buffer_size=_READ_BYTES) as file:
            try:
                yield from ijson.items(file, place, use_float=True)
            except ijson.JSONError as error:
                raise InputError(f"{self._location} is not JSON: {one_line(error)}") from error


class _Ids(Sequence[int | str]):
    """Ids in their order: eight bytes each while all are whole numbers."""

    def __init__(self) -> None:
        self._values: array[int] | list[int | str] = array("q")

    def append(self, value: int | str) -> None:
        try:
            self._values.append(value)  # type: ignore[arg-type]
        except (TypeError, OverflowError):  # a text, or a number beyond 64 bits
            self._values = [*self._values, value]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        return self._values[place]

    def rows_of(self, wanted: "_Ids") -> np.ndarray:
        """The place (A,) int64 of each wanted id, the last where it comes twice; -1 where it is none of these."""
        if isinstance(self._values, array) and isinstance(wanted._values, array):
            ids_N, wanted_A = (np.frombuffer(values, np.int64) for values in (self._values, wanted._values))
            order_N = np.argsort(ids_N, kind="stable")
            rows_A = order_N[np.searchsorted(ids_N, wanted_A, side="right", sorter=order_N) - 1]
            return np.where(ids_N[rows_A] == wanted_A, rows_A, -1)
        row_of = {value: row for row, value in enumerate(self._values)}
        return np.array([row_of.get(value, -1) for value in wanted._values], np.int64)


def _distinct(names: dict[Any, str]) -> tuple[str, ...]:
    """The names in the order of their categories; names that occur twice get the id."""
    counts: dict[str, int] = {}
    for name in names.values():
        counts[name] = counts.get(name, 0) + 1
    return tuple(names[key] if counts[names[key]] == 1 else f"{names[key]} ({key})" for key in sorted(names, key=_order))


def _order(category: int | str) -> tuple[bool, int | str]:
    """Numbers before texts."""
    return isinstance(category, str), category
