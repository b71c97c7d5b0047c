"""Matched regions of inputs that are not square lie on the image where the same pixels are, from encoding to the drawn panel."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import eet
from eet.embedding import build_base
from eet.gallery import Gallery, GalleryModel
from eet.retrieval.matches import match_blocks
from eet.retrieval.regions import ImageTokens, Transport, matched_regions, region_columns
from eet.vit import PruningSchedule, Student, build_student

VIT = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
HEIGHT, WIDTH = 28, 56
PLACES = [(48, 4), (8, 16)]
"""(left, top) of the same 8 x 8 pixels in the two images: whole patches of 4 x 4, and whole cells of 4 x 8 (height x width)."""


def base_model() -> GalleryModel:
    return build_base(
        "deit_tiny_patch16_224", embedding_width=None, image_size=(HEIGHT, WIDTH), weights="none", backbone_options=VIT, fit="squash"
    )


def student() -> GalleryModel:
    return build_student(
        "deit_tiny_patch16_224", num_classes=2, num_bits=8, schedule=PruningSchedule((1,), (0.95,)), image_size=(HEIGHT, WIDTH),
        weights="none", backbone_options=VIT, fit="squash",
    )  # fmt: skip


def model_of_narrow_embeddings() -> GalleryModel:
    """Its embedding is no vector in the space of the tokens, as with VLAD, NetVLAD and SALAD."""
    return build_base(
        "deit_tiny_patch16_224", embedding_width=6, image_size=(HEIGHT, WIDTH), weights="none", backbone_options=VIT, fit="squash",
        aggregation="netvlad", aggregation_options={"words": 2},
    )  # fmt: skip


@pytest.fixture(params=[base_model, student, model_of_narrow_embeddings])
def model(request) -> GalleryModel:
    """A network whose patches depend on their own pixels alone, so that only equal pixels are equal tokens."""
    made = request.param().eval()
    trunk = made.trunk if isinstance(made, Student) else made.backbone.trunk
    with torch.no_grad():
        trunk.pos_embed.zero_()
        for block in trunk.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    return made


@pytest.fixture
def gallery(model, tmp_path) -> Gallery:
    paths = []
    for number, (left, top) in enumerate(PLACES):
        pixels = np.random.default_rng(number).integers(100, 156, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[top : top + 8, left : left + 8] = np.random.default_rng(9).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return eet.encode(model, paths, tokens=True, embedding=True)


def cells(place: tuple[int, int], grid: tuple[int, int]) -> list[int]:
    """Positions, row by row, of the cells that lie in the 8 x 8 pixels."""
    (left, top), (rows, columns) = place, grid
    height, width = HEIGHT // rows, WIDTH // columns
    return [
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if top <= row * height < top + 8 and left <= column * width < left + 8
    ]


@pytest.mark.parametrize("marginal", ["uniform", "inverse"])
def test_the_strongest_matches_join_the_same_pixels(marginal, model, gallery):
    ids = sorted(gallery.table(["item_id"])["item_id"].to_pylist())
    sides = [ImageTokens.of_row(gallery.rows([item], region_columns(gallery.manifest)), gallery.manifest) for item in ids]
    found = matched_regions(sides[0], sides[1], Transport(marginal=marginal), grid=model.grid, count=2)
    pairs = dict(zip(cells(PLACES[0], model.grid), cells(PLACES[1], model.grid), strict=True))
    assert len(pairs) == (4 if isinstance(model, Student) else 2)
    assert len(found.lines) == 2 and all(pairs.get(line.query) == line.item for line in found.lines)


def test_panels_have_the_shape_of_the_input(model, gallery):
    ids = sorted(gallery.table(["item_id"])["item_id"].to_pylist())
    hit = {"query_id": ids[0], "item_id": ids[1], "rank": 1, "score_global": 0.5, "score_struct": 0.4}
    (block,) = match_blocks(model, pa.Table.from_pylist([hit]), ids[:1], gallery, gallery)
    gap = 224 // 8
    assert block.image.width == 3 * gap + 2 * 224 and block.image.height >= gap + 224 * HEIGHT // WIDTH
    assert block.image.height < gap + 224
