"""`eet train-base`: a base model for re-ranking, by metric learning; training and test labels are disjoint."""

from eet.embedding import build_base
from eet.errors import InputError
from eet.training import LabelledImages, MetricLearningTask
from pipelines.configs.train_base import TrainBaseConfig
from pipelines.job.held_output import held_output
from pipelines.training.run import TrainingResult, check_output, read_labelled_images, run_training


def run(config: TrainBaseConfig) -> TrainingResult:
    """Trains, and writes the base model's bundle into config.out."""
    with held_output(config) as claim:
        check_output(config)
        images = read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed, disjoint=True)
        return run_training(config, task_of(config, images), images, title="train-base", claim=claim)


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
        aggregation=config.aggregation,
        aggregation_options=config.aggregation_options,
        tokens_from_block=config.tokens_from_block,
        fit=config.fit,
        seed=config.seed,
    )
    return MetricLearningTask(
        networks={"base": model},
        train=images.train,
        val=images.val,
        test=images.test,
        images_per_label=config.loss.images_per_label,
        loss=config.loss.name,
        loss_options=config.loss.arguments(),
    )
