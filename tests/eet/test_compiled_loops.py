"""Loops that numba compiles."""

import subprocess
import sys

import pytest

CALLS = """
from eet.compiled_loops import compiled

@compiled(cache=False)
def one_more(number):
    return number + 1

assert (one_more(1), one_more(1.5)) == (2, 2.5)
"""


@pytest.mark.slow
def test_a_process_that_compiles_says_so_once():
    done = subprocess.run([sys.executable, "-c", CALLS], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["compiling loops for this processor; it takes up to a minute, once"]
