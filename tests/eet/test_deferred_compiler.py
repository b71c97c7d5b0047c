"""timm is imported without torch's compiler, and the compiler is itself again afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from eet.deferred_compiler import disable

ROOT = Path(__file__).resolve().parents[2]
AFTER_LOADING = """
import json, sys
import eet

model = eet.load_model(sys.argv[1])
loaded = "torch._dynamo" in sys.modules

import torch
from torchvision.ops import roi_align

pooled = roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], (2, 2))  # asks whether it can be compiled
compiled = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
print(json.dumps([loaded, pooled.shape, compiled.tolist(), type(torch._dynamo).__name__, torch._dynamo.__file__ is not None]))
"""


def test_loading_a_model_does_not_load_the_compiler_and_compiling_does(tiny_model):
    result = subprocess.run([sys.executable, "-c", AFTER_LOADING, str(tiny_model)], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [False, [1, 1, 2, 2], [2.0, 2.0], "module", True]


def test_a_function_that_was_excluded_is_not_compiled():
    compiling = []

    @disable
    def excluded(x: torch.Tensor) -> torch.Tensor:
        compiling.append(torch.compiler.is_compiling())
        return x * 2

    assert excluded.__name__ == "excluded"
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    assert torch.compile(lambda x: excluded(x + 1) + 3, backend=backend)(torch.ones(1)).item() == 7
    assert compiling == [False]
    assert graphs and not any("mul" in str(graph.graph) for graph in graphs)
