"""Offline augmentation of the training set (paper section 2.2, A16); bounding boxes move with the pixels."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from cmbfe.data.imgaug_on_numpy2 import Keypoint, KeypointsOnImage, augmenters
from cmbfe.data.labelled.images import ZERO_PHASE, magnitude_of, phase_entry, read_with_phase, save_image
from cmbfe.data.labelled.labels import LABELS_FILE, Labels, write_labels, xyxy
from cmbfe.errors import InputError
from cmbfe.files import whole_folder
from cmbfe.metrics.matching import is_region
from cmbfe.params import Augmentation, TurnedBox


def pipeline(settings: Augmentation, seed: int, fill: int = 0) -> Any:
    """The imgaug augmenter: every image gets every operation, except that flips are random (A16).

    fill: value of pixels that come from outside the image.
    """
    shift = (-settings.translation_px, settings.translation_px)
    steps = augmenters.Sequential(
        [
            augmenters.Flipud(settings.flip_probability),
            augmenters.Fliplr(settings.flip_probability),
            augmenters.Multiply(settings.intensity_factor),
            augmenters.GaussianBlur(settings.blur_sigma_px),
            augmenters.Affine(
                translate_px={"x": tuple(map(round, shift)), "y": tuple(map(round, shift))},
                rotate=settings.rotation_degrees,
                scale=settings.scale,
                cval=fill,
            ),
        ]
    )
    # The seed argument of Sequential would leave the steps inside on a global, unseeded generator.
    steps.seed_(seed)
    return steps


def augment(
    image: np.ndarray, boxes: np.ndarray, settings: Augmentation, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Augment one image and move its boxes with the pixels.

    A rotated box becomes the upright box around its corners, or around the ellipse inside it (`turned_box`), clipped to
    the image. It is dropped if less than `minimum_visible_share` of it is left.

    Args:
        image: uint8 [rows, columns]; or [rows, columns, 2], magnitude and phase. The phase moves with the magnitude,
            but is neither multiplied nor blurred; pixels from outside get zero phase.
        boxes: float [K, 4] xyxy px.

    Returns:
        The image, the kept boxes, and the indices of the kept boxes.
    """
    magnitude = magnitude_of(image)
    known = KeypointsOnImage([Keypoint(*point) for point in _frames(boxes).reshape(-1, 2)], shape=magnitude.shape)
    moved_image, moved = pipeline(settings, seed)(image=magnitude, keypoints=known)
    if image.ndim == 3:
        # Only the flips and the affine map, with the same random draws, because each step has its own generator.
        flip_up_down, flip_left_right, _, _, affine = pipeline(settings, seed, fill=ZERO_PHASE)
        moves = augmenters.Sequential([flip_up_down, flip_left_right, affine])
        moved_phase = moves(image=np.ascontiguousarray(image[..., 1]))
        moved_image = np.stack([moved_image, moved_phase], axis=-1)
    corners = _upright(moved.to_xy_array().astype(np.float64).reshape(-1, 3, 2), settings.turned_box)
    rows, columns = magnitude.shape
    clipped = corners.clip(0, [columns, rows, columns, rows])
    area, whole_area = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (clipped, corners))
    kept = np.flatnonzero((area >= settings.minimum_visible_share * whole_area) & (area > 0))
    return moved_image, clipped[kept], kept


def _frames(boxes: np.ndarray) -> np.ndarray:
    """Centre of each box, and midpoints of its right and lower side: [K, 3, 2] (x, y) px."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.stack([middle, middle + half * [1, 0], middle + half * [0, 1]], axis=1)


def _upright(frames: np.ndarray, turned_box: TurnedBox) -> np.ndarray:
    """Upright boxes xyxy px around rotated boxes, which are given by their `_frames`; exact for every affine map."""
    middle, right, lower = frames[:, 0], frames[:, 1] - frames[:, 0], frames[:, 2] - frames[:, 0]
    # Along an axis, the corners extend by |right| + |lower|, and the ellipse by the root of the sum of squares.
    half = np.abs(right) + np.abs(lower) if turned_box == "corners" else np.hypot(right, lower)
    return np.concatenate([middle - half, middle + half], axis=1)


def draws(images: int, target: int, seed: int) -> list[tuple[int, int]]:
    """Return `target` pairs (image, repeat): every image equally often, and a seeded draw for the remainder.

    In the paper, 467 images become 4434: 231 images are used ten times and the others nine times.
    """
    if images < 1:
        raise InputError("split train has no microbleed to augment; label it, or import at least three patients")
    repeats, rest = divmod(target, images)
    extra = np.random.default_rng([seed, 0xA06]).permutation(images)[:rest]
    every = [(index, repeat) for index in range(images) for repeat in range(repeats)]
    return every + [(int(index), repeats) for index in sorted(extra)]


def _augment_file(
    source: Path,
    out: Path,
    image: dict,
    annotations: list[dict],
    repeats: list[int],
    settings: Augmentation,
    seed: int,
) -> list[tuple[dict, list[dict]]]:
    """Augment one image several times; return its new images and annotations without ids."""
    phase = image.get("phase_file_name")
    pixels = read_with_phase(source / image["file_name"], phase and source / phase)
    results = []
    for repeat in repeats:
        own_seed = int(np.random.SeedSequence([seed, image["id"], repeat]).generate_state(1)[0] >> 1)
        moved, boxes, kept = augment(pixels, xyxy(annotations), settings, own_seed)
        name = Path(image["file_name"]).with_suffix("")
        file_name = f"{name}-{repeat:02d}{Path(image['file_name']).suffix}"
        save_image(out / file_name, moved)
        sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        moved_annotations = [
            {**annotations[index], "bbox": box, "area": box[2] * box[3]}
            for index, box in zip(kept, sizes.tolist(), strict=True)
        ]
        names = {"file_name": file_name, **phase_entry(file_name, phase is not None)}
        results.append(({**image, **names, "source_image_id": image["id"]}, moved_annotations))
    return results


def _numbered(results: Sequence[tuple[dict, list[dict]]], categories: list[dict]) -> Labels:
    images, annotations = [], []
    for image, boxes in results:
        images.append({**image, "id": len(images) + 1})
        for box in boxes:
            annotations.append({**box, "id": len(annotations) + 1, "image_id": len(images)})
    return {"images": images, "annotations": annotations, "categories": categories}


def augment_training_set(
    labels: Labels, source: Path, out: Path, settings: Augmentation, seed: int, jobs: int = -1, progress: bool = True
) -> Labels:
    """Write the augmented training set: `target_images` images, made from the training images with microbleeds.

    Args:
        labels: of all images; images of split "train" with at least one box are augmented. Ignore regions are left out.
        source: the folder that the file names are relative to.
        out: folder for the images and annotations.json, written atomically.

    Raises:
        InputError: no training image with a microbleed.
    """
    boxes_of = defaultdict(list)
    for annotation in labels["annotations"]:
        if is_region(annotation):  # not a microbleed, or uncertain
            continue
        moved = {
            key: value for key, value in annotation.items() if key != "tight_bbox"
        }  # augmented images are not measured
        boxes_of[annotation["image_id"]].append(moved)
    images = [image for image in labels["images"] if image["split"] == "train" and boxes_of[image["id"]]]
    repeats: dict[int, list[int]] = defaultdict(list)
    for index, repeat in draws(len(images), settings.target_images, seed):
        repeats[index].append(repeat)
    with whole_folder(out, LABELS_FILE) as temporary:
        tasks = (
            delayed(_augment_file)(source, temporary, images[i], boxes_of[images[i]["id"]], repeat, settings, seed)
            for i, repeat in repeats.items()
        )
        made = Parallel(n_jobs=jobs, return_as="generator")(tasks)
        bar = tqdm(made, total=len(repeats), desc="augmenting", unit="image", disable=not progress)
        augmented = _numbered([result for results in bar for result in results], labels["categories"])
        write_labels(temporary / LABELS_FILE, augmented)
    return augmented
