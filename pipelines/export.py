"""`eet export`: the codes of a gallery in the files of another search library."""

from eet.gallery import open_gallery
from eet.retrieval.exports import EXPORT_FOLDER, EXPORTS
from eet.search import check_backend
from eet.storage import remove_leftovers, replace_folder
from pipelines.configs.export import ExportConfig
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import write_config


def run(config: ExportConfig) -> int:
    """Writes the export into config.out and returns the number of its items; 0 after a dry run."""
    config = with_absolute_locations(config)
    gallery = open_gallery(config.gallery)
    check_backend(config.to)
    EXPORT_FOLDER.check(config.out)
    if config.dry_run:
        print(f"dry run: {gallery.manifest.num_ok} codes of {gallery.manifest.num_bits} bits for {config.to}; nothing was started")
        return 0
    remove_leftovers(config.out)
    with replace_folder(config.out, EXPORT_FOLDER) as fresh:
        number = EXPORTS[config.to](gallery, fresh)
        write_config(fresh, config)
    print(f"{config.out}: {number:,} codes for {config.to}")
    return number
