import numpy as np
import pytest
import timm
import torch

from eet.matching import patch_similarity


def test_it_is_the_mean_cosine_of_different_patches_after_each_block() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, embed_dim=32, depth=3, num_heads=2, reg_tokens=1).eval()
    images = torch.randn(2, 3, 48, 48)
    similarity = patch_similarity(model, images)
    expected = []
    with torch.no_grad():
        for tokens in model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True):
            cosine = [torch.nn.functional.cosine_similarity(one[:, None], one[None], dim=2) for one in tokens]
            expected.append(np.mean([float(one[i, j]) for one in cosine for i in range(9) for j in range(9) if i != j]))
    assert similarity.shape == (3,)
    np.testing.assert_allclose(similarity, expected, atol=1e-5)


def test_a_model_without_intermediates_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no forward_intermediates"):
        patch_similarity(torch.nn.Linear(2, 2), torch.zeros(1, 2))
