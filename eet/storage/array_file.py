"""Writing a .npy file piece by piece, for arrays that are larger than memory."""

import contextlib
import os
from typing import Self

import numpy as np

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
