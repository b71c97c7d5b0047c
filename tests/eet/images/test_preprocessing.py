import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from eet.images import DecodeFailure, Preprocessing, decode, read_image
from eet.images.preprocessing import random_box
from eet.options.defaults import PUBLISHED_MIN_CROP_AREA

PUBLISHED = Preprocessing.published()


def smooth_image(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(3 * x + 1.5 * y), np.cos(2 * x - 4 * y), np.sin(5 * x * y + 1)]
    return Image.fromarray(np.rint(127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))


def noisy_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (1200, 300), (180, 240)])
def test_published_form_is_resize_256_and_centre_crop_224(size: tuple[int, int]) -> None:
    torchvision_form = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(Preprocessing.IMAGENET_MEAN, Preprocessing.IMAGENET_STD),
        ]
    )
    image = smooth_image(*size)
    mine, published = PUBLISHED(image), torchvision_form(image)
    assert mine.shape == published.shape == (3, 224, 224) and mine.dtype == torch.float32 and mine.is_contiguous()
    # A level of 255 is 0.017; torchvision rounds its box to whole pixels, this one is exact.
    assert (mine - published).abs().mean() < 0.012
    assert (mine - published).abs().max() < 0.09


@pytest.mark.parametrize(
    ("image_size", "crop_share", "image", "box"),
    [
        ((224, 224), 0.875, (512, 256), (144.0, 16.0, 368.0, 240.0)),
        ((224, 224), 0.875, (256, 512), (16.0, 144.0, 240.0, 368.0)),
        ((224, 224), 1.0, (300, 200), (50.0, 0.0, 250.0, 200.0)),
        ((100, 200), 1.0, (400, 400), (0.0, 100.0, 400.0, 300.0)),  # input wider than the image: height gives way
        ((200, 100), 0.5, (400, 400), (150.0, 100.0, 250.0, 300.0)),
        ((64, 64), 0.875, (10, 10), (0.625, 0.625, 9.375, 9.375)),
    ],
)
def test_box_by_numbers(
    image_size: tuple[int, int], crop_share: float, image: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    preprocessing = replace(PUBLISHED, image_size=image_size, crop_share=crop_share)
    assert preprocessing.centred_box(*image) == pytest.approx(box)


def test_input_is_height_by_width() -> None:
    preprocessing = replace(PUBLISHED, image_size=(40, 72))
    image = smooth_image(100, 90)
    assert preprocessing.view(image).size == (72, 40)
    assert preprocessing(image).shape == preprocessing.augment(image, np.random.default_rng(0)).shape == (3, 40, 72)


def test_pixels_are_normalised_one_by_one() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    got = PUBLISHED.normalise(pixels)
    for c in range(3):
        for y in range(4):
            for x in range(6):
                expected = (pixels[y, x, c] / 255 - PUBLISHED.mean[c]) / PUBLISHED.std[c]
                assert got[c, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_call_normalises_what_view_shows() -> None:
    image = noisy_image(90, 70)
    small = replace(PUBLISHED, image_size=(32, 32))
    assert torch.equal(small(image), small.normalise(np.array(small.view(image))))


def test_a_batch_is_normalised_as_its_images_are() -> None:
    """Bit for bit: a code must not depend on how images came together."""
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    batch = PUBLISHED.normalise(torch.from_numpy(images))
    assert batch.shape == (3, 3, 5, 7) and batch.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values).mul_(255).view(3, 1, 1) for values in (PUBLISHED.mean, PUBLISHED.std))
    for got, image in zip(batch, images, strict=True):
        assert torch.equal(got, PUBLISHED.normalise(image))
        assert torch.equal(got, torch.from_numpy(image).permute(2, 0, 1).float().sub_(mean).mul_(std.reciprocal()))


def test_interpolation_is_the_one_named() -> None:
    image, box = noisy_image(90, 70), replace(PUBLISHED, image_size=(32, 32)).centred_box(90, 70)
    for name, pillows in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        view = replace(PUBLISHED, image_size=(32, 32), interpolation=name).view(image)
        np.testing.assert_array_equal(np.asarray(view), np.asarray(image.resize((32, 32), pillows, box=box)))


def images_of_every_mode() -> list[Image.Image]:
    colour = smooth_image(60, 44)
    grey16 = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    clear = colour.copy()
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (44, 1))))
    keyed = colour.quantize(8)
    keyed.info["transparency"] = 0
    turned = colour.copy()
    turned.getexif()[0x0112] = 6
    modes = [colour.convert(mode) for mode in ("1", "L", "LA", "P", "CMYK", "YCbCr", "RGBA", "I", "F")]
    return [*modes, grey16, clear, clear.convert("LA"), keyed, turned]


@pytest.mark.parametrize("image", images_of_every_mode(), ids=lambda image: image.mode)
def test_an_image_of_any_mode_is_seen_as_decoding_gives_it(image: Image.Image) -> None:
    small = replace(PUBLISHED, image_size=(32, 24))
    kind = "TIFF" if image.mode in ("CMYK", "YCbCr", "I", "F") else "PNG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"exif": image.getexif()} if image.getexif() else {}))
    decoded = decode(buffer.getvalue())
    assert isinstance(decoded, Image.Image)
    assert torch.equal(small(image), small(decoded)) and small(image).shape == (3, 32, 24)
    views = [small.augment(one, np.random.default_rng(3)) for one in (image, decoded)]
    assert torch.equal(*views) and views[0].shape == (3, 32, 24)
    np.testing.assert_array_equal(np.asarray(small.view(image)), np.asarray(small.view(decoded)))


@pytest.mark.parametrize("width", [1019, 1021, 1033])
def test_the_box_of_a_whole_image_stays_inside_it(width: int) -> None:
    whole = replace(PUBLISHED, crop_share=1.0)
    left, top, right, bottom = whole.centred_box(width, 2000)
    assert left >= 0 and right <= width
    assert whole.view(Image.new("RGB", (width, 2000))).size == (224, 224)  # Pillow refuses a box that reaches beyond by any amount


# ---- from a file


@pytest.mark.parametrize(
    ("oversampling", "image_size", "crop_share", "least"),
    [
        (2.0, (224, 224), 0.875, (512, 512)),
        (1.5, (100, 200), 1.0, (300, 150)),
        (1.0, (224, 224), 0.9, (249, 249)),
        (None, (9, 9), 0.5, None),
    ],
)
def test_least_size_by_numbers(
    oversampling: float | None, image_size: tuple[int, int], crop_share: float, least: tuple[int, int] | None
) -> None:
    assert replace(PUBLISHED, image_size=image_size, crop_share=crop_share, least_oversampling=oversampling).least_size == least


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_decode_moves_the_input_by_little(orientation: int, tmp_path: Path) -> None:
    """Sizes that no reduction divides, where a view measured from the reduced image's corner would be shifted."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    y, x = np.mgrid[0:603, 0:1101]
    image = Image.fromarray(np.rint(127 + 120 * np.stack([np.sin(x / 9), np.sin(y / 9), np.sin((x + y) / 12)], -1)).astype(np.uint8))
    image.save(tmp_path / "waves.jpg", quality=95, exif=exif)
    small = replace(PUBLISHED, image_size=(64, 64))
    seen, whole = (
        np.asarray(each.read(str(tmp_path / "waves.jpg"))).astype(int) for each in (small, replace(small, least_oversampling=None))
    )
    assert (seen != whole).any(), "nothing was reduced"
    assert np.abs(seen - whole).max() <= 8 and np.abs(seen - whole).mean() < 2


def test_without_reduction_what_is_read_is_the_view_of_the_whole_image(tmp_path: Path) -> None:
    smooth_image(900, 700).save(tmp_path / "large.jpg")
    smooth_image(900, 700).save(tmp_path / "large.png")
    small = replace(PUBLISHED, image_size=(32, 32))
    for name, preprocessing in (("large.jpg", replace(small, least_oversampling=None)), ("large.png", small)):
        image = read_image(str(tmp_path / name))
        assert isinstance(image, Image.Image)
        np.testing.assert_array_equal(np.asarray(preprocessing.read(str(tmp_path / name))), np.asarray(preprocessing.view(image)))


def test_what_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    smooth_image(90, 70).save(tmp_path / "image.jpg")
    refused = PUBLISHED.read(str(tmp_path / "image.jpg"), max_pixels=6299)
    assert isinstance(refused, DecodeFailure) and refused.status == "too-large"
    missing = PUBLISHED.read(str(tmp_path / "absent.jpg"))
    assert isinstance(missing, DecodeFailure) and missing.status == "missing"


# ---- training form


def test_augmentation_is_decided_by_its_generator_alone() -> None:
    small, image = replace(PUBLISHED, image_size=(32, 32)), noisy_image(90, 70)
    np.random.seed(0)
    first = small.augment(image, np.random.default_rng([7, 1, 3]))
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(small.augment(image, np.random.default_rng([7, 1, 3])), first)
    assert not torch.equal(small.augment(image, np.random.default_rng([7, 2, 3])), first)


def test_half_of_the_views_are_mirrored_and_all_lie_in_range() -> None:
    small = replace(PUBLISHED, image_size=(16, 16))
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (60, 1, 3)))  # brighter to the right
    random, mirrored = np.random.default_rng(0), 0
    low = torch.tensor([(0 - m) / s for m, s in zip(small.mean, small.std, strict=True)]).view(3, 1, 1)
    high = torch.tensor([(1 - m) / s for m, s in zip(small.mean, small.std, strict=True)]).view(3, 1, 1)
    for _ in range(400):
        view = small.augment(ramp, random)
        assert (view >= low - 1e-5).all() and (view <= high + 1e-5).all()
        mirrored += int(view[0, 0, 0] > view[0, 0, -1])
        unmirrored = small.augment(ramp, random, flip=False)
        assert unmirrored[0, 0, 0] < unmirrored[0, 0, -1]
    assert 160 < mirrored < 240


@pytest.mark.parametrize("min_area", [PUBLISHED_MIN_CROP_AREA, 0.5])
@pytest.mark.parametrize("size", [(500, 375), (90, 100), (37, 41)])
def test_random_boxes_have_the_areas_and_shapes_asked_for(size: tuple[int, int], min_area: float) -> None:
    random, shares, aspects, lefts = np.random.default_rng(0), [], [], []
    width, height = size
    for _ in range(1000):
        left, top, right, bottom = random_box(width, height, random, min_area)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (width * height))
        aspects.append((right - left) / (bottom - top))
        lefts.append(left / max(width - (right - left), 1))
    rounding = 2 / (0.25 * min(size))  # of a side of the smallest boxes
    assert min_area - rounding < min(shares) < min_area + 0.04 and max(shares) > 0.9
    assert 0.75 - rounding < min(aspects) < 0.8 and 1.25 < max(aspects) < 4 / 3 + rounding
    assert min(lefts) < 0.05 and max(lefts) > 0.95 and 0.45 < float(np.mean(lefts)) < 0.55


def test_published_crops_are_the_default_and_larger_ones_can_be_had() -> None:
    assert PUBLISHED_MIN_CROP_AREA == 0.08
    small = replace(PUBLISHED, image_size=(16, 16))
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3)))

    def least_width(**options: Any) -> float:
        random = np.random.default_rng(0)
        views = [small.augment(ramp, random, **options)[0] for _ in range(300)]
        return min(float((view[0, 0] - view[0, -1]).abs()) for view in views) * small.std[0] * 255

    # A square image whose red counts its columns: of a crop of area a, 15/16 of sqrt(a x 3/4) x 200 columns lie between the outer pixels.
    assert 25 < least_width() < 70
    assert least_width(min_crop_area=0.5) > 100
    assert least_width(min_crop_area=1.0) > 150


@pytest.mark.parametrize(
    ("size", "box"), [((1000, 10), (1000 / 2 - 20 / 3, 0, 1000 / 2 + 20 / 3, 10)), ((10, 1000), (0, 500 - 20 / 3, 10, 500 + 20 / 3))]
)
def test_very_long_images_fall_back_to_the_middle(size: tuple[int, int], box: tuple[float, ...]) -> None:
    assert random_box(*size, np.random.default_rng(0), PUBLISHED_MIN_CROP_AREA) == pytest.approx(box)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 50)])
def test_tiny_images_have_a_view(size: tuple[int, int]) -> None:
    small, image = replace(PUBLISHED, image_size=(16, 16)), noisy_image(*size)
    for seed in range(20):
        assert torch.isfinite(small.augment(image, np.random.default_rng(seed))).all()
    assert torch.isfinite(small(image)).all()


# ---- the record


def test_record_goes_to_plain_values_and_back() -> None:
    preprocessing = Preprocessing((40, 72), 0.95, "bicubic", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    again = Preprocessing.from_dict(preprocessing.to_dict())
    assert again == preprocessing and again.digest == preprocessing.digest
    assert preprocessing.to_dict()["image_size"] == [40, 72]


CHANGES: list[dict[str, Any]] = [
    {"image_size": (224, 256)},
    {"crop_share": 0.9},
    {"interpolation": "bicubic"},
    {"mean": (0.485, 0.456, 0.4061)},
    {"std": (0.229, 0.224, 0.2251)},
    {"least_oversampling": 3.0},
]
SQUASHED = PUBLISHED.with_fit("squash")


def test_digest_changes_with_every_field() -> None:
    digests = {replace(PUBLISHED, **change).digest for change in CHANGES} | {PUBLISHED.digest}
    assert len(digests) == 1 + len(CHANGES) == 1 + len(PUBLISHED.to_dict())
    assert SQUASHED.digest != replace(PUBLISHED, crop_share=1.0).digest and "fit" not in PUBLISHED.to_dict()
    assert Preprocessing.from_dict(SQUASHED.to_dict()) == SQUASHED and SQUASHED.with_fit("crop") == PUBLISHED
    assert Preprocessing.published().digest == PUBLISHED.digest


def test_published_takes_what_timm_gives() -> None:
    preprocessing = Preprocessing.published((48, 80), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert preprocessing == Preprocessing((48, 80), 0.875, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"interpolation": "nearest"}, r"use one of \['bicubic', 'bilinear'\]"),
        ({"crop_share": 0.0}, r"\(0, 1\]"),
        ({"crop_share": 1.01}, r"\(0, 1\]"),
        ({"crop_share": float("nan")}, r"\(0, 1\]"),
        ({"image_size": (0, 224)}, "positive"),
        ({"std": (0.2, 0.0, 0.2)}, "positive"),
        ({"least_oversampling": 0.9}, "1 or more"),
        ({"fit": "pad"}, "use one of crop, squash"),
        ({"fit": "squash"}, "crop_share 0.875 of an image that is squashed"),
        ({"least_oversampling": float("nan")}, "1 or more"),
    ],
)
def test_impossible_records_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(PUBLISHED, **change)


@pytest.mark.parametrize("size", [(512, 288), (200, 300), (224, 224)])
def test_a_squashed_image_is_seen_whole(size: tuple[int, int]) -> None:
    image = smooth_image(*size)
    assert np.array_equal(SQUASHED.view(image), image.resize((224, 224), Image.Resampling.BILINEAR))
    on_device = SQUASHED.view_on_device(torch.from_numpy(np.array(image)).movedim(-1, 0))
    assert (on_device.int() - torch.from_numpy(np.array(SQUASHED.view(image))).int()).abs().max() <= 1


def test_training_squeezes_as_evaluation_does() -> None:
    """A crop of nearly all of an image is nearly the whole of it; without a squeeze it would be a square of it."""
    image = Image.fromarray(np.repeat(np.linspace(0, 255, 512).astype(np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2))
    for preprocessing, widest in ((SQUASHED, True), (PUBLISHED, False)):
        view = preprocessing.augment(image, np.random.default_rng(2), min_crop_area=0.97)
        spread = (view.amax() - view.amin()) * preprocessing.std[0]
        assert (spread > 0.9) == widest


@pytest.mark.parametrize("image_size", [(48, 64), (20, 90), (90, 20)])
def test_whole_images_are_shown_in_training_to_inputs_of_any_shape(image_size: tuple[int, int]) -> None:
    """`min_crop_area` 1 leaves no random crop, and the largest box of the input's shape is the whole squeezed image."""
    squashed, image = replace(SQUASHED, image_size=image_size), smooth_image(160, 90)
    view = squashed.augment(image, np.random.default_rng(0), min_crop_area=1.0, flip=False)
    assert (view - squashed(image)).abs().max() < 0.1 / min(squashed.std)


@pytest.mark.parametrize("aspect", [4 / 3, 0.5])
def test_random_boxes_have_shapes_around_that_of_the_input(aspect: float) -> None:
    random = np.random.default_rng(0)
    boxes = np.array([random_box(400, 300, random, PUBLISHED_MIN_CROP_AREA, aspect=aspect) for _ in range(1000)])
    aspects = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]) / aspect
    assert 0.72 < aspects.min() < 0.8 and 1.25 < aspects.max() < 1.37
    square = random_box(400, 300, np.random.default_rng(1), PUBLISHED_MIN_CROP_AREA)
    assert square == random_box(400, 300, np.random.default_rng(1), PUBLISHED_MIN_CROP_AREA, aspect=1.0)


def test_a_record_without_reduction_is_the_one_there_was_before_it_could_be_said() -> None:
    whole = replace(PUBLISHED, least_oversampling=None)
    assert "least_oversampling" not in whole.to_dict() and Preprocessing.from_dict(whole.to_dict()) == whole
    assert whole.digest == "31ac44a1699e23ea4c3f7351adb5b7c5263870ab541605a4075a8218dd585909"  # of bundles of versions 1 and 2


@pytest.mark.parametrize("spoil", [{"crop": 1.0}, None])
def test_records_with_other_fields_are_refused(spoil: dict[str, Any] | None) -> None:
    values = PUBLISHED.to_dict()
    if spoil is None:
        del values["mean"]
    else:
        values.update(spoil)
    with pytest.raises(ValueError, match="cannot be read"):
        Preprocessing.from_dict(values)
