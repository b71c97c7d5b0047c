"""`eet quickstart`: the whole way on one machine, ending in a table and a page to look at."""

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eet.datasets import load_dataset, synthetic
from eet.distillation import PUBLISHED_BETA
from eet.errors import InputError
from eet.figures import Paragraph, Picture, Section, Table, render_report
from eet.gallery import fixed_binary_to_numpy, is_gallery, open_gallery, spread_queries
from eet.images.preprocessing import PUBLISHED_MIN_CROP_AREA
from eet.metrics import measures_with_bounds
from eet.retrieval.panels import hit_blocks, kept_blocks
from eet.vit import PUBLISHED_KEEP_RATIOS, load_bundle
from pipelines import distill, encode, evaluate, search
from pipelines.job.cluster import connected
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.output import write_config
from pipelines.job.progress import duration
from pipelines.report import REPORT_FILE
from pipelines.training.run import CHECKPOINTS

SYNTHETIC_LABELS, SYNTHETIC_TRAIN, SYNTHETIC_TEST, SYNTHETIC_SIZE = 8, 200, 25, 96
SHOWN_QUERIES, SHOWN_HITS = 16, 5


@dataclass(kw_only=True)
class QuickstartConfig(JobOptions):
    """Trains a small teacher and student, encodes, searches, evaluates, and shows it in report.html.

    Without --data.root it draws its own pictures (drawn birds whose labels differ by small parts) and trains a small ViT from nothing.
    With --data.root (class folders, or a folder with split.csv) it does the same on real images: DeiT-Tiny at the published schedule,
    fine-tuned for 5 epochs with AdamW from --weights.

    Attributes:
        out: Folder for everything.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        data: Labelled images; default drawn ones.
        student: The network; default a ViT of 6 blocks, 96 wide, 12-pixel patches, 96-pixel images, 32 bits.
        loss: The objective.
        train: The training; default AdamW from nothing, sized for a few minutes on two cores.
    """

    out: str = field(metadata=LOCATION)
    weights: str = field(default="none", metadata=WEIGHTS)
    data: DataOptions = field(default_factory=lambda: DataOptions(name="synthetic"))
    student: StudentOptions = field(
        default_factory=lambda: StudentOptions(
            backbone="vit_tiny_patch16_224",
            backbone_options={"patch_size": 12, "embed_dim": 96, "depth": 6, "num_heads": 3},
            image_size=SYNTHETIC_SIZE,
            bits=32,
            # Behind half of the depth: importance means little in the first blocks of a network that starts from nothing.
            prune_after=(3, 4, 5),
            keep_ratios=(0.5, 0.5, 0.5),
        )
    )
    loss: LossOptions = field(default_factory=lambda: LossOptions(beta=0.5))
    train: TrainOptions = field(
        default_factory=lambda: TrainOptions(
            epochs=6, batch_size=16, optimizer="adamw", learning_rate=1e-3, weight_decay=0.05, min_crop_area=0.5
        )
    )

    @staticmethod
    def defaults_given(said: Any) -> dict[str, Any]:
        """Defaults of the command line once images are named: a pretrained DeiT-Tiny at the published schedule, fine-tuned."""
        if said.data.root is None and said.data.table is None:
            return {}
        split_csv = said.data.root is not None and (Path(said.data.root) / "split.csv").is_file()
        return {
            "weights": "timm",
            "data.name": "table" if said.data.table is not None or split_csv else "folder",
            "student.backbone": "deit_tiny_patch16_224",
            "student.backbone_options": {},
            "student.image_size": None,
            "student.bits": 64,
            "student.prune_after": None,
            "student.keep_ratios": PUBLISHED_KEEP_RATIOS,
            "loss.beta": PUBLISHED_BETA,
            "train.epochs": 5,
            "train.batch_size": 64,
            "train.learning_rate": 1.5e-4,
            "train.head_learning_rate": 1.5e-3,
            "train.weight_decay": 0.01,
            "train.min_crop_area": PUBLISHED_MIN_CROP_AREA,
        }

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        if self.data.name == "synthetic" and self.data.root is None:
            found = [problem for problem in found if not problem.startswith("--data.root is missing")]
        return found


@dataclass(frozen=True)
class QuickstartResult:
    """What came out: the page, the measures {protocol: {measure: value}}, and, with masks, the creature's share of picture and tokens."""

    report: Path
    measures: dict[str, dict[str, float]]
    creature: dict[str, float]


def run(config: QuickstartConfig) -> QuickstartResult:
    """Runs the jobs one after another in one Ray session."""
    started = time.monotonic()
    out = Path(config.out)
    drawn = config.data.root is None and config.data.table is None
    if (out / REPORT_FILE).exists():
        raise InputError(f"{out} holds a finished quickstart: open {out / REPORT_FILE}, or choose another --out")
    if config.dry_run:
        return _dry_run(config, out, drawn)
    data = _data(config, out)
    load_dataset(data.name, data.root, table=data.table).select("test")  # said before training, not behind it
    write_config(config.out, config)
    model, gallery, hits = str(out / "model"), str(out / "gallery"), str(out / "hits.parquet")
    tracking = _tracking_uri(config, out)
    with connected(config.ray_address):
        if not (out / "model" / "model.json").exists():  # a quickstart that was cut off goes on where it was
            begun = (out / "model" / CHECKPOINTS).exists()
            distill.run(_distill_config(config, data, out, resume=begun))
        if not is_gallery(gallery):
            encode.run(encode.EncodeConfig(model=model, data=data, split="test", tokens=True, out=gallery, rows_per_part=512))
    search.run(search.SearchConfig(gallery=gallery, queries=gallery, model=model, k=100, out=hits))
    evaluation = evaluate.run(evaluate.EvaluateConfig(gallery=gallery, model=model, out=str(out / "evaluation"), tracking_uri=tracking))
    creature = creature_shares(gallery, data.root, load_bundle(model).grid) if drawn else {}
    report = _write_report(out, evaluation, creature, hits, gallery, model)
    if creature:
        print(
            f"the creature covers {creature['image']:.0%} of a picture and {creature['last_stage']:.0%} of the last stage's kept tokens "
            f"({creature['last_stage'] / creature['image']:.1f} times)"
        )
    print(f"{report}  ({duration(time.monotonic() - started)})")
    return QuickstartResult(report, evaluation.measures, creature)


def _data(config: QuickstartConfig, out: Path) -> DataOptions:
    """The dataset: the user's, or pictures drawn into OUT/data."""
    if config.data.root is not None or config.data.table is not None:
        return config.data
    root = out / "data"
    if not (root / "split.csv").exists():
        synthetic.write(
            str(root),
            num_labels=SYNTHETIC_LABELS,
            images_per_label=SYNTHETIC_TRAIN,
            test_per_label=SYNTHETIC_TEST,
            image_size=SYNTHETIC_SIZE,
            seed=config.seed,
        )
    return DataOptions(name="synthetic", root=str(root))


def _tracking_uri(config: QuickstartConfig, out: Path) -> str:
    return config.tracking_uri or f"sqlite:///{out.absolute() / 'mlflow.db'}"


def _dry_run(config: QuickstartConfig, out: Path, drawn: bool) -> QuickstartResult:
    """The training's own dry run; pictures that would be drawn are drawn into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        data = _data(config, Path(folder)) if drawn else config.data
        distill.run(_distill_config(config, data, out, dry_run=True))
    return QuickstartResult(out / REPORT_FILE, {}, {})


def _distill_config(
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


def creature_shares(gallery: str, root: str | None, grid: tuple[int, int]) -> dict[str, float]:
    """How much of the pictures, and of the last stage's kept tokens, lies on the creature whose mask is known.

    A patch counts with the share of its pixels inside the mask. Returns {'image': ..., 'last_stage': ...}, means over the gallery.
    """
    assert root is not None
    reader = open_gallery(gallery)
    token_shape = reader.manifest.token_shape
    assert token_shape is not None
    image_shares, kept_shares = [], []
    for part in reader.parts(["item_id", "token_index", "status"]):
        good = part.filter(np.asarray(part["status"]) == "ok")
        index_NK = fixed_binary_to_numpy(good["token_index"], "<u2", token_shape[:1])
        for item_id, index_K in zip(good["item_id"].to_pylist(), index_NK, strict=True):
            patches = _patch_shares(synthetic.read_mask(root, item_id), grid)
            image_shares.append(patches.mean())
            kept_shares.append(patches.ravel()[index_K].mean())
    return {"image": float(np.mean(image_shares)), "last_stage": float(np.mean(kept_shares))}


def _patch_shares(mask_HW: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch inside the mask, (rows, columns), of the centred part of the picture that the network sees."""
    from PIL import Image

    from eet.images import Preprocessing

    rows, columns = grid
    size = Preprocessing.published((rows * 8, columns * 8))
    view = size.view(Image.fromarray(mask_HW.astype(np.uint8) * 255).convert("RGB"))
    pixels = np.asarray(view)[:, :, 0] / 255
    return pixels.reshape(rows, 8, columns, 8).mean(axis=(1, 3))


def _write_report(
    out: Path,
    evaluation: evaluate.Evaluation,
    creature: dict[str, float],
    hits_path: str,
    gallery_path: str,
    model: str,
) -> Path:
    from eet.gallery import read_hits

    hits, gallery, student = read_hits(hits_path), open_gallery(gallery_path), load_bundle(model)
    cells = [
        {name: (value, _interval(bounds)) for name, value, bounds in measures_with_bounds(values)}
        for values in evaluation.measures.values()
    ]
    names = list(dict.fromkeys(name for found in cells for name in found))
    rows: list[list[Any]] = [[name, *(cell for found in cells for cell in found.get(name, (None, None)))] for name in names]
    headers = ["measure", *(header for protocol in evaluation.measures for header in (protocol, "95 %"))]
    teacher = json.loads((out / "model" / "test.json").read_text()).get("teacher", {})
    history = json.loads((out / "model" / "history.json").read_text())
    summary: list[Any] = [
        Table(headers, rows, caption="The student on the test split, under both protocols, with 95 % confidence intervals over queries"),
        Table(
            ["protocol", "student mAP", "teacher mAP"],
            [[name, values["mAP"], teacher[name]["mAP"]] for name, values in evaluation.measures.items() if name in teacher],
            caption="Student (prunes) beside its teacher (does not)",
        ),
    ]
    if creature:
        summary.append(
            Paragraph(
                f"The creature covers {creature['image']:.0%} of a picture and "
                f"{creature['last_stage']:.0%} of the tokens that the last stage "
                f"kept: {creature['last_stage'] / creature['image']:.1f} times its share."
            )
        )
    shown = spread_queries(hits, SHOWN_QUERIES)
    curve = out / "evaluation" / "pr_curve.png"
    sections = [
        Section("Result", summary),
        Section("Queries and their nearest items", hit_blocks(hits, shown, gallery, gallery, top=SHOWN_HITS)),
        Section("What the network kept", kept_blocks(student, gallery, shown[:8])),
        Section("Precision and recall", [Picture(curve, caption="Over Hamming radius", alt="precision against recall")]),
        Section("Training", [Picture(out / "model" / "training.png", caption="Loss terms and validation mAP", alt="training curves")]),
    ]
    counts = student.schedule.kept_counts(student.num_patches)
    subtitle = (
        f"{gallery.manifest.num_ok} test images, {student.num_bits} bits; the student keeps {', '.join(map(str, counts))} of "
        f"{student.num_patches} patches; {len(history)} epochs"
    )
    path = out / REPORT_FILE
    path.write_text(render_report("EET quickstart", sections, subtitle=subtitle))
    return path


def _interval(bounds: tuple[float, float] | None) -> str | None:
    return None if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
