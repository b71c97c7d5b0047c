"""Mined batches of places, chosen again by a loop over all pairs."""

import numpy as np
import pytest

from eet.datasets import ImageTable, Places
from eet.errors import InputError
from eet.training.mined_groups import MinedSampler, Mining


def table_of(metres_N2, roles_N, zones_N=None) -> ImageTable:
    rows = len(metres_N2)
    places = Places(
        np.asarray(metres_N2, np.float64), np.array(zones_N or [""] * rows, dtype=str), np.array(roles_N, dtype=str), np.full(rows, "")
    )
    splits = np.full(rows, "train")
    return ImageTable("r", tuple(f"{row}.jpg" for row in range(rows)), np.full(rows, -1, np.int32), splits, (), places)


def sampler_of(table: ImageTable, rank: int = 0, world: int = 1, **mining) -> MinedSampler:
    return MinedSampler(table, num_negatives=3, mining=Mining(**mining), batch_size=10, rank=rank, world=world, seed=5)


def slow_group(table, embeddings_NE, query, candidates) -> list[int]:
    """The query, its nearest positive and its three nearest negatives among the candidates, by distances between embeddings."""
    metres, zones, roles = table.places.metres_N2, table.places.zones_N, table.places.roles_N

    def between(row):
        return np.hypot(*(metres[query] - metres[row])) if zones[query] == zones[row] else np.inf

    def order(row):
        return np.linalg.norm(embeddings_NE[query] - embeddings_NE[row]), row

    database = [row for row in range(len(table)) if roles[row] != "query" and row != query]
    positives = sorted((row for row in database if between(row) <= 10), key=order)
    negatives = sorted((row for row in database if between(row) > 25 and row in candidates), key=order)
    return [query, positives[0], *negatives[:3]]


@pytest.mark.parametrize("with_roles", [True, False])
def test_groups_are_the_nearest_positive_and_the_hardest_negatives_of_each_query(with_roles):
    draw = np.random.default_rng(1)
    metres = np.stack([draw.uniform(0, 200, 90), draw.uniform(0, 3, 90)], axis=1)
    table = table_of(metres, ["query"] * 30 + ["database"] * 60 if with_roles else [""] * 90, list(draw.choice(["a", "b"], 90)))
    embeddings = draw.normal(size=(90, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    sampler = sampler_of(table, candidates=40, queries_per_round=8)
    assert sampler.steps_per_round == 4 and sampler.steps > 8
    sampler.epoch = 2
    seen = []
    for step in range(0, sampler.steps, sampler.steps_per_round):
        wanted = sampler.wanted(step)
        groups = sampler.mine(step, embeddings[wanted])
        candidates = set(sampler.database_N[sampler.drawn(step)[1]].tolist())
        assert len(candidates) == 40 and candidates <= set(wanted.tolist())
        for group in groups.tolist():
            assert group == slow_group(table, embeddings, group[0], candidates)
        sampler.start_round(step, groups)
        batches = list(sampler)
        assert len(batches) == min(sampler.steps_per_round, sampler.steps - step)
        assert [row for batch in batches for _, row, _ in batch] == groups.flatten().tolist()
        seen += groups[:, 0].tolist()
    assert len(set(seen)) == len(seen) == sampler.steps * 2


def test_a_batch_is_the_same_for_any_number_of_workers_and_repeats_are_other_views():
    table = table_of([[row // 2 * 40.0, 0] for row in range(40)], ["query", "database"] * 20)
    embeddings = np.random.default_rng(0).normal(size=(40, 4))
    shares = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        sampler = sampler_of(table, rank, world)
        sampler.start_round(0, sampler.mine(0, embeddings[sampler.wanted(0)]))
        shares.append(list(sampler))
    whole, first, second = shares
    assert [[item for pair in zip(a, b, strict=True) for item in pair] for a, b in zip(first, second, strict=True)] == whole
    drawn = [item for batch in whole for item in batch]
    assert len(set(drawn)) == len(drawn) > len({row for _, row, _ in drawn})


def test_tables_without_positions_positives_or_negatives_are_refused():
    apart = [[0, 0], [100, 0]]
    for table, words in (
        (ImageTable("r", ("a.jpg",), np.array([-1], np.int32), np.array(["train"]), ()), "no positions"),
        (table_of(apart, ["query", "query"]), "2 queries and 0 database images"),
        (table_of(apart, ["query", "database"]), "within 10 metres"),
        (table_of([[0, 0], [1, 0]], ["query", "database"]), "fewer than the 2 of a batch"),
    ):
        with pytest.raises(InputError, match=words):
            sampler_of(table)
    near = sampler_of(table_of([[row, 0] for row in range(4)], ["query", "database"] * 2))
    with pytest.raises(InputError, match="all 2 candidates are within 25 metres"):
        near.mine(0, np.eye(4)[near.wanted(0)])
    with pytest.raises(InputError, match="multiple of 5"):
        MinedSampler(table, num_negatives=3, mining=Mining(), batch_size=8, rank=0, world=1, seed=0)
