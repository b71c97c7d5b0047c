"""The Triton program, run by Triton's interpreter: what it computes can be checked without a GPU."""

import os
import subprocess
import sys

import pytest

# In a process of its own: whether Triton interprets is settled when it is imported. The interpreter looks for its language among the
# globals of the program's module; the compiler takes the name from the function round it.
COMPARE = """
import torch, triton.language
from eet.matching import fused_sinkhorn, sinkhorn
from eet.matching.token_set import unit_length

fused_sinkhorn.tl = triton.language
generator = torch.Generator().manual_seed(0)
query, gallery = (unit_length(torch.randn(2, tokens, 40, generator=generator) + 0.4) for tokens in (12, 20))
query[1, 4] = 0
pairs = torch.tensor([[0, 0], [0, 1], [1, 1]])
rows, columns = torch.rand(3, 12, generator=generator), torch.rand(3, 20, generator=generator)
rows[:, 2] = 0
rows, columns = rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)
cosine = query[pairs[:, 0]] @ gallery[pairs[:, 1]].mT
for transported in (1.0, 0.4):
    scores, delivered, errors = fused_sinkhorn.fused_scores(
        query, gallery, pairs, rows, columns, epsilon=0.05, transported=transported, tolerance=1e-5, max_iterations=500
    )
    plan = sinkhorn(1 - cosine, rows, columns, transported=transported).plan
    torch.testing.assert_close(scores, (plan * cosine).sum(dim=(1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(delivered, torch.full((3,), transported), atol=2e-5, rtol=0)
    assert (errors <= 1e-5).all()
"""


@pytest.mark.slow
def test_scores_are_those_of_the_torch_loop() -> None:
    pytest.importorskip("triton", reason="triton is installed on Linux only")
    done = subprocess.run([sys.executable, "-c", COMPARE], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


# What the interpreter does not see: types, layouts, the assembler. Triton brings its compiler and ptxas along; they need no GPU.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from eet.matching import fused_sinkhorn

program = fused_sinkhorn.triton_program()
kinds = dict.fromkeys(program.arg_names, "fp32")
kinds |= dict.fromkeys(("query", "gallery", "query_marginal", "gallery_marginal"), "*fp32") | {"pairs": "*i64"}
kinds |= dict.fromkeys(("scores", "delivered", "errors"), "*fp32")
kinds |= dict.fromkeys(("num_query", "num_gallery", "dims", "max_iterations"), "i32") | dict.fromkeys("KLD", "constexpr")
for capability in (80, 90):
    for side in (16, 64):
        sizes = {"K": side, "L": side, "D": fused_sinkhorn.DIMS_AT_ONCE}
        constants = {(program.arg_names.index(name),): size for name, size in sizes.items()}
        source = ASTSource(fn=program, signature=kinds, constexprs=constants)
        options = {"num_warps": fused_sinkhorn.warps_for(side, side)}
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert len(compiled.asm["cubin"]) > 10_000
        print(capability, side)
"""


@pytest.mark.slow
def test_the_program_compiles_for_the_cards_that_users_have(tmp_path) -> None:
    pytest.importorskip("triton", reason="triton is installed on Linux only")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["80", "16", "80", "64", "90", "16", "90", "64"], done.stderr[-3000:]
