"""Tar shards are read to their end, so that a damaged one never lists fewer images than it held."""

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eet.datasets.listing import list_images
from eet.errors import InputError
from eet.storage import read_bytes

BLOCK = 512
PACK = {
    ".tar": lambda data: data,
    ".tar.gz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": lambda data: pa.Codec("zstd").compress(data).to_pybytes(),
}
# Three members of one block each: their headers start at 0, 1024 and 2048, and the end of the archive at 3072.
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def tar_of(members: dict[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


WHOLE = tar_of({name: name.encode() for name in NAMES})


def with_bytes(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def write(folder: Path, suffix: str, data: bytes) -> str:
    path = folder / f"shard{suffix}"
    path.write_bytes(PACK[suffix](data))
    return str(path)


def listed(location: str) -> dict[str, bytes]:
    return {item_id: read_bytes(uri) for batch in list_images(location) for item_id, uri in zip(batch.item_ids, batch.uris, strict=True)}


DAMAGES = {
    "cut at the end of a member": (WHOLE[:1024], 1024, "end of the archive is missing"),
    "cut where the archive should end": (WHOLE[:3072], 3072, "end of the archive is missing"),
    "one block of zeros instead of two": (WHOLE[: 3072 + BLOCK], 3072, "end of the archive is missing"),
    "cut inside a header": (WHOLE[: 1024 + 100], 1024, "truncated header"),
    "cut inside the data of a member": (WHOLE[: 1024 + BLOCK + 3], 2048, "unexpected end of data"),
    "a header with another checksum": (with_bytes(WHOLE, 1024, b"X"), 1024, "bad checksum"),
    "a header of noise": (with_bytes(WHOLE, 1024, np.random.default_rng(0).bytes(BLOCK)), 1024, "invalid|bad checksum"),
    "noise after the end": (WHOLE + b"x" * BLOCK, len(WHOLE), "bad checksum|invalid"),
    "half a block after the end": (WHOLE + b"x" * 100, len(WHOLE), "truncated header"),
    "a second archive that is cut": (WHOLE + WHOLE[:1024], len(WHOLE) + 1024, "end of the archive is missing"),
}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_refused_and_never_listed_in_part(tmp_path, damage, suffix):
    data, byte, reason = DAMAGES[damage]
    location = write(tmp_path, suffix, data)
    unpacked = "" if suffix == ".tar" else "of the unpacked tar "
    with pytest.raises(InputError, match=f"shard{suffix} is damaged at byte {byte} {unpacked}.*({reason})"):
        listed(location)


@pytest.mark.parametrize("size", [-512, -(2**40), 2**62, 2**70])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_member_of_an_impossible_size_is_refused(tmp_path, size, suffix):
    header = bytearray(WHOLE[1024 : 1024 + BLOCK])
    header[124:136] = bytes([255 if size < 0 else 128]) + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(InputError, match=f"shard{suffix} is damaged at byte "):
        listed(write(tmp_path, suffix, with_bytes(WHOLE, 1024, bytes(header))))


@pytest.mark.parametrize("size", [b"-1024", b"-10000"])
def test_an_extended_header_of_a_negative_size_is_refused(tmp_path, size):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.pax_headers = {"size": size.decode()} if name == "b.jpg" else {}
            tar.addfile(info)
    with pytest.raises(InputError, match="shard.tar is damaged at byte "):
        listed(write(tmp_path, ".tar", buffer.getvalue()))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_a_compressed_shard_that_is_cut_anywhere_is_refused(tmp_path, suffix):
    members = {f"{number}.jpg": np.random.default_rng(number).bytes(3000) for number in range(9)} | {
        "8.cls": b"name" * 100,
        "9.json": b" " * 9000,
    }
    packed = PACK[suffix](tar_of(members))
    path = tmp_path / f"shard{suffix}"
    for length in [*np.linspace(0, len(packed) - 1, 40).astype(int).tolist(), *range(len(packed) - 12, len(packed))]:
        path.write_bytes(packed[:length])
        with pytest.raises(InputError, match=f"shard{suffix} (cannot be unpacked|is damaged at byte)"):
            listed(str(path))


@pytest.mark.parametrize("suffix", PACK)
def test_archives_one_after_another_are_read_to_the_last(tmp_path, suffix):
    """As `cat a.tar b.tar` makes them, and `tar --ignore-zeros` reads them."""
    other = tar_of({"d.jpg": b"d" * 700, "e" * 150 + ".jpg": b"e"})
    found = listed(write(tmp_path, suffix, WHOLE + other + bytes(3 * BLOCK)))
    expected = {name: name.encode() for name in NAMES} | {"d.jpg": b"d" * 700, "e" * 150 + ".jpg": b"e"}
    assert found == {f"shard{suffix}/{name}": data for name, data in expected.items()}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", PACK)
def test_every_form_of_tar_is_read(tmp_path, form, suffix):
    members = {"deep/" * 15 + f"{number}.jpg": bytes([number]) * 511 * number for number in range(5)}
    assert listed(write(tmp_path, suffix, tar_of(members, form=form))) == {f"shard{suffix}/{name}": data for name, data in members.items()}


@pytest.mark.parametrize("padding", [2, 3, 20])
def test_the_end_of_an_archive_is_two_blocks_of_zeros_or_more(tmp_path, padding):
    assert len(listed(write(tmp_path, ".tar", WHOLE[:3072] + bytes(padding * BLOCK)))) == 3


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_hard_link_is_the_image_it_links_to_and_a_symbolic_one_is_counted(tmp_path, suffix):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"one"))
        for name, kind in (("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.jpg"
            tar.addfile(link)
    location = write(tmp_path, suffix, buffer.getvalue())
    assert listed(location) == {f"shard{suffix}/a.jpg": b"one", f"shard{suffix}/b.jpg": b"one"}
    images = list_images(location)
    assert len(list(images)) == 1 and images.ignored == 1


def test_a_sparse_member_is_refused(tmp_path):
    """GNU tar --sparse leaves out runs of zeros, so that the bytes in the tar are not those of the image."""
    header = bytearray(tar_of({"a.bmp": b"x" * BLOCK}, form=tarfile.GNU_FORMAT)[:BLOCK])
    header[156:157] = b"S"
    header[386:410] = b"%011o\0" % 4096 + b"%011o\0" % BLOCK  # 512 bytes from 4096 on
    header[483:495] = b"%011o\0" % (4096 + BLOCK)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(InputError, match="a.bmp is stored as a sparse file: pack the shard without --sparse"):
        listed(write(tmp_path, ".tar", bytes(header) + b"x" * BLOCK + bytes(2 * BLOCK)))


@pytest.mark.parametrize("label", ["2147483648", "-2147483649", "9" * 400])
@pytest.mark.parametrize("form", ["cls", "json"])
def test_a_label_beyond_32_bits_is_refused(tmp_path, label, form):
    text = label if form == "cls" else f'{{"label": {label}}}'
    location = write(tmp_path, ".tar", tar_of({"a.jpg": b"x", f"a.{form}": text.encode()}))
    with pytest.raises(InputError, match=f"a.{form} holds .*a label is a whole number from 0"):
        listed(location)


def test_one_number_in_two_forms_is_refused(tmp_path):
    for number, label in enumerate((b"007", b"12", b"007", b"7")):
        (tmp_path / f"{number}.tar").write_bytes(tar_of({"a.jpg": b"x", "a.cls": label}))
    assert [batch.labels.tolist() for batch in list_images(f"{tmp_path}/[012].tar")] == [[7, 12, 7]]
    with pytest.raises(InputError, match="3.tar: a.cls holds 7, and another image 007: write a label in one form, or as a name"):
        list(list_images(f"{tmp_path}/*.tar"))
