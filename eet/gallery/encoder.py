"""Encoding one planned part: its pictures read and decoded by threads, hashed in batches of one fixed size.

Shapes: n rows of the part, B batch size.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from eet.gallery.models import GalleryModel, model_schema
from eet.gallery.schema import OK, part_table
from eet.images import DecodeFailure

BATCHES_AHEAD = 3  # decoded batches that may wait for the network: memory is bounded by it


class EncodedPart(NamedTuple):
    """A part as it goes to disk, and the real-valued hash (n, bits) float32 behind its codes (zero where a row has an error)."""

    table: pa.Table
    hash: np.ndarray


class PartEncoder:
    """Turns rows of a plan into rows of a gallery with one model.

    Batches are fixed slices of the part in its order, always of `batch_size` images: a row that cannot be read, and the places behind
    the last row, are black. So a code depends on its picture and its place in the part alone: not on who encodes, nor on a resume.

    model: in eval mode. device: where it runs; CUDA runs in bf16 autocast unless precision is 'fp32'. threads: that read and decode.
    tokens, embedding: store the kept patch tokens with positions and mass; the final CLS vector. max_pixels: a larger picture becomes a
    row with a reason.
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
        precision: str = "auto",
        max_pixels: int = 200_000_000,
    ) -> None:
        if batch_size < 1 or threads < 1:
            raise ValueError(f"batch_size {batch_size} and threads {threads} must be at least 1")
        self.model = model.eval().to(device)
        self.device = torch.device(device)
        self.batch_size, self.threads = batch_size, threads
        self.tokens, self.embedding, self.max_pixels = tokens, embedding, max_pixels
        self.bf16 = precision == "bf16" or (precision == "auto" and self.device.type == "cuda")
        self.schema = model_schema(model, tokens=tokens, embedding=embedding)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def encode(self, plan_rows: pa.Table, told: Callable[[int], None] | None = None) -> EncodedPart:
        """The gallery rows of `plan_rows` (item_id, uri, label), in their order. A bad picture is a row with a status.

        told: hears after each batch how many rows have gone through the network.
        """
        uris = plan_rows["uri"].to_pylist()
        failures: dict[int, DecodeFailure] = {}
        outputs = []
        for start, batch in self._decoded_batches(uris, failures):
            outputs.append(self._hash(batch, min(self.batch_size, len(uris) - start)))
            if told is not None:
                told(min(start + self.batch_size, len(uris)))
        hashes = np.concatenate([output["hash"] for output in outputs])
        statuses = [OK] * len(uris)
        errors: list[str | None] = [None] * len(uris)
        for row, failure in failures.items():
            statuses[row], errors[row] = failure.status, failure.error
            hashes[row] = 0
        optional = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0] if name != "hash"}
        table = part_table(
            plan_rows["item_id"].combine_chunks(),
            plan_rows["uri"].combine_chunks(),
            plan_rows["label"].combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False),
            np.packbits(hashes > 0, axis=1),
            statuses,
            errors,
            schema=self.schema,
            **optional,
        )
        return EncodedPart(table, hashes)

    def _decoded_batches(self, uris: list[str], failures: dict[int, DecodeFailure]) -> Iterator[tuple[int, Tensor]]:
        """(first row, views (B, H, W, 3) uint8) in order; decoding runs a few batches ahead of the consumer."""
        waiting: list[tuple[int, Tensor, list[Future]]] = []
        starts = iter(range(0, len(uris), self.batch_size))
        while True:
            while len(waiting) < BATCHES_AHEAD and (start := next(starts, None)) is not None:
                views_BHW3 = torch.zeros(self.batch_size, *self.model.preprocessing.image_size, 3, dtype=torch.uint8)
                places = zip(uris[start : start + self.batch_size], views_BHW3.numpy(), strict=False)
                waiting.append((start, views_BHW3, [self._pool.submit(self._open, uri, place) for uri, place in places]))
            if not waiting:
                return
            start, views_BHW3, futures = waiting.pop(0)
            opened = (future.result() for future in futures)
            failures.update((start + place, failure) for place, failure in enumerate(opened) if failure is not None)
            yield start, views_BHW3

    def _open(self, uri: str, view_HW3: np.ndarray) -> DecodeFailure | None:
        """Writes what the network sees of a picture into its place in a batch."""
        view = self.model.preprocessing.read(uri, max_pixels=self.max_pixels)
        if isinstance(view, DecodeFailure):
            return view
        view_HW3[:] = np.asarray(view)
        return None

    @torch.inference_mode()
    def _hash(self, views_BHW3: Tensor, rows: int) -> dict[str, np.ndarray]:
        """The network's answer for the first `rows` of a batch, as the columns that are stored."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            # As bytes to the device, where normalising them costs nothing.
            images_B3HW = self.model.preprocessing.normalise(views_BHW3.to(self.device))
            out = self.model(images_B3HW, tokens=self.tokens)
        columns = {"hash": out.hash}
        if self.tokens:
            assert out.tokens is not None and out.token_index is not None and out.token_mass is not None
            columns |= {"tokens": out.tokens, "token_index": out.token_index, "token_mass": out.token_mass}
        if self.embedding:
            columns["embedding"] = out.embedding
        return {name: (value if name == "token_index" else value.float())[:rows].cpu().numpy() for name, value in columns.items()}
