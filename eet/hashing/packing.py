"""Packing codes: signs of a hash to bits, most significant bit first, and back.

Shape suffixes: N items, b bits, B = ceil(b / 8) bytes.
"""

import numpy as np
import torch

from eet.errors import InputError


def pack(codes: np.ndarray | torch.Tensor) -> np.ndarray:
    """Pack hashes or codes into bytes, in the order of ``numpy.packbits``.

    Args:
        codes: (N, b), any real dtype, numpy or torch (any device). A value > 0 is bit 1, anything else bit 0.

    Returns:
        uint8 (N, ceil(b / 8)). Bit i of a row is bit 7 - i % 8 of byte i // 8; the last byte is padded with zeros.

    Raises:
        InputError: the codes are not two-dimensional, have no bits, are not real numbers, or hold NaN.
    """
    if codes.ndim != 2 or codes.shape[1] < 1:
        raise InputError(f"codes have shape {tuple(codes.shape)}; give (N, bits) with at least one bit.")
    if isinstance(codes, torch.Tensor):
        if codes.is_complex():
            raise InputError(f"codes have dtype {codes.dtype}; give real numbers.")
        not_a_number = bool(torch.isnan(codes).any()) if codes.is_floating_point() else False
        # The comparison is made in torch, because numpy has no bfloat16.
        bits_Nb = (codes.detach() > 0).cpu().numpy()
    else:
        if codes.dtype.kind not in "biuf":
            raise InputError(f"codes have dtype {codes.dtype}; give real numbers.")
        not_a_number = codes.dtype.kind == "f" and bool(np.isnan(codes).any())
        bits_Nb = codes > 0
    if not_a_number:
        raise InputError("codes hold NaN, which has no sign; look for the model or image that made it.")
    return np.packbits(bits_Nb, axis=1)


def unpack(packed: np.ndarray, num_bits: int) -> np.ndarray:
    """The inverse of `pack`: bytes to codes.

    Args:
        packed: uint8 (N, ceil(num_bits / 8)).
        num_bits: number of bits in a code, at least 1; the rest of the last byte is padding and is dropped.

    Returns:
        int8 (N, num_bits) in {-1, +1}.

    Raises:
        InputError: the array is not uint8, not two-dimensional, or its width does not fit num_bits.
    """
    check_packed(packed, "packed codes")
    if num_bits < 1 or packed.shape[1] != -(-num_bits // 8):
        raise InputError(
            f"packed codes are {packed.shape[1]} bytes wide, but num_bits={num_bits}; "
            f"{packed.shape[1]} bytes hold {max(8 * packed.shape[1] - 7, 1)} to {8 * packed.shape[1]} bits."
        )
    bits_Nb = np.unpackbits(packed, axis=1, count=num_bits)
    return bits_Nb.astype(np.int8) * np.int8(2) - np.int8(1)


def check_packed(packed: np.ndarray, name: str) -> None:
    """Raise InputError, naming the argument `name`, unless `packed` is a uint8 array (N, B) with B >= 1."""
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] < 1:
        actual = f"{packed.dtype} {packed.shape}" if isinstance(packed, np.ndarray) else type(packed).__name__
        raise InputError(f"{name}: got {actual}; give a numpy uint8 array (N, bytes), as eet.hashing.pack makes.")
