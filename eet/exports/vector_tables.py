"""The items of a gallery with a vector of plain numbers each, as tables that other programs open.

A gallery stores vectors as bytes, which only EET and numpy read. Here they are lists of float32. A part of the gallery is in memory at a
time.

Shape suffixes: n rows, D numbers of a vector, B bytes of a code.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eet.errors import InputError
from eet.gallery import Gallery, Manifest
from eet.gallery.schema import OK, PLACE_FIELDS, TOKEN_DTYPE, fixed_binary_to_numpy
from eet.gallery.vectors import vectors_of
from eet.images import DecodeFailure, read_image
from eet.options.choices import VectorSource

VECTORS_FILE, LANCE_DATASET, ATLAS_FILE = "vectors.parquet", "items.lance", "items.parquet"
THUMBNAIL_SIDE = 128
"""Longer side of the images in an export for Embedding Atlas, in pixels."""
_THUMBNAIL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def vector_source(manifest: Manifest, wanted: VectorSource | None = None) -> VectorSource:
    """The vectors of an export.

    Args:
        manifest: of the gallery.
        wanted: what the user asked for; None for the first of embedding, hash and code that the gallery has.

    Raises:
        InputError: the gallery does not have what is wanted.
    """
    has = {"embedding": manifest.embedding_dim is not None, "hash": manifest.has_hash, "code": True}
    if wanted is None:
        return "embedding" if has["embedding"] else "hash" if has["hash"] else "code"
    if not has[wanted]:
        there = ", ".join(name for name, stored in has.items() if stored)
        raise InputError(f"the gallery has no {wanted} of its items, only {there}: encode again with --{wanted}, or take --vector code")
    return wanted


def vector_tables(gallery: Gallery, source: VectorSource, *, codes: bool = False, thumbnails: bool = False) -> Iterator[pa.Table]:
    """The items of a gallery that have a code, part by part.

    Args:
        gallery: the gallery.
        source: the column vector: the embedding, the real-valued hash, or the bits of the code as -1 and +1.
        codes: with a column for the packed code, a list of uint8.
        thumbnails: with a column for the image, a struct of its bytes (JPEG, at most THUMBNAIL_SIDE pixels wide and high) and path. It is
            null where the image cannot be read.

    Yields:
        Tables with the columns of `vector_schema`.

    Raises:
        InputError: a part is missing or damaged, or the gallery does not have the source.
    """
    manifest = gallery.manifest
    schema = vector_schema(manifest, source, codes=codes, thumbnails=thumbnails)
    width = -(-manifest.num_bits // 8)
    plain = [name for name in ("item_id", "uri", "label", *(field.name for field in PLACE_FIELDS)) if name in manifest.schema.names]
    names = None if manifest.label_names is None else pa.array(manifest.label_names, pa.string())
    for part in gallery.parts([*dict.fromkeys([*plain, "code", source, "status"])]):
        rows = part.filter(pc.equal(part["status"], OK))
        columns = {name: rows[name] for name in plain}
        known = pa.nulls(len(rows), pa.string()) if names is None else names.take(rows["label"].combine_chunks())
        columns["label_name"] = known
        columns["vector"] = _lists(_vectors(rows, source, manifest), schema.field("vector").type)
        if codes:
            columns["code"] = _lists(fixed_binary_to_numpy(rows["code"], np.uint8, (width,)), schema.field("code").type)
        if thumbnails:
            columns["image"] = pa.array([_thumbnail(uri) for uri in rows["uri"].to_pylist()], _THUMBNAIL)
        yield pa.table([columns[name] for name in schema.names], schema=schema)


def vector_schema(manifest: Manifest, source: VectorSource, *, codes: bool = False, thumbnails: bool = False) -> pa.Schema:
    """The schema of `vector_tables`: item_id, uri, label, label_name, the columns of places where known, and vector (D float32)."""
    source = vector_source(manifest, source)
    dim = manifest.embedding_dim if source == "embedding" else manifest.num_bits
    assert dim is not None
    fields = [pa.field("item_id", pa.string()), pa.field("uri", pa.string()), pa.field("label", pa.int32())]
    fields += [pa.field("label_name", pa.string()), *(PLACE_FIELDS if manifest.positions else ())]
    fields += [pa.field("vector", pa.list_(pa.float32(), dim))]
    fields += [pa.field("code", pa.list_(pa.uint8(), -(-manifest.num_bits // 8)))] if codes else []
    fields += [pa.field("image", _THUMBNAIL)] if thumbnails else []
    return pa.schema(fields)


def write_parquet_vectors(gallery: Gallery, folder: str | Path, source: VectorSource) -> int:
    """Writes vectors.parquet into an existing local folder, see `vector_tables`. Returns the number of items."""
    return _write_parquet(gallery, Path(folder) / VECTORS_FILE, source, thumbnails=False)


def write_atlas(gallery: Gallery, folder: str | Path, source: VectorSource) -> int:
    """Writes items.parquet, for `embedding-atlas items.parquet --vector vector --image image`, into an existing local folder.

    The images are read again, from the uri of each item. Returns the number of items.
    """
    return _write_parquet(gallery, Path(folder) / ATLAS_FILE, source, thumbnails=True)


def write_lance(gallery: Gallery, folder: str | Path, source: VectorSource) -> int:
    """Writes the Lance dataset items.lance into an existing local folder, so that LanceDB opens the folder and finds the table items.

    It has the packed codes too, which Lance searches by the metric hamming. Returns the number of items.

    Raises:
        InputError: Lance cannot be imported, or as in `vector_tables`.
    """
    lance = imported_lance()
    number = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal number
        for table in vector_tables(gallery, source, codes=True):
            number += len(table)
            yield from table.to_batches()

    schema = vector_schema(gallery.manifest, source, codes=True)
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches()), str(Path(folder) / LANCE_DATASET))
    gallery.check_num_ok(number)
    return number


def imported_lance() -> ModuleType:
    """Lance; InputError where it cannot be imported."""
    try:
        import lance
    except ImportError as error:
        raise InputError(
            f"an export to Lance needs the package pylance, which cannot be imported ({error}): install it (`pip install pylance`)"
        ) from error
    return lance


def _write_parquet(gallery: Gallery, path: Path, source: VectorSource, *, thumbnails: bool) -> int:
    number = 0
    with pq.ParquetWriter(path, vector_schema(gallery.manifest, source, thumbnails=thumbnails), compression="zstd") as writer:
        for table in vector_tables(gallery, source, thumbnails=thumbnails):
            writer.write_table(table)
            number += len(table)
    gallery.check_num_ok(number)
    return number


def _vectors(rows: pa.Table, source: VectorSource, manifest: Manifest) -> np.ndarray:
    """The vectors of rows that have them, (n, D) of any number."""
    if source == "embedding":
        return vectors_of(rows, "embedding", manifest)
    if source == "hash":
        return fixed_binary_to_numpy(rows["hash"], TOKEN_DTYPE, (manifest.num_bits,))
    codes_nB = fixed_binary_to_numpy(rows["code"], np.uint8, (-(-manifest.num_bits // 8),))
    return 2.0 * np.unpackbits(codes_nB, axis=1)[:, : manifest.num_bits] - 1.0


def _lists(values_nD: np.ndarray, kind: pa.FixedSizeListType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_nD.ravel(), kind.value_type), type=kind)


def _thumbnail(uri: str) -> dict[str, bytes | str] | None:
    image = read_image(uri)
    if isinstance(image, DecodeFailure):
        return None
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=85)
    return {"bytes": file.getvalue(), "path": uri}
