"""Hits between places and their measures, against loops over all pairs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import eet
from eet.errors import InputError
from eet.gallery import Gallery, Manifest, open_gallery, part_table, read_hits, write_manifest, write_part
from eet.retrieval.measures import encoded_measures, hits_measures
from eet.retrieval.metres import ids_by_condition, radius_of
from eet.retrieval.rerank import reordered
from eet.retrieval.search import search_gallery

CONDITIONS = ("day", "night")


def placed(path: Path, rows: int, *, seed: int, labels: list[int] | None = None) -> Gallery:
    """Items at whole tens of metres along two streets, each in a zone of its own; the last one is nowhere."""
    random = np.random.default_rng(seed)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=16, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows, positions=True
    )
    east = [*(10.0 * random.integers(0, 30, rows - 1)), None]
    places = pa.table(
        {
            "easting": pa.array(east, pa.float64()),
            "northing": pa.array([None if x is None else 0.0 for x in east], pa.float64()),
            "zone": random.choice(["a", "b"], rows).tolist(),
            "condition": [CONDITIONS[row % 2] for row in range(rows)],
        }
    )
    codes = random.integers(0, 4, (rows, 2)).astype(np.uint8)
    ids = [f"{path.name}{row:03d}" for row in range(rows)]
    write_part(str(path), 0, part_table(ids, ids, labels, codes, ["ok"] * rows, [None] * rows, schema=manifest.schema, places=places))
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> tuple[Gallery, Gallery]:
    folder = tmp_path_factory.mktemp("placed")
    return placed(folder / "database", 60, seed=0), placed(folder / "queries", 24, seed=1)


def slow_metres(query: dict, item: dict) -> float | None:
    if query["zone"] != item["zone"] or query["easting"] is None or item["easting"] is None:
        return None
    return abs(query["easting"] - item["easting"])


def rows_of(gallery: Gallery) -> dict[str, dict]:
    return {row["item_id"]: row for row in gallery.table(["item_id", "easting", "zone", "condition"]).to_pylist()}


def slow_recall(hits: pa.Table, gallery: Gallery, queries: Gallery, k: int, *, metres: float, condition: str | None = None):
    """recall@k of each query that has a match, and the number of queries that have none."""
    items, values, without = rows_of(gallery), [], 0
    for query_id, query in rows_of(queries).items():
        if query["easting"] is None or condition not in (None, query["condition"]):
            continue
        right = {item for item, row in items.items() if item != query_id and (far := slow_metres(query, row)) is not None and far <= metres}
        found = [row["item_id"] for row in hits.to_pylist() if row["query_id"] == query_id and row["rank"] <= k]
        without += not right
        values += [float(bool(right & set(found)))] if right else []
    return values, without


def test_hits_say_how_far_they_are(sides, tmp_path):
    gallery, queries = sides
    hits = search_gallery(gallery, queries, k=7)
    items, asked = rows_of(gallery), rows_of(queries)
    assert hits["metres"].to_pylist() == [slow_metres(asked[row["query_id"]], items[row["item_id"]]) for row in hits.to_pylist()]
    assert 0 < hits["metres"].null_count < len(hits)
    head = np.ones(len(hits), bool)
    random = np.random.default_rng(0).random(len(hits)).astype(np.float32)
    moved = reordered(hits, head, random, random, weight=1.0)
    far = {(row["query_id"], row["item_id"]): row["metres"] for row in hits.to_pylist()}
    assert moved["item_id"].to_pylist() != hits["item_id"].to_pylist()
    assert [far[row["query_id"], row["item_id"]] for row in moved.to_pylist()] == moved["metres"].to_pylist()
    eet.Hits(moved, gallery, queries).save(tmp_path / "moved.parquet")
    assert read_hits(str(tmp_path / "moved.parquet")).equals(moved)


@pytest.mark.parametrize("metres", [10.0, 25.0])
@pytest.mark.parametrize("condition", [None, "night"])
@pytest.mark.parametrize("own", [False, True])
def test_recall_is_that_of_a_loop_over_all_pairs(sides, metres, condition, own):
    """By hits in the order of ranks, and of the whole ranking; ties are broken alike, as stable measures do."""
    gallery, queries = (sides[0], sides[0]) if own else sides
    only = None if condition is None else ids_by_condition(queries)[condition]
    hits = search_gallery(gallery, queries, k=20)
    options = {"recall_ks": (1, 5), "ties": "stable", "metres": metres, "only": only, "all_queries": True}
    of_hits = hits_measures(hits, gallery, own=own, queries=queries, **options).values
    of_codes = encoded_measures(gallery, queries, **options).measures
    for k in (1, 5):
        values, without = slow_recall(hits, gallery, queries, k, metres=metres, condition=condition)
        for found in (of_hits, of_codes):
            assert found[f"recall@{k}_stable"] == np.mean(values)
            assert (found["queries"], found["queries_without_relevant"]) == (len(values), without)
            assert found[f"recall@{k}_all"] == pytest.approx(found[f"recall@{k}"] * len(values) / (len(values) + without))
    assert of_hits["MAP@R_stable"] == pytest.approx(of_codes["MAP@R_stable"])


def test_a_query_whose_matches_were_not_found_is_counted(sides):
    """Of every second query the hits are lost, as an approximate search may do."""
    gallery, queries = sides
    hits = search_gallery(gallery, queries, k=20)
    kept = [row for row in hits.to_pylist() if int(row["query_id"][-1]) % 2]
    hits = pa.Table.from_pylist(kept, schema=hits.schema)
    found = hits_measures(hits, gallery, own=False, queries=queries, recall_ks=(5,), ties="stable", metres=25)
    values, without = slow_recall(hits, gallery, queries, 5, metres=25)
    assert found.values["recall@5_stable"] == np.mean(values) and found.values["queries"] == len(values)
    assert any("have no hit, and count as 0" in note for note in found.notes)


def test_matches_are_by_label_where_both_sides_have_labels(sides, tmp_path):
    gallery, queries = sides
    assert radius_of(gallery, queries, None) == 25 and radius_of(gallery, queries, 10) == 10
    labelled = placed(tmp_path / "labelled", 4, seed=0, labels=[0, 0, 1, 1])
    assert radius_of(labelled, labelled, None) is None and radius_of(labelled, queries, None) == 25
    found = eet.evaluate(eet.search(gallery, queries, k=20))
    assert found["recall@20"] >= found["recall@1"] and "recall@2" not in found
    assert eet.evaluate(gallery, queries, metres=0)["queries"] < found["queries"]


def test_what_is_missing_is_said(sides, tmp_path):
    gallery, queries = sides
    manifest = Manifest(model_digest="m", preprocessing_digest="p", num_bits=16, num_rows=1, num_ok=1, num_parts=1, rows_per_part=1)
    write_part(str(tmp_path), 0, part_table(["x"], ["x"], None, np.zeros((1, 2), np.uint8), ["ok"], [None], schema=manifest.schema))
    write_manifest(str(tmp_path), manifest)
    nowhere = open_gallery(str(tmp_path))
    with pytest.raises(InputError, match="no match is within 25 metres: encode it with --data"):
        radius_of(gallery, nowhere, 25)
    with pytest.raises(InputError, match="has no conditions"):
        ids_by_condition(nowhere)
    hits = search_gallery(gallery, nowhere, k=3)
    assert "metres" not in hits.column_names
    with pytest.raises(InputError, match="search again, with galleries that both have positions"):
        hits_measures(search_gallery(gallery, queries, k=3).drop_columns("metres"), gallery, own=False, queries=queries, metres=25)
