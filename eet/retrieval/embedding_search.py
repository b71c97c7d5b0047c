"""Exact search by the cosine of the stored final CLS vectors, tile by tile.

Shape suffixes: Q queries, T queries of a tile, N items of a part, D dimension, k hits.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from eet.errors import InputError
from eet.gallery import OK, Gallery, is_rotated, vectors_of
from eet.matching import cosine_similarity
from eet.retrieval.gallery_index import FOUND_SCHEMA
from eet.retrieval.pairs import PAIRS_AT_ONCE

QUERIES_AT_ONCE = 1024
SLACK = 16
"""Candidates of a query beyond those asked for: products of matrices differ in the last bits, so ties are decided afterwards."""


def check_embeddings(*galleries: Gallery) -> None:
    """InputError where a gallery has no embeddings to search by."""
    for gallery in galleries:
        if gallery.manifest.embedding_dim is None:
            raise InputError(f"{gallery.path} has no embeddings to search by: encode it with embedding")


class EmbeddingSearch:
    """The items of a gallery by the cosine of their embeddings with those of queries.

    The embeddings of the gallery are read part by part, and only the best items so far are kept, so memory does not grow with their width.

    Args:
        gallery: with embeddings, in any form.
        device: "cpu" or "cuda".

    Raises:
        InputError: the gallery has no embeddings.
    """

    def __init__(self, gallery: Gallery, *, device: str = "cpu") -> None:
        check_embeddings(gallery)
        self.gallery, self.device = gallery, torch.device(device)

    def search(self, queries: Gallery, ids: pa.Array, k: int) -> pa.Table:
        """The first k items of some queries, in the columns of FOUND_SCHEMA.

        Rows are ordered by query, then by cosine (the score) from the highest, then by the position of the item in the gallery.

        Args:
            queries: their gallery.
            ids: of Q queries.
            k: items of each, at least 1.

        Raises:
            InputError: the queries have no embeddings, or of another width.
        """
        check_embeddings(queries)
        asked = queries.rows(ids, ["code", "embedding"])
        query_QD = self._units(asked, queries)
        best_Qk = torch.full((len(ids), 0), -2.0, device=self.device)
        rows_Qk = torch.zeros((len(ids), 0), dtype=torch.int64, device=self.device)
        pieces, before = [], 0
        for part in self.gallery.parts(["item_id", "embedding", "status"]):
            part = part.filter(pc.equal(part["status"], OK))
            item_ND = self._units(part, self.gallery)
            tiles = [
                self._merged(query_QD[tile], item_ND, best_Qk[tile], rows_Qk[tile], before, k + SLACK)
                for tile in (slice(start, start + QUERIES_AT_ONCE) for start in range(0, len(ids), QUERIES_AT_ONCE))
            ]
            if tiles:
                best_Qk, rows_Qk = (torch.cat(column) for column in zip(*tiles, strict=True))
            pieces += part["item_id"].chunks
            before += len(part)
        item_ids = pa.chunked_array(pieces, pa.string())
        return self._scored(asked, queries, rows_Qk.cpu().numpy(), item_ids, k)

    def _scored(self, asked: pa.Table, queries: Gallery, rows_Qk: np.ndarray, item_ids: pa.ChunkedArray, k: int) -> pa.Table:
        """The first k of the candidates `rows_Qk`, by a score that depends on its pair only, not on how items are tiled."""
        query_P = np.repeat(np.arange(len(rows_Qk)), rows_Qk.shape[1])
        used, place_P = np.unique(rows_Qk, return_inverse=True)
        place_P = place_P.reshape(-1)
        items = self.gallery.rows(item_ids.take(pa.array(used)), ["item_id", "label", "code", "embedding"])
        rotated = is_rotated(self.gallery.manifest)
        sides = [vectors_of(rows, "embedding", side.manifest, rotated=rotated) for rows, side in ((asked, queries), (items, self.gallery))]
        score_P = np.empty(len(query_P), np.float32)
        for start in range(0, len(query_P), PAIRS_AT_ONCE):
            block = slice(start, start + PAIRS_AT_ONCE)
            score_P[block] = cosine_similarity(sides[0][query_P[block]], sides[1][place_P[block]])
        order = np.lexsort((place_P, -score_P, query_P)).reshape(rows_Qk.shape)[:, :k].reshape(-1)
        query_P, score_P, found = query_P[order], score_P[order], items.take(pa.array(place_P[order]))
        distance_P = _distances(asked["code"].take(pa.array(query_P)), found["code"])
        ids = found["item_id"].cast(pa.large_string())
        return pa.table([query_P, distance_P, score_P, ids, found["label"].fill_null(-1)], schema=FOUND_SCHEMA)

    def _units(self, rows: pa.Table, gallery: Gallery) -> Tensor:
        """The embeddings of rows, float32 of unit length on the device."""
        vectors = vectors_of(rows, "embedding", gallery.manifest, rotated=is_rotated(self.gallery.manifest))
        return torch.nn.functional.normalize(torch.tensor(vectors, dtype=torch.float32).to(self.device), dim=-1)

    def _merged(self, query_TD: Tensor, item_ND: Tensor, best_Tk: Tensor, rows_Tk: Tensor, before: int, k: int) -> tuple[Tensor, Tensor]:
        """The best k of those so far and of a part whose rows follow `before` others. The sort is stable, so ties keep their order."""
        scores = torch.cat([best_Tk, query_TD @ item_ND.T], dim=1)
        new_TN = torch.arange(before, before + len(item_ND), device=self.device).expand(len(query_TD), -1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return scores[:, :k], torch.cat([rows_Tk, new_TN], dim=1).gather(1, order[:, :k])


def _distances(some: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    """Hamming distances of pairs of packed codes, int32."""
    pairs = [np.frombuffer(b"".join(codes.to_pylist()), np.uint8).reshape(len(codes), -1) for codes in (some, others)]
    return np.bitwise_count(pairs[0] ^ pairs[1]).sum(axis=1).astype(np.int32) if len(some) else np.empty(0, np.int32)
