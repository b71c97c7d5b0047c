"""`eet index`: the codes of a gallery as files that a search maps into memory, so that it starts at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from eet.errors import InputError
from eet.gallery import CodedRows, open_gallery
from eet.retrieval.gallery_index import INDEX_FILE, GalleryIndex, missing_parts
from eet.search import Index, build_index
from eet.storage import replace_folder
from pipelines.job.location import LOCATION, with_absolute_locations
from pipelines.job.options import JobOptions
from pipelines.job.output import write_config


@dataclass(kw_only=True)
class IndexConfig(JobOptions):
    """Prepares a gallery for fast searches. An existing index is extended by the parts that were added to the gallery since.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        out: Folder of the index, on this machine.
        kind: exact finds the same hits as a scan of all codes. ivf divides the codes into lists, and a search scans only the nearest ones:
            many times faster from a million codes on, for the clustered codes of trained models. It can miss hits; each search measures
            how many. Default: the kind of the existing index, else exact.
        lists: Number of lists of a new ivf index; default 4 times the square root of the number of distinct codes, at most 65,536. An
            extended index keeps its lists.
    """

    gallery: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    kind: Literal["exact", "ivf"] | None = None
    lists: int | None = None

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        if self.lists is not None and self.lists < 1:
            found.append(f"--lists {self.lists}: use 1 or more")
        if self.lists is not None and self.kind != "ivf":
            found.append("--lists needs --kind ivf")
        return found


def run(config: IndexConfig) -> GalleryIndex | None:
    """Writes the index into config.out and returns it; None after a dry run."""
    config = with_absolute_locations(config)
    gallery = open_gallery(config.gallery)
    manifest = gallery.manifest
    there = (Path(config.out) / INDEX_FILE).is_file()
    parts = missing_parts(config.out, gallery) if there else list(range(manifest.num_parts))
    extent = f"{len(parts)} of {manifest.num_parts} parts of {config.gallery}"
    before = GalleryIndex.load(config.out) if there else None
    if before is not None:
        _check_kind(config, before.codes)
    if config.dry_run:
        size = manifest.num_ok * (-(-manifest.num_bits // 8) + 4)
        print(f"dry run: {extent}; about {size / 1e6:.1f} MB and the item ids; nothing was started")
        return None
    if before is not None and not parts:
        print(f"{config.out} is up to date: nothing to do")
        return before
    rows = gallery.coded_rows(parts)
    if before is not None:
        index = GalleryIndex.of_rows(_joined(before, rows), manifest.num_bits, lambda codes, num_bits: before.codes.rebuilt(codes))
    else:
        index = GalleryIndex.of_rows(
            rows,
            manifest.num_bits,
            lambda codes, num_bits: build_index(config.kind or "exact", codes, num_bits=num_bits, **_options(config)),
        )
    with replace_folder(config.out, INDEX_FILE) as fresh:
        index.save(Path(fresh), gallery)
    write_config(config.out, config)
    print(f"{config.out}: {index.codes.describe()} ({extent})")
    return index


def _options(config: IndexConfig) -> dict[str, int]:
    """The options that the user gave for a new index."""
    return {} if config.lists is None else {"lists": config.lists}


def _check_kind(config: IndexConfig, there: Index) -> None:
    """InputError where the existing index is of another kind, or has other options, than requested."""
    if config.kind not in (None, there.kind):
        raise InputError(f"{config.out} is of kind {there.kind}, not {config.kind}: choose another --out, or remove it")
    for name, value in _options(config).items():
        if value != there.options[name]:
            raise InputError(f"{config.out} has {there.options[name]} {name}, not {value}: choose another --out, or remove it")


def _joined(index: GalleryIndex, rows: CodedRows) -> CodedRows:
    ids = index.item_ids.combine_chunks() if isinstance(index.item_ids, pa.ChunkedArray) else index.item_ids
    return CodedRows(
        np.concatenate([index.codes.packed_codes(), rows.codes_NB]),
        pa.concat_arrays([ids.cast(pa.large_string()), rows.item_ids.cast(pa.large_string())]),
        np.concatenate([index.labels_N, rows.labels_N]),
    )
