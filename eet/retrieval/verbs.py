"""The functions of the Python API: encode, search, rerank, evaluate. Each works without Ray."""

import hashlib
import json
import math
import os
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from eet.datasets.listing import Columns, ImageList, ListedImages, list_images
from eet.device import Device, check_precision
from eet.errors import InputError
from eet.gallery import (
    Gallery,
    GalleryModel,
    ModelRecord,
    PlannedPart,
    check_same_model,
    load_model,
    open_gallery,
    read_model_record,
    record_of,
)
from eet.gallery.adaptation import adapted_student, check_adaptable, sample_of
from eet.gallery.encoding import EncoderOptions, PartDone, RowsDone, encode_gallery, gallery_state, parts_here
from eet.gallery.job import check_folder
from eet.gallery.parts import PartFiles
from eet.hashing.quantisation import check_form
from eet.metrics import measures_as_text
from eet.options.choices import Backend, Denominator, GlobalSimilarity, LabelChoice, Mode, Ties, TokenMass, VectorForm
from eet.options.defaults import ADAPTED_TO, number_of_hits
from eet.retrieval.embedding_search import EmbeddingSearch
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.hits import Hits
from eet.retrieval.measures import Ranked, encoded_measures, hits_measures, labels_by_model, recall_ranks
from eet.retrieval.metres import radius_of
from eet.retrieval.pairs import scoring_here
from eet.retrieval.rerank import match_options, reranked_hits, rescored_hits
from eet.retrieval.search import search_gallery
from eet.search import check_backend
from eet.storage import absolute, claimed, exists, resolve, same_location
from eet.vit import Student


def adapt(
    model: GalleryModel | str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    sample: int = ADAPTED_TO,
    seed: int = 0,
    threads: int | None = None,
    precision: str = "auto",
) -> Student:
    """Fits the joint codes of a student to a collection of images, without labels.

    Codes of labels that were never trained improve. Encode both gallery and queries with the new model.

    Args:
        model: a student with joint codes, or the folder of its bundle.
        images: as for `encode`.
        sample: number of images that are drawn for it, at least the bits of a code.
        seed: of the draw and of the rotation.
        threads: CPU threads; default all.
        precision: "auto" (bf16 on CUDA, fp32 on a CPU), "fp32" or "bf16".

    Returns:
        The new model; `eet.vit.save_bundle` writes it.

    Raises:
        EetError: the codes are not joint, or too few images can be read.
    """
    if sample < 1:
        raise InputError(f"sample={sample}: use 1 or more")
    student = check_adaptable(load_model(model) if isinstance(model, str | Path) else model)
    listed = _listed(images, None, None, None)
    torch_threads = torch.get_num_threads()
    try:
        return adapted_student(student, sample_of(listed, sample, seed=seed), seed=seed, threads=threads, precision=precision)
    finally:
        torch.set_num_threads(torch_threads)  # the encoder changes it; restore it for the caller


def encode(
    model: GalleryModel | str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    tokens: bool = False,
    mass: TokenMass = "importance",
    embedding: bool = False,
    tokens_as: VectorForm = "float16",
    embedding_as: VectorForm = "float16",
    labels: Sequence[int | None] | None = None,
    label_names: Sequence[str] | None = None,
    columns: Columns | None = None,
    mode: Mode = "resume",
    take_over: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    precision: str = "auto",
    max_pixels: int = 200_000_000,
    rows_per_part: int = 2048,
    progress: bool | None = None,
) -> Gallery:
    """Encodes images into a gallery of hash codes. An image that cannot be read becomes a row with an error.

    Args:
        model: a model, or the folder of its bundle.
        images: a folder, a glob, a table or an archive of images (all that `eet encode --images` takes), or a sequence of paths and URIs.
        out: folder or URI of the gallery; an interrupted job there is continued. Default: in memory, while the gallery is in use.
        tokens: store the kept patch tokens, their positions and mass, for re-ranking.
        mass: source of the tokens' mass: "importance", or "rollout" (attention rollout, slower; not for a base model).
        embedding: store the final CLS vector.
        tokens_as, embedding_as: how tokens and embedding are stored: "float16", or their directions in "int8", "int4", "int2" or "bits"
            (1) a dimension.
        labels: label of each image of a sequence, None or negative where unknown.
        label_names: name of each label, index = label.
        columns: names of a table's columns.
        mode: with `out`: "resume", "append" (adds images that the gallery lacks) or "overwrite".
        take_over: with `out`: go on where another job holds the folder, even if it lives.
        batch_size: images in a batch; default 32 on a CPU, 256 on a GPU.
        threads: threads that read and decode; default all CPUs.
        precision: "auto" (bf16 on CUDA, fp32 on a CPU), "fp32" or "bf16".
        max_pixels: an image with more pixels becomes a row with an error.
        rows_per_part: images in one Parquet file, the unit of resuming.
        progress: show a bar; default on a terminal and in a notebook.

    Returns:
        The gallery, including the real-valued hashes, which order hits of equal distance.

    Raises:
        EetError: there is no image, an id occurs twice, or `out` holds other data.

    Example:
        >>> gallery = eet.encode("runs/model", "photos", out="runs/gallery", tokens=True)
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode={mode!r}: allowed are {', '.join(get_args(Mode))}")
    check_precision(precision)
    check_form(tokens_as, "tokens_as")
    check_form(embedding_as, "embedding_as")
    if rows_per_part < 1:
        raise InputError(f"rows_per_part={rows_per_part}: use 1 or more")
    record: ModelRecord
    if isinstance(model, str | Path):
        record, network = read_model_record(model), load_model(model)
    else:
        record, network = record_of(model), model
    listed = _listed(images, columns, labels, label_names)
    location = f"memory://eet/{uuid.uuid4().hex}" if out is None else str(absolute(str(out)))
    options = EncoderOptions(
        tokens=tokens,
        mass=mass,
        embedding=embedding,
        tokens_as=tokens_as,
        embedding_as=embedding_as,
        hash=True,
        precision=precision,
        max_pixels=max_pixels,
        batch_size=batch_size,
        threads=threads,
    )
    made_with = options.made_with(network, record, rows_per_part=rows_per_part)

    def parts(pending: list[PlannedPart], files: PartFiles) -> Iterator[PartDone]:
        with _Bar(sum(planned.num_rows for planned in pending), progress) as bar:
            yield from parts_here(network, options, files, pending, bar)

    torch_threads = torch.get_num_threads()
    check_folder(location, [str(images)] if isinstance(images, str | Path) else [])
    try:
        with claimed(location, take_over=take_over) as claim:
            encode_gallery(location, listed, gallery_state(location, listed, made_with, mode), parts, claim)
    except BaseException:
        if out is None:
            _forget(location)
        raise
    finally:
        torch.set_num_threads(torch_threads)  # the encoder changes it; restore it for the caller
    gallery = open_gallery(location)
    if out is None:
        weakref.finalize(gallery, _forget, location)
    return gallery


def _listed(
    images: str | Path | Sequence[str | Path],
    columns: Columns | None,
    labels: Sequence[int | None] | None,
    label_names: Sequence[str] | None,
) -> ImageList:
    if not isinstance(images, str | Path):
        return _ListedPaths([os.fspath(path) for path in images], labels, label_names)
    if labels is not None or label_names is not None:
        raise InputError("labels were given for images in a folder or table: give them for a sequence of paths, or in the table")
    return list_images(str(absolute(str(images))), columns=columns)


def search(
    gallery: Gallery | str | Path,
    queries: Gallery | str | Path,
    *,
    k: int | None = None,
    radius: int | None = None,
    by: Literal["code", "embedding"] = "code",
    backend: Backend = "auto",
    rescore: int = 0,
    rescore_weight: float | None = None,
) -> Hits:
    """The items of a gallery that are nearest to each query, by Hamming distance (or all within a radius) or by embedding, exactly.

    It runs on a GPU if there is one; the hits are the same.

    Args:
        gallery: the gallery to search, or its folder.
        queries: a gallery encoded by the same model, or its folder. It may be the gallery itself; then no item is its own hit.
        k: most hits of each query, at least 1; default 100, or all within the radius if one is given.
        radius: largest Hamming distance of a hit, in bits, at least 0. A query may then have few hits or none.
        by: "code" (Hamming distance) or "embedding" (cosine of the embeddings, which both galleries must have).
        backend: of codes: "native", "faiss" (FAISS's flat binary index), or "auto": faiss on a GPU, else native. The hits are the same.
        rescore: re-order this many of them by the query's real-valued hash with the bits of each item, and by embeddings; 0 for none.
        rescore_weight: weight of the cosine of the embeddings, at least 0; codes have weight 1. Default 1 if both galleries have
            embeddings, else 0.

    Returns:
        Hits ordered by distance, then by the query's real-valued hash, where the queries have one, then by item_id.

    Raises:
        EetError: the galleries were encoded by different models, an option is outside its range, or FAISS cannot be imported.
    """
    k = number_of_hits(k, radius)
    if k is not None and k < 1:
        raise InputError(f"k={k}: ask for 1 hit or more")
    if radius is not None and radius < 0:
        raise InputError(f"radius={radius}: use 0 bits or more")
    hits = "0 hits or more" if k is None else f"0 to k={k} hits"
    if not (0 <= rescore and (k is None or rescore <= k)):
        raise InputError(f"rescore={rescore}: use {hits}")
    if rescore_weight is not None and not 0 <= rescore_weight < math.inf:
        raise InputError(f"rescore_weight={rescore_weight}: use 0 or more")
    if by not in ("code", "embedding") or (by == "embedding" and (rescore or k is None or radius is not None)):
        raise InputError(f"by={by!r}, rescore={rescore}, radius={radius}: use 'code', or 'embedding' without rescore and radius")
    check_backend(backend)
    searched = _opened(gallery)
    asked = searched if queries is gallery else _opened(queries)
    check_same_model(searched, asked)
    if by == "embedding":
        found = search_gallery(searched, asked, k=k, embeddings=EmbeddingSearch(searched))
    else:
        device = Device.of().type
        index = GalleryIndex.of_gallery(searched).with_backend(backend, device)
        found = search_gallery(searched, asked, k=k, search=partial(index.search, radius=radius, device=device))
    if rescore:
        found = rescored_hits(found, searched, asked, top=rescore, weight=rescore_weight)
    return Hits(found, searched, asked)


def rerank(
    hits: Hits,
    *,
    top: int = 100,
    weight: float = 1.0,
    marginal: str = "importance",
    transported: float = 1.0,
    epsilon: float = 0.05,
    solver: str = "sinkhorn",
    global_similarity: GlobalSimilarity | None = None,
    embedding_weight: float = 0.0,
    threads: int | None = None,
) -> Hits:
    """Re-orders the first hits of every query by matching image regions, with optimal transport or MaxSim.

    Args:
        hits: hits between galleries that were encoded with tokens.
        top: number of hits of each query that are re-ranked, at least 1; the others keep their order.
        weight: weight of the structural similarity, at least 0; the global one has weight 1. 0 matches no tokens.
        marginal: how much mass each token sends or receives, a name in `eet.matching.MARGINALS`.
        transported: share of the mass to move, in (0, 1]; not read by the solver "maxsim".
        epsilon: strength of the entropy, in units of 1 - cosine, at least 0.0001; not read by "exact" and "maxsim".
        solver: a name in `eet.matching.SOLVERS`: "sinkhorn", "pot" or "exact" (optimal transport), or "maxsim" (the mean over the query's
            tokens, weighted by its marginal, of the greatest cosine with a token of the item).
        global_similarity: "hamming", "asymmetric" or "embedding"; default "asymmetric" where the queries have hashes.
        embedding_weight: weight of the cosine of the embeddings, at least 0, which is added to a similarity of codes.
        threads: CPU threads; default all.

    Returns:
        Hits with the columns `score_global` and `score_struct`, the parts of the score.

    Raises:
        EetError: a gallery lacks tokens, or an option is outside its range.
    """
    if top < 1:
        raise InputError(f"top={top}: re-rank 1 hit or more")
    if not 0 <= weight < math.inf:
        raise InputError(f"weight={weight}: use 0 or more")
    if threads is not None and threads < 1:
        raise InputError(f"threads={threads}: use 1 or more")
    options = match_options(
        hits.gallery,
        hits.queries,
        marginal=marginal,
        epsilon=epsilon,
        transported=transported,
        solver=solver,
        global_similarity=global_similarity,
        embedding_weight=embedding_weight,
        tokens=weight > 0,
        threads=threads,
    )
    opened = scoring_here(hits.gallery, options)
    table = reranked_hits(hits.table, hits.gallery, hits.queries, options, top=top, weight=weight, opened=opened)
    return Hits(table, hits.gallery, hits.queries, hits.recall)


class Evaluation(Mapping[str, float]):
    """Measures by name, and the bounds of their 95 % confidence intervals ("P@1_low", "P@1_high").

    It prints as a table: each value with half of the width of its interval. notes: what was left out, one sentence each.
    """

    def __init__(self, measures: Mapping[str, float], notes: Sequence[str] = ()) -> None:
        self.measures, self.notes = dict(measures), tuple(notes)

    def __getitem__(self, name: str) -> float:
        return self.measures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def __str__(self) -> str:
        rows = dict(measures_as_text(self.measures))
        width = max(map(len, rows), default=0)
        lines = [f"{name:<{width}}  {text:>6}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__


def evaluate(
    what: Hits | Gallery | str | Path,
    queries: Gallery | str | Path | None = None,
    *,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] | None = None,
    count_query: bool = False,
    ties: Ties = "expected",
    denominator: Denominator = "all",
    metres: float | None = None,
    all_queries: bool = False,
    labels: LabelChoice = "all",
    model: str | Path | None = None,
) -> Evaluation:
    """Measures the quality of hits, or of the codes of a gallery, by labels or, for images of places, by distance.

    Every measure is the mean over random order among items that are equally near, with a 95 % confidence interval over queries.

    Args:
        what: hits, measured in their order; or a labelled gallery, all items of which are ranked for every query.
        queries: for a gallery: a labelled gallery of queries; default the gallery itself, then no item is its own hit.
        ks: ranks of P@k.
        recall_ks: ranks of recall@k, which is 1 if any of the first k is a match; default 1, 2, 4, 8, or 1, 5, 10, 20 by distance.
        count_query: R-precision and MAP@R with R + 1 for R, the published form.
        ties: "stable" adds each measure with ties in the order of item_id (of hits: of ranks), as "P@1_stable" and so on.
        denominator: of the mAP@k of hits: "all" matches in the gallery, "reachable" in k hits, or "found" among them.
        metres: matches are the items within this distance of the query, in its zone. Default: the items of its label; where labels are
            missing and both sides have positions, those within 25 metres.
        all_queries: also recall over all queries, those without a match counted as 0, as "recall@1_all" and so on.
        labels: queries of all labels, or of those that the model saw in training or did not, matched by name. The gallery stays whole.
        model: folder of the model's bundle, which names the labels of its training; for `labels`.

    Raises:
        EetError: there are no labels, or an option is outside its range.

    Example:
        >>> print(eet.evaluate(eet.search(gallery, queries)))
    """
    if labels != "all" and model is None:
        raise InputError(f"labels={labels!r} needs model: its bundle names the labels that were trained")
    if isinstance(what, Hits):
        if queries is not None:
            raise InputError("queries were given with hits, which have their own: leave them out")
        own = same_location(what.gallery.path, what.queries.path)
        radius = radius_of(what.gallery, what.queries, metres)
        found = hits_measures(
            what.table,
            what.gallery,
            own=own,
            queries=what.queries,
            k=None if what.recall is None or "k" not in what.recall else int(what.recall["k"]),
            ks=ks,
            recall_ks=recall_ranks(radius) if recall_ks is None else recall_ks,
            count_query=count_query,
            ties=ties,
            denominator=denominator,
            metres=radius,
            all_queries=all_queries,
            labels=labels_by_model(what.queries, labels, model, name=str(model)),
        )
        return Evaluation(found.values, found.notes)
    gallery = _opened(what)
    asked = gallery if queries is None else _opened(queries)
    radius = radius_of(gallery, asked, metres)
    ranked: Ranked = encoded_measures(
        gallery,
        asked,
        ks=ks,
        recall_ks=recall_ranks(radius) if recall_ks is None else recall_ks,
        count_query=count_query,
        ties=ties,
        metres=radius,
        all_queries=all_queries,
        labels=labels_by_model(asked, labels, model, name=str(model)),
    )
    return Evaluation(ranked.measures)


def _opened(gallery: Gallery | str | Path) -> Gallery:
    return gallery if isinstance(gallery, Gallery) else open_gallery(str(gallery))


class _ListedPaths(ImageList):
    """Images given as a sequence of paths; the id of an item is its path as given."""

    def __init__(self, paths: list[str], labels: Sequence[int | None] | None, label_names: Sequence[str] | None) -> None:
        if not paths:
            raise InputError("there is no image to encode: the sequence of paths is empty")
        if labels is not None and len(labels) != len(paths):
            raise InputError(f"{len(labels)} labels for {len(paths)} images: give one each")
        self._paths, self._uris = paths, [str(absolute(path)) for path in paths]
        self._labels = None if labels is None else [-1 if label is None or label < 0 else int(label) for label in labels]
        self.label_names = None if label_names is None else tuple(label_names)
        if self.label_names is not None and self._labels is not None and max(self._labels) >= len(self.label_names):
            raise InputError(f"label {max(self._labels)} has no name: label_names has {len(self.label_names)}, for labels from 0")
        # Resuming compares descriptions, so other images or labels need another description.
        listed = json.dumps([paths, self._labels, self.label_names])
        super().__init__(f"{len(paths)} images, {paths[0]} first, digest {hashlib.sha256(listed.encode()).hexdigest()[:12]}")

    def __iter__(self) -> Iterator[ListedImages]:
        labels = None
        if self._labels is not None:
            labels = np.array(self._labels, np.int32)
        yield ListedImages(list(self._paths), list(self._uris), labels)


class _Bar:
    """A progress bar over rows, on a terminal or in a notebook."""

    def __init__(self, total: int, shown: bool | None) -> None:
        from tqdm.auto import tqdm

        # disable=None: shown where there is a terminal.
        self._bar = tqdm(total=total, unit="image", disable=None if shown is None else not shown, leave=False)
        self._rows: dict[int, int] = {}

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, event: PartDone | RowsDone) -> None:
        self._bar.update(event.rows - self._rows.get(event.part, 0))
        self._rows[event.part] = event.rows


def _forget(location: str) -> None:
    """Frees a gallery in memory."""
    filesystem, path = resolve(location)
    if exists(location):
        filesystem.delete_dir(path)


__all__ = ["Evaluation", "encode", "evaluate", "rerank", "search"]
