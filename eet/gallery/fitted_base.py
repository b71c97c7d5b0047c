"""A base model that is fitted to images without training and without labels: words, whitening and codes.

Shapes: N images, n of a batch, D width of a patch, W of the aggregation, E of the embedding.
"""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from eet.device import Device
from eet.embedding import BaseModel, fit_whitening
from eet.errors import InputError
from eet.hashing import fit_itq
from eet.images import DecodeFailure

BATCH_SIZE = 32
DESCRIPTORS_OF_AN_IMAGE = 100
"""Local descriptors drawn from each image for the words: NetVLAD's published number."""


@torch.no_grad()
def fitted_base(
    model: BaseModel,
    uris: list[str],
    *,
    width: int | None = None,
    whitening: float = 0.0,
    bits: int | None = None,
    seed: int = 0,
    threads: int = 2,
    precision: str = "auto",
) -> BaseModel:
    """A copy of a base model whose words, head and codes are fitted to images.

    First the aggregation gets its start, if it has one (k-means of vlad and netvlad). Then the head becomes a `eet.embedding.fit_whitening`
    of what the aggregation makes, and the code a `eet.hashing.fit_itq` of the embeddings.

    Args:
        model: its aggregation reads patches, or the vector of a backbone.
        uris: locations of images like those of the gallery. Images that cannot be read are left out.
        width: E of the new head, fewer than the images; None keeps the head.
        whitening: power of the whitening, 0 (PCA alone) to 1.
        bits: length of the codes; None for the signs of the embedding.
        seed: of k-means, the draw of descriptors and the rotation of the codes.
        threads: threads that read images, at least 1.
        precision: "auto", "fp32" or "bf16", of the network.

    Returns:
        A new model on the CPU in eval mode; the given one is not changed.

    Raises:
        InputError: too few images can be read, or a width or power is out of range.
    """
    model, device, random = copy.deepcopy(model).eval(), Device.of(precision=precision), np.random.default_rng(seed)
    model.to(device.torch_device)
    if model.aggregation.starts:
        drawn = []
        for images_n3HW in _batches(model, uris, device, threads):
            for descriptors_ND in model.descriptors(images_n3HW).cpu():
                rows = random.permutation(len(descriptors_ND))[:DESCRIPTORS_OF_AN_IMAGE]
                drawn.append(descriptors_ND[torch.from_numpy(np.sort(rows))])
        model.aggregation.start(torch.cat(drawn), seed=seed)
    if width is not None:
        model.set_head(fit_whitening(_vectors(model, uris, device, threads, head=False), width=width, power=whitening))
        model.to(device.torch_device)
    if bits is not None:
        model.set_code(fit_itq(_vectors(model, uris, device, threads, head=True), num_bits=bits, seed=seed))
    return model.cpu()


def _vectors(model: BaseModel, uris: list[str], device: Device, threads: int, *, head: bool) -> np.ndarray:
    """(N, W) float32 of the images that can be read, or (N, E) embeddings with the head."""
    compute = model.embed if head else model.aggregated
    return np.concatenate([compute(images_n3HW).cpu().numpy() for images_n3HW in _batches(model, uris, device, threads)])


def _batches(model: BaseModel, uris: list[str], device: Device, threads: int) -> Iterator[torch.Tensor]:
    """Preprocessed batches on the device, of the images that can be read. InputError where there are none."""
    found = False
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for start in range(0, len(uris), BATCH_SIZE):
            views = [view for view in pool.map(model.preprocessing.read, uris[start : start + BATCH_SIZE]) if _readable(view)]
            if views:
                found = True
                pixels_nHW3 = torch.from_numpy(np.stack([np.asarray(view) for view in views]))
                with device.autocast():
                    yield model.preprocessing.normalise(pixels_nHW3.to(device.torch_device))
    if not found:
        raise InputError(f"none of {len(uris)} images can be read: give images to fit the model to")


def _readable(view: Image.Image | DecodeFailure) -> bool:
    return not isinstance(view, DecodeFailure)
