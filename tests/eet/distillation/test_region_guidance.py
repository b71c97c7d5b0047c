import pytest
import torch

from eet.distillation import mask_patches, most_important_patches


def mask_slowly(images: torch.Tensor, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    images = images.clone()
    rows, columns = grid
    high, wide = images.shape[2] // rows, images.shape[3] // columns
    for b in range(len(images)):
        for position in patches[b].tolist():
            row, column = position // columns, position % columns
            for y in range(row * high, (row + 1) * high):
                for x in range(column * wide, (column + 1) * wide):
                    images[b, :, y, x] = 0
    return images


def test_masking_row_1_column_3_of_a_2_by_4_grid_sets_exactly_its_pixels_to_zero() -> None:
    image = torch.arange(1.0, 33.0).view(1, 1, 4, 8)  # patches of 2 x 2
    masked = mask_patches(image, torch.tensor([[1 * 4 + 3]]), (2, 4))
    assert masked[0, 0].tolist() == [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [9, 10, 11, 12, 13, 14, 15, 16],
        [17, 18, 19, 20, 21, 22, 0, 0],
        [25, 26, 27, 28, 29, 30, 0, 0],
    ]
    assert image.min() == 1, "the images themselves stay as they are"


@pytest.mark.parametrize(("grid", "size"), [((3, 5), (48, 80)), ((5, 3), (40, 24)), ((4, 4), (32, 32)), ((2, 3), (14, 33))])
def test_masks_equal_a_loop_over_pixels(grid: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, *size) + 1
    patches = torch.stack([torch.randperm(grid[0] * grid[1])[:4] for _ in range(4)])
    masked = mask_patches(images, patches, grid)
    assert torch.equal(masked, mask_slowly(images, patches, grid))
    assert int((masked == 0).sum()) == 4 * 4 * 3 * (size[0] // grid[0]) * (size[1] // grid[1])


def test_no_patch_and_every_patch() -> None:
    images = torch.rand(2, 3, 8, 8).bfloat16() + 1
    nothing = mask_patches(images, torch.zeros(2, 0, dtype=torch.int64), (2, 2))
    assert torch.equal(nothing, images) and nothing.dtype == torch.bfloat16
    assert mask_patches(images, torch.arange(4).expand(2, 4), (2, 2)).abs().max() == 0


def test_an_image_that_the_grid_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="30 x 32 do not divide into a patch grid of 4 x 4"):
        mask_patches(torch.zeros(1, 3, 30, 32), torch.zeros(1, 1, dtype=torch.int64), (4, 4))


def test_most_important_patches_are_given_by_their_original_positions() -> None:
    mass = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.4, 0.1, 0.2, 0.3]])
    index = torch.tensor([[2, 3, 7, 11], [0, 5, 6, 9]])
    named = most_important_patches(mass, index, 2)
    assert [set(row) for row in named.tolist()] == [{3, 7}, {0, 9}]
    assert most_important_patches(mass, index, 0).shape == (2, 0)
    with pytest.raises(ValueError, match="use 0 to 4"):
        most_important_patches(mass, index, 5)
