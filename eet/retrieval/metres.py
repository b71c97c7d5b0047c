"""Matches by distance: where the images of galleries were taken, and how far a hit is from its query, in metres."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import InputError
from eet.gallery import METRES_FIELD, OK, Gallery
from eet.metrics import Positions, metres_between

DEFAULT_METRES = 25.0
"""The usual radius in evaluations of place recognition."""


def positions_of(gallery: Gallery, item_ids: Sequence[str] | pa.Array) -> Positions:
    """The positions of some items, in their order. InputError where the gallery has no positions."""
    _check_positions(gallery)
    return as_positions(gallery.rows(item_ids, ["easting", "northing", "zone"]))


def _check_positions(gallery: Gallery) -> None:
    if not gallery.manifest.positions:
        raise InputError(f"{gallery.path} does not say where its images were taken: encode it with --data.* of a dataset of places")


def as_positions(rows: pa.Table) -> Positions:
    """The columns easting, northing and zone of rows of a gallery."""
    metres = [rows[name].fill_null(np.nan).to_numpy() for name in ("easting", "northing")]
    return Positions(np.stack(metres, axis=1), rows["zone"].fill_null("").to_numpy().astype(str))


def with_metres(hits: pa.Table, gallery: Gallery, queries: Gallery) -> pa.Table:
    """Hits with the column `metres`, the distance of query and item: null where it is unknown, or the zones differ.

    Hits between galleries of which one has no positions are returned as they are.
    """
    if not (gallery.manifest.positions and queries.manifest.positions):
        return hits
    sides = []
    for owner, column in ((queries, "query_id"), (gallery, "item_id")):
        ids = hits[column].unique()
        sides.append(positions_of(owner, ids).take(pc.index_in(hits[column], value_set=ids).to_numpy()))
    metres_H = metres_between(*sides)
    return hits.append_column(METRES_FIELD, pa.array(metres_H, mask=np.isnan(metres_H)))


def radius_of(gallery: Gallery, queries: Gallery, metres: float | None) -> float | None:
    """The distance within which an item matches a query; None where matches are by label.

    Args:
        gallery, queries: the two sides.
        metres: a radius that was asked for. None: by label where both sides have labels, else DEFAULT_METRES where both have positions.

    Raises:
        InputError: a radius was asked for, and one side has no positions.
    """
    without = [side.path for side in (gallery, queries) if not side.manifest.positions]
    if metres is not None and without:
        raise InputError(
            f"{without[0]} does not say where its images were taken, so no match is within {metres:g} metres: encode it with --data.* of a "
            "dataset of places"
        )
    if metres is None and not without and not all((side.labels() >= 0).any() for side in (gallery, queries)):
        return DEFAULT_METRES
    return metres


def are_matches(hits: pa.Table, metres: float | None) -> np.ndarray:
    """Which hits are right, bool (H,): of the query's label, or, with a radius, within it. Where that is unknown a hit is not right.

    InputError where a radius is given and the hits have no distances.
    """
    if metres is None:
        return pc.equal(hits["query_label"], hits["item_label"]).fill_null(False).to_numpy()
    if METRES_FIELD.name not in hits.column_names:
        raise InputError("the hits do not say how far they are in metres: search again, with galleries that both have positions")
    return hits[METRES_FIELD.name].fill_null(np.nan).to_numpy() <= np.float32(metres)


def placed_items(gallery: Gallery) -> tuple[pa.ChunkedArray, Positions]:
    """Ids and positions of the items that have a code. InputError where the gallery has no positions."""
    _check_positions(gallery)
    rows = gallery.table(["item_id", "easting", "northing", "zone", "status"])
    rows = rows.filter(pc.equal(rows["status"], OK))
    return rows["item_id"], as_positions(rows)


def ids_by_condition(gallery: Gallery) -> dict[str, list[str]]:
    """The ids of the items of each condition, in the order of the names. InputError where the gallery has no conditions."""
    found: dict[str, list[str]] = {}
    if gallery.manifest.positions:
        for row in gallery.table(["item_id", "condition"]).to_pylist():
            if row["condition"]:
                found.setdefault(row["condition"], []).append(row["item_id"])
    if not found:
        raise InputError(f"{gallery.path} has no conditions: encode it with --data.* of a table of places with the column condition")
    return dict(sorted(found.items()))
