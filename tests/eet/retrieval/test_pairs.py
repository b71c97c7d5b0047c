"""Pairs are scored alike, however the parts that hold their items are read."""

import numpy as np
import pyarrow as pa
import pytest

import eet
from eet.datasets import synthetic
from eet.gallery import Gallery
from eet.retrieval import pairs as pairs_module
from eet.retrieval.pairs import pairs_by_part, score_part, scoring_here
from eet.retrieval.rerank import match_options, read_queries


@pytest.fixture(scope="module")
def gallery(tiny_birds, tiny_model, tmp_path_factory) -> Gallery:
    """Two jobs wrote it, so that the ranges of ids of their parts overlap."""
    table = synthetic.load(str(tiny_birds))
    paths = sorted(table.location(row) for row in range(24))
    out = str(tmp_path_factory.mktemp("pairs") / "gallery")
    eet.encode(tiny_model, paths[::2], tokens=True, out=out, rows_per_part=5)
    eet.encode(tiny_model, paths[1::2], tokens=True, out=out, rows_per_part=5, mode="append")
    return eet.open_gallery(out)


@pytest.mark.parametrize("together", [1, 7, 10_000])
def test_parts_that_are_scored_together_give_the_scores_of_each(gallery, monkeypatch, together):
    monkeypatch.setattr(pairs_module, "PAIRS_TOGETHER", together)
    options = match_options(gallery, gallery)
    ids = gallery.codes()[1]
    queries = read_queries(gallery, ids.slice(0, 3), options)
    query_P, item_P = (array.ravel() for array in np.meshgrid(np.arange(3), np.random.default_rng(0).permutation(len(ids)), indexing="ij"))
    parts = pairs_by_part(gallery, ids.take(pa.array(item_P)), np.arange(len(query_P)), query_P)
    assert sum(len(part.pair_P) for part in parts) > len(query_P)  # some items may be in two parts
    slow = {}
    for part in parts:
        scored = score_part(gallery, part, queries, options)
        for pair, *scores in zip(*scored, strict=True):
            assert pair not in slow
            slow[pair] = scores
    with scoring_here(gallery, options) as scorer:
        found = list(scorer(queries, parts))
    assert len(found) == {1: len(parts), 10_000: 1}.get(together, len(found))
    fast = {pair: scores for scored in found for pair, *scores in zip(*scored, strict=True)}
    assert fast == slow and len(fast) == len(query_P)
