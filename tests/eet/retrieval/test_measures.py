"""Measures of rankings and of hits, against loops over the hits and eet.metrics on the arrays themselves."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from eet.errors import InputError
from eet.gallery import HITS_SCHEMA, RERANKED_SCHEMA, Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.metrics import MEASURES, Measure, average_precision, map_at_r, means_with_intervals, precision_at_k, r_precision, recall_at_k
from eet.retrieval import measures
from eet.retrieval.measures import chosen_labels, encoded_measures, hits_measures, measures_by_label
from eet.retrieval.search import search_gallery

NAMES = ("crow", "jay", "owl", "wren")


def hand_made(path: Path, codes: np.ndarray, labels: list[int], *, prefix: str = "item", names: tuple[str, ...] | None = NAMES) -> Gallery:
    rows = len(codes)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=16, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows,
        label_names=names,
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
    for name, value in values.items():
        assert value == pytest.approx(ranked[name.replace("mAP@15", "mAP")]), name  # all 15 others
    names = {"mAP@15", "P@1", "P@10", "recall@1", "recall@2", "recall@4", "recall@8", "R-precision", "MAP@R"}
    assert set(values) == {f"{name}{end}" for name in names for end in ("", "_low", "_high")} | {"queries", "queries_without_relevant"}


def test_a_measure_that_reads_more_ranks_than_there_are_hits_is_left_out(galleries, monkeypatch):
    for name, reads in (("of_9", 9), ("of_10", 10), ("of_all", "all")):
        monkeypatch.setitem(MEASURES, name, Measure(lambda groups, num_relevant_Q, r_Q: num_relevant_Q / r_Q, reads))
    hits = search_gallery(galleries["test"], galleries["test"], k=9)
    values, notes = hits_measures(hits, galleries["test"], own=True, ks=(1,), recall_ks=())
    assert (values["of_9"], values["of_all"]) == (1, 1) and "of_10" not in values
    assert "measures at ranks beyond the 9 hits of a query are left out" in notes


def test_stable_measures_of_hits_are_those_of_their_order(galleries):
    hits = search_gallery(galleries["test"], galleries["test"], k=15)
    values = hits_measures(hits, galleries["test"], own=True, ties="stable").values
    ranked = encoded_measures(galleries["test"], galleries["test"], ties="stable").measures
    assert values["mAP@15"] != values["mAP@15_stable"]
    for name, value in values.items():
        assert value == pytest.approx(ranked[name.replace("mAP@15", "mAP")]), name


def lists_of(hits):
    for query in dict.fromkeys(hits["query_id"].to_pylist()):
        yield sorted((row for row in hits.to_pylist() if row["query_id"] == query), key=lambda row: row["rank"])


@pytest.mark.parametrize("block", [3, 1024])
@pytest.mark.parametrize("denominator", ["all", "reachable", "found"])
def test_hits_are_tied_where_their_scores_are_equal(galleries, denominator, block, monkeypatch):
    monkeypatch.setattr(measures, "QUERIES_AT_ONCE", block)
    hits = search_gallery(galleries["train"], galleries["test"], k=12)
    random = np.random.default_rng(0)
    finer = hits["score"].to_numpy() + 0.25 * random.integers(0, 2, len(hits))  # inside a distance some are better than others
    hits = hits.set_column(hits.column_names.index("score"), "score", pa.array(finer.astype(np.float32)))
    order = [place for rows in _places(hits) for place in sorted(rows, key=lambda place: -finer[place])]
    ranks = hits["rank"]
    hits = hits.take(pa.array(order)).set_column(hits.column_names.index("rank"), "rank", ranks)
    values = hits_measures(hits, galleries["train"], own=False, ks=(1, 5), recall_ks=(2,), denominator=denominator).values
    expected: dict[str, list[float]] = {}
    for rows in lists_of(hits):
        distances = -np.array([row["score"] for row in rows])
        relevant = np.array([row["item_label"] == row["query_label"] for row in rows])
        for name, value in {
            "mAP@12": average_precision(distances, relevant, num_relevant=8, denominator=denominator),
            "P@1": precision_at_k(distances, relevant, 1),
            "P@5": precision_at_k(distances, relevant, 5),
            "recall@2": recall_at_k(distances, relevant, 2),
            "R-precision": r_precision(distances, relevant, num_relevant=8),
            "MAP@R": map_at_r(distances, relevant, num_relevant=8),
        }.items():
            expected.setdefault(name, []).append(value)
    assert values == pytest.approx({**means_with_intervals(expected), "queries": 16, "queries_without_relevant": 0})


def _places(hits):
    ids = hits["query_id"].to_pylist()
    return [[place for place, query in enumerate(ids) if query == one] for one in dict.fromkeys(ids)]


def test_hits_that_kept_their_place_are_in_no_tie_with_reranked_ones(galleries):
    """One query of label 0 whose second hit, a match, kept its place, with the score of the first, which was scored again."""
    labels = [0, 1, 0]
    table = {
        "query_id": ["q"] * 3, "rank": [1, 2, 3], "item_id": ["a", "b", "c"], "distance": [1, 1, 1], "score": [0.5, 0.5, 0.5],
        "query_label": [1] * 3, "item_label": labels,
    }  # fmt: skip
    plain = pa.table(table).cast(HITS_SCHEMA)
    assert hits_measures(plain, galleries["train"], own=False, ks=(1,)).values["P@1"] == pytest.approx(1 / 3)
    scored = pa.table({**table, "score_global": [0.5, None, None], "score_struct": [0.0, None, None]}).cast(RERANKED_SCHEMA)
    values = hits_measures(scored, galleries["train"], own=False, ks=(1, 2)).values
    assert values["P@1"] == 0 and values["P@2"] == pytest.approx(0.5 / 2)


def test_a_tie_that_the_search_cut_is_noted(galleries, tmp_path):
    """All items share a code: of a search for 6 of 20 the order of the others is not known."""
    said = "a tie that a measure reaches may go on beyond"
    items = hand_made(tmp_path / "items", np.zeros((20, 2), np.uint8), [0, 1] * 10)
    cut = hits_measures(search_gallery(items, items, k=6), items, own=True, ks=(1,), recall_ks=())
    assert any(f"of 20 of 20 queries {said} the 6 hits" in note for note in cut.notes)
    assert not any(said in note for note in hits_measures(search_gallery(items, items, k=19), items, own=True, ks=(1,)).notes)
    hits = search_gallery(galleries["train"], galleries["test"], k=30)
    assert not any(said in note for note in hits_measures(hits, galleries["train"], own=False, ks=(1,), recall_ks=()).notes)


def test_queries_of_chosen_labels_are_measured_against_the_whole_gallery(galleries):
    train, test = galleries["train"], galleries["test"]
    hits = search_gallery(train, test, k=32)
    for names in ({"crow", "owl"}, {"wren"}):
        numbers = [number for number, name in enumerate(NAMES) if name in names]
        some = hits.filter(pc.is_in(hits["query_label"], value_set=pa.array(numbers, pa.int32())))
        expected = hits_measures(some, train, own=False).values
        assert expected["queries"] == 4 * len(names)
        assert hits_measures(hits, train, own=False, labels=names).values == pytest.approx(expected)
        ranked = encoded_measures(train, test, labels=names).measures
        assert ranked["MAP@R"] == pytest.approx(expected["MAP@R"]) and ranked["queries"] == expected["queries"]
    for call in (lambda: hits_measures(hits, train, own=False, labels=["dodo"]), lambda: encoded_measures(train, test, labels=["dodo"])):
        with pytest.raises(ValueError, match="chosen labels"):
            call()


def test_labels_are_seen_when_the_model_was_trained_on_their_names(galleries):
    test = galleries["test"]
    assert chosen_labels(test, ("owl", "kiwi", "crow"), "seen", name="M") == {"owl", "crow"}
    assert chosen_labels(test, ("owl", "kiwi", "crow"), "unseen", name="M") == {"jay", "wren"}
    assert chosen_labels(test, (), "all", name="M") is None
    with pytest.raises(ValueError, match="no label of .* is seen by M"):
        chosen_labels(test, ("kiwi",), "seen", name="M")
    with pytest.raises(ValueError, match="M does not say which labels"):
        chosen_labels(test, (), "unseen", name="M")
    with pytest.raises(ValueError, match="all, seen, unseen"):
        chosen_labels(test, (), "some", name="M")


def test_label_names_are_needed_to_choose_by_them(tmp_path):
    nameless = hand_made(tmp_path / "items", np.zeros((4, 2), np.uint8), [0, 0, 1, 1], names=None)
    with pytest.raises(ValueError, match="have no names"):
        chosen_labels(nameless, ("owl",), "seen", name="M")
    with pytest.raises(ValueError, match="have no names"):
        encoded_measures(nameless, nameless, labels=["owl"])


def test_wrong_options_of_hits_are_refused(galleries):
    hits = search_gallery(galleries["train"], galleries["test"], k=2)
    for options, said in (({"ks": (0,)}, "from 1"), ({"ties": "none"}, "stable"), ({"denominator": "k"}, "all, reachable, found")):
        with pytest.raises(ValueError, match=said):
            hits_measures(hits, galleries["train"], own=False, **options)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_map_at_k_by_a_loop_and_no_r_measures_below_r(galleries, k):
    hits = search_gallery(galleries["train"], galleries["test"], k=k)
    values, notes = hits_measures(hits, galleries["train"], own=False, ties="stable")
    expected = []
    for rows in lists_of(hits):
        found, total = 0, 0.0
        for row in rows:
            if row["item_label"] == row["query_label"]:
                found += 1
                total += found / row["rank"]
        expected.append(total / 8)  # 8 training pictures of each label
    assert values[f"mAP@{k}_stable"] == pytest.approx(np.mean(expected))
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
    assert values["mAP@32"] == pytest.approx(ranked["mAP"])


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


def approximate(hits, galleries, keep):
    """The hits without some: keep(query number, rank) says which were found; ranks close up."""
    numbers = {query: number for number, query in enumerate(galleries["test"].codes()[1].to_pylist())}
    kept = [row for row in hits.to_pylist() if keep(numbers[row["query_id"]], row["rank"])]
    ranks: dict[str, int] = {}
    for row in kept:
        row["rank"] = ranks[row["query_id"]] = ranks.get(row["query_id"], 0) + 1
    return pa.Table.from_pylist(kept, schema=HITS_SCHEMA)


@pytest.mark.parametrize("denominator", ["all", "reachable"])
@pytest.mark.parametrize("k", [6, 12])
def test_hits_that_an_approximate_search_missed_count_as_none(galleries, k, denominator):
    """Short lists, and queries without any hit: the sum of precisions over min(R, k), by a loop."""
    train, test = galleries["train"], galleries["test"]
    hits = approximate(search_gallery(train, test, k=k), galleries, lambda query, rank: query % 5 and (rank + query) % 3 == 0)
    values, notes = hits_measures(hits, train, own=False, queries=test, k=k, ks=(1, 5), denominator=denominator, ties="stable")
    found = {query: [] for query in test.codes()[1].to_pylist()}
    for row in hits.to_pylist():
        found[row["query_id"]].append(row["item_label"] == row["query_label"])
    assert sum(not matches for matches in found.values()) == 4 and max(map(len, found.values())) < k
    relevant = 8 if denominator == "all" else min(8, k)
    sums = [sum(sum(matches[: rank + 1]) / (rank + 1) for rank in range(len(matches)) if matches[rank]) for matches in found.values()]
    assert values["queries"] == 16
    assert values[f"mAP@{k}_stable"] == pytest.approx(np.mean(sums) / relevant)
    assert values["P@5_stable"] == pytest.approx(np.mean([sum(matches[:5]) / 5 for matches in found.values()]))
    assert values["recall@2_stable"] == pytest.approx(np.mean([any(matches[:2]) for matches in found.values()]))
    assert any("4 of 16 queries have no hit, and count as 0" in note for note in notes)
    # A larger k is of use only where it is below R.
    assert any("larger k" in note for note in notes) == (k < 8)
    if k >= 8:
        assert values["R-precision_stable"] == pytest.approx(np.mean([sum(matches[:8]) / 8 for matches in found.values()]))


def test_k_is_that_of_the_search_and_no_less_than_the_longest_list(galleries):
    hits = search_gallery(galleries["train"], galleries["test"], k=4)
    assert "mAP@9" in hits_measures(hits, galleries["train"], own=False, k=9).values
    assert "mAP@32" in hits_measures(hits, galleries["train"], own=False, k=100).values  # all items
    with pytest.raises(InputError, match="k=3, but a query has 4 hits"):
        hits_measures(hits, galleries["train"], own=False, k=3)


def test_hits_of_other_galleries_are_refused(galleries, tmp_path):
    train, test = galleries["train"], galleries["test"]
    hits = search_gallery(train, test, k=4)
    few = hand_made(tmp_path / "few", test.codes()[0][:3], test.labels()[:3].tolist(), prefix="test")
    with pytest.raises(InputError, match=r"13 of 16 queries of the hits, such as 'test\d+', are not in .*few: give the galleries"):
        hits_measures(hits, train, own=False, queries=few)
    with pytest.raises(InputError, match=r"items of the hits, such as 'train\d+', are not in"):
        hits_measures(hits, few, own=False, queries=test)


def test_measures_of_queries_whose_label_was_trained_and_of_the_others(tmp_path):
    """Six items of three labels, two of them trained; the queries of the third find each other last, until they are re-ranked."""
    labels = [0, 0, 1, 1, 2, 2]
    gallery = hand_made(tmp_path / "gallery", np.zeros((6, 2), np.uint8), labels, names=("ant", "bee", "cat"))
    label_of = dict(zip(gallery.codes()[1].to_pylist(), labels, strict=True))

    def hits(last):
        rows = []
        for query, label in label_of.items():
            others = sorted((item for item in label_of if item != query), key=lambda item: (label_of[item] == label) == (label == last))
            rows += [(query, rank, item, rank, -float(rank), label, label_of[item]) for rank, item in enumerate(others, start=1)]
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), HITS_SCHEMA, strict=True)]
        return pa.table(columns, schema=HITS_SCHEMA)

    found = measures_by_label(gallery, {"": hits(last=2), ", re-ranked": hits(last=None)}, ("ant", "bee"))
    assert list(found) == ["seen", "seen, re-ranked", "unseen", "unseen, re-ranked"]
    assert [values["queries"] for values in found.values()] == [4, 4, 2, 2]
    assert [values["P@1"] for values in found.values()] == [1, 1, 0, 1]
    assert [values["mAP"] for values in found.values()] == pytest.approx([1, 1, 1 / 5, 1])
