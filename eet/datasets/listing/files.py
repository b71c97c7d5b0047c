"""Image files: one, all under a folder, those that match a glob, or a combination."""

import abc
import re
from collections.abc import Iterator, Sequence

from eet.datasets.image_files import IMAGE_SUFFIXES, is_image_file, iter_files
from eet.datasets.listing.image_list import ImageList, ListedImages, in_batches
from eet.errors import InputError
from eet.storage import join_location, split_options

_WILD = re.compile(r"[*?\[]")


class ImageFiles(ImageList):
    """Images in separate files, without labels."""

    def __iter__(self) -> Iterator[ListedImages]:
        yield from in_batches(self.pairs())

    @abc.abstractmethod
    def pairs(self) -> Iterator[tuple[str, str]]:
        """(item_id, location) of each image."""


class SingleFile(ImageFiles):
    """One image; item_id is its file name."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location

    def pairs(self) -> Iterator[tuple[str, str]]:
        yield split_options(self.location)[0].rpartition("/")[2], self.location


class FilesUnder(ImageFiles):
    """Every file under a folder with an image suffix, at any depth; item_id is the path relative to it.

    Args:
        root: local folder or URI.
        matching: pattern that the relative path must match; other files are neither listed nor counted as ignored.
        description: see `ImageList`; default root.
    """

    def __init__(self, root: str, *, matching: re.Pattern[str] | None = None, description: str | None = None) -> None:
        super().__init__(description or root)
        self.root = root
        self._matching = matching

    def pairs(self) -> Iterator[tuple[str, str]]:
        ignored = listed = 0
        for path in iter_files(self.root):
            if self._matching is not None and not self._matching.fullmatch(path):
                continue
            if is_image_file(path):
                listed += 1
                yield path, join_location(self.root, path)
            else:
                ignored += 1
        self.ignored = ignored
        if not listed:
            raise InputError(
                f"{self.description} holds no image ({ignored} other files): give a folder of {', '.join(IMAGE_SUFFIXES)} files, "
                "a glob, a table (.csv, .parquet), or tar shards ('FOLDER/*.tar')"
            )


class SeveralFiles(ImageFiles):
    """Several lists of files, one after another. lists: (prefix of the item_ids, list)."""

    def __init__(self, lists: Sequence[tuple[str, ImageFiles]], description: str) -> None:
        super().__init__(description)
        self._lists = lists

    def pairs(self) -> Iterator[tuple[str, str]]:
        ignored = 0
        for prefix, files in self._lists:
            for item_id, uri in files.pairs():
                yield prefix + item_id, uri
            ignored += files.ignored
        self.ignored = ignored


def is_glob(location: str) -> bool:
    """Whether a location has wildcards: *, ?, [...] or **. In a URI, a '?' starts the options."""
    return bool(_WILD.search(split_options(location)[0]))


def start_of_pattern(path: str, wild: re.Pattern[str] = _WILD) -> int:
    """Start of the path segment with the first wildcard; the folder of the pattern comes before it. len(path) without a wildcard."""
    first = wild.search(path)
    return len(path) if first is None else path.rfind("/", 0, first.start()) + 1


def split_glob(pattern: str) -> tuple[str, re.Pattern[str]]:
    """Splits a glob into the folder before the first wildcard and a pattern for paths relative to it.

    * and ? match characters of one name, [...] one of the characters, [!...] any other character, and ** as a whole folder name any number
    of folders.

    Raises:
        InputError: ** is only part of a name, or a [...] is malformed.
    """
    from fsspec.utils import glob_translate

    location, options = split_options(pattern)
    start = start_of_pattern(location)
    rest = location[start:]
    root = location[: max(0, start - 1)] or ("/" if location.startswith("/") else ".")
    try:
        return f"{root}{options}", re.compile(glob_translate(rest))
    except re.error as error:
        raise InputError(f"{pattern} is no valid glob ({error}): [a-z] goes upwards, and each [ has its ]") from error
    except ValueError as error:
        raise InputError(
            f"{pattern}: ** matches folders, so it must be a whole name: write 'photos/**/a*.jpg', not 'photos/a**.jpg'"
        ) from error
