"""`eet encode`: images to a gallery. Ray Data passes planned parts to actors; each actor reads, decodes, hashes and writes whole parts."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from eet.datasets.listing import ImageList
from eet.device import Device
from eet.errors import InputError
from eet.gallery import GalleryModel, Manifest, PlannedPart, items_table, load_model, read_model_record
from eet.gallery.adaptation import adapted_student, check_adaptable, sample_of
from eet.gallery.encoding import (
    EncodeResult,
    EncoderOptions,
    GalleryState,
    PartDone,
    encode_gallery,
    error_report,
    gallery_state,
    parts_here,
)
from eet.gallery.job import check_folder
from eet.gallery.parts import PartFiles
from eet.images import DeviceJpegDecoder
from eet.storage import claimed
from eet.vit import is_bundle, read_bundle_record, save_bundle
from pipelines.configs.encode import EncodeConfig
from pipelines.job.address import check_address
from pipelines.job.dataset_images import images_of
from pipelines.job.engine import uses_ray
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import write_config
from pipelines.job.progress import EncodeProgress, duration

MOST_HERE = 10_000
"""Images up to which --engine auto does not start Ray."""
BF16_FROM = 1000
"""Images from which a job that encodes in fp32 says that this CPU computes in bf16 too."""


def run(config: EncodeConfig, *, recorded_out: str | None = None) -> EncodeResult:
    """Plans the gallery, encodes the missing parts, and writes the manifest last.

    Args:
        config: options of the job.
        recorded_out: output to record in config.yaml, if the folder will be moved there later.
    """
    config = with_absolute_locations(config)
    if config.engine != "local":
        check_address(config.ray_address)
    check_folder(config.out, filter(None, [config.images, config.data.root, config.data.table]))
    images, options = images_of(config), encoder_options(config)
    if config.adapt is not None:
        if config.dry_run and not is_bundle(config.adapt):
            check_adaptable(load_model(config.model))
            print(f"dry run: {config.model} would be adapted to {config.adapt_images} of the images first, and written to {config.adapt}")
        else:
            adapt(config, images)
            config = replace(config, model=config.adapt)
    model = load_model(config.model)
    made_with = options.made_with(model, read_model_record(config.model), rows_per_part=config.rows_per_part)
    if config.dry_run:
        state = gallery_state(config.out, images, made_with, config.mode)
        _refuse_without_gpu(config, state)
        _print_estimate(config, model, images)
        return EncodeResult(config.out, state.manifest, 0.0)

    def notify(line: str) -> None:
        print(f"encode: {line}", flush=True)

    with claimed(config.out, take_over=config.take_over, notify=notify) as claim:
        state = gallery_state(config.out, images, made_with, config.mode)
        _refuse_without_gpu(config, state)
        result = encode_gallery(
            config.out,
            images,
            state,
            lambda pending, files: _encode(config, model, pending, files, is_new=state.job is None and state.manifest is None),
            claim,
            notify=notify,
            on_begin=lambda: write_config(config.out, replace(config, out=recorded_out or config.out)),
        )
    _print_result(config, result.manifest)
    return result


def adapt(config: EncodeConfig, images: ImageList) -> None:
    """Writes the adapted model to --adapt, unless one is there. InputError where --model cannot be adapted, or that one is of another."""
    assert config.adapt is not None
    record = read_bundle_record(config.model)
    if is_bundle(config.adapt):
        if read_bundle_record(config.adapt).training.get("adapted_from") != record.digest:
            raise InputError(f"--adapt {config.adapt} holds a model that was not adapted from --model {config.model}: give another folder")
        return
    student = check_adaptable(load_model(config.model))
    uris = sample_of(images, config.adapt_images, seed=config.seed)
    print(f"encode: fitting codes to {len(uris)} images ({images.description})", flush=True)
    adapted = adapted_student(student, uris, seed=config.seed, threads=config.threads, precision=config.precision)
    training = {**record.training, "adapted_from": record.digest, "adapted_to": images.description}
    save_bundle(
        adapted, config.adapt, label_names=record.label_names, target_codes=record.target_codes, label_counts=record.label_counts,
        training=training,
    )  # fmt: skip


def _encode(config: EncodeConfig, model: GalleryModel, pending: list[PlannedPart], files: PartFiles, *, is_new: bool) -> Iterator[PartDone]:
    """Encodes parts into `files`; is_new: of a gallery whose precision is not settled. JobFailed where Ray stops."""
    num_images = sum(planned.num_rows for planned in pending)
    if is_new and num_images >= BF16_FROM:
        _offer_bf16(config)
    progress = EncodeProgress(num_images)
    options = encoder_options(config)
    address, workers, need = config.ray_address, config.workers, config.worker_need
    try:
        if uses_ray(config.engine, address=address, work=num_images, most_here=MOST_HERE, workers=workers, need=need):
            from pipelines.actors.encoding import encode_on_ray  # imports Ray

            yield from encode_on_ray(model, options, files, pending, progress, address=address, workers=workers, need=need)
        else:
            yield from parts_here(model, options, files, pending, progress)
    finally:
        progress.close()


def _offer_bf16(config: EncodeConfig) -> None:
    """Says how to encode faster, where the default is fp32 on a CPU of this machine that computes in bf16."""
    device = Device.of(precision=config.precision)
    if config.precision == "auto" and config.ray_address == "local" and device.precision == "fp32" and device.computes_bf16:
        print(
            "encode: this CPU computes in bf16 too: --precision bf16 is faster, and about 1 % of the bits of the codes differ", flush=True
        )


def _refuse_without_gpu(config: EncodeConfig, state: GalleryState) -> None:
    """InputError, before anything starts, where JPEGs are to be decoded on a GPU and the workers have none that can."""
    nothing_to_do = state.job is None and state.manifest is not None and state.mode != "append"
    if nothing_to_do or config.jpegs_on == "cpu" or (config.dry_run and config.ray_address != "local"):
        return
    if config.engine == "local" or config.ray_address == "local":
        why_not = _why_not_on_gpu()
    else:
        from pipelines.actors.encoding import why_not_on_gpu  # imports Ray

        why_not = why_not_on_gpu(config.ray_address, config.worker_need, _why_not_on_gpu)
    if why_not:
        raise InputError(f"--jpegs_on gpu: {why_not}; use --jpegs_on cpu")


def _why_not_on_gpu() -> str:
    """Why this process cannot decode JPEGs on its GPU; empty where it can."""
    if not torch.cuda.is_available():
        return "this machine has no GPU that torch sees"
    try:
        DeviceJpegDecoder(torch.device("cuda"))
    except RuntimeError as error:
        return str(error)
    return ""


def encoder_options(config: EncodeConfig) -> EncoderOptions:
    """The options of a worker's encoder."""
    return EncoderOptions(
        tokens=config.tokens,
        mass=config.mass,
        embedding=config.embedding,
        tokens_as=config.tokens_as,
        embedding_as=config.embedding_as,
        hash=config.hash,
        precision=config.precision,
        jpegs_on=config.jpegs_on,
        max_pixels=config.max_pixels,
        batch_size=config.batch_size,
        threads=config.threads,
    )


def _print_result(config: EncodeConfig, manifest: Manifest | None) -> None:
    """Prints the contents of the gallery. InputError where too many of its images failed."""
    assert manifest is not None
    bad, failed = manifest.num_rows - manifest.num_ok, error_report(manifest)
    print(f"{config.out}: {manifest.num_ok} codes of {manifest.num_bits} bits" + (f"; {bad} {failed}" if bad else ""))
    if bad > config.max_error_ratio * manifest.num_rows:
        raise InputError(
            f"{bad} of {manifest.num_rows} {failed}, more than --max-error-ratio {config.max_error_ratio}; the gallery is kept; its rows "
            "hold the reasons"
        )


def _print_estimate(config: EncodeConfig, model: GalleryModel, images: ImageList) -> None:
    """Counts the images, encodes the first ones in this process, and prints the estimated time and size."""
    device = Device.of().type
    options = replace(encoder_options(config), jpegs_on=config.jpegs_on if device == "cuda" else "cpu")
    encoder = options.encoder(model, device=device, threads=os.cpu_count() or 1)
    sample: list[str] = []
    num_images = 0
    for batch in images:
        sample += batch.uris[: 2 * encoder.batch_size - len(sample)]
        num_images += len(batch.uris)
    rows = items_table([str(row) for row in range(len(sample))], sample)
    encoder.encode(rows)  # warms up
    started = time.monotonic()
    encoded = encoder.encode(rows).table
    rate = len(sample) / (time.monotonic() - started)
    per_row = encoded.nbytes / len(sample)
    workers = config.workers or 1
    columns = ", ".join(encoded.schema.names)
    print(
        f"dry run: {num_images} images ({images.description})"
        + (f", {images.ignored} other files ignored" if images.ignored else "")
        + f"; model {config.model} on {device}, {model.num_bits} bits; about {per_row * num_images / 1e6:.1f} MB "
        f"({per_row:.0f} bytes a row: {columns}); {rate:.1f} images/s measured for one worker, so about "
        f"{duration(num_images / rate / workers)} with {workers}; nothing was started"
    )
