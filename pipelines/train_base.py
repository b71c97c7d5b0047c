"""`eet train-base`: a base model by metric learning, for re-ranking and for places; training and test labels or places are disjoint."""

from typing import Any

from eet.datasets import load_dataset, with_cell_labels
from eet.embedding import build_base, load_base
from eet.errors import InputError
from eet.options.image_size import height_and_width
from eet.training import LabelledImages, MetricLearningTask, Mining, PlaceTask, place_images
from pipelines.configs.train_base import TrainBaseConfig
from pipelines.job.held_output import held_output
from pipelines.job.location import with_absolute_locations
from pipelines.training.run import TrainingResult, finished_training, read_labelled_images, run_training


def run(config: TrainBaseConfig) -> TrainingResult:
    """Trains, and writes the base model's bundle into config.out."""
    with held_output(config) as claim:
        if (finished := finished_training(config)) is not None:
            return finished
        images = images_of(config)
        return run_training(config, task_of(config, images), images, title="train-base", claim=claim)


def images_of(config: TrainBaseConfig) -> LabelledImages:
    """The images of the run, checked and split: by label, or for places as the dataset splits them."""
    if not config.of_places:
        return read_labelled_images(config.data, validation_share=config.train.validation_share, seed=config.seed, disjoint=True)
    data = with_absolute_locations(config.data)
    return place_images(load_dataset(data.name, data.root, table=data.table), skip_unreadable=data.on_error == "skip")


def task_of(config: TrainBaseConfig, images: LabelledImages) -> MetricLearningTask:
    """Network and images of the run. InputError where there is only one label to train on."""
    if images.train.num_labels < 2 and not config.of_places:
        raise InputError("there is only one label to train on: without another, no image has a negative")
    model = build_base(
        config.backbone,
        embedding_width=config.embedding_width,
        image_size=height_and_width(config.image_size),
        weights=config.weights,
        backbone_options=config.backbone_options,
        aggregation=config.aggregation,
        aggregation_options=config.aggregation_options,
        tokens_from_block=config.tokens_from_block,
        fit=config.fit,
        seed=config.seed,
    )
    networks = {"base": model}
    if config.teacher is not None:
        networks["teacher"] = load_base(config.teacher)
    parts: dict[str, Any] = {
        "networks": networks,
        "train": images.train,
        "val": images.val,
        "test": images.test,
        "images_per_label": config.loss.images_per_label,
        "loss": config.loss.name,
        "loss_options": config.loss.arguments(),
        "loss_weight": config.follow.loss,
        "following": config.follow.weights,
    }
    if not config.of_places:
        return MetricLearningTask(**parts)
    places = config.places
    if places.cell_metres is not None:
        parts["train"], parts["label_groups"] = with_cell_labels(
            images.train,
            metres=places.cell_metres,
            degrees=places.cell_degrees,
            groups=places.cell_groups,
            heading_groups=places.cell_heading_groups,
            least_images=places.cell_images,
        )
    mining = Mining(
        positive_metres=places.positive_metres,
        negative_metres=places.negative_metres,
        candidates=places.candidates,
        queries_per_round=places.queries_per_round,
    )
    return PlaceTask(**parts, mining=mining)
