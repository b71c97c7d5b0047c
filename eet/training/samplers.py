"""Which image goes into which step. It depends only on (seed, epoch), not on the workers.

So with any number of workers, after a restart or a resume, a step has the same images.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from eet.errors import InputError

_ORDER = 0
"""The random stream of orders; views have another one (`eet.training.images`)."""


def epoch_order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """The order (num_images,) in which an epoch visits its images."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(num_images)


class StepSampler(Sampler[list[tuple[int, ...]]]):
    """The micro-batches of one worker in an epoch: each batch of `batch_size` is split evenly over the workers, then into micro-batches.

    The last, incomplete batch of an epoch is left out; in the next epoch it consists of other images.
    """

    def __init__(self, num_images: int, *, batch_size: int, micro_batch_size: int, rank: int, world: int, seed: int) -> None:
        self.num_images, self.batch_size, self.micro_batch_size = num_images, batch_size, micro_batch_size
        self.rank, self.world, self.seed = rank, world, seed
        self.epoch = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self.num_images // self.batch_size

    @property
    def steps_per_round(self) -> int:
        """Steps between two choices of images; an epoch, if they are chosen once for all of it."""
        return self.steps

    def micro_batches(self) -> list[int]:
        """Sizes of the micro-batches of one worker's share of a step."""
        share, size = self.batch_size // self.world, self.micro_batch_size
        return [min(size, share - start) for start in range(0, share, size)]

    def __len__(self) -> int:
        return self.steps * len(self.micro_batches())

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        order = epoch_order(self.num_images, self.seed, self.epoch)
        for step in range(self.steps):
            share = order[step * self.batch_size : (step + 1) * self.batch_size][self.rank :: self.world]
            start = 0
            for size in self.micro_batches():
                yield [(self.epoch, int(row)) for row in share[start : start + size]]
                start += size


class LabelSampler(StepSampler):
    """The share of one worker in batches that hold `images_per_label` images of each of their labels, so that every image has a positive.

    For each batch, labels and images within a label are drawn in random order without replacement: if there are more labels than a batch
    holds, its labels are distinct; if there are fewer, labels repeat with other images. A label with too few images repeats them, in
    other views. An epoch has as many steps as its images would fill.

    pytorch-metric-learning's MPerClassSampler is not used: it draws from NumPy's global state, so that a resumed epoch would differ, and
    it refuses batches of more labels than there are. The published code draws with replacement, so that an image can be its own positive.

    Args:
        labels_N: integers (N,), labels 0 .. C-1 of the training images.
        images_per_label: images of each label in a batch.
        batch_size: images of a step over all workers.
        rank: number of this worker.
        world: number of workers.
        seed: of the draws.
        groups_C: group of each label (C,), if the labels of a batch are to be of one group. A batch's group is drawn by the number of its
            images; a group of one label is left out.

    Raises:
        InputError: no group has two labels.
    """

    def __init__(
        self,
        labels_N: np.ndarray,
        *,
        images_per_label: int,
        batch_size: int,
        rank: int,
        world: int,
        seed: int,
        groups_C: np.ndarray | None = None,
    ) -> None:
        share = batch_size // world  # pairs are formed over the whole batch, so it is not split further
        super().__init__(len(labels_N), batch_size=batch_size, micro_batch_size=share, rank=rank, world=world, seed=seed)
        self.images_per_label = images_per_label
        self.rows_of = [np.flatnonzero(labels_N == label) for label in range(int(labels_N.max()) + 1)]
        self.groups = [np.arange(len(self.rows_of))]
        if groups_C is not None:
            self.groups = [labels for group in np.unique(groups_C) if len(labels := np.flatnonzero(groups_C == group)) > 1]
            if not self.groups:
                raise InputError("no group of places has two labels: without another, no image has a negative; use fewer groups")
        images_G = np.array([sum(len(self.rows_of[label]) for label in labels) for labels in self.groups])
        self.share_G = images_G / images_G.sum()

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        random = np.random.default_rng((self.seed, _ORDER, self.epoch))
        visits = np.zeros(self.num_images, np.int64)
        for _ in range(self.steps):
            batch: list[tuple[int, ...]] = []
            for row in self._rows(random):
                batch.append((self.epoch, row, int(visits[row])))
                visits[row] += 1
            yield batch[self.rank :: self.world]

    def _rows(self, random: np.random.Generator) -> list[int]:
        """Rows of one batch; those of a label are adjacent."""
        wanted = self.batch_size // self.images_per_label
        group = self.groups[random.choice(len(self.groups), p=self.share_G) if len(self.groups) > 1 else 0]
        rounds = -(-wanted // len(group))
        labels = np.concatenate([random.permutation(group) for _ in range(rounds)])[:wanted]
        left: dict[int, list[int]] = {}
        rows = []
        for label in labels.tolist():
            for _ in range(self.images_per_label):
                if not left.get(label):
                    left[label] = random.permutation(self.rows_of[label]).tolist()
                rows.append(left[label].pop())
        return rows
