import warnings

import numpy as np
import pyarrow as pa
import pytest

from eet.gallery import fixed_binary_to_numpy, gallery_schema, part_table

N, BITS, K, D = 7, 20, 3, 4
OK_ROWS = [0, 2, 3, 5]


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "codes": rng.integers(0, 256, (N, 3), np.uint8),
        "tokens": rng.standard_normal((N, K, D)).astype(np.float32),
        "token_index": rng.integers(0, 65536, (N, K)),
        "token_mass": rng.random((N, K)).astype(np.float16),
        "embedding": rng.standard_normal((N, D)).astype(np.float32),
    }


def table(**changes) -> pa.Table:
    values = {
        "item_ids": [f"id{n}" for n in range(N)],
        "uris": [f"/x/{n}.jpg" for n in range(N)],
        "labels": [4, 1, None, -1, 2, 0, 3],
        "statuses": ["ok" if n in OK_ROWS else "empty" for n in range(N)],
        "errors": ["" if n in OK_ROWS else f"row {n}" for n in range(N)],
        "schema": gallery_schema(num_bits=BITS, token_shape=(K, D), embedding_dim=D),
        **arrays(),
    }
    values.update(changes)
    positional = [values.pop(name) for name in ("item_ids", "uris", "labels", "codes", "statuses", "errors")]
    return part_table(*positional, **values)


def test_column_names_and_types_are_the_contract():
    schema = gallery_schema(num_bits=33, token_shape=(12, 384), embedding_dim=384)
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "item_id": pa.string(),
        "uri": pa.string(),
        "label": pa.int32(),
        "code": pa.binary(5),
        "tokens": pa.binary(2 * 12 * 384),
        "token_index": pa.binary(2 * 12),
        "token_mass": pa.binary(2 * 12),
        "embedding": pa.binary(2 * 384),
        "status": pa.string(),
        "error": pa.string(),
    }
    narrow = gallery_schema(num_bits=32, token_shape=None, embedding_dim=None)
    assert narrow.names == ["item_id", "uri", "label", "code", "status", "error"]
    assert narrow.field("code").type == pa.binary(4)


@pytest.mark.parametrize("sizes", [(0, (1, 1), 1), (8, (0, 4), None), (8, None, 0)])
def test_impossible_sizes_are_refused(sizes):
    bits, shape, dim = sizes
    with pytest.raises(ValueError):
        gallery_schema(num_bits=bits, token_shape=shape, embedding_dim=dim)


def test_bytes_of_every_row_against_a_loop():
    given, made = arrays(), table()
    made.validate(full=True)
    for n in range(N):
        row = {name: made[name][n].as_py() for name in made.column_names}
        assert (row["item_id"], row["uri"]) == (f"id{n}", f"/x/{n}.jpg")
        if n in OK_ROWS:
            assert row["code"] == given["codes"][n].tobytes()
            assert row["tokens"] == b"".join(x.astype("<f2").tobytes() for x in given["tokens"][n])
            assert row["token_index"] == b"".join(int(i).to_bytes(2, "little") for i in given["token_index"][n])
            assert row["token_mass"] == given["token_mass"][n].astype("<f2").tobytes()
            assert row["embedding"] == given["embedding"][n].astype("<f2").tobytes()
            assert row["error"] is None
        else:
            assert [row[name] for name in ("label", "code", "tokens", "token_index", "token_mass", "embedding")] == [None] * 6
            assert (row["status"], row["error"]) == ("empty", f"row {n}")
    assert made["label"].to_pylist() == [4, None, None, None, None, 0, None]


def test_what_lies_in_bad_rows_does_not_matter():
    changed = arrays()
    bad = [n for n in range(N) if n not in OK_ROWS]
    changed["tokens"][bad] = 1e30  # not a float16
    changed["embedding"][bad] = np.nan
    changed["token_index"][bad] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert table(**changed).equals(table())


def test_all_rows_ok_and_all_rows_bad():
    assert table(statuses=["ok"] * N)["tokens"].null_count == 0
    assert table(statuses=["missing"] * N)["code"].null_count == N


def test_labels_may_be_absent_or_an_array():
    assert table(labels=None)["label"].null_count == N
    assert table(labels=np.arange(N)).column("label").to_pylist() == [n if n in OK_ROWS else None for n in range(N)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "no array was given"),
        ({"codes": np.zeros((N, 2), np.uint8)}, r"shape \(7, 2\)"),
        ({"codes": np.zeros((N, 3), np.int64)}, "uint8"),
        ({"tokens": np.zeros((N - 1, K, D))}, "shape"),
        ({"token_index": np.full((N, K), 65536)}, "0..65535"),
        ({"uris": ["one"]}, "uris has 1 entries for 7 rows"),
        ({"labels": [1]}, "labels has 1 entries"),
        ({"schema": gallery_schema(num_bits=BITS, token_shape=None, embedding_dim=None)}, "no such column"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        table(**changes)


def test_numpy_view_respects_offsets_pieces_and_nulls():
    made, given = table(), arrays()
    tokens = given["tokens"].astype("<f2")
    np.testing.assert_array_equal(fixed_binary_to_numpy(made["tokens"], "<f2", (K, D)), tokens[OK_ROWS])
    np.testing.assert_array_equal(fixed_binary_to_numpy(made["tokens"].slice(1, 3), "<f2", (K, D)), tokens[[2, 3]])
    array = made["token_index"].combine_chunks()
    np.testing.assert_array_equal(fixed_binary_to_numpy(array[5:6], "<u2", (K,)), given["token_index"][[5]])
    pieces = pa.chunked_array([array[2:4], array[1:2], array[5:]])
    np.testing.assert_array_equal(fixed_binary_to_numpy(pieces, "<u2", (K,)), given["token_index"][[2, 3, 5]])
    assert fixed_binary_to_numpy(made["tokens"].slice(1, 1), "<f2", (K, D)).shape == (0, K, D)


def test_numpy_view_copies_nothing_where_it_need_not():
    array = table(statuses=["ok"] * N)["code"].combine_chunks()
    view = fixed_binary_to_numpy(array[2:], np.uint8, (3,))
    assert view.ctypes.data == array.buffers()[1].address + 2 * 3
    assert not view.flags.writeable
    with pytest.raises(ValueError, match=r"fixed_size_binary\[4\]"):
        fixed_binary_to_numpy(array, np.uint8, (4,))
