"""The simulated cohort on disk: same seed same bytes, patients atomic, nothing foreign touched."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from phantom_cases import patient
from tiny_world import tree

from cmbfe.data.dicom.series import find_series, read_volume
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, Labels, read_labels
from cmbfe.errors import InputError
from cmbfe.params import ExactCounts, Phantom, Splits
from cmbfe.phantom import cohort as cohorts
from cmbfe.phantom import plan
from cmbfe.phantom.cohort import missing_patients, write_cohort
from cmbfe.phantom.lesions import Finding
from cmbfe.phantom.plan import patient_plan, resized
from cmbfe.phantom.simulate import SimulatedPatient

COHORT = Phantom(patients=Splits(train=2, test=1, validation=1), slices=3, matrix_px=64, cmbs_per_patient=2.0)


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


def cohort(out: Path, seed: int = 7, settings: Phantom = COHORT) -> Labels:
    return write_cohort(out, settings, seed, jobs=1, progress=False)


def check_boxes(folder: Path, labels: Labels) -> None:
    """Every box lies in its image, on pixels darker than its surroundings."""
    series = {header.patient_id: header for header in find_series(folder) if header.kind == "magnitude"}
    volumes = {patient: read_volume(header) for patient, header in series.items()}
    images = {image["id"]: image for image in labels["images"]}
    for box in labels["annotations"]:
        image = images[box["image_id"]]
        x, y, width, height = box["bbox"]
        assert min(x, y) >= 0
        assert x + width <= image["width"]
        assert y + height <= image["height"]
        slice_index = series[image["patient_id"]].sop_instance_uids.index(image["sop_instance_uid"])
        assert slice_index == image["slice_index"]
        pixels = volumes[image["patient_id"]][slice_index]
        inside = pixels[int(y) : int(np.ceil(y + height)), int(x) : int(np.ceil(x + width))]
        around = pixels[max(int(y) - 4, 0) : int(y + height) + 5, max(int(x) - 4, 0) : int(x + width) + 5]
        assert inside.min() < 0.8 * np.median(around)


def test_the_same_seed_gives_the_same_bytes_beside_each_other_too_and_another_seed_another_cohort(tmp_path):
    cohort(tmp_path / "one")
    write_cohort(tmp_path / "beside", COHORT, 7, jobs=3, progress=False, backend="threading")
    cohort(tmp_path / "other", seed=8)
    ours, again, theirs = (tree(tmp_path / name) for name in ("one", "beside", "other"))
    assert ours == again
    assert not [name for name in ours if name.endswith(".dcm") and ours[name] == theirs[name]]


def test_no_patient_is_in_two_splits_and_boxes_lie_on_the_dark_spots_of_the_slice_that_they_name(tmp_path):
    labels = cohort(tmp_path / "out")
    pairs = {(image["patient_id"], image["split"]) for image in labels["images"]}
    assert len(pairs) == len({patient for patient, _ in pairs}) == 4
    assert Counter(split for _, split in pairs) == {"train": 2, "test": 1, "validation": 1}
    assert len(labels["annotations"]) == 8
    check_boxes(tmp_path / "out", labels)
    check_boxes(tmp_path / "out", read_labels(tmp_path / "out" / MIMICS_FILE))


def test_a_microbleed_on_two_slices_is_one_lesion_and_mimics_are_in_a_file_of_their_own(tmp_path):
    labels = cohort(tmp_path / "out")
    assert {box["lesion_id"] for box in labels["annotations"]} == {f"P000{n}/cmb-001" for n in range(1, 5)}
    assert labels["categories"] == [{"id": 1, "name": "cmb"}]
    assert labels == read_labels(tmp_path / "out" / LABELS_FILE)
    mimics = read_labels(tmp_path / "out" / MIMICS_FILE)
    kinds = {category["id"]: category["name"] for category in mimics["categories"]}
    assert {kinds[box["category_id"]] for box in mimics["annotations"]} == {"vein"}
    assert mimics["images"] == labels["images"]


def test_a_killed_run_keeps_whole_patients_and_makes_the_others(tmp_path, monkeypatch):
    cohort(tmp_path / "whole")
    made: list[object] = []

    def killed(*args: object, **settings: object) -> SimulatedPatient:
        made.append(args)
        if len(made) == 3:
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
    cohort(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(made) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"slices": 4},
        {"cmbs_per_patient": 3.0},
        {"patients": Splits(train=1, test=1, validation=1)},
        {"patients": Splits(train=3, test=2, validation=1)},
    ],
)
def test_patients_of_other_settings_are_replaced(tmp_path, changes):
    settings = COHORT.model_copy(update=changes)
    cohort(tmp_path / "out")
    cohort(tmp_path / "out", settings=settings)
    cohort(tmp_path / "fresh", settings=settings)
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_patients_of_other_code_are_replaced(tmp_path, monkeypatch):
    cohort(tmp_path / "out")
    before = tree(tmp_path / "out")
    monkeypatch.setattr(plan, "code_sha256", lambda: "edited")
    monkeypatch.setattr(cohorts, "simulate_patient", lambda *_, **sizes: sketch(99, **sizes))
    cohort(tmp_path / "out")
    assert not [
        name for name, held in tree(tmp_path / "out").items() if name.endswith(".dcm") and before[name] == held
    ]


@pytest.mark.parametrize("entry", ["thesis.txt", "P0001/scan.dcm", "patient-7/patient.json", ".hidden"])
def test_a_folder_of_something_else_is_not_touched(tmp_path, entry):
    file = tmp_path / "out" / entry
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    with pytest.raises(InputError, match=f"holds '{entry.split('/')[0]}'"):
        cohort(tmp_path / "out")
    assert tree(tmp_path / "out").pop(entry) == b"precious"
    with pytest.raises(InputError, match="is a file"):
        cohort(file)


@pytest.mark.parametrize("backend", ["no such backend", "dask", "tcp://"])
def test_a_backend_that_is_not_there_is_refused_before_anything_is_touched(tmp_path, backend):
    with pytest.raises(InputError, match=f"backend {backend}: "):
        write_cohort(tmp_path / "out", COHORT, 7, progress=False, backend=backend)
    assert not list(tmp_path.iterdir())


def test_missing_patients_are_named_without_touching_anything(tmp_path):
    plans = patient_plan(COHORT, 7)
    assert list(missing_patients(tmp_path / "out", plans)) == list(plans)
    cohort(tmp_path / "out")
    (tmp_path / "out" / "P0002" / "patient.json").write_text("[]")
    before = tree(tmp_path / "out")
    assert list(missing_patients(tmp_path / "out", plans)) == ["P0002"]
    assert tree(tmp_path / "out") == before


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


def test_the_simulations_boxes_lie_over_something_dark_in_the_files_too(tmp_path, monkeypatch):
    monkeypatch.setattr(cohorts, "simulate_patient", lambda *_, **__: patient(seed=1))
    settings = resized(COHORT, 3).model_copy(update={"matrix_px": 128, "slices": 10})
    labels = cohort(tmp_path / "out", settings=settings)
    assert len({box["lesion_id"] for box in labels["annotations"]}) == 9
    check_boxes(tmp_path / "out", labels)
