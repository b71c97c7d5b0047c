"""A sweep of re-rankings: given hits are judged on half of their queries, and the chosen order is measured on the other half."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from eet.gallery import Manifest, open_gallery, part_table, read_hits, write_hits, write_manifest, write_part
from eet.retrieval.search import search_gallery
from eet.storage import OWNER_FILE, TakenOverError, claimed
from pipelines import evaluate, rerank, sweep_matching
from pipelines.cli import main
from pipelines.configs.space import trial_name, with_parameters
from pipelines.costs import matching
from pipelines.costs.matching import ms_per_query
from pipelines.job.cluster import ClusterResources, Node
from pipelines.job.tracking import default_tracking_uri
from pipelines.sweep_matching import SweepMatchingConfig, rerankings_of
from pipelines.trials import reranking, tuning
from pipelines.trials.halves import in_halves
from pipelines.trials.reranking import reranked_measures
from pipelines.trials.trial import end_trial

# POT's solver needs no compiling, which takes every process some seconds.
OWN_SPACE = """
from ray import tune

def orders():
    measure = tune.sample_from(lambda spec: "embedding" if spec["weight"] == 9.0 else "hamming")
    return {"weight": tune.grid_search([0.1, 5.0, 9.0]), "global_similarity": measure, "solver": tune.choice(["exact"])}
"""
BITS, TOKENS, DIM, LABELS, ITEMS = 8, 5, 6, 4, 36
MEASURES = ("MAP@R", "P@1", "R-precision", "mAP@k")


def write_items(path: Path, *, has_hash: bool = False, placed: bool = False) -> None:
    """A gallery without embeddings whose tokens separate labels better than its codes do, the same at every call.

    placed: items of a label lie within 25 metres of each other, far from all others, and have no label.
    """
    random = np.random.default_rng(3)
    labels = np.arange(ITEMS) % LABELS
    words = random.normal(size=(LABELS, TOKENS, DIM))
    codes = random.integers(0, 2, (LABELS, BITS))[labels] ^ (random.random((ITEMS, BITS)) < 0.3)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=ITEMS, num_ok=ITEMS, num_parts=1, rows_per_part=ITEMS,
        token_shape=(TOKENS, DIM), token_dtype="float16", embedding_dim=None, has_hash=has_hash, positions=placed,
    )  # fmt: skip
    places = pa.table({"easting": 0.5 * np.arange(ITEMS), "northing": 90.0 * labels, "zone": [""] * ITEMS, "condition": [""] * ITEMS})
    signs = np.where(codes, 1, -1)
    ids = [f"item{row:02d}" for row in range(ITEMS)]
    table = part_table(
        ids, ids, None if placed else labels, np.packbits(codes.astype(np.uint8), axis=1), ["ok"] * ITEMS, [None] * ITEMS,
        schema=manifest.schema, places=places,
        tokens=words[labels] + 1.2 * random.normal(size=(ITEMS, TOKENS, DIM)),
        token_index=np.tile(np.arange(TOKENS), (ITEMS, 1)), token_mass=random.random((ITEMS, TOKENS)),
        hash=signs * random.random((ITEMS, BITS)) if has_hash else None,
    )  # fmt: skip
    write_part(str(path), 0, table)
    write_manifest(str(path), manifest)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Any]:
    """Flags of a sweep: a gallery, and every other item as a hit of each."""
    folder = tmp_path_factory.mktemp("given")
    items = str(folder / "items")
    write_items(folder / "items")
    gallery = open_gallery(items)
    write_hits(str(folder / "hits.parquet"), search_gallery(gallery, gallery, k=ITEMS - 1))
    return {"hits": str(folder / "hits.parquet"), "gallery": items, "top": 20}


def config_of(out: Path, given: dict[str, Any], **changes) -> SweepMatchingConfig:
    return SweepMatchingConfig(out=str(out), **{**given, **changes})


def measured(hits: pa.Table, queries: set[str], config: SweepMatchingConfig, folder: Path) -> dict[str, float]:
    """The measures of `eet evaluate` for the hits of `queries`. It counts all queries of the gallery: those without a hit as 0."""
    write_hits(str(folder / "some.parquet"), hits.filter(pc.is_in(hits["query_id"], value_set=pa.array(sorted(queries)))))
    options = {"gallery": config.gallery, "hits": str(folder / "some.parquet"), "protocol": "encoded"}
    tracking_uri = default_tracking_uri(config.out)  # as a database of its own takes a while to make
    evaluation = evaluate.run(evaluate.EvaluateConfig(out=str(folder / "measures"), tracking_uri=tracking_uri, **options))
    found = evaluation.measures["encoded, hits"]
    assert found["queries"] == ITEMS
    return {name: found[name.replace("mAP@k", f"mAP@{ITEMS - 1}")] * ITEMS / len(queries) for name in MEASURES}


def ids_of(hits: pa.Table) -> set[str]:
    return set(hits["query_id"].to_pylist())


# --- before anything starts


def test_halves_are_disjoint_together_all_and_drawn_by_the_seed(given):
    hits = read_hits(given["hits"])
    judged, held_out = in_halves(hits, 1)
    assert len(ids_of(judged)) == len(ids_of(held_out)) == ITEMS // 2
    assert not ids_of(judged) & ids_of(held_out) and ids_of(judged) | ids_of(held_out) == ids_of(hits)
    assert len(judged) == len(held_out) == len(hits) // 2  # with all their hits
    assert ids_of(in_halves(hits.take(np.arange(len(hits))[::-1]), 1).judged) == ids_of(judged)
    assert ids_of(in_halves(hits, 2).judged) != ids_of(judged)


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--space", "tune_spaces.bits.bits"], ["changes student.bits", "it may change top, marginal"]),
        (["--space", "bits"], ["bits is neither one of matching nor the dotted path"]),
        (["--top", "0", "--concurrent", "0"], ["--top 0", "--concurrent 0"]),
        (["--space_options", "{form: grid, epsilons: [0.00001]}"], ["--space: --epsilon 1e-05"]),
    ],
)
def test_flags_that_are_impossible_are_refused(flags, messages, tmp_path, capsys):
    assert main(["sweep-matching", "--out", str(tmp_path / "out"), "--hits", "h", "--gallery", "g", *flags]) == 2
    errors = capsys.readouterr().err
    for message in messages:
        assert errors.count(message) == 1, errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--hits and --gallery are missing"),
        (["--hits", "h", "--gallery", "g", "--scheduler", "asha"], "--scheduler: there is no such flag"),
        (["--hits", "h", "--gallery", "g", "--costs", "[gmacs]"], "--costs: there is no such flag"),
        (["--hits", "h", "--gallery", "g", "--student.bits", "8"], "--student.bits: there is no such flag"),
        (["--hits", "h", "--gallery", "g", "--shared_teacher"], "--shared-teacher: there is no such flag"),
        (["--hits", "h", "--gallery", "g", "--data.root", "d"], "--data.root: there is no such flag"),
    ],
)
def test_flags_of_a_sweep_of_trainings_are_unknown_and_missing_ones_are_named(flags, message, tmp_path, capsys):
    assert main(["sweep-matching", "--out", str(tmp_path / "out"), *flags]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith(f"eet sweep-matching: {message}")


def test_a_trial_moves_flags_of_the_re_ranking_but_not_what_it_is_given(given, tmp_path):
    base = config_of(tmp_path, given).base
    moved = with_parameters(base, {"solver": "exact", "top": 5, "weight": 2.0})
    assert (moved.solver, moved.top, moved.weight, moved.hits) == ("exact", 5, 2.0, given["hits"])
    with pytest.raises(ValueError, match="changes hits, engine, loss.beta, which"):
        with_parameters(base, {"hits": "x", "engine": "ray", "loss.beta": 0.1})


@pytest.mark.parametrize(
    ("has_hash", "asked", "used"), [(False, None, "hamming"), (True, None, "asymmetric"), (True, "hamming", "hamming")]
)
def test_with_hashes_of_the_queries_trials_weigh_them_as_a_re_ranking_does(given, tmp_path, monkeypatch, has_hash, asked, used):
    write_items(tmp_path / "queries", has_hash=has_hash)
    monkeypatch.chdir(tmp_path)
    kind = rerankings_of(config_of(tmp_path / "out", given, queries="queries", global_similarity=asked))
    assert kind.base.queries == str(tmp_path / "queries"), "workers have another working directory"
    # Without the structural similarity the global one alone gives the order.
    trial = with_parameters(kind.base, {"solver": "exact", "weight": 0.0})
    found = {
        name: reranked_measures(kind.halves.judged, dataclasses.replace(trial, global_similarity=name), threads=torch.get_num_threads())
        for name in {asked, "hamming", *(["asymmetric"] if has_hash else [])}
    }
    assert found[asked] == found[used]
    assert not has_hash or found["hamming"] != found["asymmetric"]


def test_without_hashes_of_the_queries_the_asymmetric_similarity_is_refused(given, tmp_path):
    with pytest.raises(ValueError, match="has no real-valued hashes, which global_similarity asymmetric needs"):
        rerankings_of(config_of(tmp_path, given, global_similarity="asymmetric"))


def test_a_trial_that_a_searcher_draws_again_is_not_run_again(given, tmp_path, monkeypatch):
    reports: list[dict[str, float]] = []
    monkeypatch.setattr(reranking.tune, "report", reports.append)
    monkeypatch.setattr(reranking, "reranked_measures", None)  # must not be reached
    parameters, record = {"weight": 2.0}, dict.fromkeys(MEASURES, 0.5)
    end_trial(tmp_path / trial_name(parameters), "finished", "", [record])
    base = config_of(tmp_path, given).base
    with claimed(str(tmp_path)) as claim:
        given = {"base": base, "trials_dir": str(tmp_path), "hits": pa.table({}), "threads": 1, "parent_run": "p", "claim": claim}
        reranking.run_trial(parameters, **given)
        assert reports == [record]
        (tmp_path / OWNER_FILE).unlink()
        with pytest.raises(TakenOverError):
            reranking.run_trial({"weight": 3.0}, **given)
    assert not (tmp_path / trial_name({"weight": 3.0})).exists(), "a sweep that lost its folder writes no trial into it"


def without_labels(hits: pa.Table) -> pa.Table:
    return hits.drop_columns(["query_label", "item_label"])


def too_few(hits: pa.Table) -> pa.Table:
    return hits.filter(pc.less_equal(hits["rank"], ITEMS // LABELS - 2))


def of_one_query(hits: pa.Table) -> pa.Table:
    return hits.filter(pc.equal(hits["query_id"], "item00"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(without_labels, "no query labels"), (too_few, "search with a larger --k"), (of_one_query, "give more queries")],
)
def test_hits_that_cannot_be_judged_are_refused(change, message, given, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "connected", None)  # must not be reached
    write_hits(str(tmp_path / "hits.parquet"), change(read_hits(given["hits"])))
    with pytest.raises(ValueError, match=message):
        sweep_matching.run(config_of(tmp_path / "out", given, hits=str(tmp_path / "hits.parquet")))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_trials_and_queries_and_writes_nothing(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(tuning.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("pipelines.trials.rerankings.ms_per_query", lambda hits, configs, threads: {"first": 2e5})
    flags = ["--hits", given["hits"], "--gallery", given["gallery"], "--space_options"]
    options = "{form: grid, marginals: [uniform], epsilons: [0.05], weights: [1.0]}"
    assert main(["sweep-matching", "--out", str(tmp_path / "out"), *flags, options, "--dry-run"]) == 0
    output = capsys.readouterr().out
    # 18 queries of 200 s: an hour a trial; four of them, two at a time.
    assert "dry run: 4 trials, 2 at once" in output and "each: 18 queries on 1 CPUs" in output
    assert "about 60 min of matching a trial, 2.0 h for all" in output and "nothing was started" in output
    assert list(tmp_path.iterdir()) == []


# --- cost


def test_what_differs_in_weight_alone_is_timed_once_and_reading_is_not_timed(given, tmp_path, monkeypatch):
    items = tmp_path / "items"
    shutil.copytree(given["gallery"], items)
    base = with_parameters(config_of(tmp_path, given, gallery=str(items)).base, {"solver": "exact"})
    changes = {
        "a": {"marginal": "uniform", "weight": 1.0},
        "b": {"marginal": "uniform", "weight": 2.0},
        "c": {"marginal": "uniform", "epsilon": 0.2},
        "d": {"marginal": "softmax"},
    }
    timed = []

    def seconds(calls, *, repeats):
        shutil.rmtree(items)  # all that is needed has been read
        for call in calls.values():
            call()
        timed.append(len(calls))
        return {kind: [place + 1.0, place + 2.0, 99.0] for place, kind in enumerate(calls)}

    monkeypatch.setattr(matching, "interleaved_seconds", seconds)
    monkeypatch.setattr(matching, "SAMPLE_PAIRS", 3 * given["top"])
    found = ms_per_query(
        read_hits(given["hits"]), {name: with_parameters(base, change) for name, change in changes.items()}, threads=torch.get_num_threads()
    )
    assert timed == [3]
    assert {name: round(ms, 3) for name, ms in found.items()} == {"a": 666.667, "b": 666.667, "c": 1000.0, "d": 1333.333}


# --- jobs


@pytest.fixture(scope="module")
def swept(ray_session, given, tmp_path_factory):
    """Three trials of a user's own space, of which the last asks for embeddings that the gallery does not have."""
    out = tmp_path_factory.mktemp("sweeps") / "out"
    (out.parent / "own_orders.py").write_text(OWN_SPACE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(out.parent)
    config = config_of(out, given, space="own_orders.orders", concurrent=1)
    yield config, sweep_matching.run(config)
    patch.undo()


def reranked(config: SweepMatchingConfig, parameters: dict[str, object], out: Path) -> pa.Table:
    """All hits, by `eet rerank`."""
    options = {"hits": config.hits, "gallery": config.gallery, "top": config.top, "engine": "local", **parameters}
    return rerank.run(rerank.RerankConfig(out=str(out / "new.parquet"), queries=config.gallery, **options))


@pytest.mark.timeout(300)
def test_a_trial_that_fails_is_reported_with_its_reason_and_the_others_finish(swept):
    config, result = swept
    assert [trial.status for trial in result.trials] == ["finished", "finished", "failed"]
    assert "has no embeddings, which global_similarity embedding needs" in result.trials[2].reason
    rows = pq.read_table(Path(config.out) / "results.parquet").to_pylist()
    assert [(row["status"], row["weight"], row["MAP@R"] is None) for row in rows] == [
        ("finished", 0.1, False), ("finished", 5.0, False), ("failed", 9.0, True),
    ]  # fmt: skip
    assert rows[0]["ms_per_query"] == rows[1]["ms_per_query"] > 0 and rows[2]["ms_per_query"] is None


@pytest.mark.timeout(300)
def test_trials_measure_what_rerank_and_evaluate_do_on_their_half(swept, tmp_path):
    config, result = swept
    judged = ids_of(in_halves(read_hits(config.hits), config.seed).judged)
    for trial in result.trials[:2]:
        new = reranked(config, trial.parameters, tmp_path)
        assert {name: trial.best[name] for name in MEASURES} == pytest.approx(measured(new, judged, config, tmp_path))
        assert all(trial.best[f"{name}_low"] < trial.best[name] < trial.best[f"{name}_high"] for name in MEASURES)
    assert result.trials[0].best != result.trials[1].best


@pytest.mark.timeout(300)
def test_the_best_on_its_half_is_chosen_and_measured_on_the_other_with_the_order_before(swept, tmp_path):
    config, result = swept
    assert result.chosen.best["MAP@R"] == max(trial.best["MAP@R"] for trial in result.trials[:2])
    hits = read_hits(config.hits)
    halves = {half: ids_of(table) for half, table in in_halves(hits, config.seed)._asdict().items()}
    new = reranked(config, result.chosen.parameters, tmp_path)
    written = json.loads((Path(config.out) / "metrics.json").read_text())
    assert written["trial"] == result.chosen.name
    for half, queries in halves.items():
        for order, table in (("before", hits), ("reranked", new)):
            expected = measured(table, queries, config, tmp_path)
            assert {name: written[half][order][name] for name in MEASURES} == pytest.approx(expected), (half, order)
            assert written[half][order]["queries"] == len(queries)
    assert result.test == written["held_out"]
    assert written["held_out"]["reranked"]["MAP@R"] > written["held_out"]["before"]["MAP@R"]


@pytest.mark.timeout(300)
def test_rerank_takes_best_yaml_as_it_is(swept, tmp_path):
    config, result = swept
    out = Path(config.out)
    assert yaml.safe_load((out / "best.yaml").read_text())["engine"] == "auto"
    assert main(["rerank", "--config", str(out / "best.yaml")]) == 0
    assert read_hits(str(out / "best.parquet")).equals(reranked(config, result.chosen.parameters, tmp_path))


@pytest.mark.timeout(300)
def test_mlflow_has_the_trials_under_the_sweep_each_with_its_status(swept):
    import mlflow

    config, result = swept
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path(config.out).parent / 'mlflow.db'}")
    runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("eet").experiment_id])}
    parent = runs["sweep out"]
    children = {name: run for name, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert {name: run.info.status for name, run in children.items()} == {
        f"trial {trial.name}": trial.status.upper() for trial in result.trials
    }
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["test_reranked_MAP_at_R"] == pytest.approx(result.test["reranked"]["MAP@R"])
    chosen = children[f"trial {result.chosen.name}"]
    assert chosen.data.metrics["MAP_at_R"] == pytest.approx(result.chosen.best["MAP@R"])
    assert chosen.data.params["weight"] == str(result.chosen.parameters["weight"])


@pytest.mark.timeout(300)
def test_resume_runs_what_is_missing_or_failed_and_nothing_else(swept, capsys):
    config, result = swept
    first, last, _ = result.trials
    (first.folder / "outcome.json").unlink()  # as if the sweep had been cut off while it ran
    before = (last.folder / "outcome.json").stat().st_mtime_ns
    with pytest.raises(ValueError, match="--resume"):
        sweep_matching.run(config)
    with pytest.raises(ValueError, match=r"other options \(top"):
        sweep_matching.run(dataclasses.replace(config, resume=True, top=9))
    again = sweep_matching.run(dataclasses.replace(config, resume=True))
    output = capsys.readouterr().out
    assert f"trial {first.name}  finished" in output and f"trial {last.name}" not in output
    assert [trial.status for trial in again.trials] == ["finished", "finished", "failed"]
    assert [trial.best for trial in again.trials] == [trial.best for trial in result.trials]
    assert (last.folder / "outcome.json").stat().st_mtime_ns == before
    assert again.test == result.test and again.chosen.name == result.chosen.name


def test_trials_at_once_take_cpus_alone(given, tmp_path):
    kind = rerankings_of(config_of(tmp_path, given))
    share = kind.share(ClusterResources((Node(6, 0), Node(2, 1))), trials=4)
    assert (share.concurrent, share.cpus) == (4, 2)


def test_of_places_trials_are_compared_by_distance(given, tmp_path):
    """The places of a label are near each other, so each half and each order has the measures that it has by label."""
    write_items(tmp_path / "items", placed=True)
    gallery = open_gallery(str(tmp_path / "items"))
    write_hits(str(tmp_path / "hits.parquet"), search_gallery(gallery, gallery, k=ITEMS - 1))
    placed = {"hits": str(tmp_path / "hits.parquet"), "gallery": gallery.path, "top": 20}
    by_label, by_distance = (rerankings_of(config_of(tmp_path / "sweep", flags)) for flags in (given, placed))
    assert by_distance.before == by_label.before
    assert rerankings_of(config_of(tmp_path / "sweep", placed, metres=5)).before != by_label.before
    orders = [reranked_measures(one.halves.judged, one.base, threads=1) for one in (by_label, by_distance)]
    assert orders[0] == orders[1] != by_label.before["judged"]
    assert config_of(tmp_path, placed, metres=-1.0).problems() == ["--metres -1.0: a radius is 0 or more"]
