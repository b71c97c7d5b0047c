"""`eet benchmark backbones`: families that work and families that do not, with their cost."""

import json

import pytest

from pipelines import benchmark
from pipelines.configs.benchmark import BackbonesBenchmarkOptions, BenchmarkConfig


def config(tmp_path, *families: str, **options) -> BenchmarkConfig:
    chosen = BackbonesBenchmarkOptions(families=families)
    return BenchmarkConfig(what="backbones", device="cpu", json=str(tmp_path / "backbones.json"), backbones=chosen, **options)


def test_the_table_has_works_and_refused_with_their_reasons_and_costs(tmp_path, capsys):
    rows = benchmark.run(config(tmp_path, "deit", "vit_siglip", "swin_transformer"))
    assert [(row.family, row.student) for row in rows] == [("vit_siglip", "yes"), ("deit", "yes"), ("swin_transformer", "no")]
    siglip, deit, swin = rows
    assert (deit.example, deit.pools, deit.image, deit.patches, deit.stages) == (
        "deit_small_patch16_224", "CLS", "224 x 224", 196, "4: 98, 8: 49, 10: 12",
    )  # fmt: skip
    # The published count of DeiT-S is 4.6 G, and that of the student half of it.
    assert deit.timm_gmacs == pytest.approx(4.6, abs=0.01) and deit.gmacs == pytest.approx(2.27, abs=0.01)
    assert deit.ratio == deit.gmacs / deit.timm_gmacs and siglip.pools == "attention" and siglip.ratio < 0.55
    assert swin.reason == "is a SwinTransformer, whose tokens cannot be dropped between blocks" and swin.gmacs is None
    assert "deit_small_patch16_224" in capsys.readouterr().out
    benchmark.run(BenchmarkConfig(what="tables", results=(str(tmp_path / "backbones.json"),)))
    assert "| deit | 4 | deit_small_patch16_224 | yes | CLS |" in capsys.readouterr().out
    assert json.loads((tmp_path / "backbones.json").read_text())["command"].startswith("eet benchmark backbones --")


def test_without_pruning_nothing_but_the_last_block_is_saved(tmp_path):
    (row,) = benchmark.run(config(tmp_path, "deit", keep_ratios=(1.0,)))
    assert 0.9 < row.ratio < 1


def test_unknown_families_are_refused_with_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=r"names none of timm's families: .*vit_dinov3"):
        benchmark.run(config(tmp_path, "dino", dry_run=True))
    assert BackbonesBenchmarkOptions(families=()).problems() != []
