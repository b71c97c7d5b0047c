import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.gallery import HITS_SCHEMA, read_hits, spread_queries, write_hits


def hits(**changes) -> pa.Table:
    columns = {
        "query_id": ["q", "q", "r"],
        "rank": [1, 2, 1],
        "item_id": ["a", "b", "a"],
        "distance": [0, 3, 7],
        "score": [1.0, 0.5, -0.25],
        "query_label": [1, 1, None],
        "item_label": [1, None, 1],
        **changes,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def test_column_types_are_the_contract():
    assert dict(zip(HITS_SCHEMA.names, HITS_SCHEMA.types, strict=True)) == {
        "query_id": pa.string(),
        "rank": pa.int32(),
        "item_id": pa.string(),
        "distance": pa.int32(),
        "score": pa.float32(),
        "query_label": pa.int32(),
        "item_label": pa.int32(),
    }


def test_round_trip_through_any_reader(tmp_path):
    path = str(tmp_path / "new" / "hits.parquet")
    write_hits(path, hits())
    assert read_hits(path).to_pylist() == hits().to_pylist()
    assert read_hits(path).schema.equals(HITS_SCHEMA)
    assert pq.read_table(path).schema.equals(HITS_SCHEMA)


def test_labels_may_be_unknown(tmp_path):
    path = str(tmp_path / "hits.parquet")
    write_hits(path, hits(query_label=None, item_label=None))
    assert read_hits(path)["item_label"].to_pylist() == [None] * 3


def test_hits_that_another_program_wrote_are_cast_and_its_columns_left(tmp_path):
    path = str(tmp_path / "hits.parquet")
    foreign = hits(item_id=pa.array(["a", "b", "a"]).dictionary_encode(), note=["x", "y", "z"], item_label=None)
    pq.write_table(foreign, path)
    read = read_hits(path)
    assert read.schema.equals(HITS_SCHEMA)
    assert read["item_id"].to_pylist() == ["a", "b", "a"]


def test_no_hits_at_all(tmp_path):
    path = str(tmp_path / "hits.parquet")
    write_hits(path, HITS_SCHEMA.empty_table())
    assert read_hits(path).num_rows == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": None}, "no column distance"),
        ({"rank": [0, 1, 2]}, "ranks count from 1, the least here is 0"),
        ({"rank": [1, None, 2]}, "1 rows have no rank"),
        ({"score": ["a", "b", "c"]}, "the column score is string, not float"),
        ({"distance": [0.5, 1.0, 2.0]}, "the column distance is double"),
    ],
)
def test_what_is_refused_in_writing_and_in_reading(tmp_path, changes, message):
    path = str(tmp_path / "hits.parquet")
    with pytest.raises(ValueError, match=message):
        write_hits(path, hits(**changes))
    assert not list(tmp_path.iterdir())
    pq.write_table(hits(**changes), path)
    with pytest.raises(ValueError, match=message):
        read_hits(path)


def test_other_paths_and_files(tmp_path):
    with pytest.raises(ValueError, match="ends in .parquet"):
        write_hits(str(tmp_path / "hits"), hits())
    with pytest.raises(ValueError, match="not colour"):
        write_hits(str(tmp_path / "hits.parquet"), hits(colour=["r", "g", "b"]))
    for absent in (tmp_path / "absent.parquet", tmp_path):
        with pytest.raises(FileNotFoundError, match="no file of hits"):
            read_hits(str(absent))
    (tmp_path / "text.parquet").write_text("no Parquet file, though its name says so")
    with pytest.raises(ValueError, match="not a Parquet file"):
        read_hits(str(tmp_path / "text.parquet"))


def test_queries_are_spread_from_first_to_last_in_the_hits_order():
    ids = [f"query{number:02d}" for number in np.random.default_rng(0).permutation(16)]
    table = pa.table({"query_id": [name for name in ids for _ in range(3)]})
    assert spread_queries(table, 100) == spread_queries(table, 16) == ids
    assert spread_queries(table, 2) == [ids[0], ids[-1]] and spread_queries(table, 1) == [ids[0]]
    assert spread_queries(table, 4) == [ids[0], ids[5], ids[10], ids[15]]
