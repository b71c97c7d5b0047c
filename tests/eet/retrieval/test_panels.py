"""Panels of a query and its hits, as the report shows them."""

import pyarrow as pa
import pytest

import eet
from eet.datasets import synthetic
from eet.gallery import spread_queries
from eet.retrieval import panels


@pytest.fixture(scope="module")
def searched(tiny_model, tiny_birds) -> eet.Hits:
    """A labelled gallery searched for each of its items."""
    table = synthetic.load(str(tiny_birds)).select("test")
    locations = [table.location(row) for row in range(len(table))]
    gallery = eet.encode(tiny_model, locations, labels=table.labels.tolist(), label_names=table.label_names, progress=False)
    return eet.search(gallery, gallery, k=6)


def test_panels_hold_the_hits_of_their_query_framed_by_label(searched, monkeypatch):
    hits, gallery = searched.table, searched.gallery
    drawn, real = [], panels.hits_panel
    monkeypatch.setattr(
        panels, "hits_panel", lambda query, hits, **more: (drawn.append((hits, more["captions"])), real(query, hits, **more))[1]
    )
    shown = spread_queries(hits, 4)
    panels.hit_blocks(hits, shown, gallery, gallery, top=5)
    for query, (images, captions) in zip(shown, drawn, strict=True):
        rows = [row for row in hits.to_pylist() if row["query_id"] == query][:5]
        assert [right for _, right in images] == [row["query_label"] == row["item_label"] for row in rows]
        assert [caption.splitlines()[-1] for caption in captions] == [f"distance {row['distance']}" for row in rows]
    rights = {right for images, _ in drawn for _, right in images}
    assert rights == {True, False}, "both kinds must occur"


@pytest.mark.parametrize("how", ["re-ranked", "by embedding"])
def test_captions_have_the_score_where_no_code_made_the_order(how, tiny_model, searched, monkeypatch):
    captions = []
    monkeypatch.setattr(panels, "hits_panel", lambda query, hits, **more: captions.extend(more["captions"]) or query)
    gallery = eet.encode(tiny_model, searched.gallery.codes()[1].to_pylist(), tokens=True, embedding=True, progress=False)
    hits = eet.search(gallery, gallery, k=4, by="embedding" if how == "by embedding" else "code")
    hits = eet.rerank(hits, top=3) if how == "re-ranked" else hits
    hits.panel(0, top=4)
    rows = hits.table.to_pylist()[:4]
    expected = [f"score {row['score']:.3f}" for row in rows]
    if how == "re-ranked":
        expected[3] = "not re-ranked"
    assert captions == expected


def test_panels_of_places_frame_what_is_near(searched, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        panels, "hits_panel", lambda query, hits, **more: drawn.append(([right for _, right in hits], more["captions"])) or query
    )
    far = pa.array([24.6, 25.0, 25.4, None], pa.float32())
    hits = searched.table.slice(0, 4).append_column("metres", far)
    query = hits["query_id"][0].as_py()
    panels.hit_blocks(hits, [query], searched.gallery, searched.gallery, top=4, metres=25)
    ((rights, captions),) = drawn
    assert rights == [True, True, False, None]
    assert [caption.splitlines()[2:] for caption in captions] == [["25 m"], ["25 m"], ["25 m"], []]


def test_correct_hits_are_those_of_the_first_that_have_the_label(searched):
    hits = searched.table
    shown = spread_queries(hits, 4)
    rows = [row for row in hits.to_pylist() if row["rank"] <= 3 and row["query_label"] == row["item_label"]]
    assert panels.correct_hits(hits, shown, top=3) == {query: sum(row["query_id"] == query for row in rows) for query in shown}
