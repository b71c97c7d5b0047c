"""Searches among the items of one label, or with a prefix of their id."""

import numpy as np
import pytest
from drawn_gallery import drawn, grown

from eet.gallery import Gallery
from eet.retrieval.gallery_index import GalleryIndex
from eet.serving import FilteredIndex


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    return drawn(tmp_path / "gallery", np.random.default_rng(0), 24, [120, 12, 5, 3], 40)


FILTERS = [{}, {"label": 3}, {"label": -1}, {"label": 77}, {"prefix": "é/1"}, {"prefix": "z"}, {"prefix": "x"}, {"label": 2, "prefix": "é"}]


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_a_filter_finds_what_a_loop_over_all_hits_would_keep(gallery, options):
    index = GalleryIndex.of_gallery(gallery)
    codes = index.codes.packed_codes()[:6]
    kept = [
        row
        for row in index.search(codes, 1000).to_pylist()
        if options.get("label") in (None, row["label"]) and row["item_id"].startswith(options.get("prefix", ""))
    ]
    expected = [row for query in range(6) for row in [row for row in kept if row["query"] == query][:5]]
    assert FilteredIndex(index).search(codes, 5, **options).to_pylist() == expected


def test_an_index_in_segments_is_filtered_as_one_of_all_items(gallery, tmp_path):
    whole = GalleryIndex.of_gallery(gallery)
    index = GalleryIndex.load(str(grown(tmp_path / "grown", gallery, [1, 2, 4])))
    assert len(index.segments) == 2
    here, there = FilteredIndex(whole), FilteredIndex(index)
    assert (there.num_items, there.label_numbers, there.first_id) == (here.num_items, here.label_numbers, here.first_id)
    codes = whole.codes.packed_codes()[:6]
    for options in FILTERS:
        assert there.search(codes, 5, **options).equals(here.search(codes, 5, **options)), options
