"""Panels of a query and its hits, as the report shows them."""

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
