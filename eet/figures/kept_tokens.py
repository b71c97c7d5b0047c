"""Which patches the student kept, stage by stage, drawn over its input image.

Shapes: K kept tokens of the last stage; N = rows * columns patches of the image.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from eet.errors import InputError
from eet.figures.captions import PAPER, caption_height, draw_caption, on_paper

FADE = 0.8  # Share of white in a dropped patch: its content stays visible.
OUTLINE = (90, 90, 90)
TINT = (230, 0, 126)
STRONGEST_TINT = 0.7  # At the largest mass; the patch stays visible beneath it.


def kept_tokens_overlay(
    image: Image.Image,
    kept: Sequence[np.ndarray],
    grid: tuple[int, int],
    *,
    mass: np.ndarray | None = None,
    cell: int = 160,
) -> Image.Image:
    """Draws the input and one panel for each pruning stage, with dropped patches faded and kept ones untouched.

    Args:
        image: the input of the network, resized and cropped (not the file), with the aspect ratio of the grid.
        kept: for each stage, the kept patches as original positions, row * columns + column, in any order. Each stage
            is a subset of the one before. Empty for a teacher, which drops nothing: only the input is drawn.
        grid: (rows, columns) of patches.
        mass: (K,) importance >= 0 of the tokens of the last stage, whose positions must then ascend as in `token_index`.
            The last panel is tinted by it, strongest at the largest mass.
        cell: longer side of a panel in pixels, at least four for each patch.

    Returns:
        RGB image with 1 + len(kept) panels in a row and captions below: "input", "stage 1: 72 of 144", ...

    Raises:
        InputError: a position is outside the grid, repeated, or was dropped by an earlier stage; `mass` does not belong
            to the last stage; the image has another aspect ratio than the grid; or `cell` is too small.
    """
    patches = PatchPicture(image, grid, cell)
    stages = _checked_stages(kept, patches.number)
    if mass is not None:
        mass = _checked_mass(mass, stages)
    panels, captions = [patches.seen_HWC], ["input"]
    for number, stage in enumerate(stages, start=1):
        last = number == len(stages)
        panels.append(patches.kept(stage, mass if last else None))
        captions.append(f"stage {number}: {len(stage)} of {patches.number}")
    if mass is not None:
        captions[-1] += f"\ntint: mass to {mass.max():.2g}"

    height, width = patches.seen_HWC.shape[:2]
    gap = max(6, cell // 16)
    below = caption_height(captions, cell)
    canvas = Image.new("RGB", (gap + len(panels) * (width + gap), gap + height + below), PAPER)
    for position, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = gap + position * (width + gap)
        canvas.paste(Image.fromarray(np.rint(panel).astype(np.uint8)), (left, gap))
        draw_caption(canvas, caption, left=left - gap // 2, top=gap + height, width=width + gap, cell=cell)
    return canvas


class PatchPicture:
    """The input image of the network, scaled so that each patch covers whole pixels. Arguments and errors as `kept_tokens_overlay`.

    input_size is (height, width) of the network's input in pixels, where its patches are not square.

    Attributes:
        number: number of patches.
        seen_HWC: float32 RGB, its longer side `cell` pixels.
    """

    def __init__(self, image: Image.Image, grid: tuple[int, int], cell: int, *, input_size: tuple[int, int] | None = None) -> None:
        rows, columns = grid
        if rows < 1 or columns < 1:
            raise InputError(f"grid is {grid}; give (rows, columns) of patches, both at least 1")
        height, width = input_size or grid
        least = math.ceil(4 * max(height, width) * max(rows / height, columns / width))
        if cell < least:
            raise InputError(f"cell is {cell} pixels for {max(grid)} patches a side; give at least {least}")
        aspect = (image.width / width) / (image.height / height)
        if not 0.97 < aspect < 1.03:
            of = f"the grid is {columns} patches wide and {rows} high" if input_size is None else f"the input is {width} x {height}"
            raise InputError(
                f"the image is {image.width} x {image.height} but {of}, so patches would have another shape; give the resized and cropped "
                "image that the network saw"
            )
        self.number, self._columns = rows * columns, columns
        self._edges_y = np.rint(np.linspace(0, cell * height / max(height, width), rows + 1)).astype(int)
        self._edges_x = np.rint(np.linspace(0, cell * width / max(height, width), columns + 1)).astype(int)
        size = (int(self._edges_x[-1]), int(self._edges_y[-1]))
        self.seen_HWC = np.asarray(on_paper(image).resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
        row_of, column_of = (np.repeat(np.arange(len(edges) - 1), np.diff(edges)) for edges in (self._edges_y, self._edges_x))
        self._patch_HW = row_of[:, None] * columns + column_of[None, :]

    def kept(self, positions_K: np.ndarray, mass_K: np.ndarray | None = None, *, fade: float = FADE) -> np.ndarray:
        """The image, float32 (H, W, 3), with the patches at other positions faded to the share `fade` of white, and these tinted by mass.

        The tint is strongest at the largest mass. Equal masses, such as uniform ones, distinguish no patch and tint none.
        """
        living = np.zeros(self.number, dtype=bool)
        living[positions_K] = True
        panel = _faded(self.seen_HWC, living[self._patch_HW], fade)
        if mass_K is None or np.allclose(mass_K, mass_K[:1], rtol=1e-3, atol=0):
            return panel
        mass_of_patch = np.zeros(self.number)
        mass_of_patch[positions_K] = mass_K
        return _tinted(panel, mass_of_patch[self._patch_HW] / max(float(mass_K.max()), 1e-12))

    def centre(self, position: int) -> tuple[float, float]:
        """(x, y) of a patch's centre, in pixels."""
        row, column = divmod(int(position), self._columns)
        return float(self._edges_x[column : column + 2].mean()), float(self._edges_y[row : row + 2].mean())


def _checked_stages(kept: Sequence[np.ndarray], patches: int) -> list[np.ndarray]:
    stages: list[np.ndarray] = []
    for number, given in enumerate(kept, start=1):
        stage = np.asarray(given)
        if stage.ndim != 1 or not np.issubdtype(stage.dtype, np.integer):
            raise InputError(f"stage {number} has shape {stage.shape} and type {stage.dtype}; give a list of positions")
        outside = stage[(stage < 0) | (stage >= patches)]
        if outside.size:
            raise InputError(f"stage {number} keeps patch {outside[0]}; the grid allows 0 to {patches - 1}")
        if len(np.unique(stage)) != len(stage):
            raise InputError(f"stage {number} names a patch twice; give each kept position once")
        if stages and not np.isin(stage, stages[-1]).all():
            raise InputError(
                f"stage {number} keeps a patch that stage {number - 1} dropped; give original patch positions, "
                "not positions among the remaining tokens"
            )
        stages.append(stage)
    return stages


def _checked_mass(mass: np.ndarray, stages: list[np.ndarray]) -> np.ndarray:
    if not stages:
        raise InputError("mass was given without a stage to tint; for a teacher, give every patch as one stage")
    mass = np.asarray(mass, dtype=np.float64)
    if mass.shape != stages[-1].shape:
        raise InputError(f"mass has shape {mass.shape} for {len(stages[-1])} kept tokens; give one value for each")
    if not mass.size or not np.isfinite(mass).all() or (mass < 0).any():
        raise InputError("mass must hold at least one value, all finite and not negative")
    if (np.diff(stages[-1]) < 0).any():
        raise InputError("mass belongs to ascending positions, as in token_index; sort the last stage")
    return mass


def _faded(panel_HWC: np.ndarray, living_HW: np.ndarray, fade: float) -> np.ndarray:
    """Greys and whitens dropped patches. The outline lies on the dropped side, so that kept pixels are unchanged."""
    grey = panel_HWC.mean(axis=2, keepdims=True)
    faded = np.where(living_HW[:, :, None], panel_HWC, fade * 255 + (1 - fade) * grey)
    adjacent = np.zeros_like(living_HW)
    adjacent[1:] |= living_HW[:-1]
    adjacent[:-1] |= living_HW[1:]
    adjacent[:, 1:] |= living_HW[:, :-1]
    adjacent[:, :-1] |= living_HW[:, 1:]
    faded[adjacent & ~living_HW] = OUTLINE
    return faded


def _tinted(panel_HWC: np.ndarray, strength_HW: np.ndarray) -> np.ndarray:
    share = STRONGEST_TINT * strength_HW[:, :, None]
    return (1 - share) * panel_HWC + share * np.asarray(TINT, dtype=np.float32)
