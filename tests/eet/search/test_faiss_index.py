"""FAISS against the native search, hit for hit, on its CPU index; what its GPU index cannot find is limited in the same way."""

import sys

import numpy as np
import pytest

from eet.errors import InputError
from eet.hashing.packing import pack
from eet.search import FaissIndex, HammingIndex, IVFIndex, with_backend
from eet.search.faiss_index import FlatCodes

pytest.importorskip("faiss")


def drawn(rng: np.random.Generator, number: int, bits: int, values: int) -> np.ndarray:
    """Real-valued hashes of few or many codes; small, so that many are at equal distance from a query."""
    hashes_Nb = rng.integers(-3, 3, (max(1, min(values, 2 * number)), bits)) + 0.5
    return hashes_Nb[rng.integers(0, len(hashes_Nb), number)]


# cpu:0 goes the way of a GPU: FAISS finds a limited number of codes, and torch the rest.
@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_answers_equal_the_native_search_in_200_random_cases(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bits, number, num_queries = int(rng.integers(1, 257)), int(rng.choice([0, 1, 5, 70, 300, 900])), int(rng.choice([0, 1, 3, 40]))
        values = int(rng.choice([1, 4, number // 4, 100_000]))
        items, queries = drawn(rng, number, bits, values), drawn(rng, num_queries, bits, 30)
        if number and seed % 2:
            queries[::2] = items[rng.integers(0, number, len(queries[::2]))] * rng.integers(1, 4, bits)
            queries[::4, : bits // 9] *= -1
        monkeypatch.setattr("eet.search.faiss_index.MOST_ON_GPU", int(rng.choice([1, 7, 50, 2048])))
        monkeypatch.setattr("eet.search.faiss_index.LEAST_ASKED", int(rng.choice([1, 20])))
        monkeypatch.setattr("eet.search.faiss_index.ASKED_FOR_EACH", int(rng.choice([1, 4])))
        monkeypatch.setattr("eet.search.faiss_index.PAIRS_AT_ONCE", int(rng.choice([100, 1 << 24])))
        monkeypatch.setattr("eet.search.faiss_index.QUERIES_ON_CPU", int(rng.choice([7, 64])))
        native = HammingIndex.build(pack(items), num_bits=bits)
        by_faiss = with_backend(native, "faiss", device)
        assert type(by_faiss) is FaissIndex and by_faiss.codes is native.codes
        query_hash = queries if seed % 3 else None
        radius = int(rng.integers(0, bits + 2))
        for limits in ({"k": 1}, {"k": 13}, {"k": max(1, number)}, {"k": number + 5}, {"radius": radius}, {"radius": radius, "k": 9}):
            found = by_faiss.find(pack(queries), **limits, query_hash=query_hash, device=device)
            wanted = native.find(pack(queries), **limits, query_hash=query_hash)
            for name, values_found, values_wanted in zip(found._fields, found, wanted, strict=True):
                np.testing.assert_array_equal(values_found, values_wanted, err_msg=f"{name} of case {seed}, {limits}")
                assert values_found.dtype == values_wanted.dtype
            exact += len(found.rows)
    assert exact > 100_000


def test_codes_divided_over_devices_are_all_found() -> None:
    rng = np.random.default_rng(0)
    for number in (2, 500):
        codes = HammingIndex.build(pack(drawn(rng, number, 40, 100_000))).codes
        queries = HammingIndex.build(pack(drawn(rng, 9, 40, 9))).codes.words_UW
        whole, divided = FlatCodes(codes, ["cpu"]), FlatCodes(codes, ["cpu"] * 3)
        wanted = whole.nearest(queries, 20, None, rest=whole.within, limit=number)
        found = divided.nearest(queries, 20, None, rest=whole.within, limit=200)
        for q in range(len(queries)):
            own, other = (dict(zip(c[s[q] : s[q + 1]], d[s[q] : s[q + 1]], strict=True)) for s, c, d in (wanted, found))
            assert own == other and own


def test_the_backend_is_chosen_by_device_and_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    items = pack(drawn(np.random.default_rng(1), 50, 16, 1000))
    exact, ivf = HammingIndex.build(items), IVFIndex.build(items, lists=4).with_probes(1)
    monkeypatch.setattr("eet.search.indexes.faiss_finds_gpus", lambda: True)
    assert type(with_backend(exact, "auto", "cuda")) is type(with_backend(ivf.with_probes(4), "auto", "cuda:1")) is FaissIndex
    assert with_backend(exact, "auto", "cpu") is with_backend(exact, "native", "cuda") is exact
    assert with_backend(ivf, "auto", "cuda") is ivf
    monkeypatch.setattr("eet.search.indexes.faiss_finds_gpus", lambda: False)
    assert with_backend(exact, "auto", "cuda") is exact
    with pytest.raises(InputError, match="of kind ivf only some"):
        with_backend(ivf, "faiss")
    with pytest.raises(InputError, match="no backend hnsw: use one of auto, native, faiss"):
        with_backend(exact, "hnsw")
    monkeypatch.setattr("eet.search.faiss_index.faiss_finds_gpus", lambda: False)
    with pytest.raises(InputError, match="no indexes for the device cuda"):
        with_backend(exact, "faiss", "cuda").search(items, 1, device="cuda")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match="faiss cannot be imported .*pip install faiss-gpu.*or use the backend native"):
        with_backend(exact, "faiss")
