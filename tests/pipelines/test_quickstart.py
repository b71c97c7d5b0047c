"""The whole way on one machine, small."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eet.gallery import Manifest, part_table, read_hits, write_manifest, write_part
from pipelines import quickstart
from pipelines.job.options import StudentOptions, TrainOptions

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    for name, value in {"LABELS": 3, "TRAIN": 6, "TEST": 3, "SIZE": 48}.items():
        monkeypatch.setattr(quickstart, f"SYNTHETIC_{name}", value)


def config_of(out: Path, **changes) -> quickstart.QuickstartConfig:
    student = StudentOptions(
        backbone="vit_tiny_patch16_224",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
        image_size=48,
        bits=16,
    )
    train = TrainOptions(epochs=1, batch_size=6, optimizer="adamw", learning_rate=1e-3, cpus_per_worker=1)
    return quickstart.QuickstartConfig(out=str(out), student=student, train=train, **changes)


@pytest.mark.timeout(300)
def test_it_goes_from_drawn_pictures_to_a_table_and_a_page(ray_session, small, tmp_path, capsys):
    out = tmp_path / "quickstart"
    result = quickstart.run(config_of(out))
    assert result.report == out / "report.html"
    assert set(result.measures) == {"encoded", "published"}
    assert all(0 <= values["mAP"] <= 1 and values["queries"] == 9 for values in result.measures.values())
    trained = json.loads((out / "model" / "test.json").read_text())
    for protocol, values in result.measures.items():  # training's own test, and encode + evaluate, are two ways to one number
        assert trained["student"][protocol]["mAP"] == pytest.approx(values["mAP"], abs=1e-6)
    assert 0.05 < result.creature["image"] < 0.5 and 0 <= result.creature["last_stage"] <= 1

    html = result.report.read_text()
    images = re.findall(r'<img[^>]* src="([^"]{0,30})', html)
    assert len(images) == 9 + 8 + 2 and all(source.startswith("data:image/") for source in images)  # hits, kept tokens, two curves
    assert len(set(read_hits(str(out / "hits.parquet"))["query_id"].to_pylist())) == 9
    told = capsys.readouterr().out
    assert "mAP" in told and "published" in told and str(result.report) in told and "covers" in told
    assert not (tmp_path / "mlflow.db").exists() and (out / "mlflow.db").is_file()

    with pytest.raises(ValueError, match="holds a finished quickstart"):
        quickstart.run(config_of(out))


def test_a_dry_run_starts_nothing(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "connected", None)
    result = quickstart.run(config_of(tmp_path / "quickstart", dry_run=True))
    told = capsys.readouterr().out
    assert "nothing was started" in told and "3 labels" in told
    assert not result.report.exists() and not (tmp_path / "quickstart" / "model").exists()


def test_creature_shares_by_a_hand_made_mask(tmp_path):
    """A creature on the left half of one picture and the top left quarter of another; tokens in known places of a 6 x 6 grid."""
    masks = np.zeros((2, 96, 96), bool)
    masks[0, :, :48] = True
    masks[1, :48, :48] = True
    (tmp_path / "masks").mkdir()
    ids = ["images/a.png", "images/b.png"]
    for mask, name in zip(masks, ids, strict=True):
        Image.fromarray(mask).save(tmp_path / name.replace("images", "masks"))
    kept = np.array([[0, 7, 5, 35], [0, 14, 18, 35]])  # two on the creature, two off it, in both
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=8, num_rows=2, num_ok=2, num_parts=1, rows_per_part=2,
        token_shape=(4, 2), token_dtype="float16",
    )  # fmt: skip
    table = part_table(
        ids, ids, None, np.zeros((2, 1), np.uint8), ["ok"] * 2, [None] * 2, schema=manifest.schema,
        tokens=np.zeros((2, 4, 2)), token_index=kept, token_mass=np.full((2, 4), 0.25),
    )  # fmt: skip
    write_part(str(tmp_path / "gallery"), 0, table)
    write_manifest(str(tmp_path / "gallery"), manifest)
    shares = quickstart.creature_shares(str(tmp_path / "gallery"), str(tmp_path), (6, 6))
    assert shares["image"] == pytest.approx((1 / 2 + 1 / 4) / 2, abs=0.01)
    assert shares["last_stage"] == pytest.approx((2 / 4 + 2 / 4) / 2, abs=0.02)
