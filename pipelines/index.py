"""`eet index`: the codes of a gallery as files that a search maps into memory, so that it starts at once."""

from pathlib import Path

from eet.errors import InputError
from eet.gallery import Gallery, open_gallery
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.index_folder import INDEX_FILE, INDEX_FOLDER, missing_parts
from eet.search import Index
from eet.storage import remove_leftovers, replace_folder
from pipelines.configs.index import IndexConfig
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import write_config


def run(config: IndexConfig) -> GalleryIndex | None:
    """Writes the index into config.out and returns it; None after a dry run."""
    config = with_absolute_locations(config)
    gallery = open_gallery(config.gallery)
    manifest = gallery.manifest
    INDEX_FOLDER.check(config.out)
    there = (Path(config.out) / INDEX_FILE).is_file()
    parts = missing_parts(config.out, gallery) if there else list(range(manifest.num_parts))
    extent = f"{len(parts)} of {manifest.num_parts} parts of {config.gallery}"
    before = GalleryIndex.load(config.out) if there else None
    if before is not None:
        _check_kind(config, before.codes)
    if config.dry_run:
        size = manifest.num_ok * (-(-manifest.num_bits // 8) + 4)
        print(f"dry run: {extent}; about {size / 1e6:.1f} MB and the item ids; nothing was started")
        return None
    remove_leftovers(config.out)
    if before is not None and not parts:
        print(f"{config.out} is up to date: nothing to do")
        return before
    with replace_folder(config.out, INDEX_FOLDER) as fresh:
        if before is None:
            GalleryIndex.write(Path(fresh), gallery, kind=config.kind or "exact", options=_options(config))
        else:
            GalleryIndex.write_extended(Path(fresh), gallery, config.out)
        write_config(fresh, config)
    index = GalleryIndex.load(config.out)
    print(f"{config.out}: {index.describe()} ({extent})")
    return index


def check_covers(index: str, gallery: Gallery) -> None:
    """InputError where an index lacks parts of a gallery, which a search would then not find."""
    if missing := missing_parts(index, gallery):
        raise InputError(
            f"--index {index} lacks {len(missing)} of the gallery's {gallery.manifest.num_parts} parts: extend it with "
            f"`eet index --gallery {gallery.path} --out {index}`"
        )


def _options(config: IndexConfig) -> dict[str, int]:
    """The options that the user gave for a new index."""
    return {name: value for name in ("lists", "links") if (value := getattr(config, name)) is not None}


def _check_kind(config: IndexConfig, there: Index) -> None:
    """InputError where the existing index is of another kind, or has other options, than requested."""
    if config.kind not in (None, there.kind):
        raise InputError(f"{config.out} is of kind {there.kind}, not {config.kind}: choose another --out, or remove it")
    for name, value in _options(config).items():
        if value != there.options[name]:
            raise InputError(f"{config.out} has {there.options[name]} {name}, not {value}: choose another --out, or remove it")
