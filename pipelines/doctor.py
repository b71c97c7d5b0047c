"""`eet doctor`: what this machine has, and whether the parts that jobs need work: what a bug report should contain."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from eet import __version__
from eet.errors import EetError
from eet.storage import exists, join_location, one_line, read_bytes, remove, write_text
from pipelines.configs.doctor import DoctorConfig
from pipelines.job.errors import JobFailed

PACKAGES = (
    "torch", "torchvision", "timm", "ray", "faiss-gpu", "faiss-cpu", "POT", "pyarrow", "numpy", "numba", "mlflow", "pillow",
    "jsonargparse", "torchcodec", "transformers", "optuna",
)  # fmt: skip
MIN_FREE_GB = 2.0
"""Free space below which a folder is reported: Ray's session and an unpacked tar shard need it."""


class Check(NamedTuple):
    """A line of the output."""

    name: str
    status: Literal["ok", "info", "FAILED"]
    detail: str


def run(config: DoctorConfig) -> list[Check]:
    """Prints each check as soon as it is done. JobFailed, at the end, where some failed."""
    found = []
    for check in _checks(config):
        print(f"{check.status:<6} {check.name:<16} {check.detail}", flush=True)
        found.append(check)
    if failed := [check.name for check in found if check.status == "FAILED"]:
        raise JobFailed(f"failed: {', '.join(failed)}; see the lines above")
    return found


def _checks(config: DoctorConfig) -> Iterator[Check]:
    yield Check("eet", "info", f"{__version__} at {Path(__file__).parents[1]}")
    yield Check("python", "info", f"{platform.python_version()} on {platform.platform()}")
    yield Check("packages", "info", ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))))
    yield from (_checked(name, check) for name, check in _LOCAL.items())
    if config.dry_run:
        return
    if config.location is not None:
        location = config.location
        yield _checked("location", lambda: _round_trip(location))
    if config.tracking_uri is not None:
        uri = config.tracking_uri
        yield _checked("tracking", lambda: _tracking(uri))
    yield _checked("ray", lambda: _cluster(config.ray_address))


def _checked(name: str, check: Callable[[], str]) -> Check:
    """The check's result; whatever it raises is a failure with its reason, because a broken library may raise anything."""
    try:
        return Check(name, "ok", check())
    except Exception as error:
        return Check(name, "FAILED", one_line(error) if isinstance(error, EetError) else f"{type(error).__name__}: {one_line(error)}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    import torch

    from pipelines.benchmarks.record import cpu_name

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cpu_name()}, {usable} usable CPUs, {memory:.1f} GB, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads of torch"
    )


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none that torch sees (torch built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'the CPU'})"
    names = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        names.append(f"{properties.name} {properties.total_memory / 1e9:.0f} GB")
    total = torch.ones(256, 256, device="cuda").sum().item()
    if total != 256 * 256:
        raise ArithmeticError(f"the sum of {256 * 256} ones on the GPU is {total}")
    return f"{', '.join(names)}, CUDA {torch.version.cuda}"


def _temporary_folder() -> str:
    folder = tempfile.gettempdir()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"0" * 4096)
        file.flush()
        os.fsync(file.fileno())
    return f"{folder}, {_free(folder)}"


def _shared_memory() -> str:
    """The object store of Ray is there."""
    return f"/dev/shm, {_free('/dev/shm')}" if Path("/dev/shm").exists() else "no /dev/shm: Ray puts objects into the temporary folder"


def _free(folder: str) -> str:
    free = shutil.disk_usage(folder).free / 1e9
    if free < MIN_FREE_GB:
        raise OSError(f"{folder} has {free:.1f} GB free, less than {MIN_FREE_GB:g}")
    return f"{free:.1f} GB free"


def _compiled_code() -> str:
    """Compiles, or loads from numba's cache, the loop of Hamming search, and compares its answer with numpy's."""
    import numpy as np

    from eet.search import HammingIndex

    codes = np.random.default_rng(0).integers(0, 256, (500, 8), dtype=np.uint8)
    started = time.perf_counter()
    distances, _ = HammingIndex.build(codes).search(codes[:5], 3)
    seconds = time.perf_counter() - started
    all_distances = np.unpackbits(codes[:5, None] ^ codes[None], axis=2).sum(axis=2)
    if not np.array_equal(distances, np.sort(all_distances, axis=1)[:, :3]):
        raise ArithmeticError("the compiled Hamming search disagrees with numpy")
    return f"Hamming search agrees with numpy, ready in {seconds:.1f} s"


def _network() -> str:
    """A small student on random numbers, on the device that jobs would use."""
    import torch

    from eet.device import Device
    from eet.vit import PruningSchedule, build_student

    device = Device.of()
    student = build_student(
        "vit_tiny_patch16_224", num_classes=2, num_bits=16, schedule=PruningSchedule((1,), (0.5,)), image_size=32, weights="none",
        backbone_options={"embed_dim": 32, "depth": 2, "num_heads": 2}, seed=0,
    ).to(device.torch_device).eval()  # fmt: skip
    with torch.inference_mode(), device.autocast():
        values = student(torch.ones(2, 3, 32, 32, device=device.torch_device), tokens=False).hash
    if not torch.isfinite(values).all():
        raise ArithmeticError("the hash of a small network is not finite")
    return f"a small student runs on {device.type} in {device.precision}"


def _search_library() -> str:
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    return f"FAISS {faiss.__version__}, {gpus} GPUs, {faiss.get_compile_options().strip()}"


def _round_trip(location: str) -> str:
    target, text = join_location(location, f"eet-doctor-{uuid.uuid4().hex}.txt"), "eet doctor"
    started = time.perf_counter()
    write_text(target, text)
    try:
        if read_bytes(target) != text.encode():
            raise OSError(f"{location} returned other bytes than were written")
    finally:
        remove(target)
    if exists(target):
        raise OSError(f"{location} keeps a file that was removed")
    return f"{location}: wrote, read and removed a file in {time.perf_counter() - started:.2f} s"


def _tracking(uri: str) -> str:
    from pipelines.job.tracking import check_tracking

    check_tracking(uri, "")
    return f"{uri}: a database that can be written, or a server that answers"


def _cluster(address: str) -> str:
    from pipelines.job.cluster import connected

    started = time.perf_counter()
    with connected(address) as resources:
        seconds = time.perf_counter() - started
        nodes = ", ".join(f"{node.cpus} CPUs {node.gpus} GPUs {node.memory / 1e9:.0f} GB" for node in resources.nodes)
        return f"{address}: {len(resources.nodes)} nodes ({nodes or 'none yet'}), connected in {seconds:.1f} s"


_LOCAL: dict[str, Callable[[], str]] = {
    "processor": _processor,
    "gpus": _gpus,
    "temporary folder": _temporary_folder,
    "shared memory": _shared_memory,
    "compiled code": _compiled_code,
    "network": _network,
    "faiss": _search_library,
}
