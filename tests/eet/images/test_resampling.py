import numpy as np
import pytest
import torch
from PIL import Image

from eet.images.resampling import resample

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("interpolation", sorted(PILLOW))
@pytest.mark.parametrize(
    ("image", "box", "size"),
    [
        ((301, 203), (10.3, 5.7, 200.1, 199.9), (64, 48)),  # made smaller, fractions of pixels
        ((301, 203), (0, 0, 301, 203), (224, 224)),  # nearly as it is, sides in another ratio
        ((1000, 700), (0, 0, 1000, 700), (64, 64)),
        ((50, 40), (3.2, 1.1, 45.5, 38.8), (224, 224)),  # enlarged
        ((10, 10), (0.625, 0.625, 9.375, 9.375), (64, 64)),
        ((900, 3), (200, 0, 700, 3), (32, 32)),
        ((1, 1), (0, 0, 1, 1), (16, 16)),
    ],
)
def test_it_is_pillows_resize(image, box, size, interpolation, device):
    pixels_HW3 = noise(*image)
    view = resample(torch.from_numpy(pixels_HW3).movedim(-1, 0).to(device), box, size, interpolation)
    assert view.dtype == torch.uint8 and view.device.type == device and tuple(view.shape) == (*size, 3)
    expected = np.asarray(Image.fromarray(pixels_HW3).resize(size[::-1], PILLOW[interpolation], box=box)).astype(int)
    difference = np.abs(view.cpu().numpy().astype(int) - expected)
    # Pillow's weights are whole numbers of 2**-22: a value half between two levels may fall on the other side.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_bright_edges_do_not_wrap_around():
    """The cubic kernel reaches beyond 0 and 255 near an edge."""
    pixels_HW3 = np.zeros((40, 40, 3), np.uint8)
    pixels_HW3[:, 20:] = 255
    view = resample(torch.from_numpy(pixels_HW3).movedim(-1, 0), (0, 0, 40, 40), (160, 160), "bicubic").numpy()
    assert (view[:, :60] <= 40).all() and (view[:, 100:] >= 215).all()
