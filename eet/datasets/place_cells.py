"""Labels from positions: cells of a grid, and groups of cells that are never neighbours."""

from dataclasses import replace

import numpy as np

from eet.datasets.image_table import ImageTable
from eet.errors import InputError


def with_cell_labels(
    table: ImageTable, *, metres: float = 10.0, degrees: float = 0.0, groups: int = 5, heading_groups: int = 2, least_images: int = 10
) -> tuple[ImageTable, np.ndarray]:
    """The images of a table with labels by place: a label is a cell of the grid, and of the heading if degrees is above 0.

    The cell of an image is (floor(easting / metres), floor(northing / metres), floor(heading / degrees)), in its zone. The group of a cell
    is (its numbers modulo groups, groups and heading_groups): two cells of one group are at least (groups - 1) cells apart, or look in
    directions that differ. So where a batch is of one group, no image has a neighbour as a negative.

    Source: CosPlace (Berton et al., Rethinking visual geo-localization for large-scale applications, CVPR 2022), section 3.1. Its values
    are 10 metres, 30 degrees, 5 and 2 groups, and cells of 10 images or more.

    Args:
        table: with positions; its own labels are replaced.
        metres: side of a cell, above 0.
        degrees: width of a cell of the heading, a divisor of 360; 0 for cells without heading.
        groups: 1 or more in each direction.
        heading_groups: 1 or more; a divisor of 360 / degrees, as the first heading is a neighbour of the last one.
        least_images: cells with fewer images are left out.

    Returns:
        A table of the images that have a label, and the group of each label, int64 (C,), from 0.

    Raises:
        InputError: a value is out of range, or the table has no positions, or no headings where degrees is above 0, or no cell with enough
            images.
    """
    places = table.places
    if places is None:
        raise InputError(f"{table.root} has no positions to make labels from: give a dataset of places")
    if not 0 < metres < np.inf or groups < 1 or heading_groups < 1 or least_images < 1:
        raise InputError(
            f"metres={metres}, groups={groups}, heading_groups={heading_groups}, least_images={least_images} of cells: use metres above 0, "
            "and 1 or more of the others"
        )
    known_N = np.isfinite(places.metres_N2).all(axis=1)
    cells_N3 = np.zeros((len(table), 3), np.int64)
    cells_N3[known_N, :2] = np.floor(places.metres_N2[known_N] / metres)
    if degrees:
        around = 360 / degrees
        if not 0 < degrees <= 360 or around != round(around) or round(around) % heading_groups:
            raise InputError(
                f"cells of {degrees} degrees in {heading_groups} groups: use degrees that divide 360 into a multiple of the groups"
            )
        if places.headings_N is None:
            raise InputError(f"{table.root} has no headings: use cells without them (0 degrees)")
        known_N &= np.isfinite(places.headings_N)
        cells_N3[known_N, 2] = np.floor(places.headings_N[known_N] % 360 / degrees)
    rows = np.flatnonzero(known_N)
    zones, zone_R = np.unique(places.zones_N[rows], return_inverse=True)
    keys_C4, label_R, counts_C = np.unique(np.column_stack([zone_R, cells_N3[rows]]), axis=0, return_inverse=True, return_counts=True)
    label_R = label_R.reshape(-1)
    enough_C = counts_C >= least_images
    if not enough_C.any():
        raise InputError(f"no cell of {metres:g} metres has {least_images} images: use larger cells, or fewer images")
    kept_R = enough_C[label_R]
    number_C = np.cumsum(enough_C) - 1
    keys_C4 = keys_C4[enough_C]
    names = tuple("/".join([zones[zone], *map(str, cell)]) for zone, *cell in keys_C4.tolist())
    labelled = replace(table.take(rows[kept_R]), labels=number_C[label_R[kept_R]].astype(np.int32), label_names=names)
    east_C, north_C, heading_C = keys_C4[:, 1] % groups, keys_C4[:, 2] % groups, keys_C4[:, 3] % heading_groups
    _, group_C = np.unique((east_C * groups + north_C) * heading_groups + heading_C, return_inverse=True)
    return labelled, group_C.reshape(-1).astype(np.int64)
