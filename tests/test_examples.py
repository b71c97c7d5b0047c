"""Every script in examples/, and the notebook, runs on drawn images and without a network."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import eet
from eet.gallery import Manifest, part_table, write_manifest, write_part
from eet.vit import load_bundle

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]  # each script is a process that imports torch, and one trains

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(script: str, *arguments: object) -> str:
    """What a script prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def measure(printed: str, name: str) -> float:
    return float(re.search(rf"^{re.escape(name)} +([\d.]+)(?: ±[\d.]+)?$", printed, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def few(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve drawn birds."""
    folder = tmp_path_factory.mktemp("few")
    for number in range(0, 48, 4):
        (folder / f"bird{number % 3}-{number:02d}.png").symlink_to((photos / f"0-{number:02d}.png").resolve())
    return folder


def test_every_script_has_a_test():
    tests = Path(__file__).read_text()
    assert SCRIPTS and all(f'run("{script}"' in tests for script in SCRIPTS)


def test_the_notebook(tmp_path, monkeypatch, capsys):
    """Its cells run in order in a folder with a quickstart, so that the first one has nothing to do."""
    if "EET_QUICKSTART" not in os.environ:
        pytest.skip("EET_QUICKSTART does not name the folder of a quickstart")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(Path(os.environ["EET_QUICKSTART"]).resolve())
    monkeypatch.chdir(tmp_path)
    shown: list[Any] = []
    names: dict[str, Any] = {"__name__": "notebook", "show": shown.append}
    for cell in json.loads((ROOT / "examples" / "drawn_birds.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            tree = ast.parse("".join(cell["source"]))
            if isinstance(last := tree.body[-1], ast.Expr):  # what a notebook shows
                last.value = ast.Call(ast.Name("show", ast.Load()), [last.value], [])
            exec(compile(ast.fix_missing_locations(tree), "drawn_birds.ipynb", "exec"), names)
    assert sum(isinstance(value, Image.Image) for value in shown) == 5
    printed = capsys.readouterr().out
    assert len(names["hits"].query_ids) == int(re.search(r"over (\d+) queries", printed)[1]) == 320
    assert float(re.search(r"^seen +P@1 ([\d.]+)", printed, re.MULTILINE)[1]) > 0.7


def test_encode_and_search(tiny_model, few):
    query = few / "bird1-16.png"
    rows = [line.split() for line in run("encode_and_search.py", tiny_model, few, query, "--k", 3).splitlines()]
    assert rows[0] == ["query_id", "rank", "item_id", "distance"]
    assert [row[:2] for row in rows[1:]] == [[str(query), str(rank)] for rank in (1, 2, 3)]
    assert rows[1][3] == "0"


def test_evaluate(tiny_model, tiny_birds):
    printed = run("evaluate.py", tiny_model, tiny_birds)
    assert measure(printed, "queries") == 16
    assert 0 < measure(printed, "mAP") < 1


def test_rerank_and_draw(tiny_model, few, tmp_path):
    printed = run("rerank_and_draw.py", tiny_model, few, few / "bird1-16.png", tmp_path / "drawn")
    assert "matches.png" in printed and "structural" in printed
    for name in ("hits.png", "matches.png"):
        with Image.open(tmp_path / "drawn" / name) as image:
            image.load()
            assert min(image.size) > 48


def test_train_in_one_process(tiny_birds, few, tmp_path):
    out = tmp_path / "model"
    printed = run("train_in_one_process.py", tiny_birds, out, "--epochs", 1, "--image-size", 48, "--bits", 16)
    assert "epoch 1: loss " in printed and "mAP of the test images: 0." in printed
    assert load_bundle(out).num_bits == 16
    assert eet.encode(out, few).manifest.num_ok == 12


def test_read_gallery_with_duckdb(tiny_model, few, tmp_path):
    pytest.importorskip("duckdb", reason="duckdb is not installed")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    gallery = eet.encode(tiny_model, [*sorted(few.iterdir()), bad], out=tmp_path / "gallery")
    query = str(few / "bird1-16.png")
    printed = run("read_gallery_with_duckdb.py", tmp_path / "gallery", query, "--k", 4)
    assert re.search(r"│ ok +│ +12 │", printed)
    found = [line.split(" ", 1) for line in printed.splitlines() if re.match(r"\d+ /", line)]
    hits = eet.search(gallery, gallery, k=11).table.to_pylist()
    distances = {row["item_id"]: row["distance"] for row in hits if row["query_id"] == query}
    assert [(int(distance), item_id) for distance, item_id in found] == sorted((d, item_id) for item_id, d in distances.items())[:4]


def test_own_dataset(tiny_model, few):
    printed = run("own_dataset.py", tiny_model, few)
    assert printed.startswith("12 images of bird0, bird1, bird2\n")
    assert measure(printed, "queries") == 12


def test_own_marginal(tiny_model, few):
    first, second = run("own_marginal.py", tiny_model, few, few / "bird1-16.png").splitlines()
    assert first.startswith("importance [") and second.startswith("above_average [")
    assert first.split("] ")[1] != second.split("] ")[1]


def test_cross_validate_a_route(tmp_path):
    """Eight places in two parts. Which setting is chosen for the first part depends on the place next to it, which is left out."""
    for setting, right in (("first", {0, 1, 2, 3, 4}), ("second", {5})):
        found = np.array([place if place in right else (place + 4) % 8 for place in range(8)])
        placed(tmp_path / setting / "db", np.eye(8))
        placed(tmp_path / setting / "queries", np.eye(8)[found])
    printed = run("cross_validate_a_route.py", tmp_path / "first", tmp_path / "second", "--parts", 2, "--metres", 100).splitlines()
    assert printed[:4] == [" 62.5  first", " 12.5  second", "", "2 parts"]
    assert sorted(printed[4:6]) == ["  0.0  second", " 25.0  first"], "of the other part, without its place next to this one"
    assert printed[6:] == ["R@1 12.5"]


def placed(path: Path, embedding_ND: np.ndarray) -> None:
    """A gallery of images 100 metres apart, in the order of the rows."""
    rows, width = embedding_ND.shape
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=8, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows, positions=True,
        embedding_dim=width,
    )  # fmt: skip
    ids = [f"{row}.jpg" for row in range(rows)]
    columns = {"easting": [0.0] * rows, "northing": [100.0 * row for row in range(rows)], "zone": [""] * rows, "condition": [""] * rows}
    part = part_table(
        ids, ids, None, np.zeros((rows, 1), np.uint8), ["ok"] * rows, [None] * rows, schema=manifest.schema, places=pa.table(columns),
        embedding=embedding_ND,
    )  # fmt: skip
    write_part(str(path), 0, part)
    write_manifest(str(path), manifest)
