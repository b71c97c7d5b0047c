"""The groups of options that jobs share. Each says what is impossible in it, all at once, before anything starts."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

from eet.datasets import DATASETS
from eet.device import Precision
from eet.distillation import PUBLISHED_MASKED_PATCHES, PUBLISHED_SIGMA
from eet.images.preprocessing import PUBLISHED_MIN_CROP_AREA
from eet.training.settings import FitSettings
from eet.vit import DEFAULT_LABEL_WEIGHT, PUBLISHED_KEEP_RATIOS, HashInput, PruningSchedule
from pipelines.job.location import LOCATION
from pipelines.job.recipes import Recipe, best_epochs, not_given


@dataclass(kw_only=True)
class JobOptions:
    """Common to all jobs.

    Attributes:
        address: Ray cluster, for jobs that run on one: 'local' starts one on this machine, 'auto' or HOST:PORT joins a running one.
            Default: RAY_ADDRESS where it is set (as inside a submitted job), else local.
        tracking_uri: MLflow tracking address, for jobs that measure; default an sqlite file mlflow.db in the folder that holds the output.
        seed: Of all chance in the job (training has some, encoding and searching none).
        dry_run: Check everything, print what would be done and an estimate, start nothing.
    """

    address: str | None = None
    tracking_uri: str | None = None
    seed: int = 42
    dry_run: bool = False

    def problems(self) -> list[str]:
        """What is impossible in these options, one sentence each; empty where the job can start."""
        return self.group_problems()

    def group_problems(self, *, unused: tuple[str, ...] = ()) -> list[str]:
        """What is impossible in the options of all jobs, and in each group. unused: groups that are left out."""
        found = []
        if self.seed < 0:
            found.append(f"--seed {self.seed}: use 0 or more")
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


@dataclass(kw_only=True)
class DataOptions:
    """Which labelled images.

    Attributes:
        name: Dataset: cub, nabirds, aircraft, food101, vegfru, cars, sop, folder (class folders), table, or synthetic.
        root: Folder of the dataset as its archive unpacks; for a table what its paths are relative to.
        table: .csv, .tsv, .parquet, .arrow or .jsonl with columns path, label, split, or a list of paths (.txt) (dataset 'table');
            default ROOT/split.csv.
        unseen_share: Share of the labels that are held out of training, drawn by --seed; training ends with measures of their test images
            too, as a gallery of their own. 0: none.
        unseen: File with the names of the labels to hold out, one a line, instead of a share.
        on_error: What an unreadable image does: stop the job before it starts, or skip (counted and listed).
    """

    name: str = "folder"
    root: str | None = field(default=None, metadata=LOCATION)
    table: str | None = field(default=None, metadata=LOCATION)
    unseen_share: float = 0.0
    unseen: str | None = field(default=None, metadata=LOCATION)
    on_error: Literal["stop", "skip"] = "stop"

    def problems(self) -> list[str]:
        found = []
        if self.name not in DATASETS:
            found.append(f"--data.name {self.name}: allowed are {', '.join(DATASETS)}")
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
        backbone: Any timm ViT with a CLS token: deit_*, vit_*.
        backbone_options: Further arguments of timm's constructor, for example '{patch_size: 8, depth: 6}'.
        bits: Length of the hash code.
        hash_input: What codes are made of. logits (published) and probabilities hold the label alone: use them where every label of the
            gallery is trained. joint holds the label and what the image looks like, so that labels that were never trained are found too.
            Default by --train.recipe: joint for best, logits for published.
        label_weight: Of the label in a joint hash. 0 is appearance alone: for galleries whose labels are not trained.
        target_codes: Codes of step 1: separated (as far from each other as can be found) or published. Default by --train.recipe.
        prune_after: Blocks (1-based) after whose attention patches are dropped; default the published 4, 8, 10 of 12, scaled to the depth.
        keep_ratios: Share of the living patches that each stage keeps.
        tokens_multiple: Each stage's ratio is moved so that it leaves the nearest multiple of this many tokens, CLS counted: 8 suits GPUs.
        image_size: Side of the input in pixels; default the backbone's own.
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
    image_size: int | None = None

    def problems(self) -> list[str]:
        found = []
        if self.bits < 1:
            found.append(f"--student.bits {self.bits}: a code needs at least 1")
        if not self.label_weight >= 0:
            found.append(f"--student.label_weight {self.label_weight}: a weight is 0 or more")
        if self.tokens_multiple < 1:
            found.append(f"--student.tokens_multiple {self.tokens_multiple}: use 1 or more, 1 for any number of tokens")
        if self.image_size is not None and self.image_size < 16:
            found.append(f"--student.image_size {self.image_size}: use 16 pixels or more")
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
        beta: Of classification, plain and with the teacher's regions hidden. Default by --train.recipe: 0.5 for best, 0.1 for published.
        sigma: Of following the teacher's hash.
        masked_patches: How many of the teacher's most important patches are hidden; 0 leaves that term out.
    """

    beta: float | None = None
    sigma: float = PUBLISHED_SIGMA
    masked_patches: int = PUBLISHED_MASKED_PATCHES

    def problems(self) -> list[str]:
        found = []
        if self.beta is not None and self.beta < 0:
            found.append(f"--loss.beta {self.beta}: a weight is 0 or more")
        if self.sigma < 0:
            found.append(f"--loss.sigma {self.sigma}: a weight is 0 or more")
        if self.masked_patches < 0:
            found.append(f"--loss.masked_patches {self.masked_patches}: use 0 or more")
        return found


@dataclass(kw_only=True)
class LoopOptions:
    """How a model is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step, over all workers.
        micro_batch_size: Images a worker runs at once; a step gathers gradients over several. Default: all at once on a GPU, 16 on a CPU.
        optimizer: sgd (momentum 0.9) or adamw.
        learning_rate: Of the backbone, after warm-up.
        head_learning_rate: Of both heads; default as the backbone's.
        momentum: Of sgd.
        weight_decay: Of either optimizer.
        warmup_steps: Steps of linear warm-up before the cosine; default min(500, a ninth of all steps).
        min_crop_area: Least share of a picture that a random training crop shows; labels told by parts of small pictures want more of it.
        workers: Ray Train workers (DDP).
        cpus_per_worker: CPU threads of a worker; default an equal share of the cluster's.
        gpus_per_worker: GPUs of a worker, where the cluster has any; below 1, trials of a sweep share one (one worker each).
        loader_workers: Image loading processes of a worker; default 0 on a CPU (it loads in turn with training), 8 at most on a GPU.
        precision: auto is bf16 autocast on CUDA and fp32 on a CPU.
        compile: Run the networks through torch.compile.
        validation_share: Stratified share of the training images held out to choose the checkpoint, where the dataset has no val split;
            0 trains on all and takes the last epoch.
        max_failures: How many times lost workers are replaced, from the last checkpoint.
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
        """Epochs of a training of so many images."""
        return self.epochs

    def settings(self, seed: int, *, num_images: int) -> FitSettings:
        """What the training loop needs of these, on so many training images."""
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
            if value is not None and not value > 0:
                found.append(f"--train.{name} {value}: must be above 0")
        if self.workers >= 1 and self.batch_size % self.workers:
            found.append(f"--train.batch_size {self.batch_size} does not divide over {self.workers} workers")
        if not (0 < self.gpus_per_worker < 1 and self.workers == 1) and self.gpus_per_worker != 1:
            found.append(f"--train.gpus_per_worker {self.gpus_per_worker}: use 1, or with one worker a share of 1")
        if not 0 <= self.validation_share < 1:
            found.append(f"--train.validation_share {self.validation_share}: use 0 (none) to below 1")
        if not 0 < self.min_crop_area <= 1:
            found.append(f"--train.min_crop_area {self.min_crop_area}: use above 0 to 1")
        if not 0 <= self.momentum < 1:
            found.append(f"--train.momentum {self.momentum}: use 0 to below 1")
        if self.weight_decay < 0:
            found.append(f"--train.weight_decay {self.weight_decay}: use 0 or more")
        return found


@dataclass(kw_only=True)
class TrainOptions(LoopOptions):
    """How student and teacher are trained.

    Attributes:
        recipe: Values of the options that are not given. best: AdamW at 1e-4 (heads 1e-3, weight decay 0.01), batches of 32, label heads
            that begin as linear probes, beta 0.5, joint hash, separated target codes, 20 epochs up to 6,000 images and fewer above.
            published: the paper's, SGD at 0.01, batches of 64, random heads, beta 0.1, hash of logits, 90 epochs.
        epochs: Passes over the training images; 0, with --train.probe, is the probe alone. Default by the recipe: best 20 up to 6,000
            images, then fewer with the cube root of their number (10 at 50,000, 5 at 500,000); published 90.
        batch_size: Images a step, over all workers. Default by the recipe.
        optimizer: sgd (momentum 0.9) or adamw. Default by the recipe.
        learning_rate: Of the backbone, after warm-up. Default by the recipe.
        head_learning_rate: Of both heads. Default by the recipe.
        weight_decay: Of either optimizer. Default by the recipe.
        probe: Label heads begin as linear probes of the frozen network; what that alone reaches is the first row of the table of test
            measures. Default by the recipe.
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
