"""`eet evaluate`: how good a gallery's codes, or a list of hits, are."""

import csv
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eet.errors import InputError
from eet.figures import precision_recall_figure, save_png
from eet.gallery import check_same_model, open_gallery, read_hits, read_recall
from eet.metrics import Denominator, Ties
from eet.retrieval.measures import LabelChoice, encoded_measures, hits_measures, labels_by_model, published_measures
from eet.storage import copy_files, same_location
from eet.vit import read_bundle_record
from pipelines.job.location import LOCATION
from pipelines.job.measures_table import print_measures
from pipelines.job.options import JobOptions
from pipelines.job.output import config_values, name_of, write_config
from pipelines.job.tracking import default_tracking_uri, tracked


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
        model: Bundle, for the published protocol and for --labels.
        protocol: Which.
        ks: Ranks for precision.
        recall_ks: Ranks for recall: 1 if any of the first k is a match.
        count_query: R-precision and MAP@R with the query counted in R, the off-by-one form that published tables use.
        ties: Every measure is the mean over random order inside ties. stable adds, for comparison, each with ties in the order of item_id
            (of hits: of ranks), as mAP_stable and so on.
        denominator: What the mAP@k of hits divides by: all matches in the gallery, as TREC does; those reachable in k hits; or those found.
        labels: Queries of all labels, or of those that --model saw in training or did not, matched by name. The gallery stays whole.
    """

    out: str = field(metadata=LOCATION)
    gallery: str = field(metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    hits: str | None = field(default=None, metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    protocol: Literal["published", "encoded", "both"] = "both"
    ks: tuple[int, ...] = (1, 10)
    recall_ks: tuple[int, ...] = (1, 2, 4, 8)
    count_query: bool = False
    ties: Ties = "expected"
    denominator: Denominator = "all"
    labels: LabelChoice = "all"

    def problems(self) -> list[str]:
        found = super().problems()
        if self.protocol == "published" and self.model is None:
            found.append("--protocol published needs --model: its bundle keeps the target codes")
        if self.hits is not None and self.protocol == "published":
            found.append("--hits are of an encoded gallery: use --protocol encoded or both")
        if self.labels != "all" and self.model is None:
            found.append(f"--labels {self.labels} needs --model: its bundle names the labels that were trained")
        if self.labels == "unseen" and self.protocol == "published":
            found.append("--labels unseen has no published protocol, whose gallery is the trained labels: use --protocol encoded")
        if self.denominator != "all" and self.hits is None:
            found.append(f"--denominator {self.denominator} is of --hits: without them all matches are ranked")
        if min((*self.ks, *self.recall_ks), default=1) < 1:
            found.append(f"--ks {list(self.ks)}, --recall_ks {list(self.recall_ks)}: ranks begin at 1")
        if self.tracking_uri is None:
            try:
                default_tracking_uri(self.out)
            except InputError as error:
                found.append(str(error))
        return found


@dataclass(frozen=True)
class Evaluation:
    """measures: {protocol: {measure: value}}, with the bounds of the 95 % confidence intervals as NAME_low and NAME_high. curves:
    {protocol: (recall, precision)} at Hamming radii 0..bits.
    """

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
    elif config.labels == "unseen" and "published" in protocols:
        protocols.remove("published")
        print("note: of unseen labels only the encoded protocol is measured: the published one ranks the trained labels alone")
    elif config.protocol == "both" and config.model and read_bundle_record(config.model).hash_input == "joint":
        protocols.remove("published")
        print("note: only the encoded protocol is measured: joint codes are not compared with target codes")
    if config.dry_run:
        print(f"dry run: {queries.manifest.num_ok} queries, {gallery.manifest.num_ok} items, {', '.join(protocols)}; nothing was started")
        return Evaluation({}, {})
    chosen = None
    if config.labels != "all":
        chosen = labels_by_model(queries, config.labels, config.model, name=f"--model {config.model}")
        assert chosen is not None
        print(f"note: only queries of the {len(chosen)} {config.labels} labels are measured, against the whole gallery")
    write_config(config.out, config)
    ranks: dict[str, Any] = {
        "ks": config.ks,
        "recall_ks": config.recall_ks,
        "count_query": config.count_query,
        "ties": config.ties,
        "labels": chosen,
    }
    ranked = {}
    measures: dict[str, dict[str, float]] = {}
    if config.hits is not None:
        if (recall := read_recall(config.hits)) is not None:
            print(f"note: the hits are approximate: recall@{int(recall['k'])} {recall['recall']:.4f} against exact search")
        own = same_location(gallery.path, queries.path)
        measures["encoded, hits"], notes = hits_measures(read_hits(config.hits), gallery, own=own, denominator=config.denominator, **ranks)
        for note in notes:
            print(f"note: {note}")
    elif "encoded" in protocols:
        ranked["encoded"] = encoded_measures(gallery, queries, **ranks)
    if "published" in protocols:
        assert config.model is not None
        ranked["published"] = published_measures(queries, read_bundle_record(config.model), name=f"--model {config.model}", **ranks)
    measures |= {protocol: found.measures for protocol, found in ranked.items()}
    evaluation = Evaluation(measures, {protocol: (found.recall_H, found.precision_H) for protocol, found in ranked.items()})
    with (
        tracked(f"evaluate {name_of(config.out)}", config.tracking_uri, config.out, config_values(config)) as run_,
        tempfile.TemporaryDirectory() as folder,
    ):
        _write(Path(folder), evaluation)
        for protocol, values in measures.items():
            prefix = protocol.replace(", ", "_")
            run_.log_metrics({f"{prefix}_{name}": value for name, value in values.items()}, 0)
        run_.log_artifact(folder)
        copy_files(folder, config.out)
    print_measures(measures)
    return evaluation


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
