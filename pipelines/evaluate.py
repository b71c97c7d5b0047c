"""`eet evaluate`: how good a gallery's codes, or a list of hits, are."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.figures import precision_recall_figure, save_png
from eet.gallery import Gallery, open_gallery, read_hits, read_recall
from eet.metrics import (
    map_at_r,
    precision_at_k,
    precision_recall_curve,
    published_gallery,
    r_precision,
    rank_gallery,
    recall_at_k,
)
from eet.storage import same_location
from eet.vit import read_bundle_record
from pipelines.galleries import check_made_by, check_same_model, labels_in
from pipelines.gallery_index import by_id
from pipelines.options import JobOptions
from pipelines.output import config_values, write_config
from pipelines.tracking import tracked


@dataclass(kw_only=True)
class EvaluateConfig(JobOptions):
    """Measures retrieval under one protocol or both.

    encoded: queries and gallery both encoded by the network. published: queries against the training images' target codes, which the
    bundle keeps; it needs --model and labelled queries.

    Attributes:
        out: Folder for metrics.json, pr_curve.png and pr_curve.csv.
        gallery: Labelled gallery; without --queries it is its own, and no item is its own hit.
        queries: Labelled gallery of queries.
        hits: Hits of --queries in --gallery: what is ranked is these, and mAP is mAP@k.
        model: Bundle, for the published protocol.
        protocol: Which.
        ks: Ranks for precision.
        recall_ks: Ranks for recall: 1 if any of the first k is a match.
        count_query: R-precision and MAP@R with the query counted in R, the off-by-one form that published tables use.
    """

    out: str
    gallery: str
    queries: str | None = None
    hits: str | None = None
    model: str | None = None
    protocol: Literal["published", "encoded", "both"] = "both"
    ks: tuple[int, ...] = (1, 10)
    recall_ks: tuple[int, ...] = (1, 2, 4, 8)
    count_query: bool = False

    def problems(self) -> list[str]:
        found = super().problems()
        if self.protocol == "published" and self.model is None:
            found.append("--protocol published needs --model: its bundle keeps the target codes")
        if self.hits is not None and self.protocol == "published":
            found.append("--hits are of an encoded gallery: use --protocol encoded or both")
        if min((*self.ks, *self.recall_ks), default=1) < 1:
            found.append(f"--ks {list(self.ks)}, --recall_ks {list(self.recall_ks)}: ranks begin at 1")
        return found


@dataclass(frozen=True)
class Evaluation:
    """measures: {protocol: {measure: value}}. curves: {protocol: (recall, precision)} at Hamming radii 0..bits."""

    measures: dict[str, dict[str, float]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


def run(config: EvaluateConfig) -> Evaluation:
    """Measures, prints a table, and writes metrics.json and the PR curve into config.out."""
    gallery = open_gallery(config.gallery)
    queries = open_gallery(config.queries) if config.queries else gallery
    check_same_model(gallery, queries)
    protocols = [name for name in ("encoded", "published") if config.protocol in (name, "both")]
    if config.model is None and "published" in protocols:
        protocols.remove("published")
        print("note: without --model only the encoded protocol is measured")
    if config.dry_run:
        print(f"dry run: {queries.manifest.num_ok} queries, {gallery.manifest.num_ok} items, {', '.join(protocols)}; nothing was started")
        return Evaluation({}, {})
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    write_config(config.out, config)
    measures: dict[str, dict[str, float]] = {}
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    query_codes, query_labels, query_rows = _labelled(queries)
    own = query_rows if same_location(gallery.path, queries.path) else None
    if "encoded" in protocols:
        codes, _, labels = by_id(gallery.coded_rows())
        if not (labels >= 0).any():
            raise ValueError(f"{gallery.path} has no labels: encode it with --data.* to measure it")
        query_labels_here = labels_in(gallery, queries, query_labels)
        if config.hits is not None:
            if (recall := read_recall(config.hits)) is not None:
                print(f"note: the hits are approximate: recall@{int(recall['k'])} {recall['recall']:.4f} against exact search")
            measures["encoded, hits"] = hits_measures(read_hits(config.hits), gallery, config, own=own is not None)
        else:
            ranked = rank_gallery(
                query_codes, query_labels_here, codes, labels, num_bits=gallery.manifest.num_bits, query_rows=own,
                ks=config.ks, recall_ks=config.recall_ks, count_query=config.count_query,
            )  # fmt: skip
            measures["encoded"] = ranked.measures
            curves["encoded"] = precision_recall_curve(ranked.total_QH, ranked.relevant_QH)
    if "published" in protocols:
        assert config.model is not None
        record = read_bundle_record(config.model)
        if record.target_codes is None or record.label_counts is None:
            raise ValueError(f"--model {config.model} keeps no target codes, so the published protocol cannot be measured")
        check_made_by(queries, record, f"--model {config.model}")
        labels = _labels_of_model(queries, query_labels, record.label_names)
        codes, gallery_labels = published_gallery(record.target_codes, record.label_counts)
        ranked = rank_gallery(
            query_codes, labels, codes, gallery_labels, num_bits=record.num_bits,
            ks=config.ks, recall_ks=config.recall_ks, count_query=config.count_query,
        )  # fmt: skip
        measures["published"] = ranked.measures
        curves["published"] = precision_recall_curve(ranked.total_QH, ranked.relevant_QH)
    evaluation = Evaluation(measures, curves)
    with tracked(f"evaluate {out.name}", config.tracking_uri, config.out, config_values(config)) as run_:
        _write(out, evaluation)
        for protocol, values in measures.items():
            prefix = protocol.replace(", ", "_")
            run_.log_metrics({f"{prefix}_{name}": value for name, value in values.items()}, 0)
        run_.log_artifact(out)
    print_measures(measures)
    return evaluation


def _labelled(queries: Gallery) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, labels and rows of the queries that have a label. ValueError where none has."""
    codes, _, labels = by_id(queries.coded_rows())
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise ValueError(f"{queries.path} has no labels: encode it with --data.* to measure it")
    return codes[rows], labels[rows], rows


def _labels_of_model(queries: Gallery, labels: np.ndarray, model_names: tuple[str, ...]) -> np.ndarray:
    """The queries' labels in the numbering of the model that learned them, matched by name."""
    names = queries.manifest.label_names
    if not names or tuple(names) == tuple(model_names):
        return labels
    places = {name: place for place, name in enumerate(model_names)}
    unknown = sorted({names[label] for label in np.unique(labels)} - set(places))
    if unknown:
        raise ValueError(
            f"{len(unknown)} labels of the queries are unknown to the model, for example {unknown[:3]}: use --protocol encoded"
        )
    return np.array([places.get(name, -1) for name in names])[labels]


def hits_measures(hits: pa.Table, gallery: Gallery, config: EvaluateConfig, *, own: bool) -> dict[str, float]:
    """Measures of a list of hits in its own order. R-precision and MAP@R only where every query has R hits.

    own: the queries are items of the gallery, and so not counted among their matches.
    """
    labelled = hits.filter(pc.is_valid(hits["query_label"])).sort_by([("query_id", "ascending"), ("rank", "ascending")])
    if not len(labelled):
        raise ValueError("the hits have no query labels: search with a labelled gallery of queries to measure them")
    ids = labelled["query_id"].to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    query_labels = labelled["query_label"].to_numpy()
    relevant = query_labels == labelled["item_label"].fill_null(-1).to_numpy()
    label_counts = np.bincount(gallery.labels()[gallery.labels() >= 0])
    if own:
        strangers = set(ids[starts]) - set(gallery.codes()[1].to_pylist())
        if strangers:
            raise ValueError(f"{len(strangers)} queries of the hits, such as {min(strangers)}, are not in {gallery.path}: give --queries")
    sums: dict[str, list[float]] = {}
    k = int(pc.max(labelled["rank"]).as_py())
    refused = False
    ks, recall_ks = (tuple(cut for cut in cuts if cut <= k) for cuts in (config.ks, config.recall_ks))
    if (ks, recall_ks) != (tuple(config.ks), tuple(config.recall_ks)):
        print(f"note: measures at ranks beyond the {k} hits of a query are left out")
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
        if total + config.count_query <= len(ranked):
            values["R-precision"] = r_precision(ranked, total, count_query=config.count_query)
            values["MAP@R"] = map_at_r(ranked, total, count_query=config.count_query)
        else:
            refused = True
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
    if refused:
        print(
            f"note: R-precision and MAP@R are left out: some query has more matches than the {k} hits that it got; search with a larger --k"
        )
        sums.pop("R-precision", None)
        sums.pop("MAP@R", None)
    means = {name: float(np.mean(values)) for name, values in sums.items()}
    return {**means, "queries": len(sums[f"mAP@{k}"]) if sums else 0}


def _write(out: Path, evaluation: Evaluation) -> None:
    (out / "metrics.json").write_text(json.dumps(evaluation.measures, indent=1) + "\n")
    if not evaluation.curves:  # of hits alone there is no curve over the radius
        return
    drawn = {}
    for protocol, (recall, precision) in evaluation.curves.items():
        found = np.isfinite(precision)  # a radius that retrieves nothing has no precision
        drawn[protocol] = (recall[found], precision[found])
    save_png(precision_recall_figure(drawn, title="precision and recall over Hamming radius"), out / "pr_curve.png")
    with (out / "pr_curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["protocol", "radius", "recall", "precision"])
        for protocol, (recall, precision) in evaluation.curves.items():
            for radius, (r, p) in enumerate(zip(recall, precision, strict=True)):
                writer.writerow([protocol, radius, f"{r:.6f}", f"{p:.6f}" if np.isfinite(p) else ""])


def print_measures(measures: dict[str, dict[str, float]]) -> None:
    """Protocols side by side, one measure a row."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("measure")
    for protocol in measures:
        table.add_column(protocol, justify="right")
    names = list(dict.fromkeys(name for values in measures.values() for name in values))
    for name in names:
        row = [values.get(name) for values in measures.values()]
        table.add_row(name, *("" if value is None else str(int(value)) if name.startswith("queries") else f"{value:.4f}" for value in row))
    Console(width=100).print(table)
