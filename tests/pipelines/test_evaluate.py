"""Measures of galleries and of hits, against eet.metrics on the arrays themselves."""

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

import eet
from eet.datasets import synthetic
from eet.errors import InputError
from eet.gallery import Gallery, Manifest, open_gallery, part_table, read_hits, write_hits, write_manifest, write_part
from eet.metrics import encoded_protocol, published_protocol, ranked_metrics
from eet.retrieval.measures import hits_measures
from eet.retrieval.search import search_gallery
from eet.storage import join_location, read_bytes, read_text
from eet.vit import load_bundle, read_bundle_record, save_bundle
from pipelines import encode, evaluate
from pipelines.job.options import DataOptions


@pytest.fixture(scope="module")
def galleries(tiny_model, tiny_birds, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("galleries")
    data = DataOptions(name="synthetic", root=str(tiny_birds))
    for split in ("train", "test"):
        encode.run(encode.EncodeConfig(model=str(tiny_model), data=data, split=split, out=str(folder / split), engine="local"))
    return {split: str(folder / split) for split in ("train", "test")}


@pytest.fixture(scope="module")
def new_out(tmp_path_factory) -> Callable[[], str]:
    """Output folders side by side, so that MLflow's database, which takes seconds to make, is made once."""
    parent, numbers = tmp_path_factory.mktemp("evaluations"), itertools.count()
    return lambda: str(parent / f"{next(numbers)}")


def arrays(path: str) -> tuple[np.ndarray, np.ndarray]:
    gallery = open_gallery(path)
    return gallery.codes()[0], gallery.labels()


def test_both_protocols_are_those_of_the_arrays(galleries, tiny_model, tmp_path, new_out):
    out = Path(new_out())
    config = evaluate.EvaluateConfig(gallery=galleries["test"], model=str(tiny_model), out=str(out), ks=(1, 3), recall_ks=(2,))
    result = evaluate.run(config)
    codes, labels = arrays(galleries["test"])
    record = read_bundle_record(tiny_model)
    encoded = encoded_protocol(codes, labels, num_bits=16, ks=(1, 3), recall_ks=(2,))
    published = published_protocol(codes, labels, record.target_codes, record.label_counts, ks=(1, 3), recall_ks=(2,))
    assert result.measures == {"encoded": encoded, "published": published}
    assert encoded["mAP"] != published["mAP"] and encoded["P@3"] < 1
    assert json.loads((out / "metrics.json").read_text()) == result.measures
    assert encoded["mAP_low"] < encoded["mAP"] < encoded["mAP_high"]
    assert (out / "pr_curve.png").read_bytes().startswith(b"\x89PNG")

    with (out / "pr_curve.csv").open() as file:
        points = list(csv.DictReader(file))
    assert len(points) == 2 * 17
    # The encoded curve, by counting pairs.
    bits = np.unpackbits(codes, axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(axis=-1)
    other = ~np.eye(len(codes), dtype=bool)
    match = (labels[:, None] == labels[None]) & other
    for point in points[:17]:
        assert point["protocol"] == "encoded"
        near = (distance <= int(point["radius"])) & other
        assert float(point["recall"]) == pytest.approx((near & match).sum() / match.sum(), abs=1e-6)
        assert (point["precision"] == "") == (not near.any())
        if near.any():
            assert float(point["precision"]) == pytest.approx((near & match).sum() / near.sum(), abs=1e-6)

    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{out.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("eet").experiment_id], f"run_name = 'evaluate {out.name}'")
    assert run.info.status == "FINISHED" and run.data.metrics["encoded_mAP"] == pytest.approx(encoded["mAP"])
    assert run.data.metrics["published_P_at_1"] == published["P@1"]


def test_measures_are_on_disk_before_mlflow_has_them(galleries, new_out, monkeypatch):
    import mlflow

    out = Path(new_out())
    monkeypatch.setattr(mlflow.MlflowClient, "log_metric", lambda *given, **options: json.loads((out / "metrics.json").read_text())["none"])
    with pytest.raises(KeyError, match="none"):
        evaluate.run(evaluate.EvaluateConfig(gallery=galleries["test"], out=str(out)))


def test_a_remote_output_has_the_files_of_a_local_one(galleries, tmp_path, new_out):
    local, remote = Path(new_out()), f"memory://{tmp_path.name}/evaluation"
    config = evaluate.EvaluateConfig(gallery=galleries["test"], out=str(local), tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    measures = evaluate.run(config).measures
    assert evaluate.run(dataclasses.replace(config, out=remote)).measures == measures
    for name in ("metrics.json", "pr_curve.csv"):
        assert read_bytes(join_location(remote, name)) == (local / name).read_bytes()
    assert read_bytes(join_location(remote, "pr_curve.png")).startswith(b"\x89PNG")
    assert read_text(join_location(remote, "config.yaml")) == (local / "config.yaml").read_text().replace(str(local), remote)


def test_a_remote_output_needs_a_tracking_address(galleries, tmp_path):
    (problem,) = evaluate.EvaluateConfig(gallery=galleries["test"], out=f"memory://{tmp_path.name}/evaluation").problems()
    assert "is remote, so --tracking-uri is needed" in problem  # before anything is measured


def encoded_only(gallery: str, out: str, **changes) -> dict[str, float]:
    config = evaluate.EvaluateConfig(gallery=gallery, out=out, protocol="encoded", **changes)
    (values,) = evaluate.run(config).measures.values()
    return values


def test_queries_of_their_own_rank_the_whole_gallery(galleries, new_out):
    values = encoded_only(galleries["train"], new_out(), queries=galleries["test"])
    (codes, labels), (query_codes, query_labels) = arrays(galleries["train"]), arrays(galleries["test"])
    assert values == ranked_metrics(query_codes, query_labels, codes, labels, num_bits=16)


def test_the_gallery_named_as_its_own_queries_is_the_gallery_alone(galleries, new_out):
    alone = encoded_only(galleries["test"], new_out())
    assert encoded_only(galleries["test"], new_out(), queries=galleries["test"] + "/") == alone
    codes, labels = arrays(galleries["test"])
    wanted = encoded_protocol(codes, labels, num_bits=16, count_query=True)["R-precision"]
    assert encoded_only(galleries["test"], new_out(), count_query=True)["R-precision"] == wanted != alone["R-precision"]


def test_the_published_protocol_needs_a_bundle_with_target_codes_that_encoded_the_queries(galleries, tiny_model, tmp_path, capsys, new_out):
    encoded = evaluate.run(evaluate.EvaluateConfig(gallery=galleries["test"], out=new_out()))
    assert set(encoded.measures) == {"encoded"} and "without --model" in capsys.readouterr().out
    student = load_bundle(tiny_model)
    save_bundle(student, tmp_path / "bare")
    config = evaluate.EvaluateConfig(gallery=galleries["test"], model=str(tmp_path / "bare"), out=new_out())
    with pytest.raises(ValueError, match="keeps no target codes"):
        evaluate.run(config)
    student.head_hash.bias.data += 1
    record = read_bundle_record(tiny_model)
    save_bundle(
        student, tmp_path / "other", label_names=record.label_names, target_codes=record.target_codes, label_counts=record.label_counts
    )
    with pytest.raises(ValueError, match="was encoded with model"):
        evaluate.run(dataclasses.replace(config, model=str(tmp_path / "other")))


def hand_made(path: Path, codes: np.ndarray, labels: list[int | None], names, *, like: str | None = None, prefix: str = "item") -> Gallery:
    digest = open_gallery(like).manifest if like else None
    manifest = Manifest(
        model_digest=digest.model_digest if digest else "m",
        preprocessing_digest=digest.preprocessing_digest if digest else "p",
        num_bits=8 * codes.shape[1],
        num_rows=len(codes),
        num_ok=len(codes),
        num_parts=1,
        rows_per_part=len(codes),
        label_names=names,
    )
    ids = [f"{prefix}{row:03d}" for row in range(len(codes))]  # ties go by id, which is the order of rows here
    write_part(str(path), 0, part_table(ids, ids, labels, codes, ["ok"] * len(ids), [None] * len(ids), schema=manifest.schema))
    write_manifest(str(path), manifest)
    return open_gallery(str(path))


def test_labels_are_matched_by_name_under_both_protocols(galleries, tiny_model, tiny_birds, tmp_path, new_out):
    """The same test pictures, their labels numbered the other way round."""
    codes, labels = arrays(galleries["test"])
    names = synthetic.load(str(tiny_birds)).label_names
    turned = hand_made(tmp_path / "turned", codes, [3 - int(label) for label in labels], names[::-1], like=galleries["test"])
    model = str(tiny_model)
    ours = evaluate.run(evaluate.EvaluateConfig(gallery=galleries["train"], queries=turned.path, model=model, out=new_out()))
    theirs = evaluate.run(evaluate.EvaluateConfig(gallery=galleries["train"], queries=galleries["test"], model=model, out=new_out()))
    assert ours.measures == theirs.measures
    strange = hand_made(tmp_path / "strange", codes, labels.tolist(), ("dodo", *names[1:]), like=galleries["test"])
    with pytest.raises(ValueError, match="unknown to the model, for example.*dodo"):
        evaluate.run(evaluate.EvaluateConfig(gallery=strange.path, model=model, out=new_out()))


def test_labels_that_were_trained_and_those_that_were_not(galleries, tiny_model, tiny_birds, tmp_path, capsys, new_out):
    """The same network, in a bundle that was trained on the labels 1 and 3 of 0 to 3, and on one more."""
    names, record = synthetic.load(str(tiny_birds)).label_names, read_bundle_record(tiny_model)
    trained = (names[3], "kiwi", names[1])
    save_bundle(
        load_bundle(tiny_model), tmp_path / "some", label_names=trained, target_codes=record.target_codes[:3], label_counts=[8, 8, 8]
    )
    config = evaluate.EvaluateConfig(gallery=galleries["test"], model=str(tmp_path / "some"), out=new_out())
    with pytest.raises(ValueError, match="or choose the seen labels"):
        evaluate.run(config)

    codes, labels = arrays(galleries["test"])
    for choice, numbers in (("seen", (1, 3)), ("unseen", (0, 2))):
        out = new_out()
        found = evaluate.run(dataclasses.replace(config, labels=choice, out=out)).measures
        rows = np.flatnonzero(np.isin(labels, numbers))
        expected = {"encoded": ranked_metrics(codes[rows], labels[rows], codes, labels, num_bits=16, query_rows=rows)}
        if choice == "seen":
            places = np.array([-1, 2, -1, 0])
            expected["published"] = published_protocol(codes[rows], places[labels[rows]], record.target_codes[:3], np.array([8, 8, 8]))
        assert found == expected and json.loads((Path(out) / "metrics.json").read_text()) == expected
        assert found["encoded"]["queries"] == 8
        assert f"only queries of the 2 {choice} labels" in capsys.readouterr().out

    hits = str(tmp_path / "hits.parquet")
    gallery = open_gallery(galleries["test"])
    write_hits(hits, search_gallery(gallery, gallery, k=15))
    found = evaluate.run(dataclasses.replace(config, labels="unseen", protocol="encoded", hits=hits, out=new_out())).measures
    assert found["encoded, hits"]["MAP@R"] == pytest.approx(expected["encoded"]["MAP@R"])
    with pytest.raises(ValueError, match="was encoded with model"):
        evaluate.run(dataclasses.replace(config, gallery=hand_made(tmp_path / "other", codes, labels.tolist(), names).path, labels="seen"))


def test_hits_are_measured_by_the_chosen_denominator_and_with_stable_ties(galleries, tmp_path, new_out):
    hits, gallery = str(tmp_path / "hits.parquet"), open_gallery(galleries["test"])
    table = search_gallery(gallery, gallery, k=2)
    write_hits(hits, table)
    values = encoded_only(galleries["test"], new_out(), hits=hits, denominator="reachable", ties="stable")
    expected = hits_measures(table, gallery, own=True, denominator="reachable", ties="stable").values
    assert values == expected and values["mAP@2"] == pytest.approx(1.5 * encoded_only(galleries["test"], new_out(), hits=hits)["mAP@2"])
    ranked = encoded_only(galleries["test"], new_out(), ties="stable")
    assert ranked["P@1"] != ranked["P@1_stable"] == values["P@1_stable"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": "seen"}, "--labels seen needs --model"),
        ({"labels": "unseen", "model": "m", "protocol": "published"}, "cannot use --protocol published"),
        ({"denominator": "found"}, "--denominator found needs --hits"),
    ],
)
def test_options_that_do_not_fit_together_are_named(options, said):
    assert any(said in problem for problem in evaluate.EvaluateConfig(gallery="g", out="o", **options).problems())


def test_a_gallery_without_labels_cannot_be_measured(galleries, tmp_path, new_out):
    codes, _ = arrays(galleries["test"])
    plain = hand_made(tmp_path / "plain", codes, [None] * len(codes), None)
    with pytest.raises(ValueError, match="has no labels"):
        evaluate.run(evaluate.EvaluateConfig(gallery=plain.path, out=new_out()))


def test_a_dry_run_writes_nothing(galleries, tmp_path, capsys):
    evaluate.run(evaluate.EvaluateConfig(gallery=galleries["test"], out=str(tmp_path / "e"), dry_run=True))
    assert "nothing was started" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_a_gallery_without_a_match_is_refused_before_anything_is_written(galleries, tiny_model, tmp_path, new_out):
    table = open_gallery(galleries["test"]).table(["item_id", "uri", "label"])
    first = [table["label"].to_pylist().index(label) for label in sorted(set(table["label"].to_pylist()))]
    few = table.take(first)
    names = open_gallery(galleries["test"]).manifest.label_names
    out = str(tmp_path / "single")
    eet.encode(tiny_model, few["uri"].to_pylist(), labels=few["label"].to_pylist(), label_names=names, out=out, progress=False)
    target = new_out()
    with pytest.raises(InputError, match="encoded: no query has a match in .*single"):
        evaluate.run(evaluate.EvaluateConfig(gallery=out, protocol="encoded", out=target))
    assert not Path(target).exists()


def test_hits_and_queries_that_do_not_belong_together_are_refused(galleries, tmp_path, new_out):
    gallery = open_gallery(galleries["test"])
    hits = str(tmp_path / "hits.parquet")
    write_hits(hits, search_gallery(gallery, gallery, k=3))
    with pytest.raises(InputError, match="of the hits, such as .*, are not in .*: give the galleries that the hits were searched with"):
        evaluate.run(evaluate.EvaluateConfig(gallery=galleries["test"], queries=galleries["train"], hits=hits, out=new_out()))


@pytest.mark.parametrize("recorded", ["metadata", "config"])
def test_hits_that_were_not_found_are_counted_by_the_k_of_the_search(galleries, tmp_path, new_out, recorded):
    gallery, hits = open_gallery(galleries["test"]), str(tmp_path / "hits.parquet")
    table = search_gallery(gallery, gallery, k=6)
    table = table.filter(table["rank"].to_numpy() <= 2)
    write_hits(hits, table, recall={"recall": 0.3, "queries": 3, "k": 6} if recorded == "metadata" else None)
    if recorded == "config":
        (tmp_path / "first.config.yaml").write_text("k: 6\n")
        (tmp_path / "hits.config.yaml").write_text(f"hits: {tmp_path / 'first.parquet'}\nk: null\n")
    values = encoded_only(galleries["test"], new_out(), hits=hits, denominator="reachable")
    assert "mAP@6" in values and "mAP@2" not in values
    assert values["mAP@6"] == hits_measures(table, gallery, own=True, queries=gallery, k=6, denominator="reachable").values["mAP@6"]


def test_places_are_measured_by_distance_and_condition(placed, new_out, capsys):
    options = {"gallery": str(placed / "database"), "queries": str(placed / "queries"), "by": "condition"}
    hits = read_hits(str(placed / "hits.parquet"))
    found = evaluate.run(evaluate.EvaluateConfig(**options, hits=str(placed / "hits.parquet"), out=new_out(), metres=10)).measures
    assert list(found) == ["encoded, hits", "encoded, hits, day", "encoded, hits, night"]
    first = hits.filter(pc.equal(hits["rank"], 1))
    assert found["encoded, hits"]["recall@1"] == np.mean(first["metres"].to_numpy() <= 10)
    assert found["encoded, hits"]["queries"] == sum(found[f"encoded, hits, {name}"]["queries"] for name in ("day", "night")) == 11
    assert [name for name in found["encoded, hits"] if "recall" in name and "_" not in name] == ["recall@1", "recall@5", "recall@10"]
    with pytest.raises(InputError, match="no item lies within 5 metres of one"):
        evaluate.run(evaluate.EvaluateConfig(**options, out=new_out(), metres=5))
    whole = evaluate.run(evaluate.EvaluateConfig(**options, out=new_out(), all_queries=True)).measures
    assert set(whole) == {"encoded", "encoded, day", "encoded, night"} and whole["encoded"]["recall@1_all"] == whole["encoded"]["recall@1"]
    assert "within 25 metres of a query; only the encoded protocol is measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metres": -2.0}, "--metres -2.0: a radius is 0 or more"),
        ({"metres": 5.0, "protocol": "published", "model": "m"}, "--metres cannot use --protocol published"),
        ({"metres": 5.0, "labels": "seen", "model": "m"}, "--labels seen chooses queries by label"),
    ],
)
def test_a_radius_that_makes_no_sense_is_refused(options, message):
    assert any(message in problem for problem in evaluate.EvaluateConfig(out="o", gallery="g", **options).problems())
