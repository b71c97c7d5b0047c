"""Mapillary Street-Level Sequences: places in 30 cities, with positions (Warburg et al., CVPR 2020)."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from eet.datasets.archive import find_archive_root
from eet.datasets.image_table import ImageTable
from eet.datasets.places import Places
from eet.errors import InputError, NotFoundError
from eet.options.choices import SUBTASKS

TEST_CITIES = ("cph", "sf")
"""The public validation set, on which results are published. The cities of the archive's own test set have no public positions."""
HELD_OUT = "amman"
"""The training city on which models are chosen, so that they are not chosen on the test cities."""
RAW, PROCESSED, SUBTASK = "raw.csv", "postprocessed.csv", "subtask_index.csv"
"""The files of each city and side. Their rows are of the same images, in the same order."""


def load(root: str, subtask: str = "all") -> ImageTable:
    """Reads train_val/CITY/{query,database}/ as the archives unpack. Panoramas are left out.

    Splits: test is cph and sf, val is amman, train is every other city. A city is a zone: distances exist inside it only. A condition is
    day or night. With every city there, the test split has 747 queries, 740 of which have a match within 25 metres, and 18,871 database
    images.

    Args:
        root: the folder with train_val/, into which all archives were unpacked.
        subtask: one of SUBTASKS, for the test cities; others keep all images. A city of which a side is left empty is passed over.

    Raises:
        NotFoundError: there is no city, or a city lacks a file.
        InputError: an unknown subtask, or files whose rows do not belong together.
    """
    if subtask not in SUBTASKS:
        raise InputError(f"subtask {subtask!r} is not one of {', '.join(SUBTASKS)}")
    folder = find_archive_root(root, None, ("train_val",))
    cities = sorted(path.name for path in (folder / "train_val").iterdir() if (path / "database").is_dir())
    if not cities:
        raise NotFoundError(f"{folder / 'train_val'} holds no city: it should have CITY/database and CITY/query")
    paths: list[str] = []
    splits: list[str] = []
    columns: dict[str, list[str]] = {name: [] for name in ("easting", "northing", "zone", "role", "condition", "heading")}
    for city in cities:
        of_test = subtask if city in TEST_CITIES else None
        sides = {role: _read_side(folder / "train_val" / city / role, of_test) for role in ("database", "query")}
        if not all(map(len, sides.values())):
            continue
        for role, rows in sides.items():
            paths += [f"train_val/{city}/{role}/images/{key}.jpg" for key in rows["key"].to_pylist()]
            splits += ["test" if city in TEST_CITIES else "val" if city == HELD_OUT else "train"] * len(rows)
            columns["easting"] += rows["easting"].to_pylist()
            columns["northing"] += rows["northing"].to_pylist()
            columns["condition"] += ["night" if night == "True" else "day" for night in rows["night"].to_pylist()]
            columns["heading"] += rows["ca"].to_pylist()
            columns["zone"] += [city] * len(rows)
            columns["role"] += [role] * len(rows)
    try:
        metres_N2 = np.array([columns["easting"], columns["northing"]], np.float64).reshape(2, len(paths)).T
        headings_N = np.array([cell or np.nan for cell in columns["heading"]], np.float64)
    except ValueError as error:
        raise InputError(f"{folder}: eastings and northings in {PROCESSED}, and ca in {RAW}, should be numbers: {error}") from error
    zones, roles, conditions = (np.array(columns[name], dtype=str) for name in ("zone", "role", "condition"))
    places = Places(metres_N2, zones, roles, conditions, headings_N)
    return ImageTable(str(folder), tuple(paths), np.full(len(paths), -1, np.int32), np.array(splits, dtype="<U5"), (), places)


def _read_side(folder: Path, subtask: str | None) -> pa.Table:
    """The images of one side of a city that count, with all columns as text. subtask: None for every image."""
    raw = _read(folder / RAW, ("key", "pano", "ca"))
    processed = _read(folder / PROCESSED, ("key", "easting", "northing", "night"))
    chosen = ["True"] * len(raw) if subtask is None else _read(folder / SUBTASK, (subtask,))[subtask].to_pylist()
    if not len(raw) == len(processed) == len(chosen) or raw["key"] != processed["key"]:
        raise InputError(f"{folder}: the rows of {RAW}, {PROCESSED} and {SUBTASK} should be of the same images in the same order")
    counted = [pano != "True" and one == "True" for pano, one in zip(raw["pano"].to_pylist(), chosen, strict=True)]
    return processed.append_column("ca", raw["ca"]).filter(pa.array(counted, pa.bool_()))


def _read(file: Path, columns: tuple[str, ...]) -> pa.Table:
    if not file.is_file():
        raise NotFoundError(f"{file} not found: root should be the folder into which metadata.zip and the image archives were unpacked")
    options = pyarrow.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string()))
    try:
        return pyarrow.csv.read_csv(file, convert_options=options)
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"{file} should be a table with the columns {', '.join(columns)}: {error}") from error
