import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eet.hashing import Projection
from eet.images import Preprocessing
from eet.vit import (
    PruningSchedule,
    Student,
    build_student,
    load_bundle,
    read_bundle_record,
    save_bundle,
    student_from_state_dict,
    timm_named_weights,
    weights_digest,
)

SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def make_student(backbone: str = "deit_tiny_patch16_224", *, schedule: PruningSchedule | None = None, **options: Any) -> Student:
    return build_student(
        backbone,
        num_classes=3,
        num_bits=10,
        schedule=schedule or PruningSchedule((1, 2), (0.5, 0.4)),
        weights="none",
        backbone_options={**SMALL, "img_size": (24, 40), **options},
        seed=4,
    ).eval()


def assert_same_model(one: Student, other: Student) -> None:
    assert not other.training
    images = torch.randn(2, 3, *one.preprocessing.image_size)
    with torch.no_grad():
        for value, reference in zip(one(images)[:6], other(images)[:6], strict=True):
            assert torch.equal(value, reference)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert torch.equal(one.preprocess(image), other.preprocess(image))
    assert one.preprocessing == other.preprocessing
    assert one.num_bits == other.num_bits and one.schedule == other.schedule


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("deit_tiny_patch16_224", {}), ("vit_small_patch14_reg4_dinov2", {"qk_norm": True}), ("deit_tiny_distilled_patch16_224", {})],
)
def test_bundle_gives_the_same_model_back(tmp_path: Path, backbone: str, options: dict[str, Any]) -> None:
    student = make_student(backbone, **options)
    student.preprocessing = Preprocessing((24, 40), 0.95, "bicubic", (0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    codes = np.where(np.random.default_rng(1).random((3, 10)) < 0.5, -1, 1).astype(np.int8)
    path = tmp_path / "new" / "bundle"
    written = save_bundle(
        student,
        path,
        label_names=["Kingfisher", "Eisvogel", "martin-pêcheur"],
        target_codes=torch.from_numpy(codes),
        label_counts=np.array([4, 5, 6]),
        training={"epochs": 3, "beta": 0.1},
    )
    again = load_bundle(path)
    assert_same_model(student, again)
    assert again.backbone == backbone
    record = read_bundle_record(str(path))
    for each in (written, record):
        assert each.digest == weights_digest(student) == weights_digest(again)
        assert each.preprocessing_digest == student.preprocessing.digest
        assert each.num_bits == 10 and each.label_names == ("Kingfisher", "Eisvogel", "martin-pêcheur")
        assert each.target_codes is not None and each.target_codes.dtype == np.int8
        np.testing.assert_array_equal(each.target_codes, codes)
        np.testing.assert_array_equal(each.label_counts, [4, 5, 6])
        assert dict(each.training) == {"epochs": 3, "beta": 0.1}
    assert sorted(file.name for file in path.iterdir()) == ["model.json", "model.safetensors"]


def test_student_of_a_state_dict_only_is_saved_and_loaded(tmp_path: Path) -> None:
    student = student_from_state_dict(
        timm_named_weights(make_student(img_size=(32, 32))), num_heads=3, prune_after=(2,), keep_ratios=(0.5,)
    )
    assert student.backbone is None
    record = save_bundle(student, tmp_path)
    assert_same_model(student, load_bundle(str(tmp_path)))
    assert record.label_names == () and record.target_codes is None and record.label_counts is None and dict(record.training) == {}


@pytest.mark.parametrize("backbone", ["deit_tiny_patch16_224", None])
def test_the_hash_input_is_saved_and_loaded(tmp_path: Path, backbone: str | None) -> None:
    if backbone is None:
        state = timm_named_weights(make_student(img_size=(32, 32)))
        student = student_from_state_dict(state, num_heads=3, prune_after=(2,), keep_ratios=(0.5,), hash_input="probabilities")
    else:
        student = build_student(
            backbone, num_classes=3, num_bits=10, schedule=PruningSchedule((), ()), weights="none", hash_input="probabilities",
            backbone_options={**SMALL, "img_size": (24, 40)},
        ).eval()  # fmt: skip
    save_bundle(student, tmp_path)
    assert load_bundle(tmp_path).hash_input == "probabilities"
    assert_same_model(student, load_bundle(tmp_path))


@pytest.mark.parametrize("backbone", ["deit_tiny_patch16_224", None])
def test_a_joint_hash_is_saved_and_loaded_and_its_values_are_in_the_digest(tmp_path: Path, backbone: str | None) -> None:
    student = build_student(
        "deit_tiny_patch16_224", num_classes=3, num_bits=10, schedule=PruningSchedule((), ()), weights="none", hash_input="joint",
        label_weight=0.3, backbone_options={**SMALL, "img_size": (32, 32)},
    ).eval()  # fmt: skip
    student.backbone = backbone
    student.temperature = 1.5
    unwhitened = save_bundle(student, tmp_path).digest
    assert load_bundle(tmp_path).whitening is None
    random, width = np.random.default_rng(0), student.embedding_width
    student.set_whitening(Projection(random.standard_normal((width, width)), random.standard_normal(width)))
    digests = [save_bundle(student, tmp_path).digest]
    assert digests[0] != unwhitened
    loaded = load_bundle(tmp_path)
    assert (loaded.hash_input, loaded.temperature, loaded.label_weight) == ("joint", 1.5, 0.3)
    assert_same_model(student, loaded)
    for name, value in (("temperature", 1.0), ("label_weight", 0.4)):
        setattr(student, name, value)
        digests.append(weights_digest(student))
    assert len(set(digests)) == 3


def test_a_bundle_of_the_first_version_hashes_logits_of_fully_decoded_images(tmp_path: Path) -> None:
    student = make_student()
    student.preprocessing = replace(student.preprocessing, least_oversampling=None)
    save_bundle(student, tmp_path)

    def as_first(record: dict[str, Any]) -> None:
        record["bundle_version"] = 1
        del record["hash_input"]
        assert "least_oversampling" not in record["preprocessing"]

    _change_record(as_first)(tmp_path)
    assert load_bundle(tmp_path).hash_input == "logits"
    assert load_bundle(tmp_path).preprocessing.least_oversampling is None
    assert_same_model(student, load_bundle(tmp_path))


def test_teacher_is_saved_and_loaded(tmp_path: Path) -> None:
    for number, teacher in enumerate(
        [
            make_student(schedule=PruningSchedule((), ())),
            student_from_state_dict(timm_named_weights(make_student(img_size=(32, 32))), num_heads=3, prune_after=()),
        ]
    ):
        save_bundle(teacher, tmp_path / str(number))
        assert_same_model(teacher, load_bundle(tmp_path / str(number)))


def test_a_bundle_is_overwritten(tmp_path: Path) -> None:
    save_bundle(make_student(), tmp_path, label_names=["a", "b", "c"])
    other = make_student(depth=2)
    save_bundle(other, tmp_path)
    assert_same_model(other, load_bundle(tmp_path))
    assert read_bundle_record(tmp_path).label_names == ()


@torch.no_grad()
def test_digest_depends_on_everything_that_determines_a_code() -> None:
    student = make_student()
    first = weights_digest(student)
    assert weights_digest(make_student()) == first
    student.preprocessing = replace(student.preprocessing, crop_share=1.0)  # has its own digest
    assert weights_digest(student) == first
    for name, parameter in student.named_parameters():
        kept = parameter.flatten()[0].clone()
        parameter.view(-1)[0] += 1e-3
        assert weights_digest(student) != first, name
        parameter.view(-1)[0] = kept
    assert weights_digest(student) == first
    state = timm_named_weights(make_student(img_size=(32, 32)))
    digests = {
        weights_digest(student_from_state_dict(state, num_heads=heads, prune_after=after, keep_ratios=ratios))
        for heads, after, ratios in [(3, (1,), (0.5,)), (3, (2,), (0.5,)), (3, (1,), (0.6,)), (3, (), ()), (2, (1,), (0.5,))]
    }
    digests.add(
        weights_digest(student_from_state_dict(state, num_heads=3, prune_after=(1,), keep_ratios=(0.5,), hash_input="probabilities"))
    )
    assert len(digests) == 6


@pytest.mark.parametrize(
    "options",
    [
        {"label_names": ["a", "b"], "target_codes": np.ones((3, 10))},
        {"label_names": ["a", "b", "c"], "label_counts": np.ones(2)},
        {"target_codes": np.ones((3, 10)), "label_counts": np.ones(4)},
        {"target_codes": np.ones((3, 8))},
    ],
)
def test_inconsistent_records_are_refused_before_anything_is_written(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="disagree|8 bits for a student of 10"):
        save_bundle(make_student(), tmp_path / "bundle", **options)
    assert not (tmp_path / "bundle").exists()


def _change_record(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        values = json.loads((path / "model.json").read_text())
        change(values)
        (path / "model.json").write_text(json.dumps(values))

    return spoil


def _flip_a_bit_of_a_weight(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (path / "model.safetensors").write_bytes(data)


def _cut_weights_off(path: Path) -> None:
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-100])


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "one bit of a weight": (_flip_a_bit_of_a_weight, "is not what model.json describes"),
    "weights cut off": (_cut_weights_off, "cannot be read"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "cannot be read"),
    "schedule changed": (_change_record(lambda values: values.update(keep_ratios=[0.5, 0.9])), "is not what model.json describes"),
    "depth changed": (_change_record(lambda values: values["backbone_options"].update(depth=2)), "weights that this student lacks"),
    "newer version": (_change_record(lambda values: values.update(bundle_version=6)), "version 6; this program reads up to 5"),
    "version not a number": (_change_record(lambda values: values.update(bundle_version="1.0")), "is damaged: its bundle_version"),
    "field missing": (_change_record(lambda values: values.pop("preprocessing")), "preprocessing"),
    "digest missing": (_change_record(lambda values: values.pop("digest")), "digest"),
    "another json": (lambda path: (path / "model.json").write_text("[1, 2]"), "is damaged: Input should be an object"),
    "half a json": (lambda path: (path / "model.json").write_text('{"bundle_version": 1'), "is damaged: Invalid JSON"),
    "no record": (lambda path: (path / "model.json").unlink(), "is no model bundle.*eet distill"),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_damaged_bundles_are_refused(tmp_path: Path, fault: str) -> None:
    save_bundle(make_student(), tmp_path)
    spoil, message = SPOILED[fault]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_bundle(tmp_path)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(ValueError, match="is no model bundle"):
            load_bundle(path)
        with pytest.raises(ValueError, match="is no model bundle"):
            read_bundle_record(path)


def test_preprocessing_that_was_edited_is_refused(tmp_path: Path) -> None:
    """M8: galleries of the model would carry the old digest, and codes that differ would be compared."""
    save_bundle(make_student(), tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    values = json.loads(file.read_text())
    values["preprocessing"]["crop_share"] = 0.2
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="preprocessing in .*model.json was changed after it was written.*save it as a new bundle"):
        load_bundle(tmp_path / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    student = make_student()
    with torch.no_grad():
        student.trunk.blocks[1].mlp.fc1.weight[0, 0] = value
    save_bundle(student, tmp_path / "model", label_names=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"1 of the \d+ tensors .*fc1.weight, hold NaN or infinity"):
        load_bundle(tmp_path / "model")
