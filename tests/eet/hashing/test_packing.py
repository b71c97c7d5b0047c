import numpy as np
import pytest
import torch

from eet.hashing.packing import pack, unpack


def pack_slowly(codes: np.ndarray) -> np.ndarray:
    packed = np.zeros((codes.shape[0], (codes.shape[1] + 7) // 8), dtype=np.uint8)
    for n in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            if codes[n, i] > 0:
                packed[n, i // 8] += 2 ** (7 - i % 8)
    return packed


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 24, 64, 65])
def test_packed_bits_have_their_positions_and_are_unpacked_again(bits: int) -> None:
    hashes = np.random.default_rng(bits).normal(size=(9, bits)).astype(np.float32)
    hashes[0] = 0
    packed = pack(hashes)
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(packed, pack_slowly(hashes))
    codes = unpack(packed, bits)
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, np.where(hashes > 0, 1, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool])
def test_torch_of_any_real_dtype_packs_as_numpy_does(dtype: torch.dtype) -> None:
    codes = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 1, 1, 0]]).to(dtype)
    np.testing.assert_array_equal(pack(codes.requires_grad_(codes.is_floating_point())), [[0b10110001, 0b10000000]])


def test_no_items_keep_their_width() -> None:
    assert pack(np.zeros((0, 12))).shape == (0, 2)
    assert unpack(np.zeros((0, 2), dtype=np.uint8), 12).shape == (0, 12)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros(8),
        np.zeros((3, 0)),
        np.array([[1.0, np.nan]]),
        np.zeros((1, 8), dtype=complex),
        torch.tensor([[float("nan")]]),
        torch.zeros(1, 8, dtype=torch.complex64),
    ],
)
def test_codes_without_signs_are_refused(codes: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="give|NaN"):
        pack(codes)


@pytest.mark.parametrize("num_bits", [0, 8, 17])
def test_unpacking_to_a_width_that_does_not_fit_is_refused(num_bits: int) -> None:
    with pytest.raises(ValueError, match="9 to 16 bits"):
        unpack(np.zeros((3, 2), dtype=np.uint8), num_bits)
