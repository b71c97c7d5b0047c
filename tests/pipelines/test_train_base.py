"""Training base models on drawn birds and a network that trains in a blink."""

import copy
import csv
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from local_training import trained_here

from eet.datasets import load_dataset, synthetic
from eet.embedding import LOSSES, EmbeddingLoss, MarginObjective, build_base, load_base, read_base_record, save_base
from eet.errors import InputError
from eet.images import read_image
from eet.metrics import cosine_metrics
from eet.training import fit, learning_rate_factor, optimizer_of
from eet.training.metric_learning import WholeBatchObjective
from pipelines import train_base
from pipelines.cli import job_parser, main, read_config
from pipelines.configs.train_base import BaseTrainOptions, EmbeddingLossOptions, FollowOptions, PlaceOptions, TrainBaseConfig
from pipelines.job.options import DataOptions
from pipelines.training.run import TrainingResult, read_labelled_images

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

NETWORK = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
EPOCHS = 4
# SGD: Adam makes whole steps of gradients that are rounding alone (of a key's bias), so that runs could not be compared.
TRAIN = BaseTrainOptions(
    epochs=EPOCHS, batch_size=8, micro_batch_size=3, cpus_per_worker=1, optimizer="sgd", learning_rate=0.01, weight_decay=0, max_failures=0
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


def config_of(out: Path, birds: Path, **changes) -> train_base.TrainBaseConfig:
    options = {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": NETWORK,
        "embedding_width": 12,
        "image_size": 56,
        "weights": "none",
        "data": DataOptions(name="synthetic", root=str(birds)),
        "train": TRAIN,
        **changes,
    }
    return train_base.TrainBaseConfig(out=str(out), **options)


def task_of(config: train_base.TrainBaseConfig):
    share = config.train.validation_share
    return train_base.task_of(config, read_labelled_images(config.data, validation_share=share, seed=config.seed, disjoint=True))


@pytest.fixture(scope="module")
def trained(ray_session, tiny_birds, runs) -> TrainingResult:
    with trained_here():
        return train_base.run(config_of(runs / "base", tiny_birds))


def test_training_writes_a_bundle_that_learned_with_its_split(trained, runs, tiny_birds):
    config = config_of(runs / "base", tiny_birds)
    before, model = task_of(config).networks["base"].state_dict(), load_base(runs / "base")
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert {"head.weight", "backbone.trunk.blocks.0.attn.qkv.weight"} <= set(moved)
    record = read_base_record(runs / "base")
    names = synthetic.load(str(tiny_birds)).label_names
    assert record.label_names == names[:2]
    assert (record.training["epochs"], record.training["images"], record.training["epoch"]) == (EPOCHS, 24, EPOCHS)
    with (runs / "base" / "split.csv").open() as file:
        split = list(csv.DictReader(file))
    assert {(row["split"], row["label"]) for row in split} == {("train", name) for name in names[:2]} | {
        ("test", name) for name in names[2:]
    }
    table = load_dataset("table", str(tiny_birds), table=str(runs / "base" / "split.csv"))
    assert len(table) == 48 and Path(table.location(0)).is_file()


def test_history_has_the_boundaries_and_a_constant_rate(trained):
    assert [record["epoch"] for record in trained.history] == list(range(1, EPOCHS + 1))
    assert {"total", "positive_distance", "negative_distance", "beta"} <= set(trained.history[0])
    assert {record["learning_rate"] for record in trained.history} == {TRAIN.learning_rate}
    assert trained.history[-1]["beta"] != trained.history[0]["beta"]


def test_unseen_labels_are_measured_as_the_bundle_says_under_both_definitions(trained, runs, tiny_birds):
    model = load_base(runs / "base")
    table = load_dataset("table", str(tiny_birds), table=str(runs / "base" / "split.csv")).select("test")
    with torch.inference_mode():
        rows = model.embed(torch.stack([model.preprocess(read_image(table.location(row))) for row in range(len(table))])).numpy()
    assert len(rows) == 24 and set(trained.test) == {"base"}
    for protocol, count_query in (("standard", False), ("published", True)):
        assert trained.test["base"][protocol] == pytest.approx(cosine_metrics(rows, table.labels, count_query=count_query), abs=1e-6)
    assert json.loads((runs / "base" / "test.json").read_text()) == trained.test


STRUCTURAL = EmbeddingLossOptions(structural=0.5, marginal="importance")


@pytest.fixture(scope="module")
def trained_with_tokens(ray_session, tiny_birds, runs) -> TrainingResult:
    return train_base.run(config_of(runs / "structural", tiny_birds, loss=STRUCTURAL))


def test_a_structural_share_is_in_the_history_and_moves_the_weights(trained, trained_with_tokens, runs):
    assert set(trained_with_tokens.history[0]) - set(trained.history[0]) == {"positive_structural", "negative_structural"}
    plain, structural = load_base(runs / "base").state_dict(), load_base(runs / "structural").state_dict()
    assert not torch.equal(plain["head.weight"], structural["head.weight"])


def test_two_workers_go_on_from_a_checkpoint_as_one_would_have_batches_mining_boundaries_and_all(trained_with_tokens, runs, tiny_birds):
    """The last epoch's checkpoint is taken away, so two workers repeat what one did."""
    before_cut, out = runs / "structural", runs / "cut"
    shutil.copytree(before_cut, out)
    for file in ("model.safetensors", "model.json", "test.json", "history.json", "split.csv"):
        (out / file).unlink()
    before, last = sorted((out / "checkpoints" / "run").glob("checkpoint_*/training.pt"))
    assert torch.load(before, weights_only=True)["epoch"] == EPOCHS - 2
    shutil.copy(before, last)
    two = dataclasses.replace(TRAIN, workers=2)
    resumed = train_base.run(config_of(out, tiny_birds, resume=True, train=two, loss=STRUCTURAL))
    assert len(resumed.history) == EPOCHS and resumed.history[-1]["images_per_s"] != trained_with_tokens.history[-1]["images_per_s"]
    same_training(resumed.history, load_base(out).state_dict(), trained_with_tokens.history, load_base(before_cut).state_dict())


def same_training(history, weights, expected_history, expected_weights):
    for record, expected in zip(history, expected_history, strict=True):
        for name in set(record) - {"images_per_s"}:
            assert record[name] == pytest.approx(expected[name], abs=1e-5), (record["epoch"], name)
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.fixture
def one_thread():
    """As the job has, and far faster on so small a network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_one_process_goes_on_from_any_checkpoint_with_the_boundaries_that_it_has(trained, one_thread, runs, tiny_birds):
    config = config_of(runs / "x", tiny_birds)
    settings = config.train.settings(config.seed, num_images=24)
    states: list[dict] = []
    fit(task_of(config), settings, report=lambda record, state: states.append(copy.deepcopy(state())))
    assert len(states) == EPOCHS
    for state in states[:-1]:
        resumed = fit(task_of(config), settings, checkpoint=state)
        same_training(resumed.history, resumed.weights["base"], trained.history, load_base(runs / "base").state_dict())


@pytest.fixture
def step(tiny_birds, runs):
    """(objective, images, labels) of a first batch, for any options of training."""

    def make(loss=EmbeddingLossOptions(), **changes):  # noqa: B008
        config = config_of(runs / "x", tiny_birds, loss=loss, train=dataclasses.replace(TRAIN, **changes))
        task = task_of(config)
        objective = task.objective(config.train.settings(config.seed, num_images=len(task.train)))
        images = torch.randn(8, 3, 56, 56, generator=torch.Generator().manual_seed(1))
        return objective, images, torch.arange(8) % task.train.num_labels

    return make


def gradients_of(objective: WholeBatchObjective, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)  # draws the triplets
    objective.train()
    objective(images, labels).total.backward()
    return {name: parameter.grad for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("loss", [EmbeddingLossOptions(), STRUCTURAL])
def test_a_batch_run_in_parts_has_the_gradient_of_the_whole(step, loss):
    whole, parts = gradients_of(*step(loss, micro_batch_size=8)), gradients_of(*step(loss, micro_batch_size=3))
    assert whole.keys() == parts.keys() and whole["model.head.weight"].abs().max() > 1e-3
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=5e-6, rtol=1e-4, msg=name)  # float32 sums in another order


def test_the_objective_is_the_margin_loss_of_unit_embeddings(step):
    objective, images, labels = step()
    torch.manual_seed(3)
    found = objective(images, labels)
    torch.manual_seed(3)
    vector = objective.model.backbone(images, patches=False).vector
    expected, _ = MarginObjective(2)(F.normalize(objective.model.head(vector), dim=1), labels, torch.rand(8, 2))
    torch.testing.assert_close(found.total, expected)


def test_the_structural_objective_reads_the_models_tokens_and_their_mass(step):
    objective, images, labels = step(STRUCTURAL)
    torch.manual_seed(3)
    found = objective(images, labels)
    torch.manual_seed(3)
    out = objective.model(images)
    margin = MarginObjective(2, structural=0.5, marginal="importance")
    expected, terms = margin(out.embedding, labels, torch.rand(8, 2), out.tokens, out.token_mass)
    torch.testing.assert_close(found.total, expected)
    assert terms["positive_structural"] == pytest.approx(found.terms["positive_structural"].item(), abs=1e-6)


def test_boundaries_have_a_learning_rate_of_their_own_and_all_else_the_same(tiny_birds, runs):
    loss = EmbeddingLossOptions(beta=0.9, beta_learning_rate=0.25, margin=0.1)
    config = config_of(runs / "x", tiny_birds, loss=loss, train=BaseTrainOptions(batch_size=8))
    task = task_of(config)
    settings = config.train.settings(config.seed, num_images=len(task.train))
    objective = task.objective(settings)
    optimizer = optimizer_of(objective, settings, task.learning_rates)
    assert type(optimizer) is torch.optim.Adam
    backbone, head, boundaries = optimizer.param_groups
    assert [len(group["params"]) for group in (head, boundaries)] == [2, 1]
    assert boundaries["params"][0] is objective.criterion.loss.beta and boundaries["params"][0].tolist() == pytest.approx([0.9, 0.9])
    assert objective.criterion.loss.margin == 0.1
    assert (backbone["lr"], head["lr"], boundaries["lr"], backbone["weight_decay"]) == (1e-5, 1e-5, 0.25, 4e-4)
    assert settings.constant_rate and settings.warmup(len(task.train)) == 0


class ScaledLoss(EmbeddingLoss):
    """The mean of the first coordinate, times a learned scale."""

    def __init__(self, num_labels: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    @property
    def learning_rates(self):
        return {"scale": 0.5}

    def forward(self, embeddings_BE, labels_B, chance_B2, tokens_BKE=None, mass_BK=None):
        total = self.scale * embeddings_BE[:, 0].mean()
        return total, {"scaled": total.detach()}


def test_another_loss_is_trained_with_its_own_options_and_rates(step, tiny_birds, runs, monkeypatch):
    monkeypatch.setitem(LOSSES, "scaled", ScaledLoss)
    loss = EmbeddingLossOptions(name="scaled", options={"scale": 3.0})
    config = config_of(runs / "x", tiny_birds, loss=loss)
    assert config.problems() == []
    objective, images, labels = step(loss)
    torch.testing.assert_close(objective(images, labels).total, 3 * objective.model.embed(images)[:, 0].mean())
    *_, own = optimizer_of(objective, config.train.settings(1, num_images=24), task_of(config).learning_rates).param_groups
    assert (own["params"], own["lr"]) == ([objective.criterion.scale], 0.5)
    (problem,) = dataclasses.replace(config, loss=EmbeddingLossOptions(name="scaled", beta=0.9)).problems()
    assert problem.startswith("--loss.beta: only the loss margin has these")
    with pytest.raises(InputError, match="the loss scaled has no option margin: it has scale"):
        step(EmbeddingLossOptions(name="scaled", options={"margin": 1}))


def test_a_constant_rate_stays_after_the_warm_up():
    factors = [learning_rate_factor(step, warmup_steps=2, total_steps=9, constant=True) for step in range(12)]
    assert factors == [0.5] + [1.0] * 11


def test_a_squashed_image_is_seen_by_training_and_bundle(tiny_birds, runs):
    (network,) = task_of(config_of(runs / "x", tiny_birds, fit="squash")).networks.values()
    assert network.preprocessing.fit == "squash" and network.preprocessing.crop_share == 1
    save_base(network, runs / "squashed")
    assert load_base(runs / "squashed").preprocessing == network.preprocessing


def test_validation_is_of_labels_that_neither_train_nor_test(tiny_birds, runs):
    task = task_of(config_of(runs / "x", tiny_birds, train=dataclasses.replace(TRAIN, batch_size=4)))
    assert task.val is None and task.train.num_labels == 2
    images = read_labelled_images(DataOptions(name="synthetic", root=str(tiny_birds)), validation_share=0.5, seed=0, disjoint=True)
    assert images.train.num_labels == 1 and len(images.val) == 12 and len(images.test) == 24
    used = [{table.label_names[label] for label in table.labels} for table in (images.train, images.val, images.test)]
    assert sum(map(len, used)) == len(set().union(*used)) == 4
    measured = dataclasses.replace(task, val=images.val).validate(np.eye(12, dtype=np.float32))
    assert set(measured) == {"val_P@1", "val_MAP@R"}
    with pytest.raises(ValueError, match="only one label to train on"):
        task_of(config_of(runs / "x", tiny_birds, train=dataclasses.replace(TRAIN, validation_share=0.5)))


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tiny_birds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pipelines.training.run.connected", None)
    train_base.run(config_of(tmp_path / "out", tiny_birds, dry_run=True))
    printed = capsys.readouterr().out
    assert "2 labels, 24 training, 0 validation, 24 test images; 4 epochs of 3 steps of 8, 0 of warm-up" in printed
    assert "base: vit_tiny_patch16_224, embedding 12 wide, 7 x 7 patches" in printed and "nothing was started" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def streets(tiny_birds, tmp_path) -> DataOptions:
    """The birds as places: those of a label stand within 4 metres, labels 40 metres apart; each third image is a query."""
    birds = synthetic.load(str(tiny_birds))
    lines = []
    for row, (path, label) in enumerate(zip(birds.paths, birds.labels.tolist(), strict=True)):
        split, role = "test" if row % 4 == 3 else "train", ("query", "database", "database")[row % 3]
        lines.append(f"{path},{split},{40 * label + row % 5},0,{role},{30 * (row % 2)}")
    (tmp_path / "places.csv").write_text("\n".join(["path,split,easting,northing,role,heading", *lines]) + "\n")
    return DataOptions(name="table", root=birds.root, table=str(tmp_path / "places.csv"))


def test_places_are_trained_by_position_or_by_cells_as_labels(tiny_birds, streets, tmp_path):
    triplets = config_of(
        tmp_path / "t",
        tiny_birds,
        data=streets,
        loss=EmbeddingLossOptions(name="triplet", options={"negatives": 2}),
        places=PlaceOptions(candidates=9, queries_per_round=4),
    )
    cells = dataclasses.replace(
        triplets,
        loss=EmbeddingLossOptions(name="multi_similarity"),
        places=PlaceOptions(cell_metres=20, cell_degrees=30, cell_groups=2, cell_images=3),
    )
    assert triplets.problems() == cells.problems() == []
    mined, labelled = (train_base.task_of(config, train_base.images_of(config)) for config in (triplets, cells))
    assert mined.train.num_labels == 0 and (mined.mining.candidates, mined.mining.queries_per_round) == (9, 4)
    assert labelled.train.num_labels > 2 and len(set(labelled.label_groups)) > 1
    sampler = labelled.sampler(cells.train.settings(0, num_images=8), rank=0, world=1, micro_batch_size=8)
    batch = [labelled.train.labels[row] for _, row, _ in next(iter(sampler))]
    assert len({labelled.label_groups[label] for label in batch}) == 1


PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "places.md"


@pytest.fixture
def msls(tiny_birds, tmp_path) -> Path:
    """MSLS as its archives unpack, with birds as images: three cities with three places each, 50 metres apart."""
    birds = synthetic.load(str(tiny_birds))
    for city in ("zurich", "amman", "cph"):
        for role in ("query", "database"):
            folder = tmp_path / "MSLS" / "train_val" / city / role
            (folder / "images").mkdir(parents=True)
            keys = [f"{city}{role}{row}" for row in range(12)]
            for row, key in enumerate(keys):
                shutil.copy(birds.location(row), folder / "images" / f"{key}.jpg")
            rows = list(enumerate(keys))
            raw = [f"{row},{key},12.5,55.7,84.2,2015-06-19,False" for row, key in rows]
            processed = [f"{row},{key},{50 * (row % 3) + row // 3},5,{row},False,False,Forward" for row, key in rows]
            subtasks = [f"{row},True" for row, _ in rows]
            for name, header, lines in (
                ("raw", ",key,lon,lat,ca,captured_at,pano", raw),
                ("postprocessed", ",key,easting,northing,unique_cluster,control_panel,night,view_direction", processed),
                ("subtask_index", ",all", subtasks),
            ):
                (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    return tmp_path / "MSLS"


def test_the_commands_of_the_page_on_places_run_on_a_small_msls(msls, tmp_path, monkeypatch, capsys):
    """With a small network and small batches, as a dry run; everything else is as the page has it."""
    monkeypatch.setattr("pipelines.training.run.connected", None)
    commands = re.findall(r"^eet train-base (--data.name msls .*)$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(commands) == 5 and sum("--image-size '[480,640]'" in command for command in commands) == 1
    save_base(
        build_base("vit_tiny_patch16_224", embedding_width=128, image_size=(56, 56), weights="none", backbone_options=NETWORK),
        tmp_path / "teacher",
    )
    for command in commands:
        config = read_config(job_parser("train-base", TrainBaseConfig), TrainBaseConfig, shlex.split(command))
        small = dataclasses.replace(
            config,
            out=str(tmp_path / "out"),
            backbone="vit_tiny_patch16_224",
            backbone_options=NETWORK,
            image_size=(56, 80) if config.image_size == (480, 640) else 112,
            weights="none",
            data=dataclasses.replace(config.data, root=str(msls)),
            teacher=str(tmp_path / "teacher") if config.teacher else None,
            train=dataclasses.replace(config.train, batch_size=14 if config.loss.name == "triplet" else 8),
            dry_run=True,
        )
        assert small.problems() == []
        train_base.run(small)
        printed = capsys.readouterr().out
        assert "24 training, 24 validation, 24 test images" in printed and "nothing was started" in printed, command
        assert ("7 x 10 patches" in printed) == (config.image_size == (480, 640)), command


@pytest.mark.parametrize("aggregation", ["vector", "netvlad"])
def test_the_commands_of_the_page_that_measure_a_model_run_on_a_small_msls(aggregation, msls, tmp_path, monkeypatch):
    """As the page has them, for an untrained model with an input that is not square. Each query is the copy of a database image."""
    loop = re.search(r"^for MODEL in netvlad scratch distilled; do\n(.*?)^done$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = [line.strip().replace("$MODEL", "netvlad") for line in loop[1].splitlines()]
    assert [command.split()[1] for command in commands] == ["encode", "encode", "search", "rerank", "evaluate", "evaluate"]
    monkeypatch.chdir(tmp_path)
    model = build_base(
        "vit_tiny_patch16_224", embedding_width=128, image_size=(56, 80), weights="none", backbone_options=NETWORK, fit="squash",
        aggregation=aggregation,
    )  # fmt: skip
    save_base(model, tmp_path / "runs" / "netvlad")
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    for order in ("global", "struct"):
        metrics = json.loads((tmp_path / "runs" / f"netvlad-{order}" / "metrics.json").read_text())
        assert set(metrics) == {"encoded, hits", "encoded, hits, day"}
        for measures in metrics.values():
            assert (measures["recall@1"], measures["queries"], measures["queries_without_relevant"]) == (1, 12, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_width": 0}, "--embedding_width 0"),
        ({"loss": EmbeddingLossOptions(name="none")}, "--loss.name none: allowed are margin"),
        ({"teacher": "t"}, "--teacher and a weight of --follow.*"),
        ({"follow": FollowOptions(angle=1.0)}, "--teacher and a weight of --follow.*"),
        ({"teacher": "t", "follow": FollowOptions(angle=-1.0)}, "--follow.angle -1.0"),
        ({"follow": FollowOptions(loss=0.0)}, "--follow.loss 0.0"),
        ({"places": PlaceOptions(candidates=0)}, "--places.candidates 0"),
        ({"places": PlaceOptions(cell_metres=10, cell_degrees=50)}, "--places.cell_degrees 50"),
        ({"places": PlaceOptions(positive_metres=30)}, "--places.positive_metres 30"),
        ({"loss": EmbeddingLossOptions(options={"beta": 1})}, "--loss.options are those of another loss"),
        ({"loss": EmbeddingLossOptions(margin=-1)}, "--loss.margin -1"),
        ({"loss": EmbeddingLossOptions(beta=2.5)}, "--loss.beta 2.5"),
        ({"loss": EmbeddingLossOptions(beta_learning_rate=-1)}, "--loss.beta_learning_rate -1"),
        ({"loss": EmbeddingLossOptions(images_per_label=1)}, "--loss.images_per_label 1"),
        ({"loss": EmbeddingLossOptions(structural=1.5)}, "--loss.structural 1.5: a share of the distance is 0 (none) to 1"),
        ({"loss": EmbeddingLossOptions(marginal="even")}, "--loss.marginal even: allowed are uniform, importance"),
        ({"loss": EmbeddingLossOptions(images_per_label=3)}, "--train.batch_size 8: use a multiple of --loss.images_per_label 3"),
        ({"loss": EmbeddingLossOptions(images_per_label=8)}, "of two labels at least"),
        ({"train": dataclasses.replace(TRAIN, learning_rate=0)}, "--train.learning_rate 0"),
        ({"weights": "s3://bucket/w.pt"}, "--weights s3://bucket/w.pt"),
    ],
)
def test_an_impossible_value_is_the_one_problem_reported(tiny_birds, tmp_path, changes, message):
    problems = config_of(tmp_path, tiny_birds, **changes).problems()
    assert len(problems) == 1 and message in problems[0], problems


def test_defaults_are_the_published_ones():
    config = train_base.TrainBaseConfig(out="x", data=DataOptions(name="cub", root="cub"))
    assert config.problems() == []
    train, loss = config.train, config.loss
    assert (train.epochs, train.batch_size, train.optimizer, train.learning_rate, train.weight_decay) == (150, 112, "adam", 1e-5, 4e-4)
    assert (train.schedule, train.warmup_steps, train.precision) == ("constant", 0, "fp32")
    margin = {"margin": 0.2, "beta": 0.6, "beta_learning_rate": 5e-4, "images_per_label": 2}
    assert dataclasses.asdict(loss) == {"name": "margin", "options": {}, **margin, "structural": 0.0, "marginal": "uniform"}
    assert config.embedding_width == 128
