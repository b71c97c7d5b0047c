"""Measures of rankings and of hits, against loops over the hits and eet.metrics on the arrays themselves."""

from pathlib import Path

import numpy as np
import pytest

from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.metrics import average_precision
from eet.retrieval.measures import encoded_measures, hits_measures
from eet.retrieval.search import search_gallery


def hand_made(path: Path, codes: np.ndarray, labels: list[int], *, prefix: str = "item") -> Gallery:
    rows = len(codes)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=16, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows,
        label_names=("crow", "jay", "owl", "wren"),
    )  # fmt: skip
    ids = [f"{prefix}{row:03d}" for row in range(rows)]  # ties go by id, which is the order of rows here
    write_part(str(path), 0, part_table(ids, ids, labels, codes, ["ok"] * rows, [None] * rows, schema=manifest.schema))
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


@pytest.fixture(scope="module")
def galleries(tmp_path_factory) -> dict[str, Gallery]:
    """Four labels, 8 items of each in one gallery and 4 in the other; a label is a code of which each item turns some bits."""
    folder, random = tmp_path_factory.mktemp("galleries"), np.random.default_rng(0)
    centres = random.integers(0, 2, (4, 16), np.uint8)
    made = {}
    for name, each in (("train", 8), ("test", 4)):
        labels = np.repeat(np.arange(4), each)
        bits = centres[labels] ^ (random.random((len(labels), 16)) < 0.3)
        made[name] = hand_made(folder / name, np.packbits(bits, axis=1), labels.tolist(), prefix=name)
    return made


def test_hits_of_the_whole_gallery_give_the_rankings_measures(galleries):
    hits = search_gallery(galleries["test"], galleries["test"], k=100)
    values = hits_measures(hits, galleries["test"], own=True).values
    ranked = encoded_measures(galleries["test"], galleries["test"]).measures
    assert values.pop("mAP@15") == pytest.approx(ranked["mAP_stable"])  # all 15 others, in their order
    for name, value in values.items():
        assert value == pytest.approx(ranked[name]), name
    assert {"P@1", "P@10", "recall@1", "recall@2", "recall@4", "recall@8", "R-precision", "MAP@R", "queries"} == set(values)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_map_at_k_by_a_loop_and_no_r_measures_below_r(galleries, k):
    hits = search_gallery(galleries["train"], galleries["test"], k=k)
    values, notes = hits_measures(hits, galleries["train"], own=False)
    expected = []
    for query in dict.fromkeys(hits["query_id"].to_pylist()):
        rows = sorted((row for row in hits.to_pylist() if row["query_id"] == query), key=lambda row: row["rank"])
        found, total = 0, 0.0
        for row in rows:
            if row["item_label"] == row["query_label"]:
                found += 1
                total += found / row["rank"]
        expected.append(total / min(8, k))  # 8 training pictures of each label
    assert values[f"mAP@{k}"] == pytest.approx(np.mean(expected))
    assert "mAP" not in values and "R-precision" not in values and "MAP@R" not in values
    assert "search with a larger k" in " ".join(notes)


def test_queries_that_only_share_names_with_items_are_not_taken_for_them(galleries, tmp_path):
    """A query set whose files are called as the gallery's are: all 8 matches count, none is the query."""
    codes, labels = galleries["train"].codes()[0], galleries["train"].labels()
    items = hand_made(tmp_path / "items", codes, labels.tolist())
    queries = hand_made(tmp_path / "queries", codes[::4].copy(), labels[::4].tolist())
    values = hits_measures(search_gallery(items, queries, k=32), items, own=False).values
    ranked = encoded_measures(items, queries).measures
    assert values["R-precision"] == pytest.approx(ranked["R-precision"])
    assert values["mAP@32"] == pytest.approx(ranked["mAP_stable"])


def test_hits_of_other_queries_are_refused_where_the_gallery_should_be_its_own(galleries):
    hits = search_gallery(galleries["train"], galleries["test"], k=9)
    with pytest.raises(ValueError, match="give their gallery as queries"):
        hits_measures(hits, galleries["train"], own=True)


def test_expected_map_is_the_mean_over_queries_of_the_expected_precision(galleries):
    codes, labels = galleries["test"].codes()[0], galleries["test"].labels()
    bits = np.unpackbits(codes, axis=1).astype(int)
    precisions = []
    for query in range(len(codes)):
        others = np.arange(len(codes)) != query
        distances = (bits[query] != bits[others]).sum(axis=1)
        precisions.append(average_precision(distances, labels[others] == labels[query], ties="expected"))
    assert encoded_measures(galleries["test"], galleries["test"]).measures["mAP"] == pytest.approx(np.mean(precisions))
