import pytest

from eet.datasets import list_image_files


@pytest.fixture
def tree(tmp_path):
    names = ["b.jpg", "a/z.PNG", "a/deep/c.Tiff", "a/notes.txt", "jpg", ".hidden.jpg", ".cache/d.jpg", "e.jpg.tmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_images_are_sorted_and_others_counted(tree, scheme):
    assert list_image_files(f"{scheme}{tree}") == (["a/deep/c.Tiff", "a/z.PNG", "b.jpg"], 3)
    assert list_image_files(f"{scheme}{tree}/")[0][0] == "a/deep/c.Tiff"


def test_linked_folders_are_followed_once(tree):
    (tree / "a" / "loop").symlink_to(tree)
    outside = tree.parent / "outside"
    outside.mkdir()
    (outside / "f.gif").touch()
    (tree / "link").symlink_to(outside)
    assert list_image_files(str(tree))[0] == ["a/deep/c.Tiff", "a/z.PNG", "b.jpg", "link/f.gif"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_missing_folder_is_named(tmp_path, scheme):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        list_image_files(f"{scheme}{tmp_path}/nowhere")
