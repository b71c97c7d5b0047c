import numpy as np
import pytest

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack, unpack
from eet.search import HammingIndex, device_scan
from eet.search.tiling import Tiling


def slow_search(packed_queries, packed_items, k, bits, query_hash=None):  # type: ignore[no-untyped-def]
    codes, queries = unpack(packed_items, bits).astype(np.int64), unpack(packed_queries, bits).astype(np.int64)
    all_distances, all_rows = [], []
    for q in range(len(queries)):
        keyed = []
        for row in range(len(codes)):
            distance = int((queries[q] != codes[row]).sum())
            # Test hashes are small integers, so that equal scores are exactly equal.
            score = 0 if query_hash is None else int((query_hash[q] * codes[row]).sum())
            keyed.append((distance, -score, row))
        keyed.sort()
        all_distances.append([d for d, _, _ in keyed[:k]])
        all_rows.append([row for _, _, row in keyed[:k]])
    return np.array(all_distances), np.array(all_rows)


def make_case(rng: np.random.Generator, bits: int, num_items: int, num_values: int):  # type: ignore[no-untyped-def]
    values = rng.integers(-1, 2, size=(num_values, bits))
    items = pack(values[rng.integers(0, num_values, size=num_items)])
    query_hash = values[rng.integers(0, num_values, size=7)] * rng.integers(1, 3, size=(7, bits))
    query_hash[query_hash == 0] = -1
    query_hash[:4, ::3] *= -1
    return items, pack(query_hash), query_hash


@pytest.mark.parametrize("bits", [5, 12, 16, 24, 48, 64, 72, 128])
@pytest.mark.parametrize("num_values", [1, 6, 40, 400])
@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])  # cpu:0 is torch's way, on the CPU
def test_answers_equal_a_plain_sort(bits: int, num_values: int, with_hash: bool, device: str) -> None:
    rng = np.random.default_rng([bits, num_values])
    items, queries, query_hash = make_case(rng, bits, 150, num_values)
    index = HammingIndex.build(items, num_bits=bits)
    for k in (1, 4, 37, 150, 500):
        distances, rows = index.search(queries, k, query_hash=query_hash if with_hash else None, device=device)
        assert distances.dtype == np.int32 and rows.dtype == np.int64
        expected_distances, expected_rows = slow_search(queries, items, k, bits, query_hash if with_hash else None)
        np.testing.assert_array_equal(distances, expected_distances)
        np.testing.assert_array_equal(rows, expected_rows)


@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.slow
def test_many_codes_tied_at_the_cut_are_all_weighed(with_hash: bool) -> None:
    """All codes of weight 1 and 2 are two big tie groups."""
    bits, rng = 24, np.random.default_rng(0)
    weight_1 = np.eye(bits, dtype=np.int64)
    weight_2 = np.array([weight_1[i] + weight_1[j] for i in range(bits) for j in range(i)])
    items = pack(rng.permutation(np.concatenate([weight_1, weight_2])))
    index = HammingIndex.build(items)
    assert index.num_codes == index.num_items == 300
    query_hash = -rng.integers(1, 5, size=(3, bits))
    queries = pack(query_hash)
    for k in (1, 10, 23, 24, 25, 60):
        found = index.search(queries, k, query_hash=query_hash if with_hash else None)
        expected = slow_search(queries, items, k, bits, query_hash if with_hash else None)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_order_inside_ties_is_that_of_the_asymmetric_scores_to_the_last_digit() -> None:
    rng = np.random.default_rng(8)
    query_hash = rng.normal(size=(6, 16)).astype(np.float32)
    queries, items = pack(query_hash), pack(rng.normal(size=(3000, 16)))
    distances, rows = HammingIndex.build(items).search(queries, 200, query_hash=query_hash)
    scores, all_distances = asymmetric_scores(query_hash, items), hamming_distances(queries, items)
    for q in range(6):
        expected = np.lexsort((np.arange(3000), -scores[q], all_distances[q]))[:200]
        np.testing.assert_array_equal(rows[q], expected)
        np.testing.assert_array_equal(distances[q], all_distances[q, expected])


def test_form_follows_the_share_of_distinct_codes() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 4, size=(100, 2), dtype=np.uint8), rng.integers(0, 256, size=(100, 8), dtype=np.uint8)
    assert HammingIndex.build(few).num_codes == 16
    many[3] = many[90]
    assert HammingIndex.build(many).num_codes == 100
    distances, rows = HammingIndex.build(many).search(many[3:4], 2)
    assert distances.tolist() == [[0, 0]] and rows.tolist() == [[3, 90]]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    rng = np.random.default_rng(5)
    items, queries, query_hash = make_case(rng, 16, 400, 60)
    index = HammingIndex.build(items)
    whole = index.search(queries, 9, query_hash=query_hash)
    monkeypatch.setattr("eet.search.device_scan.PAIRS_AT_ONCE", 50)
    monkeypatch.setattr("eet.search.device_scan.SAMPLED_CODES", 7)
    monkeypatch.setattr("eet.search.hamming_index.QUERIES_ON_DEVICE", 2)
    monkeypatch.setattr("eet.search.scan.QUERIES_AT_ONCE", 2)
    for threads in (1, 3):
        blocked = index.search(queries, 9, query_hash=query_hash, device=device, threads=threads)
        np.testing.assert_array_equal(blocked[0], whole[0])
        np.testing.assert_array_equal(blocked[1], whole[1])


@pytest.mark.parametrize("num_values", [200, 100_000])
def test_threads_that_share_the_codes_find_the_same(monkeypatch: pytest.MonkeyPatch, num_values: int) -> None:
    items, queries, query_hash = make_case(np.random.default_rng(6), 24, 5000, num_values)
    index = HammingIndex.build(items)
    for k in (1, 30, 5000):
        for count in (1, 5):  # one by one, and in bit planes
            found = []
            for cut in (Tiling(count, 1), Tiling(count, 3), Tiling(1, 7)):
                monkeypatch.setattr("eet.search.tiled_search.tiling", lambda *sizes, cut=cut, **limits: cut)
                found.append(index.search_scored(queries[:count], k, query_hash=query_hash[:count], threads=3))
            for other in found[1:]:
                assert all(np.array_equal(array, other_array) for array, other_array in zip(other, found[0], strict=True))


@pytest.mark.parametrize(("threads", "tiles"), [(1, [64]), (2, [32, 32]), (8, [8] * 8), (16, [64] * 16)])
def test_of_few_codes_threads_take_queries_each_as_long_as_there_are_enough(monkeypatch, threads: int, tiles: list[int]) -> None:
    """Each pass over the codes makes bit planes of them: many passes for a few queries each would cost more than they share."""
    items, queries, _ = make_case(np.random.default_rng(7), 32, 3000, 100_000)
    queries = np.resize(queries, (64, queries.shape[1]))
    index = HammingIndex.build(items)
    monkeypatch.setattr("eet.search.tiling.LEAST_CODES", 1)
    monkeypatch.setattr("eet.search.tiling.LEAST_PAIRS", 1)
    scan, found = index.scan("cpu"), []

    def find(words_TW, k, ranges_R2):
        found.append(len(words_TW))
        return scan.find(words_TW, k, ranges_R2)

    monkeypatch.setattr(index, "scan", lambda device, **options: scan._replace(find=find))
    index.search(queries, 5, threads=threads)
    assert found == tiles


def test_a_device_takes_fewer_queries_at_a_time_for_a_large_k(monkeypatch) -> None:
    items, queries, query_hash = make_case(np.random.default_rng(8), 24, 700, 100_000)
    index = HammingIndex.build(items)
    sizes = []
    nearest = device_scan.DeviceScan.nearest_at_once
    monkeypatch.setattr(device_scan, "PAIRS_AT_ONCE", 1500)
    monkeypatch.setattr(
        device_scan.DeviceScan, "nearest_at_once", lambda self, words, *limits: (sizes.append(len(words)), nearest(self, words, *limits))[1]
    )
    for k in (3, 500, 5000):
        sizes.clear()
        on_device = index.search(queries, k, query_hash=query_hash, device="cpu:0")
        expected = index.search(queries, k, query_hash=query_hash)
        assert all(np.array_equal(array, other_array) for array, other_array in zip(on_device, expected, strict=True))
        assert max(sizes) * min(k, 700) <= 1500 and sum(sizes) == len(queries)


@pytest.mark.parametrize("bits", [16, 64, 100])
def test_more_candidates_than_the_first_arrays_of_the_scan_hold(bits: int) -> None:
    """Thousands of codes at one distance, after thousands that are farther."""
    rng = np.random.default_rng(bits)
    far = pack(rng.integers(0, 2, size=(9000, bits)))
    near = np.zeros((6000, bits), dtype=np.int64)
    near[np.arange(6000)[:, None], rng.permuted(np.tile(np.arange(bits), (6000, 1)), axis=1)[:, :3]] = 1
    items = np.concatenate([far, pack(near)])
    query = np.zeros((2, items.shape[1]), dtype=np.uint8)
    all_distances = hamming_distances(query[:1], items)[0]
    for k in (5, 6000, 15_000):
        distances, rows = HammingIndex.build(items).search(query, k)
        expected = np.lexsort((np.arange(len(items)), all_distances))[:k]
        np.testing.assert_array_equal(rows, np.stack([expected, expected]))
        np.testing.assert_array_equal(distances[0], all_distances[expected])


@pytest.mark.parametrize("num_values", [40, 100_000])
@pytest.mark.parametrize("bits", [12, 48, 72])
def test_a_saved_index_answers_the_same(tmp_path, bits: int, num_values: int) -> None:  # type: ignore[no-untyped-def]
    items, queries, query_hash = make_case(np.random.default_rng(3), bits, 500, num_values)
    built = HammingIndex.build(items, num_bits=bits)
    built.save(tmp_path / "index")
    loaded = HammingIndex.load(tmp_path / "index")
    assert (loaded.num_items, loaded.num_codes, loaded.num_bits) == (500, built.num_codes, bits)
    for found, expected in zip(
        loaded.search(queries, 20, query_hash=query_hash), built.search(queries, 20, query_hash=query_hash), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(loaded.packed_codes(), items)
    np.testing.assert_array_equal(built.packed_codes(), items)
    with pytest.raises(FileNotFoundError):
        HammingIndex.load(tmp_path / "nowhere")


@pytest.mark.parametrize("bits", [5, 24, 72])
@pytest.mark.parametrize("num_values", [20, 100_000])  # grouped and flat
@pytest.mark.parametrize("device", ["cpu", "cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_within_a_radius_is_every_item_of_a_plain_sort(monkeypatch, bits: int, num_values: int, device: str) -> None:
    items, queries, query_hash = make_case(np.random.default_rng([bits, 9]), bits, 200, num_values)
    index = HammingIndex.build(items, num_bits=bits)
    distances, rows = slow_search(queries, items, 200, bits, query_hash)
    monkeypatch.setattr("eet.search.device_scan.PAIRS_AT_ONCE", 300)
    monkeypatch.setattr("eet.search.device_scan.SAMPLED_CODES", 30)
    for cut in (Tiling(7, 1), Tiling(2, 1), Tiling(7, 3)) if device == "cpu" else (Tiling(7, 1),):
        monkeypatch.setattr("eet.search.tiled_search.tiling", lambda *sizes, cut=cut, **limits: cut)
        for radius in (0, 1, bits // 3, bits // 2, bits, bits + 100):
            for k in (None, 9):
                found = index.find(queries, k=k, radius=radius, query_hash=query_hash, device=device, threads=2)
                inside = (distances <= radius) & (np.arange(200) < (k or 200))
                np.testing.assert_array_equal(np.diff(found.starts), inside.sum(axis=1))
                np.testing.assert_array_equal(found.distances, distances[inside])
                np.testing.assert_array_equal(found.rows, rows[inside])


def test_empty_sides() -> None:
    empty = HammingIndex.build(np.zeros((0, 4), dtype=np.uint8))
    distances, rows = empty.search(np.zeros((3, 4), dtype=np.uint8), 5)
    assert distances.shape == rows.shape == (3, 0)
    full = HammingIndex.build(np.zeros((6, 4), dtype=np.uint8))
    distances, rows = full.search(np.zeros((0, 4), dtype=np.uint8), 5)
    assert distances.shape == rows.shape == (0, 5)


def test_wrong_arguments_are_refused() -> None:
    codes = np.zeros((3, 2), dtype=np.uint8)
    index = HammingIndex.build(codes, num_bits=12)
    with pytest.raises(ValueError, match="k=0"):
        index.search(codes, 0)
    with pytest.raises(ValueError, match="radius=-1"):
        index.find(codes, radius=-1)
    with pytest.raises(ValueError, match="neither k nor radius"):
        index.find(codes)
    with pytest.raises(ValueError, match="3 bytes"):
        index.search(np.zeros((1, 3), dtype=np.uint8), 1)
    with pytest.raises(ValueError, match="12"):
        index.search(codes, 1, query_hash=np.zeros((3, 16)))
    with pytest.raises(ValueError, match="one hash"):
        index.search(codes, 1, query_hash=np.zeros((2, 12)))
    with pytest.raises(ValueError, match="9 to 16"):
        HammingIndex.build(codes).search(codes, 1, query_hash=np.zeros((3, 8)))
    with pytest.raises(ValueError, match="num_bits=17"):
        HammingIndex.build(codes, num_bits=17)
    with pytest.raises(ValueError, match="uint8"):
        HammingIndex.build(codes.astype(np.int32))


def test_compiled_loops_close_over_nothing() -> None:
    """Or what one process compiled would be of no use to the next, and each search would begin with compiling."""
    from eet.metrics import match_scan
    from eet.search import scan

    compiled = [value for module in (scan, match_scan) for value in vars(module).values() if hasattr(value, "py_func")]
    assert len(compiled) >= 5 and all(function.py_func.__closure__ is None and function._cache.cache_path for function in compiled)


@pytest.mark.parametrize("bits", [5, 16, 24, 32, 40, 64, 72, 200, 256])
@pytest.mark.parametrize("num_items", [1023, 1025, 3001])  # a block of bit planes holds 1,024
def test_codes_compared_in_bit_planes_and_one_by_one_give_the_same(bits: int, num_items: int) -> None:
    rng = np.random.default_rng([bits, num_items])
    items, queries = (pack(rng.integers(0, 2, size=(number, bits))) for number in (num_items, 9))
    queries[:3] = items[-3:]  # the last ones, where a block is not full
    index = HammingIndex.build(items, num_bits=bits)
    all_distances = hamming_distances(queries, items)
    for k in (1, 30, num_items):
        expected = np.argsort(all_distances, axis=1, kind="stable")[:, :k]
        distances, rows = index.search(queries, k)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(distances, np.take_along_axis(all_distances, expected, axis=1))
        for q in (0, 8):  # too few for planes
            np.testing.assert_array_equal(index.search(queries[q : q + 1], k)[1], expected[q : q + 1])
