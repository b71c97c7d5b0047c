"""Listing the image files under a folder, local or remote."""

import os

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def list_image_files(root: str) -> tuple[list[str], int]:
    """Every file under `root` with an image suffix (any case), and how many other files were left.

    `root` is a local folder or a URI that pyarrow opens (s3://, gs://, hdfs://, file://). Paths are relative to it,
    '/'-separated, sorted. Hidden files and folders (a leading dot) are skipped and not counted. Links to folders are
    followed, each folder once. Raises FileNotFoundError when root is not a folder.
    """
    files = _remote_files(root) if "://" in root else _local_files(root)
    images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(images), len(files) - len(images)


def _local_files(root: str) -> list[str]:
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root} is not a folder: give the folder that holds the images")
    files: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder it is always the same one that is followed.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        files += [prefix + name for name in names if not name.startswith(".")]
    return files


def _remote_files(root: str) -> list[str]:
    from pyarrow import fs

    filesystem, base = fs.FileSystem.from_uri(root)
    base = base.rstrip("/")
    if filesystem.get_file_info(base).type != fs.FileType.Directory:
        raise FileNotFoundError(f"{root} is not a folder: give the folder that holds the images")
    found = filesystem.get_file_info(fs.FileSelector(base, recursive=True))
    files = [info.path[len(base) + 1 :] for info in found if info.type == fs.FileType.File]
    return [file for file in files if not any(part.startswith(".") for part in file.split("/"))]
