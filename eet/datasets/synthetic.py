"""Drawn birds that differ by small parts only: a fine-grained dataset that needs no download.

A label is a combination of beak, wing marking, crown and tail. Colour, size, place, pose and background are drawn
without regard to the label, and the background holds shapes in the bird's own colours, so neither colour nor any one
part tells the label. What is the bird and what is not is known, pixel by pixel.
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

BEAKS = ("short-beak", "long-beak", "hooked-beak")
WINGS = ("plain-wing", "bar", "double-bar", "spots")
CROWNS = ("bare-crown", "crest", "cap")
TAILS = ("fork-tail", "fan-tail", "pin-tail")
MAX_LABELS = len(BEAKS) * len(WINGS) * len(CROWNS) * len(TAILS)

Parts = tuple[str, str, str, str]
Colour = tuple[int, int, int]

SUPERSAMPLING = 3
BIRD_AREA = 1.24
"""Mean area of a bird in its own units (the body is about 1 long), by which its share of the picture is set."""
BIRD_SHARE = (0.175, 0.235)
"""Range that the share of the picture is drawn from, for a bird of mean area; its parts move it by a few hundredths."""
ROUND = 36
"""Points of an ellipse."""
BACKGROUND_CONTRAST = 0.3
"""How far the clutter stands out from its mean colour. At 1 a small ViT finds no bird in 15,000 images."""


@lru_cache
def label_parts(num_labels: int) -> tuple[Parts, ...]:
    """The (beak, wing, crown, tail) of each label, in order of their names.

    Labels are chosen one by one so that parts are used equally often and two labels share one or two parts of the
    four where possible: every part belongs to several labels and none is enough alone. Few labels draw on few values
    of each part. Raises ValueError unless 2 <= num_labels <= MAX_LABELS (108).
    """
    if not 2 <= num_labels <= MAX_LABELS:
        raise InputError(f"{num_labels} labels: the drawn birds have parts for 2 to {MAX_LABELS}")
    values = 2 if num_labels < 6 else 3 if num_labels < 12 else 4
    candidates = list(itertools.product(BEAKS[:values], WINGS[:values], CROWNS[:values], TAILS[:values]))
    if len(candidates) < num_labels:
        candidates = list(itertools.product(BEAKS, WINGS, CROWNS, TAILS))
    chosen = [candidates.pop(0)]
    while len(chosen) < num_labels:
        chosen.append(candidates.pop(min(range(len(candidates)), key=lambda i: _crowding(candidates[i], chosen))))
    return tuple(sorted(chosen, key="_".join))


def _crowding(candidate: Parts, chosen: list[Parts]) -> int:
    shared = [sum(a == b for a, b in zip(candidate, other, strict=True)) for other in chosen]
    # Three of four parts shared is hardest to tell apart, none is too easy: both cost more than any uneven use.
    return sum(shared) + 100 * shared.count(3) + 30 * shared.count(0)


def label_names(num_labels: int) -> tuple[str, ...]:
    """The name of each label, such as 'hooked-beak_double-bar_crest_fork-tail', sorted; index = label."""
    return tuple("_".join(parts) for parts in label_parts(num_labels))


def draw(label: int, index: int, *, num_labels: int, image_size: int, seed: int) -> tuple[Image.Image, np.ndarray]:
    """Draws picture `index` of a bird of `label` (0 .. num_labels - 1).

    Returns an RGB image of image_size x image_size and the bird's mask, bool (image_size, image_size): every pixel
    that the bird touches, 10 to 30 % of them. Depends on its arguments only. Background, colours and pose depend on
    index and seed alone: the same index with another label is the same picture with other parts on its bird.

    Raises ValueError for a label outside its range, fewer than 32 pixels, or num_labels outside 2 .. 108.
    """
    parts = label_parts(num_labels)
    if not 0 <= label < num_labels:
        raise InputError(f"label {label} is not in 0 .. {num_labels - 1}")
    if image_size < 32:
        raise InputError(f"image size {image_size}: parts cannot be told apart below 32 pixels")
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
    return canvas.reduce(SUPERSAMPLING), blocks.max(axis=(1, 3)) > 0


def write(
    root: str | Path,
    *,
    num_labels: int = 8,
    images_per_label: int = 60,
    test_per_label: int = 20,
    image_size: int = 96,
    seed: int = 0,
) -> ImageTable:
    """Draws a dataset into `root`: images/LABEL/NNNN.png, masks/LABEL/NNNN.png and split.csv (path,label,split).

    `images_per_label` go to 'train', `test_per_label` to 'test'; no two pictures share a background. About 100
    pictures of 96 px a second on one core. Returns the table that `load` reads back. Raises ValueError for counts
    below 1 (0 is allowed for one of the two) and as `draw` does.
    """
    if min(images_per_label, test_per_label) < 0 or images_per_label + test_per_label < 1:
        raise InputError(
            f"{images_per_label} training and {test_per_label} test images per label: neither may be negative, "
            "and there must be one at least"
        )
    root = Path(root)
    rows: list[tuple[str, str, str]] = []
    for label, name in enumerate(label_names(num_labels)):
        for folder in ("images", "masks"):
            (root / folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images_per_label + test_per_label):
            image, mask = draw(label, number * num_labels + label, num_labels=num_labels, image_size=image_size, seed=seed)
            path = f"images/{name}/{number:04d}.png"
            image.save(root / path)
            Image.fromarray(mask).save(_mask_file(root, path))
            rows.append((path, name, "train" if number < images_per_label else "test"))
    with (root / table_file.DEFAULT_TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table_file.COLUMNS)
        writer.writerows(rows)
    return load(str(root))


def load(root: str) -> ImageTable:
    """Reads what `write` wrote. Raises FileNotFoundError when root holds no split.csv."""
    return table_file.load(root)


def read_mask(root: str | Path, path: str) -> np.ndarray:
    """The bird's mask, bool (H, W), of the image that the table calls `path`. Raises FileNotFoundError without one."""
    file = _mask_file(Path(root), path)
    if not file.exists():
        raise NotFoundError(f"{file} not found: only pictures drawn by this module have masks")
    with Image.open(file) as mask:
        return np.asarray(mask.convert("1"))


def _mask_file(root: Path, path: str) -> Path:
    return root / "masks" / path.removeprefix("images/")


class _Plumage:
    """Colours of one bird, drawn without regard to its label."""

    def __init__(self, random: np.random.Generator) -> None:
        self.body = _colour(random.random(), random.uniform(0.4, 0.9), random.uniform(0.45, 0.8))
        self.belly = _blend(self.body, (255, 250, 235), 0.45)
        self.wing = _blend(self.body, (20, 20, 35), 0.4)
        self.mark = _colour(random.random(), random.uniform(0.0, 0.15), 1.0)
        self.beak = _colour(random.uniform(0.03, 0.14), 0.85, 0.95)
        self.outline = (24, 18, 26)


class _Pose:
    """Where a bird stands: its units (x forward, y down, 0 at the body) to supersampled pixels."""

    def __init__(self, random: np.random.Generator, side: int) -> None:
        self.pixels = side * np.sqrt(random.uniform(*BIRD_SHARE) / BIRD_AREA)
        angle = np.deg2rad(random.uniform(-7, 7))
        mirror = -1.0 if random.random() < 0.5 else 1.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.matrix = self.pixels * turn @ np.diag([mirror, 1.0])
        # Room is left for the largest parts whether or not this bird has them, so that its place tells no label.
        reach = _REACH @ self.matrix.T
        low, high = reach.min(axis=0), reach.max(axis=0)
        room = side - (high - low)
        # A bird too long for the picture is centred: both ends are cut by the same, slightly.
        self.offset = np.where(room > 0, room * random.random(2), room / 2) - low

    def place(self, points: np.ndarray) -> list[float]:
        """Points (n, 2) in the bird's units as x, y, x, y, ... in pixels, which is what ImageDraw takes fastest."""
        return (points @ self.matrix.T + self.offset).ravel().tolist()


class _Bird:
    """Draws one bird: its outline first, as one silhouette, then its fills.

    It is drawn once, as colour numbers from 1, so that picture and mask come from the same strokes.
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
        beak, wing, crown, tail = parts
        colours = self._plumage
        shapes: list[tuple[np.ndarray, Colour]] = [(_TAIL[tail], colours.wing)]
        if crown == "crest":
            shapes.append((_CREST, colours.mark))
        shapes += [(_BEAK[beak], colours.beak), (_BODY, colours.body), (_HEAD, colours.body)]
        for leg in _LEGS:
            self._stroke(leg, 0.075, colours.outline)
        for points, _ in shapes:
            self._outline(points, 0.1, colours.outline)
        for points, colour in shapes:
            self._fill(points, colour)
        self._fill(_BELLY, colours.belly)
        if crown == "cap":
            self._fill(_CAP, colours.mark)
        self._outline(_WING, 0.05, colours.outline)
        self._fill(_WING, colours.wing)
        for marking in _MARKINGS[wing]:
            self._fill(marking, colours.mark)
        self._fill(_ellipse(0.50, -0.30, 0.085, 0.085), (255, 255, 255))
        self._fill(_ellipse(0.515, -0.30, 0.055, 0.055), (10, 10, 10))

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
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    u, v, angle = width * np.cos(turn), height * np.sin(turn), np.deg2rad(tilt)
    return np.stack([x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)], axis=1)


def _arc(x: float, y: float, radius: float, start: float, stop: float, points: int = 7) -> list[list[float]]:
    turn = np.deg2rad(np.linspace(start, stop, points))
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1).tolist()


_REACH = np.array([(-0.95, -0.3), (-0.9, 0.47), (1.02, -0.3), (0.25, -0.92), (0.52, -0.86), (0.34, 0.62), (-0.06, 0.62)])
_BODY = _ellipse(0.0, 0.03, 0.48, 0.36, tilt=-20)
_BELLY = _ellipse(0.10, 0.20, 0.32, 0.17, tilt=-22)
_HEAD = _ellipse(0.42, -0.29, 0.245, 0.235)
_WING = _ellipse(-0.15, -0.01, 0.40, 0.25, tilt=-14)
_LEGS = (
    np.array([(0.02, 0.33), (-0.02, 0.56), (0.12, 0.58)]),
    np.array([(0.20, 0.30), (0.18, 0.56), (0.32, 0.57)]),
)
_CAP = np.array(_arc(0.42, -0.29, 0.24, 172, 340, points=14))
_CREST = np.array([(0.56, -0.50), (0.52, -0.80), (0.40, -0.64), (0.30, -0.86), (0.24, -0.62), (0.08, -0.70), (0.22, -0.40)])
_BEAK = {
    "short-beak": np.array([(0.60, -0.42), (0.86, -0.26), (0.60, -0.14)]),
    "long-beak": np.array([(0.60, -0.36), (0.97, -0.29), (0.97, -0.25), (0.60, -0.19)]),
    "hooked-beak": np.array([(0.54, -0.44), *_arc(0.66, -0.22, 0.235, 270, 372), (0.87, 0.02), *_arc(0.66, -0.06, 0.13, 340, 240)]),
}
_SPOTS = ((-0.41, 0.06), (-0.20, 0.12), (-0.17, -0.12), (0.05, -0.03))
_MARKINGS: dict[str, tuple[np.ndarray, ...]] = {
    "plain-wing": (),
    "bar": (_ellipse(-0.14, -0.01, 0.14, 0.24, tilt=12),),
    "double-bar": (_ellipse(-0.33, 0.04, 0.10, 0.20, tilt=12), _ellipse(0.04, -0.06, 0.10, 0.20, tilt=12)),
    "spots": tuple(_ellipse(x, y, 0.075, 0.075) for x, y in _SPOTS),
}
_TAIL = {
    "fork-tail": np.array([(-0.34, -0.08), (-0.88, -0.24), (-0.60, 0.09), (-0.84, 0.42), (-0.30, 0.26)]),
    "fan-tail": np.array([(-0.34, -0.08), *_arc(-0.34, 0.09, 0.46, 228, 132), (-0.30, 0.26)]),
    "pin-tail": np.array([(-0.36, 0.02), (-0.90, 0.10), (-0.90, 0.20), (-0.34, 0.22)]),
}


def _draw_background(random: np.random.Generator, side: int, plumage: _Plumage) -> Image.Image:
    """A gradient under clutter: stems, leaves, blobs, and shapes in the bird's colours, none of them outlined."""
    hue = random.random()
    corners = [_colour(hue + random.normal(0, 0.06), random.uniform(0.15, 0.6), random.uniform(0.35, 0.9)) for _ in range(4)]
    gradient = Image.fromarray(np.array(corners, dtype=np.uint8).reshape(2, 2, 3))
    canvas = gradient.resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    lures = (plumage.body, plumage.belly, plumage.wing, plumage.mark, plumage.beak)

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
