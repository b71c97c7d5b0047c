"""Galleries that several tests of jobs search."""

from pathlib import Path

import numpy as np
import pytest
from search_by_loop import BITS, hand_made

from eet.datasets import synthetic
from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part


@pytest.fixture(scope="module")
def parted(tmp_path_factory) -> Gallery:
    """60 items in 9 parts, the second half appended: ids do not ascend over the parts, and many codes are the same."""
    path = tmp_path_factory.mktemp("parted") / "gallery"
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2, (12, BITS))
    rows = values[rng.integers(0, 12, 60)]
    ids = [f"{n:02d}" for n in [*range(0, 60, 2), *range(1, 60, 2)]]
    manifest = Manifest(model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=60, num_ok=60, num_parts=9, rows_per_part=7)
    for part, places in enumerate(np.array_split(np.arange(60), 9)):
        names = [ids[place] for place in places]
        table = part_table(
            names, names, places % 5, np.packbits(rows[places], axis=1), ["ok"] * len(names), [None] * len(names), schema=manifest.schema
        )
        write_part(str(path), part, table)
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


@pytest.fixture(scope="module")
def asked(parted, tmp_path_factory) -> tuple[Gallery, Gallery, np.ndarray]:
    """The same queries without hashes and with them, and the hashes."""
    hashes = np.random.default_rng(4).integers(-8, 9, (23, BITS)).astype(np.float32) + 0.5
    folder, codes = tmp_path_factory.mktemp("asked"), (hashes > 0).astype(np.uint8)
    plain = hand_made(folder / "plain", codes, [0] * 23, prefix="query")
    return plain, hand_made(folder / "hashed", codes, [0] * 23, prefix="query", hashes=hashes), hashes


@pytest.fixture(scope="module")
def placed(tiny_model, tiny_birds, tmp_path_factory) -> Path:
    """A folder with the galleries database and queries, and hits.parquet: birds along a street, 10 metres apart, by day and by night."""
    from pipelines import encode, search
    from pipelines.job.options import DataOptions

    folder = tmp_path_factory.mktemp("placed")
    table = synthetic.load(str(tiny_birds)).select("train")
    rows = [
        f"{path},{'query' if row % 3 == 0 else 'database'},{'night' if row % 2 else 'day'},0,{10 * row}"
        for row, path in enumerate(table.paths)
    ]
    (folder / "places.csv").write_text("\n".join(["path,role,condition,easting,northing", *rows]))
    data = DataOptions(name="table", root=table.root, table=str(folder / "places.csv"))
    for name, role in (("database", "database"), ("queries", "query")):
        encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, role=role, out=str(folder / name), hash=True, engine="local"))
    search.run(
        search.SearchConfig(gallery=str(folder / "database"), queries=str(folder / "queries"), k=10, out=str(folder / "hits.parquet"))
    )
    return folder
