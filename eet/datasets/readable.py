"""Which images of a table can be decoded. The result is cached, so that images are decoded once, not before each training."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eet.datasets.image_table import ImageTable
from eet.images import DecodeFailure, read_image
from eet.storage import cache_folder, resolve


def unreadable_images(table: ImageTable, *, threads: int) -> list[tuple[int, str]]:
    """Finds the images that cannot be decoded.

    An image whose size and modification time have not changed since an earlier call is not opened again. An image without a time (some
    stores have none) or inside an archive is decoded each time.

    Args:
        table: N images.
        threads: number of decoding threads.

    Returns:
        (row, reason) of each unreadable image, by row.
    """
    file = cache_folder() / "readable" / f"{hashlib.sha256(os.fsencode(table.root)).hexdigest()[:32]}.json"
    known: dict[str, list[object]] = _read(file)
    locations = [table.location(row) for row in range(len(table))]
    states = dict(_states(locations))

    def check(location: str) -> str | None:
        state, found = states.get(location), known.get(location)
        if state is not None and found is not None and found[:2] == list(state):
            return None if found[2] is None else str(found[2])
        image = read_image(location)
        return image.error if isinstance(image, DecodeFailure) else None

    with ThreadPoolExecutor(threads) as pool:
        errors = list(pool.map(check, locations))
    fresh: dict[str, list[object]] = {
        location: [*states[location], error] for location, error in zip(locations, errors, strict=True) if location in states
    }
    if any(known.get(location) != entry for location, entry in fresh.items()):
        _write(file, known | fresh)
    return [(row, error) for row, error in enumerate(errors) if error is not None]


def _states(locations: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """(location, (size, modification time in ns)) of the images for which the store knows both."""
    for location in locations:
        if "://" in location:
            try:
                filesystem, path = resolve(location)
                info = filesystem.get_file_info(path)
            except (OSError, ValueError):
                continue
            if info.is_file and info.mtime_ns is not None:
                yield location, (int(info.size), int(info.mtime_ns))
            continue
        try:
            found = os.stat(location)
        except OSError:
            continue
        yield location, (found.st_size, found.st_mtime_ns)


def _read(file: Path) -> dict[str, list[object]]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _write(file: Path, entries: dict[str, list[object]]) -> None:
    """Writes the cache completely or not at all; a cache that cannot be written is skipped."""
    writing = file.with_suffix(f".{os.getpid()}.writing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writing.write_text(json.dumps(entries))
        writing.replace(file)
    except OSError:
        return
