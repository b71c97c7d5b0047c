import json
from pathlib import Path

import numpy as np
import pytest

from eet.search import INDEXES, HammingIndex, IVFIndex, build_index, load_index

ITEMS = np.arange(200, dtype=np.uint8)[:, None]


def test_kinds_are_named_as_their_classes_name_themselves() -> None:
    assert {kind: index.kind for kind, index in INDEXES.items()} == {kind: kind for kind in INDEXES}
    assert INDEXES["exact"] is HammingIndex and INDEXES["ivf"] is IVFIndex


def test_options_reach_the_kind_and_none_is_the_default() -> None:
    index = build_index("ivf", ITEMS, num_bits=8, lists=7)
    assert isinstance(index, IVFIndex) and index.num_lists == 7 and index.num_bits == 8
    assert build_index("ivf", ITEMS, lists=None).options == IVFIndex.build(ITEMS).options
    assert isinstance(build_index("exact", ITEMS, lists=None), HammingIndex)


def test_unknown_kinds_and_options_are_named() -> None:
    with pytest.raises(ValueError, match="kind tree: use one of exact, ivf, faiss-ivf, faiss-hnsw"):
        build_index("tree", ITEMS)
    with pytest.raises(ValueError, match="kind exact has no option lists"):
        build_index("exact", ITEMS, lists=7)
    with pytest.raises(ValueError, match="kind ivf has no option leaves, trees"):
        build_index("ivf", ITEMS, lists=7, trees=3, leaves=4)
    with pytest.raises(ValueError, match="lists=0"):
        build_index("ivf", ITEMS, lists=0)


def test_an_index_is_loaded_as_what_it_is_or_not_at_all(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="FAISS is not installed")
    for kind in INDEXES:
        build_index(kind, ITEMS).save(tmp_path / kind)
        assert type(load_index(tmp_path / kind)) is INDEXES[kind]
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path)
    record = json.loads((tmp_path / "exact" / "codes.json").read_text())
    (tmp_path / "exact" / "codes.json").write_text(json.dumps(record | {"kind": "tree"}))
    with pytest.raises(ValueError, match="kind tree, which this version does not have"):
        load_index(tmp_path / "exact")
