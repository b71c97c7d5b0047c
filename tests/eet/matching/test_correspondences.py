import pytest
import torch

from eet.matching import correspondences, structural_similarity

ANGLES = torch.tensor([0.0, 1.2, 2.4])
TOKENS = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
PLAN = torch.tensor([[0.20, 0.0, 0.0], [0.0, 0.3, 0.25], [0.05, 0.2, 0.01]])


def test_the_strongest_come_first_with_their_boxes_and_mutual_ones_are_marked() -> None:
    gallery = 7 * TOKENS
    found = correspondences(
        TOKENS, gallery, PLAN, torch.tensor([0, 5, 7]), torch.tensor([1, 2, 11]), grid=(3, 4), patch_size=(16, 8), count=4
    )
    strength = PLAN * (TOKENS @ TOKENS.T)
    pairs = [(1, 1), (0, 0), (1, 2), (2, 1)]
    torch.testing.assert_close(found.strength_n, torch.stack([strength[pair] for pair in pairs]))
    assert list(zip(found.query_token_n.tolist(), found.gallery_token_n.tolist(), strict=True)) == pairs
    assert found.query_box_n4.tolist() == [[8, 16, 16, 32], [0, 0, 8, 16], [8, 16, 16, 32], [24, 16, 32, 32]]
    assert found.gallery_box_n4.tolist() == [[16, 0, 24, 16], [8, 0, 16, 16], [24, 32, 32, 48], [16, 0, 24, 16]]
    # The third is the best of its gallery token only, the fourth of its query token only.
    assert found.mutual_n.tolist() == [True, True, False, False]


def test_cells_are_the_unit_without_a_patch_size_and_what_is_not_alike_is_left_out() -> None:
    found = correspondences(TOKENS, TOKENS, PLAN, torch.arange(3), torch.arange(3), grid=(2, 2), count=9)
    # Tokens 0 and 2 point away from each other, other entries of the plan are 0.
    assert len(found.strength_n) == 5 and (found.strength_n > 0).all()
    assert found.query_box_n4[0].tolist() == [1, 0, 2, 1]


def test_an_image_is_matched_with_itself_in_place() -> None:
    tokens = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    shuffled = torch.tensor([3, 1, 0, 5, 4, 2])
    _, plans = structural_similarity(tokens, tokens[None, shuffled], torch.ones(6), torch.ones(1, 6))
    found = correspondences(tokens, tokens[shuffled], plans[0], torch.arange(6), shuffled, grid=(2, 3), count=6)
    assert torch.equal(found.query_box_n4, found.gallery_box_n4) and found.mutual_n.all()


def test_wrong_arguments_are_refused() -> None:
    index = torch.arange(3)
    with pytest.raises(ValueError, match="one row, column and position"):
        correspondences(TOKENS, TOKENS, PLAN[:2], index, index, grid=(2, 2))
    with pytest.raises(ValueError, match="count=0"):
        correspondences(TOKENS, TOKENS, PLAN, index, index, grid=(2, 2), count=0)
    with pytest.raises(ValueError, match="0 to 1"):
        correspondences(TOKENS, TOKENS, PLAN, index, index, grid=(1, 2))
