"""`eet fit-base`: a base model that is fitted to images without training and without labels, for places above all."""

import os

from eet.embedding import BaseModel, build_base, save_base
from eet.gallery.adaptation import sample_of
from eet.gallery.fitted_base import fitted_base
from eet.options.image_size import height_and_width
from eet.storage import claimed
from pipelines.configs.fit_base import FitBaseConfig
from pipelines.job.dataset_images import images_of
from pipelines.job.held_output import check_local_output
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import write_config


def run(config: FitBaseConfig) -> BaseModel | None:
    """Fits the model and writes its bundle into config.out; None after a dry run."""
    config = with_absolute_locations(config)
    check_local_output(config)
    images = images_of(config)
    model = build_base(
        config.backbone,
        embedding_width=None,
        image_size=height_and_width(config.image_size),
        weights=config.weights,
        backbone_options=config.backbone_options,
        aggregation=config.aggregation,
        aggregation_options=config.aggregation_options,
        tokens_from_block=config.tokens_from_block,
        fit=config.fit,
        seed=config.seed,
    )
    uris = sample_of(images, config.most_images, seed=config.seed)
    print(f"fit-base: {config.backbone}, {config.aggregation}, {model.embedding_width} wide; {len(uris)} images ({images.description})")
    if config.dry_run:
        print("dry run: nothing was started")
        return None
    with claimed(config.out, take_over=None, notify=print) as claim:
        fitted = fitted_base(
            model,
            uris,
            width=config.width,
            whitening=config.whitening,
            bits=config.bits,
            seed=config.seed,
            threads=config.threads or os.cpu_count() or 1,
            precision=config.precision,
        )
        claim.check()
        write_config(config.out, config)
        save_base(fitted, config.out, training={"fitted_to": images.description, "images": len(uris), "seed": config.seed})
    print(f"bundle: {config.out}, embedding {fitted.embedding_width} wide, codes of {fitted.num_bits} bits")
    return fitted
