"""Which slices are one series: headers that differ within one, series that are several, strays, what is refused."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import AXIAL, CORONAL, SAGITTAL, mr_series, mr_slice, positions, random_volume, uid, write
from findings_world import detect
from pydicom.dataset import Dataset
from tiny_world import tiny_head

from cmbfe.data.dicom.finding import find_series
from cmbfe.data.dicom.series import NEIGHBOURS, SEVERAL_PEOPLE, SeriesHeaders, read_volume, series_of
from cmbfe.data.dicom.slices import read_slices
from cmbfe.data.inventory import Aside
from cmbfe.data.magnitude import TAKEN
from cmbfe.errors import InputError

COUNT = 12
Each = Callable[[int], dict[str, object]]
NORM = ["ORIGINAL", "PRIMARY", "OTHER", "NORM"]


def turned(degrees: float) -> list[float]:
    """Axial, turned about a row."""
    angle = np.deg2rad(degrees)
    return [1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle))]


def alike(index: int) -> dict[str, object]:
    return {}


def images_of(each: Each = alike, count: int = COUNT, first: int = 0, **attributes: object) -> list[Dataset]:
    """Slices 2 mm apart whose headers `each` makes differ."""
    volume = random_volume(count, seed=first)
    return [
        mr_slice(pixels, (-20.0, -30.0, 5.0 + 2 * (first + index)), **attributes | each(first + index))
        for index, pixels in enumerate(volume)
    ]


def found_in(folder: Path, *images: Dataset) -> tuple[list[SeriesHeaders], list[Aside]]:
    """Series and asides of images, each of which has to be in exactly one of them."""
    order = np.random.default_rng(0).permutation(len(images))
    paths = write(folder, [images[index] for index in order])
    series, asides = series_of([item for path in paths for item in read_slices(path)])
    assert Counter(path for group in (*series, *asides) for path in group.files) == Counter(paths)
    return series, asides


def own(*keywords: str) -> Each:
    """A value of its own for each file."""
    return lambda index: {keyword: uid(keyword, index) for keyword in keywords}


def in_turn(keyword: str, *values: object) -> Each:
    return lambda index: {keyword: values[index % len(values)]}


ONE_SERIES = {
    "orientation by 0.09 degrees": in_turn("ImageOrientationPatient", turned(0), turned(0.09)),
    "orientation by 0.5 degrees": in_turn("ImageOrientationPatient", turned(-0.2), turned(0.3), turned(0)),
    "echo time by 0.9 ms": in_turn("EchoTime", 20.0, 20.9, 20.3),
    "echo time in some only": in_turn("EchoTime", 20.0, None, None),
    "echo number in some only": in_turn("EchoNumbers", None, 1),
    "ImageType": in_turn("ImageType", NORM, NORM[:3], NORM[:3]),
    "pixel spacing by rounding": in_turn("PixelSpacing", [0.5, 0.75], [0.502, 0.752]),
    "several at once": lambda index: {
        "EchoTime": 20 + 0.1 * index % 3,
        "EchoNumbers": index % 2 or None,
        "ImageOrientationPatient": turned(0.02 * index),
    },
    "series UID of each file": own("SeriesInstanceUID"),
    "patient of each file": own("PatientID"),
    "patient and UIDs of each file": own("PatientID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    "series UID of every other slice": in_turn("SeriesInstanceUID", "1.2.3.1", "1.2.3.2"),
    "study of each half": lambda index: {"StudyInstanceUID": f"1.2.3.{index // 6}"},
    "patient in some only": lambda index: {"PatientID": "P1" if index % 3 else ""},
    "description too, of unknown thickness": lambda index: {
        **own("SeriesInstanceUID", "StudyInstanceUID")(index),
        "SeriesDescription": "SWI" if index % 2 else "",
        "SliceThickness": None,
    },
    "series UIDs in no order": lambda index: {"SeriesInstanceUID": f"1.2.3.{'121132312332'[index]}"},
}


@pytest.mark.parametrize("each", ONE_SERIES.values(), ids=ONE_SERIES)
def test_parts_that_make_one_even_stack_are_one_series_and_it_says_so(tmp_path, each):
    (series,), asides = found_in(tmp_path, *images_of(each))
    assert [place[2] for place in series.positions_mm] == [5.0 + 2 * index for index in range(COUNT)]
    assert series.slice_spacing_mm == pytest.approx(2, abs=1e-3)
    assert asides == []
    assert len(series.notes) == 1
    np.testing.assert_array_equal(read_volume(series), random_volume(COUNT))


@pytest.mark.parametrize(
    ("image_type", "notes"), [(NORM, ()), (["DERIVED", "SECONDARY", "MPR"], (TAKEN,)), ([*NORM, "FANCY"], (TAKEN,))]
)
def test_headers_that_agree_make_no_note_but_where_they_do_not_say_what_they_are(tmp_path, image_type, notes):
    images = images_of(ImageType=image_type)
    (series,), _ = found_in(tmp_path / "all", *images)
    assert series.notes == notes
    (series,), _ = found_in(tmp_path / "every other", *images[::2])
    assert (series.slice_spacing_mm, len(series.notes)) == (4, 1 + len(notes))


@pytest.mark.parametrize(
    ("each", "spacing"),
    [
        (in_turn("AcquisitionNumber", 1, 2), {"SpacingBetweenSlices": 2.0, "SliceThickness": 4.0}),
        (in_turn("AcquisitionNumber", 1, 2), {"SliceThickness": 4.0}),
        (lambda index: {"AcquisitionNumber": index}, {"SpacingBetweenSlices": 4.0}),
    ],
)
def test_a_scan_may_have_several_acquisition_numbers(tmp_path, each, spacing):
    (series,), asides = found_in(tmp_path, *images_of(each, **spacing))
    assert (len(series.files), series.notes, asides) == (COUNT, (), [])


@pytest.mark.parametrize(("second", "notes"), [
    ({"PatientBirthDate": "19700101"}, (SEVERAL_PEOPLE,)),
    ({"PatientSex": "F"}, (SEVERAL_PEOPLE,)),
    ({"PatientBirthDate": "", "PatientSex": None}, ()),
    ({"PatientSex": "F", "PatientID": "B"}, ()),
])  # fmt: skip
def test_other_people_of_one_patient_id_are_noted(tmp_path, second, notes):
    first = {"PatientBirthDate": "19400101", "PatientSex": "M"}
    other = images_of(**{**first, "SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4", **second})
    series, _ = found_in(tmp_path, *images_of(**first), *other)
    assert [one.notes for one in series] == [notes, notes]


def two_at(**second: object) -> list[Dataset]:
    """Two complete stacks at the same places, each file with a series UID of its own."""
    more = images_of(lambda index: {"SeriesInstanceUID": uid("second", index)}, **second)
    return [*images_of(own("SeriesInstanceUID"), AcquisitionNumber=1), *more]


SEVERAL = {
    **{
        f"complete repeats, {next(iter(difference))}": (two_at(**difference), [COUNT, COUNT])
        for difference in ({"EchoTime": 40.0}, {"EchoNumbers": 2}, {"ImageType": NORM}, {"AcquisitionNumber": 2})
    },
    "echoes whose times vary": (
        [
            *images_of(in_turn("EchoTime", 20.0, 20.2)),
            *images_of(in_turn("EchoTime", 40.0, 40.3, 40.1), EchoNumbers=2),
        ],
        [COUNT, COUNT],
    ),
    "patients whose files have a series UID each": (
        [
            image
            for name in "AB"
            for image in images_of(lambda index, name=name: {"SeriesInstanceUID": uid(name, index)}, PatientID=name)
        ],
        [COUNT, COUNT],
    ),
    "single images of several patients": (
        [
            mr_slice(random_volume(1, n)[0], (7.0 * n, 3.0, 5.0 + 2 * n), **own("PatientID", "SeriesInstanceUID")(n))
            for n in range(4)
        ],
        [1] * 4,
    ),
    "an image of the UID in another study beside directions that vary": (
        [
            *images_of(in_turn("ImageOrientationPatient", turned(0), turned(0.65))),
            *images_of(count=1, first=COUNT, ImageOrientationPatient=turned(-0.7), StudyInstanceUID="1.2.9"),
        ],
        [1, COUNT],
    ),
}


@pytest.mark.parametrize(("images", "lengths"), SEVERAL.values(), ids=SEVERAL)
def test_what_is_several_series_stays_so(tmp_path, images, lengths):
    series, asides = found_in(tmp_path, *images)
    assert sorted(len(one.files) for one in series) == lengths
    assert asides == []
    assert len({one.patient_id for one in series}) == len({image.PatientID for image in images})


@pytest.mark.parametrize("thickness", [2.0, 0.7, None])
def test_two_patients_with_one_series_uid_stay_two(tmp_path, thickness):
    people = [{"PatientID": name, "StudyInstanceUID": uid(name), "SeriesInstanceUID": uid("all")} for name in "AB"]
    for moved in (0, 1, 2 * COUNT):  # mm: at the same positions, between them, behind them

        def each(index, moved=moved):
            return {"ImagePositionPatient": [-20.0, -30.0, 5.0 + moved + 2 * index], "SliceThickness": thickness}

        series, _ = found_in(
            tmp_path / str(moved), *images_of(SliceThickness=thickness, **people[0]), *images_of(each, **people[1])
        )
        assert sorted((one.patient_id, len(one.files)) for one in series) == [("A", COUNT), ("B", COUNT)]


@pytest.mark.parametrize("thickness", [2.0, None])
@pytest.mark.parametrize("other", [{"SeriesInstanceUID": "1.2.3"}, {"PatientID": "B", "SeriesInstanceUID": "1.2.3"}])
def test_series_that_merely_abut_stay_two(tmp_path, other, thickness):
    first, second = (images_of(first=n, SliceThickness=thickness, **more) for n, more in ((0, {}), (COUNT, other)))
    series, asides = found_in(tmp_path, *first, *second)
    assert [len(one.files) for one in series] == [COUNT, COUNT]
    assert asides == []


REFUSED = {
    "echoes lie between each other": (in_turn("EchoTime", 20.0, 40.0), {}, "slices of the same series lie between"),
    "directions too": (in_turn("ImageOrientationPatient", turned(0), turned(2)), {}, "slices of the same series lie"),
    "unknown ImageType": (in_turn("ImageType", NORM, [*NORM, "FANCY"]), {}, "slices of the same series lie"),
    "sizes": (lambda index: {"PixelSpacing": [0.5 + index % 2, 0.75]}, {}, "slices of the same series lie between"),
    "each half is whole": (
        in_turn("ImageType", NORM, NORM[:3]),
        {"SpacingBetweenSlices": 4.0},
        "slices of one series or of two",
    ),
    "each scan is whole": (
        in_turn("AcquisitionNumber", 1, 2),
        {"SpacingBetweenSlices": 4.0},
        "slices of one series or",
    ),
    "RescaleSlope 0": (in_turn("RescaleSlope", 1, 0), {"RescaleIntercept": 0}, "RescaleSlope is 0"),
    "negative RescaleSlope": (in_turn("RescaleSlope", -1), {"RescaleIntercept": 5000}, "RescaleSlope is negative"),
    "sheared": (lambda index: {"ImagePositionPatient": [index, 0, 2 * index]}, {}, "slices are shifted"),
    "one shifted": (
        lambda index: {"ImagePositionPatient": [5 * (index == 3), 0, 2 * index]},
        {},
        "slices are shifted in their plane",
    ),
    "a copy of other ImageType": (
        lambda index: {"ImagePositionPatient": [0, 0, 2.0 * max(index, 1)], "ImageType": NORM if index else NORM[:3]},
        {},
        "two slices at one position",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_series_or_could_be_two_is_refused_with_all_its_images(tmp_path, case):
    each, attributes, what = REFUSED[case]
    images = images_of(lambda index: {"RescaleSlope": None} | each(index), **attributes)
    series, asides = found_in(tmp_path, *images)
    assert series == []
    assert all(aside.refused and aside.what.startswith(what) for aside in asides)
    with pytest.raises(InputError, match=what):
        find_series(tmp_path)


@pytest.mark.parametrize("each", [alike, own("SeriesInstanceUID")], ids=["one UID", "each"])
def test_a_missing_slice_is_refused_also_where_each_file_has_its_own_uid(tmp_path, each):
    images = images_of(each)
    series, (aside,) = found_in(tmp_path, *images[:4], *images[5:])
    assert series == []
    assert (aside.refused, aside.what, len(aside.files)) == (True, "slice missing", COUNT - 1)


@pytest.mark.parametrize(
    ("strays", "what"),
    [
        (mr_series(random_volume(1), SAGITTAL), "in another plane"),
        (
            [mr_series(random_volume(1), plane)[0] for plane in (SAGITTAL, CORONAL, turned(30))],
            "in another plane",
        ),
        ([mr_slice(np.zeros((20, 20), np.uint16), (0, 0, 9))], "of another size"),
    ],
)
def test_strays_are_passed_over_and_named_and_their_series_is_read(tmp_path, strays, what):
    (series,), asides = found_in(tmp_path, *images_of(), *strays)
    assert (series.kind, series.series_uid, len(series.files)) == ("magnitude", uid("series"), COUNT)
    assert len(asides) == len(strays)
    assert not any(aside.refused for aside in asides)
    assert all(what in aside.what for aside in asides)


@pytest.mark.parametrize("counts", [(3, 3, 3), (7, 5, 3), (11, 11, 11), (1, 1, 1)])
def test_planes_of_like_size_are_a_localizer(tmp_path, counts):
    planes = zip((AXIAL, CORONAL, SAGITTAL), counts, strict=True)
    images = [image for plane, count in planes for image in mr_series(random_volume(count), plane)]
    series, asides = found_in(tmp_path, *images)
    assert {one.kind for one in series} == {"localizer"}
    assert asides == []


def test_kinds_that_are_no_stack_may_lie_anywhere(tmp_path):
    heights = {"MOSAIC": (0, 0, 0), "MNIP": (0, 0, 4), "LOCALIZER": (0, 1, 1, 7)}
    images = [
        mr_slice(random_volume(1, n)[0], (n, n * n, z), ImageType=[*NORM[:2], kind], InstanceNumber=n)
        for kind, places in heights.items()
        for n, z in enumerate(places)
    ]
    series, asides = found_in(tmp_path, *images)
    assert [one.kind for one in series] == ["localizer", "mosaic", "projection"]
    assert [place[2] for place in series[0].positions_mm] == [0, 1, 1, 7]
    assert asides == []


@pytest.mark.parametrize(
    ("each", "attribute"),
    [
        *((own(attribute), attribute) for attribute in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")),
        *((in_turn(attribute, None), attribute) for attribute in ("StudyInstanceUID", "FrameOfReferenceUID")),
    ],
)
def test_what_a_dicom_object_needs_costs_that_object_only(tmp_path, each, attribute):
    places = positions(3)
    images = [
        mr_slice(pixels, places[index], **{"FrameOfReferenceUID": "1.2.3"} | each(index))
        for index, pixels in enumerate(tiny_head(3))
    ]
    write(tmp_path / "in", images)
    (done,) = detect(tmp_path / "in", tmp_path / "out", sr=True, segmentation=True, threshold=0.2).done
    assert done.lesions == 2
    written = [path.parent.name for path in (tmp_path / "out").rglob("*.dcm")]
    assert written == (["sr"] if attribute == "FrameOfReferenceUID" else [])
    assert sum(attribute in note for note in done.notes) == 2 - len(written)
    assert len(list((tmp_path / "out" / "pages").iterdir())) == 1


def test_parts_that_may_be_one_series_say_so(tmp_path):
    """Two slabs that abut, and one far off."""
    for number, heights in enumerate((range(4), range(4, 8), range(45, 49))):
        pixels = random_volume(4, number)
        slab = [mr_slice(pixels[n], (0, 0, 2.0 * z), SeriesInstanceUID=f"1.{number}") for n, z in enumerate(heights)]
        write(tmp_path / str(number // 2) / str(number), slab)
    found = find_series(tmp_path / "0")
    assert [(len(series.files), NEIGHBOURS in series.notes) for series in found] == [(4, True)] * 2
    assert [NEIGHBOURS in series.notes for series in find_series(tmp_path / "1")] == [False]


@pytest.mark.parametrize("content", [b"", b"\0" * 400])
def test_a_damaged_slice_without_suffix_costs_its_series_and_so_do_pixels_of_another_unit(tmp_path, content):
    write(tmp_path / "in", mr_series(random_volume(4)), [f"IM000{number}" for number in range(4)])
    (tmp_path / "in" / "IM0003").write_bytes(content)
    (tmp_path / "in" / "README").write_text("notes")
    with pytest.raises(InputError, match="IM0003"):
        find_series(tmp_path / "in")
    for spacing in (0.0009, 90.0):
        write(tmp_path / "unit", mr_series(random_volume(3), PixelSpacing=[spacing, spacing]))
        with pytest.raises(InputError, match="PixelSpacing"):
            find_series(tmp_path / "unit")
