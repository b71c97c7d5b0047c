"""The training of base models on places: their images, and a task whose matches are near."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from eet.datasets import ImageTable
from eet.embedding import BaseModel, save_base
from eet.metrics import place_recall
from eet.storage import naming_file
from eet.training.labelled_images import LabelledImages, readable_table
from eet.training.metric_learning import SPLIT_FILE, MetricLearningTask, WholeBatchObjective
from eet.training.mined_groups import MinedSampler, Mining, placed_sides, positions_of
from eet.training.samplers import StepSampler
from eet.training.settings import FitSettings

RECALL_KS = (1, 5, 10)
TEST_METRES = 25.0


def place_images(table: ImageTable, *, skip_unreadable: bool = False) -> LabelledImages:
    """The images of a training on places, in the dataset's own splits. Labels are not needed.

    Args:
        table: with positions, and images in split train; val and test may be missing, as may one role in them.
        skip_unreadable: leave out unreadable images; otherwise they are an error.

    Raises:
        InputError: there are no positions, no training images, or an image cannot be read.
    """
    placed_sides(table)
    table, skipped = readable_table(table, skip_unreadable=skip_unreadable)
    train = table.select("train")
    splits = {name: table.take(table.splits == name) if (table.splits == name).any() else None for name in ("val", "test")}
    return LabelledImages(train, splits["val"], splits["test"], skipped=skipped)


@dataclass(frozen=True, kw_only=True)
class PlaceTask(MetricLearningTask):
    """Trains a base model on images that match where they are near.

    Attributes:
        train: images with positions; with labels where the loss is one over labels.
        mining: of a loss over mined groups.
    """

    mining: Mining = field(default_factory=Mining)

    flips: ClassVar[bool] = False
    quality: ClassVar[str] = "val_recall@5"

    @property
    def images_per_epoch(self) -> int:
        if not self._criterion().mined_negatives:
            return super().images_per_epoch
        return self._mined(batch_size=self._group, rank=0, world=1, seed=0).num_images

    def timed_images(self, settings: FitSettings) -> int:
        """As for other losses, and whole groups of a loss over groups."""
        images = super().timed_images(settings)
        return max(1, images // self._group) * self._group if self._criterion().mined_negatives else images

    @property
    def _group(self) -> int:
        return 2 + self._criterion().mined_negatives

    def _mined(self, *, batch_size: int, rank: int, world: int, seed: int) -> MinedSampler:
        return MinedSampler(
            self.train, num_negatives=self._group - 2, mining=self.mining, batch_size=batch_size, rank=rank, world=world, seed=seed
        )

    def objective(self, settings: FitSettings) -> WholeBatchObjective:
        """The objective, after a check that batches can be made: a job calls it before it starts workers."""
        self.sampler(settings, rank=0, world=1, micro_batch_size=settings.batch_size)
        return super().objective(settings)

    def sampler(self, settings: FitSettings, *, rank: int, world: int, micro_batch_size: int) -> StepSampler:
        if not self._criterion().mined_negatives:
            return super().sampler(settings, rank=rank, world=world, micro_batch_size=micro_batch_size)
        return self._mined(batch_size=settings.batch_size, rank=rank, world=world, seed=settings.seed)

    def validate(self, rows: np.ndarray) -> dict[str, float]:
        assert self.val is not None
        measures = _recall(self.val, rows)
        return {f"val_recall@{k}": measures[f"recall@{k}"] for k in RECALL_KS}

    def evaluate(self, network: BaseModel, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """The test queries against the test database by cosine; a match is within 25 metres."""
        assert self.test is not None
        return {f"{TEST_METRES:g} metres": _recall(self.test, rows)}

    def save(self, name: str, folder: Path, training: dict[str, Any]) -> None:
        """Writes the bundle, and the split and place of each image as a table that the dataset 'table' reads."""
        with naming_file(folder / SPLIT_FILE), (folder / SPLIT_FILE).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "split", "easting", "northing", "zone", "role", "condition", "heading"))
            for table in (self.train, self.val, self.test):
                if table is not None and (places := table.places) is not None:
                    texts = (places.zones_N, places.roles_N, places.conditions_N)
                    numbers = [_cells(column) for column in places.metres_N2.T]
                    headings = [""] * len(table) if places.headings_N is None else _cells(places.headings_N)
                    writer.writerows(zip(table.paths, table.splits, *numbers, *texts, headings, strict=True))
        save_base(self.networks[name], folder, label_names=(), training=training)


def _recall(table: ImageTable, rows: np.ndarray) -> dict[str, float]:
    queries, items = placed_sides(table)
    places = positions_of(table)
    return place_recall(
        rows[queries],
        rows[items],
        places.take(queries),
        places.take(items),
        metres=TEST_METRES,
        ks=RECALL_KS,
        same_images=np.array_equal(queries, items),
    )


def _cells(numbers_N: np.ndarray) -> list[str]:
    return [f"{value:.3f}" if np.isfinite(value) else "" for value in numbers_N.tolist()]
