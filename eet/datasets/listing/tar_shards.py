"""Tar shards (webdataset): pictures are read where they lie in the tar, so nothing is unpacked."""

import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from eet.datasets.image_files import is_image_file
from eet.datasets.listing.image_list import BATCH_ROWS, ImageList, ListedImages
from eet.storage import Member, resolve


class TarShards(ImageList):
    """The pictures in tar files; item_id is SHARD/MEMBER, its label what a member KEY.cls beside KEY.jpg says (a whole number).

    shards: (name, location) of each, the names unique. Compressed tars are refused: their members cannot be read alone.
    """

    def __init__(self, shards: Sequence[tuple[str, str]], description: str) -> None:
        super().__init__(description)
        self.shards = sorted(shards)

    def __iter__(self) -> Iterator[ListedImages]:
        ignored = listed = 0
        item_ids: list[str] = []
        uris: list[str] = []
        labels: list[int] = []
        for shard, location in self.shards:
            pictures, others, label_of = _members(location)
            ignored += others
            listed += len(pictures)
            item_ids += [f"{shard}/{name}" for name, _ in pictures]
            uris += [uri for _, uri in pictures]
            labels += [label_of.get(_key(name), -1) for name, _ in pictures]
            if len(item_ids) >= BATCH_ROWS:
                yield ListedImages(item_ids, uris, np.array(labels, np.int32))
                item_ids, uris, labels = [], [], []
        self.ignored = ignored
        if not listed:
            raise ValueError(f"{self.description}: {len(self.shards)} tar files hold no image ({ignored} other members)")
        if item_ids:
            yield ListedImages(item_ids, uris, np.array(labels, np.int32))


def _members(location: str) -> tuple[list[tuple[str, str]], int, dict[str, int]]:
    """(name, uri) of the pictures, how many other files there are, and the labels by key."""
    pictures: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    others = 0
    filesystem, path = resolve(location)
    try:
        with filesystem.open_input_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if is_image_file(member.name):
                    pictures.append((member.name, str(Member(location, member.offset_data, member.size))))
                elif member.name.endswith(".cls"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    labels[_key(member.name)] = _label(stream.read(32), location, member.name)
                else:
                    others += 1
    except tarfile.TarError as error:
        raise ValueError(f"{location} is no plain tar file ({error}); unpack a compressed one, or pack it anew without") from error
    return pictures, others, labels


def _key(name: str) -> str:
    """What the members of one sample share: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label(text: bytes, location: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{location}: {name} holds {text[:20]!r}; a label is a whole number from 0") from None
