"""The candidates of a Hamming search on a torch device: distances as products of signs, which tensor cores compute.

Shape suffixes: U codes, W words, Q queries, b bits, H = b + 1 distances, n codes of a block, or candidates found.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eet.search.tiled_search import Candidates, by_query, successive

PAIRS_AT_ONCE = 64_000_000
CODES_AT_ONCE = 1 << 20
SAMPLED_CODES = 1 << 16


class DeviceScan:
    """Codes on a device, searched in one pass.

    The radius within which k items lie is bounded first by a sample, then by the candidates found so far. Of each block, only codes
    within that radius are taken. A search by radius takes the given one where it is smaller.

    The result is exact: signs and their sums are small integers, which the products represent without rounding (float16 on a GPU up to
    2,048 bits). k may be any number; a large k takes fewer queries at a time. The order in which the device works does not matter.
    """

    def __init__(self, words_UW: np.ndarray, offsets: np.ndarray, *, num_bits: int, device: str) -> None:
        self.device = device
        self.num_bits = num_bits
        # Signs are computed block by block: all of them would take 16 times the memory of the codes.
        self._bytes_UB = torch.from_numpy(np.ascontiguousarray(words_UW).view(np.uint8)[:, : num_bits // 8].copy()).to(device)
        sizes = np.diff(offsets) if len(offsets) else np.ones(len(words_UW), np.int64)
        self._sizes_U = torch.from_numpy(sizes.astype(np.int64)).to(device)
        self._dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        self._places = torch.arange(7, -1, -1, device=device, dtype=torch.uint8)

    def nearest(self, words_QW: np.ndarray, k: int, most: int | None = None) -> Candidates:
        """As `eet.search.scan.nearest`; most: the largest distance, None for any."""
        most = self.num_bits if most is None else min(most, self.num_bits)
        at_once = max(1, PAIRS_AT_ONCE // self._expected(words_QW, k, most))
        return successive([self.nearest_at_once(words_QW[start : start + at_once], k, most) for start in range(0, len(words_QW), at_once)])

    def _expected(self, words_QW: np.ndarray, k: int, most: int) -> int:
        """About the greatest number of codes that a query finds, 1 or more; ties at the last distance are not counted."""
        expected = min(k, len(self._bytes_UB))
        if most < self.num_bits:
            sample = self._sample()
            products_Qn = self._query_signs(words_QW) @ self._signs(self._bytes_UB[sample]).T
            inside = int((products_Qn >= self.num_bits - 2 * most).sum(dim=1).max())
            expected = min(expected, (inside + 1) * len(self._bytes_UB) // len(sample))
        return max(1, expected)

    def nearest_at_once(self, words_QW: np.ndarray, k: int, most: int) -> Candidates:
        signs_Qb = self._query_signs(words_QW)
        num_queries, num_codes = len(signs_Qb), len(self._bytes_UB)
        sample = self._sample()
        products_Qn = signs_Qb @ self._signs(self._bytes_UB[sample]).T
        counts_QH = torch.zeros(num_queries, self.num_bits + 1, dtype=torch.int64, device=self.device)
        counts_QH.scatter_add_(1, self._distances(products_Qn), self._sizes_U[sample].expand(num_queries, -1))
        radius_Q = _radius(counts_QH, k).clamp_(max=most)
        counts_QH.zero_()
        found: list[_Found] = [_Found(sample[:0], sample[:0], sample[:0])]
        step = min(CODES_AT_ONCE, max(1, PAIRS_AT_ONCE // num_queries))
        for start in range(0, num_codes, step):
            products_Qn = signs_Qb @ self._signs(self._bytes_UB[start : start + step]).T
            query, place = (products_Qn >= (self.num_bits - 2 * radius_Q).to(products_Qn.dtype)[:, None]).nonzero(as_tuple=True)
            found.append(_Found(query, place + start, self._distances(products_Qn[query, place])))
            counted = query * counts_QH.shape[1] + found[-1].distance_n
            counts_QH.view(-1).scatter_add_(0, counted, self._sizes_U[found[-1].code_n])
            radius_Q = torch.minimum(radius_Q, _radius(counts_QH, k))
            if sum(len(part.query_n) for part in found) > PAIRS_AT_ONCE:
                found = [_within(found, radius_Q)]
        query_n, code_n, distance_n = (values.cpu().numpy() for values in _within(found, radius_Q))
        return by_query(query_n, code_n, distance_n, num_queries)

    def _sample(self) -> Tensor:
        """Numbers of the sampled codes, spread over all: where they are sorted, neighbours are alike."""
        num_codes = len(self._bytes_UB)
        return torch.arange(0, num_codes, -(-num_codes // SAMPLED_CODES), device=self.device)

    def _query_signs(self, words_QW: np.ndarray) -> Tensor:
        query_bytes = np.ascontiguousarray(words_QW).view(np.uint8)[:, : self.num_bits // 8].copy()
        return self._signs(torch.from_numpy(query_bytes).to(self.device))

    def _distances(self, products: Tensor) -> Tensor:
        """Distances, int64, from the sums of signs."""
        return ((self.num_bits - products) / 2).to(torch.int64)

    def _signs(self, bytes_nB: Tensor) -> Tensor:
        """Bits of packed codes as -1 and +1, (n, b)."""
        bits_nb = (bytes_nB.unsqueeze(-1) >> self._places & 1).flatten(1)
        return bits_nb.to(self._dtype) * 2 - 1


class _Found(NamedTuple):
    """Pairs of a query and a code, and their distances: int64 (n,)."""

    query_n: Tensor
    code_n: Tensor
    distance_n: Tensor


def _within(found: list[_Found], radius_Q: Tensor) -> _Found:
    """All pairs within the radius of their query, joined in order."""
    together = _Found(*(torch.cat(values) for values in zip(*found, strict=True)))
    inside = together.distance_n <= radius_Q[together.query_n]
    return _Found(*(values[inside] for values in together))


def _radius(counts_QH: Tensor, k: int) -> Tensor:
    """int64 (Q,): the smallest distance within which k of the counted items lie; the largest possible one if there are fewer."""
    return (counts_QH.cumsum(dim=1) < k).sum(dim=1).clamp_(max=counts_QH.shape[1] - 1)
