from pathlib import Path
from types import SimpleNamespace

import pytest

from eet.retrieval.image_roots import ImageRoots, roots_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("photos/a/x.jpg", "photos/y.jpg", "photos-of-others/z.jpg", "secret/key.png", "photos/shard.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "photos" / "link.jpg").symlink_to(tmp_path / "secret" / "key.png")
    (tmp_path / "photos" / "folder").symlink_to(tmp_path / "secret")
    (tmp_path / "short").symlink_to(tmp_path / "photos")
    return tmp_path


def test_what_lies_under_a_root_is_allowed(tree: Path) -> None:
    roots = ImageRoots([str(tree / "photos")])
    for name in ("photos/a/x.jpg", "photos/y.jpg", "photos/shard.tar#512+100", "short/y.jpg", "photos/gone.jpg"):
        assert roots.refusal(str(tree / name)) is None, name
    assert roots.refusal(f"file://{tree}/photos/y.jpg") is None
    assert ImageRoots([str(tree / "short")]).refusal(str(tree / "photos" / "y.jpg")) is None
    assert ImageRoots(["memory://here/photos"]).refusal("memory://here/photos/y.jpg") is None


@pytest.mark.parametrize(
    "name",
    [
        "secret/key.png",
        "photos/../secret/key.png",
        "photos/link.jpg",
        "photos/folder/key.png",
        "photos-of-others/z.jpg",
        "secret/key.png#0+9",
    ],
)
def test_what_lies_elsewhere_is_refused_also_through_links(tree: Path, name: str) -> None:
    roots = ImageRoots([str(tree / "photos")])
    for location in (f"{tree}/{name}", f"file://{tree}/{name}"):
        failure = roots.refusal(location)
        assert failure is not None and failure.status == "outside" and f"lies outside of {tree}/photos" in failure.error


def test_another_file_system_is_elsewhere(tree: Path) -> None:
    assert ImageRoots([str(tree)]).refusal(f"memory:/{tree}/photos/y.jpg") is not None
    assert ImageRoots(["memory://here"]).refusal("memory://here/../there/y.jpg") is not None
    assert ImageRoots([]).refusal(str(tree / "photos" / "y.jpg")) is not None


def test_the_roots_of_a_gallery_are_its_inputs(tree: Path) -> None:
    inputs = (
        str(tree / "photos"), f"{tree}/photos/a/*.jpg", f"{tree}/photos/shard.tar", f"dataset cub at {tree}/secret, split test",
        "3 images, /etc/x.png first, digest 0", "memory://here/photos", f"{tree}/photos/shard-{{0..9}}.tar",
    )  # fmt: skip
    gallery = SimpleNamespace(manifest=SimpleNamespace(inputs=inputs))
    assert roots_of(gallery) == [str(tree / "photos"), f"{tree}/photos/a", str(tree / "secret"), "memory://here/photos"]
