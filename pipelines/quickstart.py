"""`eet quickstart`: all jobs in small on one machine, ending in a table and a page with images."""

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eet.datasets import load_dataset, synthetic
from eet.errors import InputError
from eet.figures import Paragraph, Picture, Section, Table, render_report
from eet.gallery import Gallery, is_gallery, open_gallery, read_hits, spread_queries
from eet.retrieval.mask_shares import mask_shares
from eet.retrieval.matches import MATCHES_EXPLAINED, match_blocks
from eet.retrieval.measures import measures_by_label
from eet.retrieval.panels import correct_hits, hit_blocks, kept_blocks
from eet.storage import write_text
from eet.vit import is_bundle, load_bundle, read_bundle_record
from pipelines import distill, encode, evaluate, rerank, search, sweep
from pipelines.configs.quickstart import SYNTHETIC_SIZE, QuickstartConfig
from pipelines.job.cluster import connected
from pipelines.job.held_output import check_local_output
from pipelines.job.options import DataOptions
from pipelines.job.output import write_config
from pipelines.job.progress import duration
from pipelines.job.tracking import check_tracking
from pipelines.report import REPORT_FILE
from pipelines.training.run import CHECKPOINTS

SYNTHETIC_LABELS, SYNTHETIC_UNSEEN, SYNTHETIC_TRAIN, SYNTHETIC_TEST = 16, 4, 200, 20
FIRST_QUERIES, SHOWN_QUERIES, SHOWN_HITS, KEPT_QUERIES, MATCHED_QUERIES = 3, 8, 5, 6, 3
MOST_HITS = 1000
RERANKED = 20
"""First hits of a query that are re-ranked."""
SWEEP_TRIALS, SWEEP_SHARE = 3, 3
"""Trials of --with-sweep, each trained for the quickstart's epochs divided by SWEEP_SHARE."""


@dataclass(frozen=True)
class QuickstartResult:
    """What came out: the page, the measures {row of its table: {measure: value}}, and, where masks are known, the creature's share of
    images and tokens.

    Rows are "seen" and "unseen", the queries whose label was trained or not, and the same with ", re-ranked" added. All queries search
    the whole gallery of test images.
    """

    report: Path
    measures: dict[str, dict[str, float]]
    creature: dict[str, float]


def run(config: QuickstartConfig) -> QuickstartResult:
    """Runs the jobs one after another in one Ray session."""
    check_local_output(config)
    started = time.monotonic()
    out = Path(config.out)
    drawn = config.data.root is None and config.data.table is None
    if (out / REPORT_FILE).exists():
        raise InputError(f"{out} holds a finished quickstart: open {out / REPORT_FILE}, or choose another --out")
    if config.dry_run:
        return _dry_run(config, out, drawn)
    check_tracking(_tracking_uri(config, out), config.out)
    data = data_options(config, out)
    load_dataset(data.name, data.root, table=data.table).select("test")  # an error is reported before training
    write_config(config.out, config)
    model, gallery, hits, reranked = (str(out / name) for name in ("model", "gallery", "hits.parquet", "reranked.parquet"))
    tracking = _tracking_uri(config, out)
    with connected(config.ray_address):
        if not is_bundle(out / "model"):  # an interrupted quickstart continues
            resume = (out / "model" / CHECKPOINTS).exists()
            distill.run(training_config(config, data, out, resume=resume))
        if not is_gallery(gallery):
            encode.run(
                encode.EncodeConfig(model=model, data=data, split="test", tokens=True, out=gallery, rows_per_part=512, engine="local")
            )
        trials = sweep.run(_sweep_config(config, data, out)) if config.with_sweep else None
    # Every image is a hit of every other, so that measures of the hits are those of the whole gallery.
    everything = max(1, open_gallery(gallery).manifest.num_ok - 1)
    search.run(search.SearchConfig(gallery=gallery, queries=gallery, model=model, k=min(everything, MOST_HITS), out=hits, format="none"))
    rerank.run(rerank.RerankConfig(hits=hits, gallery=gallery, out=reranked, top=RERANKED, engine="local"))
    evaluate.run(
        evaluate.EvaluateConfig(gallery=gallery, protocol="encoded", model=model, out=str(out / "evaluation"), tracking_uri=tracking)
    )
    trained = read_bundle_record(model).label_names
    measures = measures_by_label(open_gallery(gallery), {"": read_hits(hits), ", re-ranked": read_hits(reranked)}, trained)
    creature = creature_shares(gallery, data, model) if drawn else {}
    report = _write_report(out, measures, creature, trials)
    if creature:
        print(
            f"the bird covers {creature['image']:.0%} of an image and {creature['last_stage']:.0%} of the tokens that the last stage keeps "
            f"({creature['last_stage'] / creature['image']:.1f} times)"
        )
    print(f"{report}  ({duration(time.monotonic() - started)})")
    return QuickstartResult(report, measures, creature)


def data_options(config: QuickstartConfig, out: Path) -> DataOptions:
    """The dataset: the user's, or images drawn into OUT/data."""
    if config.data.root is not None or config.data.table is not None:
        return config.data
    root = out / "data"
    if not (root / "split.csv").exists():
        synthetic.write(
            str(root),
            num_labels=SYNTHETIC_LABELS,
            unseen=SYNTHETIC_UNSEEN,
            images_per_label=SYNTHETIC_TRAIN,
            test_per_label=SYNTHETIC_TEST,
            image_size=SYNTHETIC_SIZE,
            seed=config.seed,
        )
    unseen = root / synthetic.UNSEEN_FILE
    return DataOptions(name="synthetic", root=str(root), unseen=str(unseen) if unseen.exists() else None)


def _tracking_uri(config: QuickstartConfig, out: Path) -> str:
    return config.tracking_uri or f"sqlite:///{out.absolute() / 'mlflow.db'}"


def _dry_run(config: QuickstartConfig, out: Path, drawn: bool) -> QuickstartResult:
    """The training's own dry run; images that would be drawn are drawn into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        data = data_options(config, Path(folder)) if drawn else config.data
        distill.run(training_config(config, data, out, dry_run=True))
    return QuickstartResult(out / REPORT_FILE, {}, {})


def creature_shares(gallery: str, data: DataOptions, model: str) -> dict[str, float]:
    """`mask_shares` of drawn images."""
    root = data.root
    assert root is not None
    return mask_shares(open_gallery(gallery), lambda item_id: synthetic.read_mask(root, item_id), load_bundle(model).grid)


def training_config(
    config: QuickstartConfig, data: DataOptions, out: Path, *, dry_run: bool = False, resume: bool = False
) -> distill.DistillConfig:
    return distill.DistillConfig(
        out=str(out / "model"),
        weights=config.weights,
        data=data,
        student=config.student,
        loss=config.loss,
        train=config.train,
        seed=config.seed,
        tracking_uri=_tracking_uri(config, out),
        address=config.address,
        dry_run=dry_run,
        resume=resume,
    )


def _sweep_config(config: QuickstartConfig, data: DataOptions, out: Path) -> sweep.SweepConfig:
    """Three short trainings with different keep ratios."""
    assert config.train.epochs is not None
    return sweep.SweepConfig(
        out=str(out / "sweep"),
        space="keep_ratios",
        space_options={"stages": len(config.student.keep_ratios)},
        trials=SWEEP_TRIALS,
        weights=config.weights,
        data=data,
        student=config.student,
        loss=config.loss,
        train=replace(config.train, epochs=max(1, config.train.epochs // SWEEP_SHARE), validation_share=0.1),
        seed=config.seed,
        tracking_uri=_tracking_uri(config, out),
        address=config.address,
    )


MEASURES = ("P@1", "P@10", "mAP", "MAP@R")


def _write_report(out: Path, measures: dict[str, dict[str, float]], creature: dict[str, float], trials: sweep.SweepResult | None) -> Path:
    hits, reranked = read_hits(str(out / "hits.parquet")), read_hits(str(out / "reranked.parquet"))
    gallery, student = open_gallery(str(out / "gallery")), load_bundle(str(out / "model"))
    history = json.loads((out / "model" / "history.json").read_text())
    shown = spread_queries(hits, SHOWN_QUERIES)
    trained = set(read_bundle_record(str(out / "model")).label_names)
    labels = dict(zip(hits["query_id"].to_pylist(), hits["query_label"].to_pylist(), strict=True))
    names = gallery.manifest.label_names or ()
    correct = correct_hits(hits, shown, top=SHOWN_HITS)
    # Trained labels first, which most queries have, then the queries with the most correct hits; the page says so.
    shown = sorted(shown, key=lambda query_id: (names[labels[query_id]] not in trained, -correct[query_id]))
    first, others = shown[:FIRST_QUERIES], shown[FIRST_QUERIES:]
    sections = [
        Section(
            "What was found",
            [
                Paragraph(
                    f"{len(shown)} queries, spread evenly over the labels. Here are the {len(first)} with the most correct hits; the "
                    "others are below."
                ),
                *_before_and_after(hits, reranked, first, gallery),
                Paragraph(in_words(measures, chance_of(gallery), student.num_bits, creature)),
                _table(measures, gallery),
            ],
        ),
        Section(
            "Matched regions",
            [Paragraph(MATCHES_EXPLAINED), *match_blocks(student, reranked, first[:MATCHED_QUERIES], gallery, gallery, top=2)],
        ),
        Section("What the network kept", [*_compared_with_the_teacher(out), *kept_blocks(student, gallery, shown[:KEPT_QUERIES])]),
        Section("More queries", hit_blocks(reranked, others, gallery, gallery, top=SHOWN_HITS)),
        Section(
            "Training and search",
            [
                *([Picture(out / "model" / "training.png", caption="Loss terms over epochs", alt="training curves")] if history else []),
                Picture(out / "evaluation" / "pr_curve.png", caption="Over Hamming radius", alt="precision against recall"),
            ],
        ),
    ]
    if trials is not None:
        sections.insert(-1, Section("Three trials of a sweep", _trials(trials, out)))
    counts = student.schedule.kept_counts(student.num_patches)
    subtitle = (
        f"{gallery.manifest.num_ok} test images, {student.num_bits} bits each; the student keeps {', '.join(map(str, counts))} of "
        f"{student.num_patches} patches; {len(history)} epochs"
    )
    path = out / REPORT_FILE
    write_text(str(path), render_report("EET quickstart", sections, subtitle=subtitle))
    return path


def _before_and_after(hits: pa.Table, reranked: pa.Table, shown: list[str], gallery: Gallery) -> list[Any]:
    """For each query the first hits by codes, and below them the first hits after re-ranking."""
    blocks: list[Any] = []
    for query_id in shown:
        for table, caption in ((hits, "nearest codes"), (reranked, "re-ranked by matched regions")):
            for block in hit_blocks(table, [query_id], gallery, gallery, top=SHOWN_HITS):
                blocks.append(replace(block, caption=f"{query_id}: {caption}") if isinstance(block, Picture) else block)
    return blocks


def _compared_with_the_teacher(out: Path) -> list[Any]:
    """What pruning costs, in a sentence."""
    trained = json.loads((out / "model" / "test.json").read_text())
    if "teacher" not in trained:
        return []
    student, teacher = (trained[name]["encoded"] for name in ("student", "teacher"))
    return [
        Paragraph(
            f"Among the test images of trained labels, the student, which drops patches, reaches mAP {student['mAP']:.2f}; its teacher, "
            f"which keeps all of them, {teacher['mAP']:.2f}."
        )
    ]


def chance_of(gallery: Gallery) -> float:
    """P@1 of random hits: the share of other images that have the query's label, mean over labelled queries."""
    labels = gallery.labels()
    counts = np.bincount(labels[labels >= 0])
    return float((counts * (counts - 1)).sum() / max(1, counts.sum()) / max(1, len(labels) - 1))


def in_words(measures: dict[str, dict[str, float]], chance: float, bits: int, creature: dict[str, float]) -> str:
    """The result in a sentence or two."""
    text = f"With {bits} bits an image, the first hit has the label of its query for {_of_100(measures['seen']['P@1'])} queries"
    if "unseen" in measures:
        text += f", and for {_of_100(measures['unseen']['P@1'])} queries of labels that were never trained"
    text += f"; by chance it would for {_of_100(chance)}."
    if creature:
        text += (
            f" The bird covers {creature['image']:.0%} of an image and {creature['last_stage']:.0%} of the patches that the network "
            f"keeps: {creature['last_stage'] / creature['image']:.1f} times its share."
        )
    return text


def _of_100(share: float) -> str:
    return f"{round(100 * share)} of 100"


def _table(measures: dict[str, dict[str, float]], gallery: Gallery) -> Table:
    rows: list[list[Any]] = [
        [name.replace("unseen", "labels not trained").replace("seen", "labels trained"), int(values["queries"])]
        + [values.get(measure) for measure in MEASURES]
        for name, values in measures.items()
    ]
    caption = f"Each test image as a query among all {gallery.manifest.num_ok} test images; re-ranked: the first {RERANKED} hits"
    return Table(["queries", "number", *MEASURES], rows, caption=caption)


def _trials(trials: sweep.SweepResult, out: Path) -> list[Any]:
    names = list(dict.fromkeys(name for trial in trials.trials for name in trial.parameters))
    rows = [
        [trial.name, *(trial.parameters.get(name) for name in names), trial.best.get(trial.quality), trial.costs.get("gmacs")]
        for trial in trials.trials
    ]
    blocks: list[Any] = [Table(["trial", *names, "validation mAP", "GMACs"], rows, caption="How much each stage keeps, and what it costs")]
    if (out / "sweep" / "pareto.png").is_file():
        blocks.append(Picture(out / "sweep" / "pareto.png", caption="Accuracy against cost", alt="validation mAP against cost"))
    return blocks
