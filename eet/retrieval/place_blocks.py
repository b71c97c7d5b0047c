"""Report blocks of places: a map of the queries and their first hits, and recall over the radius."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.figures import Paragraph, Picture, PlaceMap, place_map_figure, recall_over_radius_figure, save_png
from eet.figures.place_map import MOST_PANELS
from eet.gallery import Gallery
from eet.metrics import nearby
from eet.retrieval.measures import hits_measures
from eet.retrieval.metres import are_matches, ids_by_condition, placed_items, positions_of
from eet.storage import same_location

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RADII = (2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 100.0)
"""Radii of the curve, in metres; the radius of the page is added."""


def place_blocks(hits: pa.Table, gallery: Gallery, queries: Gallery, *, metres: float) -> list[Paragraph | Picture]:
    """The map and the curve of a search between places.

    Args:
        hits: with metres.
        gallery: the searched gallery.
        queries: the gallery of the queries.
        metres: within this distance a hit is right.
    """
    maps = place_maps(hits, gallery, queries, metres=metres)
    if not maps:
        return [Paragraph("None of the queries has a position.")]
    shown = dict(list(maps.items())[:MOST_PANELS])
    blocks: list[Paragraph | Picture] = [
        _picture(
            place_map_figure(shown, title=f"First hits of the queries, right within {metres:g} metres"),
            caption="A line goes from each query to its first hit. Lines are bent, so that those along a straight route can be seen. "
            "No match: the gallery has no place within the radius.",
            alt="map of the queries and their first hits",
        )
    ]
    if len(maps) > len(shown):
        blocks.append(Paragraph(f"{len(maps) - len(shown)} more maps are left out: {', '.join(list(maps)[MOST_PANELS:])}."))
    curves = recall_over_radius(hits, gallery, queries, radii=sorted({*RADII, metres}))
    if curves:
        figure = recall_over_radius_figure(curves, radius=metres, title="Recall of the first hit")
        caption = f"Over the queries that have a match within the radius. Dotted: {metres:g} metres, the radius of this page."
        blocks.append(_picture(figure, caption=caption, alt="recall@1 over the radius"))
    return blocks


def place_maps(hits: pa.Table, gallery: Gallery, queries: Gallery, *, metres: float) -> dict[str, PlaceMap]:
    """A map for each zone and condition of the queries; those with most queries first."""
    ids, places = placed_items(queries)
    _, items = placed_items(gallery)
    own = same_location(gallery.path, queries.path)
    alone_Q = nearby(places, items, metres=metres).counts_Q - own <= 0
    first = hits.filter(pc.equal(hits["rank"], 1))
    found_Q = pc.index_in(ids, value_set=first["query_id"].combine_chunks()).to_numpy(zero_copy_only=False)
    has_hit_Q = np.isfinite(found_Q)
    place_Q = found_Q[has_hit_Q].astype(np.int64)
    hit_Q2 = np.full((len(ids), 2), np.nan)
    # A hit in another zone has coordinates of another origin, so no line goes there.
    near = first["metres"].is_valid().to_numpy()[place_Q]
    hit_positions = positions_of(gallery, first["item_id"]).metres_N2[place_Q]
    hit_Q2[has_hit_Q] = np.where(near[:, None], hit_positions, np.nan)
    right_Q = np.zeros(len(ids), bool)
    right_Q[has_hit_Q] = are_matches(first, metres)[place_Q]
    outcome_Q = np.where(alone_Q, "no match", np.where(right_Q, "right", "wrong"))
    rows = queries.rows(ids, ["condition"])["condition"].fill_null("").to_numpy()
    headings_Q = np.array([", ".join(filter(None, pair)) or "all queries" for pair in zip(places.zones_N, rows, strict=True)])
    maps = {}
    for heading in np.unique(headings_Q[places.known_N]):
        chosen = (headings_Q == heading) & places.known_N
        zone = places.zones_N[chosen][0]
        around = items.metres_N2[items.known_N & (items.zones_N == zone)]
        maps[str(heading)] = PlaceMap(around, places.metres_N2[chosen], hit_Q2[chosen], outcome_Q[chosen])
    return dict(sorted(maps.items(), key=lambda one: -len(one[1].outcome_Q)))


def recall_over_radius(
    hits: pa.Table, gallery: Gallery, queries: Gallery, *, radii: list[float]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Recall@1 at each radius, of all queries and of each condition if there are several: name -> (radii, recall).

    Radii within which no query has a match are left out.
    """
    conditions = {}
    if (queries.table(["condition"])["condition"].fill_null("").to_numpy() != "").any():
        conditions = ids_by_condition(queries)
    groups: dict[str, list[str] | None] = {"all queries": None, **(conditions if len(conditions) > 1 else {})}
    own = same_location(gallery.path, queries.path)
    curves = {}
    for name, only in groups.items():
        points = []
        for metres in radii:
            values = hits_measures(hits, gallery, own=own, queries=queries, ks=(), recall_ks=(1,), metres=metres, only=only).values
            if values["queries"]:
                points.append((metres, values["recall@1"]))
        if points:
            curves[name] = (np.array([radius for radius, _ in points]), np.array([recall for _, recall in points]))
    return curves


def _picture(figure: "Figure", *, caption: str, alt: str) -> Picture:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        save_png(figure, file.name)
        return Picture(Path(file.name).read_bytes(), caption=caption, alt=alt)
