"""One query: an image that someone gives, or an item of the gallery."""

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from eet.device import Device
from eet.errors import InputError, NotFoundError
from eet.gallery import OK, Gallery, GalleryModel, Manifest, PartEncoder, model_schema, part_table
from eet.gallery.encoder import LARGEST_FLOAT16
from eet.images import DecodeFailure, decode
from eet.images.decoding import decode_reduced
from eet.options.defaults import MAX_PIXELS

SHOWN_SIDE = 1024
"""Longer side, in pixels, of the copy of a query that is kept."""


class Box(NamedTuple):
    """A part of an upright image, each side as a share of its width or height: 0 <= left < right <= 1, 0 <= top < bottom <= 1."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def parse(cls, text: str) -> "Box":
        """From "left,top,right,bottom". InputError where the text is no box."""
        try:
            left, top, right, bottom = (float(share) for share in text.split(","))
        except ValueError as error:
            raise InputError(f"box {text[:60]!r}: give four numbers, left,top,right,bottom, as shares of the image from 0 to 1") from error
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"box {text[:60]!r}: left must be below right and top below bottom, all from 0 to 1")
        return cls(left, top, right, bottom)

    def cut(self, image: Image.Image) -> Image.Image:
        """This part of an image, at least one pixel."""
        left, top = (min(math.floor(share * side), side - 1) for share, side in zip(self[:2], image.size, strict=True))
        right, bottom = (math.ceil(share * side) for share, side in zip(self[2:], image.size, strict=True))
        return image.crop((left, top, right, bottom))


@dataclass(frozen=True)
class Query:
    """An encoded query.

    Attributes:
        query_id: the same image with the same box has the same one; of an item of the gallery, its item_id.
        row: one row, in the columns of `manifest`.
        manifest: describes `row`.
        is_item: whether it is an item of the gallery, which is never its own hit.
        shown: of an image: the part that was searched for, as a JPEG.
    """

    query_id: str
    row: pa.Table
    manifest: Manifest
    is_item: bool
    shown: bytes = b""


class QueryEncoder:
    """Encodes images of queries in the precision of the gallery, with all that it holds of its items, and the real-valued hash.

    Not thread-safe.

    Args:
        model: the model that encoded the gallery.
        gallery: the searched gallery.
        max_pixels: an image with more pixels is refused.
        device: where the network runs.
        batch_size: images that the network takes at once, at least 1. It always takes so many, some of them black, so that a code depends
            on no other image.
    """

    def __init__(
        self, model: GalleryModel, gallery: Gallery, *, max_pixels: int = MAX_PIXELS, device: Device | None = None, batch_size: int = 1
    ) -> None:
        self.model, self.max_pixels, self._batch_size = model, max_pixels, batch_size
        held = gallery.manifest
        self._encoder = PartEncoder(
            model,
            device=(device or Device.of()).torch_device,
            batch_size=batch_size,
            threads=1,
            tokens=held.token_shape is not None,
            embedding=held.embedding_dim is not None,
            has_hash=True,
            mass="rollout" if held.mass == "rollout" else "importance",
            max_pixels=max_pixels,
            precision=held.precision,
        )
        self._manifest = query_manifest(gallery)
        self._schema = model_schema(model, tokens=held.token_shape is not None, embedding=held.embedding_dim is not None, has_hash=True)

    @property
    def manifest(self) -> Manifest:
        """Describes the row of every image."""
        return self._manifest

    def encode(self, data: bytes, box: Box | None = None) -> Query:
        """Encodes an image.

        Args:
            data: contents of the image file.
            box: the part to search for; None for the whole image.

        Raises:
            InputError: the bytes are no image that can be read, it has too many pixels, or the network computes NaN or infinity for it.
        """
        (found,) = self.encode_all([(data, box)])
        if isinstance(found, InputError):
            raise found
        return found

    def encode_all(self, images: Sequence[tuple[bytes, Box | None]]) -> list[Query | InputError]:
        """Encodes several images. Each becomes what `encode` returns for it, or the error that `encode` raises.

        Args:
            images: contents of each image file, and the part to search for.
        """
        found: list[Query | InputError] = []
        for start in range(0, len(images), self._batch_size):
            found += self._encoded_batch(images[start : start + self._batch_size])
        return found

    def _encoded_batch(self, images: Sequence[tuple[bytes, Box | None]]) -> list[Query | InputError]:
        views_BHW3 = torch.zeros(self._batch_size, *self.model.preprocessing.image_size, 3, dtype=torch.uint8)
        parts: list[Image.Image | InputError] = []
        for view_HW3, (data, box) in zip(views_BHW3.numpy(), images, strict=False):
            try:
                view, part = self._view(data, box)
                view_HW3[:] = np.asarray(view)
                parts.append(part)
            except InputError as error:
                parts.append(error)
        if all(isinstance(part, InputError) for part in parts):
            return [part for part in parts if isinstance(part, InputError)]
        output = self._encoder.hash_batch(views_BHW3, len(images))
        return [
            part if isinstance(part, InputError) else self._query(*image, part, {name: row_n[n : n + 1] for name, row_n in output.items()})
            for n, (image, part) in enumerate(zip(images, parts, strict=True))
        ]

    def _view(self, data: bytes, box: Box | None) -> tuple[Image.Image, Image.Image]:
        """What the network sees of an image, and the part that is shown. InputError where the image cannot be read."""
        if box is None:
            # As the images of the gallery: a large JPEG is decoded at a fraction of its size.
            view = _readable(self.model.preprocessing.decode(data, max_pixels=self.max_pixels))
            return view, _readable(reduced_image(data, SHOWN_SIDE, max_pixels=self.max_pixels))
        part = box.cut(_readable(decode(data, max_pixels=self.max_pixels)))
        return self.model.preprocessing.view(part), part

    def _query(self, data: bytes, box: Box | None, part: Image.Image, output: dict[str, np.ndarray]) -> Query | InputError:
        """The query of an image from the network's output for it alone."""
        if not all(np.isfinite(values).all() for values in output.values()):
            return InputError("the image cannot be used: the network computes NaN or infinity for it")
        query_id = hashlib.sha256(repr(box and tuple(map(float, box))).encode() + data).hexdigest()[:32]
        output["hash"] = output["hash"].clip(-LARGEST_FLOAT16, LARGEST_FLOAT16)
        codes_1B = np.packbits(output["hash"] > 0, axis=1)
        columns: dict[str, Any] = output
        row = part_table([query_id], pa.nulls(1, pa.string()), None, codes_1B, [OK], [None], schema=self._schema, **columns)
        return Query(query_id, row, self._manifest, False, as_jpeg(part, SHOWN_SIDE))


def query_manifest(gallery: Gallery) -> Manifest:
    """Describes the row of an image that is encoded to search this gallery."""
    held = gallery.manifest
    return Manifest(
        model_digest=held.model_digest,
        preprocessing_digest=held.preprocessing_digest,
        num_bits=held.num_bits,
        num_rows=1,
        num_ok=1,
        num_parts=1,
        rows_per_part=1,
        token_shape=held.token_shape,
        token_dtype=None if held.token_shape is None else "float16",
        embedding_dim=held.embedding_dim,
        has_hash=True,
        precision=held.precision,
    )


def item_query(gallery: Gallery, item_id: str) -> Query:
    """An item of the gallery as a query. NotFoundError where there is none; InputError where it could not be encoded."""
    row = row_of(gallery, item_id)
    if row["status"][0].as_py() != OK:
        raise InputError(f"item {item_id!r} has no code, as its image could not be encoded ({row['status'][0].as_py()})")
    return Query(item_id, row, gallery.manifest, True)


def row_of(gallery: Gallery, item_id: str, columns: list[str] | None = None) -> pa.Table:
    """The row of an item. NotFoundError where there is none."""
    try:
        item_id.encode()  # half of a surrogate pair, which JSON can hold, is no text
        return gallery.rows([item_id], columns)
    except (InputError, UnicodeEncodeError) as error:
        raise NotFoundError(f"there is no item {item_id!r:.200}") from error


def reduced_image(data: bytes, side: int, *, max_pixels: int) -> Image.Image | DecodeFailure:
    """Decodes an image; a JPEG at a fraction of its size, if its sides keep `side` pixels or more."""
    decoded = decode_reduced(data, (side, side), max_pixels=max_pixels)
    return decoded if isinstance(decoded, DecodeFailure) else decoded.image


def _readable(decoded: Image.Image | DecodeFailure) -> Image.Image:
    if isinstance(decoded, DecodeFailure):
        raise InputError(f"the image cannot be used ({decoded.status}): {decoded.error}")
    return decoded


def as_jpeg(image: Image.Image, side: int) -> bytes:
    """An RGB image as a JPEG, reduced so that its longer side has at most `side` pixels."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    reduced = image if scale == 1.0 else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    reduced.save(file, "JPEG", quality=88)
    return file.getvalue()
