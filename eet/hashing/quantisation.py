"""Vectors stored with few bits for each dimension, so that their cosines can still be computed.

A vector is scaled to length 1 and turned by one fixed rotation. Every coordinate is then close to a normal variable, whatever the vectors
are, so one table of levels serves all of them: nothing is fitted, and vectors of any time and place can be compared. The rotation depends
on the dimension alone.

Shape suffixes: D dimension, S bytes of a stored vector.
Source: rotation before quantisation as in RaBitQ (arXiv 2405.12497); levels of Max (IRE Trans. Inf. Theory 6, 1960).
"""

from functools import lru_cache
from typing import get_args

import numpy as np
import torch

from eet.errors import InputError
from eet.options.choices import VectorForm

_BITS: dict[str, int] = {"int8": 8, "int4": 4, "int2": 2, "bits": 1}
_FLOAT16 = np.dtype("<f2")
_ROUNDS = 500  # of Lloyd's iteration: levels of 4 bits move by less than 1e-6 after it


def check_form(form: str, name: str = "form") -> None:
    """InputError where `form` is not a VectorForm. name: of the option, for the message."""
    if form not in get_args(VectorForm):
        raise InputError(f"{name} {form!r}: use one of {', '.join(get_args(VectorForm))}")


def stored_bytes(form: VectorForm, dim: int) -> int:
    """Bytes of a stored vector of `dim` dimensions."""
    return _FLOAT16.itemsize * dim if form == "float16" else -(-dim * _BITS[form] // 8)


def stored(vectors: np.ndarray, form: VectorForm) -> np.ndarray:
    """Vectors in the form in which a gallery stores them.

    Args:
        vectors: (..., D), any float dtype. A vector of zeros or with values that are not finite is stored as one of zeros; its direction
            is then arbitrary.
        form: a VectorForm other than "float16" keeps directions alone.

    Returns:
        float16 (..., D), or uint8 (..., S).
    """
    if form == "float16":
        return np.asarray(vectors, _FLOAT16)
    bits = _BITS[form]
    coordinates = turned(_unit(np.asarray(vectors, np.float32)))
    dim = coordinates.shape[-1]
    if bits == 1:
        return np.packbits(coordinates > 0, axis=-1)
    bounds = (_levels(bits)[1:] + _levels(bits)[:-1]) / 2
    numbers = np.searchsorted(bounds, coordinates * np.sqrt(dim)).astype(np.uint8)
    per_byte = 8 // bits
    padding = [(0, 0)] * (numbers.ndim - 1) + [(0, -dim % per_byte)]
    numbers = np.pad(numbers, padding).reshape(*numbers.shape[:-1], -1, per_byte)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    return np.bitwise_or.reduce(numbers << shifts, axis=-1)


def restored(values: np.ndarray, form: VectorForm, dim: int, *, rotated: bool) -> np.ndarray:
    """The vectors of `stored`, as they are or in rotated coordinates. Cosines are the same in both.

    Args:
        values: float16 (..., D) where form is "float16", else uint8 (..., S).
        form: how they are stored.
        dim: D.
        rotated: in the coordinates after the rotation, which the other forms are stored in: to restore them costs one table look-up.

    Returns:
        float16 (..., D); of a form other than "float16", of any length.
    """
    if form == "float16":
        return turned(values).astype(_FLOAT16) if rotated else values
    coordinates = _values_of_bytes(_BITS[form])[values].reshape(*values.shape[:-1], -1)[..., :dim]
    return coordinates if rotated else turned(coordinates, back=True).astype(_FLOAT16)


def turned(vectors: np.ndarray, *, back: bool = False) -> np.ndarray:
    """Vectors (..., D) times the rotation of D dimensions, or times its inverse; float32."""
    rotation_DD = _rotation(vectors.shape[-1])
    return np.asarray(vectors, np.float32) @ (rotation_DD.T if back else rotation_DD)


@lru_cache
def _rotation(dim: int) -> np.ndarray:
    """A random rotation (D, D) float32, the same on every machine up to the last digits."""
    orthogonal_DD, triangular_DD = np.linalg.qr(np.random.default_rng(dim).standard_normal((dim, dim)))
    return (orthogonal_DD * np.sign(np.diag(triangular_DD))).astype(np.float32)  # the signs make the decomposition unique


@lru_cache
def _levels(bits: int) -> np.ndarray:
    """The 2 ** bits levels, ascending, by which a standard normal variable is quantised with the least mean squared error."""
    number = 1 << bits
    edges = torch.linspace(0, 1, 2 * number + 1, dtype=torch.float64)
    levels = 3**0.5 * torch.special.ndtri(edges[1::2])  # the best density of many levels (Panter and Dite, 1951)
    end = torch.tensor([torch.inf], dtype=torch.float64)
    for _ in range(_ROUNDS):
        bounds = torch.cat([-end, (levels[1:] + levels[:-1]) / 2, end])
        density = torch.exp(-(bounds**2) / 2) / (2 * torch.pi) ** 0.5
        levels = -density.diff() / torch.special.ndtr(bounds).diff()
    return levels.numpy()


@lru_cache
def _values_of_bytes(bits: int) -> np.ndarray:
    """The levels of the 8 / bits coordinates in each of the 256 bytes, float16 (256, 8 / bits)."""
    shifts = np.arange(8 - bits, -1, -bits)
    numbers = (np.arange(256)[:, None] >> shifts) & ((1 << bits) - 1)
    return _levels(bits)[numbers].astype(_FLOAT16)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1; zeros where a value is not finite."""
    finite = np.isfinite(vectors).all(axis=-1, keepdims=True)
    vectors = np.where(finite, vectors, 0)
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    vectors = vectors / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
