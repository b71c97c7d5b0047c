"""A bundle as a model of MLflow: `mlflow.pyfunc.load_model` gives a model that takes images and gives codes.

MLflow imports this module where it loads such a model, so EET must be installed there. Nothing is pickled.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eet.device import Device
from eet.errors import InputError
from eet.gallery import OK, GalleryModel, load_model
from eet.images import DecodeFailure

MLMODEL_FILE = "MLmodel"
"""With this file a bundle is a model of MLflow too."""
BATCH_SIZE = 32


class ImageCodes:
    """The model that MLflow loads.

    Args:
        model: of EET, in eval mode.
    """

    def __init__(self, model: GalleryModel) -> None:
        self.device = Device.of()
        self.model = model.to(self.device.torch_device)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """The codes of images.

        Args:
            model_input: a pandas DataFrame whose first column holds the images, or a list, array or Series of them. An image is the bytes
                of a file, or a local path or URI.
            params: not used; MLflow passes it.

        Returns:
            A pandas DataFrame with a row for each image: code, packed bytes; hash, float32 (bits,), whose signs are the code; status, "ok"
            or why there is no code; error. Without a code, code and hash are None.

        Raises:
            InputError: an image is neither bytes nor text.
        """
        import pandas

        rows: list[dict[str, Any]] = []
        images = _images_in(model_input)
        for start in range(0, len(images), BATCH_SIZE):
            rows += self._rows_of(images[start : start + BATCH_SIZE])
        return pandas.DataFrame(rows, columns=["code", "hash", "status", "error"])

    @torch.inference_mode()
    def _rows_of(self, images: list[bytes | str]) -> list[dict[str, Any]]:
        preprocessing = self.model.preprocessing
        opened = [preprocessing.decode(image) if isinstance(image, bytes) else preprocessing.read(image) for image in images]
        rows: list[dict[str, Any]] = [
            {"code": None, "hash": None, "status": view.status, "error": view.error}
            if isinstance(view, DecodeFailure)
            else {"status": OK, "error": None}
            for view in opened
        ]
        views = [np.asarray(view) for view in opened if not isinstance(view, DecodeFailure)]
        if not views:
            return rows
        with self.device.autocast():
            pixels = torch.from_numpy(np.stack(views)).to(self.device.torch_device)
            hashes = self.model(preprocessing.normalise(pixels), tokens=False).hash.float().cpu().numpy()
        found = iter(zip(np.packbits(hashes > 0, axis=1), hashes, strict=True))
        for row in rows:
            if row["status"] == OK:
                code, row["hash"] = next(found)
                row["code"] = code.tobytes()
        return rows


def _images_in(model_input: Any) -> list[bytes | str]:
    import pandas

    values: Iterable[Any] = model_input.iloc[:, 0] if isinstance(model_input, pandas.DataFrame) else model_input
    if isinstance(values, bytes | str):
        values = [values]
    images = [
        value.item() if isinstance(value, np.generic) else bytes(value) if isinstance(value, bytearray) else value for value in values
    ]
    for image in images:
        if not isinstance(image, bytes | str):
            raise InputError(f"an image is given as {type(image).__name__}: give the bytes of its file, or its path or URI as text")
    return images


def write_mlmodel(folder: str | Path) -> Path:
    """Writes the file that makes the other files of a folder, a bundle, a model of MLflow. Returns its path."""
    import mlflow.models
    import mlflow.pyfunc

    model = mlflow.models.Model()
    mlflow.pyfunc.add_to_model(model, loader_module=__name__, data=".")
    path = Path(folder) / MLMODEL_FILE
    model.save(str(path))
    return path


def _load_pyfunc(path: str) -> ImageCodes:
    """What MLflow calls with the folder of the bundle."""
    return ImageCodes(load_model(path))
