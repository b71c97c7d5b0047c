"""Base models fitted to a collection of images, each step against the same step by hand."""

import numpy as np
import pytest
import torch

from eet.datasets import synthetic
from eet.embedding import BaseModel, build_base, fit_whitening
from eet.errors import InputError
from eet.gallery.fitted_base import fitted_base
from eet.hashing import fit_itq
from eet.images import read_image

VIT = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}


def small(aggregation: str, **options: object) -> BaseModel:
    return build_base(
        "deit_tiny_patch16_224", embedding_width=None, image_size=(28, 28), weights="none", backbone_options=VIT, aggregation=aggregation,
        aggregation_options=options, tokens_from_block=2, seed=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uris(tiny_birds) -> list[str]:
    table = synthetic.load(str(tiny_birds))
    return [table.location(row) for row in range(40)]


def test_words_head_and_code_are_fitted_one_after_another(uris, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    model = small("vlad", words=3)
    fitted = fitted_base(model, [*uris, str(tmp_path / "broken.jpg")], width=6, whitening=0.5, bits=9, seed=1)
    assert not model.aggregation.words_KD.any() and isinstance(model.head, torch.nn.Identity)  # the given one is as it was
    with torch.no_grad():
        images = torch.stack([model.preprocess(read_image(uri)) for uri in uris])
        descriptors = model.eval().descriptors(images).flatten(0, 1)  # 49 of an image, so all are drawn
        model.aggregation.start(descriptors, seed=1)
        torch.testing.assert_close(fitted.aggregation.words_KD, model.aggregation.words_KD, atol=1e-3, rtol=1e-3)
        vectors = fitted.aggregated(images).numpy()
        head = fit_whitening(vectors, width=6, power=0.5)
        np.testing.assert_allclose(fitted.head.weight.numpy(), head.weight_bD, atol=1e-3)
        embeddings = torch.nn.functional.normalize(torch.from_numpy(vectors @ head.weight_bD.T + head.bias_b), dim=1)
        torch.testing.assert_close(fitted(images).embedding, embeddings, atol=1e-3, rtol=1e-3)
        code = fit_itq(fitted.embed(images).numpy(), num_bits=9, seed=1)
        expected = embeddings.numpy() @ code.weight_bD.T + code.bias_b
        np.testing.assert_allclose(fitted(images, tokens=False).hash.numpy(), expected, atol=1e-3)
    assert (fitted.embedding_width, fitted.num_bits, fitted.token_shape) == (6, 9, (49, 24))


def test_without_a_width_the_embedding_is_the_aggregation(uris):
    fitted = fitted_base(small("vlad", words=3), uris)
    assert (fitted.embedding_width, fitted.num_bits) == (72, 72)


def test_what_cannot_be_fitted_is_refused(uris, tmp_path):
    with pytest.raises(InputError, match="none of 1 images can be read"):
        fitted_base(small("vlad", words=3), [str(tmp_path / "missing.jpg")])
    with pytest.raises(InputError, match="a width of 5: 4 images give 1 to 3 directions"):
        fitted_base(small("gem"), uris[:4], width=5)
