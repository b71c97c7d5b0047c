"""A folder for a hub is a bundle, and its card is what a hub reads."""

import json

import pytest

import eet
from eet.embedding import build_base, save_base
from eet.exports.hub_folder import write_hub_folder
from eet.gallery import read_model_record
from eet.vit import load_bundle, save_bundle


def test_the_folder_is_a_bundle_with_a_card(tiny_model, tmp_path):
    (source := tmp_path / "source").mkdir()
    record = read_model_record(tiny_model)
    student = load_bundle(tiny_model)
    test = {"published": {"mAP": 0.75, "P@1": None}, "encoded": {"mAP": 0.5}}
    save_bundle(student, source, label_names=record.label_names, training={"images": 32, "epochs": 3, "test": test})
    (source / "checkpoints").mkdir()
    (source / "config.yaml").write_text("out: /home/somebody/runs\n")
    (target := tmp_path / "target").mkdir()
    said = write_hub_folder(str(source), target, "birds-16")
    assert said.startswith("16 bits, ")
    assert {path.name for path in target.iterdir()} == {"model.safetensors", "model.json", "config.json", "README.md"}
    assert read_model_record(target).digest == record.digest and load_bundle(target).num_bits == 16
    config = json.loads((target / "config.json").read_text())
    assert config["num_parameters"] == sum(value.numel() for value in student.parameters())
    assert (config["num_bits"], config["image_size"], config["prune_after"]) == (16, [48, 48], [1, 2, 3])
    card = (target / "README.md").read_text()
    assert "| published | 0.75 |  |" in card and "| encoded | 0.5 |  |" in card
    assert "| Training images | 32 |" in card and "| Patches kept | 0.5 of them after block 1, " in card
    assert str(tmp_path) not in card + (target / "model.json").read_text()


def test_a_hub_reads_the_head_of_the_card(tiny_model, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    write_hub_folder(str(tiny_model), tmp_path, "birds-16")
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("eet", "image-feature-extraction") and "image-retrieval" in data.tags


def test_a_base_model_has_its_own_facts(tmp_path):
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    base = build_base("vit_tiny_patch16_224", embedding_width=8, image_size=(112, 112), weights="none", backbone_options=small)
    save_base(base, tmp_path / "base")
    (target := tmp_path / "target").mkdir()
    write_hub_folder(str(tmp_path / "base"), target, "places")
    assert "base model, for re-ranking and for places" in (target / "README.md").read_text()
    assert json.loads((target / "config.json").read_text())["aggregation"] == "vector"
    assert eet.load_model(target).num_bits == 8
