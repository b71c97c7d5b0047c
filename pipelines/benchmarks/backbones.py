"""`eet benchmark backbones`: which families of timm's transformers can be students, and what pruning saves of their cost.

One model of each family is built on torch's meta device, so that no weights are needed and nothing is timed.
"""

import fnmatch
from dataclasses import dataclass

import timm
import torch

from eet.errors import InputError
from eet.vit import PruningSchedule, scaled_prune_after
from eet.vit.families import Family, meta_student, timm_families, why_refused
from pipelines.benchmarks.networks import NUM_BITS, NUM_CLASSES
from pipelines.benchmarks.record import Column, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup, network_versions
from pipelines.configs.benchmark import BackbonesBenchmarkOptions
from pipelines.costs.networks import gmacs_per_image

POOLINGS = {"token": "CLS", "avg": "mean", "map": "attention"}
META = torch.device("meta")


@dataclass(frozen=True)
class BackboneRow:
    """One family. Without a student, all after `student` is None but the reason.

    models: their number. student: "yes" or "no". pools: what the embedding is made of. patches: of an image. stages: the blocks after
    which it prunes, and the patches that are left. timm_gmacs, gmacs: of an image, of timm's model and of the student. ratio: of the
    two.
    """

    family: str
    models: int
    example: str
    student: str
    pools: str | None = None
    image: str | None = None
    patches: int | None = None
    stages: str | None = None
    timm_gmacs: float | None = None
    gmacs: float | None = None
    ratio: float | None = None
    reason: str = ""


COLUMNS = (
    Column("family", "family"),
    Column("models", "models", "d"),
    Column("example", "example"),
    Column("student", "student"),
    Column("pools", "pools"),
    Column("image", "image"),
    Column("patches", "patches", "d"),
    Column("after block: patches left", "stages"),
    Column("GMACs, timm", "timm_gmacs", ".2f"),
    Column("GMACs, student", "gmacs", ".2f"),
    Column("student / timm", "ratio", ".2f"),
    Column("why not", "reason"),
)


def measure(options: BackbonesBenchmarkOptions, setup: Setup) -> list[BackboneRow]:
    """A row for each family that --backbones.families names. InputError where it names none."""
    families = chosen_families(options)
    print(f"{len(families)} families, about a second each", flush=True)
    rows = [row_of(family, setup.keep_ratios) for family in families]
    print_rows(COLUMNS, rows, heading=True)
    return rows


def chosen_families(options: BackbonesBenchmarkOptions) -> list[Family]:
    families = timm_families()
    chosen = [family for family in families if any(fnmatch.fnmatchcase(family.name, pattern) for pattern in options.families)]
    if not chosen:
        names = ", ".join(family.name for family in families)
        raise InputError(f"--backbones.families {list(options.families)} names none of timm's families: {names}")
    return chosen


def row_of(family: Family, keep_ratios: tuple[float, ...]) -> BackboneRow:
    """The example of a family as a student that prunes at the published stages, moved to its depth."""
    try:
        teacher = meta_student(family.example, num_classes=NUM_CLASSES, num_bits=NUM_BITS)
    except InputError as error:
        return BackboneRow(family.name, len(family.models), family.example, "no", reason=why_refused(error))
    size, patches = teacher.preprocessing.image_size, teacher.num_patches
    schedule = PruningSchedule(scaled_prune_after(len(teacher.trunk.blocks), len(keep_ratios)), keep_ratios)
    student = teacher.with_schedule(schedule)
    with META:
        peer = timm.create_model(family.example, pretrained=False, num_classes=NUM_CLASSES).eval()
    timm_gmacs = gmacs_per_image(peer, size, META)
    gmacs = gmacs_per_image(lambda images: student(images, tokens=False), size, META)
    kept = zip(schedule.prune_after, schedule.kept_counts(patches), strict=True)
    return BackboneRow(
        family=family.name,
        models=len(family.models),
        example=family.example,
        student="yes",
        pools=POOLINGS[teacher.trunk.global_pool],
        image=f"{size[0]} x {size[1]}",
        patches=patches,
        stages=", ".join(f"{block}: {count}" for block, count in kept),
        timm_gmacs=timm_gmacs,
        gmacs=gmacs,
        ratio=gmacs / timm_gmacs,
    )


def _planned(options: BackbonesBenchmarkOptions, setup: Setup) -> str:
    return f"{len(chosen_families(options))} families of timm, built without weights"


BENCHMARK = Benchmark(COLUMNS, measure, _planned, network_versions)
