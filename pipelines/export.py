"""`eet export`: a gallery or a model in the files of another program."""

import os

from eet.exports import GALLERY_FORMATS, MODEL_FORMATS, vector_source
from eet.gallery import open_gallery, read_model_record
from eet.storage import remove_leftovers, replace_folder, with_suffix
from pipelines.configs.export import ExportConfig
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import name_of, write_config


def run(config: ExportConfig) -> int:
    """Writes the export into config.out and returns the number of its items, or 1 for a model; 0 after a dry run."""
    config = with_absolute_locations(config)
    return _export_gallery(config) if config.to in GALLERY_FORMATS else _export_model(config)


def _export_gallery(config: ExportConfig) -> int:
    assert config.gallery is not None
    gallery, form = open_gallery(config.gallery), GALLERY_FORMATS[config.to]
    source = "code" if form.codes_only else vector_source(gallery.manifest, config.vector)
    form.check()
    form.folder.check(config.out)
    if config.dry_run:
        print(f"dry run: {gallery.manifest.num_ok:,} items, as vectors their {source}, for {config.to}; nothing was started")
        return 0
    remove_leftovers(config.out)
    with replace_folder(config.out, form.folder) as fresh:
        number = form.write(gallery, fresh, source)
        write_config(fresh, config)
    print(f"{config.out}: {number:,} items, as vectors their {source}, for {config.to}; {form.opened_by.replace('FOLDER', config.out)}")
    return number


def _export_model(config: ExportConfig) -> int:
    assert config.model is not None
    form = MODEL_FORMATS[config.to]
    form.check()
    record = read_model_record(config.model)
    if form.folder is not None:
        form.folder.check(config.out)
    if config.dry_run:
        print(f"dry run: {config.model}, codes of {record.num_bits} bits, for {config.to}; nothing was started")
        return 0
    remove_leftovers(config.out)
    if form.folder is None:
        said = form.write(config.model, config.out, os.path.splitext(name_of(config.out))[0])
        write_config(config.out, config)
    else:
        with replace_folder(config.out, form.folder) as fresh:
            said = form.write(config.model, fresh, name_of(config.out))
        # Next to the folder: what is uploaded of it shall hold no path of this machine.
        write_config(config.out, config, location=with_suffix(config.out, ".config.yaml"))
    print(f"{config.out}: {said}")
    return 1
