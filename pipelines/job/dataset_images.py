"""The images that a job encodes or fits to: files, or those of a dataset."""

from collections.abc import Iterator
from typing import Any

from eet.datasets import ImageTable, load_dataset
from eet.datasets.listing import ImageList, ListedImages, list_images
from eet.options.choices import Role


def images_of(config: Any) -> ImageList:
    """The images of a job.

    Args:
        config: of a job with the options images, columns, images_root, data, split, role and subtask, with absolute locations.

    Raises:
        InputError, NotFoundError: there are no such images.
    """
    if config.images is not None:
        return list_images(config.images, columns=config.columns, root=config.images_root)
    data = config.data
    return images_of_dataset(data.name, data.root, table=data.table, split=config.split, role=config.role, subtask=config.subtask)


def images_of_dataset(
    name: str, root: str | None, *, table: str | None = None, split: str = "all", role: Role | None = None, subtask: str | None = None
) -> ImageList:
    """The images of a split of a dataset.

    Args:
        name, root, table: of the dataset, see `eet.datasets.load_dataset`.
        split: train, val, test or all.
        role: query or database, of places; None for both.
        subtask: of msls, or None.

    Raises:
        InputError, NotFoundError: there are no such images.
    """
    images = load_dataset(name, root, table=table, subtask=subtask).select(split)
    described = f"dataset {name} at {root or table}, split {split}"
    if subtask is not None:
        described += f", subtask {subtask}"
    if role is not None:
        images, described = images.with_role(role), f"{described}, role {role}"
    return _DatasetImages(images, described)


class _DatasetImages(ImageList):
    def __init__(self, table: ImageTable, description: str) -> None:
        super().__init__(description)
        self.table, self.label_names, self.has_places = table, table.label_names, table.places is not None

    def __iter__(self) -> Iterator[ListedImages]:
        locations = [self.table.location(row) for row in range(len(self.table))]
        yield ListedImages(list(self.table.paths), locations, self.table.labels, self.table.places)
