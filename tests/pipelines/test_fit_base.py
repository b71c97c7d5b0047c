"""`eet fit-base` on drawn birds: the bundle that it writes encodes galleries."""

import pytest

from eet.gallery import load_model, open_gallery, read_model_record
from pipelines.cli import main

VIT = "{patch_size: 4, embed_dim: 24, depth: 3, num_heads: 3}"
SMALL = ["--backbone", "deit_tiny_patch16_224", "--backbone-options", VIT, "--image-size", "[28,40]", "--weights", "none"]
SMALL += ["--tokens-from-block", "2"]


@pytest.mark.slow
def test_its_bundle_encodes_embeddings_of_its_width_and_codes_of_its_bits(tiny_birds, tmp_path, capsys):
    model, gallery = str(tmp_path / "vlad"), str(tmp_path / "gallery")
    command = ["fit-base", "--images", str(tiny_birds), *SMALL, "--aggregation-options", "{words: 3}", "--width", "8", "--bits", "16"]
    assert main([*command, "--out", model, "--dry-run"]) == 0 and not (tmp_path / "vlad").exists()
    assert main([*command, "--out", model]) == 0
    fitted = load_model(model)
    assert (fitted.embedding_width, fitted.num_bits, fitted.preprocessing.fit) == (8, 16, "squash")
    assert fitted.preprocessing.image_size == (28, 40) and fitted.backbone.grid == (7, 10)
    assert read_model_record(model).num_bits == 16
    assert main(["encode", "--model", model, "--images", str(tiny_birds), "--embedding", "--tokens", "--hash", "--out", gallery]) == 0
    manifest = open_gallery(gallery).manifest
    assert (manifest.num_bits, manifest.embedding_dim, tuple(manifest.token_shape)) == (16, 8, (49, 24))
    assert "embedding 8 wide, codes of 16 bits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--aggregation", "salad"], "--aggregation salad: allowed are vector, gem, vlad, netvlad; salad needs training"),
        (["--whitening", "0.5"], "--whitening 0.5 whitens nothing: give --width too"),
        (["--whitening", "2", "--width", "4"], "--whitening 2.0: use 0 (PCA alone) to 1"),
        (["--image-size", "[480,9]"], "--image-size [480, 9]: use 16 to 8192 pixels"),
        (["--image-size", "[480]"], "--image-size [480]: use a whole number or a list of 2 whole numbers"),
        (["--bits", "0"], "--bits 0: use 1 to"),
        (["--tokens-from-block", "0"], "--tokens-from-block 0: use 1 or more"),
        (["--role", "query"], "--role is of --data.*"),
        (["--subtask", "d2n"], "with --data.name msls"),
    ],
)
def test_impossible_options_are_refused_before_anything_starts(flags, said, tmp_path, capsys):
    assert main(["fit-base", "--images", str(tmp_path), "--out", str(tmp_path / "x"), *flags]) == 2
    assert said in capsys.readouterr().err
