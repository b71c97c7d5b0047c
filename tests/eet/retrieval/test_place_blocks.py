"""Maps and curves of hits that are written by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eet.figures import Picture
from eet.gallery import HITS_SCHEMA, METRES_FIELD, Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.retrieval.measures import hits_measures
from eet.retrieval.place_blocks import place_blocks, place_maps, recall_over_radius


def placed(path: Path, places: list[tuple[float | None, str, str]]) -> Gallery:
    """places: (northing, zone, condition) of each item; item 0 is path.name + '0' and so on."""
    rows = len(places)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=8, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows, positions=True
    )
    north, zones, conditions = zip(*places, strict=True)
    east = [None if y is None else 0.0 for y in north]
    columns = pa.table({"easting": east, "northing": north, "zone": zones, "condition": conditions})
    ids = [f"{path.name}{row}" for row in range(rows)]
    codes = np.zeros((rows, 1), np.uint8)
    write_part(str(path), 0, part_table(ids, ids, None, codes, ["ok"] * rows, [None] * rows, schema=manifest.schema, places=columns))
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


@pytest.fixture
def searched(tmp_path):
    database = placed(tmp_path / "d", [(0.0, "a", ""), (50.0, "a", ""), (0.0, "b", "")])
    asked = [(5.0, "a", "day"), (45.0, "a", "day"), (49.0, "a", "night"), (500.0, "a", "night"), (None, "", "day"), (1.0, "b", "day")]
    queries = placed(tmp_path / "q", asked)
    hits = [("q0", "d0", 5.0), ("q1", "d0", 45.0), ("q2", "d2", None), ("q3", "d1", 450.0), ("q4", "d0", None), ("q5", "d2", 1.0)]
    without = {"rank": 1, "distance": 0, "score": 0.0, "query_label": None, "item_label": None}
    rows = [{"query_id": query, "item_id": item, "metres": far, **without} for query, item, far in hits]
    table = pa.Table.from_pylist(rows, schema=HITS_SCHEMA.append(METRES_FIELD))
    return table, database, queries


def test_a_map_for_each_zone_and_condition_says_what_became_of_each_query(searched):
    hits, database, queries = searched
    maps = place_maps(hits, database, queries, metres=25)
    assert {name: shown.outcome_Q.tolist() for name, shown in maps.items()} == {
        "a, day": ["right", "wrong"], "a, night": ["wrong", "no match"], "b, day": ["right"],
    }  # fmt: skip
    np.testing.assert_array_equal(maps["a, day"].hit_Q2, [[0, 0], [0, 0]])
    np.testing.assert_array_equal(maps["a, night"].hit_Q2, [[np.nan, np.nan], [0, 50]], "no line into another zone")
    assert len(maps["a, day"].gallery_N2) == 2 and len(maps["b, day"].gallery_N2) == 1


def test_the_curve_has_the_measures_at_each_radius(searched):
    hits, database, queries = searched
    curves = recall_over_radius(hits, database, queries, radii=[0.5, 5, 25, 60])
    assert list(curves) == ["all queries", "day", "night"]
    radii, recall = curves["all queries"]
    assert radii.tolist() == [5, 25, 60], "within half a metre no query has a match"
    wanted = [hits_measures(hits, database, own=False, queries=queries, metres=metres).values["recall@1"] for metres in radii]
    assert recall.tolist() == wanted and wanted[1] == 0.5


def test_the_blocks_are_two_pictures(searched):
    hits, database, queries = searched
    assert [type(block) for block in place_blocks(hits, database, queries, metres=25)] == [Picture, Picture]
