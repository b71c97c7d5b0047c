"""Places whose file names say where they are: Pitts30k, Tokyo 24/7, SF-XL, St Lucia, Nordland and others, as benchmarks publish them.

A name is `@easting@northing@zone number@zone letter@latitude@longitude@pano_id@tile@heading@pitch@roll@height@timestamp@note@.jpg`
(VPR-datasets-downloader). Only the first two are required.
"""

import numpy as np

from eet.datasets.image_files import list_image_files
from eet.datasets.image_table import SPLITS, ImageTable
from eet.datasets.places import Places
from eet.errors import InputError, NotFoundError

ROLES_OF = {"queries": "query", "database": "database"}
HEADING, NOTE = 9, 14
"""Places in a name: of the heading in degrees, and of the note, the condition, such as day_forward_cph."""


def load(root: str) -> ImageTable:
    """Reads images/{train,val,test}/{database,queries}/, with images in any depth below.

    Folders database and queries outside of a split are of the test. Distances exist inside a UTM zone only, if every name has one.

    Args:
        root: local folder or URI, of the dataset or its folder images.

    Raises:
        NotFoundError: there is no image in a folder database or queries.
        InputError: a name does not begin with @easting@northing@.
    """
    listed, _ = list_image_files(root)
    found = [(path, folders) for path in listed if ROLES_OF.keys() & set(folders := path.split("/")[:-1])]
    if not found:
        wanted = f"{root}/images/{{{','.join(SPLITS)}}}/{{{','.join(ROLES_OF)}}}"
        raise NotFoundError(f"no image found under {wanted}: give the folder of the dataset")
    paths = tuple(path for path, _ in found)
    splits = [next((name for name in folders if name in SPLITS), "test") for _, folders in found]
    roles = [next(ROLES_OF[name] for name in folders if name in ROLES_OF) for _, folders in found]
    fields = [path.rpartition("/")[2].split("@") for path in paths]
    metres_N2 = np.array([_position(path, name) for path, name in zip(paths, fields, strict=True)])
    zones = ["".join(name[3:5]) if len(name) > 5 else "" for name in fields]
    if not all(zones):
        zones = [""] * len(zones)
    conditions = [name[NOTE] if len(name) > NOTE + 1 else "" for name in fields]
    headings_N = np.array([_heading(name) for name in fields], np.float64)
    texts = [np.array(column, dtype=str) for column in (zones, roles, conditions)]
    places = Places(metres_N2, texts[0], texts[1], texts[2], headings_N)
    return ImageTable(root, paths, np.full(len(paths), -1, np.int32), np.array(splits, dtype="<U5"), (), places)


def _position(path: str, name: list[str]) -> tuple[float, float]:
    try:
        assert not name[0]
        east, north = float(name[1]), float(name[2])
        assert np.isfinite([east, north]).all()
    except (AssertionError, IndexError, ValueError):
        raise InputError(f"{path}: the name of an image of this dataset begins with @easting@northing@, in metres") from None
    return east, north


def _heading(name: list[str]) -> float:
    """NaN where a name has none."""
    try:
        return float(name[HEADING])
    except (IndexError, ValueError):
        return np.nan
