"""From a user's location to a list of images."""

import re
from collections.abc import Sequence

from pyarrow import fs

from eet.datasets.image_files import is_image_file, iter_files
from eet.datasets.listing.braces import expand_braces
from eet.datasets.listing.coco import CocoImages
from eet.datasets.listing.files import FilesUnder, ImageFiles, SeveralFiles, SingleFile, is_glob, split_glob, start_of_pattern
from eet.datasets.listing.image_list import ImageList
from eet.datasets.listing.tables import TableList
from eet.datasets.listing.tar_shards import TAR_SUFFIXES, TarShards
from eet.datasets.table_formats import TABLE_SUFFIXES
from eet.errors import InputError, NotFoundError
from eet.options.columns import Columns
from eet.storage import check_location, join_location, resolve, split_options


def list_images(location: str, *, columns: Columns | None = None, root: str | None = None) -> ImageList:
    """Lists the images at `location`, a local path or any URI that `eet.storage` opens.

    The location is one of these:

    - a folder: every file under it with an image suffix;
    - one picture;
    - a table with a column of paths (.csv, .tsv, .parquet, .arrow, .jsonl), or one of images' bytes (.parquet, .arrow);
    - a list of paths (.txt), one a line, which may be followed by a tab and a label;
    - a list as COCO and iNaturalist write it (.json), with categories as labels;
    - a tar shard (webdataset): .tar, or .tar.gz, .tgz, .tar.bz2, .tar.xz and .tar.zst, which are slower;
    - a glob of any one of these ('photos/*/front.jpg', 's3://bucket/shards/*.tar', '**' for any depth);
    - braces, as in a shell ('shards/train-{000..009}.tar', '{a,b}.csv', 'photos/{2019,2020}/*.jpg'): every one must exist.

    Args:
        location: see above.
        columns: for tables: names of columns; label also for tar shards. Each that is named must be there.
        root: for tables and lists: folder that paths are relative to; default the folder of the file.

    Raises:
        NotFoundError: nothing exists there, or a glob matches nothing.
        InputError: a glob matches several forms, a file has none of these forms, a named column is not there, or the location is empty or
            holds credentials.
    """
    check_location(location)
    columns = columns or Columns()
    (kind,) = _kinds([location])
    if kind == fs.FileType.NotFound:  # tested first, because a name may contain brackets and braces
        path, options = split_options(location)
        if (expanded := expand_braces(path)) != [path]:
            return _of_braces(location, [f"{name}{options}" for name in expanded], columns, root)
        if is_glob(location):
            return _of_glob(location, columns, root)
        raise NotFoundError(
            f"{location} does not exist: give a folder, an image, a table ({', '.join(TABLE_SUFFIXES)}), a tar shard, or a glob"
        )
    if kind == fs.FileType.Directory:
        columns.refuse_others(location)
        return FilesUnder(location)
    name = split_options(location)[0].rpartition("/")[2]
    if is_image_file(name):
        columns.refuse_others(location)
        return SingleFile(location)
    return _of_containers([(name, location)], location, columns, root)


def _kinds(locations: Sequence[str]) -> list[fs.FileType]:
    """The kind of each location; one request if all are on one store."""
    resolved = []
    for location in locations:
        try:
            resolved.append(resolve(location))
        except ValueError:
            if not is_glob(location) and "{" not in location:
                raise
            return [fs.FileType.NotFound] * len(locations)  # a pattern that is not a valid URI itself
    filesystem = resolved[0][0]
    if all(other == filesystem for other, _ in resolved):
        return [info.type for info in filesystem.get_file_info([path for _, path in resolved])]
    return [other.get_file_info(path).type for other, path in resolved]


def _of_glob(pattern: str, columns: Columns, root: str | None) -> ImageList:
    if not _is_container(pattern):
        columns.refuse_others(pattern)
        folder, matching = split_glob(pattern)
        return FilesUnder(folder, matching=matching, description=pattern)
    return _of_containers(_matches(pattern, *split_glob(pattern)), pattern, columns, root)


def _matches(pattern: str, folder: str, matching: re.Pattern[str]) -> list[tuple[str, str]]:
    """(path relative to `folder`, location) of each file there that the glob `pattern` matches."""
    found = [(path, join_location(folder, path)) for path in iter_files(folder) if matching.fullmatch(path)]
    if not found:
        raise NotFoundError(f"no file matches {pattern}")
    return found


def _of_braces(pattern: str, expanded: Sequence[str], columns: Columns, root: str | None) -> ImageList:
    """Lists a pattern with braces, which expands to files, folders of images, or globs.

    Every file and folder must exist; of several globs in one folder ('*.{jpg,png}') one must match. Names are relative to the folder before
    the first brace or wildcard.
    """
    start = start_of_pattern(split_options(pattern)[0], re.compile(r"[*?\[{]"))
    name_of = {location: split_options(location)[0][start:] for location in expanded}
    plain = [location for location in name_of if not is_glob(location)]
    kinds = dict(zip(plain, _kinds(plain) if plain else [], strict=True))
    missing = [location for location, kind in kinds.items() if kind == fs.FileType.NotFound]
    if missing:
        raise NotFoundError(f"{len(missing)} of the {len(expanded)} locations of {pattern} do not exist, such as {missing[0]}")
    globs: dict[tuple[str, str], list[str]] = {}
    for location in name_of:
        if location not in kinds:
            name = name_of[location]
            folder, matching = split_glob(location)
            globs.setdefault((name[: start_of_pattern(name)], folder), []).append(matching.pattern)
    in_folders = [(prefix, folder, re.compile("|".join(either))) for (prefix, folder), either in globs.items()]
    if all(map(_is_container, expanded)):
        files = {name_of[location]: location for location in plain}
        for prefix, folder, matching in in_folders:
            files |= {prefix + path: found for path, found in _matches(pattern, folder, matching)}
        return _of_containers(list(files.items()), pattern, columns, root)
    columns.refuse_others(pattern)
    lists: list[tuple[str, ImageFiles]] = []
    for location, kind in kinds.items():
        name = name_of[location]
        if kind == fs.FileType.Directory:
            lists.append((f"{name.rstrip('/')}/", FilesUnder(location)))
        elif is_image_file(name):
            lists.append((name[: name.rfind("/") + 1], SingleFile(location)))
        else:
            raise InputError(f"{location}, from {pattern}, is no image: list tables and shards separately from images")
    lists += [(prefix, FilesUnder(folder, matching=matching, description=pattern)) for prefix, folder, matching in in_folders]
    return SeveralFiles(lists, pattern)


def _is_container(location: str) -> bool:
    return split_options(location)[0].lower().endswith((*TABLE_SUFFIXES, *TAR_SUFFIXES, ".json"))


def _of_containers(files: Sequence[tuple[str, str]], description: str, columns: Columns, root: str | None) -> ImageList:
    names = [name.lower() for name, _ in files]
    if all(name.endswith(TAR_SUFFIXES) for name in names):
        columns.refuse_others(description, "label")
        return TarShards(files, description, columns=columns)
    if all(name.endswith(TABLE_SUFFIXES) for name in names):
        return TableList(files, description, columns, root=root)
    if all(name.endswith(".json") for name in names):
        if len(files) > 1:
            raise InputError(f"{description} is {len(files)} .json files: give one at a time, because their labels are numbered separately")
        columns.refuse_others(description)
        return CocoImages(files[0][1], root=root)
    raise InputError(
        f"{description} is no image, table ({', '.join(TABLE_SUFFIXES)}), COCO list (.json) or tar shard ({', '.join(TAR_SUFFIXES)})"
    )
