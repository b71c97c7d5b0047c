"""`import eet`: light, with a version, and with `eet.search` as both the function and the package of the indexes."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import eet
from eet.gallery import Manifest, part_table, write_manifest, write_part

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "pyarrow", "ray", "numpy", "mlflow", "timm")


def printed_by(code: str, *arguments: str) -> str:
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_eet_loads_nothing_heavy():
    code = f"import eet, json, sys; dir(eet); print(json.dumps([eet.__version__, [name for name in {HEAVY} if name in sys.modules]]))"
    version, loaded = json.loads(printed_by(code))
    assert loaded == []
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize(
    ("before", "expected"), [("", "passive"), ("os.environ['OMP_WAIT_POLICY'] = 'active'; ", "active"), ("import torch; ", None)]
)
def test_threads_that_wait_sleep_unless_the_user_chose_otherwise(before, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert json.loads(printed_by(f"import json, os; {before}import eet; print(json.dumps(os.environ.get('OMP_WAIT_POLICY')))")) == expected


def test_every_public_name_is_there():
    assert {"encode", "search", "rerank", "evaluate", "load_model", "open_gallery", "Hits", "EetError", "__version__"} <= set(dir(eet))
    for name in eet.__all__:
        assert getattr(eet, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        eet.no_such_name  # noqa: B018


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> str:
    """Three items of codes 0, 1 and 3."""
    path = str(tmp_path_factory.mktemp("gallery"))
    manifest = Manifest(model_digest="m", preprocessing_digest="p", num_bits=8, num_rows=3, num_ok=3, num_parts=1, rows_per_part=3)
    ids, codes = ["a", "b", "c"], np.array([[0], [1], [3]], np.uint8)
    write_part(path, 0, part_table(ids, ids, None, codes, ["ok"] * 3, [None] * 3, schema=manifest.schema))
    write_manifest(path, manifest)
    return path


FIRST = {
    "the function": "import eet",
    "a name of the package": "from eet.search import HammingIndex; import eet",
}


@pytest.mark.slow
@pytest.mark.parametrize("first", FIRST)
def test_search_is_both_the_function_and_the_package(gallery, first):
    code = f"""
import sys
{FIRST[first]}
for _ in range(2):
    assert eet.search.HammingIndex.__name__ == "HammingIndex"
    hits = eet.search(sys.argv[1], sys.argv[1], k=1)
    print(hits.table["item_id"].to_pylist(), hits.table["distance"].to_pylist())
import eet.search
from eet import search
assert search is eet.search and callable(search) and search is sys.modules["eet.search"]
"""
    assert printed_by(code, gallery) == "['b', 'a', 'b'] [1, 1, 1]\n" * 2
