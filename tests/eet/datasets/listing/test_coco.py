import json
import tracemalloc

import numpy as np
import pytest

from eet.datasets.listing import coco, list_images
from eet.storage import read_bytes

IMAGES = [{"id": 11, "file_name": "train/a.jpg", "width": 5}, {"id": 12, "file_name": "train/b.jpg"}, {"id": 13, "file_name": "c.jpg"}]
CATEGORIES = [{"id": 90, "name": "wren"}, {"id": 7, "name": "owl", "supercategory": "Aves"}, {"id": 8, "name": "kite"}]


def write(folder, content) -> str:
    for image in IMAGES:
        (folder / image["file_name"]).parent.mkdir(exist_ok=True)
        (folder / image["file_name"]).write_bytes(image["file_name"].encode())
    (folder / "train.json").write_text(json.dumps(content))
    return str(folder / "train.json")


@pytest.mark.parametrize("batch", [2, 50_000])
def test_images_with_their_categories(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(coco, "BATCH_ROWS", batch)
    annotations = [{"id": 1, "image_id": 11, "category_id": 90}, {"id": 2, "image_id": 13, "category_id": 7}]
    annotations.append({"id": 3, "image_id": 13, "category_id": 7, "bbox": [0, 0, 1, 1]})  # the same once more
    location = write(tmp_path, {"info": {}, "images": IMAGES, "annotations": annotations, "categories": CATEGORIES})
    images = list_images(location)
    found = [row for batch in images for row in zip(*batch[:2], batch.labels.tolist(), strict=True)]
    assert [(item_id, label) for item_id, _, label in found] == [("train/a.jpg", 2), ("train/b.jpg", -1), ("c.jpg", 0)]
    assert [read_bytes(uri).decode() for _, uri, _ in found] == ["train/a.jpg", "train/b.jpg", "c.jpg"]
    assert images.label_names == ("owl", "kite", "wren") and images.ambiguous == 0


def test_an_image_of_several_categories_has_no_label_and_is_counted(tmp_path):
    annotations = [{"image_id": 11, "category_id": category} for category in (90, 7, 90)] + [{"image_id": 12, "category_id": 8}]
    location = write(tmp_path, {"images": IMAGES, "annotations": annotations, "categories": CATEGORIES})
    with pytest.warns(UserWarning, match="1 of 3 images have annotations of several categories, such as train/a.jpg: .* without a label"):
        images = list_images(location)
    assert [batch.labels.tolist() for batch in images] == [[-1, 1, -1]] and images.ambiguous == 1


def test_images_alone_and_categories_without_names(tmp_path):
    images = list_images(write(tmp_path, {"images": IMAGES}), root="s3://bucket/photos?region=eu-1")
    ((batch),) = images
    assert batch.labels is None and images.label_names is None
    assert batch.uris[0] == "s3://bucket/photos/train/a.jpg?region=eu-1"
    annotations = [{"image_id": 11, "category_id": 90}, {"image_id": 12, "category_id": 8}]
    assert list_images(write(tmp_path, {"images": IMAGES, "annotations": annotations})).label_names == ("8", "90")
    twice = [{"id": 1, "name": "Acer"}, {"id": 2, "name": "Acer"}, {"id": 3, "name": "Rosa"}]
    assert list_images(write(tmp_path, {"images": IMAGES, "categories": twice})).label_names == ("Acer (1)", "Acer (2)", "Rosa")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "is no list of images in COCO format.*called .jsonl"),
        ({"labels": []}, "is no list of images in COCO format"),
        ({"images": []}, "lists no image"),
        ({"images": [{"id": 1}]}, r"images\[0\] is .*; it should be an object with id, file_name"),
        ({"images": [{"id": 1, "file_name": 3}]}, "has file_name 3; it should be its path"),
        ({"images": IMAGES, "annotations": [{"image_id": 11}]}, r"annotations\[0\] .* with image_id, category_id"),
        ({"images": IMAGES, "annotations": [{"image_id": 99, "category_id": 7}]}, "image_id 99, which is none of its images"),
        (
            {"images": IMAGES, "annotations": [{"image_id": 11, "category_id": 6}], "categories": CATEGORIES},
            "category_id 6, which is none of its categories",
        ),
        ({"images": IMAGES, "annotations": {"a": 1}}, "annotations should be a list"),
    ],
)
def test_other_json_is_refused(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        list_images(write(tmp_path, content))


def test_one_file_at_a_time(tmp_path):
    location = write(tmp_path, {"images": IMAGES})
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not JSON"):
        list_images(str(tmp_path / "bad.json"))
    assert location
    with pytest.raises(ValueError, match="2 .json files: give one at a time"):
        list_images(f"{tmp_path}/*.json")


def generated(folder, *, images: int, named_ids: bool, annotations_first: bool, details: int = 0) -> str:
    """A file of 5 categories in which one image has none, two or three annotations of one category, or of several."""
    rng = np.random.default_rng(images)
    ids = [f"img-{n}" if named_ids else int(n) for n in rng.permutation(images) + 2**40]
    content = {"images": [{"file_name": f"{n % 7}/{n:06d}.jpg", "id": ids[n], "x": "y" * details} for n in range(images)]}
    categories = [{"id": n, "name": f"kind {n}", "more": {"name": "inner", "images": [1, {"id": 2}]}} for n in (4, 900, -3, 17, 55)]
    annotations = []
    for n in range(images):
        for category in rng.choice([4, 900, -3, 17, 55], 1).repeat(rng.integers(0, 4)):
            box = [float(v) for v in range(details // 100)]
            annotations.append({"image_id": ids[n], "category_id": int(category), "bbox": box, "score": 0.5})
    annotations += [{"image_id": ids[n], "category_id": 4} for n in range(0, images, 11)]
    lists = {"categories": categories, "annotations": [annotations[n] for n in rng.permutation(len(annotations))]}
    content = {"info": {"images": None}, **({**lists, **content} if annotations_first else {**content, **lists})}
    (folder / "generated.json").write_text(json.dumps(content))
    return str(folder / "generated.json")


def read_whole(location: str) -> tuple[list[tuple[str, int]], int]:
    """(file_name, label) of each image, and how many have several categories: by json and dictionaries."""
    with open(location) as file:
        content = json.load(file)
    numbers = {category: number for number, category in enumerate(sorted(record["id"] for record in content["categories"]))}
    found: dict[object, set[int]] = {record["id"]: set() for record in content["images"]}
    for record in content["annotations"]:
        found[record["image_id"]].add(numbers[record["category_id"]])
    labels = {key: next(iter(labels)) if len(labels) == 1 else -1 for key, labels in found.items()}
    pairs = [(record["file_name"], labels[record["id"]]) for record in content["images"]]
    return pairs, sum(len(labels) > 1 for labels in found.values())


@pytest.mark.filterwarnings("ignore:.*of several categories")
@pytest.mark.parametrize("annotations_first", [False, True])
@pytest.mark.parametrize("named_ids", [False, True])
def test_a_stream_gives_what_reading_the_whole_file_gives(tmp_path, monkeypatch, named_ids, annotations_first):
    monkeypatch.setattr(coco, "BATCH_ROWS", 300)
    location = generated(tmp_path, images=1000, named_ids=named_ids, annotations_first=annotations_first)
    images = list_images(location)
    found = [pair for batch in images for pair in zip(batch.item_ids, batch.labels.tolist(), strict=True)]
    assert (found, images.ambiguous) == read_whole(location) and images.ambiguous > 0
    assert images.label_names == ("kind -3", "kind 4", "kind 17", "kind 55", "kind 900")


@pytest.mark.filterwarnings("ignore:.*of several categories")
def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "BATCH_ROWS", 500)
    location = generated(tmp_path, images=2000, named_ids=False, annotations_first=False, details=5000)
    assert (tmp_path / "generated.json").stat().st_size > 8 * 2**20
    tracemalloc.start()
    try:
        listed = sum(len(batch.item_ids) for batch in list_images(location))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert listed == 2000 and most < 4 * 2**20


def test_json_that_ends_too_soon_is_named(tmp_path):
    location = generated(tmp_path, images=50, named_ids=False, annotations_first=False)
    whole = (tmp_path / "generated.json").read_text()
    for length in (0, 40, len(whole) // 2, len(whole) - 1):
        (tmp_path / "generated.json").write_text(whole[:length])
        with pytest.raises(ValueError, match="generated.json is not JSON"):
            list_images(location)
