"""How good the codes of a gallery, or a list of hits, are, by the labels of queries and items."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.gallery import Gallery, check_made_by, check_same_model, labels_in, read_model_record
from eet.metrics import (
    MEASURES,
    Positions,
    RankedGallery,
    TieGroups,
    check_ranks,
    check_ties,
    matches_by_label,
    means_with_intervals,
    measures_of_groups,
    nearby,
    precision_recall_curve,
    published_gallery,
    rank_gallery,
    recall_of_all,
)
from eet.options.choices import Denominator, LabelChoice, Ties
from eet.retrieval.gallery_index import by_id
from eet.retrieval.metres import are_matches, placed_items, positions_of
from eet.storage import same_location
from eet.vit import BundleRecord

QUERIES_AT_ONCE = 1024  # their intermediate values take some MB at 100 hits each


def recall_ranks(metres: float | None) -> tuple[int, ...]:
    """The usual ranks of recall: of matches by label, or, with a radius, by distance."""
    return (1, 2, 4, 8) if metres is None else (1, 5, 10, 20)


class Ranked(NamedTuple):
    """The measures of a gallery, and its curve of precision and recall.

    Attributes:
        measures: as `eet.metrics.rank_gallery` returns them.
        recall_H, precision_H: of everything within Hamming radius 0 .. bits; precision is NaN where a radius finds nothing.
    """

    measures: dict[str, float]
    recall_H: np.ndarray
    precision_H: np.ndarray


def encoded_measures(
    gallery: Gallery,
    queries: Gallery,
    *,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
    all_queries: bool = False,
    metres: float | None = None,
    labels: Collection[str] | None = None,
    only: Collection[str] | None = None,
) -> Ranked:
    """The encoded protocol: the whole gallery ranked for every query that has a label or a position. An item is never its own hit.

    Args:
        queries: the gallery itself, or another of the same model.
        ks, recall_ks: ranks of P@k and recall@k.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.
        ties: "stable" adds, for comparison, each measure with ties in the order of item_id, as "mAP_stable" and so on.
        all_queries: also recall over all queries, those without a match counted as 0, as "recall@1_all" and so on.
        metres: matches are the items within this distance of the query (see `eet.retrieval.metres.radius_of`); None: those of its label.
        labels: names of the labels whose queries are measured, against the whole gallery; default all.
        only: ids of the queries that are measured, against the whole gallery; default all.

    Raises:
        ValueError: a side has no labels or positions, no query has one of `labels`, or the two were not made by one model.
    """
    check_same_model(gallery, queries)
    codes, ids, gallery_labels = by_id(gallery.coded_rows())
    if metres is None:
        query_codes, query_labels, query_rows = _labelled(queries, labels, only)
        if not (gallery_labels >= 0).any():
            raise InputError(f"{gallery.path} has no labels: encode it with labels to measure it")
        matches = matches_by_label(labels_in(gallery, queries, query_labels), gallery_labels)
    else:
        query_codes, positions, query_rows = _placed(queries, only)
        matches = nearby(positions, positions_of(gallery, ids), metres=metres)
    own = same_location(gallery.path, queries.path)
    ranked = rank_gallery(
        query_codes,
        codes,
        matches,
        num_bits=gallery.manifest.num_bits,
        query_rows=query_rows if own else None,
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
        ties=ties,
        all_queries=all_queries,
    )
    return _ranked(ranked)


def published_measures(
    queries: Gallery,
    record: BundleRecord,
    *,
    name: str,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
    all_queries: bool = False,
    labels: Collection[str] | None = None,
    only: Collection[str] | None = None,
) -> Ranked:
    """The published protocol: queries against the training images' target codes, which the bundle keeps.

    Args:
        record: of the bundle that encoded the queries. name: what the user calls it, for errors.
        ks, recall_ks, count_query, ties, all_queries, labels, only: as of `encoded_measures`.

    Raises:
        ValueError: the bundle keeps no target codes, did not encode the queries, or does not know one of their labels.
    """
    if record.hash_input == "joint":
        raise InputError(f"{name} has joint codes, which are not compared with target codes: use the encoded protocol")
    if record.target_codes is None or record.label_counts is None:
        raise InputError(f"{name} keeps no target codes, so the published protocol cannot be measured")
    check_made_by(queries, record, name)
    query_codes, query_labels, _ = _labelled(queries, labels, only)
    codes, gallery_labels = published_gallery(record.target_codes, record.label_counts)
    ranked = rank_gallery(
        query_codes,
        codes,
        matches_by_label(_labels_of_model(queries, query_labels, record.label_names), gallery_labels),
        num_bits=record.num_bits,
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
        ties=ties,
        all_queries=all_queries,
    )
    return _ranked(ranked)


def _ranked(ranked: RankedGallery) -> Ranked:
    return Ranked(ranked.measures, *precision_recall_curve(ranked.total_QH, ranked.relevant_QH))


class HitsMeasures(NamedTuple):
    """The measures of a list of hits.

    Attributes:
        values: by name, with the bounds of their intervals as in `rank_gallery`. "queries" is the number of measured queries, and
            "queries_without_relevant" the number left out because the gallery holds no match for them.
        notes: what else was left out, one sentence each.
    """

    values: dict[str, float]
    notes: list[str]


def hits_measures(
    hits: pa.Table,
    gallery: Gallery,
    *,
    own: bool,
    queries: Gallery | None = None,
    k: int | None = None,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
    denominator: Denominator = "all",
    all_queries: bool = False,
    metres: float | None = None,
    labels: Collection[str] | None = None,
    only: Collection[str] | None = None,
) -> HitsMeasures:
    """Measures of a list of hits in its own order. R-precision and MAP@R are left out unless R hits of every query were requested.

    An approximate search may find fewer hits than it was asked for, or none: the ranks that it left empty hold no match.

    Hits of a query that follow each other with equal scores are a tie, and every measure is the mean over random order inside ties. Where
    the hits were re-ranked, those that kept their place are in no tie with those that were scored again. If the search cut the hits of a
    query inside a tie, the rest of this tie is unknown. A note says for how many queries a measure reads such a tie.

    Args:
        hits: with query_label and item_label, or with metres.
        gallery: that was searched.
        own: the queries are items of the gallery, and so not counted among their matches.
        queries: the gallery of all queries that were searched. Those of them without any hit count as 0, and ids of the hits that are in
            neither gallery are refused. None: the queries that have hits are all.
        k: number of hits that the search was asked for; default that of the longest list. At most the number of items.
        ks, recall_ks: ranks of P@k and recall@k; those beyond k are left out.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.
        ties: "stable" adds, for comparison, each measure with ties in the order of ranks, as "P@1_stable" and so on.
        denominator: of mAP@k: "all" matches in the gallery, as TREC has it, "reachable" in k hits (the lesser of both numbers), or "found"
            (see `eet.metrics.average_precision`).
        all_queries: also recall over all queries, those without a match counted as 0, as "recall@1_all" and so on.
        metres: matches are the items within this distance of the query; None: those of its label. It needs `queries` or `own`.
        labels: names of the labels whose queries are measured; default all.
        only: ids of the queries that are measured; default all.

    Raises:
        ValueError: no hit has a query label, or one of `labels`, or is between positions; a query or an item is in neither gallery; a list
            is longer than k; or another value of an option.
    """
    check_ranks(ks, recall_ks)
    check_ties(ties)
    if denominator not in get_args(Denominator):
        raise InputError(f"denominator={denominator!r}: allowed are {', '.join(get_args(Denominator))}")
    if queries is not None:
        check_hits_belong(hits, gallery, queries)
    hits = hits.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    if metres is None:
        judged = _judged_by_label(hits, gallery, queries, own=own, labels=labels, only=only)
    else:
        judged = _judged_by_distance(hits, gallery, gallery if own else queries, own=own, metres=metres, only=only)
    lists = _HitLists(judged.hits, are_matches(judged.hits, metres))
    if own:
        strangers = set(lists.ids) - set(gallery.codes()[1].to_pylist())
        if strangers:
            raise InputError(
                f"{len(strangers)} queries of the hits, such as {min(strangers)}, are not in {gallery.path}: give their gallery as queries"
            )
    longest = int(pc.max(judged.hits["rank"]).as_py())
    items = gallery.manifest.num_ok - own
    k = longest if k is None else min(k, max(items, longest))
    if k < longest:
        raise InputError(f"k={k}, but a query has {longest} hits: give the number that the search was asked for")
    notes: list[str] = []
    read = [measure.reads for measure in MEASURES.values() if isinstance(measure.reads, int)]
    if max((*ks, *recall_ks, *read), default=0) > k:
        notes.append(f"measures at ranks beyond the {k} hits of a query are left out")
    ks, recall_ks = (tuple(cut for cut in cuts if cut <= k) for cuts in (ks, recall_ks))

    num_relevant_Q = judged.relevant_H[lists.starts_Q]
    used_Q = num_relevant_Q > 0
    empty_relevant = judged.relevant_without_hits
    empty_relevant = empty_relevant[empty_relevant > 0]
    num_used = int(used_Q.sum()) + len(empty_relevant)
    without = len(used_Q) + len(judged.relevant_without_hits) - num_used
    if not num_used:
        return HitsMeasures({"queries": 0, "queries_without_relevant": without}, notes)
    if len(empty_relevant):
        notes.append(f"{len(empty_relevant)} of {num_used} queries have no hit, and count as 0")
    r_Q = num_relevant_Q + count_query
    r_measured = bool((r_Q <= k)[used_Q].all() and (empty_relevant + count_query <= k).all())
    if not r_measured:
        notes.append(f"R-precision and MAP@R are left out: some query has more matches than the {k} hits asked for; search with a larger k")
    looked_at_Q = np.maximum(max((*ks, *recall_ks), default=0), r_Q if r_measured else 0)
    # A list that is shorter than k was not cut: a larger k would not make it longer.
    cut_Q = lists.tied_at_the_end(looked_at_Q) & (lists.size_Q >= k) & (lists.size_Q < items) & used_Q
    if cut_Q.any():
        notes.append(
            f"of {cut_Q.sum()} of {num_used} queries a tie that a measure reaches may go on beyond the {k} hits, and only the part "
            "that was found is counted; search with a larger k"
        )

    def measured(*, tied: bool) -> dict[str, np.ndarray]:
        blocks = []
        for start in range(0, len(used_Q), QUERIES_AT_ONCE):
            block = np.arange(start, min(start + QUERIES_AT_ONCE, len(used_Q)))
            block = block[used_Q[block]]
            num_relevant = num_relevant_Q[block]
            groups = lists.tie_groups(block, tied=tied)
            values = measures_of_groups(groups, num_relevant, ks=ks, recall_ks=recall_ks, count_query=count_query)
            divisor = {
                "all": num_relevant,
                "reachable": np.minimum(num_relevant, k),
                "found": np.maximum(groups.matches_QG.sum(axis=1), 1),
            }[denominator]
            values = {f"mAP@{k}": values.pop("mAP") * num_relevant / divisor, **values}
            blocks.append(values)
        names = [name for name in blocks[0] if name not in MEASURES or MEASURES[name].fits(k, r_fits=r_measured)]
        zeros = np.zeros(len(empty_relevant))
        return {name: np.concatenate([*(block[name] for block in blocks), zeros]) for name in names}

    values = measured(tied=True)
    if all_queries:
        values |= recall_of_all(values, without)
    if ties == "stable":
        values |= {f"{name}_stable": column for name, column in measured(tied=False).items()}
    return HitsMeasures({**means_with_intervals(values), "queries": num_used, "queries_without_relevant": without}, notes)


class _Judged(NamedTuple):
    """The queries that can be judged.

    Attributes:
        hits: of these queries.
        relevant_H: for each hit, the number of matches that its query has in the gallery.
        relevant_without_hits: the same number for each query that has no hit.
    """

    hits: pa.Table
    relevant_H: np.ndarray
    relevant_without_hits: np.ndarray


def _judged_by_label(
    hits: pa.Table,
    gallery: Gallery,
    queries: Gallery | None,
    *,
    own: bool,
    labels: Collection[str] | None,
    only: Collection[str] | None,
) -> _Judged:
    labelled = hits.filter(pc.is_valid(hits["query_label"]))
    if not len(labelled):
        raise InputError("the hits have no query labels: search with a labelled gallery of queries to measure them")
    if labels is not None:
        labelled = labelled.filter(pa.array(_of_labels(labelled["query_label"].to_numpy(), gallery, labels)))
        if not len(labelled):
            raise InputError("no query of the hits has one of the chosen labels")
    labelled = _of_queries(labelled, only)
    label_H = labelled["query_label"].to_numpy()
    empty_labels = np.empty(0, np.int32) if queries is None else _labels_without_hits(hits, gallery, queries, labels, only)
    gallery_labels = gallery.labels()
    highest = max(label_H.max(), empty_labels.max(initial=0))
    label_counts = np.bincount(gallery_labels[gallery_labels >= 0], minlength=int(highest) + 1)
    return _Judged(labelled, label_counts[label_H] - own, label_counts[empty_labels] - own)


def _judged_by_distance(
    hits: pa.Table, gallery: Gallery, queries: Gallery | None, *, own: bool, metres: float, only: Collection[str] | None
) -> _Judged:
    if queries is None:
        raise InputError("matches by distance need the positions of the queries: give their gallery")
    ids, positions = placed_items(queries)
    relevant_Q = nearby(positions, placed_items(gallery)[1], metres=metres).counts_Q - own
    kept = positions.known_N & _among(ids, only)
    ids, relevant_Q = ids.filter(pa.array(kept)), relevant_Q[kept]
    judged = hits.filter(pc.is_in(hits["query_id"], value_set=ids))
    if not len(judged):
        raise InputError(f"no query of the hits has a position in {queries.path}, and is among those that are measured")
    query_H = pc.index_in(judged["query_id"], value_set=ids).to_numpy()
    return _Judged(judged, relevant_Q[query_H], np.delete(relevant_Q, np.unique(query_H)))


def _of_queries(hits: pa.Table, only: Collection[str] | None) -> pa.Table:
    """The hits of some queries; None: of all. InputError where there are none."""
    chosen = hits.filter(pa.array(_among(hits["query_id"], only)))
    if not len(chosen):
        raise InputError("the hits have none of the queries that are measured")
    return chosen


def measures_by_label(gallery: Gallery, orders: Mapping[str, pa.Table], trained: Collection[str]) -> dict[str, dict[str, float]]:
    """Measures of the queries whose label a model was trained on, and of the others, each under several orders of the hits.

    Args:
        gallery: searched for each of its own items, with label names.
        orders: hits of the whole gallery, by a suffix of the names of their measures.
        trained: names of the labels that the model was trained on.

    Returns:
        {"seen" or "unseen" + suffix: {measure: value}}; mAP is that of the whole gallery. A group without a label is left out.
    """
    present = {(gallery.manifest.label_names or ())[label] for label in np.unique(gallery.labels()) if label >= 0}
    measures = {}
    for name, labels in (("seen", present & set(trained)), ("unseen", present - set(trained))):
        for suffix, hits in orders.items() if labels else ():
            found = hits_measures(hits, gallery, own=True, labels=labels).values
            measures[name + suffix] = {re.sub(r"^mAP@\d+", "mAP", key): value for key, value in found.items()}
    return measures


def check_hits_belong(hits: pa.Table, gallery: Gallery, queries: Gallery) -> None:
    """InputError unless every query of the hits is in `queries`, and every item in `gallery`."""
    for column, owner, noun in (("query_id", queries, "queries"), ("item_id", gallery, "items")):
        ids = hits[column].unique()
        known = pc.is_in(ids, value_set=owner.codes()[1].cast(ids.type))
        if not pc.all(known).as_py():
            strangers = ids.filter(pc.invert(known))
            raise InputError(
                f"{len(strangers)} of {len(ids)} {noun} of the hits, such as {strangers[0].as_py()!r}, are not in {owner.path}: "
                "give the galleries that the hits were searched with"
            )


def _labels_without_hits(
    hits: pa.Table, gallery: Gallery, queries: Gallery, chosen: Collection[str] | None, only: Collection[str] | None
) -> np.ndarray:
    """Labels, in the numbering of `gallery`, of the labelled queries that have no hit, int32."""
    ids, labels = queries.codes()[1], labels_in(gallery, queries, queries.labels())
    left_out = pc.is_in(ids, value_set=hits["query_id"].unique().cast(ids.type)).to_numpy(zero_copy_only=False)
    labels = labels[~left_out & _among(ids, only) & (labels >= 0)]
    return labels if chosen is None else labels[_of_labels(labels, gallery, chosen)]


class _HitLists:
    """Hits by query and rank, as one list for each query.

    Shape suffixes: H hits, Q queries, G groups of tied hits.
    """

    def __init__(self, hits: pa.Table, match_H: np.ndarray) -> None:
        """hits: at least one, by query_id, then rank. match_H: which of them are right."""
        ids = hits["query_id"].to_numpy()
        first_H = np.concatenate([[True], ids[1:] != ids[:-1]])
        self.starts_Q = starts_Q = np.flatnonzero(first_H)
        self.ids: list[str] = ids[starts_Q].tolist()
        self.size_Q = np.diff(np.append(starts_Q, len(ids)))
        self._bounds = np.append(starts_Q, len(ids))
        self._match_H = match_H
        scores = hits["score"].to_numpy()
        opens_H = first_H | np.concatenate([[True], scores[1:] != scores[:-1]])
        if "score_global" in hits.column_names:
            kept = hits["score_global"].is_null().to_numpy()
            opens_H |= np.concatenate([[True], kept[1:] != kept[:-1]])
        groups_H = np.cumsum(opens_H) - 1
        self._group_H = groups_H - np.repeat(groups_H[starts_Q], self.size_Q)
        self._last_tie_Q = np.diff(np.append(np.flatnonzero(opens_H), len(ids)))[groups_H[self._bounds[1:] - 1]]

    def tied_at_the_end(self, cut_Q: np.ndarray) -> np.ndarray:
        """Which queries have a tie of several hits at the end of their list that their first `cut_Q` ranks reach, bool (Q,)."""
        return (self._last_tie_Q > 1) & (cut_Q > self.size_Q - self._last_tie_Q)

    def tie_groups(self, block: np.ndarray, *, tied: bool) -> TieGroups:
        """Of the queries with these numbers (ascending). tied: False takes each hit as a group of its own, in the order of ranks."""
        sizes = self.size_Q[block]
        places = np.concatenate([np.arange(self._bounds[query], self._bounds[query + 1]) for query in block] or [np.zeros(0, np.int64)])
        row = np.repeat(np.arange(len(block)), sizes)
        column = self._group_H[places] if tied else places - self._bounds[block][row]
        width = int(column.max()) + 1 if len(column) else 1
        cell = row * width + column
        shape = (len(block), width)
        total = np.bincount(cell, minlength=shape[0] * width).reshape(shape)
        matches = np.bincount(cell[self._match_H[places]], minlength=shape[0] * width).reshape(shape)
        return TieGroups.of_counts(total, matches)


def chosen_labels(queries: Gallery, trained: Collection[str], choice: LabelChoice, *, name: str) -> frozenset[str] | None:
    """Names of the labels of `queries` that a model saw in training, or of those that it did not; None, for every query, of "all".

    Args:
        trained: names of the labels that the model was trained on.
        name: what the user calls the model, for errors.

    Raises:
        ValueError: the model or the queries have no label names, there is no label of that choice, or another value of it.
    """
    if choice not in get_args(LabelChoice):
        raise InputError(f"labels={choice!r}: allowed are {', '.join(get_args(LabelChoice))}")
    if choice == "all":
        return None
    names = queries.manifest.label_names
    if not trained:
        raise InputError(f"{name} does not say which labels it was trained on, so none is known as seen or unseen")
    if not names:
        raise InputError(f"the labels of {queries.path} have no names, by which the model's are found: encode it with --data.*")
    numbers = np.unique(queries.labels())
    present = {names[number] for number in numbers[numbers >= 0]}
    chosen = frozenset(present & set(trained) if choice == "seen" else present - set(trained))
    if not chosen:
        raise InputError(f"no label of {queries.path} is {choice} by {name}, which was trained on {len(trained)} labels")
    return chosen


def labels_by_model(queries: Gallery, choice: LabelChoice, model: str | Path | None, *, name: str) -> frozenset[str] | None:
    """`chosen_labels` for the labels that the bundle `model` was trained on, which must have encoded the queries.

    A `choice` other than "all" needs a model.
    """
    if model is None:
        return chosen_labels(queries, (), choice, name="the model")
    record = read_model_record(model)
    check_made_by(queries, record, name)
    return chosen_labels(queries, record.label_names, choice, name=name)


def _of_labels(labels: np.ndarray, gallery: Gallery, chosen: Collection[str]) -> np.ndarray:
    """Which of these labels, in the numbering of `gallery`, have one of these names, bool. ValueError where it has no names."""
    names = gallery.manifest.label_names
    if not names:
        raise InputError(f"the labels of {gallery.path} have no names, so none can be chosen: encode it with --data.*")
    numbers = [number for number, name in enumerate(names) if name in chosen]
    return np.isin(labels, numbers)


def _placed(queries: Gallery, only: Collection[str] | None) -> tuple[np.ndarray, Positions, np.ndarray]:
    """Codes, positions and rows of the queries that have a position. ValueError where none has."""
    codes, ids, _ = by_id(queries.coded_rows(labels=False))
    positions = positions_of(queries, ids)
    rows = np.flatnonzero(positions.known_N & _among(ids, only))
    if not len(rows):
        raise InputError(f"no item of {queries.path} has a position, and is among those that are measured")
    return codes[rows], positions.take(rows), rows


def _among(ids: pa.Array | pa.ChunkedArray, only: Collection[str] | None) -> np.ndarray:
    """Which of these ids are measured, bool."""
    if only is None:
        return np.ones(len(ids), bool)
    return np.asarray(pc.is_in(ids, value_set=pa.array(list(only), ids.type)))


def _labelled(queries: Gallery, chosen: Collection[str] | None, only: Collection[str] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, labels and rows of the queries that have a label, and one of the chosen names. ValueError where none has."""
    codes, ids, labels = by_id(queries.coded_rows())
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise InputError(f"{queries.path} has no labels: encode it with labels to measure it")
    if chosen is not None:
        rows = rows[_of_labels(labels[rows], queries, chosen)]
        if not len(rows):
            raise InputError(f"no item of {queries.path} has one of the chosen labels")
    rows = rows[_among(ids, only)[rows]]
    if not len(rows):
        raise InputError(f"no labelled item of {queries.path} is among those that are measured")
    return codes[rows], labels[rows], rows


def _labels_of_model(queries: Gallery, labels: np.ndarray, model_names: tuple[str, ...]) -> np.ndarray:
    """The queries' labels in the numbering of the model that learned them, matched by name."""
    names = queries.manifest.label_names
    if not names or tuple(names) == tuple(model_names):
        return labels
    places = {name: place for place, name in enumerate(model_names)}
    unknown = sorted({names[label] for label in np.unique(labels)} - set(places))
    if unknown:
        raise InputError(
            f"{len(unknown)} labels of the queries are unknown to the model, for example {unknown[:3]}: use the encoded protocol, "
            "or choose the seen labels"
        )
    return np.array([places.get(name, -1) for name in names])[labels]
