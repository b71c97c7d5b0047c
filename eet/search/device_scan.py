"""The candidates of a Hamming search on a torch device: distances as products of signs, which tensor cores make.

Shape suffixes: U codes, W words, Q queries, b bits, H = b + 1 distances, n codes of a block.
"""

import numpy as np
import torch
from torch import Tensor

_PAIRS_AT_ONCE = 64_000_000
_CODES_AT_ONCE = 1 << 20


class DeviceScan:
    """Codes on a device, searched in two passes: counts by distance give the radius of each query, then what lies within is taken.

    Exact: signs and their sums are small integers, which the products hold without rounding (float16 on a GPU up to 2,048 bits).
    Any k; nothing depends on the order in which the device works.
    """

    def __init__(self, words_UW: np.ndarray, offsets: np.ndarray, *, num_bits: int, device: str) -> None:
        self.device = device
        self.num_bits = num_bits
        # Signs are made block by block: kept whole they would take 16 times the codes.
        self._bytes_UB = torch.from_numpy(np.ascontiguousarray(words_UW).view(np.uint8)[:, : num_bits // 8].copy()).to(device)
        sizes = np.diff(offsets) if len(offsets) else np.ones(len(words_UW), np.int64)
        self._sizes_U = torch.from_numpy(sizes.astype(np.int64)).to(device)
        self._dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        self._places = torch.arange(7, -1, -1, device=device, dtype=torch.uint8)

    def nearest(self, words_QW: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(starts, codes, distances) as `eet.search.scan.nearest` gives them."""
        query_bytes = torch.from_numpy(np.ascontiguousarray(words_QW).view(np.uint8)[:, : self.num_bits // 8].copy()).to(self.device)
        signs_Qb = self._signs(query_bytes)
        num_queries = len(signs_Qb)
        counts_QH = torch.zeros(num_queries, self.num_bits + 1, dtype=torch.int64, device=self.device)
        for start, distances_Qn in self._blocks(signs_Qb):
            sizes = self._sizes_U[start : start + distances_Qn.shape[1]].expand(num_queries, -1)
            counts_QH.scatter_add_(1, distances_Qn, sizes)
        radius_Q1 = (counts_QH.cumsum(dim=1) < k).sum(dim=1, keepdim=True)
        queries, codes, distances = [], [], []
        for start, distances_Qn in self._blocks(signs_Qb):
            query, place = (distances_Qn <= radius_Q1).nonzero(as_tuple=True)
            queries.append(query.cpu().numpy())
            codes.append((place + start).cpu().numpy())
            distances.append(distances_Qn[query, place].cpu().numpy().astype(np.uint16))
        query_n = np.concatenate(queries)
        order = np.argsort(query_n, kind="stable")  # blocks ascend, so the codes of a query do
        starts = np.searchsorted(query_n[order], np.arange(num_queries + 1))
        return starts, np.concatenate(codes)[order], np.concatenate(distances)[order]

    def _blocks(self, signs_Qb: Tensor):  # type: ignore[no-untyped-def]
        """(first code, distances (Q, n) int64) over all codes."""
        step = min(_CODES_AT_ONCE, max(1, _PAIRS_AT_ONCE // len(signs_Qb)))
        for start in range(0, len(self._bytes_UB), step):
            products_Qn = signs_Qb @ self._signs(self._bytes_UB[start : start + step]).T
            yield start, ((self.num_bits - products_Qn) / 2).to(torch.int64)

    def _signs(self, bytes_nB: Tensor) -> Tensor:
        """Bits of packed codes as -1 and +1, (n, b)."""
        bits_nb = (bytes_nB.unsqueeze(-1) >> self._places & 1).flatten(1)
        return bits_nb.to(self._dtype) * 2 - 1
