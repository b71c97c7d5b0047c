"""A tree as the archives unpack, with their headers."""

from pathlib import Path

import pytest

from eet.datasets import load_dataset
from eet.errors import InputError, NotFoundError

RAW = ",key,lon,lat,ca,captured_at,pano"
PROCESSED = ",key,easting,northing,unique_cluster,control_panel,night,view_direction"
SUBTASK = ",all,s2w,w2s,o2n,n2o,d2n,n2d"


def write_side(folder: Path, keys: list[str], *, panos: str = "", nights: str = "", d2n: str = "") -> None:
    folder.mkdir(parents=True)
    rows = list(enumerate(keys))
    raw = [f"{n},{key},12.5,55.7,84.2,2015-06-19,{key in panos}" for n, key in rows]
    processed = [f"{n},{key},{n + 0.25},{100 * n},{n},False,{key in nights},Forward" for n, key in rows]
    subtasks = [f"{n},True,False,False,True,True,{key in d2n},False" for n, key in rows]
    for name, header, lines in (("raw", RAW, raw), ("postprocessed", PROCESSED, processed), ("subtask_index", SUBTASK, subtasks)):
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture
def root(tmp_path) -> Path:
    cities = tmp_path / "train_val"
    write_side(cities / "cph/query", ["0a", "b", "c"], panos="c", nights="b", d2n="0a")
    write_side(cities / "cph/database", ["e", "f"], nights="f", d2n="f")
    write_side(cities / "sf/query", ["g"])
    write_side(cities / "sf/database", ["h"])
    for city in ("amman", "zurich"):
        write_side(cities / city / "query", [f"{city}q"])
        write_side(cities / city / "database", [f"{city}d"])
    return tmp_path


def test_panoramas_are_left_out_and_cities_are_zones_and_splits(root):
    table = load_dataset("msls", str(root))
    test = table.select("test")
    assert test.paths == tuple(
        f"train_val/{name}.jpg"
        for name in ("cph/database/images/e", "cph/database/images/f", "cph/query/images/0a", "cph/query/images/b",
                     "sf/database/images/h", "sf/query/images/g")
    )  # fmt: skip
    assert test.places.metres_N2.tolist() == [[0.25, 0], [1.25, 100], [0.25, 0], [1.25, 100], [0.25, 0], [0.25, 0]]
    assert test.places.zones_N.tolist() == ["cph"] * 4 + ["sf"] * 2
    assert test.places.conditions_N.tolist() == ["day", "night", "day", "night", "day", "day"]
    assert test.places.headings_N.tolist() == [84.2] * 6
    assert test.with_role("query").places.roles_N.tolist() == ["query"] * 3
    assert set(table.select("val").places.zones_N) == {"amman"} and set(table.select("train").places.zones_N) == {"zurich"}
    assert (table.labels == -1).all() and table.location(0).startswith(str(root))


def test_a_subtask_chooses_images_of_the_test_cities_and_an_empty_city_is_passed_over(root):
    table = load_dataset("msls", str(root), subtask="d2n")
    assert [path.rpartition("/")[2] for path in table.select("test").paths] == ["f.jpg", "0a.jpg"]
    assert len(table.select("train")) == len(table.select("val")) == 2


def test_what_does_not_belong_together_is_refused(root):
    with pytest.raises(InputError, match="subtask 'night' is not one of all, s2w"):
        load_dataset("msls", str(root), subtask="night")
    with pytest.raises(InputError, match="only dataset 'msls' has subtasks"):
        load_dataset("cub", str(root), subtask="d2n")
    side = root / "train_val/sf/query"
    (side / "raw.csv").write_text(f"{RAW}\n0,other,1,2,3,2015-01-01,False\n")
    with pytest.raises(InputError, match="sf/query: the rows of raw.csv, .* same order"):
        load_dataset("msls", str(root))
    (side / "raw.csv").write_text(",key\n0,g\n")
    with pytest.raises(InputError, match="raw.csv should be a table with the columns key, pano"):
        load_dataset("msls", str(root))
    (side / "raw.csv").unlink()
    with pytest.raises(NotFoundError, match="raw.csv not found: root should be"):
        load_dataset("msls", str(root))
    with pytest.raises(NotFoundError, match="train_val not found"):
        load_dataset("msls", str(side))
