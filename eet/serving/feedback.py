"""Judgements of hits, and the labelled images that follow from them: a table that a training reads."""

import csv
import io
import json
import os
import threading
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from eet.errors import InputError
from eet.storage import parsed_json, resolve, whole_file

JUDGEMENTS_FILE, IMAGES_FOLDER = "judgements.jsonl", "images"
COLUMNS = ("path", "label", "split")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a hit shows the same as its query.

    Attributes:
        query, item: locations of the two images.
        query_label, item_label: the names of their labels, None where unknown.
        right: whether they show the same; None takes an earlier judgement back.
    """

    query: str
    item: str
    right: bool | None
    query_label: str | None = None
    item_label: str | None = None


class LabelledImages(NamedTuple):
    """location -> label, and the number of images that are left out because their judgements contradict each other."""

    label_of: dict[str, str]
    left_out: int


class Feedback:
    """The judgements so far, in memory or in a folder. Of two judgements of the same pair the later counts. Thread-safe.

    Args:
        folder: created where it is missing; None for memory, where the images of queries are not kept.

    Raises:
        InputError: a line of the folder's judgements cannot be read.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = None if folder is None else Path(folder).absolute()
        self._lock = threading.Lock()
        self._judged: dict[tuple[str, str], Judgement] = {}
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._read(self._folder / JUDGEMENTS_FILE)

    def __len__(self) -> int:
        return sum(judgement.right is not None for judgement in self._judged.values())

    def keep(self, query_id: str, image: bytes) -> str:
        """The location of a query's image, which is written into the folder as a JPEG. query_id: letters and digits.

        Without a folder the location names nothing, and `labelled_images` leaves it out.
        """
        if not query_id.isalnum():
            raise InputError(f"query {query_id!r:.60}: a query is named by letters and digits")
        if self._folder is None:
            return f"query:{query_id}"
        images = self._folder / IMAGES_FOLDER
        images.mkdir(mode=0o700, exist_ok=True)
        file = images / f"{query_id}.jpg"
        if not file.exists():
            with whole_file(*resolve(file)) as writing:
                writing.write(image)
        return str(file)

    def add(self, judgement: Judgement) -> None:
        """Counts a judgement; in a folder it is on disk when this returns."""
        with self._lock:
            if self._folder is not None:
                with open(self._folder / JUDGEMENTS_FILE, "a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(judgement)) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            self._judged[judgement.query, judgement.item] = judgement

    def labelled_images(self) -> LabelledImages:
        """The images that right hits join, with one label for each group.

        A group takes the label that its images have. Where none has one, it is called "like" and its first location. A group is left out
        where its images have several labels, or two of them were judged not to be the same.
        """
        with self._lock:
            judged = [judgement for judgement in self._judged.values() if judgement.right is not None]
        group_of = _Groups()
        for judgement in judged:
            if judgement.right:
                group_of.join(judgement.query, judgement.item)
        members: dict[str, set[str]] = defaultdict(set)
        labels: dict[str, set[str]] = defaultdict(set)
        refused: set[str] = set()
        for judgement in judged:
            ends = ((judgement.query, judgement.query_label), (judgement.item, judgement.item_label))
            groups = [group_of.first(location) for location, _ in ends]
            if not judgement.right:
                refused |= {groups[0]} if groups[0] == groups[1] else set()
                continue
            for location, label in ends:
                members[groups[0]].add(location)
                labels[groups[0]] |= set() if label is None else {label}
        refused |= {group for group, found in labels.items() if len(found) > 1}
        label_of: dict[str, str] = {}
        for group, locations in members.items():
            if group not in refused:
                label = next(iter(labels[group]), f"like {min(locations)}")
                label_of |= {location: label for location in locations if not location.startswith("query:")}
        return LabelledImages(dict(sorted(label_of.items())), sum(len(members[group]) for group in refused))

    def to_csv(self) -> str:
        """The labelled images as a table with the columns path, label and split (train), which `eet distill --data.name table` reads."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((location, label, "train") for location, label in self.labelled_images().label_of.items())
        return file.getvalue()

    def _read(self, file: Path) -> None:
        if not file.exists():
            return
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            judgement = parsed_json(line, Judgement, f"{file}, line {number}")
            self._judged[judgement.query, judgement.item] = judgement


class _Groups:
    """Sets of strings that are joined two by two (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def first(self, member: str) -> str:
        """One member of the set, the same for all of its members."""
        while (above := self._above.get(member, member)) != member:
            self._above[member] = self._above.get(above, above)
            member = above
        return member

    def join(self, one: str, other: str) -> None:
        self._above[self.first(one)] = self.first(other)
