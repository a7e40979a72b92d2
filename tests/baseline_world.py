"""Small volumes for the tests of the baselines: dark balls are microbleeds, dark tubes are vessels."""

import numpy as np

from cmbfe.baselines.candidates import Volume
from cmbfe.data.labelled.images import save_image
from cmbfe.params import Baselines

SPACING_MM = (2.0, 1.0, 1.0)
SHAPE = (9, 48, 48)
SETTINGS = Baselines.model_validate(
    {
        "candidates_per_image": 10,
        "radial_symmetry": {"radii_mm": (2.0, 3.0, 4.0), "trees": 20},
        "cascade": {"screening_iterations": 60, "classifier_iterations": 60},
    }
)


def ball(shape: tuple[int, ...], middle: tuple[float, ...], radius_mm: float, spacing_mm=SPACING_MM) -> np.ndarray:
    """1 inside a ball (or disc), 0 outside, with an edge a millimetre wide; `middle` in voxels."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    squares = [((axis - at) * step) ** 2 for axis, at, step in zip(axes, middle, spacing_mm, strict=True)]
    return np.clip(radius_mm + 0.5 - np.sqrt(sum(squares)), 0, 1)


def volume(seed: int, radius_mm: float = 3.0) -> Volume:
    """Two balls, boxed on the slices that cut them well, and two tubes across all slices, in noise."""
    rng = np.random.default_rng(seed)
    voxels = 0.7 + 0.01 * rng.standard_normal(SHAPE)
    boxes = [[] for _ in range(SHAPE[0])]
    for row, column in ((14, 15), (32, 30)):
        at = (int(rng.integers(3, 6)), row + int(rng.integers(-3, 4)), column + int(rng.integers(-3, 4)))
        voxels *= 1 - 0.8 * ball(SHAPE, at, radius_mm)
        for index in range(at[0] - 1, at[0] + 2):
            reach = np.sqrt(radius_mm**2 - (SPACING_MM[0] * (index - at[0])) ** 2) + 0.5
            middle = np.array([at[2], at[1]]) + 0.5
            boxes[index].append([*(middle - reach), *(middle + reach)])
    for row, column in ((12, 36), (36, 12)):
        voxels *= 1 - 0.8 * ball(SHAPE[1:], (row, column), radius_mm, SPACING_MM[1:])
    return Volume(
        voxels.clip(0, 1).astype(np.float32), SPACING_MM, tuple(np.array(of, float).reshape(-1, 4) for of in boxes)
    )


def write_images(folder, splits: dict[str, int]) -> dict:
    """Patients as images in a folder, so many of each split, and their COCO labels, one tube a mimic each."""
    images, annotations = [], []
    for split, patients in splits.items():
        for number in range(patients):
            patient = f"{split}-{number}"
            of_patient = volume(len(images))
            for index, (image, boxes) in enumerate(zip(of_patient.voxels, of_patient.boxes, strict=True)):
                name = f"{patient}/{index:03d}.png"
                save_image(folder / name, np.round(image * 255).astype(np.uint8))
                size = {"width": SHAPE[2], "height": SHAPE[1], "pixel_spacing_mm": list(SPACING_MM[1:])}
                place = {"patient_id": patient, "slice_index": index, "split": split}
                images.append({"id": len(images) + 1, "file_name": name, **size, **place})
                for x_min, y_min, x_max, y_max in boxes.tolist():
                    box = {"image_id": len(images), "bbox": [x_min, y_min, x_max - x_min, y_max - y_min]}
                    annotations.append({"id": len(annotations) + 1, "category_id": 1, **box})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cmb"}]}
