"""How much of images and kept tokens lies on an object."""

import numpy as np
import pytest

from eet.gallery import Manifest, open_gallery, part_table, write_manifest, write_part
from eet.retrieval.mask_shares import mask_shares


def test_shares_by_a_hand_made_mask(tmp_path):
    """A creature on the left half of one image and the top left quarter of another; tokens in known places of a 6 x 6 grid."""
    masks = np.zeros((2, 96, 96), bool)
    masks[0, :, :48] = True
    masks[1, :48, :48] = True
    ids = ["a.png", "b.png"]
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
    shares = mask_shares(open_gallery(str(tmp_path / "gallery")), dict(zip(ids, masks, strict=True)).__getitem__, (6, 6))
    assert shares["image"] == pytest.approx((1 / 2 + 1 / 4) / 2, abs=0.01)
    assert shares["last_stage"] == pytest.approx((2 / 4 + 2 / 4) / 2, abs=0.02)
