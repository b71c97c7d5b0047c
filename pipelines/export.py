"""`eet export`: a gallery in the files of another program."""

from eet.exports import GALLERY_FORMATS, vector_source
from eet.gallery import open_gallery
from eet.storage import remove_leftovers, replace_folder
from pipelines.configs.export import ExportConfig
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import write_config


def run(config: ExportConfig) -> int:
    """Writes the export into config.out and returns the number of its items; 0 after a dry run."""
    config = with_absolute_locations(config)
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
