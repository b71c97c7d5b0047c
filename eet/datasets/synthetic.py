"""Drawn birds that differ by small parts only: a fine-grained dataset that needs no download.

A label is a combination of wing pattern, breast pattern, crown and tail. Colours, size, position, pose and background do not
depend on the label, so neither colour nor any single part is enough to know it. A mask gives the pixels of the bird. Labels can be left
out of the training images: their parts occur in other labels, their combination does not.
"""

import colorsys
import csv
import itertools
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from eet.datasets import table_file
from eet.datasets.image_table import ImageTable
from eet.errors import InputError, NotFoundError

WINGS = ("barred-wing", "lined-wing", "tipped-wing", "patched-wing")
BREASTS = ("banded-breast", "streaked-breast", "dark-belly", "spotted-breast")
CROWNS = ("bare-crown", "crest", "cap", "plume")
TAILS = ("fork-tail", "fan-tail", "pin-tail", "banded-tail")
MAX_LABELS = len(WINGS) * len(BREASTS) * len(CROWNS) * len(TAILS)

Parts = tuple[str, str, str, str]
Colour = tuple[int, int, int]

SUPERSAMPLING = 3
BIRD_AREA = 1.3
"""Mean area of a bird in its own units (the body is about 1 long); it scales the bird to its share of the image."""
BIRD_SHARE = (0.15, 0.20)
"""Range from which the share of the image is drawn, for a bird of mean area without outlines. Parts change it by a few hundredths."""
UNSEEN_FILE = "unseen.txt"
"""File next to split.csv: the labels that have no training image."""
LIGHT = (0.7, 1.0)
"""Range from which the brightness of an image is drawn, for red, green and blue each, so that counts of colours do not tell the label."""
SHIFT, TILT = 0.05, 5.0
"""Greatest distance of a bird from the middle of the image, as a share of its side, and greatest tilt, in degrees."""
ROUND = 36
"""Points of an ellipse."""
BACKGROUND_CONTRAST = 0.1
"""Contrast of the background. Above 0.3 a small ViT from random weights needs many times more images."""


@lru_cache
def label_parts(num_labels: int) -> tuple[Parts, ...]:
    """The (wing, breast, crown, tail) of each label, in order of their names.

    Labels are chosen one by one so that two labels share at most one part of the four where possible (always, up to 16 labels) and
    parts are used equally often: every part belongs to several labels, and no part is enough to tell the label.
    Raises ValueError unless 2 <= num_labels <= MAX_LABELS (256).
    """
    if not 2 <= num_labels <= MAX_LABELS:
        raise InputError(f"{num_labels} labels: the drawn birds have parts for 2 to {MAX_LABELS}")
    values = 3 if num_labels <= 9 else 4
    candidates = list(itertools.product(WINGS[:values], BREASTS[:values], CROWNS[:values], TAILS[:values]))
    design = _sharing_one_part(candidates)
    chosen = _spread(design if num_labels <= len(design) else candidates, num_labels)
    return tuple(sorted(chosen, key="_".join))


def _sharing_one_part(candidates: list[Parts]) -> list[Parts]:
    """Candidates of which no two share more than one part: 9 with three values for each part, 16 with four."""
    design: list[Parts] = []
    for candidate in candidates:
        if all(sum(map(str.__eq__, candidate, other)) <= 1 for other in design):
            design.append(candidate)
    return design


def _spread(candidates: list[Parts], count: int) -> list[Parts]:
    """`count` candidates, chosen one by one: each shares as little as possible with those before it."""
    parts = np.array(candidates)
    crowding = np.zeros(len(candidates))
    chosen: list[int] = []
    for _ in range(count):
        nearest = int(crowding.argmin())
        chosen.append(nearest)
        crowding += 100.0 ** (parts == parts[nearest]).sum(axis=1)  # two shared parts outweigh any number of single ones
        crowding[nearest] = np.inf
    return [candidates[number] for number in chosen]


@lru_cache
def unseen_labels(num_labels: int, count: int) -> tuple[int, ...]:
    """The `count` labels that are left out of the training images, ascending.

    They share few parts with one another, so that every part stays in the training images.
    Raises ValueError unless 0 <= count <= num_labels - 2.
    """
    if not 0 <= count <= num_labels - 2:
        raise InputError(f"{count} unseen of {num_labels} labels: use 0 to {num_labels - 2}, so that two are left to train on")
    labels = label_parts(num_labels)
    return tuple(sorted(labels.index(parts) for parts in _spread(list(labels), count)))


def label_names(num_labels: int) -> tuple[str, ...]:
    """The name of each label, such as 'barred-wing_dark-belly_crest_fork-tail', sorted; index = label."""
    return tuple("_".join(parts) for parts in label_parts(num_labels))


def draw(label: int, index: int, *, num_labels: int, image_size: int, seed: int) -> tuple[Image.Image, np.ndarray]:
    """Draws image `index` of a bird of `label` (0 .. num_labels - 1).

    Returns an RGB image of image_size x image_size and the bird's mask, bool (image_size, image_size): every pixel
    that the bird touches, 15 to 26 % of them. The result depends on the arguments alone. Background, colours and pose depend on index
    and seed: the same index with another label is the same image with other parts on its bird.

    Raises ValueError for a label outside its range, fewer than 32 pixels, or num_labels outside 2 .. 256.
    """
    parts = label_parts(num_labels)
    if not 0 <= label < num_labels:
        raise InputError(f"label {label} is not in 0 .. {num_labels - 1}")
    if image_size < 32:
        raise InputError(f"image size {image_size}: parts cannot be distinguished below 32 pixels")
    random = np.random.default_rng([seed, index])
    side = image_size * SUPERSAMPLING
    plumage = _Plumage(random)
    pose = _Pose(random, side)
    canvas = _draw_background(random, side, plumage)
    bird = _Bird(side, pose, plumage)
    bird.draw(parts[label])
    canvas.paste(bird.picture(), mask=bird.mask())
    # reduce() averages whole blocks, so no trace of the bird leaves the pixels of its mask.
    blocks = np.asarray(bird.mask()).reshape(image_size, SUPERSAMPLING, image_size, SUPERSAMPLING)
    light = [round(value * share) for share in random.uniform(*LIGHT, size=3) for value in range(256)]
    return canvas.reduce(SUPERSAMPLING).point(light), blocks.max(axis=(1, 3)) > 0


def write(
    root: str | Path,
    *,
    num_labels: int = 8,
    images_per_label: int = 60,
    test_per_label: int = 20,
    unseen: int = 0,
    image_size: int = 96,
    seed: int = 0,
) -> ImageTable:
    """Draws a dataset into `root`: images/LABEL/NNNN.png, masks/LABEL/NNNN.png, split.csv (path,label,split) and unseen.txt.

    `images_per_label` go to 'train', `test_per_label` to 'test'; no two images share a background. The labels of `unseen_labels` have
    test images only; unseen.txt holds their names, one on each line, if there are any. About 100 images of 96 px a second on one core.
    Returns the table that `load` reads. Raises ValueError for counts below 1 (0 is allowed for one of the two), and as
    `draw` and `unseen_labels` do.
    """
    if min(images_per_label, test_per_label) < 0 or images_per_label + test_per_label < 1:
        raise InputError(
            f"{images_per_label} training and {test_per_label} test images per label: neither may be negative, "
            "and there must be one at least"
        )
    root = Path(root)
    rows: list[tuple[str, str, str]] = []
    names, untrained = label_names(num_labels), unseen_labels(num_labels, unseen)
    for label, name in enumerate(names):
        for folder in ("images", "masks"):
            (root / folder / name).mkdir(parents=True, exist_ok=True)
        # Numbers stay the same whether or not a label is trained, and so do its test images.
        for number in range(images_per_label if label in untrained else 0, images_per_label + test_per_label):
            image, mask = draw(label, number * num_labels + label, num_labels=num_labels, image_size=image_size, seed=seed)
            path = f"images/{name}/{number:04d}.png"
            image.save(root / path)
            Image.fromarray(mask).save(_mask_file(root, path))
            rows.append((path, name, "train" if number < images_per_label else "test"))
    with (root / table_file.DEFAULT_TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table_file.COLUMNS)
        writer.writerows(rows)
    if untrained:
        (root / UNSEEN_FILE).write_text("".join(f"{names[label]}\n" for label in untrained))
    return load(str(root))


def load(root: str) -> ImageTable:
    """Reads a dataset that `write` wrote. Raises FileNotFoundError when root holds no split.csv."""
    return table_file.load(root)


def read_mask(root: str | Path, path: str) -> np.ndarray:
    """The bird's mask, bool (H, W), of the image that the table calls `path`. Raises FileNotFoundError without one."""
    file = _mask_file(Path(root), path)
    if not file.exists():
        raise NotFoundError(f"{file} not found: only images drawn by this module have masks")
    with Image.open(file) as mask:
        return np.asarray(mask.convert("1"))


def _mask_file(root: Path, path: str) -> Path:
    return root / "masks" / path.removeprefix("images/")


class _Plumage:
    """Colours of one bird, independent of its label."""

    def __init__(self, random: np.random.Generator) -> None:
        hue = random.random()
        self.body = _colour(hue, random.uniform(0.35, 0.8), random.uniform(0.5, 0.75))
        self.wing = _blend(_colour(random.random(), random.uniform(0.3, 0.8), 0.4), (12, 12, 22), random.uniform(0.2, 0.6))
        self.wing_mark = _colour(random.random(), random.uniform(0.0, 0.3), 1.0)
        self.breast = _colour(random.random(), random.uniform(0.0, 0.3), 1.0)
        self.breast_mark = _blend(_colour(random.random(), random.uniform(0.3, 0.8), 0.4), (12, 12, 22), random.uniform(0.2, 0.6))
        self.beak = _colour(random.uniform(0.03, 0.14), 0.85, 0.95)
        self.outline = (24, 18, 26)


class _Pose:
    """Position of a bird: from its units (x forward, y down, 0 at the body) to supersampled pixels."""

    def __init__(self, random: np.random.Generator, side: int) -> None:
        self.pixels = side * np.sqrt(random.uniform(*BIRD_SHARE) / BIRD_AREA)
        angle = np.deg2rad(random.uniform(-TILT, TILT))
        mirror = -1.0 if random.random() < 0.5 else 1.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.matrix = self.pixels * turn @ np.diag([mirror, 1.0])
        # The middle of all parts that a bird may have, whether or not this one has them: its place does not depend on the label.
        middle = (_REACH @ self.matrix.T).mean(axis=0)
        self.offset = side * (0.5 + random.uniform(-SHIFT, SHIFT, size=2)) - middle

    def place(self, points: np.ndarray) -> list[float]:
        """Points (n, 2) in the bird's units as x, y, x, y, ... in pixels, which is what ImageDraw takes fastest."""
        return (points @ self.matrix.T + self.offset).ravel().tolist()


class _Bird:
    """Draws one bird: its outline first, as one silhouette, then its fills.

    It is drawn once, as colour numbers from 1, so that image and mask come from the same strokes.
    """

    def __init__(self, side: int, pose: _Pose, plumage: _Plumage) -> None:
        self._numbers = Image.new("L", (side, side), 0)
        self._pen = ImageDraw.Draw(self._numbers)
        self._palette: list[Colour] = [(0, 0, 0)]
        self._pose = pose
        self._plumage = plumage

    def picture(self) -> Image.Image:
        """RGB; black where the bird is not."""
        picture = self._numbers.copy()
        picture.putpalette([channel for colour in self._palette for channel in colour])
        return picture.convert("RGB")

    def mask(self) -> Image.Image:
        """'L': 255 where the bird is, else 0."""
        return self._numbers.point([0] + [255] * 255)

    def draw(self, parts: Parts) -> None:
        wing, breast, crown, tail = parts
        colours = self._plumage
        shapes: list[tuple[np.ndarray, Colour]] = [(_TAIL[tail], colours.wing)]
        if crown in _FEATHERS:
            shapes.append((_FEATHERS[crown], colours.wing))
        shapes += [(_BEAK, colours.beak), (_BODY.outline, colours.body), (_HEAD, colours.body)]
        for leg in _LEGS:
            self._stroke(leg, 0.075, colours.outline)
        for points, _ in shapes:
            self._outline(points, 0.1, colours.outline)
        for points, colour in shapes:
            self._fill(points, colour)
        if tail == "banded-tail":
            for band in _TAIL_BANDS:
                self._fill(band, colours.wing_mark)
        if crown == "cap":
            self._fill(_CAP, colours.wing)
        self._patterned(_BREAST, _BREAST_PATTERNS[breast], colours.breast, colours.breast_mark)
        self._patterned(_WING, _WING_PATTERNS[wing], colours.wing, colours.wing_mark)
        self._fill(_ellipse(0.50, -0.30, 0.085, 0.085), (255, 255, 255))
        self._fill(_ellipse(0.515, -0.30, 0.055, 0.055), (10, 10, 10))

    def _patterned(self, place: "_Oval", pattern: list[np.ndarray], ground: Colour, mark: Colour) -> None:
        self._outline(place.outline, 0.05, self._plumage.outline)
        self._fill(place.outline, ground)
        for shape in pattern:
            self._fill(place.at(shape), mark)

    def _fill(self, points: np.ndarray, colour: Colour) -> None:
        self._pen.polygon(self._pose.place(points), fill=self._number(colour))

    def _stroke(self, points: np.ndarray, width: float, colour: Colour) -> None:
        pixels = max(1, round(width * self._pose.pixels))
        self._pen.line(self._pose.place(points), fill=self._number(colour), width=pixels, joint="curve")

    def _outline(self, points: np.ndarray, width: float, colour: Colour) -> None:
        """The half of the outline that lies outside; the fill covers the rest."""
        if len(points) < ROUND:
            self._stroke(np.vstack([points, points[:2]]), width, colour)
            return
        # Along a smooth shape, growing it by half the width is the same and much faster than rounding every joint.
        along = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
        outward = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
        self._fill(points + width / 2 * outward, colour)

    def _number(self, colour: Colour) -> int:
        if colour not in self._palette[1:]:
            self._palette.append(colour)
        return self._palette.index(colour, 1)


def _ellipse(x: float, y: float, width: float, height: float, tilt: float = 0.0, points: int = ROUND) -> np.ndarray:
    """Points (n, 2) of an ellipse by its half axes, turned by `tilt` degrees."""
    return _Oval(x, y, width, height, tilt).at(_circle(points=points))


def _circle(x: float = 0.0, y: float = 0.0, radius: float = 1.0, points: int = ROUND) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


class _Oval:
    """An ellipse by its half axes, turned by `tilt` degrees, and what is drawn inside it in coordinates of the unit disc."""

    def __init__(self, x: float, y: float, width: float, height: float, tilt: float) -> None:
        angle = np.deg2rad(tilt)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self._matrix, self._centre = turn @ np.diag([width, height]), np.array([x, y])
        self.outline = self.at(_circle())

    def at(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2) of the unit disc in the bird's units."""
        return points @ self._matrix.T + self._centre


def _bars(starts: list[float], width: float) -> list[np.ndarray]:
    """Upright bars of the unit disc, each from x = start to start + width."""
    bars = []
    for start in starts:
        x = np.linspace(max(-1.0, start), min(1.0, start + width), 6)
        y = np.sqrt(np.maximum(0, 1 - x**2))
        bars.append(np.concatenate([np.stack([x, -y], axis=1), np.stack([x, y], axis=1)[::-1]]))
    return bars


def _turned(shapes: list[np.ndarray]) -> list[np.ndarray]:
    """Upright shapes of the unit disc, lying."""
    return [shape[:, ::-1] for shape in shapes]


def _arc(x: float, y: float, radius: float, start: float, stop: float, points: int = 7) -> list[list[float]]:
    turn = np.deg2rad(np.linspace(start, stop, points))
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1).tolist()


_REACH = np.array([(-0.95, -0.9), (1.0, 0.65)])
"""Corners of the box that the largest parts of all kinds fill."""
_BODY = _Oval(0.0, 0.05, 0.52, 0.42, -20)
_HEAD = _ellipse(0.42, -0.32, 0.245, 0.235)
_WING = _Oval(-0.20, -0.06, 0.42, 0.27, -14)
_BREAST = _Oval(0.20, 0.17, 0.30, 0.25, -40)
_LEGS = (
    np.array([(0.02, 0.40), (-0.02, 0.62), (0.12, 0.64)]),
    np.array([(0.20, 0.38), (0.18, 0.62), (0.32, 0.63)]),
)
_CAP = np.array(_arc(0.42, -0.32, 0.24, 172, 340, points=14))
_FEATHERS = {
    "crest": np.array([(0.60, -0.52), (0.56, -0.86), (0.44, -0.64), (0.34, -0.92), (0.26, -0.62), (0.06, -0.74), (0.22, -0.42)]),
    "plume": np.array([(0.46, -0.52), *_arc(0.20, -0.62, 0.26, 345, 190), *_arc(0.20, -0.60, 0.12, 190, 345), (0.32, -0.50)]),
}
_BEAK = np.array([(0.60, -0.44), (0.92, -0.28), (0.60, -0.16)])
_WING_PATTERNS: dict[str, list[np.ndarray]] = {
    "barred-wing": _bars([-0.66, -0.08, 0.50], 0.28),
    "lined-wing": _turned(_bars([-0.60, 0.18], 0.42)),
    "tipped-wing": _bars([-1.0], 0.90),
    "patched-wing": [_circle(radius=0.66)],
}
_BREAST_PATTERNS: dict[str, list[np.ndarray]] = {
    "banded-breast": _bars([-0.60, 0.20], 0.40),
    "streaked-breast": _turned(_bars([-0.60, 0.20], 0.40)),
    "dark-belly": _turned(_bars([0.10], 0.90)),
    "spotted-breast": [_circle(radius=0.62)],
}
_TAIL = {
    "fork-tail": np.array([(-0.36, -0.08), (-0.95, -0.26), (-0.62, 0.12), (-0.90, 0.46), (-0.32, 0.32)]),
    "fan-tail": np.array([(-0.36, -0.08), *_arc(-0.36, 0.12, 0.50, 228, 132), (-0.32, 0.32)]),
    "pin-tail": np.array([(-0.40, 0.02), (-0.98, 0.10), (-0.98, 0.20), (-0.36, 0.24)]),
    "banded-tail": np.array([(-0.36, -0.06), (-0.95, -0.10), (-0.95, 0.36), (-0.32, 0.30)]),
}
_TAIL_BANDS = [np.array([(x, -0.08), (x - 0.1, -0.09), (x - 0.1, 0.35), (x, 0.33)]) for x in (-0.60, -0.81)]


def _draw_background(random: np.random.Generator, side: int, plumage: _Plumage) -> Image.Image:
    """A gradient under clutter: stems, leaves, blobs, and shapes in the bird's colours, none of them outlined."""
    hue = random.random()
    corners = [_colour(hue + random.normal(0, 0.06), random.uniform(0.15, 0.6), random.uniform(0.35, 0.9)) for _ in range(4)]
    gradient = Image.fromarray(np.array(corners, dtype=np.uint8).reshape(2, 2, 3))
    canvas = gradient.resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    lures = (plumage.body, plumage.wing, plumage.wing_mark, plumage.breast, plumage.beak)

    def colour() -> Colour:
        if random.random() < 0.35:
            return lures[random.integers(len(lures))]
        return _colour(hue + random.normal(0, 0.13), random.uniform(0.2, 0.8), random.uniform(0.25, 0.95))

    def scatter(points: np.ndarray, size: float) -> list[float]:
        angle, (x, y) = random.uniform(0, 2 * np.pi), random.uniform(-0.05, 1.05, size=2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return (side * (size * points @ turn.T + (x, y))).ravel().tolist()

    for _ in range(random.integers(5, 10)):
        pen.polygon(scatter(_BLOB, random.uniform(0.06, 0.2)), fill=colour())
    for _ in range(random.integers(4, 9)):
        width = max(1, int(side * random.uniform(0.008, 0.035)))
        pen.line(scatter(_STEM, random.uniform(0.3, 0.8)), fill=colour(), width=width)
    for _ in range(random.integers(18, 30)):
        size, shade = random.uniform(0.05, 0.14), colour()
        leaf = scatter(_LEAF, size)
        pen.polygon(leaf, fill=shade)
        vein = [*leaf[:2], *leaf[len(leaf) // 2 :][:2]]
        pen.line(vein, fill=_blend(shade, (255, 255, 255), 0.35), width=max(1, side // 150))
    canvas = Image.blend(_mean_colour(canvas), canvas, BACKGROUND_CONTRAST)
    pen = ImageDraw.Draw(canvas)
    for _ in range(random.integers(4, 8)):
        shape = _LURES[random.integers(len(_LURES))]
        pen.polygon(scatter(shape, random.uniform(0.025, 0.06)), fill=lures[random.integers(len(lures))])
    return canvas


_BLOB = _ellipse(0, 0, 1.0, 0.75)
_STEM = np.array([(-1.0, 0.0), (-0.3, 0.06), (0.3, -0.04), (1.0, 0.03)])
_LEAF = np.array([*_arc(0, 0.75, 1.25, 217, 323), *_arc(0, -0.75, 1.25, 37, 143)])
_LURES = (
    np.array([(-0.9, -0.7), (1.2, 0.0), (-0.9, 0.7)]),
    _ellipse(0, 0, 1.4, 0.45),
    _ellipse(0, 0, 0.7, 0.7),
    np.array([(-1.0, -0.4), (0.2, 0.0), (-1.0, 0.4), (1.3, 0.9), (1.3, -0.9)]),
)


def _mean_colour(picture: Image.Image) -> Image.Image:
    return picture.resize((1, 1), Image.Resampling.BOX).resize(picture.size)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    """RGB of a hue (wrapping at 1), saturation and value (0 .. 1)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _blend(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))
    return red, green, blue
