import dataclasses

import pytest

from pipelines.benchmark import BenchmarkConfig
from pipelines.distill import DistillConfig
from pipelines.encode import EncodeConfig
from pipelines.evaluate import EvaluateConfig
from pipelines.job.options import DataOptions, JobOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.quickstart import QuickstartConfig
from pipelines.report import ReportConfig
from pipelines.search import SearchConfig

GOOD_DATA = DataOptions(name="folder", root="birds")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DataOptions(name="cubs", root="x"), "--data.name cubs"),
        (DataOptions(name="cub"), "--data.root is missing"),
        (DataOptions(name="table"), "--data.root is missing"),
        (DataOptions(name="cub", root="x", table="t.csv"), "--data.table"),
        (StudentOptions(bits=0), "--student.bits 0"),
        (StudentOptions(image_size=15), "--student.image_size 15"),
        (StudentOptions(image_size=(480, 15)), r"--student.image_size \[480, 15\]"),
        (StudentOptions(tokens_multiple=0), "--student.tokens_multiple 0"),
        (StudentOptions(keep_ratios=(0.5, 1.2)), r"keep ratios \[1.2\]"),
        (StudentOptions(keep_ratios=(0.5, 0.0)), r"keep ratios \[0.0\]"),
        (StudentOptions(prune_after=(4, 8)), "one ratio for each block"),
        (StudentOptions(prune_after=(4, 4, 8)), "strictly increasing"),
        (StudentOptions(prune_after=(0, 4, 8)), "counted from 1"),
        (LossOptions(beta=-0.1), "--loss.beta -0.1"),
        (LossOptions(sigma=-1), "--loss.sigma -1"),
        (LossOptions(masked_patches=-1), "--loss.masked_patches -1"),
        (TrainOptions(epochs=0, probe=False), "--train.epochs 0"),
        (TrainOptions(epochs=-1), "--train.epochs -1"),
        (StudentOptions(label_weight=-1), "--student.label_weight -1"),
        (DataOptions(root="r", unseen_share=1.0), "--data.unseen_share 1.0"),
        (DataOptions(root="r", unseen_share=0.5, unseen="f"), "use one"),
        (TrainOptions(batch_size=0), "--train.batch_size 0"),
        (TrainOptions(workers=0), "--train.workers 0"),
        (TrainOptions(max_failures=-1), "--train.max_failures -1"),
        (TrainOptions(micro_batch_size=0), "--train.micro_batch_size 0"),
        (TrainOptions(warmup_steps=-1), "--train.warmup_steps -1"),
        (TrainOptions(cpus_per_worker=0), "--train.cpus_per_worker 0"),
        (TrainOptions(gpus_per_worker=0), "--train.gpus_per_worker 0"),
        (TrainOptions(gpus_per_worker=2), "--train.gpus_per_worker 2"),
        (TrainOptions(gpus_per_worker=0.5, workers=2), "below 1 with one worker"),
        (TrainOptions(loader_workers=-1), "--train.loader_workers -1"),
        (TrainOptions(learning_rate=0), "--train.learning_rate 0"),
        (TrainOptions(learning_rate=float("nan")), "--train.learning_rate nan"),
        (TrainOptions(head_learning_rate=-1), "--train.head_learning_rate -1"),
        (TrainOptions(batch_size=10, workers=4), "cannot be divided over 4 workers"),
        (TrainOptions(validation_share=1), "--train.validation_share 1"),
        (TrainOptions(validation_share=-0.1), "--train.validation_share -0.1"),
        (TrainOptions(momentum=1), "--train.momentum 1"),
        (TrainOptions(weight_decay=-1), "--train.weight_decay -1"),
        (EncodeConfig(model="m", out="g", images="i", rows_per_part=0), "--rows_per_part 0"),
        (EncodeConfig(model="m", out="g", images="i", batch_size=0), "--batch_size 0"),
        (EncodeConfig(model="m", out="g", images="i", threads=0), "--threads 0"),
        (EncodeConfig(model="m", out="g", images="i", workers=0), "--workers 0"),
        (EncodeConfig(model="m", out="g", images="i", max_pixels=0), "--max_pixels 0"),
        (EncodeConfig(model="m", out="g", images="i", max_error_ratio=1.5), "--max_error_ratio 1.5"),
        (EncodeConfig(model="m", out="g", images="i", data=GOOD_DATA), "choose one"),
        (EncodeConfig(model="m", out="g"), "--data.root is missing"),
        (SearchConfig(gallery="g", queries="q", out="h.parquet", k=0), "--k 0"),
        (SearchConfig(gallery="g", queries="q", out="hits"), "ends in .parquet"),
        (EvaluateConfig(out="e", gallery="g", protocol="published"), "needs --model"),
        (EvaluateConfig(out="e", gallery="g", protocol="published", model="m", hits="h"), "--hits"),
        (EvaluateConfig(out="e", gallery="g", ks=(0, 1)), "begin at 1"),
        (EvaluateConfig(out="e", gallery="g", recall_ks=(0,)), "begin at 1"),
        (ReportConfig(hits="h", out="r", top=0), "--top 0"),
        (ReportConfig(hits="h", out="r", num_queries=0), "--num_queries 0"),
    ],
)
def test_an_invalid_value_is_the_only_problem(options, message):
    import re

    problems = options.problems()
    assert len(problems) == 1, problems
    assert re.search(message, problems[0])


def test_the_problems_of_all_groups_are_listed_together():
    config = DistillConfig(
        out="x",
        data=DataOptions(name="cubs"),
        student=StudentOptions(bits=0, image_size=3),
        loss=LossOptions(beta=-1),
        train=TrainOptions(epochs=-1, workers=0),
    )
    flags = ("--data.name", "--data.root", "--student.bits", "--student.image_size", "--loss.beta", "--train.epochs", "--train.workers")
    problems = config.problems()
    assert [sum(problem.startswith(flag) for problem in problems) for flag in flags] == [1] * len(flags)
    assert len(problems) == len(flags)


@pytest.mark.parametrize(
    "config",
    [
        DistillConfig(out="x", data=GOOD_DATA),
        EncodeConfig(model="m", out="g", images="i"),
        EncodeConfig(model="m", out="g", data=DataOptions(name="table", table="t.csv")),
        SearchConfig(gallery="g", queries="q", out="h.parquet"),
        EvaluateConfig(out="e", gallery="g"),
        ReportConfig(hits="h", out="r"),
        QuickstartConfig(out="q"),
        BenchmarkConfig(),
    ],
)
def test_defaults_are_valid(config):
    assert config.problems() == []


def test_quickstart_draws_its_own_images_but_needs_a_root_for_any_other_dataset():
    assert QuickstartConfig(out="q", data=DataOptions(name="cub")).problems() == ["--data.root is missing: give the folder of the dataset"]


def test_the_cluster_is_the_flag_then_the_variable_then_this_machine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert JobOptions().ray_address == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert JobOptions().ray_address == "10.0.0.1:6379"
    assert JobOptions(address="auto").ray_address == "auto"


def test_options_that_are_not_given_have_the_values_of_the_recipe():
    config = DistillConfig(out="x", train=TrainOptions(recipe="published"))
    train, loss, student = config.train, config.loss, config.student
    assert (train.epochs, train.batch_size, train.optimizer, train.learning_rate, train.momentum) == (90, 64, "sgd", 0.01, 0.9)
    assert (train.head_learning_rate, train.weight_decay, train.probe) == (None, 0.0, False)
    assert dataclasses.asdict(loss) == {"beta": 0.1, "sigma": 1.0, "masked_patches": 4}
    assert (student.backbone, student.keep_ratios) == ("deit_small_patch16_224", (0.5, 0.5, 0.25))
    assert (student.hash_input, student.target_codes) == ("logits", "published")
    best = DistillConfig(out="x", train=TrainOptions(learning_rate=3e-4), loss=LossOptions(beta=0.0))
    assert (best.train.optimizer, best.train.learning_rate, best.train.probe, best.loss.beta) == ("adamw", 3e-4, True, 0.0)
    assert (best.student.hash_input, best.student.target_codes) == ("joint", "separated")
