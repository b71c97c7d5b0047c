"""What a network costs: multiply-adds, bytes a row of its gallery takes, time."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import torch
from torch.utils.flop_counter import FlopCounterMode

from eet.gallery import student_schema
from eet.vit import Student


def gmacs_per_image(call: Callable[[torch.Tensor], Any], size: tuple[int, int], device: torch.device) -> float:
    """Multiply-adds of one image of `size` (height, width), in 10^9, as torch counts them (attention included)."""
    with FlopCounterMode(display=False) as counter:
        call(torch.zeros(1, 3, *size, device=device))
    return counter.get_total_flops() / 2e9


def student_costs(student: Student) -> dict[str, float]:
    """What is counted, not timed: 'gmacs' of hashing an image, 'code_bytes' of its code, 'row_bytes' of code, kept tokens, positions and
    mass, as `eet encode --tokens` stores them (ids and labels, the same for all, left out).
    """
    device = next(student.parameters()).device
    with torch.inference_mode():
        gmacs = gmacs_per_image(lambda images: student(images, tokens=False), student.preprocessing.image_size, device)
    columns = [field for field in student_schema(student, tokens=True, embedding=False) if pa.types.is_fixed_size_binary(field.type)]
    return {
        "gmacs": gmacs,
        "code_bytes": float(sum(field.type.byte_width for field in columns if field.name == "code")),
        "row_bytes": float(sum(field.type.byte_width for field in columns)),
    }


def interleaved_seconds(
    calls: Mapping[str, Callable[[torch.Tensor], Any]], images_BCHW: torch.Tensor, *, repeats: int
) -> dict[str, list[float]]:
    """Seconds of every call in turn, `repeats` times over behind two rounds of warm-up: a change of the machine's speed meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-2, repeats):
        for name, call in calls.items():
            _settle(images_BCHW.device)
            started = time.perf_counter()
            call(images_BCHW)
            _settle(images_BCHW.device)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def architecture_of(student: Student) -> str:
    """Text that is equal for two students of equal latency: what they are built from, not their weights."""
    size = student.preprocessing.image_size
    return f"{student.backbone} {student.backbone_options} {student.schedule} {size} {student.num_classes} {student.num_bits}"
