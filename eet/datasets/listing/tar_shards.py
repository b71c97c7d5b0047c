"""Tar shards (webdataset): images are read directly from the tar; only compressed shards are unpacked, when they are read."""

import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from eet.datasets.image_files import is_image_file
from eet.datasets.listing.image_list import BATCH_ROWS, ImageList, ListedImages
from eet.errors import InputError
from eet.options.columns import Columns
from eet.storage import Member, resolve
from eet.storage.members import COMPRESSED_TAR_SUFFIXES, is_compressed_tar, open_compressed

TAR_SUFFIXES = (".tar", *COMPRESSED_TAR_SUFFIXES)

Label = int | str


class TarShards(ImageList):
    """The images in tar files; item_id is SHARD/MEMBER.

    The label of KEY.jpg is the content of a member KEY.cls, else the value at `columns.label` in KEY.json. Whole numbers are kept (-1 is
    unknown); names are numbered 0 .. C-1 in sorted order over all shards, for which each shard is read twice. The first shard decides
    whether labels are numbers or names, and whether KEY.json is read at all; a shard of the other kind is an InputError.

    Args:
        shards: (name, location) of each shard, with unique names; .tar, or compressed (.tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst), which
            is slower: listing unpacks the whole shard, and so does every process that reads from it (see `eet.storage.members`).
        description: see `ImageList`.
        columns: its label is the key of the label in KEY.json; unless it is the default, the first shard must have it.

    Raises:
        InputError: a shard is damaged or cut, or labels are not as above.
    """

    def __init__(self, shards: Sequence[tuple[str, str]], description: str, *, columns: Columns | None = None) -> None:
        super().__init__(description)
        self.shards = sorted(shards)
        columns = columns or Columns()
        self._label_key = columns.label
        self._text_of: dict[int, str] = {}
        first = _read_shard(self.shards[0][1], self._label_key, self._text_of)
        if columns.named_label is not None and not first.labels_in_json:
            raise InputError(f"{self.shards[0][1]} has no KEY.json with a label at {columns.label}, which columns.label names")
        self._read_json = first.labels_in_json
        self._named = any(isinstance(label, str) for label in first.labels.values())
        self._first_shard = self.shards[0][0]
        self._number_of: dict[str, int] = {}
        if self._named:
            names: set[str] = set()
            for _, location in self.shards:
                names.update(map(str, self._labels(location, self._read(location)).values()))
            self.label_names = tuple(sorted(names))
            self._number_of = {name: number for number, name in enumerate(self.label_names)}

    def __iter__(self) -> Iterator[ListedImages]:
        ignored = listed = 0
        item_ids: list[str] = []
        uris: list[str] = []
        labels: list[int] = []
        for shard, location in self.shards:
            found = self._read(location)
            label_of = self._labels(location, found)
            ignored += found.others
            listed += len(found.images)
            item_ids += [f"{shard}/{name}" for name, _ in found.images]
            uris += [uri for _, uri in found.images]
            labels += [self._number(label_of.get(_key(name), -1)) for name, _ in found.images]
            if len(item_ids) >= BATCH_ROWS:
                yield ListedImages(item_ids, uris, np.array(labels, np.int32))
                item_ids, uris, labels = [], [], []
        self.ignored = ignored
        if not listed:
            raise InputError(f"{self.description}: {len(self.shards)} tar files hold no image ({ignored} other members)")
        if item_ids:
            yield ListedImages(item_ids, uris, np.array(labels, np.int32))

    def _read(self, location: str) -> "_Shard":
        return _read_shard(location, self._label_key if self._read_json else None, self._text_of)

    def _labels(self, location: str, shard: "_Shard") -> dict[str, Label]:
        """Labels by key, all of the kind that the first shard has."""
        known = {key: label for key, label in shard.labels.items() if label != -1}
        wrong = next((key for key, label in known.items() if isinstance(label, str) != self._named), None)
        if wrong is not None:
            allowed = "names" if self._named else "whole numbers, or no labels"
            raise InputError(
                f"{location}: the label of {wrong} is {known[wrong]!r}, but the first shard ({self._first_shard}) has {allowed}: "
                "give every image a name, or every one a whole number"
            )
        return known

    def _number(self, label: Label) -> int:
        return self._number_of[label] if isinstance(label, str) else label


class _Shard(NamedTuple):
    """images: (name, uri). labels: key -> label. others: number of other files."""

    images: list[tuple[str, str]]
    labels: dict[str, Label]
    labels_in_json: bool
    others: int


def _read_shard(location: str, label_key: str | None, text_of: dict[int, str]) -> _Shard:
    """Lists one shard.

    Args:
        location: of the shard.
        label_key: key of the label in KEY.json; None to ignore these members.
        text_of: whole number -> the text of the labels that are this number, in the shards read so far; those of this shard are added.
    """
    images: list[tuple[str, str]] = []
    labels: dict[str, Label] = {}
    in_json: dict[str, Label] = {}
    others = 0
    uri_of: dict[str, str] = {}
    with _open_tar(location) as tar:
        for member in _members(tar):
            name = member.name
            if member.islnk() and member.linkname in uri_of and is_image_file(name):
                images.append((name, uri_of[member.linkname]))
            elif not member.isfile():
                others += is_image_file(name)  # a link to something that is no image before it in this shard
            elif is_image_file(name):
                if member.issparse():
                    raise InputError(f"{location}: {name} is stored as a sparse file: pack the shard without --sparse")
                uri_of[name] = str(Member(location, member.offset_data, member.size))
                images.append((name, uri_of[name]))
            elif name.endswith(".cls"):
                labels[_key(name)] = _label_of_cls(_contents(tar, member), f"{location}: {name}", text_of)
            elif name.endswith(".json") and label_key is not None:
                label = _label_of_json(_contents(tar, member), label_key, f"{location}: {name}", text_of)
                if label is None:
                    others += 1
                else:
                    in_json[_key(name)] = label
            else:
                others += 1
    return _Shard(images, in_json | labels, bool(in_json), others)


class _Header(tarfile.TarInfo):
    """A header that must be whole. TarFile itself takes a damaged one for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            raise  # a block of zeros, or the end of the file
        if header.size < 0:
            raise tarfile.ReadError(f"a member of {header.size} bytes")
        return header


class _Stream:
    """A stream that reports its end once, and then raises. TarFile would read on for as many bytes as a damaged header says."""

    def __init__(self, file: Any) -> None:
        self._file, self._ended = file, False

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if not data and self._ended:
            raise tarfile.ReadError("unexpected end of data")
        self._ended = not data
        return data


@contextmanager
def _open_tar(location: str) -> Iterator[tarfile.TarFile]:
    """A shard, to be read in order. InputError where it is damaged."""
    filesystem, path = resolve(location)
    compressed = is_compressed_tar(path)
    tar = None
    try:
        with open_compressed(filesystem, path) if compressed else filesystem.open_input_file(path) as file:
            options: dict[str, Any] = {"fileobj": _Stream(file), "mode": "r|"} if compressed else {"fileobj": file, "mode": "r:"}
            tar = tarfile.open(**options, tarinfo=_Header, ignore_zeros=True)
            yield tar
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and (not compressed or error.errno is not None):
            raise  # of the store, not of what it holds
        if tar is not None and isinstance(error, tarfile.TarError):
            raise InputError(
                f"{location} is damaged at byte {tar.offset} {'of the unpacked tar ' if compressed else ''}({error}): "
                "the images after it would be lost. Copy or pack it again"
            ) from error
        if compressed:
            raise InputError(
                f"{location} cannot be unpacked ({error}): it is damaged, or no tar that is compressed as its name says"
            ) from error
        raise InputError(
            f"{location} is no plain tar file ({error}): if it is compressed, its name should say so "
            f"({', '.join(COMPRESSED_TAR_SUFFIXES)}); otherwise unpack it (tar -xf), or pack it again without compression"
        ) from error


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, read to the end of the file.

    What is allowed: archives that end in two blocks of zeros or more, one after another (as `cat a.tar b.tar` makes them, and
    `tar --ignore-zeros` reads them).

    Raises:
        tarfile.ReadError: something else is there: the file is cut, or a header is damaged. `tar.offset` is the byte.
    """
    file: Any = tar.fileobj
    size = file.size() if isinstance(file, pa.NativeFile) else None
    end = 0
    while (member := tar.next()) is not None:
        if size is not None and tar.offset > size:
            raise tarfile.ReadError("unexpected end of data")
        if tar.offset <= end:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        end = tar.offset
        yield member
    if tar.offset - end < 2 * tarfile.BLOCKSIZE:
        tar.offset = end
        raise tarfile.ReadError("the end of the archive is missing")


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None
    return stream.read()


def _key(name: str) -> str:
    """The common key of a sample's members: the path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _label_of_cls(data: bytes, member: str, text_of: dict[int, str]) -> Label:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(text) > 500 or "\n" in text:
        raise InputError(f"{member} holds {data[:20]!r}; a label is a whole number from 0, or a name on one line")
    return _number_or_name(text, member, text_of)


def _label_of_json(data: bytes, key: str, member: str, text_of: dict[int, str]) -> Label | None:
    """The label in a JSON object; None where there is no object, or no such key."""
    try:
        record = json.loads(data)
    except ValueError:
        return None
    label = record.get(key) if isinstance(record, dict) else None
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise InputError(f"{member} has {label!r} as {key}; a label is a whole number from 0, or a name (columns.label names another key)")
    return _number_or_name(label, member, text_of)


def _number_or_name(label: Label, member: str, text_of: dict[int, str]) -> Label:
    if isinstance(label, str) and not re.fullmatch(r"-?[0-9]+", label):
        return label
    number = int(label)
    if not -1 <= number < 2**31:
        raise InputError(f"{member} holds {str(label):.40}; a label is a whole number from 0, or -1 for unknown")
    if text_of.setdefault(number, str(label)) != str(label):
        raise InputError(f"{member} holds {label}, and another image {text_of[number]}: write a label in one form, or as a name")
    return number
