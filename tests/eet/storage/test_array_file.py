"""A .npy file that grows against what numpy writes at once."""

import numpy as np
import pytest

from eet.errors import DamagedError
from eet.storage import ArrayFile, array_blocks


@pytest.mark.parametrize("columns", [None, 1, 3])
@pytest.mark.parametrize("dtype", ["u1", "u4", "u8", "i4", "i8"])
def test_its_bytes_are_those_of_numpy(tmp_path, columns, dtype):
    rng = np.random.default_rng(0)
    for number in (0, 1, 1234):
        array = rng.integers(0, 100, number if columns is None else (number, columns)).astype(dtype)
        np.save(tmp_path / "whole.npy", array)
        with ArrayFile(tmp_path / "pieces.npy", array.dtype, columns) as file:
            for start in range(0, number, 100):
                file.append(array[start : start + 100])
        assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
        blocks = list(array_blocks(tmp_path / "pieces.npy", 100))
        assert [len(block) for block in blocks] == [min(100, number - start) for start in range(0, number, 100)]
        np.testing.assert_array_equal(np.concatenate([array[:0], *blocks]), array, strict=True)


def test_a_file_that_is_cut_off_is_damaged(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.arange(1000))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"array\.npy is damaged"):
        list(array_blocks(path, 100))


def test_a_full_disk_is_reported_with_the_name_of_the_file():
    with pytest.raises(OSError) as caught, ArrayFile("/dev/full", np.dtype("u1")) as file:
        for _ in range(100):
            file.append(np.zeros(10_000, np.uint8))
    assert caught.value.filename == "/dev/full"
