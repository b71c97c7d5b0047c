"""How good the codes of a gallery, or a list of hits, are, by the labels of queries and items."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.gallery import Gallery, check_made_by, check_same_model, labels_in
from eet.metrics import (
    RankedGallery,
    map_at_r,
    precision_at_k,
    precision_recall_curve,
    published_gallery,
    r_precision,
    rank_gallery,
    recall_at_k,
)
from eet.retrieval.gallery_index import by_id
from eet.storage import same_location
from eet.vit import BundleRecord


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
) -> Ranked:
    """The encoded protocol: the whole gallery ranked for every query that has a label. An item is never its own hit.

    Args:
        queries: the gallery itself, or another of the same model.
        ks, recall_ks: ranks of P@k and recall@k.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.

    Raises:
        ValueError: a side has no labels, or the two were not made by one model.
    """
    check_same_model(gallery, queries)
    query_codes, query_labels, query_rows = _labelled(queries)
    codes, _, labels = by_id(gallery.coded_rows())
    if not (labels >= 0).any():
        raise InputError(f"{gallery.path} has no labels: encode it with labels to measure it")
    own = same_location(gallery.path, queries.path)
    ranked = rank_gallery(
        query_codes,
        labels_in(gallery, queries, query_labels),
        codes,
        labels,
        num_bits=gallery.manifest.num_bits,
        query_rows=query_rows if own else None,
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
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
) -> Ranked:
    """The published protocol: queries against the training images' target codes, which the bundle keeps.

    Args:
        record: of the bundle that encoded the queries. name: what the user calls it, for errors.

    Raises:
        ValueError: the bundle keeps no target codes, did not encode the queries, or does not know one of their labels.
    """
    if record.target_codes is None or record.label_counts is None:
        raise InputError(f"{name} keeps no target codes, so the published protocol cannot be measured")
    check_made_by(queries, record, name)
    query_codes, query_labels, _ = _labelled(queries)
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
    )
    return _ranked(ranked)


def _ranked(ranked: RankedGallery) -> Ranked:
    return Ranked(ranked.measures, *precision_recall_curve(ranked.total_QH, ranked.relevant_QH))


class HitsMeasures(NamedTuple):
    """values: by name, and "queries", the number measured. notes: what was left out, one sentence each."""

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
) -> HitsMeasures:
    """Measures of a list of hits in its own order. R-precision and MAP@R only where every query has R hits.

    Args:
        hits: with query_label and item_label.
        gallery: that was searched.
        own: the queries are items of the gallery, and so not counted among their matches.
        ks, recall_ks: ranks of P@k and recall@k; those beyond the hits of a query are left out.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.

    Raises:
        ValueError: no hit has a query label, or a query is not in the gallery although `own` says so.
    """
    labelled = hits.filter(pc.is_valid(hits["query_label"])).sort_by([("query_id", "ascending"), ("rank", "ascending")])
    if not len(labelled):
        raise InputError("the hits have no query labels: search with a labelled gallery of queries to measure them")
    ids = labelled["query_id"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    query_labels = labelled["query_label"].to_numpy()
    relevant = query_labels == labelled["item_label"].fill_null(-1).to_numpy()
    label_counts = np.bincount(gallery.labels()[gallery.labels() >= 0])
    if own:
        strangers = set(ids[starts]) - set(gallery.codes()[1].to_pylist())
        if strangers:
            raise InputError(
                f"{len(strangers)} queries of the hits, such as {min(strangers)}, are not in {gallery.path}: give their gallery as queries"
            )
    sums: dict[str, list[float]] = {}
    k = int(pc.max(labelled["rank"]).as_py())
    refused = False
    notes: list[str] = []
    cut_off = max((*ks, *recall_ks), default=0) > k
    ks, recall_ks = (tuple(cut for cut in cuts if cut <= k) for cuts in (ks, recall_ks))
    if cut_off:
        notes.append(f"measures at ranks beyond the {k} hits of a query are left out")
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        ranked = relevant[start:end]
        label = query_labels[start]
        total = (int(label_counts[label]) if label < len(label_counts) else 0) - own
        if total < 1:
            continue
        places = np.flatnonzero(ranked) + 1
        precision = np.arange(1, len(places) + 1) / places
        values = {f"mAP@{k}": float(precision.sum() / min(total, len(ranked)))}
        values |= {f"P@{cut}": precision_at_k(ranked, cut) for cut in ks}
        values |= {f"recall@{cut}": recall_at_k(ranked, cut) for cut in recall_ks}
        if total + count_query <= len(ranked):
            values["R-precision"] = r_precision(ranked, total, count_query=count_query)
            values["MAP@R"] = map_at_r(ranked, total, count_query=count_query)
        else:
            refused = True
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
    if refused:
        notes.append(
            f"R-precision and MAP@R are left out: some query has more matches than the {k} hits that it got; search with a larger k"
        )
        sums.pop("R-precision", None)
        sums.pop("MAP@R", None)
    means = {name: float(np.mean(values)) for name, values in sums.items()}
    return HitsMeasures({**means, "queries": len(sums[f"mAP@{k}"]) if sums else 0}, notes)


def _labelled(queries: Gallery) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, labels and rows of the queries that have a label. ValueError where none has."""
    codes, _, labels = by_id(queries.coded_rows())
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise InputError(f"{queries.path} has no labels: encode it with labels to measure it")
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
            f"{len(unknown)} labels of the queries are unknown to the model, for example {unknown[:3]}: use the encoded protocol"
        )
    return np.array([places.get(name, -1) for name in names])[labels]
