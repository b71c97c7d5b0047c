"""Encoding one planned part: its images read and decoded by threads, hashed in batches of one fixed size.

Shapes: n rows of the part, B batch size.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from eet.device import Device
from eet.errors import InputError
from eet.gallery.models import GalleryModel, model_schema
from eet.gallery.schema import OK, PLACE_FIELDS, part_table
from eet.images import DecodeFailure, DeviceJpegDecoder, OrdinaryJpeg, ordinary_jpeg, read_file
from eet.matching import forward_with_rollout
from eet.options.choices import TokenMass, VectorForm
from eet.vit import Student

DEFAULT_BATCH_SIZE = {"cpu": 32, "cuda": 256}
"""Images in a batch, by the kind of device."""

LARGEST_FLOAT16 = 65504.0
NOT_FINITE = "not-finite"
"""Status of a row for which the network computed NaN or infinity."""
BATCHES_AHEAD = 3  # decoded batches that may wait for the network: memory is bounded by it
FILES_AHEAD = 2  # batches of whole files, where the device decodes: one waits while another is decoded


class EncodedPart(NamedTuple):
    """The table of a part, as written to disk, and the real-valued hashes (n, bits) float32 of its rows (zero where a row failed)."""

    table: pa.Table
    hash: np.ndarray


class _Gathered(NamedTuple):
    """A decoded batch (B, H, W, 3) uint8, and its failures: index in the batch -> reason."""

    views: Tensor
    failures: dict[int, DecodeFailure]


class _Output(NamedTuple):
    """Outputs of the network for a batch, by stored column, and the failures in the batch: index in the batch -> reason."""

    columns: dict[str, np.ndarray]
    failures: dict[int, DecodeFailure]


def check_mass(mass: str, model: GalleryModel, *, tokens: bool) -> None:
    """InputError where a model cannot compute this token mass, or no tokens are stored."""
    if mass not in get_args(TokenMass):
        raise InputError(f"mass {mass!r}: use one of {', '.join(get_args(TokenMass))}")
    if mass == "rollout" and not isinstance(model, Student):
        raise InputError("mass rollout needs a student or a teacher; this is a base model: use importance")
    if mass == "rollout" and not tokens:
        raise InputError("mass rollout needs tokens, and none are stored: store tokens, or leave mass out")


class PartEncoder:
    """Turns rows of a plan into rows of a gallery with one model.

    Batches are fixed slices of the part in its order, always of `batch_size` images: a row that cannot be read, and the padding after
    the last row, are black. So a code depends only on the image and its position in the part, not on the worker or on a resume.

    Args:
        model: in eval mode.
        device, precision: where the network runs and how, as `Device.of` takes them.
        batch_size: images in a batch, at least 1.
        threads: threads that read and decode, at least 1. On a CPU, for a part of many batches, each also runs the network on its own.
        tokens: store the kept patch tokens with positions and mass.
        embedding: store the final CLS vector.
        token_form, embedding_form: how tokens and embedding are stored.
        has_hash: store the real-valued hash.
        precision: "auto" (bf16 on CUDA, fp32 on a CPU), "fp32" or "bf16".
        mass: source of the kept tokens' mass: "importance", or "rollout" (attention rollout; only for a student or teacher).
        max_pixels: an image with more pixels becomes a row with an error.
        jpegs_on_device: decode ordinary JPEGs on the device at full size (nvJPEG on a GPU), all other images by the threads. Pixels then
            differ by a few levels of 255 from those decoded by the threads.

    Raises:
        RuntimeError: jpegs_on_device without TorchCodec.
        InputError: batch_size or threads below 1, or rollout of a base model.
    """

    def __init__(
        self,
        model: GalleryModel,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        threads: int = 2,
        tokens: bool = False,
        embedding: bool = False,
        token_form: VectorForm = "float16",
        embedding_form: VectorForm = "float16",
        has_hash: bool = False,
        precision: str = "auto",
        mass: TokenMass = "importance",
        max_pixels: int = 200_000_000,
        jpegs_on_device: bool = False,
    ) -> None:
        if batch_size < 1 or threads < 1:
            raise InputError(f"batch_size {batch_size} and threads {threads} must be at least 1")
        check_mass(mass, model, tokens=tokens)
        self.mass = mass
        self.device = Device.of(device, precision)
        self.model = model.eval().to(self.device.torch_device)
        self.batch_size, self.threads = batch_size, threads
        self.tokens, self.embedding, self.max_pixels = tokens, embedding, max_pixels
        self.token_form, self.embedding_form = token_form, embedding_form
        columns = partial(
            model_schema, model, tokens=tokens, embedding=embedding, has_hash=has_hash, token_form=token_form, embedding_form=embedding_form
        )
        self.schema, self._schema_with_places = columns(), columns(positions=True)
        self._jpegs = DeviceJpegDecoder(self.device.torch_device) if jpegs_on_device else None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._gathering = ThreadPoolExecutor(1, thread_name_prefix="gather")
        # Decoding on a GPU has its own stream: on the network's stream it would wait for the current batch.
        self._stream = torch.cuda.Stream(self.device.torch_device) if jpegs_on_device and self.device.on_gpu else None

    def encode(self, plan_rows: pa.Table, on_rows: Callable[[int], None] | None = None) -> EncodedPart:
        """Encodes the images of a part.

        Args:
            plan_rows: item_id, uri and label of each image, and its place where the gallery has places; may be empty.
            on_rows: called after each batch with the number of rows encoded so far.

        Returns:
            The gallery rows in the same order. An image that cannot be read, or for which the network computes NaN or infinity, is a row
            whose status says why.
        """
        uris = plan_rows["uri"].to_pylist()
        placed = PLACE_FIELDS[0].name in plan_rows.column_names
        schema = self._schema_with_places if placed else self.schema
        if not uris:
            return EncodedPart(schema.empty_table(), np.zeros((0, self.model.num_bits), np.float32))
        failures: dict[int, DecodeFailure] = {}
        outputs: list[dict[str, np.ndarray]] = []
        for output, failed in self._outputs(uris):
            failures.update((len(outputs) * self.batch_size + place, failure) for place, failure in failed.items())
            outputs.append(output)
            if on_rows is not None:
                on_rows(min(len(outputs) * self.batch_size, len(uris)))
        failures = {**_without_numbers(outputs), **failures}
        hashes = np.concatenate([output["hash"] for output in outputs])
        statuses = [OK] * len(uris)
        errors: list[str | None] = [None] * len(uris)
        for row, failure in failures.items():
            statuses[row], errors[row] = failure.status, failure.error
            hashes[row] = 0
        optional = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0] if name != "hash"}
        for values in optional.values():
            values[list(failures)] = 0  # NaN has no few-bit form
        if "hash" in self.schema.names:
            optional["hash"] = hashes.clip(-LARGEST_FLOAT16, LARGEST_FLOAT16)
        table = part_table(
            plan_rows["item_id"].combine_chunks(),
            plan_rows["uri"].combine_chunks(),
            plan_rows["label"].combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False),
            np.packbits(hashes > 0, axis=1),
            statuses,
            errors,
            schema=schema,
            places=plan_rows if placed else None,
            token_form=self.token_form,
            embedding_form=self.embedding_form,
            **optional,
        )
        return EncodedPart(table, hashes)

    def _outputs(self, uris: list[str]) -> Iterator[_Output]:
        """The outputs of each batch, in order."""
        slices = [uris[start : start + self.batch_size] for start in range(0, len(uris), self.batch_size)]
        # Rollout hooks into the layers of the network, so threads cannot share the network.
        shared = self.mass != "rollout"
        if shared and self.device.type == "cpu" and self._jpegs is None and len(slices) >= self.threads > 1:
            yield from self._thread_by_thread(slices)
        else:
            for batch, (views_BHW3, failed) in zip(slices, self._decoded_batches(slices), strict=True):
                yield _Output(self.hash_batch(views_BHW3, len(batch)), failed)

    def _thread_by_thread(self, slices: list[list[str]]) -> Iterator[_Output]:
        """On a CPU, each thread takes whole batches from files to hashes.

        Threads that share each matrix product wait for each other at every one: an eighth of the time with two threads.
        """
        before = torch.get_num_threads()
        batches = [self._pool.submit(self._decoded_and_hashed, batch) for batch in slices]
        try:
            for batch in batches:
                yield batch.result()
        finally:
            for batch in batches:
                batch.cancel()
            torch.set_num_threads(before)

    def _decoded_and_hashed(self, uris: list[str]) -> _Output:
        """The output of one batch, computed by the calling thread alone."""
        torch.set_num_threads(1)
        views_BHW3 = self._black()
        opened = (self._open(uri, view_HW3) for uri, view_HW3 in zip(uris, views_BHW3.numpy(), strict=False))
        failed = {place: one for place, one in enumerate(opened) if isinstance(one, DecodeFailure)}
        return _Output(self.hash_batch(views_BHW3, len(uris)), failed)

    def _black(self) -> Tensor:
        return torch.zeros(self.batch_size, *self.model.preprocessing.image_size, 3, dtype=torch.uint8)

    def _decoded_batches(self, slices: list[list[str]]) -> Iterator[_Gathered]:
        """Decoded batches in order; decoding runs a few batches ahead of the consumer."""
        waiting: deque[Future[_Gathered]] = deque()
        for uris in slices:
            views_BHW3 = self._black()
            opened = [self._pool.submit(self._open, uri, place) for uri, place in zip(uris, views_BHW3.numpy(), strict=False)]
            waiting.append(self._gathering.submit(self._gather, views_BHW3, opened))
            if len(waiting) == (BATCHES_AHEAD if self._jpegs is None else FILES_AHEAD):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _open(self, uri: str, view_HW3: np.ndarray) -> DecodeFailure | OrdinaryJpeg | None:
        """Writes the preprocessed view of an image into `view_HW3`; an ordinary JPEG that the device decodes is returned instead."""
        data = read_file(uri)
        if isinstance(data, DecodeFailure):
            return data
        if self._jpegs is not None and (jpeg := ordinary_jpeg(data, max_pixels=self.max_pixels)) is not None:
            return jpeg
        return self._decode(data, view_HW3)

    def _decode(self, data: bytes, view_HW3: np.ndarray) -> DecodeFailure | None:
        view = self.model.preprocessing.decode(data, max_pixels=self.max_pixels)
        if isinstance(view, DecodeFailure):
            return view
        view_HW3[:] = np.asarray(view)
        return None

    @torch.inference_mode()  # the mode is per thread: the caller may have created the views in it
    def _gather(self, views_BHW3: Tensor, opened: list[Future]) -> _Gathered:
        """Waits until all images of a batch are decoded; returns the batch and its failures."""
        found = [future.result() for future in opened]
        jpegs = {place: one for place, one in enumerate(found) if isinstance(one, OrdinaryJpeg)}
        failed = {place: one for place, one in enumerate(found) if isinstance(one, DecodeFailure)}
        if self._jpegs is None or not jpegs:
            return _Gathered(views_BHW3, failed)
        with torch.cuda.stream(self._stream):  # no effect where the stream is None
            views_BHW3 = self._with_decoded(self._jpegs, jpegs, views_BHW3, failed)
        if self._stream is not None:
            self._stream.synchronize()
            views_BHW3.record_stream(torch.cuda.default_stream(self.device.torch_device))  # where the network reads it
        return _Gathered(views_BHW3, failed)

    def _with_decoded(
        self, decoder: DeviceJpegDecoder, jpegs: dict[int, OrdinaryJpeg], views_BHW3: Tensor, failed: dict[int, DecodeFailure]
    ) -> Tensor:
        """The batch on the device, with the views of `jpegs` filled in.

        A JPEG that the decoder refuses is decoded here, or added to `failed`.
        """
        decoded: dict[int, Tensor] = {}
        for (place, jpeg), image_3HW in zip(jpegs.items(), decoder.decode(list(jpegs.values())), strict=True):
            if image_3HW is not None:
                decoded[place] = self.model.preprocessing.view_on_device(image_3HW)
            elif (failure := self._decode(jpeg.data, views_BHW3[place].numpy())) is not None:
                failed[place] = failure
        views_BHW3 = views_BHW3.to(self.device.torch_device)
        if decoded:
            views_BHW3[list(decoded)] = torch.stack(list(decoded.values()))
        return views_BHW3

    @torch.inference_mode()
    def hash_batch(self, views_BHW3: Tensor, rows: int) -> dict[str, np.ndarray]:
        """The outputs of the network for the first `rows` images of a batch, by stored column."""
        with self.device.autocast():
            # Moved as bytes: normalising on the device costs almost nothing.
            images_B3HW = self.model.preprocessing.normalise(views_BHW3.to(self.device.torch_device))
            if self.mass == "rollout":
                output, mass_BK = forward_with_rollout(self.model, images_B3HW)
                out = output._replace(token_mass=mass_BK)
            else:
                out = self.model(images_B3HW, tokens=self.tokens)
        columns = {"hash": out.hash}
        if self.tokens:
            assert out.tokens is not None and out.token_index is not None and out.token_mass is not None
            columns |= {"tokens": out.tokens, "token_index": out.token_index, "token_mass": out.token_mass}
        if self.embedding:
            columns["embedding"] = out.embedding
        return {name: (value if name == "token_index" else value.float())[:rows].cpu().numpy() for name, value in columns.items()}


def _without_numbers(outputs: list[dict[str, np.ndarray]]) -> dict[int, DecodeFailure]:
    """The rows for which the network computed NaN or infinity: row -> reason."""
    failures: dict[int, DecodeFailure] = {}
    for name in outputs[0]:
        finite = [np.isfinite(output[name]).reshape(len(output[name]), -1).all(axis=1) for output in outputs]
        for row in np.flatnonzero(~np.concatenate(finite)).tolist():
            failures.setdefault(row, DecodeFailure(NOT_FINITE, f"the network computed NaN or infinity as {name} of this image"))
    return failures
