import numpy as np
import pytest
from PIL import Image

from eet.figures.kept_tokens import OUTLINE, TINT, kept_tokens_overlay

CELL = 120
GAP = 7


def picture(grid: tuple[int, int], seed: int = 0) -> Image.Image:
    """One saturated colour a patch: fading, which takes the colour away, changes every one of them."""
    rows, columns = grid
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 100, (rows, columns, 3), dtype=np.uint8)
    colours[..., 0] = 180
    side = CELL // max(grid)
    return Image.fromarray(np.kron(colours, np.ones((side, side, 1), dtype=np.uint8)))


def panel(overlay: Image.Image, number: int, grid: tuple[int, int]) -> np.ndarray:
    height, width = (CELL * patches // max(grid) for patches in grid)
    left = GAP + number * (width + GAP)
    return np.asarray(overlay)[GAP : GAP + height, left : left + width].astype(int)


def untouched(drawn: np.ndarray, seen: np.ndarray, grid: tuple[int, int]) -> tuple[list[int], list[int]]:
    """(patches of which every pixel is as in the input, patches of which none is)."""
    side = CELL // max(grid)
    same, none = [], []
    for row in range(grid[0]):
        for column in range(grid[1]):
            window = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
            equal = (drawn[window] == seen[window]).all(axis=2)
            if equal.all():
                same.append(row * grid[1] + column)
            if not equal.any():
                none.append(row * grid[1] + column)
    return same, none


@pytest.mark.parametrize("grid", [(6, 6), (3, 6), (6, 4), (1, 5)])
def test_exactly_the_dropped_patches_fade(grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    order = np.random.default_rng(1).permutation(patches)
    kept = [order[: patches // 2], order[: patches // 4]]
    overlay = kept_tokens_overlay(picture(grid), kept, grid, cell=CELL)
    seen = panel(overlay, 0, grid)
    assert np.array_equal(seen, np.asarray(picture(grid)))
    for number, stage in enumerate(kept, start=1):
        same, none = untouched(panel(overlay, number, grid), seen, grid)
        assert same == sorted(stage.tolist())
        assert none == sorted(set(range(patches)) - set(stage.tolist()))


def test_dropped_patches_become_pale_and_grey_and_are_outlined() -> None:
    grid = (4, 4)
    overlay = kept_tokens_overlay(picture(grid), [np.array([5])], grid, cell=CELL)
    drawn = panel(overlay, 1, grid)
    far = drawn[3 * 30 + 5 : 4 * 30, 3 * 30 + 5 : 4 * 30]
    assert far.min() > 200
    assert (far.max(axis=2) - far.min(axis=2)).max() <= 1
    assert (drawn[45, 29] == OUTLINE).all() and (drawn[45, 60] == OUTLINE).all()
    assert (drawn[29, 45] == OUTLINE).all() and (drawn[60, 45] == OUTLINE).all()


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_one_panel_for_the_input_and_one_for_each_stage(stages: int) -> None:
    grid = (6, 6)
    kept = [np.arange(36 >> stage) for stage in range(1, stages + 1)]
    overlay = kept_tokens_overlay(picture(grid), kept, grid, cell=CELL)
    assert overlay.width == GAP + (1 + stages) * (CELL + GAP)


def test_cells_that_the_grid_does_not_divide_are_covered_without_a_seam() -> None:
    plain = Image.new("RGB", (70, 70), (200, 0, 0))
    overlay = kept_tokens_overlay(plain, [np.arange(49)], (7, 7), cell=100)
    drawn = np.asarray(overlay)
    assert (drawn[6:106, 6 + 106 : 6 + 106 + 100] == (200, 0, 0)).all()


def test_the_last_panel_is_tinted_by_mass() -> None:
    grid, kept = (4, 4), [np.array([0, 2, 5, 10]), np.array([2, 5, 10])]
    mass = np.array([0.0, 0.25, 0.75], dtype=np.float16)
    plain = kept_tokens_overlay(picture(grid), kept, grid, cell=CELL)
    tinted = kept_tokens_overlay(picture(grid), kept, grid, mass=mass, cell=CELL)
    assert tinted.width == plain.width
    for number in (0, 1):
        assert np.array_equal(panel(plain, number, grid), panel(tinted, number, grid))
    before, after = panel(plain, 2, grid), panel(tinted, 2, grid)
    shares = []
    for position in kept[-1]:
        y, x = position // 4 * 30 + 15, position % 4 * 30 + 15
        towards = (np.asarray(TINT) - before[y, x]).astype(float)
        shares.append(float((after[y, x] - before[y, x]) @ towards / (towards @ towards)))
    assert shares[0] == 0
    assert shares[2] == pytest.approx(0.7, abs=0.02)
    assert shares[1] == pytest.approx(shares[2] / 3, abs=0.02)
    dropped = np.ones((CELL, CELL), dtype=bool)
    for position in kept[-1]:
        y, x = position // 4 * 30, position % 4 * 30
        dropped[y : y + 30, x : x + 30] = False
    assert np.array_equal(before[dropped], after[dropped])


def test_a_mass_of_zeros_tints_nothing() -> None:
    overlay = kept_tokens_overlay(picture((4, 4)), [np.arange(16)], (4, 4), mass=np.zeros(16), cell=CELL)
    assert np.array_equal(panel(overlay, 0, (4, 4)), panel(overlay, 1, (4, 4)))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([[36]], "keeps patch 36; the grid allows 0 to 35"),
        ([[-1]], "keeps patch -1"),
        ([[3, 3]], "twice"),
        ([[1, 2, 3], [0, 1]], "stage 2 keeps a patch that stage 1 dropped"),
        ([[0.5]], "float64"),
        ([[[1, 2]]], r"shape \(1, 2\)"),
    ],
)
def test_impossible_positions_are_refused(kept: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept_tokens_overlay(picture((6, 6)), [np.array(stage) for stage in kept], (6, 6), cell=CELL)


@pytest.mark.parametrize(
    ("kept", "mass", "message"),
    [
        ([], [1.0], "without a stage"),
        ([[1, 2]], [1.0], r"shape \(1,\) for 2 kept tokens"),
        ([[1, 2]], [0.5, float("nan")], "finite"),
        ([[1, 2]], [1.5, -0.5], "not negative"),
        ([[2, 1]], [0.5, 0.5], "ascending"),
    ],
)
def test_mass_that_is_not_the_last_stages_is_refused(kept: list[list[int]], mass: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept_tokens_overlay(picture((6, 6)), [np.array(k) for k in kept], (6, 6), mass=np.array(mass), cell=CELL)


def test_uncropped_images_and_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="resized and cropped"):
        kept_tokens_overlay(Image.new("RGB", (300, 200)), [], (6, 6))
    with pytest.raises(ValueError, match="resized and cropped"):
        kept_tokens_overlay(picture((3, 6)), [], (6, 3))
    with pytest.raises(ValueError, match="at least 24"):
        kept_tokens_overlay(picture((6, 6)), [], (6, 6), cell=20)
    with pytest.raises(ValueError, match="both at least 1"):
        kept_tokens_overlay(picture((6, 6)), [], (0, 6))
