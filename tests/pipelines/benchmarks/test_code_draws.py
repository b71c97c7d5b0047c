"""Drawn codes have the clusters of the gallery that they follow."""

import numpy as np
import pytest

from eet.gallery import Manifest, open_gallery, part_table, write_manifest, write_part
from pipelines.benchmarks.code_draws import Clusters, draw_uniform


def gallery_of(path, codes_Nb, labels) -> str:
    rows = len(codes_Nb)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=16, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows
    )
    ids, codes = [str(row) for row in range(rows)], np.packbits(codes_Nb, axis=1)
    write_part(str(path), 0, part_table(ids, ids, labels, codes, ["ok"] * rows, [None] * rows, schema=manifest.schema))
    write_manifest(str(path), manifest)
    return str(path)


@pytest.mark.parametrize("labelled", [True, False])
def test_drawn_codes_have_a_gallerys_clusters_and_shares_of_ones(tmp_path, labelled):
    """Three items of one cluster to one of another; one bit is always on in the first, another in two of three."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 100])
    codes = np.zeros((400, 16), np.uint8)
    codes[:300, 0], codes[:300:3, 1], codes[1:300:3, 1] = 1, 1, 1
    codes[300:, 8:] = 1
    clusters = Clusters.of_gallery(open_gallery(gallery_of(tmp_path / "gallery", codes, labels if labelled else None)))
    drawn = np.unpackbits(clusters.draw(rng, 40_000), axis=1)
    first = drawn[:, 0] == 1
    assert abs(first.mean() - 0.75) < 0.02 and abs(drawn[first, 1].mean() - 2 / 3) < 0.02
    assert not drawn[first, 2:].any() and drawn[~first, 8:].all()
    assert labelled is False or clusters.flip_share == pytest.approx(0.75 / 3 / 16)


def test_steps_of_a_draw_fill_everything(monkeypatch):
    monkeypatch.setattr("pipelines.benchmarks.code_draws.CODES_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    drawn = Clusters.around_targets(rng, 64, 0.15).draw(rng, 40)
    assert drawn.shape == (40, 8) and len(np.unique(drawn, axis=0)) == 40
    assert draw_uniform(rng, 40, 24).shape == (40, 3)
