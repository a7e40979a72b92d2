"""Generated pictures of small dark or bright objects on a textured background, with look-alikes, labelled as COCO.

    write_objects(Path("dots"), {"train": 60, "test": 30, "validation": 10}, seed=1, difficulty=0.5)

No anatomy and no physics: what is left of a microbleed is that it is small, round and darker than what surrounds it.
Difficulty has two sides, in closed form: the contrast-to-noise ratio falls (`contrast_to_noise`), look-alikes come
(`look_alikes`). A set of bright objects is the photographic negative, grey level by grey level, of the dark set
with the same seed, so that nothing but the sign of the contrast tells them apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from scipy import fft, ndimage
from tqdm import tqdm

from cmbfe import figures
from cmbfe.comparison_settings import Polarity
from cmbfe.data.labels import CATEGORIES, LABELS_FILE, Labels, labels_of_split, read_labels, write_labels
from cmbfe.data.picture_files import read_picture, save_picture
from cmbfe.data.splits import scaled_counts
from cmbfe.errors import InputError
from cmbfe.files import read_json, sha256_of, whole_folder, write_json

SETTINGS_FILE = "objects.json"
"""What a set was made with; marks a folder as one that another set may replace."""
SIDE_PX = 300
"""SSD-300 sees the pictures as they are."""
PIXEL_MM = 0.8
"""The paper's field of view of 240 mm over `SIDE_PX`."""
MIDDLE = 127.5
"""Mean grey level: the negative of a picture then has the same."""
GRAIN, GRAIN_SIGMA_PX = 12.0, 0.8
"""Standard deviation of the noise, grey levels, to which contrasts are held, and its blur."""
SHADE, SHADE_SIGMA_PX = 8.0, 24.0
"""The same of the slow unevenness below it."""
DIAMETER_PX = (9.0, 18.0)
ASPECT = (0.8, 1.0)
OBJECTS = (2, 8)
"""In a picture, the smallest and the largest number."""
EASIEST_RATIO = 5.0
MOST_LOOK_ALIKES = 20
GAP_PX = 3
"""Between any two things drawn: none hides another."""
TRIES = 200


@dataclass(frozen=True)
class Shape:
    """One thing in a picture: an ellipse, or what is mistaken for one."""

    kind: Literal["object", "line", "ring", "opposite"]
    x: float
    """Centre, px; pixel (row i, column j) covers [j, j + 1] x [i, i + 1]."""
    y: float
    half_length: float
    """Half axes, px; of a line, half its length and half its width."""
    half_width: float
    angle: float
    """Of the long axis to the x axis, radians."""
    sign: int
    """-1 darker than the background, 1 brighter."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The upright box x, y, w, h px around the ellipse, exact."""
        long, short = self.half_length, self.half_width
        across = np.hypot(long * np.cos(self.angle), short * np.sin(self.angle))
        down = np.hypot(long * np.sin(self.angle), short * np.cos(self.angle))
        return tuple(map(float, (self.x - across, self.y - down, 2 * across, 2 * down)))


def contrast_to_noise(difficulty: float) -> float:
    """|mean inside an object - mean around it| over the standard deviation of the noise, from 5 (0) to 1 (1).

    >>> [round(contrast_to_noise(difficulty), 2) for difficulty in (0, 0.5, 1)]
    [5.0, 2.24, 1.0]
    """
    return EASIEST_RATIO ** (1 - difficulty)


def look_alikes(difficulty: float) -> int:
    """How many look-alikes a picture has, from 0 (0) to 20 (1)."""
    return round(MOST_LOOK_ALIKES * difficulty)


def draw_shapes(rng: np.random.Generator, difficulty: float, polarity: Polarity) -> list[Shape]:
    """The things of one picture, none of which touch, the objects first; dark unless `polarity` is "both".

    Look-alikes are lines and rings of the objects' contrast and, where objects have one sign, blobs of the other.
    """
    kinds = ["object"] * int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    others = ("line", "ring") if polarity == "both" else ("line", "ring", "opposite")
    kinds += [str(kind) for kind in rng.choice(others, look_alikes(difficulty))]
    occupied, placed = np.zeros((SIDE_PX, SIDE_PX), dtype=bool), []
    for kind in kinds:
        shape = _placed(rng, kind, polarity, occupied)
        window, cover = coverage(_with_gap(shape))
        occupied[window] |= cover > 0
        placed.append(shape)
    return placed


def _placed(rng: np.random.Generator, kind: str, polarity: Polarity, occupied: np.ndarray) -> Shape:
    """A shape of a kind where nothing is yet."""
    for _ in range(TRIES):
        shape = _drawn(rng, kind, polarity)
        window, cover = coverage(shape)
        if not occupied[window][cover > 0].any():
            return shape
    raise RuntimeError(f"no place for a {kind} in {TRIES} tries")  # two fifths of the picture are taken at most


def _with_gap(shape: Shape) -> Shape:
    """The shape with what must stay free around it; a ring's hole is no free place."""
    kind = "line" if shape.kind == "line" else "object"
    grown = {name: getattr(shape, name) + GAP_PX for name in ("half_length", "half_width")}
    return replace(shape, kind=kind, **grown)


def _drawn(rng: np.random.Generator, kind: str, polarity: Polarity) -> Shape:
    """One shape of a kind, wholly inside the picture."""
    half = rng.uniform(*DIAMETER_PX) / 2
    long, short = {
        "line": (half * rng.uniform(2.5, 4.5), half * 0.6),
        "ring": (half * 1.3, half * 1.3),
    }.get(kind, (half, half * rng.uniform(*ASPECT)))
    margin = np.hypot(long, short) + 1
    x, y = rng.uniform(margin, SIDE_PX - margin, 2)
    sign = int(rng.choice((-1, 1))) if polarity == "both" else -1
    return Shape(kind, x, y, long, short, rng.uniform(0, np.pi), -sign if kind == "opposite" else sign)


def coverage(shape: Shape) -> tuple[tuple[slice, slice], np.ndarray]:
    """How far each pixel is covered by a shape, [0, 1], with an edge of 1 px: (its rows and columns, float array)."""
    reach = int(np.ceil(np.hypot(shape.half_length, shape.half_width))) + 1
    top, left = int(shape.y) - reach, int(shape.x) - reach
    rows = np.arange(max(top, 0), min(top + 2 * reach + 1, SIDE_PX))
    columns = np.arange(max(left, 0), min(left + 2 * reach + 1, SIDE_PX))
    y, x = np.meshgrid(rows + 0.5 - shape.y, columns + 0.5 - shape.x, indexing="ij")
    along = (x * np.cos(shape.angle) + y * np.sin(shape.angle)) / shape.half_length
    across = (y * np.cos(shape.angle) - x * np.sin(shape.angle)) / shape.half_width
    if shape.kind == "line":
        inside = np.minimum((1 - abs(along)) * shape.half_length, (1 - abs(across)) * shape.half_width)
    else:
        inside = (1 - np.hypot(along, across)) * shape.half_width
    if shape.kind == "ring":
        inside = np.minimum(inside, shape.half_width / 3 - inside)
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)), np.clip(inside + 0.5, 0, 1)


def render(shapes: list[Shape], rng: np.random.Generator, difficulty: float) -> np.ndarray:
    """The picture of some shapes, uint8 [rows, columns]."""
    grey = MIDDLE + _noise(rng, SHADE, SHADE_SIGMA_PX) + _noise(rng, GRAIN, GRAIN_SIGMA_PX)
    for shape in shapes:
        window, cover = coverage(shape)
        grey[window] += shape.sign * contrast_to_noise(difficulty) * GRAIN * cover
    return np.rint(grey).clip(0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, deviation: float, sigma_px: float) -> np.ndarray:
    """Blurred noise with mean 0 and exactly this standard deviation over the picture."""
    # In the Fourier domain: with a kernel as long as that of the shade, blurring is all the time that a picture takes.
    waves = fft.rfft2(rng.standard_normal((SIDE_PX, SIDE_PX)))
    noise = fft.irfft2(ndimage.fourier_gaussian(waves, sigma_px, n=SIDE_PX), s=(SIDE_PX, SIDE_PX))
    return (noise - noise.mean()) * (deviation / noise.std())


def make_picture(seed: int, number: int, difficulty: float, polarity: Polarity) -> tuple[np.ndarray, list[Shape]]:
    """One picture of a set, uint8 [rows, columns], and what is in it; a function of its arguments alone."""
    rng = np.random.default_rng([seed, number, 0x0B1EC7])
    shapes = draw_shapes(rng, difficulty, polarity)
    picture = render(shapes, rng, difficulty)
    if polarity == "bright":
        return 255 - picture, [replace(shape, sign=-shape.sign) for shape in shapes]
    return picture, shapes


def objects_of(shapes: Sequence[Shape]) -> list[Shape]:
    """Those that are labelled, look-alikes left out."""
    return [shape for shape in shapes if shape.kind == "object"]


def split_counts(pictures: int) -> dict[str, int]:
    """Pictures in each split, in the proportions of the patients in the paper's Table 1.

    Raises:
        InputError: fewer pictures than splits.
    """
    try:
        return scaled_counts(pictures)
    except InputError:
        raise InputError(f"{pictures} pictures cannot fill training, test and validation; give 3 or more") from None


def write_objects(
    out: Path,
    counts: Mapping[str, int],
    seed: int,
    difficulty: float,
    polarity: Polarity = "dark",
    progress: bool = True,
) -> Labels:
    """Write a set: PNG pictures and annotations.json in a folder per split, annotations.json of all, preview.png.

    Each picture is a patient of its own. `out` appears whole or not at all, and the same arguments give the same bytes;
    a set that is there already with these is not made again.

    Args:
        counts: split -> pictures.
        difficulty: from 0 to 1.

    Returns:
        The COCO labels, boxes [x, y, w, h] px.

    Raises:
        InputError: an impossible difficulty or polarity, or an `out` that holds something else.
    """
    _check(difficulty, polarity)
    made_with = {"seed": seed, "difficulty": float(difficulty), "polarity": polarity, "pictures": dict(counts),
                 "code_sha256": sha256_of([Path(__file__)])}  # fmt: skip
    if (out / SETTINGS_FILE).is_file() and read_json(out / SETTINGS_FILE) == made_with:
        return read_labels(out / LABELS_FILE)
    splits = [split for split, count in counts.items() for _ in range(count)]
    labels: Labels = {"images": [], "annotations": [], "categories": CATEGORIES}
    with whole_folder(out, SETTINGS_FILE) as folder:
        bar = tqdm(splits, desc="drawing", unit="picture", disable=not progress)
        for number, split in enumerate(bar, 1):
            picture, shapes = make_picture(seed, number, difficulty, polarity)
            image = _image(number, split)
            save_picture(folder / image["file_name"], picture)
            labels["images"].append(image)
            labels["annotations"] += _annotations(number, shapes, len(labels["annotations"]))
        write_labels(folder / LABELS_FILE, labels)
        for split in counts:
            write_labels(folder / split / LABELS_FILE, _of_split(labels, split))
        figures.save(preview(labels, folder), folder / "preview.png")
        write_json(folder / SETTINGS_FILE, made_with)
    return labels


def _check(difficulty: float, polarity: str) -> None:
    if not 0 <= difficulty <= 1:
        raise InputError(f"difficulty {difficulty:g}: give a number from 0, the easiest, to 1")
    if polarity not in get_args(Polarity):
        raise InputError(f"polarity {polarity!r}: expected one of {', '.join(get_args(Polarity))}")


def _image(number: int, split: str) -> dict[str, Any]:
    patient = f"object-{number:05d}"
    return {
        "id": number,
        "file_name": f"{split}/{number:05d}.png",
        "width": SIDE_PX,
        "height": SIDE_PX,
        "patient_id": patient,
        "series_uid": patient,
        "slice_index": 0,
        "pixel_spacing_mm": [PIXEL_MM, PIXEL_MM],
        "split": split,
    }


def _annotations(number: int, shapes: list[Shape], before: int) -> list[dict[str, Any]]:
    """The objects of a picture as COCO; look-alikes are in no label."""
    boxes = [list(shape.box) for shape in objects_of(shapes)]
    return [
        {"id": key, "image_id": number, "category_id": 1, "lesion_id": f"object-{number:05d}-{key}"}
        | {"bbox": box, "area": box[2] * box[3]}
        for key, box in enumerate(boxes, before + 1)
    ]


def _of_split(labels: Labels, split: str) -> Labels:
    """The labels of one split, with file names relative to its own folder, as `cmbfe train` takes them."""
    own = labels_of_split(labels, split)
    images = [{**image, "file_name": Path(image["file_name"]).name} for image in own["images"]]
    return {**own, "images": images}


def preview(labels: Labels, folder: Path, pictures: int = 4) -> Figure:
    """The first pictures of a set with the boxes of their objects."""
    images = labels["images"][:pictures]
    shown = [read_picture(folder / image["file_name"]) for image in images]
    return figures.labelled_pictures_figure(shown, images, {figures.GROUND_TRUTH_COLOUR: labels["annotations"]})
