"""A joint hash that is fitted again to the images of a gallery, without labels."""

import copy
import os

import numpy as np
import torch

from eet.datasets.listing import ImageList
from eet.device import Device
from eet.errors import InputError
from eet.gallery.encoder import DEFAULT_BATCH_SIZE, PartEncoder
from eet.gallery.models import GalleryModel
from eet.gallery.plan import items_table
from eet.gallery.schema import OK, fixed_binary_to_numpy
from eet.hashing import fit_itq
from eet.vit import Student


def check_adaptable(model: GalleryModel) -> Student:
    """The model, as a student. InputError where its codes have no rotation that could be fitted again."""
    if not isinstance(model, Student):
        raise InputError("the codes of a base model are the signs of its embedding: only a student with joint codes can be adapted")
    if model.hash_input != "joint":
        raise InputError(f"the codes of this model are made of {model.hash_input}: only joint codes have a rotation to adapt")
    return model


def sample_of(images: ImageList, number: int, *, seed: int) -> list[str]:
    """`number` locations drawn from a list of images in one pass, each image with the same chance; all of a shorter list."""
    random = np.random.default_rng(seed)
    drawn: list[str] = []
    seen = 0
    for batch in images:
        for uri in batch.uris:
            seen += 1
            if len(drawn) < number:
                drawn.append(uri)
            elif (place := int(random.integers(seen))) < number:
                drawn[place] = uri
    return drawn


def adapted_student(student: Student, uris: list[str], *, seed: int = 0, threads: int | None = None, precision: str = "auto") -> Student:
    """A copy of a student whose joint hash is fitted to images.

    The hash is a rotation of [CLS, label probabilities]; here it is fitted by `eet.hashing.fit_itq` to these images instead of those of
    the training. Codes then share their bits among what differs in this collection. Codes of the two students cannot be compared.

    Args:
        student: with joint codes.
        uris: locations of images like those of the gallery; labels are not needed. Images that cannot be read are left out.
        seed: of the rotation.
        threads: CPU threads; default all.
        precision: "auto", "fp32" or "bf16".

    Returns:
        A new student on the CPU in eval mode; the given one is not changed.

    Raises:
        InputError: the codes are not joint, or fewer images can be read than a code has bits.
    """
    student = copy.deepcopy(check_adaptable(student))
    device = Device.of(precision=precision)
    encoder = PartEncoder(
        student,
        device=device.torch_device,
        batch_size=DEFAULT_BATCH_SIZE[device.type],
        threads=threads or os.cpu_count() or 1,
        embedding=True,
        precision=precision,
    )
    rows = encoder.encode(items_table([str(row) for row in range(len(uris))], uris)).table
    rows = rows.filter(np.asarray(rows["status"]) == OK)
    if len(rows) < student.num_bits:
        raise InputError(f"{len(rows)} of {len(uris)} images can be read: a code of {student.num_bits} bits is fitted to that many or more")
    student = student.cpu()
    embedding_ND = fixed_binary_to_numpy(rows["embedding"], "<f2", (student.embedding_width,)).astype(np.float32)
    rotation = fit_itq(student.stored_hash_features(embedding_ND), num_bits=student.num_bits, seed=seed)
    with torch.no_grad():
        student.head_hash.weight.copy_(torch.from_numpy(rotation.weight_bD))
        student.head_hash.bias.copy_(torch.from_numpy(rotation.bias_b))
    return student
