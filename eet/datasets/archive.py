"""Finding and reading the list files of an unpacked benchmark archive."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from eet.errors import InputError, NotFoundError


def find_archive_root(root: str, wrapper: str | None, required: Sequence[str]) -> Path:
    """The folder that holds every file or folder of `required`: `root` itself, or `root/wrapper`.

    Args:
        root: local folder.
        wrapper: top folder of the archive; None if it has none.
        required: paths relative to the folder.

    Raises:
        NotFoundError: a required file is missing; the message names it.
        InputError: root is a URI (the lists of a benchmark are read from a local copy).
    """
    if "://" in root:
        raise InputError(
            f"{root} is a URI: this dataset is read from a local folder. Give a local copy, or describe the images in "
            "a table (path,label,split) and load that as dataset 'table'"
        )
    folder = Path(root)
    if not folder.is_dir():
        raise NotFoundError(f"{root} is not a folder: give the one that holds {', '.join(required)}")
    candidates = (folder, folder / wrapper) if wrapper else (folder,)
    for candidate in candidates:
        if all((candidate / name).exists() for name in required):
            return candidate
    # The user probably means the candidate with the most files: name what is missing there.
    closest = max(candidates, key=lambda candidate: sum((candidate / name).exists() for name in required))
    missing = [name for name in required if not (closest / name).exists()]
    wanted = f"{wrapper}/ as its archive unpacks, or the folder around it" if wrapper else "the folder"
    raise NotFoundError(f"{', '.join(missing)} not found in {closest}: root should be {wanted}, with {', '.join(required)}")


def read_pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yields (line number from 1, first word, rest of the line) of each line that is not blank.

    Raises:
        InputError: a line has no second word; the message names file and line.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            first, _, rest = line.strip().partition(" ")
            if not rest:
                raise InputError(f"{path}, line {number}: {line.strip()!r} should be two values with a space between")
            yield number, first, rest.strip()


def read_names(path: Path) -> list[str]:
    """The lines that are not blank, stripped."""
    with path.open(encoding="utf-8") as lines:
        return [line.strip() for line in lines if line.strip()]


def check_names(path: Path, allowed: Sequence[str], allowed_by: Path, used: Sequence[str]) -> None:
    """InputError where the list `path` uses a label that the list `allowed_by` does not name."""
    unknown = sorted(set(used) - set(allowed))
    if unknown:
        raise InputError(
            f"{path} uses {', '.join(repr(name) for name in unknown[:3])}"
            f"{', ...' if len(unknown) > 3 else ''}, not among the {len(allowed)} names of {allowed_by}"
        )
