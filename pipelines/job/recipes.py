"""The recipes of `--train.recipe`: values of options that were not given, in several groups of options."""

from dataclasses import replace
from typing import Any, Literal

from eet.options.defaults import PUBLISHED_BETA

Recipe = Literal["best", "published"]

RECIPES: dict[Recipe, dict[str, dict[str, Any]]] = {
    # Exactly the settings of the paper and its published code.
    "published": {
        "train": {
            "epochs": 90,
            "batch_size": 64,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "probe": False,
        },
        "loss": {"beta": PUBLISHED_BETA},
        "student": {"hash_input": "logits", "target_codes": "published"},
    },
    # docs/benchmarks.md has the effect of each part.
    "best": {
        "train": {
            "batch_size": 32,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "head_learning_rate": 1e-3,
            "weight_decay": 0.01,
            "probe": True,
        },
        "loss": {"beta": 0.5},
        "student": {"hash_input": "joint", "target_codes": "separated"},
    },
}
MOST_EPOCHS, FEWEST_EPOCHS, IMAGES_OF_MOST_EPOCHS = 20, 4, 6_000


def not_given(options: object, group: str, recipe: Recipe) -> dict[str, Any]:
    """The values of the recipe for those options of a group that are None."""
    return {name: value for name, value in RECIPES[recipe][group].items() if getattr(options, name, value) is None}


def fill_groups(config: Any, *groups: str) -> None:
    """Replaces groups of options of a job by copies in which the recipe's values stand for None."""
    for group in groups:
        options = getattr(config, group)
        setattr(config, group, replace(options, **not_given(options, group, config.train.recipe)))


def best_epochs(num_images: int) -> int:
    """Epochs of the best recipe: 20 up to 6,000 images, then fewer with the cube root of their number, at least 4.

    So the number of steps grows with the images, but slower: 20 epochs of 6,000 images, 10 of 50,000, 5 of 500,000.
    """
    return round(min(MOST_EPOCHS, max(FEWEST_EPOCHS, MOST_EPOCHS * (IMAGES_OF_MOST_EPOCHS / num_images) ** (1 / 3))))
