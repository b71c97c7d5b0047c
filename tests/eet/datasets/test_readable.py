import shutil

from eet.datasets import readable, synthetic


def test_an_image_is_decoded_once_and_again_when_it_changed(tiny_birds, tmp_path, monkeypatch):
    monkeypatch.setenv("EET_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_birds, tmp_path / "birds")
    table = synthetic.load(str(tmp_path / "birds"))
    decoded: list[str] = []
    read_image = readable.read_image
    monkeypatch.setattr(readable, "read_image", lambda location: (decoded.append(location), read_image(location))[1])
    assert readable.unreadable_images(table, threads=2) == [] and len(decoded) == len(table)
    assert readable.unreadable_images(table, threads=2) == [] and len(decoded) == len(table)
    (tmp_path / "birds" / table.paths[3]).write_bytes(b"")
    (tmp_path / "birds" / table.paths[5]).unlink()
    for _ in range(2):
        found = readable.unreadable_images(table, threads=2)
        assert [row for row, _ in found] == [3, 5] and "no bytes" in found[0][1]
    # The empty one is known by its state; of the one that is gone there is none, so it is looked for each time.
    assert decoded[len(table) :].count(table.location(3)) == 1 and decoded[len(table) :].count(table.location(5)) == 2
    assert len(decoded) == len(table) + 3


def test_a_cache_that_cannot_be_written_is_done_without(tiny_birds, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EET_CACHE", str(tmp_path / "file"))
    assert readable.unreadable_images(synthetic.load(str(tiny_birds)), threads=2) == []
