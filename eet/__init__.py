"""EET: hash codes for look-alike images, search in Hamming space, re-ranking by optimal transport.

    import eet

    model = eet.load_model("runs/model")
    gallery = eet.encode(model, "photos", tokens=True)
    hits = eet.search(gallery, eet.encode(model, ["query.jpg"], tokens=True), k=100)
    better = eet.rerank(hits, top=50)
    better.panel(0)

This package uses no Ray, no MLflow and no command line; `pipelines` adds the cluster. Importing it is fast: the names below are loaded when
they are first used. It sets OMP_WAIT_POLICY to passive, unless that is set or torch is loaded: threads of torch that wait then sleep.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from eet.options.threads import SLEEPING_THREADS

if TYPE_CHECKING:
    from eet.errors import EetError
    from eet.gallery import Gallery, load_model, open_gallery
    from eet.retrieval.hits import Hits
    from eet.retrieval.verbs import Evaluation, adapt, encode, evaluate, rerank, search

__version__ = "0.1.0"

if "torch" not in sys.modules:  # which reads them when it is loaded
    for _name, _value in SLEEPING_THREADS.items():
        os.environ.setdefault(_name, _value)

_MODULE_OF = {
    "EetError": "eet.errors",
    "Evaluation": "eet.retrieval.verbs",
    "Gallery": "eet.gallery",
    "Hits": "eet.retrieval.hits",
    "adapt": "eet.retrieval.verbs",
    "encode": "eet.retrieval.verbs",
    "evaluate": "eet.retrieval.verbs",
    "load_model": "eet.gallery",
    "open_gallery": "eet.gallery",
    "rerank": "eet.retrieval.verbs",
}

__all__ = [
    "EetError",
    "Evaluation",
    "Gallery",
    "Hits",
    "__version__",
    "adapt",
    "encode",
    "evaluate",
    "load_model",
    "open_gallery",
    "rerank",
    "search",
]


class _SearchPackage(ModuleType):
    """The package `eet.search` with the indexes; calling it runs the function `search`."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        return importlib.import_module("eet.retrieval.verbs").search(*given, **options)


class _Package(ModuleType):
    """This package. Importing the package `eet.search` would hide the function of that name, so the package becomes callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "search" and type(value) is ModuleType:
            value.__class__ = _SearchPackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "search":
        return importlib.import_module("eet.search")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'eet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
