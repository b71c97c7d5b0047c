"""Members of containers: read once by many threads, refused where the container was replaced."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.datasets.listing import list_images
from eet.storage import read_bytes


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_container_that_was_replaced_is_an_error_and_no_other_image(tmp_path):
    make_tar(tmp_path / "s.tar", {"a.jpg": b"x" * 5000})
    ((uri,),) = [batch.uris for batch in list_images(str(tmp_path / "s.tar"))]
    (tmp_path / "t.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:2000])
    with pytest.raises(OSError, match="replaced after it was listed"):
        read_bytes(uri.replace("s.tar", "t.tar"))
    pq.write_table(pa.table({"image": [b"a", None]}), tmp_path / "p.parquet")
    assert read_bytes(f"{tmp_path}/p.parquet#0/1/image") == b""
    for place in ("0/2", "1/0"):
        with pytest.raises(OSError, match="replaced after it was listed"):
            read_bytes(f"{tmp_path}/p.parquet#{place}/image")
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{tmp_path}/gone.tar#0+10")
    (tmp_path / "odd.tar#1.jpg").write_bytes(b"a plain file")
    assert read_bytes(f"{tmp_path}/odd.tar#1.jpg") == b"a plain file"


def test_threads_that_want_one_row_group_read_it_once(tmp_path, monkeypatch):
    from eet.storage import members

    pq.write_table(pa.table({"image": [str(n).encode() for n in range(50)]}), tmp_path / "p.parquet", row_group_size=25)
    monkeypatch.setattr(members, "row_groups", members.Recent(2))
    read = members.read_group
    reads: list[int] = []
    monkeypatch.setattr(members, "read_group", lambda *given: (reads.append(given[2].first), read(*given))[1])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_bytes, [f"{tmp_path}/p.parquet#{n // 25}/{n % 25}/image" for n in range(50)]))
    assert found == [str(n).encode() for n in range(50)] and sorted(reads) == [0, 1]
    assert np.array_equal(reads, sorted(reads))
