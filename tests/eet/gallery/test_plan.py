import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.datasets import Places
from eet.gallery import PLAN_SCHEMA, PlannedPart, external_sort, items_table, planned_ids, planned_parts, read_planned_part, write_plan
from eet.storage import read_bytes


def plan(gallery, ids, uris=None, labels=None, rows=4, **options):
    """One table of items, or several where ids are nested."""
    if ids and isinstance(ids[0], list):
        return write_plan(str(gallery), [items_table(group, group) for group in ids], rows, **options)
    return write_plan(str(gallery), [items_table(ids, uris or ids, labels)], rows, **options)


def ids_of(gallery, planned):
    return read_planned_part(str(gallery), planned)["item_id"].to_pylist()


def test_parts_are_slices_of_the_sorted_items(tmp_path):
    gallery = tmp_path / "gallery"
    ids = [f"b/{n}.jpg" for n in range(11)] + ["a/é.jpg", "Z.jpg", "a/z.jpg"]
    np.random.default_rng(0).shuffle(ids)
    uris = [f"/photos/{item}" for item in ids]
    labels = [None if n % 5 == 0 else n for n in range(len(ids))]
    assert plan(gallery, ids, uris, labels)[:3] == (14, 4, 0)
    expected = sorted(zip(ids, uris, labels, strict=True), key=lambda item: item[0].encode())
    parts = planned_parts(str(gallery))
    digest = parts[0].digest
    assert len(digest) == 64
    assert parts == [PlannedPart(part, "plan.parquet", part, min(4, 14 - 4 * part), digest) for part in range(4)]
    for planned in parts:
        rows = read_planned_part(str(gallery), planned)
        assert rows.schema.equals(PLAN_SCHEMA)
        read = [(row["item_id"], row["uri"], row["label"]) for row in rows.to_pylist()]
        assert read == expected[4 * planned.part : 4 * planned.part + 4]
        assert rows["part"].to_pylist() == [planned.part] * len(rows)
    assert pq.read_table(gallery / "plan.parquet").num_rows == len(ids)
    assert os.listdir(gallery) == ["plan.parquet"]


@pytest.mark.parametrize("run_rows", [1, 7, 49, 10_000])
def test_items_sorted_on_disk_make_the_same_file(tmp_path, monkeypatch, run_rows):
    """Runs of a few rows and blocks of three, against the whole in memory."""
    random = np.random.default_rng(run_rows)
    ids = [f"{n:03d}" for n in range(300)]
    plan(tmp_path / "plain", ids, rows=7)
    random.shuffle(ids)
    monkeypatch.setattr(external_sort, "BLOCK_ROWS", 3)
    cuts = np.sort(random.integers(0, 300, 20)).tolist()
    tables = [items_table(ids[a:b], ids[a:b]) for a, b in zip([0, *cuts], [*cuts, 300], strict=True)]
    monkeypatch.setattr("eet.gallery.plan.sorted_by_id", lambda items: external_sort.sorted_by_id(items, run_rows=run_rows))
    assert write_plan(str(tmp_path / "spilled"), tables, 7)[:3] == (300, 43, 0)
    assert (tmp_path / "spilled/plan.parquet").read_bytes() == (tmp_path / "plain/plan.parquet").read_bytes()


def test_a_new_plan_is_read_after_an_old_one(tmp_path):
    plan(tmp_path, ["a"], rows=1)
    assert ids_of(tmp_path, planned_parts(str(tmp_path))[0]) == ["a"]
    plan(tmp_path, ["b", "c"], rows=1)
    first, second = planned_parts(str(tmp_path))
    assert ids_of(tmp_path, first) == ["b"] and ids_of(tmp_path, second) == ["c"]


@pytest.mark.parametrize("run_rows", [3, 10_000])
def test_what_the_gallery_has_is_not_planned_again(tmp_path, monkeypatch, run_rows):
    monkeypatch.setattr(external_sort, "BLOCK_ROWS", 4)
    monkeypatch.setattr("eet.gallery.plan.sorted_by_id", lambda items: external_sort.sorted_by_id(items, run_rows=run_rows))
    plan(tmp_path, [f"{n:02d}" for n in range(0, 40, 2)], rows=6)
    again = [f"{n:02d}" for n in range(0, 40, 3)]
    summary = plan(tmp_path, [again[:5], again[5:]], rows=6, first_part=4, known_ids=planned_ids(str(tmp_path), before=4))
    new = [item for item in again if int(item) % 2]
    assert summary[:3] == (len(new), 2, len(again) - len(new))
    parts = planned_parts(str(tmp_path))
    assert [planned.part for planned in parts] == list(range(6)) and parts[4].file == "plan-000004.parquet"
    assert ids_of(tmp_path, parts[4]) + ids_of(tmp_path, parts[5]) == new
    third = plan(tmp_path, [f"{n:02d}" for n in range(40)], rows=100, first_part=6, known_ids=planned_ids(str(tmp_path), before=6))
    assert ids_of(tmp_path, planned_parts(str(tmp_path))[6]) == [f"{n:02d}" for n in range(40) if n % 2 and n % 3]
    assert third.num_known == 20 + len(new)
    # A plan that was cut off before its job began does not count as known.
    assert sum(len(ids) for run in planned_ids(str(tmp_path), before=4) for ids in run) == 20
    nothing = plan(tmp_path, again, first_part=9, known_ids=planned_ids(str(tmp_path), before=6))
    assert nothing == (0, 0, len(again), "") and not (tmp_path / "plan-000009.parquet").exists()


def test_unknown_labels(tmp_path):
    plan(tmp_path, ["b", "a", "c"], ["B", "A", "C"], np.array([2, -1, 3]), rows=10)
    rows = read_planned_part(str(tmp_path), planned_parts(str(tmp_path))[0])
    assert rows["uri"].to_pylist() == ["A", "B", "C"]
    assert rows["label"].to_pylist() == [None, 2, 3]


def test_one_part_reads_its_own_row_group_only(tmp_path, monkeypatch):
    plan(tmp_path, [f"{n:05d}" for n in range(1000)], rows=100)
    planned = planned_parts(str(tmp_path))[3]
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **k: read.append(i) or original(self, i, **k))
    assert ids_of(tmp_path, planned)[0] == "00300"
    assert read == [3]


def test_what_cannot_be_planned(tmp_path):
    gallery = tmp_path / "gallery"
    with pytest.raises(ValueError, match="rows_per_part is 0"):
        plan(gallery, ["a"], rows=0)
    with pytest.raises(ValueError, match="1 uris for 2 items"):
        items_table(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="1 items have no item_id"):
        write_plan(str(gallery), [pa.table({"item_id": ["a", None], "uri": ["a", "b"], "label": pa.nulls(2, pa.int32())})], 3)
    assert not gallery.exists()
    assert plan(gallery, []) == (0, 0, 0, "")
    assert not gallery.exists()


@pytest.mark.parametrize("run_rows", [2, 5, 10_000])
def test_ids_given_twice_are_refused_with_examples_wherever_they_stand(tmp_path, monkeypatch, run_rows):
    monkeypatch.setattr(external_sort, "BLOCK_ROWS", 2)
    monkeypatch.setattr("eet.gallery.plan.sorted_by_id", lambda items: external_sort.sorted_by_id(items, run_rows=run_rows))
    for groups in ([["b", "a", "b", "a", "a"]], [["b", "a"], ["b"], ["a", "a"]], [["a"], ["a", "b"], ["b", "a"]]):
        with pytest.raises(ValueError, match="3 items have the id of another item: 'a', 'b'. "):
            plan(tmp_path / "gallery", groups)
        assert not (tmp_path / "gallery" / "plan.parquet").exists()
    ids = [f"d{n}" for n in range(7)] * 2
    with pytest.raises(ValueError, match="7 items .* 'd0', 'd1', 'd2', 'd3', 'd4', ...\\."):
        plan(tmp_path / "gallery", [[item] for item in ids])


def test_no_plan_and_another_plan(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no plan.parquet"):
        planned_parts(str(tmp_path))
    plan(tmp_path, ["a", "b"], rows=1)
    second = planned_parts(str(tmp_path))[1]
    with pytest.raises(ValueError, match="not the plan of part 7"):
        read_planned_part(str(tmp_path), second._replace(part=7))
    with pytest.raises(FileNotFoundError, match="plan-000003"):
        read_planned_part(str(tmp_path), second._replace(file="plan-000003.parquet"))


def test_a_name_that_is_not_utf8_keeps_its_row_and_opens(tmp_path):
    name = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9 1.jpg"))
    with open(name, "wb") as file:
        file.write(b"contents")
    plan(tmp_path / "gallery", [os.path.basename(name), "plain.jpg"], [name, "/plain.jpg"])
    rows = read_planned_part(str(tmp_path / "gallery"), planned_parts(str(tmp_path / "gallery"))[0])
    assert rows["item_id"].to_pylist() == ["caf\\udce9 1.jpg", "plain.jpg"]
    assert read_bytes(rows["uri"][0].as_py()) == b"contents"
    assert rows["uri"][1].as_py() == "/plain.jpg"


def test_places_are_planned_with_their_items(tmp_path):
    gallery = tmp_path / "gallery"

    def places(*easts):
        east = np.array(easts, float)
        return Places(np.stack([east, east + 0.5], axis=1), *(np.array(names) for names in (["z"] * 2, ["query"] * 2, ["day", ""])))

    def digest(*easts):
        items = [items_table(["b", "a"], ["b.jpg", "a.jpg"], None, places(*easts))]
        return write_plan(str(gallery), items, 2, places=True).digest

    assert digest(1, 2) != digest(1, 3)
    write_plan(str(gallery), [items_table(["b", "a"], ["b", "a"], None, places(1, np.nan))], 2, places=True)
    (part,) = planned_parts(str(gallery))
    assert read_planned_part(str(gallery), part).to_pylist() == [
        {"item_id": "a", "uri": "a", "label": None, "easting": None, "northing": None, "zone": "z", "condition": "", "part": 0},
        {"item_id": "b", "uri": "b", "label": None, "easting": 1, "northing": 1.5, "zone": "z", "condition": "day", "part": 0},
    ]
