"""Distinct codes against a plain dictionary from each code to its items."""

import json
from pathlib import Path

import numpy as np
import pytest

from eet.hashing.packing import pack
from eet.search.distinct_codes import DistinctCodes

WIDTHS = [1, 2, 3, 4, 5, 8, 9, 16]  # bytes: one word of 32 bits, one of 64, more
NUM_VALUES = [1, 6, 40, 100_000]  # grouped, and flat where codes hardly repeat


def drawn(width: int, num_items: int, num_values: int) -> np.ndarray:
    rng = np.random.default_rng([width, num_items, num_values])
    return pack(rng.integers(0, 2, (num_values, 8 * width)))[rng.integers(0, num_values, num_items)]


def items_of_codes(codes: DistinctCodes) -> list[tuple[bytes, list[int]]]:
    """Each code and its items, read as the attributes are documented."""
    found = []
    for place in range(len(codes)):
        if len(codes.offsets):
            items = codes.rows_N[codes.offsets[place] : codes.offsets[place + 1]].tolist()
        else:
            items = [int(codes.rows_N[place]) if len(codes.rows_N) else place]
        found.append((codes.words_UW[place].tobytes()[: codes.width], items))
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_values", NUM_VALUES)
def test_every_code_leads_to_its_items(width: int, num_values: int) -> None:
    packed = drawn(width, 200, num_values)
    codes = DistinctCodes.build(packed, num_bits=8 * width)
    expected: dict[bytes, list[int]] = {}
    for row, code in enumerate(packed):
        expected.setdefault(code.tobytes(), []).append(row)
    grouped = len(expected) < 0.83 * 200
    assert (len(codes.offsets) > 0) == grouped
    if grouped:
        assert dict(items_of_codes(codes)) == expected and len(codes) == len(expected)
    else:
        assert items_of_codes(codes) == [(code.tobytes(), [row]) for row, code in enumerate(packed)]
    assert (codes.num_items, codes.width, codes.num_bits) == (200, width, 8 * width)
    assert [code.tobytes() for code in codes.codes_UB] == [code for code, _ in items_of_codes(codes)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_values", NUM_VALUES)
def test_codes_come_back_as_they_were_packed_in_any_order_of_the_distinct_ones(width: int, num_values: int) -> None:
    packed = drawn(width, 200, num_values)
    codes = DistinctCodes.build(packed)
    rng = np.random.default_rng(0)
    for _ in range(3):  # an order of an order, too
        mine = codes.packed_codes()
        np.testing.assert_array_equal(mine, packed)
        mine[:] = 0  # a copy
        order = rng.permutation(len(codes))
        shuffled = codes.reordered(order)
        assert items_of_codes(shuffled) == [items_of_codes(codes)[place] for place in order]
        codes = shuffled
    np.testing.assert_array_equal(codes.packed_codes(), packed)


@pytest.mark.parametrize("num_values", [6, 100_000])
@pytest.mark.parametrize("reordered", [False, True])
def test_saved_codes_are_mapped_and_the_same(tmp_path: Path, num_values: int, reordered: bool) -> None:
    built = DistinctCodes.build(drawn(5, 200, num_values), num_bits=37)
    if reordered:
        built = built.reordered(np.arange(len(built))[::-1])
    built.save(tmp_path / "new" / "folder", kind="any")
    loaded = DistinctCodes.load(tmp_path / "new" / "folder")
    assert items_of_codes(loaded) == items_of_codes(built)
    assert (loaded.num_bits, loaded.width, loaded.nbytes) == (37, 5, built.nbytes)
    assert built.nbytes == sum(array.nbytes for array in (built.words_UW, built.offsets, built.rows_N))
    assert isinstance(loaded.words_UW.base.base, np.memmap)
    with pytest.raises(FileNotFoundError):
        DistinctCodes.load(tmp_path)


def test_files_are_those_that_older_versions_wrote_and_read(tmp_path: Path) -> None:
    """Three codes of 3 bytes for five items, written by hand."""
    np.save(tmp_path / "codes.npy", np.array([[0x030201], [0x060504], [0x090807]], np.uint32))
    np.save(tmp_path / "offsets.npy", np.array([0, 1, 3, 5], np.int64))
    np.save(tmp_path / "rows.npy", np.array([4, 0, 2, 1, 3], np.uint32))
    (tmp_path / "codes.json").write_text('{"kind": "exact", "width": 3, "num_bits": 20}\n')
    codes = DistinctCodes.load(tmp_path)
    assert codes.packed_codes().tolist() == [[4, 5, 6], [7, 8, 9], [4, 5, 6], [7, 8, 9], [1, 2, 3]]
    codes.save(tmp_path / "again", kind="exact")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["codes.json", "codes.npy", "offsets.npy", "rows.npy"]
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    codes.save(tmp_path / "other", kind="ivf")
    assert json.loads((tmp_path / "other" / "codes.json").read_text())["kind"] == "ivf"


def test_the_arrays_are_read_only_and_the_given_ones_are_not() -> None:
    words = np.zeros((3, 1), np.uint32)
    codes = DistinctCodes(words, np.empty(0, np.int64), np.empty(0, np.uint32), width=4, num_bits=None)
    for array in (codes.words_UW, codes.offsets, codes.rows_N, codes.reordered(np.arange(3)).words_UW):
        assert not array.flags.writeable
    assert words.flags.writeable and codes.words_UW.base is words


def test_no_items() -> None:
    codes = DistinctCodes.build(np.zeros((0, 4), np.uint8))
    assert len(codes) == codes.num_items == codes.nbytes == 0
    assert codes.packed_codes().shape == codes.codes_UB.shape == codes.reordered(np.arange(0)).packed_codes().shape == (0, 4)


def test_what_is_no_code_is_refused() -> None:
    packed = np.zeros((3, 2), np.uint8)
    with pytest.raises(ValueError, match="num_bits=17"):
        DistinctCodes.build(packed, num_bits=17)
    with pytest.raises(ValueError, match="uint8"):
        DistinctCodes.build(packed.astype(np.int32))


def test_queries_that_do_not_fit_are_refused() -> None:
    packed = np.zeros((3, 2), np.uint8)
    of_12_bits, of_unknown_bits = DistinctCodes.build(packed, num_bits=12), DistinctCodes.build(packed)
    of_12_bits.check_queries(packed, None)
    of_12_bits.check_queries(packed, np.zeros((3, 12)))
    for bits in range(9, 17):
        of_unknown_bits.check_queries(packed, np.zeros((3, bits)))
    with pytest.raises(ValueError, match="uint8"):
        of_12_bits.check_queries(packed.astype(np.int32), None)
    with pytest.raises(ValueError, match="3 bytes wide, the gallery's 2"):
        of_12_bits.check_queries(np.zeros((1, 3), np.uint8), None)
    for shape in ((3, 16), (2, 12), (12,)):
        with pytest.raises(ValueError, match=r"give \(3, 12\), one hash"):
            of_12_bits.check_queries(packed, np.zeros(shape))
    with pytest.raises(ValueError, match="9 to 16"):
        of_unknown_bits.check_queries(packed, np.zeros((3, 8)))


@pytest.mark.parametrize("num_values", NUM_VALUES)
def test_saved_items_are_read_in_blocks_of_any_size(tmp_path: Path, num_values: int) -> None:
    codes = DistinctCodes.build(drawn(8, 200, num_values), num_bits=64)
    codes.save(tmp_path, kind="exact")
    for size in (1, 7, 1000):
        read, kept = list(DistinctCodes.stored_item_blocks(tmp_path, size)), list(codes.item_blocks(size))
        assert len(read) == len(kept) == -(-200 // size)
        for (words, rows), (known_words, known_rows) in zip(read, kept, strict=True):
            np.testing.assert_array_equal(words, known_words)
            np.testing.assert_array_equal(rows, known_rows)
