"""Labels and groups of places, given again by a loop."""

from collections import defaultdict
from math import floor

import numpy as np
import pytest

from eet.datasets import ImageTable, Places, with_cell_labels
from eet.errors import InputError
from eet.training.samplers import LabelSampler


def drawn_table(headings: bool = True) -> ImageTable:
    draw = np.random.default_rng(0)
    metres, zones = draw.uniform(-60, 60, (400, 2)), draw.choice(["a", "b"], 400)
    metres[7] = np.nan
    degrees = draw.uniform(-180, 540, 400)
    degrees[8] = np.nan
    places = Places(metres, zones, np.full(400, ""), np.full(400, ""), degrees if headings else None)
    return ImageTable("r", tuple(f"{row}.jpg" for row in range(400)), np.full(400, -1, np.int32), np.full(400, "train"), (), places)


@pytest.mark.parametrize(("degrees", "heading_groups"), [(0.0, 2), (90.0, 2)])
def test_labels_are_cells_and_groups_keep_neighbours_apart(degrees, heading_groups):
    table = drawn_table()
    labelled, groups = with_cell_labels(table, metres=20, degrees=degrees, groups=3, heading_groups=heading_groups, least_images=3)
    rows_of = defaultdict(list)
    for row in range(400):
        (east, north), heading = table.places.metres_N2[row], table.places.headings_N[row]
        if np.isfinite(east) and (not degrees or np.isfinite(heading)):
            turn = floor(heading % 360 / degrees) if degrees else 0
            rows_of[table.places.zones_N[row], floor(east / 20), floor(north / 20), turn].append(row)
    cells = {cell: rows for cell, rows in rows_of.items() if len(rows) >= 3}
    assert set(labelled.label_names) == {"/".join(map(str, cell)) for cell in cells} and len(labelled) == sum(map(len, cells.values()))
    group_of = {}
    for label, name in enumerate(labelled.label_names):
        zone, *numbers = name.split("/")
        cell = (zone, *map(int, numbers))
        assert [labelled.paths[row] for row in np.flatnonzero(labelled.labels == label)] == [table.paths[row] for row in cells[cell]]
        group_of[cell] = groups[label]
    for one in cells:
        for other in cells:
            same = all((one[axis] - other[axis]) % size == 0 for axis, size in ((1, 3), (2, 3), (3, heading_groups)))
            assert (group_of[one] == group_of[other]) == same
    sampler = LabelSampler(labelled.labels, images_per_label=2, batch_size=8, rank=0, world=1, seed=0, groups_C=groups)
    batches = [[labelled.labels[row] for _, row, _ in batch] for batch in sampler]
    assert all(len(set(groups[batch])) == 1 and len(set(batch)) > 1 for batch in batches) and len(batches) == len(labelled) // 8
    assert len({groups[batch[0]] for batch in batches}) > 3


def test_what_gives_no_labels_is_refused():
    table = drawn_table()
    for options, words in (
        ({"least_images": 300}, "no cell of 10 metres has 300 images"),
        ({"metres": 0}, "metres=0"),
        ({"degrees": 50}, "50 degrees in 2 groups"),
        ({"degrees": 120}, "120 degrees in 2 groups"),
    ):
        with pytest.raises(InputError, match=words):
            with_cell_labels(table, **options)
    with pytest.raises(InputError, match="no headings"):
        with_cell_labels(drawn_table(headings=False), degrees=90)
    labelled, groups = with_cell_labels(table, metres=20, groups=99, least_images=3)
    with pytest.raises(InputError, match="no group of places has two labels"):
        LabelSampler(labelled.labels, images_per_label=2, batch_size=8, rank=0, world=1, seed=0, groups_C=np.arange(labelled.num_labels))
