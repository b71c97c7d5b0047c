"""How good the codes of a gallery, or a list of hits, are, by the labels of queries and items."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.gallery import Gallery, check_made_by, check_same_model, labels_in, read_model_record
from eet.metrics import (
    Denominator,
    RankedGallery,
    TieGroups,
    Ties,
    check_ranks,
    check_ties,
    means_with_intervals,
    measures_of_groups,
    precision_recall_curve,
    published_gallery,
    rank_gallery,
)
from eet.retrieval.gallery_index import by_id
from eet.storage import same_location
from eet.vit import BundleRecord

QUERIES_AT_ONCE = 1024  # their intermediate values take some MB at 100 hits each


class Ranked(NamedTuple):
    """measures: as `eet.metrics.rank_gallery` gives them. recall_H, precision_H: of everything within Hamming radius 0 .. bits; precision
    is NaN where a radius finds nothing.
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
    labels: Collection[str] | None = None,
) -> Ranked:
    """The encoded protocol: the whole gallery ranked for every query that has a label. An item is never its own hit.

    Args:
        queries: the gallery itself, or another of the same model.
        ks, recall_ks: ranks of P@k and recall@k.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.
        ties: "stable" adds, for comparison, each measure with ties in the order of item_id, as "mAP_stable" and so on.
        labels: names of the labels whose queries are measured, against the whole gallery; default all.

    Raises:
        ValueError: a side has no labels, no query has one of `labels`, or the two were not made by one model.
    """
    check_same_model(gallery, queries)
    query_codes, query_labels, query_rows = _labelled(queries, labels)
    codes, _, gallery_labels = by_id(gallery.coded_rows())
    if not (gallery_labels >= 0).any():
        raise InputError(f"{gallery.path} has no labels: encode it with labels to measure it")
    own = same_location(gallery.path, queries.path)
    ranked = rank_gallery(
        query_codes,
        labels_in(gallery, queries, query_labels),
        codes,
        gallery_labels,
        num_bits=gallery.manifest.num_bits,
        query_rows=query_rows if own else None,
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
        ties=ties,
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
    labels: Collection[str] | None = None,
) -> Ranked:
    """The published protocol: queries against the training images' target codes, which the bundle keeps.

    Args:
        record: of the bundle that encoded the queries. name: what the user calls it, for errors.
        ks, recall_ks, count_query, ties, labels: as of `encoded_measures`.

    Raises:
        ValueError: the bundle keeps no target codes, did not encode the queries, or does not know one of their labels.
    """
    if record.hash_input == "joint":
        raise InputError(f"{name} has joint codes, which are not compared with target codes: use the encoded protocol")
    if record.target_codes is None or record.label_counts is None:
        raise InputError(f"{name} keeps no target codes, so the published protocol cannot be measured")
    check_made_by(queries, record, name)
    query_codes, query_labels, _ = _labelled(queries, labels)
    codes, gallery_labels = published_gallery(record.target_codes, record.label_counts)
    ranked = rank_gallery(
        query_codes,
        _labels_of_model(queries, query_labels, record.label_names),
        codes,
        gallery_labels,
        num_bits=record.num_bits,
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
        ties=ties,
    )
    return _ranked(ranked)


def _ranked(ranked: RankedGallery) -> Ranked:
    return Ranked(ranked.measures, *precision_recall_curve(ranked.total_QH, ranked.relevant_QH))


class HitsMeasures(NamedTuple):
    """values: by name, with the bounds of their intervals as `rank_gallery` has them, and "queries", the number measured. notes: what was
    left out, one sentence each.
    """

    values: dict[str, float]
    notes: list[str]


def hits_measures(
    hits: pa.Table,
    gallery: Gallery,
    *,
    own: bool,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
    denominator: Denominator = "all",
    labels: Collection[str] | None = None,
) -> HitsMeasures:
    """Measures of a list of hits in its own order. R-precision and MAP@R only where every query has R hits.

    Hits of a query that follow each other with equal scores are a tie, and every measure is the mean over random order inside ties. Where
    the hits were re-ranked, those that kept their place are in no tie with those that were scored again. A tie that the search cut at the
    end of a query's hits is known in part only; a note says of how many queries a measure looks that deep.

    Args:
        hits: with query_label and item_label.
        gallery: that was searched.
        own: the queries are items of the gallery, and so not counted among their matches.
        ks, recall_ks: ranks of P@k and recall@k; those beyond the hits of a query are left out.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.
        ties: "stable" adds, for comparison, each measure with ties in the order of ranks, as "P@1_stable" and so on.
        denominator: of mAP@k: "all" matches in the gallery, as TREC has it, "reachable" in k hits, or "found" (see
            `eet.metrics.average_precision`).
        labels: names of the labels whose queries are measured; default all.

    Raises:
        ValueError: no hit has a query label, or one of `labels`; a query is not in the gallery although `own` says so; or another value of
            an option.
    """
    check_ranks(ks, recall_ks)
    check_ties(ties)
    if denominator not in get_args(Denominator):
        raise InputError(f"denominator={denominator!r}: allowed are {', '.join(get_args(Denominator))}")
    labelled = hits.filter(pc.is_valid(hits["query_label"])).sort_by([("query_id", "ascending"), ("rank", "ascending")])
    if not len(labelled):
        raise InputError("the hits have no query labels: search with a labelled gallery of queries to measure them")
    if labels is not None:
        labelled = labelled.filter(pa.array(_of_labels(labelled["query_label"].to_numpy(), gallery, labels)))
        if not len(labelled):
            raise InputError("no query of the hits has one of the chosen labels")
    lists = _HitLists(labelled)
    if own:
        strangers = set(lists.ids) - set(gallery.codes()[1].to_pylist())
        if strangers:
            raise InputError(
                f"{len(strangers)} queries of the hits, such as {min(strangers)}, are not in {gallery.path}: give their gallery as queries"
            )
    k = int(pc.max(labelled["rank"]).as_py())
    notes: list[str] = []
    if max((*ks, *recall_ks), default=0) > k:
        notes.append(f"measures at ranks beyond the {k} hits of a query are left out")
    ks, recall_ks = (tuple(cut for cut in cuts if cut <= k) for cuts in (ks, recall_ks))

    label_counts = np.bincount(gallery.labels()[gallery.labels() >= 0], minlength=int(lists.label_Q.max()) + 1)
    num_relevant_Q = label_counts[lists.label_Q] - own
    used_Q = num_relevant_Q > 0
    if not used_Q.any():
        return HitsMeasures({"queries": 0}, notes)
    r_Q = num_relevant_Q + count_query
    r_measured = bool((r_Q <= lists.size_Q)[used_Q].all())
    if not r_measured:
        notes.append(
            f"R-precision and MAP@R are left out: some query has more matches than the {k} hits that it got; search with a larger k"
        )
    looked_at_Q = np.maximum(max((*ks, *recall_ks), default=0), r_Q if r_measured else 0)
    cut_Q = lists.tied_at_the_end(looked_at_Q) & (lists.size_Q < gallery.manifest.num_ok - own) & used_Q
    if cut_Q.any():
        notes.append(
            f"of {cut_Q.sum()} of {used_Q.sum()} queries a tie that a measure reaches may go on beyond the {k} hits, and only the part "
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
                "reachable": np.minimum(num_relevant, lists.size_Q[block]),
                "found": np.maximum(groups.matches_QG.sum(axis=1), 1),
            }[denominator]
            values = {f"mAP@{k}": values.pop("mAP") * num_relevant / divisor, **values}
            blocks.append(values)
        names = [name for name in blocks[0] if r_measured or name not in ("R-precision", "MAP@R")]
        return {name: np.concatenate([block[name] for block in blocks]) for name in names}

    values = measured(tied=True)
    if ties == "stable":
        values |= {f"{name}_stable": column for name, column in measured(tied=False).items()}
    return HitsMeasures({**means_with_intervals(values), "queries": int(used_Q.sum())}, notes)


class _HitLists:
    """Hits by query and rank, as one list for each query.

    Shape suffixes: H hits, Q queries, G groups of tied hits.
    """

    def __init__(self, hits: pa.Table) -> None:
        """hits: at least one, by query_id, then rank."""
        ids = hits["query_id"].to_numpy()
        first_H = np.concatenate([[True], ids[1:] != ids[:-1]])
        starts_Q = np.flatnonzero(first_H)
        self.ids: list[str] = ids[starts_Q].tolist()
        self.size_Q = np.diff(np.append(starts_Q, len(ids)))
        query_labels = hits["query_label"].to_numpy()
        self.label_Q = query_labels[starts_Q]
        self._bounds = np.append(starts_Q, len(ids))
        self._match_H = query_labels == hits["item_label"].fill_null(-1).to_numpy()
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


LabelChoice = Literal["all", "seen", "unseen"]


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
    """`chosen_labels` of the labels that the bundle `model` was trained on, which must have encoded the queries. `choice` other than "all"
    needs a model.
    """
    if model is None:
        return chosen_labels(queries, (), choice, name="the model")
    record = read_model_record(model)
    check_made_by(queries, record, name)
    return chosen_labels(queries, record.label_names, choice, name=name)


def _of_labels(labels: np.ndarray, gallery: Gallery, chosen: Collection[str]) -> np.ndarray:
    """Which of these labels, in the numbering of `gallery`, are called by one of the names, bool. ValueError where it has no names."""
    names = gallery.manifest.label_names
    if not names:
        raise InputError(f"the labels of {gallery.path} have no names, so none can be chosen: encode it with --data.*")
    numbers = [number for number, name in enumerate(names) if name in chosen]
    return np.isin(labels, numbers)


def _labelled(queries: Gallery, chosen: Collection[str] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, labels and rows of the queries that have a label, and one of the chosen names. ValueError where none has."""
    codes, _, labels = by_id(queries.coded_rows())
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise InputError(f"{queries.path} has no labels: encode it with labels to measure it")
    if chosen is not None:
        rows = rows[_of_labels(labels[rows], queries, chosen)]
        if not len(rows):
            raise InputError(f"no item of {queries.path} has one of the chosen labels")
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
