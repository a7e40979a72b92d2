"""Accuracy of `cmbfe.findings.regions` on phantom heads whose position in the template is known.

    python benchmarks/regions.py [--heads data/heads/raw-7] [--patients 20] [--out regions.json]

Each head of `cmbfe phantom` is moved by up to 30 mm, turned by up to 20 degrees about each axis, and resampled on an
axial grid: whole, and as a slab of 48 mm anywhere in the brain. Fields of view (190-250 mm) and slice spacings (1-3 mm)
vary. For the head's microbleeds and POINTS points of its brain, the benchmark measures the distance to the true place
in the template, and whether region and side are right. The results cover all points, and points over 5 mm from the
midline and from the borders of the phantom's regions. For some heads, five broken inputs must be refused.

Images have no bias correction, unlike in `cmbfe detect`. CPU seconds are printed beside wall-clock seconds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from cmbfe.data.conversion import to_8_bit
from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume
from cmbfe.files import read_json, write_json
from cmbfe.findings.regions import NotRegistered, region_at, register, series_image, shrunk
from cmbfe.findings.search import Place
from cmbfe.phantom.anatomy import draw_build, template_position
from cmbfe.phantom.lesions import location_at
from cmbfe.phantom.plan import request_of
from cmbfe.phantom.scan import draw_scan
from cmbfe.phantom.template import load_template

POINTS, FAR_MM, SLAB_MM, TURN_DEGREES = 1000, 5.0, 48.0, 20.0
BROKEN_HEADS = 2
SIZES = {"field_of_view_mm": 240.0, "slice_thickness_mm": 2.0}
"""Defaults of `simulate_patient`, for plans without these values."""
LPS = np.array([[-1.0], [-1.0], [1.0]])
OUTWARD = np.array([step for step in np.ndindex(3, 3, 3) if step != (1, 1, 1)]) - 1.0
OUTWARD /= np.linalg.norm(OUTWARD, axis=1, keepdims=True)


def read_head(folder: Path) -> tuple[sitk.Image, np.ndarray, np.ndarray, np.ndarray]:
    """The series on pixels of 2 mm; its microbleeds and points of its brain, [3, n], in mm (LPS) and in the template
    (RAS); and whether each point is a microbleed."""
    known = read_json(folder / "patient.json")
    headers = next(series for series in find_series(folder) if series.kind == "magnitude")
    place = Place(headers.orientation, headers.positions_mm, headers.pixel_spacing_mm, headers.slice_spacing_mm)
    small = np.stack([shrunk(image, place) for image in read_volume(headers)])
    image = series_image(list(to_8_bit(small, (0.5, 99.5))), (headers.rows, headers.columns), place)
    rng, request = np.random.default_rng(known["plan"]["seed"]), request_of(known["plan"])
    scan = draw_scan(rng, *(({**SIZES, **request})[key] for key in ("matrix", "slices", *SIZES)))
    build, template = draw_build(rng), load_template()
    boxes = [f["boxes"] for f in known["findings"] if f["kind"] == "cmb"]
    middles = [np.mean([[x + w / 2, y + h / 2, int(n)] for n, (x, y, w, h) in own.items()], axis=0) for own in boxes]
    draw = np.random.default_rng(0)
    spread = draw.uniform(0, 1, (20 * POINTS, 3)) * [scan.matrix, scan.matrix, scan.slices - 1]
    x, y, index = np.array([*middles, *spread]).T
    from_middle = (np.array([x, y]) - scan.matrix / 2) * scan.pixel_mm
    there = template_position(
        build,
        np.stack([scan.lowest_mm + index * scan.spacing_mm, scan.row_centre_mm + from_middle[1], from_middle[0]]),
        template,
    )
    along_row, along_column = np.reshape(headers.orientation, (2, 3))
    first = np.array(headers.positions_mm[0])
    step = (np.array(headers.positions_mm[-1]) - first) / (scan.slices - 1)
    here = first[:, None] + np.stack([along_row, along_column], 1) @ (np.array([x, y]) - 0.5) * scan.pixel_mm
    here = here + step[:, None] * index
    is_lesion = np.arange(len(x)) < len(middles)
    kept = is_lesion | (template.hull.at(there) < -1) & (template.t1.at(there) > 0.3)
    kept &= np.cumsum(kept) <= POINTS + len(middles)
    return image, here[:, kept], there[:, kept], is_lesion[kept]


def moved(
    image: sitk.Image, points: np.ndarray, rng: np.random.Generator, is_slab: bool
) -> tuple[sitk.Image, np.ndarray]:
    """The turned and moved head on another axial grid, and the new positions of its points."""
    turn = Rotation.from_euler("xyz", rng.uniform(-TURN_DEGREES, TURN_DEGREES, 3), degrees=True).as_matrix()
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    shift = rng.uniform(-30, 30, 3)
    across_mm, slice_mm = rng.uniform(190, 250), rng.choice([1.0, 2.0, 3.0])
    size = np.array([across_mm / 2, across_mm / 2, (SLAB_MM if is_slab else 150) / slice_mm]).astype(int)
    spacing = np.array([2.0, 2.0, slice_mm])
    origin = middle + shift - (size - 1) / 2 * spacing
    origin[2] += rng.uniform(-25, 25) if is_slab else 0
    back = sitk.AffineTransform(turn.T.ravel().tolist(), (-shift).tolist(), (middle + shift).tolist())
    grid = (origin.tolist(), spacing.tolist(), np.eye(3).ravel().tolist())
    new = sitk.Resample(image, size.tolist(), back, sitk.sitkLinear, *grid)
    return new, turn @ (points - middle[:, None]) + (middle + shift)[:, None]


def is_far(there: np.ndarray) -> np.ndarray:
    """Whether each template point [3, n] is over FAR_MM from the borders of regions and from the midline."""
    own = location_at(there)
    around = [location_at(there + mm * step[:, None]) == own for step in OUTWARD for mm in (FAR_MM / 2, FAR_MM)]
    return np.all(around, axis=0) & (np.abs(there[0]) > FAR_MM)


def measure(image: sitk.Image, here: np.ndarray, there: np.ndarray, is_lesion: np.ndarray) -> dict:
    """Register one image, and measure the errors of the points inside it."""
    index = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in here.T.tolist()])
    seen = ((index > -0.5) & (index < np.array(image.GetSize()) - 0.5)).all(axis=1)
    start, cpu = time.perf_counter(), time.process_time()
    try:
        way = register(image)
    except NotRegistered as error:
        return {"refused": str(error)}
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    found = np.array([way.TransformPoint(point) for point in here.T[seen].tolist()]).T
    true = there[:, seen]
    right = (region_at(found) == location_at(true)) & (np.sign(LPS * found)[0] == np.sign(true[0]))
    error = np.linalg.norm(LPS * found - true, axis=0)
    far, lesion = is_far(true), is_lesion[seen]
    return {
        **{**seconds, "median_mm": float(np.median(error)), "worst_mm": float(error.max())},
        **{"far": int(far[~lesion].sum()), "far_right": int((far & right)[~lesion].sum())},
        **{"points": int((~lesion).sum()), "right": int(right[~lesion].sum())},
        **{"far_lesions": int((far & lesion).sum()), "far_lesions_right": int((far & lesion & right).sum())},
        **{"lesions": int(lesion.sum()), "lesions_right": int((lesion & right).sum())},
    }


def knee(rng: np.random.Generator) -> sitk.Image:
    """A simple model of a knee: fat around muscle, two bones with marrow, and a kneecap."""
    z, y, x = np.meshgrid(*(np.arange(n) * mm - n * mm / 2 for n, mm in ((40, 3), (80, 2), (80, 2))), indexing="ij")
    radius, leg = np.hypot(x, y), 58 + 6 * np.cos(z / 40)
    image = np.select([radius < 0.86 * leg, radius < leg], [90.0, 180.0])
    bone = np.where(z > 2, 16 + 16 * np.exp(-(((z - 8) / 18) ** 2)), 18 + 14 * np.exp(-(((z + 10) / 15) ** 2)))
    shell = (np.hypot(x, y - 5) < bone) & (np.abs(z) > 3)
    image[shell] = 40
    image[(np.hypot(x, y - 5) < bone - 3) & shell] = 150
    image[(np.hypot(x, y + 45) < 14) & (np.abs(z - 10) < 18)] = 130
    return _image(np.abs(image + rng.normal(0, 6, image.shape)), (2.0, 2.0, 3.0))


def _image(voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels.astype(np.float32))
    image.SetSpacing(spacing_mm)
    return image


def broken(head: sitk.Image, rng: np.random.Generator) -> dict[str, sitk.Image]:
    """Inputs that the registration must refuse, by name."""
    middle = head.GetSize()[2] // 2
    noise = np.hypot(*rng.normal(0, 40, (2, 57, 120, 120)))
    upside_down = sitk.GetImageFromArray(sitk.GetArrayFromImage(head)[::-1])
    upside_down.CopyInformation(head)
    return {
        "a knee": knee(rng),
        "noise": _image(noise, (2.0, 2.0, 2.0)),
        "upside-down": upside_down,
        "a slab of 10 mm": head[:, :, middle - 5 : middle + 5],
        "inverted contrast": 255 - head,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, default=Path("data/heads/raw-7"))
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("regions.json"))
    options = parser.parse_args()
    results: dict[str, list] = {"whole": [], "slab": [], "broken": []}
    folders = sorted(file.parent for file in options.heads.glob("*/patient.json"))[: options.patients]
    for number, folder in enumerate(folders):
        rng = np.random.default_rng(number)
        head, here, there, is_lesion = read_head(folder)
        for kind in ("whole", "slab"):
            image, places = moved(head, here, rng, kind == "slab")
            results[kind].append({"head": folder.name, **measure(image, places, there, is_lesion)})
            print(kind, json.dumps(results[kind][-1]), flush=True)
        for name, image in broken(head, rng).items() if number < BROKEN_HEADS else ():
            try:
                register(image)
                said = "NOT NOTICED"
            except NotRegistered as error:
                said = str(error)
            results["broken"].append({"head": folder.name, "input": name, "said": said})
            print(name, said, flush=True)
        write_json(options.out, results)
    for kind in ("whole", "slab"):
        done = [row for row in results[kind] if "refused" not in row]
        sums = {key: sum(row[key] for row in done) for key in done[0] if isinstance(done[0][key], int)}
        shares = ((name, sums[name], sums[name + "_right"]) for name in ("far_lesions", "far", "lesions"))
        print(f"{kind}: {len(done)} of {len(results[kind])} registered, right are")
        print("\n".join(f"  {name}: {right} of {all_} ({right / max(all_, 1):.2%})" for name, all_, right in shares))
        print(f"  all points: {sums['right']} of {sums['points']} ({sums['right'] / sums['points']:.2%})")
        print(f"  median error {np.median([row['median_mm'] for row in done]):.1f} mm", end="; ")
        print(f"{max(row['seconds'] for row in done):.1f} s, {max(row['cpu_seconds'] for row in done):.1f} s of CPU")
    noticed = sum(row["said"] != "NOT NOTICED" for row in results["broken"])
    print(f"broken inputs noticed: {noticed} of {len(results['broken'])}")


if __name__ == "__main__":
    main()
