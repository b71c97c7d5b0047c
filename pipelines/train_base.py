"""`eet train-base`: a base model for re-ranking, by metric learning on labels of which none is tested."""

from dataclasses import dataclass, field

from eet.embedding import PUBLISHED_WIDTH, build_base
from pipelines.job.options import DataOptions, JobOptions
from pipelines.training.base import BasePlan, BaseTrainOptions, MarginOptions
from pipelines.training.run import LabelledImages, TrainingResult, check_output, read_labelled_images, run_training


@dataclass(kw_only=True)
class TrainBaseConfig(JobOptions):
    """Trains a backbone with a head for search by cosine and re-ranking by transport.

    Labels of training and test are disjoint: the dataset's own splits where they are (sop), else the first half of the labels trains and
    the rest tests.

    Attributes:
        out: Folder for the bundle, checkpoints, curves, measures and the split.
        backbone: deit_*, vit_* (with a CLS token), swin_*, resnet* of timm; cvt_13, cvt_21 of transformers (extra cvt).
        backbone_options: Further arguments of the backbone's constructor.
        embedding_width: Of the head, for image and patches.
        image_size: Side of the input in pixels; default the backbone's own.
        weights: Backbone weights: a file, timm (downloads its own; transformers does for cvt), or none (random).
        resume: Continue a run in --out that was cut off.
        data: Labelled images.
        loss: The objective.
        train: The training.
    """

    out: str
    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, object] = field(default_factory=dict)
    embedding_width: int = PUBLISHED_WIDTH
    image_size: int | None = None
    weights: str = "timm"
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    loss: MarginOptions = field(default_factory=MarginOptions)
    train: BaseTrainOptions = field(default_factory=BaseTrainOptions)

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out", "weights")
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
    return run_training(config, plan_of(config, images), images, title="train-base")


def plan_of(config: TrainBaseConfig, images: LabelledImages) -> BasePlan:
    """Network and images of the run. ValueError where there is but one label to train on."""
    if images.train.num_labels < 2:
        raise ValueError("there is but one label to train on: without another, no image has a negative")
    side = config.image_size
    model = build_base(
        config.backbone,
        embedding_width=config.embedding_width,
        image_size=None if side is None else (side, side),
        weights=config.weights,
        backbone_options=config.backbone_options,
        seed=config.seed,
    )
    return BasePlan(
        networks={"base": model},
        train=images.train,
        val=images.val,
        test=images.test,
        loss=config.loss,
        options=config.train,
        seed=config.seed,
        threads=0,
        board=None,
    )
