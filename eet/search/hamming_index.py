"""Exact Hamming search over distinct codes.

A trained code has few values: a label's pictures pile up on a handful. So FAISS searches the distinct codes, and an
offset table expands each found code to its items. Ties then come out as groups, which gives them a defined order.

Shape suffixes: Q queries, N items, U distinct codes, B bytes, b bits, W machine words, C codes asked for. Pairs are
flat lists of (query, code) or (query, item).
"""

import numpy as np

from eet.hashing.distance import as_words, asymmetric_tables
from eet.hashing.packing import check_packed

# With this share of distinct codes or more, items are indexed as they are. Searching distinct codes wins about N / U
# and costs about 1.2x for the expansion, so the two meet near U / N = 1 / 1.2.
FLAT_FROM_DISTINCT_SHARE = 0.83

# Bounds what is held for a block of queries (a few dozen bytes a pair, before expansion to items).
_PAIRS_AT_ONCE = 1_000_000

# A block's byte tables take bytes * 1 kB a query.
_QUERIES_AT_ONCE = 1024


class HammingIndex:
    """The codes of a gallery, ready to be searched exactly. Make one with `build`."""

    def __init__(self, words_UW: np.ndarray, offsets: np.ndarray | None, rows_N: np.ndarray | None, width: int) -> None:
        """Use `build`. Without `offsets` and `rows_N`, code i is item i (the flat form)."""
        import faiss

        self._bytes_UB = np.ascontiguousarray(words_UW).view(np.uint8)
        self._offsets = offsets
        self._rows_N = rows_N
        self._width = width
        self._faiss = faiss.IndexBinaryFlat(8 * self._bytes_UB.shape[1])
        self._faiss.add(self._bytes_UB)
        self.num_bits: int | None = None

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None) -> "HammingIndex":
        """Index a gallery's codes.

        Args:
            packed_NB: uint8 (N, B), as `eet.hashing.pack` makes them; row i is item i. N may be 0.
            num_bits: bits of a code, if query hashes shall be checked against it; B must be ceil(num_bits / 8).

        Raises:
            ValueError: not packed codes, or a width that does not fit num_bits.
        """
        check_packed(packed_NB, "packed_NB")
        width = packed_NB.shape[1]
        if num_bits is not None and -(-num_bits // 8) != width:
            raise ValueError(
                f"codes are {width} bytes wide, but num_bits={num_bits} needs {-(-num_bits // 8)}; "
                "pass the number of bits that the model has."
            )
        words_NW = as_words(packed_NB)
        # lexsort is stable, so the rows of one code ascend.
        order = np.lexsort(words_NW.T)
        sorted_words = words_NW[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (sorted_words[1:] != sorted_words[:-1]).any(axis=1)
        firsts = np.flatnonzero(is_first)
        if len(firsts) >= FLAT_FROM_DISTINCT_SHARE * len(order):
            index = cls(words_NW, None, None, width)
        else:
            index = cls(sorted_words[firsts], np.append(firsts, len(order)), order.astype(np.int64), width)
        index.num_bits = num_bits
        return index

    @property
    def num_items(self) -> int:
        """Items in the gallery, N."""
        return len(self._bytes_UB) if self._rows_N is None else len(self._rows_N)

    @property
    def num_codes(self) -> int:
        """Codes that FAISS holds: the distinct ones, or one per item in the flat form."""
        return len(self._bytes_UB)

    def search(self, packed_QB: np.ndarray, k: int, *, query_hash: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each query, exactly, by Hamming distance.

        Ties are ordered by row. With `query_hash` they are ordered by `eet.hashing.distance.asymmetric_scores`, highest
        first, then by row. The list is cut to k after that, so the answer depends on the gallery alone.

        Args:
            packed_QB: uint8 (Q, B).
            k: items wanted for a query.
            query_hash: real-valued (Q, b), the hashes whose signs the query codes are.

        Returns:
            distances, int32 (Q, min(k, N)), ascending, and rows, int64 of the same shape.

        Raises:
            ValueError: k < 1, not packed codes, or widths that differ from the gallery's.
        """
        check_packed(packed_QB, "packed_QB")
        if packed_QB.shape[1] != self._width:
            raise ValueError(
                f"query codes are {packed_QB.shape[1]} bytes wide, the gallery's {self._width}; "
                "encode the queries with the gallery's model."
            )
        if k < 1:
            raise ValueError(f"k={k}; ask for at least 1 item.")
        if query_hash is not None:
            self._check_hash(query_hash, len(packed_QB))
        num_queries, k = len(packed_QB), min(k, self.num_items)
        distances_Qk = np.empty((num_queries, k), dtype=np.int32)
        rows_Qk = np.empty((num_queries, k), dtype=np.int64)
        if k == 0:
            return distances_Qk, rows_Qk
        query_bytes = as_words(packed_QB).view(np.uint8)
        # Enough for most queries at once: the codes that k items fill on average, and as many again for the boundary.
        first_ask = min(self.num_codes, 2 * -(-k * self.num_codes // self.num_items) + 32)
        step = min(_QUERIES_AT_ONCE, max(1, _PAIRS_AT_ONCE // first_ask))
        for start in range(0, num_queries, step):
            block = slice(start, start + step)
            tables = None if query_hash is None else asymmetric_tables(query_hash[block])
            distances_Qk[block], rows_Qk[block] = self._search_block(query_bytes[block], k, first_ask, tables)
        return distances_Qk, rows_Qk

    def _check_hash(self, query_hash: np.ndarray, num_queries: int) -> None:
        bits = query_hash.shape[1] if query_hash.ndim == 2 else 0
        fits = bits == self.num_bits if self.num_bits is not None else -(-bits // 8) == self._width
        if not fits or len(query_hash) != num_queries:
            allowed = self.num_bits if self.num_bits is not None else f"{8 * self._width - 7} to {8 * self._width}"
            raise ValueError(f"query_hash has shape {query_hash.shape}; give ({num_queries}, {allowed}), one hash for each query code.")

    def _search_block(self, query_bytes: np.ndarray, k: int, ask: int, tables: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Search queries in rounds, asking FAISS for more codes until every tie at the k-th distance is known."""
        distances_Qk = np.empty((len(query_bytes), k), dtype=np.int32)
        rows_Qk = np.empty((len(query_bytes), k), dtype=np.int64)
        pending = np.arange(len(query_bytes))
        while len(pending):
            undone = []
            step = max(1, _PAIRS_AT_ONCE // ask)
            for start in range(0, len(pending), step):
                queries = pending[start : start + step]
                code_distances, codes = self._faiss.search(query_bytes[queries], ask)
                complete = self._ties_known(code_distances, codes, k)
                undone.append(queries[~complete])
                if complete.any():
                    done = queries[complete]
                    distances_Qk[done], rows_Qk[done] = self._expand(
                        code_distances[complete], codes[complete], k, None if tables is None else tables[done]
                    )
            pending = np.concatenate(undone)
            ask = min(2 * ask, self.num_codes)
        return distances_Qk, rows_Qk

    def _ties_known(self, distances_QC: np.ndarray, codes_QC: np.ndarray, k: int) -> np.ndarray:
        """Whether each answer holds k items and all codes at the distance of the k-th. Bool (Q,)."""
        if distances_QC.shape[1] == self.num_codes:
            return np.ones(len(distances_QC), dtype=bool)
        enough_QC = np.cumsum(self._counts(codes_QC), axis=1) >= k
        boundary_Q = distances_QC[np.arange(len(distances_QC)), enough_QC.argmax(axis=1)]
        return enough_QC[:, -1] & (distances_QC[:, -1] > boundary_Q)

    def _counts(self, codes: np.ndarray) -> np.ndarray:
        if self._offsets is None:
            return np.ones(codes.shape, dtype=np.int64)
        return self._offsets[codes + 1] - self._offsets[codes]

    def _expand(self, distances_QC: np.ndarray, codes_QC: np.ndarray, k: int, tables: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """From found codes to the first k items of each query, in their final order."""
        num_queries, num_asked = codes_QC.shape
        queries = np.repeat(np.arange(num_queries), num_asked)
        distances, codes = distances_QC.ravel(), codes_QC.ravel()
        penalties = np.zeros(len(codes), dtype=np.float32)
        if tables is not None:
            for position in range(tables.shape[1]):
                penalties -= tables[queries, position, self._bytes_UB[codes, position]]
        order = np.lexsort((penalties, distances, queries))
        queries, distances, codes, penalties = queries[order], distances[order], codes[order], penalties[order]

        # A tie group (one query, distance and score) is wanted while fewer than k items come before it. Within a code
        # rows ascend, so no item after its first k can be in the answer.
        counts = np.minimum(self._counts(codes), k)
        is_first = np.ones(len(codes), dtype=bool)
        is_first[1:] = (queries[1:] != queries[:-1]) | (distances[1:] != distances[:-1]) | (penalties[1:] != penalties[:-1])
        items_before = np.cumsum(counts) - counts
        items_before -= items_before[queries * num_asked]
        group = np.cumsum(is_first) - 1
        wanted = items_before[is_first][group] < k

        counts = counts[wanted]
        pair = np.repeat(np.flatnonzero(wanted), counts)
        if self._offsets is None or self._rows_N is None:
            rows = codes[pair]
        else:
            within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
            rows = self._rows_N[self._offsets[codes[pair]] + within]
        # Groups are numbered in the order of (query, distance, score), so they stand for all three.
        order = np.lexsort((rows, group[pair]))
        pair, rows = pair[order], rows[order]
        starts = np.searchsorted(queries[pair], np.arange(num_queries))
        first_k = starts[:, None] + np.arange(k)
        return distances[pair[first_k]], rows[first_k]
