"""Simulated patients and their cohort on disk: one seed one result, labels that fit, exact numbers, patients atomic."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from tiny_world import refused, tree

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import read_volume
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_labels
from cmbfe.errors import InputError
from cmbfe.params import ExactCounts, Microbleeds, Phantom, Readers, Splits
from cmbfe.phantom import cohort as cohorts
from cmbfe.phantom import plan
from cmbfe.phantom.lesions import Finding
from cmbfe.phantom.simulate import WHITE_MATTER_UNITS, SimulatedPatient, simulate_patient

COHORT = Phantom(
    patients=Splits(train=2, test=1, validation=1),
    slices=3,
    matrix_px=64,
    cmbs_per_patient=Microbleeds(free=0.0, median=1.0, spread=0.0),
    box_margin_mm=0.0,
)


def sketch(seed: object, *, matrix: int, slices: int, **_: object) -> SimulatedPatient:
    """A patient without physics: noise, a microbleed on two slices and a vein on one, each a dark square."""
    rng = np.random.default_rng(seed)
    magnitude = rng.integers(900, 1100, (slices, matrix, matrix), dtype=np.uint16)
    x, y = (int(value) for value in rng.integers(8, matrix - 20, 2))
    magnitude[0:2, y : y + 4, x : x + 4] = 100
    magnitude[2, y : y + 3, x + 6 : x + 9] = 200
    return SimulatedPatient(
        magnitude=magnitude,
        findings=(
            Finding("cmb-001", "cmb", "lobar", 3.0, 5.0, {0: (x, y, x + 4, y + 4), 1: (x, y, x + 4, y + 4)}),
            Finding("vein-002", "vein", "lobar", 1.0, 2.0, {2: (x + 6, y, x + 9, y + 3)}),
        ),
        pixel_spacing_mm=240 / matrix,
        slice_thickness_mm=2.0,
        phase=rng.integers(-3141, 3142, magnitude.shape, dtype=np.int16),
        slice_spacing_mm=1.0,
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )


@pytest.fixture(autouse=True)
def _sketched(monkeypatch):
    monkeypatch.setattr(cohorts, "simulate_patient", sketch)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The cohort of seed 7, to look at or to copy."""
    folder = tmp_path_factory.mktemp("cohort") / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohorts, "simulate_patient", sketch)
        cohort(folder)
    return folder


def cohort(out: Path, seed: int = 7, settings: Phantom = COHORT) -> Labels:
    return cohorts.write_cohort(out, settings, seed, jobs=1, progress=False)


def check_boxes(folder: Path, labels: Labels) -> None:
    """Every box lies in its image, on pixels darker than its surroundings."""
    series = {header.patient_id: header for header in find_series(folder) if header.kind == "magnitude"}
    volumes = {patient: read_volume(header) for patient, header in series.items()}
    images = {image["id"]: image for image in labels["images"]}
    for box in labels["annotations"]:
        image = images[box["image_id"]]
        x, y, width, height = box["bbox"]
        assert 0 <= x <= image["width"] - width
        assert 0 <= y <= image["height"] - height
        slice_index = series[image["patient_id"]].sop_instance_uids.index(image["sop_instance_uid"])
        assert slice_index == image["slice_index"]
        pixels = volumes[image["patient_id"]][slice_index]
        inside = pixels[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
        around = pixels[max(int(y) - 4, 0) : int(y + height) + 5, max(int(x) - 4, 0) : int(x + width) + 5]
        assert inside.min() < 0.8 * np.median(around)


def test_the_same_seed_gives_the_same_bytes_beside_each_other_too_and_another_seed_another_cohort(made, tmp_path):
    cohorts.write_cohort(tmp_path / "beside", COHORT, 7, jobs=3, progress=False, backend="threading")
    cohort(tmp_path / "other", seed=8)
    ours, again, theirs = (tree(folder) for folder in (made, tmp_path / "beside", tmp_path / "other"))
    assert ours == again
    assert not [name for name in ours if name.endswith(".dcm") and ours[name] == theirs[name]]


def test_patients_are_in_one_split_each_and_boxes_lie_on_the_dark_spots_of_the_slice_that_they_name(made):
    labels, mimics = (read_labels(made / file) for file in (LABELS_FILE, MIMICS_FILE))
    pairs = {(image["patient_id"], image["split"]) for image in labels["images"]}
    assert len(pairs) == len({patient for patient, _ in pairs}) == 4
    assert Counter(split for _, split in pairs) == {"train": 2, "test": 1, "validation": 1}
    for of_kind, contrast in ((labels, 0.9), (mimics, 0.8)):
        check_boxes(made, of_kind)
        assert {round(box["contrast"], 1) for box in of_kind["annotations"]} == {contrast}
    # A microbleed on two slices is one lesion, and mimics are in a file of their own.
    assert Counter(box["lesion_id"] for box in labels["annotations"]) == {f"P000{n}/cmb-001": 2 for n in range(1, 5)}
    assert labels["categories"] == [{"id": 1, "name": "cmb"}]
    kinds = {category["id"]: category["name"] for category in mimics["categories"]}
    assert {kinds[box["category_id"]] for box in mimics["annotations"]} == {"vein"}
    assert mimics["images"] == labels["images"]


def test_a_killed_run_keeps_whole_patients_and_makes_the_others(made, tmp_path, monkeypatch):
    asked: list[object] = []

    def killed(*args: object, **settings: object) -> SimulatedPatient:
        asked.append(args)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return sketch(*args, **settings)

    monkeypatch.setattr(cohorts, "simulate_patient", killed)
    with pytest.raises(KeyboardInterrupt):
        cohort(tmp_path / "out")
    # What kill -9 leaves behind, as nothing cleans up after it:
    (tmp_path / "out" / ".P0003.4711.partial").mkdir()
    (tmp_path / "out" / ".P0003.4711.partial" / "slice0001.dcm").write_text("half")
    (tmp_path / "out" / ".annotations.4711.partial.json").write_text("half")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("P*/*.dcm")}
    assert {path.parent.name for path in kept} == {"P0001", "P0002"}
    plans = plan.patient_plan(COHORT, 7)
    assert list(cohorts.missing_patients(tmp_path / "out", plans)) == ["P0003", "P0004"]
    cohort(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(made)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(asked) == 5


@pytest.mark.parametrize("changes", [
    {"slices": 4},
    {"cmbs_per_patient": Microbleeds(free=0.5, median=1.0, spread=0.0)},
    {"patients": Splits(train=1, test=1, validation=1)},
    {"patients": Splits(train=3, test=2, validation=1)},
])  # fmt: skip
def test_patients_of_other_settings_are_replaced(made, tmp_path, changes):
    settings = COHORT.model_copy(update=changes)
    cohort(shutil.copytree(made, tmp_path / "out"), settings=settings)
    cohort(tmp_path / "fresh", settings=settings)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_patients_of_other_code_are_replaced(made, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "code_sha256", lambda: "edited")
    monkeypatch.setattr(cohorts, "simulate_patient", lambda *_, **sizes: sketch(99, **sizes))
    cohort(shutil.copytree(made, tmp_path / "out"))
    before, after = tree(made), tree(tmp_path / "out")
    assert not [name for name, held in after.items() if name.endswith(".dcm") and before[name] == held]


def test_a_margin_lies_around_every_box_but_not_beyond_the_image_and_the_tight_box_stays(made, tmp_path):
    bare = read_labels(made / LABELS_FILE)
    wide = cohort(tmp_path / "wide", settings=COHORT.model_copy(update={"box_margin_mm": 40.0}))  # 11 px of 3.75 mm
    assert (bare["info"], wide["info"]) == ({"box_margin_mm": 0.0}, {"box_margin_mm": 40.0})
    for box, drawn in zip(bare["annotations"], wide["annotations"], strict=True):
        assert box["bbox"] == box["tight_bbox"] == drawn["tight_bbox"]
        x, y, width, height = box["bbox"]
        right, end = min(x + width + 11, 64), min(y + height + 11, 64)
        left, top = max(x - 11, 0), max(y - 11, 0)
        assert drawn["bbox"] == [left, top, right - left, end - top]
        assert drawn["area"] == (right - left) * (end - top)
    (mimic, *_) = read_labels(tmp_path / "wide" / MIMICS_FILE)["annotations"]
    assert mimic["bbox"][2] > mimic["tight_bbox"][2]


def test_another_margin_and_other_readers_change_labels_and_simulate_no_patient(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    before = tree(tmp_path)
    monkeypatch.setattr(cohorts, "simulate_patient", lambda *_, **__: pytest.fail("a patient was simulated"))
    changes = {"box_margin_mm": 4.0, "readers": Readers(number=3, misses=0.9, mimics=0.9)}
    labels = cohort(tmp_path, settings=COHORT.model_copy(update=changes))
    assert {name for name, held in tree(tmp_path).items() if before[name] != held} == {LABELS_FILE, MIMICS_FILE}
    assert labels["info"]["readers"]["asked"] == changes["readers"].model_dump()
    assert cohort(tmp_path)["annotations"]
    assert tree(tmp_path) == before


def test_readers_mark_training_images_only_and_mimics_that_they_take_stay_mimics(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    reader = Readers(number=1, misses=0.999, mimics=0.999)
    read = cohort(tmp_path, settings=COHORT.model_copy(update={"readers": reader}))
    split_of = {image["id"]: image["split"] for image in read["images"]}

    def lesions(labels: Labels, of_training: bool) -> set[str]:
        boxes = (box for box in labels["annotations"] if (split_of[box["image_id"]] == "train") == of_training)
        return {box["lesion_id"] for box in boxes}

    assert lesions(read, of_training=False) == lesions(read_labels(made / LABELS_FILE), of_training=False)
    assert {lesion.split("/")[1] for lesion in lesions(read, of_training=True)} == {"vein-002"}
    assert (tmp_path / MIMICS_FILE).read_bytes() == (made / MIMICS_FILE).read_bytes()


@pytest.mark.parametrize("entry", ["thesis.txt", "P0001/scan.dcm", "patient-7/patient.json", ".hidden"])
def test_a_folder_of_something_else_is_not_touched(tmp_path, entry):
    file = tmp_path / "out" / entry
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with refused(tmp_path, f"holds '{entry.split('/')[0]}'"):
        cohort(tmp_path / "out")
    with refused(tmp_path, "is a file"):
        cohort(file)


@pytest.mark.parametrize("backend", ["no such backend", "dask", "tcp://"])
def test_a_backend_that_is_not_there_is_refused_before_anything_is_touched(tmp_path, backend):
    with refused(tmp_path, f"backend {backend}: "):
        cohorts.write_cohort(tmp_path / "out", COHORT, 7, progress=False, backend=backend)


def test_exact_counts_reach_the_simulation_as_each_patients_quota(tmp_path, monkeypatch):
    asked = []

    def spy(seed: object, *, quota: tuple[int, int] | None = None, **sizes: int) -> SimulatedPatient:
        asked.append((quota, sizes["slices"]))
        return sketch(seed, **sizes)

    monkeypatch.setattr(cohorts, "simulate_patient", spy)
    counts = {name: Splits(train=4, test=2, validation=1) for name in ("images_with_cmbs", "boxes")}
    cohort(tmp_path / "out", settings=COHORT.model_copy(update={"exact": ExactCounts(images=13, **counts)}))
    assert sorted(slices for _, slices in asked) == [3, 3, 3, 4]
    assert sum(quota[0] for quota, _ in asked) == sum(quota[1] for quota, _ in asked) == 7


@pytest.fixture(scope="module")
def patient() -> SimulatedPatient:
    return simulate_patient(5, matrix=256, slices=16, cmb_count=5)


def of_kind(simulated: SimulatedPatient, kind: str) -> list[Finding]:
    return [finding for finding in simulated.findings if finding.kind == kind]


def test_the_simulations_boxes_lie_over_something_dark_in_the_files_too(patient, tmp_path, monkeypatch):
    monkeypatch.setattr(cohorts, "simulate_patient", lambda *_, **__: patient)
    settings = plan.resized(COHORT, 3).model_copy(update={"matrix_px": 256, "slices": 16})
    labels = cohort(tmp_path / "out", settings=settings)
    assert len({box["lesion_id"] for box in labels["annotations"]}) == 15
    check_boxes(tmp_path / "out", labels)


def test_same_seed_gives_the_same_arrays_and_labels_and_another_seed_others():
    first, again, other = (
        simulate_patient(seed, matrix=128, slices=4, cmb_count=count)
        for seed, count in ((1, 1), (np.random.SeedSequence(1), 1), (2, 0))
    )
    np.testing.assert_array_equal(first.magnitude, again.magnitude)
    np.testing.assert_array_equal(first.phase, again.phase)
    assert first.findings == again.findings
    assert (first.magnitude != other.magnitude).mean() > 0.5
    assert [len(of_kind(simulated, "cmb")) for simulated in (first, other)] == [1, 0]


def test_series_has_the_sizes_types_and_units_of_a_scan(patient):
    assert patient.magnitude.shape == patient.phase.shape == (16, 256, 256)
    assert (patient.magnitude.dtype, patient.phase.dtype) == (np.uint16, np.int16)
    assert patient.pixel_spacing_mm == 240 / 256
    assert np.abs(patient.phase).max() <= 3142
    rows, columns = np.array(patient.orientation).reshape(2, 3)
    assert rows @ columns == pytest.approx(0)
    assert np.linalg.norm(columns) == pytest.approx(1)
    white_matter, air = patient.magnitude[8, 96:160, 96:160], patient.magnitude[:, :10, :10]
    assert 0.6 * WHITE_MATTER_UNITS < np.median(white_matter) < 1.6 * WHITE_MATTER_UNITS
    assert 20 < np.median(air) < 250


def test_the_microbleeds_asked_for_are_dots_of_two_to_some_ten_millimetres_among_mimics_mostly_veins(patient):
    assert len(of_kind(patient, "cmb")) == 5
    assert len({finding.finding_id for finding in patient.findings}) == len(patient.findings)
    counts = Counter(finding.kind for finding in patient.findings)
    assert {"cmb", "vein"} <= set(counts) <= {"cmb", "vein", "flow void", "calcification", "iron"}
    assert counts["vein"] > 3 * counts["cmb"]
    for finding in patient.findings:
        assert finding.boxes
        assert finding.location in ("lobar", "deep", "infratentorial")
        for number, (left, top, right, bottom) in finding.boxes.items():
            assert 0 <= number < 16
            assert 0 <= left < right <= 256
            assert 0 <= top < bottom <= 256
    for finding in of_kind(patient, "cmb"):
        assert 2.0 <= finding.visible_diameter_mm < 13.0
        assert finding.visible_diameter_mm > finding.true_diameter_mm
        assert np.ptp(list(finding.boxes)) == len(finding.boxes) - 1  # on slices that follow one another


def test_quota_of_images_and_boxes_is_met_exactly_or_refused():
    simulated = simulate_patient(3, matrix=128, slices=12, quota=(4, 6))
    boxes = [number for finding in of_kind(simulated, "cmb") for number in finding.boxes]
    assert (len(boxes), len(set(boxes))) == (6, 4)
    with pytest.raises(InputError, match="do not fit into 2 slices"):
        simulate_patient(0, matrix=128, slices=2, quota=(3, 3))


def blobs(image: np.ndarray, pixel_mm: float, threshold: float) -> np.ndarray:
    """Rows and columns [n, 2] of round dark blobs: the smaller principal curvature, best of four scales."""
    level = np.maximum(ndimage.gaussian_filter(image, 8 / pixel_mm), 300.0)
    relative = image / level
    best = np.zeros_like(relative)
    for scale_mm in (0.7, 1.0, 1.4, 2.0):
        scale = scale_mm / pixel_mm
        rows, columns, mixed = (
            ndimage.gaussian_filter(relative, scale, order=order) for order in ((2, 0), (0, 2), (1, 1))
        )
        smaller = (rows + columns) / 2 - np.hypot((rows - columns) / 2, mixed)
        best = np.maximum(best, smaller * scale**2)
    return np.argwhere((best == ndimage.maximum_filter(best, 5)) & (best > threshold))


def near(box: tuple[float, float, float, float], places: np.ndarray) -> np.ndarray:
    """Whether each row and column [n, 2] lies in a box, or at most 1 px beside it."""
    rows, columns = places.T + 0.5
    return (rows >= box[1] - 1) & (rows <= box[3] + 1) & (columns >= box[0] - 1) & (columns <= box[2] + 1)


def test_a_blob_detector_finds_the_microbleeds_only_among_many_mimics(patient):
    hits, wrong = [], 0
    for number, image in enumerate(patient.magnitude.astype(np.float32)):
        boxes = [finding.boxes[number] for finding in of_kind(patient, "cmb") if number in finding.boxes]
        places = blobs(image, patient.pixel_spacing_mm, threshold=0.11)
        inside = [set(np.flatnonzero(near(box, places))) for box in boxes]
        hits += [bool(blob) for blob in inside]
        wrong += len(places) - len(set().union(*inside))
    assert np.mean(hits) > 0.8
    assert wrong > 100
