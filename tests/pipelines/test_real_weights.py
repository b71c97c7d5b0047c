"""With ImageNet weights and real images of birds: what random weights and drawn images cannot show."""

import csv
from pathlib import Path

import pytest
from local_training import trained_here

from eet.datasets import synthetic
from eet.gallery import open_gallery
from eet.metrics import encoded_protocol
from eet.retrieval.mask_shares import mask_shares
from eet.vit import PruningSchedule, build_student, save_bundle
from pipelines import distill, encode
from pipelines.job.options import DataOptions, StudentOptions, TrainOptions

pytestmark = [pytest.mark.shared, pytest.mark.timeout(300), pytest.mark.slow]

BACKBONE = "deit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(shared) -> str:
    file = shared / "weights" / f"{BACKBONE}.safetensors"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    return str(file)


@pytest.fixture(scope="module")
def birds(shared, tmp_path_factory) -> DataOptions:
    """Real images of three species: 45 training and 44 test images."""
    root = shared / "data" / "cub200_2010"
    if not (root / "split.csv").is_file():
        pytest.skip(f"{root} is not there")
    with (root / "split.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["label"]) in (0, 16, 35)]
    table = tmp_path_factory.mktemp("birds") / "three.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return DataOptions(name="table", root=str(root), table=str(table))


def test_the_tokens_kept_of_an_image_lie_on_the_creature(weights, tmp_path):
    """Pruning by content finds the bird before it has been taught one: half as much again of it is kept as there is."""
    root = tmp_path / "drawn"
    synthetic.write(root, num_labels=4, images_per_label=6, test_per_label=0, image_size=224)
    student = build_student(
        BACKBONE, num_classes=4, num_bits=16, schedule=PruningSchedule((4, 8, 10), (0.5, 0.5, 0.25)), weights=weights, seed=0
    )
    save_bundle(student, tmp_path / "model")
    data = DataOptions(name="synthetic", root=str(root))
    out = str(tmp_path / "gallery")
    encode.run(encode.EncodeConfig(model=str(tmp_path / "model"), data=data, out=out, tokens=True, engine="local"))
    shares = mask_shares(open_gallery(out), lambda item_id: synthetic.read_mask(root, item_id), student.grid)
    assert shares["last_stage"] > 1.5 * shares["image"], shares


def test_a_student_learns_real_birds_in_a_few_steps(ray_session, weights, birds, tmp_path):
    out = tmp_path / "model"
    train = TrainOptions(
        recipe="published",
        epochs=3,
        batch_size=15,
        optimizer="adamw",
        learning_rate=1e-4,
        head_learning_rate=2e-3,
        validation_share=0,
        cpus_per_worker=2,
    )
    student = StudentOptions(backbone=BACKBONE, bits=16)
    with trained_here():
        result = distill.run(distill.DistillConfig(out=str(out), weights=weights, data=birds, student=student, train=train))
    assert result.history[-1]["classification"] < 0.8 * result.history[0]["classification"]

    before = build_student(BACKBONE, num_classes=3, num_bits=16, schedule=PruningSchedule((4, 8, 10), (0.5, 0.5, 0.25)), weights=weights)
    save_bundle(before, tmp_path / "before")
    maps = {}
    for name in ("before", "model"):
        gallery = str(tmp_path / f"gallery_{name}")
        encode.run(encode.EncodeConfig(model=str(tmp_path / name), data=birds, split="test", out=gallery, engine="local"))
        codes, _ = open_gallery(gallery).codes()
        maps[name] = encoded_protocol(codes, open_gallery(gallery).labels(), num_bits=16)["mAP"]
    assert maps["model"] > maps["before"] + 0.1, maps
    assert result.test["student"]["encoded"]["mAP"] == pytest.approx(maps["model"], abs=1e-6)
    assert Path(out, "teacher", "model.json").is_file()
