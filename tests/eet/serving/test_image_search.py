"""One query at a time: the hits of eet.search and eet.rerank, filters, explanations, images, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eet
from eet.datasets import synthetic
from eet.errors import InputError, NotFoundError
from eet.serving import Box, ImageSearch, QueryEncoder


@pytest.fixture(scope="module")
def gallery(tiny_model, tiny_birds):
    birds = synthetic.load(str(tiny_birds))
    paths = [birds.location(row) for row in range(len(birds))]
    return eet.encode(tiny_model, paths, labels=birds.labels.tolist(), label_names=birds.label_names, tokens=True, rows_per_part=7)


@pytest.fixture(scope="module")
def search(tiny_model, tiny_birds, gallery) -> ImageSearch:
    return ImageSearch(eet.load_model(tiny_model), gallery, roots=[str(tiny_birds)])


@pytest.fixture(scope="module")
def item_ids(gallery) -> list[str]:
    return gallery.codes()[1].to_pylist()


def ids(hits) -> list[str]:
    return [hit.item_id for hit in hits]


def test_hits_of_an_image_are_those_of_the_python_api(search, tiny_model, gallery, item_ids):
    queries = eet.encode(tiny_model, [item_ids[3]], tokens=True)
    expected = eet.search(gallery, queries, k=10).to_pandas()
    query = search.encode(Path(item_ids[3]).read_bytes())
    answer = search.search(query, k=10)
    assert ids(answer.hits) == expected["item_id"].tolist() and answer.before == []
    assert [hit.distance for hit in answer.hits] == expected["distance"].tolist()
    np.testing.assert_allclose([hit.score for hit in answer.hits], expected["score"], rtol=1e-3)
    assert answer.hits[0].item_id == item_ids[3] and answer.hits[0].distance == 0
    assert set(answer.milliseconds) == {"search"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_is_encoded_in_the_precision_of_the_gallery(tiny_model, item_ids, precision):
    held = eet.encode(tiny_model, item_ids[:4], precision=precision, batch_size=1)
    query = ImageSearch(eet.load_model(tiny_model), held).encode(Path(item_ids[2]).read_bytes())
    assert query.manifest.precision == precision
    np.testing.assert_array_equal(query.row["hash"].to_pylist()[0], held.rows([item_ids[2]])["hash"].to_pylist()[0])


@pytest.mark.slow
def test_reranked_hits_are_those_of_the_python_api(search, gallery, item_ids):
    expected = eet.rerank(eet.search(gallery, gallery, k=20), top=20).to_pandas()
    expected = expected[expected["query_id"] == item_ids[5]]
    answer = search.search(search.item(item_ids[5]), k=6, rerank=20)
    assert ids(answer.hits) == expected["item_id"].tolist()[:6]
    np.testing.assert_allclose([hit.score_struct for hit in answer.hits], expected["score_struct"][:6], rtol=1e-5)
    np.testing.assert_allclose([hit.score_global for hit in answer.hits], expected["score_global"][:6], rtol=1e-5)
    assert ids(answer.before) == ids(search.search(search.item(item_ids[5]), k=6).hits)
    assert set(answer.milliseconds) == {"search", "rerank"} and item_ids[5] not in ids(answer.hits)


def test_filters_are_exact(search, gallery, item_ids, tiny_birds):
    everything = search.search(search.item(item_ids[0]), k=1000).hits
    assert len(everything) == len(item_ids) - 1
    for label in search.labels:
        kept = search.search(search.item(item_ids[0]), k=3, label=label).hits
        assert ids(kept) == [hit.item_id for hit in everything if hit.label == label][:3]
    prefix = item_ids[20][:-5]
    expected = [hit.item_id for hit in everything if hit.item_id.startswith(prefix)]
    assert ids(search.search(search.item(item_ids[0]), k=1000, prefix=prefix).hits) == expected != []
    assert search.search(search.item(item_ids[0]), prefix="nowhere/").hits == []
    near = search.search(search.item(item_ids[0]), k=1000, max_distance=3, label=search.labels[0]).hits
    assert ids(near) == [hit.item_id for hit in everything if hit.distance <= 3 and hit.label == search.labels[0]]


def test_an_image_in_a_batch_is_encoded_as_it_is_alone(search, tiny_model, gallery, item_ids):
    encoder = QueryEncoder(eet.load_model(tiny_model), gallery, batch_size=4)
    images = [(Path(item_id).read_bytes(), None) for item_id in item_ids[:5]]
    images[1] = (b"no image", None)
    images[2] = (images[2][0], Box(0, 0, 0.5, 1))
    found = encoder.encode_all(images)
    assert isinstance(found[1], InputError) and "not-an-image" in str(found[1])
    for number in (0, 2, 3, 4):
        alone = encoder.encode(*images[number])
        assert found[number].row.equals(alone.row) and found[number].shown == alone.shown
        assert found[number].row["code"] == search.encode(*images[number]).row["code"]
    with pytest.raises(InputError, match="not-an-image"):
        encoder.encode(b"no image")
    assert encoder.encode_all([]) == []


def test_a_box_searches_for_a_part_of_the_upright_image(search, item_ids):
    image = Image.open(item_ids[0]).convert("RGB")
    wide = Image.new("RGB", (96, 48), "white")
    wide.paste(image, (48, 0))
    file, turned = io.BytesIO(), io.BytesIO()
    wide.save(file, "PNG")
    found = search.encode(file.getvalue(), Box.parse("0.5,0,1,1"))
    assert found.row["code"] == search.encode(Path(item_ids[0]).read_bytes()).row["code"]
    assert Image.open(io.BytesIO(found.shown)).size == (48, 48)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: shown after a quarter turn to the right
    wide.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    assert search.encode(turned.getvalue(), Box.parse("0.5,0,1,1")).row["code"] == found.row["code"]
    assert search.encode(file.getvalue()).query_id != found.query_id == search.encode(file.getvalue(), Box(0.5, 0, 1, 1)).query_id


@pytest.mark.parametrize("box", ["", "0,0,1", "a,0,1,1", "0.5,0,0.5,1", "0,0.9,1,0.1", "-0.1,0,1,1", "0,0,1,1.1", "nan,0,1,1", "0,0,inf,1"])
def test_what_is_no_box_is_refused(box):
    with pytest.raises(InputError, match="box"):
        Box.parse(box)


def test_the_smallest_box_has_a_pixel():
    assert Box(0.999999, 0, 1, 1e-9).cut(Image.new("RGB", (5, 5))).size == (1, 1)


def test_an_explanation_is_what_the_network_kept_and_matched(search, gallery, item_ids):
    query = search.encode(Path(item_ids[0]).read_bytes())
    found = search.explain(query, item_ids[1], count=3)
    rows, columns = found.grid
    assert (rows, columns) == (6, 6) and found.input_size == (48, 48) and 1 <= len(found.lines) <= 3
    for region in (found.query, found.item):
        assert len(region.kept) == len(region.mass) == gallery.manifest.token_shape[0]
        assert sum(region.mass) == pytest.approx(1, abs=1e-4)
        left, top, right, bottom = region.crop
        assert right - left == pytest.approx(bottom - top) == pytest.approx(0.875)
    for line in found.lines:
        assert line.query in found.query.kept and line.item in found.item.kept
    strengths = [line.strength for line in found.lines]
    assert strengths == sorted(strengths, reverse=True)
    same = search.explain(query, item_ids[0], count=20)
    assert any(line.query == line.item and line.mutual for line in same.lines)


def test_images_are_given_by_id_and_reduced(search, item_ids):
    assert Image.open(io.BytesIO(search.image(item_ids[0], 24))).size == (24, 24)
    assert Image.open(io.BytesIO(search.image(item_ids[0], 4096))).size == (48, 48)


@pytest.mark.parametrize("item_id", ["", "nobody", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "\ud800", "a\0b"])
def test_an_id_is_no_path(search, item_id):
    for call in (search.item, lambda item_id: search.image(item_id, 64), search.location):
        with pytest.raises(NotFoundError, match="there is no item"):
            call(item_id)


def test_images_outside_of_the_roots_stay_where_they_are(tiny_model, gallery, item_ids, tmp_path):
    elsewhere = ImageSearch(eet.load_model(tiny_model), gallery, roots=[str(tmp_path)])
    with pytest.raises(NotFoundError, match="outside"):
        elsewhere.image(item_ids[0], 64)
    assert elsewhere.search(elsewhere.item(item_ids[0]), k=1).hits
    assert "lies outside of" in elsewhere.first_refusal()


def test_images_inside_the_roots_are_not_refused(search):
    search.warm_up()
    assert search.first_refusal() is None


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "data, reason",
    [(b"", "empty"), (b"<html>", "not-an-image"), (png(64, 64)[:60], "truncated|decode-error"), (png(1001, 1000), "too-large")],
    ids=["empty", "text", "cut off", "bomb"],
)
@pytest.mark.parametrize("box", [None, Box(0, 0, 0.5, 0.5)], ids=["whole", "box"])
def test_what_is_no_image_is_refused(tiny_model, gallery, data, reason, box):
    search = ImageSearch(eet.load_model(tiny_model), gallery, max_pixels=1_000_000)
    with pytest.raises(InputError, match=reason):
        search.encode(data, box)


def test_impossible_questions_are_refused(search, tiny_model, item_ids):
    query = search.item(item_ids[0])
    for options in ({"k": 0}, {"k": 1001}, {"rerank": -1}, {"rerank": 1001}, {"max_distance": -1}, {"label": "nobody"}, {"label": "0"}):
        with pytest.raises(InputError, match=str(list(options.values())[0])):
            search.search(query, **options)
    with pytest.raises(InputError, match="count=0"):
        search.explain(query, item_ids[1], count=0)
    plain = ImageSearch(eet.load_model(tiny_model), eet.encode(tiny_model, item_ids[:4]))
    for refused in (lambda: plain.search(plain.item(item_ids[0]), rerank=2), lambda: plain.explain(plain.item(item_ids[0]), item_ids[1])):
        with pytest.raises(InputError, match="no tokens"):
            refused()
    unlabelled = plain.search(plain.item(item_ids[0]), k=1).hits[0]
    assert unlabelled.label is None and unlabelled.name == Path(unlabelled.item_id).name
