import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eet.figures import precision_recall_figure, save_png, training_curves_figure

RECALL = np.linspace(0, 1, 50)


def test_one_point_leaves_a_mark(tmp_path: Path) -> None:
    figure = training_curves_figure([{"epoch": 1, "loss": 1.0}], ["loss"], title="")
    save_png(figure, tmp_path / "one.png")
    pixels = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).astype(int)
    assert ((pixels[..., 2] - pixels[..., 0]) > 100).sum() > 20


def test_saved_png_has_its_size_in_inches_and_repeats_exactly(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_png(precision_recall_figure({"x": (RECALL, RECALL)}, title="t"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.info["dpi"][0] == pytest.approx(192, abs=0.1)
        assert image.width == 6 * 192


@pytest.mark.slow
def test_matplotlib_is_imported_when_drawing_only() -> None:
    code = "import sys, eet.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
