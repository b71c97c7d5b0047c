"""The folders whose images a page may embed.

The uri of a row comes from the author of the gallery. Without this check, a gallery of somebody else could put any file of this machine,
or a URL that only this machine reaches, into a page that is then sent to others.
"""

import os
import re
from collections.abc import Sequence

import pyarrow.fs as pafs

from eet.errors import InputError
from eet.gallery import Gallery
from eet.images import DecodeFailure
from eet.storage import Member, is_inside, one_line, resolve, split_options

OUTSIDE = "outside"
"""Status of an image that lies under none of the roots."""

_DATASET = re.compile(r"dataset .*? at (?P<root>.*), split \w+(, subtask \w+)?(, role \w+)?")
_WILDCARD = re.compile(r"[*?\[{]")


class ImageRoots:
    """Folders, and what lies under them, links followed.

    Args:
        roots: local paths or URIs of folders, or of files that hold images.
    """

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = tuple(roots)

    def refusal(self, location: str) -> DecodeFailure | None:
        """None where the image at a location, or the file that holds it, lies under a root; else the reason to leave it out."""
        member = Member.parse(location)
        try:
            if any(is_inside(location if member is None else member.container, root) for root in self.roots):
                return None
        except InputError as error:
            return DecodeFailure("bad-location", one_line(error))
        named = ", ".join(self.roots) or "the inputs of its gallery, which names no folder"
        return DecodeFailure(OUTSIDE, f"lies outside of {named}")


def roots_of(gallery: Gallery) -> list[str]:
    """The folders that a gallery's manifest names as its inputs; of a table, a list or an archive, the folder that it lies in."""
    roots = []
    for given in gallery.manifest.inputs:
        dataset = _DATASET.fullmatch(given)
        location = dataset["root"] if dataset else given
        if not dataset and not (os.path.isabs(location) or "://" in location):
            continue  # a description in words, such as of a list of paths
        path, options = split_options(location)
        if "://" not in location and os.path.exists(location):
            wildcard = None  # a name that has such a letter
        else:
            wildcard = _WILDCARD.search(path)
        if wildcard:
            path = path[: wildcard.start()].rpartition("/")[0] or "/"
        elif _is_file(location):
            path = path.rpartition("/")[0] or "/"
        roots.append(path + options)
    return list(dict.fromkeys(roots))


def _is_file(location: str) -> bool:
    filesystem, path = resolve(location)
    return filesystem.get_file_info(path).type == pafs.FileType.File
