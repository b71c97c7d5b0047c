"""Measures of galleries and of hits, against eet.metrics on the arrays themselves."""

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eet.datasets import synthetic
from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.metrics import average_precision, encoded_protocol, published_protocol, ranked_metrics
from eet.vit import load_bundle, read_bundle_record, save_bundle
from pipelines import encode, evaluate, search
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
    assert encoded_only(galleries["test"], new_out(), count_query=True)["R-precision"] < alone["R-precision"]


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


def test_a_gallery_without_labels_cannot_be_measured(galleries, tmp_path, new_out):
    codes, _ = arrays(galleries["test"])
    plain = hand_made(tmp_path / "plain", codes, [None] * len(codes), None)
    with pytest.raises(ValueError, match="has no labels"):
        evaluate.run(evaluate.EvaluateConfig(gallery=plain.path, out=new_out()))


def test_hits_of_the_whole_gallery_give_the_rankings_measures(galleries, tmp_path, new_out):
    hits = str(tmp_path / "hits.parquet")
    search.run(search.SearchConfig(gallery=galleries["test"], queries=galleries["test"], k=100, out=hits))
    values = encoded_only(galleries["test"], new_out(), hits=hits)
    ranked = encoded_only(galleries["test"], new_out())
    assert values.pop("mAP@15") == pytest.approx(ranked["mAP_stable"])  # all 15 others, in their order
    for name, value in values.items():
        assert value == pytest.approx(ranked[name]), name
    assert {"P@1", "P@10", "recall@1", "recall@2", "recall@4", "recall@8", "R-precision", "MAP@R", "queries"} == set(values)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_map_at_k_by_a_loop_and_no_r_measures_below_r(galleries, tmp_path, capsys, k, new_out):
    hits_path = str(tmp_path / "hits.parquet")
    hits = search.run(search.SearchConfig(gallery=galleries["train"], queries=galleries["test"], k=k, out=hits_path))
    values = encoded_only(galleries["train"], new_out(), queries=galleries["test"], hits=hits_path)
    expected = []
    for query in dict.fromkeys(hits["query_id"].to_pylist()):
        rows = sorted((row for row in hits.to_pylist() if row["query_id"] == query), key=lambda row: row["rank"])
        found, total = 0, 0.0
        for row in rows:
            if row["item_label"] == row["query_label"]:
                found += 1
                total += found / row["rank"]
        expected.append(total / min(8, k))  # 8 training pictures of each label
    assert values[f"mAP@{k}"] == pytest.approx(np.mean(expected))
    assert "mAP" not in values and "R-precision" not in values and "MAP@R" not in values
    assert "search with a larger --k" in capsys.readouterr().out


def test_queries_that_only_share_names_with_items_are_not_taken_for_them(galleries, tmp_path, new_out):
    """A query set whose files are called as the gallery's are: all 8 matches count, none is the query."""
    codes, labels = arrays(galleries["train"])
    names = open_gallery(galleries["train"]).manifest.label_names
    items = hand_made(tmp_path / "items", codes, labels.tolist(), names)
    queries = hand_made(tmp_path / "queries", codes[::4].copy(), labels[::4].tolist(), names)
    hits = str(tmp_path / "hits.parquet")
    search.run(search.SearchConfig(gallery=items.path, queries=queries.path, k=32, out=hits))
    values = encoded_only(items.path, new_out(), queries=queries.path, hits=hits)
    ranked = encoded_only(items.path, new_out(), queries=queries.path)
    assert values["R-precision"] == pytest.approx(ranked["R-precision"])
    assert values["mAP@32"] == pytest.approx(ranked["mAP_stable"])


def test_hits_of_other_queries_are_refused_where_the_gallery_should_be_its_own(galleries, tmp_path, new_out):
    hits = str(tmp_path / "hits.parquet")
    search.run(search.SearchConfig(gallery=galleries["train"], queries=galleries["test"], k=9, out=hits))
    with pytest.raises(ValueError, match="give --queries"):
        encoded_only(galleries["train"], new_out(), hits=hits)


def test_expected_map_is_the_mean_over_queries_of_the_expected_precision(galleries, new_out):
    codes, labels = arrays(galleries["test"])
    bits = np.unpackbits(codes, axis=1).astype(int)
    precisions = []
    for query in range(len(codes)):
        others = np.arange(len(codes)) != query
        distances = (bits[query] != bits[others]).sum(axis=1)
        precisions.append(average_precision(distances, labels[others] == labels[query], ties="expected"))
    assert encoded_only(galleries["test"], new_out())["mAP"] == pytest.approx(np.mean(precisions))


def test_a_dry_run_writes_nothing(galleries, tmp_path, capsys):
    evaluate.run(evaluate.EvaluateConfig(gallery=galleries["test"], out=str(tmp_path / "e"), dry_run=True))
    assert "nothing was started" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
