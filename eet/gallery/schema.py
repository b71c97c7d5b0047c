"""The columns of a gallery's parts, and the table of a part from an encoder's arrays.

Shape suffixes: n rows, B bytes of a code, K tokens, D their dimension.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.hashing.quantisation import check_form, stored, stored_bytes
from eet.options.choices import VectorForm

OK = "ok"
TOKEN_DTYPE = np.dtype("<f2")
TOKEN_INDEX_DTYPE = np.dtype("<u2")

PLACE_FIELDS = (
    pa.field("easting", pa.float64()),
    pa.field("northing", pa.float64()),
    pa.field("zone", pa.string()),
    pa.field("condition", pa.string()),
)
"""The columns of a gallery of places: metres, null where unknown; the zone inside which distances exist; the condition, such as night."""

Labels: TypeAlias = Sequence[int | None] | np.ndarray | pa.Array | pa.ChunkedArray


def gallery_schema(
    *,
    num_bits: int,
    token_shape: tuple[int, int] | None,
    embedding_dim: int | None,
    has_hash: bool = False,
    positions: bool = False,
    token_form: VectorForm = "float16",
    embedding_form: VectorForm = "float16",
) -> pa.Schema:
    """The schema of the parts of a gallery.

    Arrays are stored as fixed-size binary, not as lists: pyarrow 25 cannot read back a list column with a null, and lists are several
    times slower.

    Args:
        num_bits: length of a code, which takes ceil(num_bits / 8) bytes.
        token_shape: (K, D), or None for a gallery without the columns tokens, token_index and token_mass.
        embedding_dim: D of the embedding, or None for a gallery without embeddings.
        has_hash: with a column for the real-valued hash (num_bits,), float16.
        positions: with PLACE_FIELDS.
        token_form, embedding_form: how tokens and embedding are stored.

    Raises:
        InputError: a size is below 1, or a form is unknown.
    """
    if num_bits < 1:
        raise InputError(f"num_bits is {num_bits}; a code has at least 1 bit.")
    check_form(token_form, "token_form")
    check_form(embedding_form, "embedding_form")
    fields = [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("code", pa.binary(-(-num_bits // 8))),
    ]
    if has_hash:
        fields.append(pa.field("hash", pa.binary(TOKEN_DTYPE.itemsize * num_bits)))
    if token_shape is not None:
        num_tokens, dim = token_shape
        if num_tokens < 1 or dim < 1:
            raise InputError(f"token_shape is {token_shape}; give (tokens, dimension), both at least 1, or None for no tokens.")
        fields += [
            pa.field("tokens", pa.binary(num_tokens * stored_bytes(token_form, dim))),
            pa.field("token_index", pa.binary(TOKEN_INDEX_DTYPE.itemsize * num_tokens)),
            pa.field("token_mass", pa.binary(TOKEN_DTYPE.itemsize * num_tokens)),
        ]
    if embedding_dim is not None:
        if embedding_dim < 1:
            raise InputError(f"embedding_dim is {embedding_dim}; give at least 1, or None for no embedding.")
        fields.append(pa.field("embedding", pa.binary(stored_bytes(embedding_form, embedding_dim))))
    fields += PLACE_FIELDS if positions else ()
    fields += [pa.field("status", pa.string(), nullable=False), pa.field("error", pa.string())]
    return pa.schema(fields)


def part_table(
    item_ids: Sequence[str] | pa.Array,
    uris: Sequence[str] | pa.Array,
    labels: Labels | None,
    codes: np.ndarray,
    statuses: Sequence[str] | pa.Array,
    errors: Sequence[str | None] | pa.Array,
    *,
    schema: pa.Schema,
    hash: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    token_index: np.ndarray | None = None,
    token_mass: np.ndarray | None = None,
    embedding: np.ndarray | None = None,
    places: pa.Table | None = None,
    token_form: VectorForm = "float16",
    embedding_form: VectorForm = "float16",
) -> pa.Table:
    """Makes the table of one part; every argument has one entry per row.

    Rows whose status is not "ok" get null in label and in all binary columns; rows whose status is "ok" get null in error.

    Args:
        item_ids: strings.
        uris: locations of the images.
        labels: integers, None or negative where unknown; None if all are unknown.
        codes: uint8 (n, B), packed.
        statuses: "ok" or a short reason.
        errors: None or one line of text.
        schema: from `gallery_schema`; it decides which of the following must be given.
        hash: float (n, bits), stored as float16.
        tokens: float (n, K, D), stored as `token_form`.
        token_index: integers (n, K) in 0 .. 65535, stored as uint16.
        token_mass: float (n, K), stored as float16.
        embedding: float (n, D), stored as `embedding_form`.
        places: the columns of PLACE_FIELDS; a row that failed keeps them.
        token_form, embedding_form: those of the schema.

    Raises:
        InputError: an array is missing, not in the schema, or of another shape than in the schema.
    """
    num_rows = len(item_ids)
    status_column = _column(statuses, pa.string(), "statuses", num_rows)
    ok_n = np.asarray(status_column.to_numpy(zero_copy_only=False) == OK, dtype=bool)
    error_column = _column(errors, pa.string(), "errors", num_rows)
    columns = {
        "item_id": _column(item_ids, pa.string(), "item_ids", num_rows),
        "uri": _column(uris, pa.string(), "uris", num_rows),
        "label": _masked(label_column(labels, num_rows), ok_n),
        "status": status_column,
        "error": _masked(error_column, ~ok_n),
    }
    binary: dict[str, tuple[np.ndarray | None, np.dtype]] = {
        "code": (codes, np.dtype(np.uint8)),
        "hash": (hash, TOKEN_DTYPE),
        "tokens": _in_form(tokens, token_form),
        "token_index": (token_index, TOKEN_INDEX_DTYPE),
        "token_mass": (token_mass, TOKEN_DTYPE),
        "embedding": _in_form(embedding, embedding_form),
    }
    for name, (array, dtype) in binary.items():
        if name not in schema.names:
            if array is not None:
                raise InputError(f"{name} was given, but the gallery's schema has no such column: {', '.join(schema.names)}.")
            continue
        if array is None:
            raise InputError(f"The gallery's schema has the column {name}, but no array was given for it.")
        columns[name] = _fixed_binary(name, array, dtype, schema.field(name).type.byte_width, ok_n)
    if PLACE_FIELDS[0].name in schema.names:
        if places is None:
            raise InputError("The gallery's schema has positions, but no places were given.")
        columns |= {field.name: _column(places[field.name], field.type, field.name, num_rows) for field in PLACE_FIELDS}
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def label_column(labels: Labels | None, num_rows: int) -> pa.Array:
    """Labels as int32 (num_rows,), null where None or negative. InputError where their number differs."""
    if labels is None:
        return pa.nulls(num_rows, pa.int32())
    column = _column(labels, pa.int32(), "labels", num_rows)
    labels_n = column.fill_null(-1).to_numpy(zero_copy_only=False)
    return pa.array(labels_n, pa.int32(), mask=labels_n < 0)


def fixed_binary_to_numpy(column: pa.Array | pa.ChunkedArray, dtype: np.dtype | type | str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a fixed_size_binary column as an array.

    A column of one chunk without nulls is not copied.

    Args:
        column: of fixed_size_binary.
        dtype: of a row's values: "<f2" for tokens and token_mass, "<u2" for token_index, numpy.uint8 for code.
        shape: of a row: (K, D) for tokens, (K,) for token_index and token_mass, (B,) for code.

    Returns:
        A read-only array (number of rows that are not null, *shape).

    Raises:
        InputError: dtype and shape do not fit the width of the column.
    """
    dtype = np.dtype(dtype)
    width = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if not pa.types.is_fixed_size_binary(column.type) or column.type.byte_width != width:
        raise InputError(f"The column holds {column.type}; rows of {dtype} {shape} are fixed_size_binary[{width}].")
    pieces = []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        whole = chunk.drop_null() if chunk.null_count else chunk
        if len(whole):
            values = np.frombuffer(whole.buffers()[1], np.uint8, count=len(whole) * width, offset=whole.offset * width)
            pieces.append(values.view(dtype).reshape(len(whole), *shape))
    if not pieces:
        return np.empty((0, *shape), dtype)
    array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    array.flags.writeable = False
    return array


def _column(values: Sequence | np.ndarray | pa.Array | pa.ChunkedArray, kind: pa.DataType, name: str, num_rows: int) -> pa.Array:
    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if len(column) != num_rows:
        raise InputError(f"{name} has {len(column)} entries for {num_rows} rows.")
    return column.cast(kind)


def _masked(column: pa.Array, keep_n: np.ndarray) -> pa.Array:
    return pc.if_else(pa.array(keep_n), column, pa.scalar(None, column.type))


def _in_form(vectors: np.ndarray | None, form: VectorForm) -> tuple[np.ndarray | None, np.dtype]:
    """Vectors as they are stored, and their dtype. float16 is cast later, without the rows that failed."""
    if vectors is None or form == "float16":
        return vectors, TOKEN_DTYPE
    return stored(vectors, form), np.dtype(np.uint8)


def _fixed_binary(name: str, array: np.ndarray, dtype: np.dtype, width: int, ok_n: np.ndarray) -> pa.Array:
    array = np.asarray(array)
    num_rows = len(ok_n)
    if name == "code" and array.dtype != np.uint8:
        raise InputError(f"codes has dtype {array.dtype}; give packed codes, uint8 (rows, {width}).")
    if array.ndim < 2 or len(array) != num_rows or array[:1].size * dtype.itemsize != width * min(num_rows, 1):
        raise InputError(f"{name} has shape {array.shape} for {num_rows} rows; a row is {width // dtype.itemsize} values of {dtype.name}.")
    if name == "token_index" and not np.all((array[ok_n] >= 0) & (array[ok_n] <= 65535)):
        raise InputError("token_index has values outside 0..65535.")
    # A failed row may hold any values, and casting them could warn.
    stored = np.zeros(array.shape, dtype)
    stored[ok_n] = array[ok_n]
    validity = None if ok_n.all() else pa.py_buffer(np.packbits(ok_n, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.binary(width), num_rows, [validity, pa.py_buffer(stored)])
