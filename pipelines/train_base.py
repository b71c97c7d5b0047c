"""`eet train-base`: a base model for re-ranking, by metric learning; training and test labels are disjoint."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from eet.device import Precision
from eet.embedding import PUBLISHED_BETA, PUBLISHED_BETA_LEARNING_RATE, PUBLISHED_MARGIN, PUBLISHED_WIDTH, build_base
from eet.errors import InputError
from eet.matching import MARGINALS
from eet.training import FitSettings, LabelledImages, MetricLearningTask
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import DataOptions, JobOptions, LoopOptions
from pipelines.training.run import TrainingResult, check_output, read_labelled_images, run_training


@dataclass(kw_only=True)
class MarginOptions:
    """The margin loss and its batches. Defaults are the published ones.

    Attributes:
        margin: How far a positive must be inside the boundary of its label, and a negative outside.
        beta: Initial boundary of every label, a distance between unit vectors (0 to 2).
        beta_learning_rate: Learning rate of the boundaries.
        images_per_label: Images of each label in a batch.
        structural: Share of the structural distance in the distance of a pair, 0 to 1: the mean distance of the 7 x 7 tokens that optimal
            transport matches. It trains the tokens for re-ranking. DIML's is 0.5.
        marginal: How much mass each token sends or receives in the structural distance: one of those of `eet rerank`. DIML's is
            cross_correlation.
    """

    margin: float = PUBLISHED_MARGIN
    beta: float = PUBLISHED_BETA
    beta_learning_rate: float = PUBLISHED_BETA_LEARNING_RATE
    images_per_label: int = 2
    structural: float = 0.0
    marginal: str = "uniform"

    def problems(self) -> list[str]:
        found = []
        if not self.margin >= 0:
            found.append(f"--loss.margin {self.margin}: use 0 or more")
        if not 0 <= self.beta <= 2:
            found.append(f"--loss.beta {self.beta}: a distance between unit vectors is 0 to 2")
        if not self.beta_learning_rate >= 0:
            found.append(f"--loss.beta_learning_rate {self.beta_learning_rate}: use 0 (boundaries stay) or more")
        if self.images_per_label < 2:
            found.append(f"--loss.images_per_label {self.images_per_label}: an image needs a positive, so use 2 or more")
        if not 0 <= self.structural <= 1:
            found.append(f"--loss.structural {self.structural}: a share of the distance is 0 (none) to 1, DIML's 0.5")
        if self.marginal not in MARGINALS:
            found.append(f"--loss.marginal {self.marginal}: allowed are {', '.join(MARGINALS)}")
        return found


@dataclass(kw_only=True)
class BaseTrainOptions(LoopOptions):
    """Training options. Defaults are the published ones.

    Attributes:
        optimizer: adam (weight decay as part of the gradient), adamw or sgd.
        schedule: constant, or a cosine to 0.
        validation_share: Share of the training labels held out, with all their images, to choose the checkpoint, if the dataset has no val
            split with separate labels; 0 trains on all and takes the last epoch.
        micro_batch_size: Images that a worker runs at once. If they are fewer than its share of a step, all are run a second time for the
            gradient, because pairs are formed over the whole batch. Default: all at once on a GPU, 16 on a CPU.
        compile: Not supported for base models: mining has another shape for each batch.
    """

    epochs: int = 150
    batch_size: int = 112
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # type: ignore[assignment]
    learning_rate: float = 1e-5
    weight_decay: float = 4e-4
    warmup_steps: int | None = 0
    schedule: Literal["constant", "cosine"] = "constant"
    precision: Precision = "fp32"
    validation_share: float = 0.0

    def settings(self, seed: int, *, num_images: int) -> FitSettings:
        return dataclasses.replace(super().settings(seed, num_images=num_images), constant_rate=self.schedule == "constant")


@dataclass(kw_only=True)
class TrainBaseConfig(JobOptions):
    """Trains a backbone with a head for search by cosine and re-ranking by transport.

    Labels of training and test are disjoint: the dataset's own splits if they are disjoint (sop), else the first half of the labels is
    for training and the rest for the test.

    Attributes:
        out: Folder for the bundle, checkpoints, curves, measures and the split.
        backbone: deit_*, vit_* (with a CLS token), swin_*, resnet* of timm; cvt_13, cvt_21 of transformers (extra cvt).
        backbone_options: Further arguments of the backbone's constructor.
        embedding_width: Outputs of the head, for image and patches.
        image_size: Side of the input in pixels; default the backbone's own.
        weights: Backbone weights: a file, timm (downloads its own; transformers does for cvt), or none (random).
        resume: Continue an interrupted run in --out.
        data: Labelled images.
        loss: The objective.
        train: The training.
    """

    out: str = field(metadata=LOCATION)
    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, object] = field(default_factory=dict)
    embedding_width: int = PUBLISHED_WIDTH
    image_size: int | None = None
    weights: str = field(default="timm", metadata=WEIGHTS)
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    loss: MarginOptions = field(default_factory=MarginOptions)
    train: BaseTrainOptions = field(default_factory=BaseTrainOptions)

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out", "weights")
        if self.data.unseen_share or self.data.unseen:
            found.append(
                "--data.unseen, --data.unseen_share: a base model is always tested on labels that were not trained; leave them out"
            )
        if self.embedding_width < 1:
            found.append(f"--embedding_width {self.embedding_width}: use 1 or more")
        per_label, batch = self.loss.images_per_label, self.train.batch_size
        if per_label >= 2 and batch >= 1 and (batch % per_label or batch < 2 * per_label):
            found.append(
                f"--train.batch_size {batch}: use a multiple of --loss.images_per_label {per_label}, of two labels at least, so that every "
                "image has a positive and a negative"
            )
        if self.train.compile:
            found.append("--train.compile: a base model is not compiled; leave it out")
        return found


def run(config: TrainBaseConfig) -> TrainingResult:
    """Trains, and writes the base model's bundle into config.out."""
    check_output(config)
    images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed, disjoint=True)
    return run_training(config, task_of(config, images), images, title="train-base")


def task_of(config: TrainBaseConfig, images: LabelledImages) -> MetricLearningTask:
    """Network and images of the run. InputError where there is only one label to train on."""
    if images.train.num_labels < 2:
        raise InputError("there is only one label to train on: without another, no image has a negative")
    side = config.image_size
    model = build_base(
        config.backbone,
        embedding_width=config.embedding_width,
        image_size=None if side is None else (side, side),
        weights=config.weights,
        backbone_options=config.backbone_options,
        seed=config.seed,
    )
    return MetricLearningTask(
        networks={"base": model},
        train=images.train,
        val=images.val,
        test=images.test,
        margin=config.loss.margin,
        beta=config.loss.beta,
        beta_learning_rate=config.loss.beta_learning_rate,
        images_per_label=config.loss.images_per_label,
        structural=config.loss.structural,
        marginal=config.loss.marginal,
    )
