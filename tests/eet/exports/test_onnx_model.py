"""An exported model makes the codes of EET in onnxruntime, which knows nothing of EET."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import eet
from eet.datasets import synthetic
from eet.errors import EetError
from eet.exports import onnx_model
from eet.gallery import read_model_record
from eet.images import Preprocessing, read_image


@pytest.fixture(scope="module")
def exported(tiny_model, tmp_path_factory) -> tuple[Path, str]:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    path = tmp_path_factory.mktemp("onnx") / "birds.onnx"
    return path, onnx_model.write_onnx(str(tiny_model), str(path))


@pytest.mark.slow
def test_any_number_of_images_gets_the_codes_of_encode(exported, tiny_model, tiny_birds):
    import onnxruntime

    path, said = exported
    assert f"no bit of {12 * 16} differs in onnxruntime, in batches of 1, 3, 8 images" in said
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    table = synthetic.load(str(tiny_birds))
    locations = [table.location(row) for row in range(11)]
    wanted, ids = eet.encode(str(tiny_model), locations, embedding=True).codes()
    preprocess = Preprocessing.from_dict(json.loads(session.get_modelmeta().custom_metadata_map["eet.preprocessing"]))
    images = torch.stack([preprocess(read_image(location)) for location in ids.to_pylist()]).numpy()
    for rows in (slice(0, 1), slice(1, 3), slice(3, 11)):
        code, hashes, embedding = session.run(["code", "hash", "embedding"], {"images": images[rows]})
        np.testing.assert_array_equal(code, wanted[rows])
        np.testing.assert_array_equal(np.packbits(hashes > 0, axis=1), code)
        assert embedding.shape == (len(code), 32)
    assert session.get_modelmeta().custom_metadata_map["eet.model_digest"] == read_model_record(tiny_model).digest


@pytest.mark.slow
def test_other_weights_are_found_by_the_comparison(exported, tiny_model):
    network = onnx_model.CodeModel(eet.load_model(tiny_model)).eval()
    same = onnx_model.compared(exported[0], network, network.model.preprocessing, batches=(2,))
    assert same.differing == 0 and same.bits == 32 and same.hash_difference < 1e-4 < same.margin * 1e3
    with torch.no_grad():
        network.model.head_hash.weight[3].neg_()
        network.model.head_hash.bias[3].neg_()
    other = onnx_model.compared(exported[0], network, network.model.preprocessing, batches=(2,))
    assert other.differing == 2  # bit 3 of both images


@pytest.mark.slow
def test_a_file_whose_codes_differ_is_not_kept(exported, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "compared", lambda *_: onnx_model.OnnxCheck((1, 3, 8), 192, 2, 0.1, 0.01))
    with pytest.raises(EetError, match="2 of 192 bits of the ONNX file differ"):
        onnx_model.write_onnx(str(tiny_model), str(tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"{package}.*pip install onnx onnxscript onnxruntime"):
        onnx_model.write_onnx(str(tiny_model), str(tmp_path / "model.onnx"))
