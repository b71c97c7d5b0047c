"""Joint codes fitted again to a collection of images."""

import numpy as np
import pytest
import torch

from eet.datasets import synthetic
from eet.datasets.listing import ImageList, ListedImages
from eet.errors import InputError
from eet.gallery import load_model
from eet.gallery.adaptation import adapted_student, sample_of
from eet.hashing import fit_itq
from eet.images import read_image
from eet.vit import PruningSchedule, Student, build_student


class Listed(ImageList):
    def __init__(self, number: int) -> None:
        super().__init__("numbers")
        self.number = number

    def __iter__(self):
        for start in range(0, self.number, 7):
            names = [str(row) for row in range(start, min(self.number, start + 7))]
            yield ListedImages(names, names, None)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return build_student(
        "vit_tiny_patch16_224",
        num_classes=4,
        num_bits=16,
        schedule=PruningSchedule((2,), (0.5,)),
        image_size=48,
        weights="none",
        backbone_options={"patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2},
        hash_input="joint",
        seed=3,
    ).eval()


@pytest.fixture(scope="module")
def uris(tiny_birds) -> list[str]:
    table = synthetic.load(str(tiny_birds))
    return [table.location(row) for row in range(24)]


@torch.inference_mode()
def features(student: Student, uris: list[str]) -> np.ndarray:
    out = student(torch.stack([student.preprocess(read_image(uri)) for uri in uris]))
    return student.hash_features(out.embedding, out.logits).numpy()


def test_a_short_list_is_taken_whole_and_a_long_one_by_chance():
    assert sample_of(Listed(5), 9, seed=0) == list("01234")
    drawn = [sample_of(Listed(40), 10, seed=seed) for seed in range(400)]
    assert all(len(set(one)) == 10 for one in drawn) and drawn[0] == sample_of(Listed(40), 10, seed=0)
    counts = np.bincount([int(name) for one in drawn for name in one], minlength=40)
    assert np.abs(counts - 100).max() < 45  # five standard deviations


def test_the_hash_is_the_rotation_of_the_features_of_these_images(student, uris):
    before = {name: value.clone() for name, value in student.state_dict().items()}
    adapted = adapted_student(student, [*uris, "/no/such/image.png"], seed=5)
    wanted = fit_itq(features(student, uris), num_bits=16, seed=5)
    codes = [
        features(student, uris) @ weight.T + bias > 0
        for weight, bias in (wanted, (adapted.head_hash.weight.detach().numpy(), adapted.head_hash.bias.detach().numpy()))
    ]
    assert np.mean(codes[0] != codes[1]) < 0.05  # the features went through float16
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items()), "the given student is unchanged"
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items() if not name.startswith("head_hash"))
    balance = np.abs(codes[1].mean(axis=0) - 0.5).mean()
    assert balance < np.abs((features(student, uris) @ before["head_hash.weight"].numpy().T > 0).mean(axis=0) - 0.5).mean()


def test_too_few_images_and_other_codes_are_refused(student, uris, tiny_model):
    with pytest.raises(InputError, match="15 of 16 images can be read: a code of 16 bits is fitted to that many or more"):
        adapted_student(student, [*uris[:15], "/no/such/image.png"])
    with pytest.raises(InputError, match="made of logits: only joint codes have a rotation to adapt"):
        adapted_student(load_model(tiny_model), uris)
