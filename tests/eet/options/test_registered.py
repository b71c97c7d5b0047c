"""The names that are read from the text of a module are the keys of its dictionary."""

import importlib
import json
import subprocess
import sys

import pytest

from eet.matching import MARGINALS
from eet.options.registered import registered

DICTIONARIES = {
    "eet.datasets": "DATASETS",
    "eet.embedding.aggregations": "AGGREGATIONS",
    "eet.embedding.losses": "LOSSES",
    "eet.matching.marginals": "MARGINALS",
    "eet.matching.solvers": "SOLVERS",
    "eet.search.indexes": "INDEXES",
}
READ = """
import json, sys
from eet.options.registered import registered
print(json.dumps([registered(*pair) for pair in json.loads(sys.argv[1])]))
assert not {"torch", "numpy", "pyarrow"} & set(sys.modules)
"""


def test_names_are_read_without_loading_what_they_name():
    done = subprocess.run([sys.executable, "-c", READ, json.dumps([*DICTIONARIES.items()])], capture_output=True, text=True, check=True)
    expected = [list(getattr(importlib.import_module(module), name)) for module, name in DICTIONARIES.items()]
    assert json.loads(done.stdout) == expected and all(expected)


def test_what_was_added_to_a_loaded_dictionary_is_named_too(monkeypatch):
    monkeypatch.setitem(MARGINALS, "own", MARGINALS["uniform"])
    assert registered("eet.matching.marginals", "MARGINALS")[-1] == "own"


def test_a_dictionary_that_is_not_written_out_is_imported(tmp_path, monkeypatch):
    (tmp_path / "computed_names.py").write_text("NAMES = dict(zip('ab', 'cd'))\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registered("computed_names", "NAMES") == ("a", "b")
    with pytest.raises(LookupError, match="computed_names has no OTHERS"):
        registered("computed_names", "OTHERS")
