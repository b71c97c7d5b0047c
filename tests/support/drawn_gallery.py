"""A gallery of random codes in parts, its earlier states, and an index that grew with it."""

import dataclasses
from pathlib import Path

import numpy as np

from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.retrieval.gallery_index import GalleryIndex


def drawn(folder: Path, rng: np.random.Generator, bits: int, part_sizes: list[int], values: int, *, failed: float = 0.1) -> Gallery:
    """A gallery of parts of these sizes; ids are in no order over the parts, some rows have no label, some no code."""
    number = sum(part_sizes)
    hashes = rng.integers(0, 2, (values, bits))[rng.integers(0, values, number)]
    names = rng.permutation([f"é/{n}" if n % 3 else f"z{n:05d}.jpg" for n in range(number)]) if number else np.empty(0, str)
    ok = rng.random(number) >= failed
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=bits, num_rows=number, num_ok=int(ok.sum()), num_parts=len(part_sizes),
        rows_per_part=max([*part_sizes, 1]), errors={"missing": int((~ok).sum())} if not ok.all() else {},
    )  # fmt: skip
    for part, places in enumerate(np.split(np.arange(number), np.cumsum(part_sizes)[:-1])):
        ids = sorted(names[places].tolist())
        labels = [None if place % 4 == 0 else int(place) % 9 for place in places]
        statuses = ["ok" if ok[place] else "missing" for place in places]
        errors = [None if status == "ok" else status for status in statuses]
        packed = np.packbits(hashes[places], axis=1)
        write_part(str(folder), part, part_table(ids, ids, labels, packed, statuses, errors, schema=manifest.schema))
    write_manifest(str(folder), manifest)
    return open_gallery(str(folder))


def first_parts(gallery: Gallery, number: int) -> Gallery:
    """The same gallery before its other parts were appended."""
    num_ok = len(gallery.coded_rows(range(number)).codes_NB)
    return Gallery(gallery.path, dataclasses.replace(gallery.manifest, num_parts=number, num_ok=num_ok))


def grown(folder: Path, gallery: Gallery, steps: list[int]) -> Path:
    """An index that was extended each time the gallery had so many parts; the folder of the last."""
    before = None
    for number in steps:
        out = folder / f"{number}"
        out.mkdir(parents=True)
        state = first_parts(gallery, number)
        if before is None:
            GalleryIndex.write(out, state)
        else:
            GalleryIndex.write_extended(out, state, str(before))
        before = out
    assert before is not None
    return before
