"""The folder on this machine for what can be made or fetched again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of the cache: EET_CACHE, else XDG_CACHE_HOME/eet, else ~/.cache/eet."""
    if "EET_CACHE" in os.environ:
        return Path(os.environ["EET_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eet"
