import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.gallery import PLAN_SCHEMA, plan_parts, read_plan_part, write_plan
from eet.images.decoding import read_bytes


def test_parts_are_slices_of_the_sorted_items(tmp_path):
    gallery = str(tmp_path / "gallery")
    ids = [f"b/{n}.jpg" for n in range(11)] + ["a/é.jpg", "Z.jpg", "a/z.jpg"]
    np.random.default_rng(0).shuffle(ids)
    uris = [f"/photos/{item}" for item in ids]
    labels = [None if n % 5 == 0 else n for n in range(len(ids))]
    assert write_plan(gallery, ids, uris, labels, 4) == plan_parts(gallery) == 4
    expected = sorted(zip(ids, uris, labels, strict=True), key=lambda item: item[0].encode())
    for part in range(4):
        rows = read_plan_part(gallery, part)
        assert rows.schema.equals(PLAN_SCHEMA)
        read = [(row["item_id"], row["uri"], row["label"]) for row in rows.to_pylist()]
        assert read == expected[4 * part : 4 * part + 4]
        assert rows["part"].to_pylist() == [part] * len(rows)
    assert pq.read_table(f"{gallery}/plan.parquet").num_rows == len(ids)
    assert os.listdir(gallery) == ["plan.parquet"]


def test_the_order_of_the_input_does_not_change_the_file(tmp_path):
    ids = [f"{n:03d}" for n in range(50)]
    for name, order in (("a", ids), ("b", ids[::-1])):
        write_plan(str(tmp_path / name), order, order, None, 7)
    assert (tmp_path / "a/plan.parquet").read_bytes() == (tmp_path / "b/plan.parquet").read_bytes()


def test_a_new_plan_is_read_after_an_old_one(tmp_path):
    write_plan(str(tmp_path), ["a"], ["a"], None, 1)
    assert read_plan_part(str(tmp_path), 0)["item_id"].to_pylist() == ["a"]
    write_plan(str(tmp_path), ["b", "c"], ["b", "c"], None, 1)
    assert plan_parts(str(tmp_path)) == 2
    assert read_plan_part(str(tmp_path), 1)["item_id"].to_pylist() == ["c"]


def test_arrow_input_and_unknown_labels(tmp_path):
    ids = pa.chunked_array([["b"], ["a", "c"]])
    write_plan(str(tmp_path), ids, pa.array(["B", "A", "C"]), np.array([2, -1, 3]), 10)
    rows = read_plan_part(str(tmp_path), 0)
    assert rows["uri"].to_pylist() == ["A", "B", "C"]
    assert rows["label"].to_pylist() == [None, 2, 3]


def test_one_part_reads_its_own_row_group_only(tmp_path, monkeypatch):
    write_plan(str(tmp_path), [f"{n:05d}" for n in range(1000)], ["x"] * 1000, None, 100)
    assert pq.ParquetFile(tmp_path / "plan.parquet").metadata.row_group(3).num_rows == 100
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **k: read.append(i) or original(self, i, **k))
    assert read_plan_part(str(tmp_path), 3)["item_id"][0].as_py() == "00300"
    assert read == [3]


@pytest.mark.parametrize(
    ("ids", "uris", "rows_per_part", "message"),
    [
        ([], [], 1, "no item"),
        (["a"], ["a"], 0, "rows_per_part is 0"),
        (["a", "b"], ["a"], 1, "1 uris for 2 items"),
        (["a", None], ["a", "b"], 1, "no id"),
        (["b", "a", "b", "a"], list("wxyz"), 1, "2 item ids are given more than once: 'a', 'b'. "),
    ],
)
def test_what_cannot_be_planned(tmp_path, ids, uris, rows_per_part, message):
    with pytest.raises(ValueError, match=message):
        write_plan(str(tmp_path / "gallery"), ids, uris, None, rows_per_part)
    assert not (tmp_path / "gallery").exists()


def test_at_most_five_duplicates_are_named(tmp_path):
    ids = [f"d{n}" for n in range(7)] * 2
    with pytest.raises(ValueError, match="7 item ids.* 'd0', 'd1', 'd2', 'd3', 'd4', ...\\."):
        write_plan(str(tmp_path), ids, ids, None, 3)


def test_no_plan_and_no_such_part(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no plan.parquet"):
        plan_parts(str(tmp_path))
    write_plan(str(tmp_path), ["a"], ["a"], None, 3)
    for part in (1, -1):
        with pytest.raises(ValueError, match="parts 0 to 0"):
            read_plan_part(str(tmp_path), part)


def test_a_name_that_is_not_utf8_keeps_its_row_and_opens(tmp_path):
    name = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9 1.jpg"))
    with open(name, "wb") as file:
        file.write(b"contents")
    write_plan(str(tmp_path / "gallery"), [os.path.basename(name), "plain.jpg"], [name, "/plain.jpg"], None, 5)
    rows = read_plan_part(str(tmp_path / "gallery"), 0)
    assert rows["item_id"].to_pylist() == ["caf\\udce9 1.jpg", "plain.jpg"]
    assert read_bytes(rows["uri"][0].as_py()) == b"contents"
    assert rows["uri"][1].as_py() == "/plain.jpg"
