"""Recall@1 along a route, each part measured with the setting that was best on the other parts.

    python examples/cross_validate_a_route.py runs/cv/* --weights 3 12 --parts 4 6 8 10

Each argument is one setting: a folder with the encoded galleries `db` and `queries`, with embeddings, and tokens where
weights are given. It is also tried with the first 20 hits re-ranked at each weight. The best setting for a part is chosen
without the queries near that part.
"""

import argparse
from pathlib import Path

import numpy as np

import eet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("settings", nargs="+", help="folders with the galleries db and queries")
parser.add_argument("--weights", type=float, nargs="*", default=[], help="weights of re-ranking; none by default")
parser.add_argument("--parts", type=int, nargs="+", default=[4], help="numbers of parts that the route is cut into")
parser.add_argument("--metres", type=float, default=25.0, help="a hit within this distance is right")
given = parser.parse_args()


def first_hits(hits: eet.Hits) -> dict[str, bool]:
    """Whether the first hit of each query is right."""
    rows = hits.table.select(["query_id", "rank", "metres"]).to_pylist()
    return {row["query_id"]: row["metres"] is not None and row["metres"] <= given.metres for row in rows if row["rank"] == 1}


right_of: dict[str, dict[str, bool]] = {}
for folder in map(Path, given.settings):
    hits = eet.search(eet.open_gallery(folder / "db"), eet.open_gallery(folder / "queries"), k=20, by="embedding")
    right_of[folder.name] = first_hits(hits)
    for weight in given.weights:
        better = eet.rerank(hits, top=20, weight=weight, marginal="uniform", global_similarity="embedding")
        right_of[f"{folder.name}, re-ranked at weight {weight:g}"] = first_hits(better)

names = np.array(list(right_of))
places = eet.open_gallery(Path(given.settings[0]) / "queries").table(["item_id", "easting", "northing"]).to_pandas()
right = np.array([places["item_id"].map(right) for right in right_of.values()], dtype=float)  # (settings, queries)
metres = places[["easting", "northing"]].to_numpy()
along = (metres - metres.mean(axis=0)) @ np.linalg.svd(metres - metres.mean(axis=0), full_matrices=False)[2][0]  # its longest direction

for number, percent in zip(names, 100 * right.mean(axis=1), strict=True):
    print(f"{percent:5.1f}  {number}")
for parts in given.parts:
    edges = np.quantile(along, np.linspace(0, 1, parts + 1))
    part_of = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, parts - 1)
    measured = np.empty(len(along))
    print(f"\n{parts} parts")
    for part in range(parts):
        inside = part_of == part
        reach = given.metres + 1e-3  # `along` is rounded
        near = (along >= along[inside].min() - reach) & (along <= along[inside].max() + reach)
        best = int(right[:, ~near].mean(axis=1).argmax())
        measured[inside] = right[best, inside]
        print(f"{100 * measured[inside].mean():5.1f}  {names[best]}")
    print(f"R@1 {100 * measured.mean():.1f}")
