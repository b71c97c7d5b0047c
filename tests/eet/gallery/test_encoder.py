"""The encoder against the network run on one image at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import eet
from eet.datasets import synthetic
from eet.errors import InputError
from eet.gallery import PartEncoder, fixed_binary_to_numpy, items_table, load_model, read_model_record
from eet.hashing.quantisation import stored, stored_bytes
from eet.images import DeviceJpegDecoder, read_image
from eet.matching import rollout_mass
from eet.vit import Student, load_bundle

ROWS, BAD = 11, {4: "truncated", 7: "missing"}
SURE = 1e-4  # a hash nearer to 0 may fall on either side in another batch


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> Student:
    return load_bundle(tiny_model)


@pytest.fixture(scope="module")
def rows(tiny_birds: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    table = synthetic.load(str(tiny_birds))
    chosen = range(0, 4 * ROWS, 4)  # several labels
    uris = [table.location(row) for row in chosen]
    cut = tmp_path_factory.mktemp("bad") / "cut.png"
    data = Path(uris[4]).read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    uris[4], uris[7] = str(cut), "/no/such/image.png"
    labels = pa.array([int(table.labels[row]) for row in chosen], pa.int32())
    return pa.table({"item_id": [f"{row:02d}" for row in range(ROWS)], "uri": uris, "label": labels})


@pytest.fixture(scope="module")
def encoded(student: Student, rows: pa.Table):
    return PartEncoder(student, batch_size=4, threads=3, tokens=True, embedding=True).encode(rows)


@torch.inference_mode()
def alone(student: Student, uri: str):
    return student(student.preprocess(read_image(uri)).unsqueeze(0))


@pytest.mark.parametrize("form", ["int8", "int4", "int2", "bits"])
def test_tokens_and_embedding_in_few_bits_are_those_in_float16(student, rows, encoded, form):
    table = PartEncoder(student, batch_size=4, tokens=True, embedding=True, token_form=form, embedding_form=form).encode(rows).table
    assert all(table[name].equals(encoded.table[name]) for name in ("code", "token_index", "token_mass", "status"))
    for name, shape in (("tokens", student.token_shape), ("embedding", (student.embedding_width,))):
        whole = fixed_binary_to_numpy(encoded.table[name].drop_null(), "<f2", shape)
        few = fixed_binary_to_numpy(table[name].drop_null(), np.uint8, (*shape[:-1], stored_bytes(form, shape[-1])))
        assert table[name].null_count == len(BAD)
        assert np.mean(few != stored(whole, form)) < 0.1  # float16 rounded before, so that some coordinates change their level


def test_each_row_is_the_output_of_the_network_for_its_image_alone(student, rows, encoded):
    token_shape = student.token_shape
    assert token_shape == (2, 32)
    good = [row for row in range(ROWS) if row not in BAD]
    table = encoded.table.take(good)
    codes = np.unpackbits(fixed_binary_to_numpy(table["code"], np.uint8, (2,)), axis=1)
    tokens = fixed_binary_to_numpy(table["tokens"], "<f2", token_shape)
    index = fixed_binary_to_numpy(table["token_index"], "<u2", token_shape[:1])
    mass = fixed_binary_to_numpy(table["token_mass"], "<f2", token_shape[:1])
    embedding = fixed_binary_to_numpy(table["embedding"], "<f2", (32,))
    assert len(np.unique(codes, axis=0)) > 1, "all codes are one: nothing could be distinguished"
    for place, row in enumerate(good):
        out = alone(student, rows["uri"][row].as_py())
        expected = out.hash[0].numpy()
        np.testing.assert_allclose(encoded.hash[row], expected, atol=SURE)
        sure = np.abs(expected) > SURE
        assert np.array_equal(codes[place][sure], (expected > 0)[sure])
        assert np.array_equal(index[place], out.token_index[0].numpy())
        np.testing.assert_allclose(tokens[place], out.tokens[0].numpy(), atol=5e-3)
        np.testing.assert_allclose(mass[place], out.token_mass[0].numpy(), atol=1e-3)
        np.testing.assert_allclose(embedding[place], out.embedding[0].numpy(), atol=5e-3)


@torch.inference_mode()
def test_hashes_are_those_of_the_plain_loop_bit_for_bit(student, rows, encoded):
    """Images normalised one by one and then stacked: how the encoder brings its batches together must not move a hash."""
    uris = rows["uri"].to_pylist()
    for start in range(0, ROWS, 4):
        batch = torch.zeros(4, 3, 48, 48)
        for place, uri in enumerate(uris[start : start + 4]):
            if start + place not in BAD:
                batch[place] = student.preprocess(read_image(uri))
        hash_Bb = student(batch.contiguous(memory_format=torch.channels_last)).hash.numpy()
        for place in range(min(4, ROWS - start)):
            if start + place not in BAD:
                assert np.array_equal(encoded.hash[start + place], hash_Bb[place]), start + place


def test_the_mass_is_that_of_rollout_where_asked_and_nothing_else_changes(student, rows, encoded):
    rolled = PartEncoder(student, batch_size=4, threads=3, tokens=True, embedding=True, mass="rollout").encode(rows)
    for name in encoded.table.column_names:
        assert (rolled.table[name] == encoded.table[name]) == (name != "token_mass"), name
    mass = fixed_binary_to_numpy(rolled.table["token_mass"], "<f2", (2,))
    image = student.preprocess(read_image(rows["uri"][0].as_py())).unsqueeze(0)
    np.testing.assert_allclose(mass[0], rollout_mass(student, image)[0].numpy(), atol=1e-3)


def test_rollout_is_refused_without_attention_or_tokens(student, tiny_base):
    with pytest.raises(InputError, match="this is a base model"):
        PartEncoder(load_model(tiny_base), tokens=True, mass="rollout")
    with pytest.raises(InputError, match="none are stored"):
        PartEncoder(student, mass="rollout")
    with pytest.raises(InputError, match="use one of importance, rollout"):
        PartEncoder(student, tokens=True, mass="other")


def test_the_mass_is_in_the_manifest_and_must_be_the_same_on_append(tiny_model, rows, tmp_path):
    uris = [rows["uri"][row].as_py() for row in range(3)]
    gallery = eet.encode(tiny_model, uris[:2], out=tmp_path / "rolled", tokens=True, mass="rollout", progress=False)
    assert gallery.manifest.mass == "rollout" and '"mass": "rollout"' in gallery.manifest.to_json()
    with pytest.raises(InputError, match="mass: rollout then, importance now"):
        eet.encode(tiny_model, uris, out=tmp_path / "rolled", tokens=True, mode="append", progress=False)
    plain = eet.encode(tiny_model, uris[:2], tokens=True, progress=False).manifest
    assert plain.mass == "importance" and '"mass"' not in plain.to_json()


def test_a_part_without_rows_is_empty_and_of_the_same_columns(student, rows, encoded):
    encoder = PartEncoder(student, batch_size=4, threads=3, tokens=True, embedding=True)
    empty = encoder.encode(rows.slice(0, 0))
    assert empty.table.num_rows == 0 and empty.table.schema == encoded.table.schema
    assert empty.hash.shape == (0, 16) and empty.hash.dtype == encoded.hash.dtype


@torch.inference_mode()
def test_large_jpegs_are_decoded_as_the_models_record_says(student, tmp_path):
    large = str(tmp_path / "large.jpg")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).save(large)
    assert student.preprocessing.least_oversampling is not None
    encoded = PartEncoder(student, batch_size=1).encode(items_table(["large"], [large])).hash[0]
    view = np.array(student.preprocessing.read(large))
    reduced, whole = (
        student(image[None]).hash[0].numpy() for image in (student.preprocessing.normalise(view), student.preprocess(read_image(large)))
    )
    np.testing.assert_allclose(encoded, reduced, atol=SURE)
    assert np.abs(encoded - whole).max() > 10 * SURE
    pytest.importorskip("torchcodec", reason="TorchCodec is not installed (pip install -e '.[nvjpeg]')")
    on_device = PartEncoder(student, batch_size=1, jpegs_on_device=True).encode(items_table(["large"], [large])).hash[0]
    np.testing.assert_allclose(on_device, whole, atol=0.01)  # at full size there; a level of a few pixels apart
    assert np.abs(on_device - reduced).max() > 10 * np.abs(on_device - whole).max()


@torch.inference_mode()
def test_of_a_base_model_the_code_is_the_signs_of_the_embedding(tiny_base, rows):
    model = load_model(tiny_base)
    encoded = PartEncoder(model, batch_size=4, tokens=True, embedding=True).encode(rows.slice(0, 3))
    table = encoded.table
    codes = np.unpackbits(fixed_binary_to_numpy(table["code"], np.uint8, (2,)), axis=1, count=12)
    for row in range(3):
        out = model(model.preprocess(read_image(rows["uri"][row].as_py())).unsqueeze(0))
        np.testing.assert_allclose(encoded.hash[row], out.embedding[0].numpy(), atol=SURE)
        sure = out.embedding[0].abs().numpy() > SURE
        assert np.array_equal(codes[row][sure], (out.embedding[0].numpy() > 0)[sure])
        stored = fixed_binary_to_numpy(table["tokens"], "<f2", (49, 12))[row]
        np.testing.assert_allclose(stored, out.tokens[0].numpy(), atol=5e-3)
        np.testing.assert_allclose(fixed_binary_to_numpy(table["token_mass"], "<f2", (49,))[row], out.token_mass[0].numpy(), atol=1e-3)
        assert fixed_binary_to_numpy(table["token_index"], "<u2", (49,))[row].tolist() == list(range(49))
        np.testing.assert_allclose(fixed_binary_to_numpy(table["embedding"], "<f2", (12,))[row], out.embedding[0].numpy(), atol=1e-3)
    assert read_model_record(tiny_base).num_bits == 12


def test_a_bundle_of_another_kind_is_refused_by_name(tiny_base, tmp_path):
    (tmp_path / "model.json").write_text((tiny_base / "model.json").read_text().replace("base model", "owl"))
    with pytest.raises(ValueError, match="holds a owl; this program reads a student and a base model"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=r"is no model bundle.*train-base"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_how_threads_share_the_work_changes_no_byte(student, rows, encoded, threads):
    """Of three batches two or three threads take one each; one, or eight, share every network."""
    before = torch.get_num_threads()
    reported: list[int] = []
    again = PartEncoder(student, batch_size=4, threads=threads, tokens=True, embedding=True).encode(rows, reported.append)
    assert again.table.equals(encoded.table) and np.array_equal(again.hash, encoded.hash)
    assert reported == [4, 8, 11] and torch.get_num_threads() == before


def test_a_fault_of_the_network_ends_the_part_and_leaves_the_threads_as_they_were(student, rows, monkeypatch):
    encoder, before = PartEncoder(student, batch_size=4, threads=2), torch.get_num_threads()
    hashed, real = [], encoder.hash_batch

    def faulty(views, number):
        hashed.append(number)
        if number == 3:
            raise RuntimeError("out of something")
        return real(views, number)

    monkeypatch.setattr(encoder, "hash_batch", faulty)
    with pytest.raises(RuntimeError, match="out of something"):
        encoder.encode(rows)
    assert torch.get_num_threads() == before and sorted(hashed) == [3, 4, 4]


def test_rows_keep_their_order_ids_and_labels(rows, encoded):
    for name in ("item_id", "uri"):
        assert encoded.table[name].to_pylist() == rows[name].to_pylist()
    labels = rows["label"].to_pylist()
    assert len(set(labels)) > 1
    assert encoded.table["label"].to_pylist() == [None if row in BAD else label for row, label in enumerate(labels)]


def test_a_bad_image_is_a_row_with_a_reason_and_nothing_else(encoded):
    for row, status in BAD.items():
        values = encoded.table.slice(row, 1).to_pylist()[0]
        assert values["status"] == status and values["error"]
        assert all(values[name] is None for name in ("label", "code", "tokens", "token_index", "token_mass", "embedding"))
        assert not encoded.hash[row].any()
    good = [row for row in range(ROWS) if row not in BAD]
    assert encoded.table["status"].take(good).to_pylist() == ["ok"] * len(good)
    assert encoded.table["error"].take(good).null_count == len(good)


def test_a_row_depends_on_its_place_and_image_alone(student, rows, encoded):
    """Other images in the batch, and a part that ends in the middle of one, change no byte."""
    encoder = PartEncoder(student, batch_size=4, threads=1, tokens=True, embedding=True)
    shorter = encoder.encode(rows.slice(0, 6))
    assert shorter.table.equals(encoded.table.slice(0, 6))
    swapped = rows.to_pylist()
    swapped[0]["uri"], swapped[3]["uri"] = swapped[10]["uri"], "/no/such/image.png"
    others = encoder.encode(pa.Table.from_pylist(swapped, schema=rows.schema))
    assert others.table["code"][0] != encoded.table["code"][0] or not np.array_equal(others.hash[0], encoded.hash[0])
    for row in (1, 2, 5, 6, 8, 9, 10):
        assert others.table.slice(row, 1).equals(encoded.table.slice(row, 1)), row


def test_the_network_sees_batches_of_one_size_only(student, rows):
    """Also at the end of a part: with the size of a batch a hash moves in its last digits, and a bit with it."""
    sizes: list[int] = []
    hook = student.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    PartEncoder(student, batch_size=4).encode(rows)
    hook.remove()
    assert sizes == [4, 4, 4]


def test_columns_are_those_asked_for(student, rows):
    plain = PartEncoder(student, batch_size=4).encode(rows.slice(0, 2)).table
    assert "tokens" not in plain.schema.names and "embedding" not in plain.schema.names
    only = PartEncoder(student, batch_size=4, embedding=True).encode(rows.slice(0, 2)).table
    assert "tokens" not in only.schema.names and "embedding" in only.schema.names


def test_an_unlabelled_row_has_no_label(student, rows):
    unlabelled = rows.slice(0, 3).set_column(2, "label", pa.array([None, 2, None], pa.int32()))
    assert PartEncoder(student, batch_size=4).encode(unlabelled).table["label"].to_pylist() == [None, 2, None]


def test_an_image_above_the_limit_is_refused(student, rows):
    table = PartEncoder(student, batch_size=4, max_pixels=48 * 48 - 1).encode(rows.slice(0, 2)).table
    assert table["status"].to_pylist() == ["too-large"] * 2


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"threads": 0}])
def test_sizes_below_one_are_refused(student, sizes):
    with pytest.raises(ValueError, match="at least 1"):
        PartEncoder(student, **sizes)


def test_the_rows_done_are_reported_after_each_batch(student, rows):
    reported: list[int] = []
    PartEncoder(student, batch_size=4).encode(rows, reported.append)
    assert reported == [4, 8, 11]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_jpegs_decoded_on_the_device_give_the_rows_that_the_threads_give(student, rows, tmp_path, monkeypatch, device):
    """JPEGs among other images, two that the decoder refuses and one that is cut off: the same hashes, and the same reasons."""
    pytest.importorskip("torchcodec", reason="TorchCodec is not installed (pip install -e '.[nvjpeg]')")
    uris = rows["uri"].to_pylist()
    for row in (0, 1, 3, 5, 6, 9):
        Image.fromarray(np.asarray(read_image(uris[row]))).save(tmp_path / f"{row}.jpg", quality=95, subsampling=row % 3)
        uris[row] = str(tmp_path / f"{row}.jpg")
    for row in (1, 6):  # Huffman tables that are none
        data = Path(uris[row]).read_bytes()
        place = data.index(b"\xff\xc4") + 5
        Path(uris[row]).write_bytes(data[:place] + b"\xff" * 16 + data[place + 16 :])
    Path(uris[5]).write_bytes(Path(uris[5]).read_bytes()[:-100])
    mixed = rows.set_column(rows.schema.get_field_index("uri"), "uri", pa.array(uris))
    options = {"device": device, "batch_size": 4, "threads": 3, "tokens": True, "precision": "fp32"}
    expected = PartEncoder(student, **options).encode(mixed)
    decoded = []
    decode = DeviceJpegDecoder.decode

    def counted(self, jpegs):
        images = list(decode(self, jpegs))
        decoded.extend(image is not None for image in images)
        return images

    monkeypatch.setattr(DeviceJpegDecoder, "decode", counted)
    on_device = PartEncoder(student, **options, jpegs_on_device=True).encode(mixed)
    assert sorted(decoded) == [False] * 2 + [True] * 3, "of six JPEGs two are refused and one is cut off"
    assert {row: status for row, status in enumerate(expected.table["status"].to_pylist()) if status != "ok"} == {
        1: "decode-error", 4: "truncated", 5: "truncated", 6: "decode-error", 7: "missing"
    }  # fmt: skip
    for name in ("item_id", "uri", "label", "status", "error"):
        assert on_device.table[name].equals(expected.table[name])
    if device == "cpu":
        assert on_device.table.equals(expected.table), "small images are decoded at full size by both"
    np.testing.assert_allclose(on_device.hash, expected.hash, atol=SURE if device == "cpu" else 0.1)
    assert np.abs(on_device.hash[0]).max() > 10 * SURE


@pytest.mark.parametrize("form", ["float16", "int4"])
@pytest.mark.parametrize("output", ["hash", "embedding", "tokens"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_for_which_the_network_computes_no_numbers_says_so(tiny_model, rows, encoded, output, value, form):
    broken = load_bundle(tiny_model)

    def spoil(module, given, out):
        values = getattr(out, output).clone()
        values[1].view(-1)[0] = value
        return out._replace(**{output: values})

    broken.register_forward_hook(spoil)
    options = {"tokens": True, "embedding": True, "token_form": form, "embedding_form": form}
    part = PartEncoder(broken, batch_size=4, threads=1, **options).encode(rows)
    for row in range(ROWS):
        values = part.table.slice(row, 1).to_pylist()[0]
        if row in BAD:
            assert values["status"] == BAD[row]
        elif row % 4 == 1:
            assert values["status"] == "not-finite" and f"as {output} of this image" in values["error"]
            assert values["code"] is None and values["tokens"] is None and not part.hash[row].any()
        else:
            assert values["status"] == "ok" and values["code"] == encoded.table["code"][row].as_py()
