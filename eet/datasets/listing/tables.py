"""Tables that list images by path, or that contain them."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.datasets.image_files import folder_of, image_location
from eet.datasets.listing.image_list import ImageList, ListedImages
from eet.datasets.table_file import number_labels
from eet.datasets.table_formats import Span, TableFile, class_label_names, open_table
from eet.errors import InputError
from eet.options.columns import Columns
from eet.storage import Member


class TableList(ImageList):
    """The images of tables, by a column of paths or by a column of bytes.

    A column of bytes may be a struct {bytes, path}, as in `datasets` (Hugging Face): a row without bytes is the image at its path. Its
    item_id has the same form as that of other rows.

    Labels are names or whole numbers, which are numbered 0 .. C-1 in sorted order over all files. A label column that `datasets` declares
    as ClassLabel keeps its numbers; label_names are all declared names, used or not.

    Args:
        files: (name, location) of each table, all with the same columns.
        description: see `ImageList`.
        columns: names of columns.
        root: folder that paths are relative to; default each table's own folder. Absolute paths and URIs are unchanged.

    Raises:
        InputError: the tables have different columns, or a column is missing.
    """

    def __init__(self, files: Sequence[tuple[str, str]], description: str, columns: Columns, *, root: str | None = None) -> None:
        super().__init__(description)
        self._root = root
        self._files = [open_table(name, location) for name, location in sorted(files)]
        present = self._files[0].schema.names
        for file in self._files[1:]:
            if file.schema.names != present:
                raise InputError(
                    f"{file.location} has columns {', '.join(file.schema.names)}, {self._files[0].location} {', '.join(present)}: "
                    "give tables of the same columns"
                )
        self._path_column, self._image_column = _image_columns(self._files[0], columns)
        self._id_column = columns.item_id
        for name, use in ((columns.item_id, "item ids"), (columns.named_label, "labels")):
            if name is not None and name not in present:
                raise InputError(f"{self.description} has no column {name} for {use}; it has {', '.join(present)}")
        self._label_column = columns.label if columns.label in present else None
        used = [name for name in (self._path_column, self._image_column, self._id_column, self._label_column) if name]
        for file in self._files:
            file.refuse_doubled(used)
            _refuse_nested(file, self._label_column, "labels are names (text) or whole numbers")
            _refuse_nested(file, self._id_column, "item ids are text or numbers")
        self._label_of: dict[object, int] = {}
        self._declared = self._declared_names()
        if self._declared is not None:
            self.label_names = self._declared
        elif self._label_column is not None:
            self._label_of, self.label_names = self._number_labels()

    def _declared_names(self) -> tuple[str, ...] | None:
        """Label names that the files declare for whole-numbered labels; None if they declare none. They must agree in all files."""
        if self._label_column is None or not pa.types.is_integer(self._files[0].schema.field(self._label_column).type):
            return None
        names = class_label_names(self._files[0].schema, self._label_column)
        for file in self._files[1:]:
            if class_label_names(file.schema, self._label_column) != names:
                raise InputError(
                    f"{file.location} and {self._files[0].location} declare different names for the labels in column {self._label_column}: "
                    "give tables of one dataset, or list them separately"
                )
        return names

    def _number_labels(self) -> tuple[dict[object, int], tuple[str, ...] | None]:
        assert self._label_column is not None
        found: dict[object, None] = {}
        for file in self._files:
            for span in file.spans([self._label_column]):
                assert span.batch is not None
                found |= dict.fromkeys(map(_without_nan, pc.unique(span.batch.column(self._label_column)).to_pylist()))
        labels, names = number_labels(self.description, list(found), rows=False)
        return dict(zip(found, labels.tolist(), strict=True)), names or None

    def __iter__(self) -> Iterator[ListedImages]:
        listed = 0
        for file in self._files:
            for batch in (
                self._of_images(file, self._image_column) if self._path_column is None else self._of_paths(file, self._path_column)
            ):
                listed += len(batch.item_ids)
                yield batch
        if not listed:
            raise InputError(f"{self.description} lists no image: it has no row")

    def _root_of(self, file: TableFile) -> str:
        return self._root if self._root is not None else folder_of(file.location)

    def _of_paths(self, file: TableFile, path_column: str) -> Iterator[ListedImages]:
        root = self._root_of(file)
        for span in file.spans(self._wanted(path_column)):
            assert span.batch is not None
            paths = span.batch.column(path_column).to_pylist()
            wrong = next((row for row, path in enumerate(paths) if not isinstance(path, str) or not path), None)
            if wrong is not None:
                raise InputError(f"{file.location}: row {span.row + wrong + 1} has no path (text) in column {path_column}")
            uris = [image_location(root, path) for path in paths]
            yield ListedImages(self._ids(file, span, paths), uris, self._labels(file, span))

    def _of_images(self, file: TableFile, column: str) -> Iterator[ListedImages]:
        width = len(str(max(1, file.num_rows()) - 1))
        root = self._root_of(file)
        kind = file.schema.field(column).type
        cell = f"{column}.bytes" if pa.types.is_struct(kind) else column
        with_path = column if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else None
        for span in file.spans(self._wanted(), image=with_path):
            uris = [str(Member(file.location, span.group, row, cell)) for row in range(span.first, span.first + span.rows)]
            if span.paths is not None:
                uris = [uri if path is None else image_location(root, path) for uri, path in zip(uris, span.paths, strict=True)]
            ids = [f"{file.name}/{row:0{width}d}" for row in range(span.row, span.row + span.rows)]
            yield ListedImages(self._ids(file, span, ids), uris, self._labels(file, span))

    def _wanted(self, *more: str) -> list[str]:
        return list(dict.fromkeys([*more, *filter(None, (self._id_column, self._label_column))]))

    def _ids(self, file: TableFile, span: Span, default: list[str]) -> list[str]:
        if self._id_column is None:
            return default
        assert span.batch is not None
        ids = span.batch.column(self._id_column)
        if ids.null_count:
            row = ids.is_null().to_pylist().index(True)
            raise InputError(f"{file.location}: row {span.row + row + 1} has no item id in column {self._id_column}")
        return [str(item_id) for item_id in ids.to_pylist()]

    def _labels(self, file: TableFile, span: Span) -> np.ndarray | None:
        if self._label_column is None:
            return None
        assert span.batch is not None
        if self._declared is not None:
            labels = span.batch.column(self._label_column).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
            if wrong := np.flatnonzero((labels < -1) | (labels >= len(self._declared))).tolist():
                raise InputError(
                    f"{file.location}: row {span.row + wrong[0] + 1} has {labels[wrong[0]]} in column {self._label_column}, which declares "
                    f"{len(self._declared)} names: allowed are 0 to {len(self._declared) - 1}, and -1 for unknown"
                )
            return labels.astype(np.int32)
        return np.array([self._label_of[_without_nan(cell)] for cell in span.batch.column(self._label_column).to_pylist()], np.int32)


def _refuse_nested(file: TableFile, column: str | None, allowed: str) -> None:
    """InputError where the cells of a column are lists or structs."""
    if column is not None and pa.types.is_nested(kind := file.schema.field(column).type):
        raise InputError(f"{file.location}: column {column} is {kind}; {allowed}")


def _without_nan(cell: object) -> object:
    """None instead of NaN, which is not equal to itself."""
    return None if cell != cell else cell


def _image_columns(file: TableFile, columns: Columns) -> tuple[str | None, str]:
    """(column of paths, ''), or (None, column of images, which are bytes or structs)."""
    if columns.path is not None and columns.image is not None:
        raise InputError(
            f"a column of paths ({columns.path}) and one of images ({columns.image}) are both given: give the one to read "
            "(columns.path or columns.image)"
        )
    present = file.schema.names
    path, image = columns.path or "path", columns.image or "image"
    if columns.image is None and (columns.path is not None or path in present):
        if path in present:
            return path, ""
    elif image in present:
        kind = file.schema.field(image).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return None, image
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            if f"{image}.bytes" in present:
                raise InputError(f"{file.location} has a column {image}.bytes and a column {image} with a field bytes: rename one")
            return None, image
        raise InputError(
            f"{file.location}: column {image} is {kind}; images are bytes, or a struct with a field bytes. A column of paths is named by "
            f"columns.path: {image}"
        )
    raise InputError(
        f"{file.location} has columns {', '.join(present)}: it needs one of paths ({path}; columns.path gives another "
        f"name) or of images' bytes ({image}; columns.image)"
    )
