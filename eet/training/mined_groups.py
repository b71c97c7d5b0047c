"""Batches of queries with their positives and hard negatives, which are mined by position and by the embeddings of the moment.

Shapes: Q queries, n negatives of a query, G groups, R rows that are embedded, E width of the embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eet.datasets import ImageTable
from eet.errors import InputError
from eet.metrics import MatchLists, Positions, nearby
from eet.training.samplers import StepSampler

_QUERIES, _CANDIDATES = 2, 3
"""Their own random streams; orders and views have others (`eet.training.samplers`)."""


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How groups are mined.

    Attributes:
        positive_metres: a positive is the most similar database image within this distance of the query.
        negative_metres: negatives are farther away than this, or in another zone.
        candidates: database images among which negatives are searched; drawn again in each round.
        queries_per_round: queries after whose steps the images are embedded and mined again.
    """

    positive_metres: float = 10.0
    negative_metres: float = 25.0
    candidates: int = 1000
    queries_per_round: int = 1000


def placed_sides(table: ImageTable) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the queries and of the database images. In a table without roles every image is both.

    Raises:
        InputError: the table has no positions, or only one of the two roles.
    """
    if table.places is None:
        raise InputError(f"{table.root} has no positions: give a dataset of places (msls, utm_names, or a table with easting and northing)")
    known_N, roles_N = Positions(table.places.metres_N2, table.places.zones_N).known_N, table.places.roles_N
    if not (roles_N != "").any():
        return np.flatnonzero(known_N), np.flatnonzero(known_N)
    sides = tuple(np.flatnonzero(known_N & (roles_N == role)) for role in ("query", "database"))
    if not all(map(len, sides)):
        raise InputError(f"{table.root}: {len(sides[0])} queries and {len(sides[1])} database images have a position; both are needed")
    return sides[0], sides[1]


def positions_of(table: ImageTable) -> Positions:
    """The positions of a table that has some."""
    assert table.places is not None
    return Positions(table.places.metres_N2, table.places.zones_N)


def mined_groups(
    queries_QE: np.ndarray, positives: list[np.ndarray], negatives: list[np.ndarray], embeddings_RE: np.ndarray, *, num_negatives: int
) -> np.ndarray:
    """The most similar positive and the most similar negatives of each query.

    Args:
        queries_QE: unit length.
        positives: for each query, one row of embeddings_RE or more.
        negatives: likewise. A query with fewer than n repeats them.
        embeddings_RE: unit length.
        num_negatives: n.

    Returns:
        int64 (Q, 1 + n), rows of embeddings_RE: the positive, then the negatives, the most similar first. Of equal ones the lower row.
    """
    groups = np.empty((len(queries_QE), 1 + num_negatives), np.int64)
    for query, (query_E, near, far) in enumerate(zip(queries_QE, positives, negatives, strict=True)):
        groups[query, 0] = near[np.argmax(embeddings_RE[near] @ query_E)]
        hardest = far[np.argsort(-(embeddings_RE[far] @ query_E), kind="stable")[:num_negatives]]
        groups[query, 1:] = np.resize(hardest, num_negatives)
    return groups


class MinedSampler(StepSampler):
    """The share of one worker in batches of groups: a query, its positive, its n negatives, and so on.

    An epoch visits each query that has a positive once, in random order. It has rounds: before each, `wanted` says which images are to be
    embedded with the weights of the moment, and `mine` makes the groups of the round from them. So negatives are at most a round old, and
    groups depend only on (weights, seed, epoch, round).

    Source: the published training code of Patch-NetVLAD (its cache). It differs in three points. Queries are not drawn by weight. A query
    is mined against all candidates beyond `negative_metres` of itself, not of every query of the round. A query whose negatives are all
    outside the margin stays; its loss is 0. The published code leaves it out, by a condition on cosines where distances are meant, which
    nearly never holds.

    Args:
        table: the training images.
        num_negatives: n.
        mining: radii and sizes.
        batch_size, rank, world, seed: as of `StepSampler`; batch_size is a multiple of 2 + n.

    Raises:
        InputError: no query has a positive, or the batch is no multiple of a group.
    """

    def __init__(self, table: ImageTable, *, num_negatives: int, mining: Mining, batch_size: int, rank: int, world: int, seed: int) -> None:
        self.group = 2 + num_negatives
        if batch_size % self.group:
            raise InputError(f"a batch of {batch_size} images: use a multiple of {self.group}, a query with its positive and negatives")
        self.num_negatives, self.mining = num_negatives, mining
        self.queries_N, self.database_N = placed_sides(table)
        places = positions_of(table)
        self.near = self._lists(places, mining.positive_metres)
        self.excluded = self._lists(places, mining.negative_metres)
        own_Q = np.isin(self.queries_N, self.database_N)
        self.usable = np.flatnonzero(self.near.counts_Q - own_Q > 0)
        if not len(self.usable):
            raise InputError(f"no query has a database image within {mining.positive_metres:g} metres: raise the radius of positives")
        if len(self.usable) < batch_size // self.group:
            raise InputError(f"{len(self.usable)} queries have a positive, fewer than the {batch_size // self.group} of a batch")
        share = batch_size // world
        super().__init__(len(self.usable) * self.group, batch_size=batch_size, micro_batch_size=share, rank=rank, world=world, seed=seed)
        self.groups = np.empty((0, self.group), np.int64)
        self.visits = np.zeros(len(table), np.int64)

    def _lists(self, places: Positions, metres: float) -> MatchLists:
        return nearby(places.take(self.queries_N), places.take(self.database_N), metres=metres)

    @property
    def steps_per_round(self) -> int:
        return max(1, min(self.steps, self.mining.queries_per_round * self.group // self.batch_size))

    def drawn(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The queries of the round that starts with this step, and the candidates: places in `queries_N` and in `database_N`."""
        each = self.batch_size // self.group
        order = self.usable[np.random.default_rng((self.seed, _QUERIES, self.epoch)).permutation(len(self.usable))]
        queries = order[step * each : min(step + self.steps_per_round, self.steps) * each]
        random = np.random.default_rng((self.seed, _CANDIDATES, self.epoch, step))
        return queries, np.sort(random.permutation(len(self.database_N))[: self.mining.candidates])

    def _positives(self, query: int) -> np.ndarray:
        """Places in `database_N` of the positives of a query."""
        near = self.near.of(query)
        return near[self.database_N[near] != self.queries_N[query]]

    def wanted(self, step: int) -> np.ndarray:
        """The rows of the table that are embedded before the round that starts with this step, ascending."""
        queries, candidates = self.drawn(step)
        positives = [self.database_N[self._positives(query)] for query in queries.tolist()]
        return np.unique(np.concatenate([self.queries_N[queries], self.database_N[candidates], *positives]))

    def mine(self, step: int, embeddings_RE: np.ndarray) -> np.ndarray:
        """The groups of that round, rows of the table (G, 2 + n), from the embeddings of `wanted`.

        Raises:
            InputError: all candidates are near a query.
        """
        queries, candidates = self.drawn(step)
        rows = self.wanted(step)
        place_of = {row: place for place, row in enumerate(rows.tolist())}
        places = np.array([place_of.get(row, -1) for row in self.database_N.tolist()])
        far = [np.setdiff1d(candidates, self.excluded.of(query)) for query in queries.tolist()]
        if not all(map(len, far)):
            raise InputError(
                f"all {len(candidates)} candidates are within {self.mining.negative_metres:g} metres of a query: give images of more "
                "places, or more candidates"
            )
        own = np.searchsorted(rows, self.queries_N[queries])
        mined = mined_groups(
            embeddings_RE[own],
            [places[self._positives(query)] for query in queries.tolist()],
            [places[rows_of_one] for rows_of_one in far],
            embeddings_RE,
            num_negatives=self.num_negatives,
        )
        return np.concatenate([self.queries_N[queries][:, None], rows[mined]], axis=1)

    def start_round(self, step: int, groups: np.ndarray) -> None:
        """Sets the groups of the next steps."""
        if step == 0:
            self.visits[:] = 0
        self.groups = groups

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        each = self.batch_size // self.group
        for start in range(0, len(self.groups), each):
            batch: list[tuple[int, ...]] = []
            for row in self.groups[start : start + each].flatten().tolist():
                batch.append((self.epoch, row, int(self.visits[row])))
                self.visits[row] += 1
            yield batch[self.rank :: self.world]
