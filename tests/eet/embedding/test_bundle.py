import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eet.embedding import BaseModel, base_digest, build_base, load_base, read_base_record, save_base
from eet.hashing.itq import Projection
from eet.images import Preprocessing
from eet.vit import load_bundle
from eet.vit.bundle_folder import tensors_digest

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
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}, (224, 256)),
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
    out, expected = again(images), model(images)
    assert out.projected is None is expected.projected
    for saved, loaded in zip(expected[:-1], out[:-1], strict=True):
        assert torch.equal(saved, loaded)
    record = read_base_record(tmp_path / "new" / "bundle")
    assert record == written
    assert record.digest == base_digest(again) and record.preprocessing_digest == model.preprocessing.digest
    assert (record.embedding_width, record.label_names, dict(record.training)) == (6, ("a", "b"), {"epochs": 3})


@torch.no_grad()
def test_a_fitted_model_comes_back_with_its_words_head_and_code(tmp_path: Path) -> None:
    options = {"words": 2, "centred": True}
    model = build_base(
        "deit_tiny_patch16_224", embedding_width=None, image_size=(56, 64), weights="none", backbone_options=VIT, aggregation="vlad",
        aggregation_options=options, tokens_from_block=1,
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 56, 64)
    model.aggregation.start(model.descriptors(images).flatten(0, 1), seed=0)
    for step in ("no head", "head", "code"):
        if step == "head":
            model.set_head(Projection(np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32), np.ones(5, np.float32)))
        if step == "code":
            model.set_code(Projection(np.random.default_rng(1).standard_normal((9, 5)).astype(np.float32), np.zeros(9, np.float32)))
        record = save_base(model, tmp_path)
        again = load_base(tmp_path)
        assert (again.embedding_width, again.num_bits) == {"no head": (48, 48), "head": (5, 5), "code": (5, 9)}[step]
        assert (record.embedding_width, record.num_bits) == (again.embedding_width, again.num_bits)
        out, expected = again(images), model(images)
        assert (
            torch.equal(out.hash, expected.hash) and torch.equal(out.embedding, expected.embedding) and out.hash.shape[1] == again.num_bits
        )
        assert torch.equal(again(images, tokens=False).hash, out.hash)
    torch.testing.assert_close(out.hash, out.embedding @ model.code.weight.T)
    other = build_base(
        "deit_tiny_patch16_224", embedding_width=None, image_size=(56, 64), weights="none", backbone_options=VIT, aggregation="vlad",
        aggregation_options={**options, "centred": False}, tokens_from_block=1,
    )  # fmt: skip
    assert base_digest(other) != base_digest(model)


@torch.no_grad()
def test_a_bundle_of_version_1_is_the_model_that_it_was(tmp_path: Path) -> None:
    model = make()
    written = save_base(model, tmp_path)
    record = json.loads((tmp_path / "model.json").read_text())
    for name in ("aggregation", "aggregation_options", "tokens_from_block", "num_bits"):
        del record[name]
    (tmp_path / "model.json").write_text(json.dumps(record | {"bundle_version": 1}))
    images = torch.randn(1, 3, 56, 64)
    assert torch.equal(load_base(tmp_path).embed(images), model.embed(images)) and read_base_record(tmp_path) == written
    # As version 1 computed it: galleries carry this digest.
    assert written.digest == tensors_digest([model.backbone_name, sorted(model.backbone_options.items())], model.state_dict())


def test_another_weight_is_another_digest() -> None:
    model = make()
    first = base_digest(model)
    assert base_digest(make()) == first
    with torch.no_grad():
        model.head.bias[0] += 1e-3
    assert base_digest(model) != first


@torch.no_grad()
def test_a_bundle_whose_patches_do_not_cover_its_input_stays_readable(tmp_path: Path) -> None:
    """Earlier versions made such models; new ones are refused."""
    model = build_base(
        "deit_tiny_patch16_224", embedding_width=6, image_size=(60, 60), weights="none", backbone_options=VIT, cut_patches=True
    ).eval()  # fmt: skip
    save_base(model, tmp_path)
    images = torch.randn(1, 3, 60, 60)
    assert torch.equal(load_base(tmp_path).embed(images), model.embed(images))


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "model.safetensors").write_bytes(data)


def change(path: Path, **values) -> None:  # type: ignore[no-untyped-def]
    record = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(record | values))


SPOILED = {
    "one bit of a weight": (flip_a_bit, "is not what model.json describes"),
    "narrower": (lambda path: change(path, embedding_width=5), "does not describe the weights next to it"),
    "newer version": (lambda path: change(path, bundle_version=3), "version 3; this program reads up to 2"),
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
