"""Training images, whose augmentation depends only on (seed, epoch, item), and images for evaluation."""

import zlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eet.datasets import ImageTable
from eet.errors import InputError
from eet.images import DecodeFailure, Preprocessing, read_image
from eet.options.defaults import PUBLISHED_MIN_CROP_AREA
from eet.training.samplers import StepSampler

_VIEW = 1  # its own random stream; orders have another one (`eet.training.samplers`)


def view_random(seed: int, epoch: int, item_id: str, visit: int = 0) -> np.random.Generator:
    """The random generator of one image's augmentation in one epoch. visit: number of earlier visits of that image in the epoch."""
    again = (visit,) if visit else ()
    return np.random.default_rng((seed, _VIEW, epoch, zlib.crc32(item_id.encode()), *again))


class AugmentedImages(Dataset):
    """Map-style training images; an index is (epoch, row) or (epoch, row, visit), so that loader processes need no state."""

    def __init__(
        self,
        table: ImageTable,
        preprocessing: Preprocessing,
        seed: int,
        *,
        min_crop_area: float = PUBLISHED_MIN_CROP_AREA,
        flip: bool = True,
    ) -> None:
        self.table, self.preprocessing, self.seed = table, preprocessing, seed
        self.min_crop_area, self.flip = min_crop_area, flip

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: tuple[int, ...]) -> tuple[Tensor, int]:
        epoch, row, *visit = index
        image = open_image(self.table, row)
        random = view_random(self.seed, epoch, self.table.paths[row], *visit)
        view = self.preprocessing.augment(image, random, min_crop_area=self.min_crop_area, flip=self.flip)
        return view, int(self.table.labels[row])


class EvaluationImages(Dataset):
    """Map-style images, preprocessed for evaluation; the index is the row."""

    def __init__(self, table: ImageTable, preprocessing: Preprocessing) -> None:
        self.table, self.preprocessing = table, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Tensor:
        view = _opened(self.preprocessing.read(self.table.location(row)), self.table, row)
        return self.preprocessing.normalise(np.array(view)).contiguous()


def step_loader(images: AugmentedImages, sampler: StepSampler, *, processes: int, pin: bool) -> DataLoader:
    """Micro-batches (images (b, 3, H, W) float32, labels (b,) int64) in the sampler's order."""
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=processes,
        pin_memory=pin,
        collate_fn=_collate,
    )


def _collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def open_image(table: ImageTable, row: int) -> Image.Image:
    """The decoded image of a row, at its full size. InputError naming the image where it cannot be read."""
    return _opened(read_image(table.location(row)), table, row)


def _opened(image: Image.Image | DecodeFailure, table: ImageTable, row: int) -> Image.Image:
    if isinstance(image, DecodeFailure):
        raise InputError(f"{table.location(row)}: {image.error}")
    return image
