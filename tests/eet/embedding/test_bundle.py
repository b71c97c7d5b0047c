import json
from pathlib import Path

import pytest
import torch

from eet.embedding import BaseModel, base_digest, build_base, load_base, read_base_record, save_base
from eet.images import Preprocessing
from eet.vit import load_bundle

VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
CVT = {"embed_dim": (8, 12, 24), "num_heads": (1, 3, 6)}


def make(backbone: str = "deit_tiny_patch16_224", options: dict | None = None, size: tuple[int, int] = (56, 64)) -> BaseModel:
    if backbone.startswith("cvt"):
        pytest.importorskip("transformers", reason="CvT is transformers' (extra cvt)")
    return build_base(
        backbone, embedding_width=6, image_size=size, weights="none", backbone_options=options or VIT, seed=4
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "options", "size"),
    [
        ("deit_tiny_patch16_224", VIT, (56, 64)),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}, (224, 224)),
        ("resnet50", {"layers": (1, 1, 1, 1), "base_width": 8}, (224, 256)),
        ("cvt_13", CVT, (112, 128)),
    ],
)
@torch.no_grad()
def test_bundle_gives_the_same_model_back(tmp_path: Path, backbone: str, options: dict, size: tuple[int, int]) -> None:
    model = make(backbone, options, size)
    model.backbone.preprocessing = Preprocessing(size, 0.95, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    for parameter in model.parameters():  # what training would have changed
        parameter.add_(0.01)
    written = save_base(model, tmp_path / "new" / "bundle", label_names=("a", "b"), training={"epochs": 3})
    again = load_base(tmp_path / "new" / "bundle")
    assert not again.training and again.preprocessing == model.preprocessing
    images = torch.randn(2, 3, *size)
    for saved, loaded in zip(model(images), again(images), strict=True):
        assert torch.equal(saved, loaded)
    record = read_base_record(tmp_path / "new" / "bundle")
    assert record == written
    assert record.digest == base_digest(again) and record.preprocessing_digest == model.preprocessing.digest
    assert (record.embedding_width, record.label_names, dict(record.training)) == (6, ("a", "b"), {"epochs": 3})


def test_another_weight_is_another_digest() -> None:
    model = make()
    first = base_digest(model)
    assert base_digest(make()) == first
    with torch.no_grad():
        model.head.bias[0] += 1e-3
    assert base_digest(model) != first


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "model.safetensors").write_bytes(data)


def change(path: Path, **values) -> None:  # type: ignore[no-untyped-def]
    record = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(record | values))


SPOILED = {
    "one bit of a weight": (flip_a_bit, "is not what model.json describes"),
    "narrower": (lambda path: change(path, embedding_width=5), "do not fit its record"),
    "newer version": (lambda path: change(path, bundle_version=2), "version 2; this program reads up to 1"),
    "no record": (lambda path: (path / "model.json").unlink(), "is no model bundle.*eet train-base"),
    "a student": (lambda path: change(path, kind="student"), "holds a student, not a base model.*eet train-base"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_damaged_bundles_are_refused(tmp_path: Path, fault: str) -> None:
    save_base(make(), tmp_path)
    spoil, said = SPOILED[fault]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_base(tmp_path)


def test_a_base_model_is_no_student(tmp_path: Path) -> None:
    save_base(make(), tmp_path)
    with pytest.raises(ValueError, match="holds a base model, not a student.*eet distill"):
        load_bundle(tmp_path)
