"""Options of `eet quickstart`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from eet.options.defaults import PUBLISHED_MASKED_PATCHES, PUBLISHED_MIN_CROP_AREA
from eet.options.schedule import PUBLISHED_KEEP_RATIOS
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.recipes import RECIPES, fill_groups

SYNTHETIC_SIZE = 64
"""Side of the drawn images, in pixels."""


@dataclass(kw_only=True)
class QuickstartConfig(JobOptions):
    """Trains a small teacher and student, encodes, searches, evaluates, and shows it in report.html.

    Without --data.root it draws its own images (birds whose labels differ by small parts) and trains a small ViT from random weights.
    With --data.root (one folder for each label, or a folder with split.csv) it does the same with real images: DeiT-Tiny at the
    published schedule, fine-tuned for 5 epochs from --weights.

    Attributes:
        out: Folder for everything.
        weights: Backbone weights: a file, timm (downloads its own), or none (random).
        data: Labelled images; default drawn ones.
        student: The network; default a ViT of 4 blocks, 96 wide, 16-pixel patches, 64-pixel images, 64 bits.
        loss: The objective.
        train: The training; default AdamW from random weights, a few minutes on two cores.
        with_sweep: Also sweep the keep ratios over three short trainings, and add their table to the page.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet quickstart --out runs/quickstart",
        "eet quickstart --data.root photos --out runs/mine",
    )

    out: str = field(metadata=LOCATION)
    weights: str = field(default="none", metadata=WEIGHTS)
    data: DataOptions = field(default_factory=lambda: DataOptions(name="synthetic"))
    student: StudentOptions = field(
        default_factory=lambda: StudentOptions(
            backbone="vit_tiny_patch16_224",
            # timm's own first weights are sized for a width of 768 or more; this network would learn too slowly from them.
            backbone_options={"patch_size": 16, "embed_dim": 96, "depth": 4, "num_heads": 4, "weight_init": "jax"},
            image_size=SYNTHETIC_SIZE,
            bits=64,
            hash_input="joint",
            # After half of the depth: importance means little in the first blocks of a network that starts from random weights.
            prune_after=(2, 3),
            keep_ratios=(0.5, 0.25),
        )
    )
    # Without masked regions it takes two thirds of the time: with them the student processes every image twice.
    loss: LossOptions = field(default_factory=lambda: LossOptions(beta=1.0, masked_patches=0))
    train: TrainOptions = field(
        default_factory=lambda: TrainOptions(
            epochs=20,
            batch_size=16,
            optimizer="adamw",
            learning_rate=1.5e-3,
            head_learning_rate=1.5e-3,
            weight_decay=0.05,
            min_crop_area=0.8,
            validation_share=0.0,
            probe=False,
            # Two threads are hardly faster on so small a network, and several times slower when other programs run.
            cpus_per_worker=1,
        )
    )
    with_sweep: bool = False

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
            # By --train.recipe, as in `eet distill`.
            **{f"{group}.{name}": None for group, values in RECIPES["best"].items() for name in values},
            "loss.masked_patches": PUBLISHED_MASKED_PATCHES,
            "train.epochs": 5,
            "train.cpus_per_worker": None,
            "train.validation_share": 0.1,
            "train.min_crop_area": PUBLISHED_MIN_CROP_AREA,
        }

    def __post_init__(self) -> None:
        fill_groups(self, "student", "loss")

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        if self.data.name == "synthetic" and self.data.root is None:
            found = [problem for problem in found if not problem.startswith("--data.root is missing")]
        return found
