"""Every JSON file that is read, with one field changed: it loads, or one clear error names the file; nothing else happens."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eet
from eet.embedding import build_base, load_base, save_base
from eet.gallery import open_gallery, read_model_record, write_part
from eet.gallery.job import read_job
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.index_folder import missing_parts
from eet.vit import load_bundle
from pipelines import index

MUTANTS: list[Any] = [None, True, -1, 0, 10**9, 0.5, 1e300, "", "x", [], [None], {}, {"x": 1}]


def mutations(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path, value) of every change of one value; DELETED removes it."""
    if path:
        yield path, DELETED
        yield from ((path, mutant) for mutant in MUTANTS)
    if isinstance(values, dict):
        for name, value in values.items():
            yield from mutations(value, (*path, name))
    elif isinstance(values, list):
        for number, value in list(enumerate(values))[:2]:
            yield from mutations(value, (*path, number))


DELETED = object()
NAMES = ["wren", "robin"]


def changed(values: Any, path: tuple[Any, ...], mutant: Any) -> Any:
    values = copy.deepcopy(values)
    place = values
    for step in path[:-1]:
        place = place[step]
    if mutant is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = mutant
    return values


@pytest.fixture(scope="module")
def folder(tiny_model, photos, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mutations")
    shutil.copytree(tiny_model, root / "model")
    base = build_base(
        "vit_tiny_patch16_224",
        embedding_width=8,
        image_size=(56, 56),
        weights="none",
        backbone_options={"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    )
    save_base(base, root / "base", label_names=["a", "b"])
    images = [str(path) for path in sorted(photos.rglob("*.png"))[:6]]
    eet.encode(tiny_model, images[:4], out=root / "gallery", rows_per_part=2, labels=[0, 1, 0, 1], label_names=NAMES)
    index.run(index.IndexConfig(gallery=str(root / "gallery"), out=str(root / "index"), kind="ivf"))

    def cut(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("eet.gallery.parts.write_part", cut)
        eet.encode(
            tiny_model, images, out=root / "gallery", rows_per_part=2, labels=[0, 1] * 3, label_names=["wren", "robin"], mode="append"
        )
    assert write_part is not cut
    return root


def load_gallery(root: Path) -> None:
    gallery = open_gallery(str(root / "gallery"))
    gallery.table()
    gallery.codes()


def load_index(root: Path) -> None:
    missing_parts(str(root / "index"), open_gallery(str(root / "gallery")))
    found = GalleryIndex.load(str(root / "index"))
    found.search(np.zeros((1, 2), np.uint8), 3)


READERS: dict[str, Callable[[Path], object]] = {
    "model/model.json": lambda root: (read_model_record(root / "model"), load_bundle(root / "model")),
    "base/model.json": lambda root: (read_model_record(root / "base"), load_base(root / "base")),
    "gallery/manifest.json": load_gallery,
    "gallery/begun.json": lambda root: read_job(str(root / "gallery")),
    "index/index.json": load_index,
    "index/codes.json": load_index,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.slow
def test_a_changed_field_loads_or_is_one_clear_error(folder, name):
    file = folder / name
    text = file.read_text()
    values = json.loads(text)
    wrong, refused = [], 0
    cases = list(mutations(values))
    try:
        READERS[name](folder)
        for path, mutant in cases:
            file.write_text(json.dumps(changed(values, path, mutant)))
            shown = "deleted" if mutant is DELETED else json.dumps(mutant)
            try:
                READERS[name](folder)
            except eet.EetError as error:
                refused += 1
                if not str(error) or "\n" in str(error):
                    wrong.append(f"{path} {shown}: not one line: {error}")
            except Exception as error:
                wrong.append(f"{path} {shown}: {type(error).__name__}: {error}")
    finally:
        file.write_text(text)
    assert not wrong, f"{len(wrong)} of {len(cases)} changes:\n" + "\n".join(wrong[:40])
    assert refused > len(cases) / 3


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"3"])
def test_a_file_that_is_no_record_is_one_clear_error(folder, name, contents):
    file = folder / name
    data = file.read_bytes()
    try:
        file.write_bytes(contents)
        with pytest.raises(eet.EetError) as caught:
            READERS[name](folder)
    finally:
        file.write_bytes(data)
    assert "\n" not in str(caught.value)
