import json

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
