"""What tests share: one Ray session, drawn birds, a small network, and the rules by which tests are skipped."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before anything imports Ray or MLflow; worker processes inherit them.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent / "support"), os.environ.get("PYTHONPATH")]))
if "PYTEST_XDIST_WORKER" not in os.environ:  # the processes of one run share what is compiled
    os.environ["EET_CACHE"] = tempfile.mkdtemp(prefix="eet-cache-")  # of the tests alone
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would wait for the tests of another process
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # a session starts no process that nothing asks for
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # for a driver to find its node; Ray's 10 are too few on a busy machine
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how soon a lost worker, and the end of training, are seen
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less to start for every training
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}  # of the S3 server that tests start
os.environ.setdefault("DO_NOT_TRACK", "true")


# Who uses one of these starts Ray, or a process that imports everything.
SLOW_FIXTURES = {"ray_session", "imported", "helps"}
# Every test in these trains networks, most of them on Ray.
SLOW_PLACES = ("pipelines/training/", "pipelines/test_sweep")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(tests).as_posix()
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())) or place.startswith(SLOW_PLACES):
            item.add_marker(pytest.mark.slow)
    skip_where_there_is_no_gpu(items)


def skip_where_there_is_no_gpu(items: list[pytest.Item]) -> None:
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; torch sees none"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, weights and golden outputs."""
    if "EET_SHARED" not in os.environ:
        pytest.skip("EET_SHARED does not name the folder of data and weights")
    return Path(os.environ["EET_SHARED"])


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray session of this process alone, whatever else runs on the machine. Its CPUs are logical: there may be fewer."""
    import ray

    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=200 * 2**20
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def engine_auto_is_local(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For jobs of a test that does not ask for the Ray session, whether or not a test before it has started one."""
    if "ray_session" not in request.fixturenames:
        from pipelines.job import engine

        monkeypatch.setattr(engine, "is_connected", lambda: False)


@pytest.fixture(scope="session")
def tiny_birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labels of drawn birds, 48 pixels wide: 8 training and 4 test images each."""
    from eet.datasets import synthetic

    root = tmp_path_factory.mktemp("birds")
    synthetic.write(root, num_labels=4, images_per_label=8, test_per_label=4, image_size=48)
    return root


@pytest.fixture(scope="session")
def photos(tiny_birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the drawn birds, each of the 48 images under four names."""
    from eet.datasets import synthetic

    folder = tmp_path_factory.mktemp("photos")
    table = synthetic.load(str(tiny_birds))
    for copy in range(4):
        for row in range(len(table)):
            (folder / f"{copy}-{row:02d}.png").symlink_to(table.location(row))
    return folder


@pytest.fixture
def tiny_options():  # type: ignore[no-untyped-def]
    """A ViT that trains in a blink: 4 blocks, 32 wide, 36 patches, 16 bits."""
    from pipelines.job.options import StudentOptions

    return StudentOptions(
        backbone="vit_tiny_patch16_224",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
        image_size=48,
        bits=16,
        hash_input="logits",
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_birds: Path) -> Path:
    """An untrained bundle that knows the drawn birds' labels, target codes and training counts."""
    import numpy as np
    import torch

    from eet.datasets import synthetic
    from eet.hashing import learn_target_codes
    from eet.vit import PruningSchedule, build_student, save_bundle

    table = synthetic.load(str(tiny_birds))
    train = table.select("train")
    torch.manual_seed(0)
    student = build_student(
        "vit_tiny_patch16_224",
        num_classes=table.num_labels,
        num_bits=16,
        schedule=PruningSchedule((1, 2, 3), (0.5, 0.5, 0.25)),
        image_size=48,
        weights="none",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
        seed=3,
    )
    # Untrained, every image has nearly the same hash: centred and spread by a random matrix, the codes differ.
    with torch.no_grad():
        random = torch.Generator().manual_seed(1)
        student.trunk.head.weight.normal_(generator=random)
        student.head_hash.weight.normal_(generator=random)
        images = torch.stack([student.preprocess(image_at(train.location(row))) for row in range(len(train))])
        student.eval()
        # Between the two middle images: a hash of 0 would give another bit on another processor, or in another batch.
        student.head_hash.bias.copy_(-student(images, tokens=False).hash.quantile(0.5, dim=0))
    folder = tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(
        student,
        folder,
        label_names=table.label_names,
        target_codes=learn_target_codes(train.labels, num_bits=16, seed=0),
        label_counts=np.bincount(train.labels),
    )
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained base model: 8 x 8 patches of which 49 tokens are made, 12 wide."""
    from eet.embedding import build_base, save_base

    options = {"patch_size": 6, "embed_dim": 24, "depth": 2, "num_heads": 3}
    folder = tmp_path_factory.mktemp("base") / "bundle"
    save_base(
        build_base("deit_tiny_patch16_224", embedding_width=12, image_size=(48, 48), weights="none", backbone_options=options), folder
    )
    return folder


def image_at(location: str):  # type: ignore[no-untyped-def]
    from eet.images import read_image

    return read_image(location)
