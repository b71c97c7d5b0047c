"""A model as an ONNX file that makes codes, and the check that it makes the same ones.

Shapes: B images of a batch, b bits of a code.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.errors import EetError, InputError
from eet.gallery import GalleryModel, load_model, record_of
from eet.images import Preprocessing
from eet.storage import whole_file

OUTPUTS = ("code", "hash", "embedding")
CHECKED_BATCHES = (1, 3, 8)
"""Batch sizes in which the codes of the file are compared with those of the model."""
MOST_BYTES = 2 * 10**9
"""An ONNX file with its weights in it, a protocol buffer, cannot hold more."""


class CodeModel(nn.Module):
    """A model of EET whose outputs are what a program without EET needs.

    images, float32 (B, 3, H, W), preprocessed -> code, uint8 (B, ceil(b / 8)), as `eet.hashing.pack` packs it; hash, float32 (B, b), whose
    signs are the code; embedding, float32 (B, D).
    """

    weights: Tensor

    def __init__(self, model: GalleryModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weights", 2 ** torch.arange(7, -1, -1, dtype=torch.int32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.model(images, tokens=False)
        bits = F.pad((out.hash > 0).to(torch.int32), (0, -self.model.num_bits % 8)).unflatten(1, (-1, 8))
        return (bits * self.weights).sum(dim=2).to(torch.uint8), out.hash, out.embedding


@dataclass(frozen=True)
class OnnxCheck:
    """What the comparison of an ONNX file with its model found.

    Attributes:
        batches: the batch sizes.
        bits: number of bits that were compared.
        differing: number of them that differ.
        hash_difference: the largest difference of two hash values.
        margin: the smallest absolute hash value: a difference below it changes no bit.
    """

    batches: tuple[int, ...]
    bits: int
    differing: int
    hash_difference: float
    margin: float


def check_onnx() -> None:
    """InputError where a package that writes or runs ONNX cannot be imported."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"an export to ONNX needs the packages onnx, onnxscript and onnxruntime, and one cannot be imported ({error}): install them "
            "(`pip install onnx onnxscript onnxruntime`)"
        ) from error


def write_onnx(location: str, path: str, name: str = "model") -> str:
    """Writes the model of a bundle as an ONNX file that takes any number of images, and compares its codes with those of the model.

    The metadata of the file holds what `Preprocessing.to_dict` returns, as JSON, and the number of bits and digests of the model.

    Args:
        location: of the bundle.
        path: local file. It appears only if no bit of a code differs.
        name: of the graph.

    Returns:
        One sentence about the check.

    Raises:
        InputError: a package is missing, there is no bundle, or the model is too large for one file.
        EetError: a bit differs.
    """
    check_onnx()
    import onnx

    model = load_model(location).eval()
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if size >= MOST_BYTES:
        raise InputError(f"the weights of {location} are {size / 1e9:.1f} GB: one ONNX file holds less than {MOST_BYTES / 1e9:.0f} GB")
    network = CodeModel(model).eval()
    images = torch.zeros(2, 3, *model.preprocessing.image_size)
    with torch.no_grad():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    proto: Any = program.model_proto
    proto.graph.name = name
    record = record_of(model)
    onnx.helper.set_model_props(
        proto,
        {
            "eet.preprocessing": json.dumps(model.preprocessing.to_dict()),
            "eet.num_bits": str(model.num_bits),
            "eet.model_digest": record.digest,
            "eet.preprocessing_digest": record.preprocessing_digest,
        },
    )
    with tempfile.TemporaryDirectory(prefix="eet-onnx-") as folder:
        written = Path(folder) / "model.onnx"
        onnx.save(proto, written)
        found = compared(written, network, model.preprocessing)
        if found.differing:
            raise EetError(
                f"{found.differing} of {found.bits} bits of the ONNX file differ from the model's, with hashes that differ by up to "
                f"{found.hash_difference:.1e}: nothing was written. Use the model through EET, or export it with another version of torch"
            )
        with whole_file(pafs.LocalFileSystem(), path) as file:
            file.write(written.read_bytes())
    return (
        f"no bit of {found.bits:,} differs in onnxruntime, in batches of {', '.join(map(str, found.batches))} images; hashes differ by at "
        f"most {found.hash_difference:.1e}, and the smallest is {found.margin:.1e}"
    )


@torch.no_grad()
def compared(path: Path, network: CodeModel, preprocessing: Preprocessing, *, batches: tuple[int, ...] = CHECKED_BATCHES) -> OnnxCheck:
    """Compares an ONNX file in onnxruntime on the CPU with the network that it was made of, on drawn images.

    Args:
        path: the file.
        network: the network, in eval mode.
        preprocessing: of its images.
        batches: batch sizes, each with images of its own.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    bits, differing, hash_difference, margin = 0, 0, 0.0, float("inf")
    for batch in batches:
        images = preprocessing.normalise(_drawn_images(random, batch, preprocessing.image_size))
        code, hashes, _ = (value.numpy() for value in network(images))
        onnx_code, onnx_hashes, _ = session.run(list(OUTPUTS), {"images": images.numpy()})
        bits += batch * hashes.shape[1]
        differing += int(np.bitwise_count(code ^ onnx_code).sum())
        hash_difference = max(hash_difference, float(np.abs(hashes - onnx_hashes).max()))
        margin = min(margin, float(np.abs(hashes).min()))
    return OnnxCheck(batches, bits, differing, hash_difference, margin)


def _drawn_images(random: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Coloured blobs with some noise, uint8 (count, H, W, 3): in pure noise all patches would be equally important."""
    blobs = torch.from_numpy(random.uniform(0, 255, (count, 3, 7, 7)).astype(np.float32))
    smooth = F.interpolate(blobs, size=size, mode="bicubic").permute(0, 2, 3, 1).numpy()
    return (smooth + random.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
