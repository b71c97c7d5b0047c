"""The groups of options that jobs share. Each lists all invalid values in it, before anything starts."""

import os
from dataclasses import dataclass, field, fields, is_dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eet.options.choices import Fit, HashInput, Precision
from eet.options.defaults import DEFAULT_LABEL_WEIGHT, PUBLISHED_MASKED_PATCHES, PUBLISHED_MIN_CROP_AREA, PUBLISHED_SIGMA
from eet.options.image_size import ImageSize, image_size_problems
from eet.options.registered import registered
from eet.options.schedule import PUBLISHED_KEEP_RATIOS, PruningSchedule
from pipelines.job.location import ADDRESS, LOCATION
from pipelines.job.recipes import Recipe, best_epochs, not_given

if TYPE_CHECKING:
    from eet.training.settings import FitSettings

MOST_BITS = 65_536
LARGEST_SEED = 2**32 - 1
"""What every generator of random numbers takes."""


def number_problems(config: Any, prefix: str = "") -> list[str]:
    """The values of a config, also in its groups, that are infinite or not a number, one sentence each: no flag takes them."""
    found = []
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            found += number_problems(value, f"{prefix}{entry.name}.")
        elif any(isinstance(one, float) and not isfinite(one) for one in (value if isinstance(value, tuple) else (value,))):
            found.append(f"--{prefix}{entry.name} {value}: use a finite number")
    return found


@dataclass(kw_only=True)
class JobOptions:
    """Options of all jobs.

    Attributes:
        address: Ray cluster, for jobs that run on one: 'local' starts one on this machine, 'auto' or HOST:PORT joins a running one.
            Default: RAY_ADDRESS if it is set (as inside a submitted job), else local.
        tracking_uri: MLflow tracking address, for jobs that measure; default an sqlite file mlflow.db in the folder that holds the output.
            User and password of a server are in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
        seed: Seed of all random numbers in the job. Training and --adapt use them; encoding and searching do not.
        dry_run: Check everything, print a plan and an estimate, start nothing.
    """

    positional: ClassVar[str | None] = None
    """The option whose value may stand first, without its flag."""
    examples: ClassVar[tuple[str, ...]] = ()
    """Commands that the help shows."""
    unused: ClassVar[tuple[str, ...]] = ()
    """Options of all jobs that this one does not read. They are not shown, and accepted, as files of --config hold them."""

    address: str | None = field(default=None, metadata=ADDRESS)
    tracking_uri: str | None = field(default=None, metadata=ADDRESS)
    seed: int = 42
    dry_run: bool = False

    def problems(self) -> list[str]:
        """The invalid values in these options, one sentence each; empty if the job can start."""
        return self.group_problems()

    def group_problems(self, *, unused: tuple[str, ...] = ()) -> list[str]:
        """The invalid values in the options of all jobs, and in each group except the `unused` ones."""
        from pipelines.job.output import output_problems

        found = output_problems(self)
        if not 0 <= self.seed <= LARGEST_SEED:
            found.append(f"--seed {self.seed}: use 0 to {LARGEST_SEED}")
        for name, group in vars(self).items():
            if name not in unused and hasattr(group, "problems"):
                found += group.problems()
        return found

    def local_only(self, *names: str) -> list[str]:
        """A problem for each of these fields that is a URI: the job reads and writes it as a local path."""
        values = {name: getattr(self, name) for name in names}
        return [f"--{name} {value}: give a local path, or a mounted one" for name, value in values.items() if value and "://" in value]

    @property
    def ray_address(self) -> str:
        return self.address or os.environ.get("RAY_ADDRESS") or "local"


def hits_file_problems(out: str) -> list[str]:
    """The problem with the output of hits, if it is no Parquet file."""
    from pipelines.job.output import is_table

    return [] if is_table(out) else [f"--out {out}: hits are one Parquet file, so its name ends in .parquet"]


def metres_problems(metres: float | None) -> list[str]:
    """The problem with a radius in metres, if there is one."""
    return [] if metres is None or 0 <= metres < float("inf") else [f"--metres {metres}: a radius is 0 or more"]


@dataclass(kw_only=True)
class DataOptions:
    """The labelled images.

    Attributes:
        name: Dataset: cub, nabirds, aircraft, food101, vegfru, cars, sop, folder (one folder for each label), table, or synthetic; of
            places: msls, utm_names (file names with @easting@northing@), or table.
        root: Folder of the unpacked dataset; for a table, the folder to which its paths are relative.
        table: .csv, .tsv, .parquet, .arrow or .jsonl with columns path, label, split, or a list of paths (.txt) (dataset 'table');
            default ROOT/split.csv.
        unseen_share: Share of the labels that are held out of training, drawn by --seed; training also ends with measures of their test
            images, as a separate gallery. 0: none.
        unseen: File with the names of the labels to hold out, one per line, instead of a share.
        on_error: If an image is unreadable: stop the job before it starts, or skip the image (counted and listed).
    """

    name: str = "folder"
    root: str | None = field(default=None, metadata=LOCATION)
    table: str | None = field(default=None, metadata=LOCATION)
    unseen_share: float = 0.0
    unseen: str | None = field(default=None, metadata=LOCATION)
    on_error: Literal["stop", "skip"] = "stop"

    def problems(self) -> list[str]:
        found = []
        if self.name not in (allowed := registered("eet.datasets", "DATASETS")):
            found.append(f"--data.name {self.name}: allowed are {', '.join(allowed)}")
        if self.table is not None and self.name != "table":
            found.append(f"--data.table is read by --data.name table only, not by {self.name}")
        if self.root is None and not (self.name == "table" and self.table):
            found.append("--data.root is missing: give the folder of the dataset")
        if not 0 <= self.unseen_share < 1:
            found.append(f"--data.unseen_share {self.unseen_share}: use 0 (none) to below 1")
        if self.unseen_share and self.unseen:
            found.append("--data.unseen_share and --data.unseen are both given: use one")
        return found


@dataclass(kw_only=True)
class StudentOptions:
    """The network.

    Attributes:
        backbone: Any timm ViT of one resolution: deit_*, vit_*, eva02_*.
        backbone_options: Further arguments of timm's constructor, for example '{patch_size: 8, depth: 6}'.
        bits: Length of the hash code.
        hash_input: Input of the hash. logits (published) and probabilities: the code depends only on the label, and labels that were not
            trained are not found. joint: the code depends on the label and on the appearance of the image, so that images of labels that
            were never trained are found too. Default by --train.recipe: joint for best, logits for published.
        label_weight: Weight of the label in a joint hash. 0 uses appearance only: for galleries whose labels are not trained.
        target_codes: Codes of the labels, which the hashes learn: separated (far from each other) or published. Default by --train.recipe.
        prune_after: Blocks (1-based) after whose attention patches are dropped; default the published 4, 8, 10 of 12, scaled to the depth.
        keep_ratios: Share of the patches still present that each stage keeps.
        tokens_multiple: Changes the ratio of each stage so that it keeps the nearest multiple of this number of tokens, CLS included. 8 is
            good for GPUs.
        image_size: Side of the input in pixels, or height and width such as '[480,640]'; default the backbone's own.
        fit: crop cuts off the edges (published); squash shows the whole image, squeezed to the input's shape, which is better for places.
    """

    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    bits: int = 64
    hash_input: HashInput | None = None
    label_weight: float = DEFAULT_LABEL_WEIGHT
    target_codes: Literal["separated", "published"] | None = None
    prune_after: tuple[int, ...] | None = None
    keep_ratios: tuple[float, ...] = PUBLISHED_KEEP_RATIOS
    tokens_multiple: int = 1
    image_size: ImageSize | None = None
    fit: Fit = "crop"

    def problems(self) -> list[str]:
        found = []
        if not 1 <= self.bits <= MOST_BITS:
            found.append(f"--student.bits {self.bits}: a code has 1 to {MOST_BITS}")
        if not 0 <= self.label_weight < inf:
            found.append(f"--student.label_weight {self.label_weight}: a weight is 0 or more")
        if self.tokens_multiple < 1:
            found.append(f"--student.tokens_multiple {self.tokens_multiple}: use 1 or more, 1 for any number of tokens")
        found += image_size_problems("--student.image_size", self.image_size)
        try:
            stages = self.prune_after if self.prune_after is not None else tuple(range(1, len(self.keep_ratios) + 1))
            PruningSchedule(stages, self.keep_ratios)
        except ValueError as error:
            found.append(f"--student.prune_after, --student.keep_ratios: {error}")
        return found


@dataclass(kw_only=True)
class LossOptions:
    """Weights of the student's objective.

    Attributes:
        beta: Weight of the classification losses, of whole and of masked images. Default by --train.recipe: 0.5 for best, 0.1 for
            published.
        sigma: Weight of the distance from the teacher's hash.
        masked_patches: Number of patches that are masked, the most important ones for the teacher; 0 leaves out the loss of masked images.
    """

    beta: float | None = None
    sigma: float = PUBLISHED_SIGMA
    masked_patches: int = PUBLISHED_MASKED_PATCHES

    def problems(self) -> list[str]:
        found = []
        if self.beta is not None and not 0 <= self.beta < inf:
            found.append(f"--loss.beta {self.beta}: a weight is 0 or more")
        if not 0 <= self.sigma < inf:
            found.append(f"--loss.sigma {self.sigma}: a weight is 0 or more")
        if self.masked_patches < 0:
            found.append(f"--loss.masked_patches {self.masked_patches}: use 0 or more")
        return found


@dataclass(kw_only=True)
class LoopOptions:
    """Options of any training.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step, over all workers.
        micro_batch_size: Images that a worker runs at once; a step sums the gradients of several. Default: all on a GPU, 16 on a CPU.
        optimizer: sgd (momentum 0.9) or adamw.
        learning_rate: Learning rate of the backbone, after warm-up.
        head_learning_rate: Learning rate of both heads; default that of the backbone.
        momentum: Momentum of sgd.
        weight_decay: Weight decay of the optimizer.
        warmup_steps: Steps of linear warm-up before the cosine; default min(500, a ninth of all steps).
        min_crop_area: Smallest share of an image's area in a random training crop. Use a larger share if labels differ in small parts of
            small images.
        workers: Ray Train workers (DDP).
        cpus_per_worker: CPU threads of a worker; default an equal share of the cluster's.
        gpus_per_worker: GPUs of a worker, if the cluster has any; below 1, several trials of a sweep share a GPU.
        loader_workers: Image loading processes of a worker; default 0 on a CPU (loading and training alternate), at most 8 on a GPU.
        precision: auto is bf16 autocast on CUDA and fp32 on a CPU.
        compile: Run the networks through torch.compile.
        validation_share: Stratified share of the training images that is held out to choose the checkpoint, if the dataset has no val
            split; 0 trains on all images and takes the last epoch.
        max_failures: How often lost workers are replaced; training then continues from the last checkpoint.
    """

    epochs: int = 90
    batch_size: int = 64
    micro_batch_size: int | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    head_learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_steps: int | None = None
    min_crop_area: float = PUBLISHED_MIN_CROP_AREA
    workers: int = 1
    cpus_per_worker: int | None = None
    gpus_per_worker: float = 1
    loader_workers: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    validation_share: float = 0.1
    max_failures: int = 3

    @property
    def fewest_epochs(self) -> int:
        return 1

    def epochs_of(self, num_images: int) -> int:
        """Epochs of a training on this number of images."""
        return self.epochs

    def settings(self, seed: int, *, num_images: int) -> "FitSettings":
        """These options as settings of the training loop, for this number of training images."""
        from eet.training.settings import FitSettings

        return FitSettings(
            epochs=self.epochs_of(num_images),
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            min_crop_area=self.min_crop_area,
            loader_workers=self.loader_workers,
            precision=self.precision,
            compile=self.compile,
            seed=seed,
        )

    def problems(self) -> list[str]:
        found = []
        for name, least in (("epochs", self.fewest_epochs), ("batch_size", 1), ("workers", 1), ("max_failures", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                found.append(f"--train.{name} {getattr(self, name)}: use {least} or more")
        for name, least in (("micro_batch_size", 1), ("warmup_steps", 0), ("cpus_per_worker", 1), ("loader_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                found.append(f"--train.{name} {value}: use {least} or more")
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                found.append(f"--train.{name} {value}: must be above 0, and finite")
        if self.workers >= 1 and self.batch_size % self.workers:
            found.append(f"--train.batch_size {self.batch_size} cannot be divided over {self.workers} workers")
        if not (0 < self.gpus_per_worker < 1 and self.workers == 1) and self.gpus_per_worker != 1:
            found.append(f"--train.gpus_per_worker {self.gpus_per_worker}: use 1, or below 1 with one worker")
        if not 0 <= self.validation_share < 1:
            found.append(f"--train.validation_share {self.validation_share}: use 0 (none) to below 1")
        if not 0 < self.min_crop_area <= 1:
            found.append(f"--train.min_crop_area {self.min_crop_area}: use above 0 to 1")
        if not 0 <= self.momentum < 1:
            found.append(f"--train.momentum {self.momentum}: use 0 to below 1")
        if not 0 <= self.weight_decay < inf:
            found.append(f"--train.weight_decay {self.weight_decay}: use 0 or more")
        return found


@dataclass(kw_only=True)
class TrainOptions(LoopOptions):
    """Options of the training of student and teacher.

    Attributes:
        recipe: Values of the options that are not given. best: AdamW at 1e-4 (heads 1e-3, weight decay 0.01), batches of 32, label heads
            that start as linear probes, beta 0.5, joint hash, separated target codes, 20 epochs up to 6,000 images and fewer for more.
            published: as in the paper, SGD at 0.01, batches of 64, random heads, beta 0.1, hash of logits, 90 epochs.
        epochs: Passes over the training images; 0, with --train.probe, fits the probe alone. Default by the recipe: best 20 up to 6,000
            images, then fewer with the cube root of their number (10 at 50,000, 5 at 500,000); published 90.
        batch_size: Images per step, over all workers. Default by the recipe.
        optimizer: sgd (momentum 0.9) or adamw. Default by the recipe.
        learning_rate: Learning rate of the backbone, after warm-up. Default by the recipe.
        head_learning_rate: Learning rate of both heads. Default by the recipe.
        weight_decay: Weight decay of the optimizer. Default by the recipe.
        probe: Start the label heads as linear probes of the frozen network; their test measures, before the first epoch, are the first
            rows of the table. Default by the recipe.
    """

    recipe: Recipe = "best"
    epochs: int | None = None  # type: ignore[assignment]
    batch_size: int | None = None  # type: ignore[assignment]
    optimizer: Literal["sgd", "adamw"] | None = None  # type: ignore[assignment]
    learning_rate: float | None = None  # type: ignore[assignment]
    weight_decay: float | None = None  # type: ignore[assignment]
    probe: bool | None = None

    def __post_init__(self) -> None:
        vars(self).update(not_given(self, "train", self.recipe))

    @property
    def fewest_epochs(self) -> int:
        return 0 if self.probe else 1

    def epochs_of(self, num_images: int) -> int:
        return best_epochs(num_images) if self.epochs is None else self.epochs
