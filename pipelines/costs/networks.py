"""The cost of a network: multiply-adds, bytes per row of its gallery, time."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import torch
from torch.utils.flop_counter import FlopCounterMode

from eet.device import Device
from eet.gallery import model_schema
from eet.vit import Student, load_bundle
from pipelines.costs.interleaved import interleaved_seconds

LATENCY_BATCH, LATENCY_REPEATS = 8, 15


def gmacs_per_image(call: Callable[[torch.Tensor], Any], size: tuple[int, int], device: torch.device) -> float:
    """Multiply-adds of one image of `size` (height, width), in 10^9, as torch counts them (attention included)."""
    # Its record of modules follows gradients: without them it fails in models that pool by attention.
    with torch.inference_mode(False), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        call(torch.zeros(1, 3, *size, device=device))
    return counter.get_total_flops() / 2e9


def student_costs(student: Student) -> dict[str, float]:
    """The counted costs: 'gmacs' of hashing an image; 'code_bytes' of its code; 'row_bytes' of code, kept tokens, positions and mass, as
    stored by `eet encode --tokens` (without ids and labels, which are the same for all models).
    """
    device = next(student.parameters()).device
    with torch.inference_mode():
        gmacs = gmacs_per_image(lambda images: student(images, tokens=False), student.preprocessing.image_size, device)
    columns = [field for field in model_schema(student, tokens=True, embedding=False) if pa.types.is_fixed_size_binary(field.type)]
    return {
        "gmacs": gmacs,
        "code_bytes": float(sum(field.type.byte_width for field in columns if field.name == "code")),
        "row_bytes": float(sum(field.type.byte_width for field in columns)),
    }


def latencies_ms(bundles: Mapping[str, str], *, threads: int) -> dict[str, float]:
    """Milliseconds per image of each bundle, {name: path} -> {name: median}, in batches of 8; on CUDA in bf16 if there is a GPU.

    Networks that differ only in their weights are timed once; the others in turn, so that changes of the machine's speed affect all.
    """
    device = Device.of()
    torch.set_num_threads(threads)
    kinds: dict[str, str] = {}
    networks: dict[str, Student] = {}
    for name, path in bundles.items():
        student = load_bundle(path)
        kinds[name] = _architecture(student)
        if kinds[name] not in networks:
            networks[kinds[name]] = student.to(device.torch_device)
    medians: dict[str, float] = {}
    sizes = {network.preprocessing.image_size for network in networks.values()}
    with torch.inference_mode(), device.autocast():
        for size in sorted(sizes):  # all networks of one input size take the same batch
            images = torch.randn(LATENCY_BATCH, 3, *size, device=device.torch_device)
            calls = {
                kind: functools.partial(network, images, tokens=False)
                for kind, network in networks.items()
                if network.preprocessing.image_size == size
            }
            seconds = interleaved_seconds(calls, repeats=LATENCY_REPEATS, device=device.torch_device)
            medians |= {kind: sorted(times)[len(times) // 2] * 1e3 / LATENCY_BATCH for kind, times in seconds.items()}
    return {name: medians[kind] for name, kind in kinds.items()}


def _architecture(student: Student) -> str:
    """A key that is equal for students of equal latency: their architecture, without the weights."""
    size = student.preprocessing.image_size
    return f"{student.backbone} {student.backbone_options} {student.schedule} {size} {student.num_classes} {student.num_bits}"
