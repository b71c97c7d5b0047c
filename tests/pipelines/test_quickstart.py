"""The whole way on one machine, small."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from eet.gallery import read_hits
from eet.training import fit
from pipelines import distill, encode, quickstart
from pipelines.job.options import DataOptions, StudentOptions, TrainOptions
from pipelines.training.run import read_labelled_images

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    for name, value in {"LABELS": 4, "UNSEEN": 1, "TRAIN": 8, "TEST": 3, "SIZE": 48}.items():
        monkeypatch.setattr(quickstart, f"SYNTHETIC_{name}", value)
    monkeypatch.setattr(quickstart, "SWEEP_TRIALS", 1)


def config_of(out: Path, **changes) -> quickstart.QuickstartConfig:
    student = StudentOptions(
        backbone="vit_tiny_patch16_224",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
        image_size=48,
        bits=16,
    )
    train = TrainOptions(epochs=1, batch_size=6, optimizer="adamw", learning_rate=1e-3, cpus_per_worker=1)
    return quickstart.QuickstartConfig(out=str(out), student=student, train=train, **changes)


@pytest.mark.timeout(600)
def test_it_goes_from_drawn_pictures_to_a_table_and_a_page(ray_session, small, tmp_path, capsys):
    out = tmp_path / "quickstart"
    result = quickstart.run(config_of(out, with_sweep=True))
    assert result.report == out / "report.html"
    assert list(result.measures) == ["seen", "seen, re-ranked", "unseen", "unseen, re-ranked"]
    assert all(0 <= values["mAP"] <= 1 for values in result.measures.values())
    assert [values["queries"] for values in result.measures.values()] == [9, 9, 3, 3]
    trained = json.loads((out / "model" / "test.json").read_text())
    assert set(trained["student"]) == {"encoded", "unseen labels"} and "teacher" in trained
    assert 0.05 < result.creature["image"] < 0.5 and 0 <= result.creature["last_stage"] <= 1
    assert [name for name in read_hits(str(out / "reranked.parquet")).column_names if name.startswith("score_")]

    html = result.report.read_text()
    sources = re.findall(r'<img[^>]* src="([^"]{0,30})', html)
    # Three queries before and after re-ranking, their first two hits matched, kept patches, five more queries, three figures.
    assert len(sources) == 3 * 2 + 3 * 2 + 6 + 5 + 3 and all(source.startswith("data:image/") for source in sources)
    assert html.index("<img") < html.index("the first hit has the label of its query") < html.index("<table"), "images, words, numbers"
    assert html.count("<table") == 2 and "keep_ratios.0" in html
    assert len(set(read_hits(str(out / "hits.parquet"))["query_id"].to_pylist())) == 12
    printed = capsys.readouterr().out
    assert "mAP" in printed and str(result.report) in printed and "covers" in printed
    assert not (tmp_path / "mlflow.db").exists() and (out / "mlflow.db").is_file()

    with pytest.raises(ValueError, match="holds a finished quickstart"):
        quickstart.run(config_of(out))


@pytest.fixture
def trained(tmp_path) -> tuple[DataOptions, Path, Path]:
    """Images, model and gallery of README's first command: of its run that EET_QUICKSTART names, or made in this process without Ray."""
    config = quickstart.QuickstartConfig(out=os.environ.get("EET_QUICKSTART", str(tmp_path)))
    out = Path(config.out)
    data = quickstart.data_options(config, out)
    if "EET_QUICKSTART" in os.environ:
        return data, out / "model", out / "gallery"
    training = quickstart.training_config(config, data, out)
    images = read_labelled_images(data, validation_share=0.0, seed=config.seed)
    task = distill.task_of(training, images)
    threads = torch.get_num_threads()
    torch.set_num_threads(training.train.cpus_per_worker)
    fitted = fit(task, training.train.settings(config.seed, num_images=len(images.train)))
    torch.set_num_threads(threads)
    task.save("student", out / "model", {})
    (out / "model" / "test.json").write_text(json.dumps(fitted.test))
    gallery = out / "gallery"
    encode.run(encode.EncodeConfig(model=training.out, data=data, split="test", tokens=True, out=str(gallery), engine="local"))
    return data, out / "model", gallery


@pytest.mark.timeout(1500)
def test_it_reaches_what_the_readme_promises(trained):
    data, model, gallery = trained
    student = json.loads((model / "test.json").read_text())["student"]
    assert student["encoded"]["P@1"] >= 0.90 and student["encoded"]["mAP"] >= 0.80
    assert student["unseen labels"]["P@1"] >= 0.60
    shares = quickstart.creature_shares(str(gallery), data, str(model))
    assert shares["last_stage"] >= 2.0 * shares["image"]


def test_the_result_in_words():
    measures = {"seen": {"P@1": 0.934}, "seen, re-ranked": {"P@1": 0.95}}
    assert quickstart.in_words(measures, 0.0596, 64, {}) == (
        "With 64 bits an image, the first hit has the label of its query for 93 of 100 queries; by chance it would for 6 of 100."
    )
    printed = quickstart.in_words({**measures, "unseen": {"P@1": 0.7}}, 0.0596, 64, {"image": 0.25, "last_stage": 0.6})
    assert "for 93 of 100 queries, and for 70 of 100 queries of labels that were never trained; by chance" in printed
    assert "covers 25% of an image and 60% of the patches" in printed and "2.4 times its share" in printed


def test_a_dry_run_starts_nothing(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quickstart, "connected", None)
    result = quickstart.run(config_of(tmp_path / "quickstart", dry_run=True))
    printed = capsys.readouterr().out
    assert "nothing was started" in printed and "3 labels" in printed
    assert not result.report.exists() and not (tmp_path / "quickstart" / "model").exists()
