"""Which image goes into which step, and how it is drawn: functions of (seed, epoch, item) alone, never of a worker.

So any number of workers, a restart or a resume sees the same images in the same form in the same step.
"""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from eet.datasets import ImageTable
from eet.images import DecodeFailure, Preprocessing, read_image
from eet.images.preprocessing import PUBLISHED_MIN_CROP_AREA

_ORDER, _VIEW = 0, 1  # streams of chance, so that order and views do not share numbers


def epoch_order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """The order (num_images,) in which an epoch visits its images."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(num_images)


def view_random(seed: int, epoch: int, item_id: str, visit: int = 0) -> np.random.Generator:
    """The chance that draws one image's augmentation in one epoch. visit: how often the epoch has come by that image before."""
    again = (visit,) if visit else ()
    return np.random.default_rng((seed, _VIEW, epoch, zlib.crc32(item_id.encode()), *again))


class AugmentedImages(Dataset):
    """Map-style training images; an index is (epoch, row) or (epoch, row, visit), so that a loader process needs no state."""

    def __init__(
        self, table: ImageTable, preprocessing: Preprocessing, seed: int, *, min_crop_area: float = PUBLISHED_MIN_CROP_AREA
    ) -> None:
        self.table, self.preprocessing, self.seed = table, preprocessing, seed
        self.min_crop_area = min_crop_area

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: tuple[int, ...]) -> tuple[Tensor, int]:
        epoch, row, *visit = index
        image = open_image(self.table, row)
        random = view_random(self.seed, epoch, self.table.paths[row], *visit)
        return self.preprocessing.augment(image, random, min_crop_area=self.min_crop_area), int(self.table.labels[row])


class EvaluationImages(Dataset):
    """Map-style images in evaluation form; index is the row."""

    def __init__(self, table: ImageTable, preprocessing: Preprocessing) -> None:
        self.table, self.preprocessing = table, preprocessing

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Tensor:
        view = _opened(self.preprocessing.read(self.table.location(row)), self.table, row)
        return self.preprocessing.normalise(np.array(view)).contiguous()


class StepSampler(Sampler[list[tuple[int, ...]]]):
    """One worker's micro-batches of an epoch: each global batch of `batch_size` is cut evenly over the workers, then into micro-batches.

    The last, incomplete batch of an epoch is left out; the next epoch's order brings other images to that place.
    """

    def __init__(self, num_images: int, *, batch_size: int, micro_batch_size: int, rank: int, world: int, seed: int) -> None:
        self.num_images, self.batch_size, self.micro_batch_size = num_images, batch_size, micro_batch_size
        self.rank, self.world, self.seed = rank, world, seed
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self.num_images // self.batch_size

    def micro_batches(self) -> list[int]:
        """Sizes of the micro-batches that make one worker's share of a step."""
        share, size = self.batch_size // self.world, self.micro_batch_size
        return [min(size, share - start) for start in range(0, share, size)]

    def __len__(self) -> int:
        return self.steps * len(self.micro_batches())

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        order = epoch_order(self.num_images, self.seed, self.epoch)
        for step in range(self.steps):
            mine = order[step * self.batch_size : (step + 1) * self.batch_size][self.rank :: self.world]
            start = 0
            for size in self.micro_batches():
                yield [(self.epoch, int(row)) for row in mine[start : start + size]]
                start += size


class LabelSampler(StepSampler):
    """One worker's share of each step's batch, which holds `images_per_label` images of each of its labels, so that every image has a
    positive.

    Labels, and images within one, are drawn anew for each batch, in random order, and none comes a second time before every one has come:
    with more labels than a batch takes they are distinct, with fewer each comes again with other images. A label with fewer images than
    are asked of it repeats them, in another view. An epoch has as many steps as its images would fill.

    Own code: pytorch-metric-learning's MPerClassSampler draws from NumPy's global state, so that a resumed epoch would be another, and
    refuses batches of more labels than there are; published code draws with replacement, so that an image can be its own positive.
    labels_N: (N,) of the training images, 0 .. C-1.
    """

    def __init__(self, labels_N: np.ndarray, *, images_per_label: int, batch_size: int, rank: int, world: int, seed: int) -> None:
        share = batch_size // world  # pairs are formed over the whole batch, so it is not cut further
        super().__init__(len(labels_N), batch_size=batch_size, micro_batch_size=share, rank=rank, world=world, seed=seed)
        self.images_per_label = images_per_label
        self.rows_of = [np.flatnonzero(labels_N == label) for label in range(int(labels_N.max()) + 1)]

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        random = np.random.default_rng((self.seed, _ORDER, self.epoch))
        visits = np.zeros(self.num_images, np.int64)
        for _ in range(self.steps):
            batch = []
            for row in self._rows(random):
                batch.append((self.epoch, row, int(visits[row])))
                visits[row] += 1
            yield batch[self.rank :: self.world]

    def _rows(self, random: np.random.Generator) -> list[int]:
        """Rows of one batch, those of a label beside each other."""
        wanted = self.batch_size // self.images_per_label
        rounds = -(-wanted // len(self.rows_of))
        labels = np.concatenate([random.permutation(len(self.rows_of)) for _ in range(rounds)])[:wanted]
        left: dict[int, list[int]] = {}
        rows = []
        for label in labels.tolist():
            for _ in range(self.images_per_label):
                if not left.get(label):
                    left[label] = random.permutation(self.rows_of[label]).tolist()
                rows.append(left[label].pop())
        return rows


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
    """The decoded image of a row, at its full size. ValueError naming it where it cannot be read."""
    return _opened(read_image(table.location(row)), table, row)


def _opened(image: Image.Image | DecodeFailure, table: ImageTable, row: int) -> Image.Image:
    if isinstance(image, DecodeFailure):
        raise ValueError(f"{table.location(row)}: {image.error}")
    return image


def unreadable_images(table: ImageTable, *, threads: int) -> list[tuple[int, str]]:
    """(row, reason) of every image that cannot be decoded; all are decoded once."""

    def check(row: int) -> str | None:
        image = read_image(table.location(row))
        return image.error if isinstance(image, DecodeFailure) else None

    with ThreadPoolExecutor(threads) as pool:
        return [(row, reason) for row, reason in enumerate(pool.map(check, range(len(table)))) if reason is not None]
