"""Searching a gallery for one query at a time: hits with the parts of their scores, why they match, and their images."""

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from eet.device import Device
from eet.errors import InputError, NotFoundError
from eet.figures import Line
from eet.gallery import Gallery, GalleryModel, fixed_binary_to_numpy
from eet.images import DecodeFailure, read_file
from eet.options.defaults import MAX_PIXELS, MOST_HITS
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.image_roots import ImageRoots, roots_of
from eet.retrieval.metres import with_metres
from eet.retrieval.pairs import MatchOptions, pairs_by_part, scoring_here
from eet.retrieval.regions import ImageTokens, Transport, matched_regions, region_columns
from eet.retrieval.rerank import match_options, queries_of_rows, reordered
from eet.retrieval.search import code_scores, hits_of
from eet.serving.filtered_index import FilteredIndex
from eet.serving.item_search import ItemSearch
from eet.serving.query import Box, Query, QueryEncoder, as_jpeg, item_query, query_manifest, reduced_image, row_of

MOST_LINES = 20
"""Limit of the lines of an explanation."""


GREY_IMAGE = as_jpeg(Image.new("RGB", (64, 64), "grey"), 64)
"""An image file to run every stage with."""


@dataclass(frozen=True)
class Hit:
    """An item in the answer to a query.

    Attributes:
        rank: from 1.
        item_id: of the item.
        name: its label, or the last part of its id where it has none.
        label: the name of its label, or its number where labels have no names; None where unknown.
        distance: Hamming, in bits.
        score: what the rank was made from, higher is better.
        score_global, score_struct: the parts of a re-ranked score; None without re-ranking.
        metres: how far it is from the query, which is an item too; None where either has no position.
    """

    rank: int
    item_id: str
    name: str
    label: str | None
    distance: int
    score: float
    score_global: float | None = None
    score_struct: float | None = None
    metres: float | None = None


class Answer(NamedTuple):
    """The result of a search. before: the hits before re-ranking; empty without it. milliseconds: by stage."""

    hits: list[Hit]
    before: list[Hit]
    milliseconds: dict[str, float]


class Region(NamedTuple):
    """What the network used of one image.

    Attributes:
        crop: the part that the network saw, (left, top, right, bottom) as shares of the image as it is shown.
        kept: positions of the kept tokens, row * columns + column.
        mass: how much mass each of them had in the matching; its sum is 1.
    """

    crop: tuple[float, float, float, float]
    kept: list[int]
    mass: list[float]


class Explanation(NamedTuple):
    """Why an item matches a query.

    grid: rows and columns of patches. input_size: height and width of what the network sees, in pixels. lines: matched patches, the
    strongest first.
    """

    grid: tuple[int, int]
    input_size: tuple[int, int]
    query: Region
    item: Region
    lines: list[Line]


class ImageSearch:
    """A model, a gallery that it encoded, and an index of the gallery.

    `encode`, `search` and `explain` are not thread-safe; `item` and `image` are.

    Args:
        model: encoded the gallery.
        gallery: its images may lie in the folders of `roots` only.
        index: of the gallery, in this process or in others; default an exact one over its codes.
        roots: local paths or URIs of folders; default the inputs that the manifest names.
        backend: what searches codes, see `eet.search.with_backend`.
        max_pixels: an image with more pixels is not decoded.
        device: where codes are searched, and where the network runs once `encode` is called.
    """

    def __init__(
        self,
        model: GalleryModel,
        gallery: Gallery,
        index: GalleryIndex | ItemSearch | None = None,
        *,
        roots: Sequence[str] = (),
        backend: str = "auto",
        max_pixels: int = MAX_PIXELS,
        device: Device | None = None,
    ) -> None:
        self.model, self.gallery, self.max_pixels = model, gallery, max_pixels
        self._device = device or Device.of()
        if index is None or isinstance(index, GalleryIndex):
            whole = GalleryIndex.of_gallery(gallery) if index is None else index
            index = FilteredIndex(whole.with_backend(backend, self._device.type), backend=backend, device=self._device.type)
        self._index: ItemSearch = index
        self._roots = ImageRoots(roots or roots_of(gallery))
        names = gallery.manifest.label_names
        self._label_names = names or ()
        self._label_of = {name: number for number, name in enumerate(names or ())}
        self.has_tokens = gallery.manifest.token_shape is not None
        """Whether hits can be re-ranked and explained."""
        self._options: dict[bool, MatchOptions] = {}
        if self.has_tokens:
            asked = Gallery("memory://eet/query", query_manifest(gallery))  # described, not stored
            self._options = {False: match_options(gallery, asked), True: match_options(gallery, gallery)}

    @property
    def num_items(self) -> int:
        """Items that can be found."""
        return self._index.num_items

    @property
    def labels(self) -> list[str]:
        """The names of the labels that items have, sorted; their numbers where they have no names."""
        return sorted(name for number in self._index.label_numbers if (name := self._label_name(number)) is not None)

    def warm_up(self, query: Query | None = None) -> None:
        """Runs every stage once: the first run in a process loads or compiles its loops.

        Args:
            query: an image that another process encoded; default one that is encoded here.
        """
        query = self.encode(GREY_IMAGE) if query is None else query
        hits = self.search(query, k=2, rerank=2 if self.has_tokens else 0).hits
        if hits:
            self.search(query, k=2, prefix=hits[0].item_id)

    def first_refusal(self) -> str | None:
        """Why the image of the first item is not shown: it lies outside of the roots. None where it does not, or there is no item."""
        first = self._index.first_id
        refused = None if first is None else self._roots.refusal(self.location(first))
        return None if refused is None else f"the image of {first!r:.200} {refused.error}"

    def encode(self, data: bytes, box: Box | None = None) -> Query:
        """See `QueryEncoder.encode`."""
        return self._encoder.encode(data, box)

    @cached_property
    def _encoder(self) -> QueryEncoder:
        """Made at the first image: where other processes encode, the network does not run here."""
        return QueryEncoder(self.model, self.gallery, max_pixels=self.max_pixels, device=self._device)

    def item(self, item_id: str) -> Query:
        """An item of the gallery as a query. NotFoundError where there is none; InputError where it has no code."""
        return item_query(self.gallery, item_id)

    def search(
        self, query: Query, *, k: int = 24, label: str | None = None, prefix: str = "", max_distance: int | None = None, rerank: int = 0
    ) -> Answer:
        """The nearest items of a query; an item is never its own hit.

        Args:
            query: from `encode` or `item`.
            k: most hits, 1 to MOST_HITS.
            label: only items of this label: its name, or its number where labels have no names.
            prefix: only items whose id starts with it.
            max_distance: only items within so many bits.
            rerank: re-order so many of the nearest items by matching image regions, then take the first k; 0 for none.

        Raises:
            InputError: a value is out of range, there is no such label, or the gallery has no tokens to re-rank by.
        """
        if not 1 <= k <= MOST_HITS or not 0 <= rerank <= MOST_HITS:
            raise InputError(f"k={k}, rerank={rerank}: use 1 to {MOST_HITS} hits, of which 0 to {MOST_HITS} are re-ranked")
        if max_distance is not None and max_distance < 0:
            raise InputError(f"max_distance={max_distance}: use 0 bits or more")
        if rerank and not self.has_tokens:
            raise InputError("the gallery has no tokens to re-rank by: encode it with tokens, or use rerank=0")
        milliseconds: dict[str, float] = {}
        with _timed(milliseconds, "search"):
            found = self._nearest(query, max(k, rerank), label, prefix, max_distance)
        if not rerank:
            return Answer(self._hits(found, k), [], milliseconds)
        with _timed(milliseconds, "rerank"):
            better = self._reranked(query, found, rerank)
        return Answer(self._hits(better, k), self._hits(found, k), milliseconds)

    def explain(self, query: Query, item_id: str, *, count: int = 5) -> Explanation:
        """The kept tokens of a query and of an item, and the matches between them that the transport makes strongest.

        Args:
            query: from `encode` or `item`.
            item_id: an item of the gallery.
            count: most lines, 1 to MOST_LINES.

        Raises:
            NotFoundError: there is no such item.
            InputError: the gallery has no tokens, an image cannot be read, or count is out of range.
        """
        if not self.has_tokens:
            raise InputError("the gallery has no tokens to explain hits by: encode it with tokens")
        if not 1 <= count <= MOST_LINES:
            raise InputError(f"count={count}: use 1 to {MOST_LINES} lines")
        item = self.item(item_id)
        options = self._options[query.is_item]
        transport = Transport(
            marginal=options.marginal, epsilon=options.epsilon, transported=options.transported, solver=options.solver
        )  # fmt: skip
        sides = [ImageTokens.of_row(side.row.select(region_columns(side.manifest)), side.manifest) for side in (query, item)]
        found = matched_regions(sides[0], sides[1], transport, grid=self.model.grid, patch_size=self.model.patch_size, count=count)
        regions = [
            Region(self._crop(side), tokens.index_K.tolist(), np.round(mass_K, 6).tolist())
            for side, tokens, mass_K in zip((query, item), sides, (found.query_mass_K, found.item_mass_K), strict=True)
        ]
        return Explanation(self.model.grid, self.model.preprocessing.image_size, regions[0], regions[1], found.lines)

    def image(self, item_id: str, side: int) -> bytes:
        """The upright image of an item as a JPEG, reduced to `side` pixels.

        NotFoundError where there is no such item, or its image cannot be read or lies outside of the roots.
        """
        return as_jpeg(self._image(item_id, side), side)

    def label(self, item_id: str) -> str | None:
        """The name of an item's label; None where unknown. NotFoundError where there is no such item."""
        return self._label_name(row_of(self.gallery, item_id, ["item_id", "label"])["label"][0].as_py())

    def location(self, item_id: str) -> str:
        """Where the image of an item lies. NotFoundError where there is no such item."""
        return str(row_of(self.gallery, item_id, ["item_id", "uri"])["uri"][0].as_py())

    def _image(self, item_id: str, side: int) -> Image.Image:
        uri = self.location(item_id)
        if (refused := self._roots.refusal(uri)) is not None:
            raise NotFoundError(f"the image of {item_id!r:.200} is not shown ({refused.status}): give its folder as an image root")
        data = read_file(uri)
        image = data if isinstance(data, DecodeFailure) else reduced_image(data, side, max_pixels=self.max_pixels)
        if isinstance(image, DecodeFailure):
            raise NotFoundError(f"the image of {item_id!r:.200} cannot be read ({image.status})")
        return image

    def _nearest(self, query: Query, k: int, label: str | None, prefix: str, max_distance: int | None) -> pa.Table:
        manifest = query.manifest
        codes_1B = fixed_binary_to_numpy(query.row["code"], np.uint8, (-(-manifest.num_bits // 8),))
        hash_1b = fixed_binary_to_numpy(query.row["hash"], "<f2", (manifest.num_bits,)).astype(np.float32) if manifest.has_hash else None
        number = None if label is None else self._label_number(label)
        found = self._index.search(
            codes_1B, k + query.is_item, radius=max_distance, query_hash=hash_1b, label=number, prefix=prefix
        )  # fmt: skip
        labels = query.row["label"].fill_null(-1).to_numpy().astype(np.int32)
        hits = hits_of(found, code_scores(found, hash_1b), query.row["item_id"].combine_chunks(), labels, k=k, same=query.is_item)
        return with_metres(hits, self.gallery, self.gallery) if query.is_item else hits

    def _reranked(self, query: Query, hits: pa.Table, top: int) -> pa.Table:
        options = self._options[query.is_item]
        queries = queries_of_rows(query.row, query.manifest, options)
        head_H = hits["rank"].to_numpy() <= top
        pair_P = np.flatnonzero(head_H)
        item_ids = hits["item_id"].combine_chunks().take(pa.array(pair_P))
        global_H, struct_H = (np.full(len(hits), np.nan, np.float32) for _ in range(2))
        with scoring_here(self.gallery, options) as scorer:
            for scored in scorer(queries, pairs_by_part(self.gallery, item_ids, pair_P, np.zeros(len(pair_P), np.int64))):
                global_H[scored.pair_P], struct_H[scored.pair_P] = scored.global_P, scored.struct_P
        return reordered(hits, head_H, global_H, struct_H, weight=1.0)

    def _hits(self, hits: pa.Table, k: int) -> list[Hit]:
        rows = hits.filter(pc.less_equal(hits["rank"], k)).to_pylist()
        return [self._hit(row) for row in rows]

    def _hit(self, row: dict[str, Any]) -> Hit:
        label = self._label_name(row["item_label"])
        item_id = row["item_id"]
        name = item_id.rstrip("/").rpartition("/")[2] if label is None else label
        parts = {part: row.get(part) for part in ("score_global", "score_struct", "metres")}
        return Hit(row["rank"], item_id, name, label, row["distance"], row["score"], **parts)

    def _label_name(self, number: int | None) -> str | None:
        if number is None or number < 0:
            return None
        return self._label_names[number] if number < len(self._label_names) else str(number)

    def _label_number(self, label: str) -> int:
        if label in self._label_of:
            return self._label_of[label]
        if not self._label_names and label.isascii() and label.isdecimal() and len(label) <= 9:
            return int(label)
        raise InputError(f"there is no label {label!r:.100} in the gallery")

    def _crop(self, query: Query) -> tuple[float, float, float, float]:
        """The part of an image that the network saw, as shares; it depends on the image's aspect ratio alone."""
        width, height = shown_size(query.shown) if not query.is_item else self._image(query.query_id, 256).size
        left, top, right, bottom = self.model.preprocessing.centred_box(width, height)
        return left / width, top / height, right / width, bottom / height


def shown_size(jpeg: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG that `as_jpeg` made."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.size


@contextmanager
def _timed(milliseconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    milliseconds[stage] = round(1000 * (time.perf_counter() - started), 2)
