"""Writing and reading a .npy file piece by piece, for arrays that are larger than memory."""

import contextlib
import os
from collections.abc import Iterator
from typing import Self

import numpy as np

from eet.errors import DamagedError
from eet.storage.whole_file import naming_file


class ArrayFile:
    """A .npy file that grows along its first axis. Its bytes are those that `numpy.save` writes of the whole array."""

    def __init__(self, path: str | os.PathLike[str], dtype: np.dtype, columns: int | None = None) -> None:
        """Creates the file; an older one is replaced.

        Args:
            path: a local file.
            dtype: of the array.
            columns: length of the second axis; None for an array of one axis.
        """
        self.path = path
        self._dtype, self._columns = np.dtype(dtype), columns
        self._rows = 0
        with naming_file(path):
            self._file = open(path, "wb")
            self._write_header()

    def append(self, block: np.ndarray) -> None:
        """Adds rows: an array of the file's dtype and columns."""
        assert block.dtype == self._dtype and block.shape[1:] == (() if self._columns is None else (self._columns,))
        with naming_file(self.path):
            self._file.write(np.ascontiguousarray(block).data.cast("B") if block.size else b"")
        self._rows += len(block)

    def close(self) -> None:
        """Writes the final shape and closes the file."""
        with naming_file(self.path):
            self._file.seek(0)
            self._write_header()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(OSError):  # the error that ended the block is reported, not a second one of a full disk
            self._file.close()

    def _write_header(self) -> None:
        # numpy pads the header, so that it has the same length for any number of rows.
        shape = (self._rows,) if self._columns is None else (self._rows, self._columns)
        description = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, description)


def array_blocks(path: str | os.PathLike[str], rows: int) -> Iterator[np.ndarray]:
    """The array of a .npy file, `rows` of its first axis at a time.

    Blocks are read, not mapped: the pages of a mapped file stay in the resident memory of the process until another needs them.

    Args:
        path: a local file that `numpy.save` or `ArrayFile` wrote.
        rows: rows of a block, 1 or more; the last one may have fewer.
    """
    with open(path, "rb", buffering=0) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        width = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        for start in range(0, shape[0], rows):
            number = min(rows, shape[0] - start)
            block = np.empty((number, *shape[1:]), dtype)
            if file.readinto(block.data.cast("B")) != number * width:
                raise DamagedError(f"{path} is damaged: it is shorter than its header says")
            yield block
