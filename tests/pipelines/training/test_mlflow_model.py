"""A logged bundle is loaded by MLflow alone, and gives the codes of EET."""

import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest

import eet
from eet.gallery import load_model, read_model_record
from pipelines.job.tracking import tracked
from pipelines.training.mlflow_model import ImageCodes, write_mlmodel


@pytest.fixture(scope="module")
def loaded(tiny_model, tmp_path_factory):
    """The model of a run that logged it as a training does."""
    import mlflow

    folder = tmp_path_factory.mktemp("logged")
    with tracked("distill", None, str(folder / "model"), {}) as run:
        for name in ("model.safetensors", "model.json"):
            run.log_artifact(Path(tiny_model) / name, "bundle")
        run.log_artifact(write_mlmodel(folder), "bundle")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        yield mlflow.pyfunc.load_model(f"runs:/{run.run_id}/bundle")
    finally:
        mlflow.set_tracking_uri(before)


def test_paths_and_bytes_get_the_codes_of_encode(loaded, tiny_model, photos):
    paths = sorted(str(path) for path in photos.iterdir())[:40]  # more than one batch
    codes, ids = eet.encode(str(tiny_model), paths).codes()
    wanted = dict(zip(ids.to_pylist(), (code.tobytes() for code in codes), strict=True))
    by_path = loaded.predict(paths)
    assert by_path["code"].tolist() == [wanted[path] for path in paths] and set(by_path["status"]) == {"ok"}
    np.testing.assert_array_equal(np.packbits(np.stack(by_path["hash"].to_list()) > 0, axis=1), codes)
    files = pandas.DataFrame({"image": [Path(path).read_bytes() for path in paths[:3]]})
    assert loaded.predict(files)["code"].tolist() == [wanted[path] for path in paths[:3]]


def test_an_image_that_cannot_be_read_has_no_code(loaded, photos, tmp_path):
    (tmp_path / "cut.png").write_bytes(next(photos.iterdir()).read_bytes()[:300])
    found = loaded.predict([str(tmp_path / "gone.png"), str(next(photos.iterdir())), b"no image", str(tmp_path / "cut.png")])
    assert found["status"].tolist()[:2] == ["missing", "ok"] and found["code"].isna().tolist() == [True, False, True, True]
    assert found["error"][0] and found["error"].isna().tolist() == [False, True, False, False]
    assert len(loaded.predict([])) == 0


def test_what_is_no_image_is_refused(tiny_model):
    with pytest.raises(ValueError, match="given as int: give the bytes of its file"):
        ImageCodes(load_model(tiny_model)).predict([3])


def test_the_logged_folder_is_still_a_bundle(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "bundle")
    write_mlmodel(tmp_path / "bundle")
    assert read_model_record(tmp_path / "bundle").digest == read_model_record(tiny_model).digest
    assert "pickle" not in (tmp_path / "bundle" / "MLmodel").read_text()
