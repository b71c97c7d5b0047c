"""Picture files: one, all under a folder, or those that a glob matches."""

import re
from collections.abc import Iterator

from eet.datasets.image_files import IMAGE_SUFFIXES, is_image_file, iter_files
from eet.datasets.listing.image_list import ImageList, ListedImages, in_batches
from eet.storage import join_location, split_options

_WILD = re.compile(r"[*?\[]")


class SingleFile(ImageList):
    """One picture, called by its file name."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location

    def __iter__(self) -> Iterator[ListedImages]:
        yield ListedImages([split_options(self.location)[0].rpartition("/")[2]], [self.location], None)


class FilesUnder(ImageList):
    """Every file under a folder with an image suffix, at any depth; item_id is the path relative to it.

    matching: a pattern that the relative path must match; files that do not are neither listed nor counted as ignored.
    """

    def __init__(self, root: str, *, matching: re.Pattern[str] | None = None, description: str | None = None) -> None:
        super().__init__(description or root)
        self.root = root
        self._matching = matching

    def __iter__(self) -> Iterator[ListedImages]:
        yield from in_batches(self._pairs())

    def _pairs(self) -> Iterator[tuple[str, str]]:
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
            raise ValueError(
                f"{self.description} holds no image ({ignored} other files): give a folder of {', '.join(IMAGE_SUFFIXES)} files, "
                "a glob, a table (.csv, .parquet), or tar shards ('FOLDER/*.tar')"
            )


def is_glob(location: str) -> bool:
    """Whether a location has wildcards: *, ?, [...] or **. In a URI, what follows a '?' is options."""
    return bool(_WILD.search(split_options(location)[0]))


def split_glob(pattern: str) -> tuple[str, re.Pattern[str]]:
    """The folder in front of the first wildcard, and what a path relative to it must match.

    * and ? stand for characters of one name, [...] for one of the characters, [!...] for one that is none of them, and ** in place of a
    folder for any number of folders. ValueError where ** is only a piece of a name.
    """
    from fsspec.utils import glob_translate

    location, options = split_options(pattern)
    wild = _WILD.search(location)
    assert wild is not None, pattern
    folder, _, _ = location[: wild.start()].rpartition("/")
    rest = location[len(folder) + 1 :] if folder or location.startswith("/") else location
    root = folder or ("/" if location.startswith("/") else ".")
    try:
        return f"{root}{options}", re.compile(glob_translate(rest))
    except ValueError as error:
        raise ValueError(
            f"{pattern}: ** stands for folders, so it must be all of a name: write 'photos/**/a*.jpg', not 'photos/a**.jpg'"
        ) from error
