"""The warm-up compiles what jobs call: after it, another process compiles nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WARM_UP = """
from eet.retrieval.warm_up import FAMILIES, cache_folder, compile_all
print([family.name for family in compile_all()] == list(FAMILIES), cache_folder())
"""

# With its own galleries: 48 bits, repeated codes, positions of queries in the gallery, tokens of other sizes.
JOBS = """
import sys
import numpy as np
from numba.core import event

class Refuse(event.Listener):
    compiled = []
    def on_start(self, event):
        self.compiled.append(str(event.data["dispatcher"]))
    def on_end(self, event):
        pass

event.register("numba:compile", Refuse())
import eet
from eet.gallery import Manifest, open_gallery, part_table, write_manifest, write_part

draw = np.random.default_rng(1)
manifest = Manifest(model_digest="m", preprocessing_digest="p", num_bits=48, num_rows=40, num_ok=40, num_parts=1, rows_per_part=40)
ids, labels = [f"{n:02d}" for n in range(40)], [n % 3 for n in range(40)]
codes = draw.integers(0, 256, (8, 6), dtype=np.uint8)[draw.integers(0, 8, 40)]
write_part(sys.argv[1], 0, part_table(ids, ids, labels, codes, ["ok"] * 40, [None] * 40, schema=manifest.schema))
write_manifest(sys.argv[1], manifest)
gallery = open_gallery(sys.argv[1])
eet.evaluate(eet.search(gallery, gallery, k=5))
eet.search(gallery, gallery, radius=9)
eet.evaluate(gallery)
eet.evaluate(gallery, ties="stable")
from eet.matching import TokenSet, match_pairs
tokens = draw.standard_normal((3, 12, 24)).astype(np.float32)
side = TokenSet(tokens, draw.random((3, 12)).astype(np.float32))
for options in ({}, {"marginal": "softmax"}, {"transported": 0.7}, {"solver": "maxsim"}):
    match_pairs(side, side, [(0, 1), (0, 2)], **options)
print(Refuse.compiled)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_it_compiled_no_later_process_compiles(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}

    def printed(code: str, *arguments: str) -> str:
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    all_families, folder = printed(WARM_UP).split()
    assert all_families == "True" and folder.startswith(str(tmp_path / "cache"))
    assert printed(JOBS, str(tmp_path / "gallery")) == "[]"
