"""`eet index`: a gallery's codes as files that a search maps into memory, so that it begins at once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from eet.gallery import CodedRows, open_gallery
from pipelines.gallery_index import INDEX_FILE, GalleryIndex, parts_behind
from pipelines.options import JobOptions
from pipelines.output import absolute, replace_folder, write_config


@dataclass(kw_only=True)
class IndexConfig(JobOptions):
    """Prepares a gallery for fast searches. An index that is there is extended by the parts that the gallery has got since.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        out: Folder of the index, on this machine.
    """

    gallery: str
    out: str

    def problems(self) -> list[str]:
        return super().problems() + self.local_only("out")


def run(config: IndexConfig) -> GalleryIndex | None:
    """Writes the index into config.out and returns it; None after a dry run."""
    gallery = open_gallery(config.gallery)
    manifest = gallery.manifest
    there = (Path(config.out) / INDEX_FILE).is_file()
    parts = parts_behind(config.out, gallery) if there else list(range(manifest.num_parts))
    told = f"{len(parts)} of {manifest.num_parts} parts of {config.gallery}"
    if config.dry_run:
        size = manifest.num_ok * (-(-manifest.num_bits // 8) + 4)
        print(f"dry run: {told}; about {size / 1e6:.1f} MB and the item ids; nothing was started")
        return None
    if there and not parts:
        print(f"{config.out} is up to date: nothing to do")
        return GalleryIndex.load(config.out)
    rows = gallery.coded_rows(parts)
    if there:
        rows = _joined(GalleryIndex.load(config.out), rows)
    index = GalleryIndex.of_rows(rows, manifest.num_bits)
    with replace_folder(str(absolute(config.out)), INDEX_FILE) as fresh:
        index.save(Path(fresh), gallery)
    write_config(config.out, config)
    print(f"{config.out}: {index.codes.num_items} items, {index.codes.num_codes} distinct codes ({told})")
    return index


def _joined(index: GalleryIndex, rows: CodedRows) -> CodedRows:
    ids = index.item_ids.combine_chunks() if isinstance(index.item_ids, pa.ChunkedArray) else index.item_ids
    return CodedRows(
        np.concatenate([index.codes.packed_codes(), rows.codes_NB]),
        pa.concat_arrays([ids.cast(pa.large_string()), rows.item_ids.cast(pa.large_string())]),
        np.concatenate([index.labels_N, rows.labels_N]),
    )
