"""From what a user names to the list of its pictures."""

from collections.abc import Sequence

from pyarrow import fs

from eet.datasets.image_files import is_image_file, iter_files
from eet.datasets.listing.files import FilesUnder, SingleFile, is_glob, split_glob
from eet.datasets.listing.image_list import Columns, ImageList
from eet.datasets.listing.tables import TABLE_SUFFIXES, TableList
from eet.datasets.listing.tar_shards import TarShards
from eet.storage import join_location, resolve, split_options


def list_images(location: str, *, columns: Columns | None = None, root: str | None = None) -> ImageList:
    """The pictures at `location`, a local path or any URI that `eet.storage` opens:

    - a folder: every file under it with an image suffix;
    - one picture;
    - a table, .csv or .parquet: a column of paths, or (Parquet) one of pictures' bytes;
    - a .tar shard (webdataset);
    - a glob of any one of these ('photos/*/front.jpg', 's3://bucket/shards/*.tar', '**' for any depth).

    columns, root: for tables: names of columns; what paths are relative to.
    Raises FileNotFoundError where nothing is there, ValueError for a glob that matches nothing or several forms, or a file of no such form.
    """
    columns = columns or Columns()
    filesystem, path = resolve(location)
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.NotFound and is_glob(location):  # a name may hold brackets
        return _of_glob(location, columns, root)
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError(f"{location} is not there: give a folder, a picture, a table (.csv, .parquet), a .tar shard, or a glob")
    if kind == fs.FileType.Directory:
        return FilesUnder(location)
    name = path.rpartition("/")[2]
    if is_image_file(name):
        return SingleFile(location)
    return _of_containers([(name, location)], location, columns, root)


def _of_glob(pattern: str, columns: Columns, root: str | None) -> ImageList:
    folder, matching = split_glob(pattern)
    if not split_options(pattern)[0].lower().endswith((*TABLE_SUFFIXES, ".tar")):
        return FilesUnder(folder, matching=matching, description=pattern)
    found = [(path, join_location(folder, path)) for path in iter_files(folder) if matching.fullmatch(path)]
    if not found:
        raise FileNotFoundError(f"no file matches {pattern}")
    return _of_containers(found, pattern, columns, root)


def _of_containers(files: Sequence[tuple[str, str]], description: str, columns: Columns, root: str | None) -> ImageList:
    names = [name.lower() for name, _ in files]
    if all(name.endswith(".tar") for name in names):
        return TarShards(files, description)
    if all(name.endswith(TABLE_SUFFIXES) for name in names):
        return TableList(files, description, columns, root=root)
    raise ValueError(f"{description} is no picture, table (.csv, .parquet) or tar shard (.tar; not compressed)")
