"""`eet evaluate`: how good a gallery's codes, or a list of hits, are."""

import csv
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eet.errors import InputError
from eet.figures import precision_recall_figure, save_png
from eet.gallery import check_encoded_for, check_same_model, open_gallery, read_hits, read_recall
from eet.metrics import json_values
from eet.retrieval.measures import check_hits_belong, encoded_measures, hits_measures, labels_by_model, published_measures, recall_ranks
from eet.retrieval.metres import ids_by_condition, radius_of
from eet.retrieval.recall import recall_as_text
from eet.storage import copy_files, naming_file, same_location
from eet.vit import read_bundle_record
from pipelines.configs.evaluate import EvaluateConfig
from pipelines.job.measures_table import print_measures
from pipelines.job.output import check_own_folder, config_values, name_of, options_of_hits, write_config
from pipelines.job.tracking import check_tracking, tracked


@dataclass(frozen=True)
class Evaluation:
    """measures: {protocol: {measure: value}}, with the bounds of the 95 % confidence intervals as NAME_low and NAME_high. curves:
    {protocol: (recall, precision)} at Hamming radii 0..bits.
    """

    measures: dict[str, dict[str, float]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


def run(config: EvaluateConfig) -> Evaluation:
    """Measures, prints a table, and writes metrics.json and the PR curve into config.out."""
    check_own_folder(config)
    if not config.dry_run:
        check_tracking(config.tracking_uri, config.out)
    gallery = open_gallery(config.gallery)
    queries = open_gallery(config.queries) if config.queries else gallery
    check_same_model(gallery, queries)
    if config.hits is not None:
        check_encoded_for(config.hits, queries)
    metres = radius_of(gallery, queries, config.metres)
    protocols = [name for name in ("encoded", "published") if config.protocol in (name, "both")]
    if metres is not None:
        protocols = ["encoded"]
        print(f"note: matches are the items within {metres:g} metres of a query; only the encoded protocol is measured")
    elif config.model is None and "published" in protocols:
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
    hits = None if config.hits is None else read_hits(config.hits)
    if hits is not None:
        check_hits_belong(hits, gallery, queries)
    ranks: dict[str, Any] = {
        "ks": config.ks,
        "recall_ks": recall_ranks(metres) if config.recall_ks is None else config.recall_ks,
        "count_query": config.count_query,
        "ties": config.ties,
        "labels": chosen,
        "all_queries": config.all_queries,
    }
    groups: dict[str, list[str] | None] = {"": None}
    if config.by is not None:
        groups |= {f", {condition}": ids for condition, ids in ids_by_condition(queries).items()}
    ranked = {}
    measures: dict[str, dict[str, float]] = {}
    if config.hits is not None and hits is not None:
        if (recall := read_recall(config.hits)) is not None:
            print(f"note: the hits are approximate: {recall_as_text(recall)} against exact search")
        own = same_location(gallery.path, queries.path)
        k = _asked(config.hits) if recall is None or "k" not in recall else int(recall["k"])
        for group, ids in groups.items():
            measures[f"encoded, hits{group}"], notes = hits_measures(
                hits, gallery, own=own, queries=queries, k=k, denominator=config.denominator, metres=metres, only=ids, **ranks
            )
            for note in notes:
                print(f"note: {group.removeprefix(', ')}{': ' if group else ''}{note}")
    elif "encoded" in protocols:
        for group, ids in groups.items():
            ranked[f"encoded{group}"] = encoded_measures(gallery, queries, metres=metres, only=ids, **ranks)
    if "published" in protocols:
        assert config.model is not None
        record = read_bundle_record(config.model)
        for group, ids in groups.items():
            ranked[f"published{group}"] = published_measures(queries, record, name=f"--model {config.model}", only=ids, **ranks)
    measures |= {protocol: found.measures for protocol, found in ranked.items()}
    for protocol, values in measures.items():
        if not values["queries"]:
            raise InputError(
                f"{protocol}: no query has a match in {config.gallery}, so there is nothing to measure: "
                + (
                    "each label there is that of one item, or of none. Encode more items of a label, or give other --queries"
                    if metres is None
                    else f"no item lies within {metres:g} metres of one. Give other --queries, or a larger radius (--metres)"
                )
            )
    write_config(config.out, config)
    evaluation = Evaluation(measures, {protocol: (found.recall_H, found.precision_H) for protocol, found in ranked.items()})
    with tempfile.TemporaryDirectory() as folder:
        with naming_file(folder):
            _write(Path(folder), evaluation)
        copy_files(folder, config.out)  # before anything is logged: a server may have died meanwhile
        print_measures(measures)
        with tracked(f"evaluate {name_of(config.out)}", config.tracking_uri, config.out, config_values(config)) as run_:
            for protocol, values in measures.items():
                prefix = protocol.replace(", ", "_")
                run_.log_metrics({f"{prefix}_{name}": value for name, value in values.items()}, 0)
            run_.log_artifact(folder)
    return evaluation


def _asked(hits: str) -> int | None:
    """The --k of the search that wrote these hits, or those that they re-rank; None where no config says so."""
    written = options_of_hits(hits)
    if isinstance(k := written.get("k"), int):
        return k
    return None if written.get("hits") is None else _asked(written["hits"])


def _write(out: Path, evaluation: Evaluation) -> None:
    (out / "metrics.json").write_text(json.dumps(json_values(evaluation.measures), indent=1, allow_nan=False) + "\n")
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
