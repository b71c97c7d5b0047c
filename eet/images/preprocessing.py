"""From a decoded image to the input of the network, for evaluation and for training; and the record of how this is done."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eet.errors import InputError
from eet.images.decoding import DEFAULT_MAX_PIXELS, DecodeFailure, as_shown, decode_reduced, read_file
from eet.images.resampling import resample
from eet.options.choices import Fit
from eet.options.defaults import PUBLISHED_MIN_CROP_AREA

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input of the network; stored with the model.

    Calling it turns a PIL image of any mode into a float32 tensor (3, height, width). The image is first converted to upright RGB, as by
    `eet.images.decode`. Two models whose records have the same digest take the same inputs.

    Attributes:
        image_size: (height, width) of the input in pixels.
        crop_share: in (0, 1]. The network sees this share, along each side, of the largest centred box with the input's aspect ratio. The
            published Resize(256) + CenterCrop(224) has 224/256 = 0.875.
        interpolation: 'bilinear' (published) or 'bicubic'.
        mean: per channel, for values in 0 .. 1.
        std: per channel, for values in 0 .. 1, above 0.
        least_oversampling: at least 1. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if this many of its pixels or more remain for
            each pixel of the input, along a side. None decodes all images at full size.
        fit: 'crop' (published), or 'squash': the network sees the whole image, squeezed to the input's aspect ratio; crop_share is 1 then.
            At the edges of an image of a place is much of what distinguishes it from others.

    Raises:
        InputError: a value is out of range.
    """

    image_size: tuple[int, int]
    crop_share: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    least_oversampling: float | None = None
    fit: Fit = "crop"

    IMAGENET_MEAN: ClassVar[tuple[float, float, float]] = (0.485, 0.456, 0.406)
    IMAGENET_STD: ClassVar[tuple[float, float, float]] = (0.229, 0.224, 0.225)
    PUBLISHED_CROP_SHARE: ClassVar[float] = 224 / 256
    LEAST_OVERSAMPLING: ClassVar[float] = 2.0  # at 3 half the difference and twice the time; at 1 four times the difference

    def __post_init__(self) -> None:
        if self.interpolation not in _FILTERS:
            raise InputError(f"interpolation {self.interpolation!r}: use one of {sorted(_FILTERS)}")
        if not 0 < self.crop_share <= 1:
            raise InputError(f"crop_share {self.crop_share}: must be in (0, 1]")
        if min(self.image_size) < 1 or min(self.std) <= 0:
            raise InputError(f"image_size {self.image_size} and std {self.std} must be positive")
        if self.fit not in get_args(Fit):
            raise InputError(f"fit {self.fit!r}: use one of {', '.join(get_args(Fit))}")
        if self.fit == "squash" and self.crop_share != 1:
            raise InputError(f"crop_share {self.crop_share} of an image that is squashed: use 1, as nothing is cut off")
        if self.least_oversampling is not None and not self.least_oversampling >= 1:
            raise InputError(f"least_oversampling {self.least_oversampling}: use 1 or more, or None to decode at full size")

    @classmethod
    def published(
        cls,
        image_size: tuple[int, int] = (224, 224),
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> "Preprocessing":
        """The published evaluation preprocessing, Resize(256) + CenterCrop(224), for any input size.

        Unlike the published code, large JPEGs are decoded at a reduced scale, which changes the input by less than one level of 255 on
        average (docs/benchmarks.md).
        """
        height, width = image_size
        red, green, blue = (float(value) for value in mean)
        std_red, std_green, std_blue = (float(value) for value in std)
        return cls(
            (int(height), int(width)),
            cls.PUBLISHED_CROP_SHARE,
            "bilinear",
            (red, green, blue),
            (std_red, std_green, std_blue),
            cls.LEAST_OVERSAMPLING,
        )

    def with_fit(self, fit: Fit) -> "Preprocessing":
        """This record with another fit: 'squash' shows the whole image, 'crop' is as published."""
        return self if fit == self.fit else replace(self, fit=fit, crop_share=1.0 if fit == "squash" else self.PUBLISHED_CROP_SHARE)

    @property
    def digest(self) -> str:
        """sha256 of the record; it changes with every change that affects inputs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values.

        Fields of None, and the fit 'crop', are left out, so that new fields do not change the digest of old records.
        """
        known = {name: value for name, value in asdict(self).items() if value is not None and (name, value) != ("fit", "crop")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The record from the values of `to_dict`. InputError where a field is missing or unknown."""
        try:
            fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            return cls(**fields)
        except TypeError as error:
            raise InputError(f"preprocessing record {dict(values)} cannot be read: {error}") from error

    @property
    def least_size(self) -> tuple[int, int] | None:
        """Smallest (width, height) to decode a JPEG at; None for the full size."""
        if self.least_oversampling is None:
            return None
        height, width = (math.ceil(side * self.least_oversampling / self.crop_share) for side in self.image_size)
        return width, height

    def read(self, location: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | DecodeFailure:
        """Reads an image and returns the part that the network sees, see `view`.

        Args:
            location: a local path or a URI.
            max_pixels: a larger image is a `DecodeFailure`.
        """
        data = read_file(location)
        return data if isinstance(data, DecodeFailure) else self.decode(data, max_pixels=max_pixels)

    def decode(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | DecodeFailure:
        """As `read`, for the contents of an image file."""
        decoded = decode_reduced(data, self.least_size, max_pixels=max_pixels)
        if isinstance(decoded, DecodeFailure):
            return decoded
        left, top, right, bottom = decoded.extent
        box = self.centred_box(right - left, bottom - top)
        return self._resample(decoded.image, (left + box[0], top + box[1], left + box[2], top + box[3]))

    def centred_box(self, width: float, height: float) -> tuple[float, float, float, float]:
        """The part of a width x height image that the network sees: (left, top, right, bottom) in pixels of the image."""
        if self.fit == "squash":
            return 0.0, 0.0, width, height
        input_height, input_width = self.image_size
        scale = self.crop_share * min(width / input_width, height / input_height)
        box_width, box_height = input_width * scale, input_height * scale
        # Rounding must not move the box beyond the edge of the image, which Pillow refuses.
        left, top = max(0.0, (width - box_width) / 2), max(0.0, (height - box_height) / 2)
        return left, top, min(width, left + box_width), min(height, top + box_height)

    def view(self, image: Image.Image) -> Image.Image:
        """The part of an image (of any mode) that the network sees, resampled to the input size, before normalisation."""
        image = as_shown(image)
        return self._resample(image, self.centred_box(*image.size))

    def view_on_device(self, image_3HW: Tensor) -> Tensor:
        """`view` for an image on a device: uint8 (3, H, W) -> uint8 (height, width, 3), within one level of 255."""
        _, height, width = image_3HW.shape
        return resample(image_3HW, self.centred_box(width, height), self.image_size, self.interpolation)

    def _resample(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        height, width = self.image_size
        # Resampled directly from the box: like Resize and CenterCrop, without computing pixels that are cropped.
        return image.resize((width, height), _FILTERS[self.interpolation], box=box)

    def normalise(self, pixels: np.ndarray | Tensor) -> Tensor:
        """(value / 255 - mean) / std.

        Args:
            pixels: uint8 (..., H, W, 3).

        Returns:
            float32 (..., 3, H, W) on the device of `pixels`. In memory the channels are last, which is fastest for the patch embedding.
        """
        pixels_HWC = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
        *_, width, channels = pixels_HWC.shape
        # A whole row of pixels at once: a broadcast over three channels alone takes four times as long.
        mean = torch.tensor(self.mean, device=pixels_HWC.device).mul_(255).repeat(width)
        factor = torch.tensor(self.std, device=pixels_HWC.device).mul_(255).reciprocal_().repeat(width)
        values = pixels_HWC.flatten(-2).to(torch.float32).sub_(mean).mul_(factor)
        return values.unflatten(-1, (width, channels)).movedim(-1, -3)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.normalise(np.array(self.view(image))).contiguous()

    def augment(
        self, image: Image.Image, random: np.random.Generator, *, min_crop_area: float = PUBLISHED_MIN_CROP_AREA, flip: bool = True
    ) -> Tensor:
        """The preprocessing for training: a random resized crop (aspect ratio 3/4 to 4/3 of the input's own) and a random horizontal flip.

        With the fit 'squash' the crop is one of the squeezed image, so that training and evaluation squeeze alike.

        Args:
            image: of any mode.
            random: the only source of randomness, so that a generator made from (seed, epoch, item) reproduces the same view.
            min_crop_area: smallest share of the image's area in a crop, in (0, 1]; published: 0.08.
            flip: mirror half of the views. A mirrored street is another place.

        Returns:
            float32 (3, height, width).
        """
        image = as_shown(image)
        width, height = image.size
        aspect = self.image_size[1] / self.image_size[0]
        if self.fit == "squash":
            width = max(1, round(height * aspect))
        left, top, right, bottom = random_box(width, height, random, min_crop_area, aspect=aspect)
        stretch = image.width / width
        view = self._resample(image, (left * stretch, top, min(image.width, right * stretch), bottom))
        if random.random() < 0.5 and flip:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.normalise(np.array(view)).contiguous()


def random_box(
    width: int, height: int, random: np.random.Generator, min_crop_area: float, *, aspect: float = 1.0
) -> tuple[float, float, float, float]:
    """The box of torchvision's RandomResizedCrop; its aspect ratio is 3/4 to 4/3 of `aspect`, that of the input (width / height).

    It tries a random area and aspect ratio ten times, and then takes the largest centred box of an allowed aspect ratio.
    """
    narrow, wide = 3 / 4 * aspect, 4 / 3 * aspect
    for _ in range(10):
        area = width * height * random.uniform(min_crop_area, 1.0)
        drawn = math.exp(random.uniform(math.log(narrow), math.log(wide)))
        box_width, box_height = round(math.sqrt(area * drawn)), round(math.sqrt(area / drawn))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(random.integers(0, width - box_width + 1))
            top = int(random.integers(0, height - box_height + 1))
            return left, top, left + box_width, top + box_height
    widest, highest = min(width, height * wide), min(height, width / narrow)
    return (width - widest) / 2, (height - highest) / 2, (width + widest) / 2, (height + highest) / 2
