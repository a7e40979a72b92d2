"""What lies under a path: every file in exactly one group, with the reason."""

import os
from pathlib import Path

import pytest
from findings_world import detect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_world import affine_of, head, save
from tiny_world import dicom_head, labelled_images, refused

from cmbfe.data.inventory import take_inventory
from cmbfe.errors import InputError

FILES = {
    "a.dcm": (b"\0" * 128 + b"DICM", "DICOM"),
    "1.2.840.17": (b"\x08\0\x05\0", "DICOM"),
    "IM0001": (b"\x02\0\0\0", "DICOM"),
    "b.nii.gz": (b"", "NIfTI"),
    "B.PNG": (b"", "images"),
    "b.phase.png": (b"", "phase"),
    "labels.json": (b"{}", "text"),
    "scan.zip": (b"PK", "archive"),
    "t2.mha": (b"ObjectType", "volume"),
    ".DS_Store": (b"", "hidden"),
    "DICOMDIR": (b"\0" * 128 + b"DICM", "DICOMDIR"),
    "notes": (b"text", "other"),
    "no.doc": (b"\x08\0\x05\0", "other"),
}
"""Name -> the beginning of the file, and its kind."""


def kinds(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): kind for path, kind in take_inventory(folder).kinds.items()}


def test_kinds_go_by_content_then_by_name(tmp_path):
    for name, (content, _) in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone.png").symlink_to("nothing")
    (tmp_path / "empty").mkdir()
    expected = {name: kind for name, (_, kind) in FILES.items()}
    assert kinds(tmp_path) == expected | {"gone.png": "link", "empty": "empty"}


def test_links_are_followed_once_and_hidden_folders_are_named(tmp_path):
    for folder in ("in/a", "in/.hidden", "elsewhere/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.txt").touch()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    expected = {"a/x.txt": "text", ".hidden": "hidden", "linked/b/x.txt": "text", "linked/back": "repeated"}
    assert kinds(tmp_path / "in") == expected


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path):  # not by its mode, which does not hold for an administrator
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match="closed: Permission denied"):
        take_inventory(tmp_path)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.sets(st.sampled_from([*FILES, "link", "deep/link.nii"])), seen=st.data())
def test_every_file_is_in_exactly_one_group(tmp_path_factory, names, seen):
    folder = tmp_path_factory.mktemp("in")
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(FILES[name][0]) if name in FILES else path.symlink_to("nothing")
    inventory = take_inventory(folder)
    read = seen.draw(st.sets(st.sampled_from(sorted(inventory.kinds)))) if inventory.kinds else set()
    others = [path for aside in inventory.others(read) for path in aside.files]
    assert sorted([*others, *read]) == sorted(inventory.kinds) == sorted(folder / name for name in names)


def nifti_head(folder: Path) -> None:
    save(folder / "a.nii.gz", head(), affine_of("LPS"))


@pytest.mark.parametrize("make", [dicom_head, labelled_images, nifti_head])
def test_detect_names_all_that_it_does_not_look_at(tmp_path, make):
    make(tmp_path / "in" / "P1")
    for name in ("scan.zip", "t2.mha", ".DS_Store", "notes.doc"):
        (tmp_path / "in" / name).write_bytes(b"PK")
    (tmp_path / "in" / "P2").mkdir()
    for name in ("x.nii.gz", "README.md"):
        (tmp_path / "in" / "P2" / name).symlink_to("nothing")
    result = detect(tmp_path / "in", tmp_path / "in" / "out")
    patients = {path.name: aside.patient_id for aside in result.left_out for path in aside.files}
    of_none = dict.fromkeys(("scan.zip", "t2.mha", ".DS_Store", "notes.doc", "README.md"), "")
    assert patients.items() >= (of_none | {"x.nii.gz": "P2" if make is nifti_head else ""}).items()
    assert "archives" in next((tmp_path / "in" / "out" / "pages").iterdir()).read_text()


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "empty"), (["scan.zip"], "unpack"), (["t2.mha"], "convert"), (["a.doc", "b.doc"], "a.doc, b.doc")],
)
def test_a_source_without_anything_to_detect_in_says_what_it_holds(tmp_path, names, said):
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(b"x")
    for source in [tmp_path / "in", *([tmp_path / "in" / names[0]] if len(names) == 1 else [])]:
        with pytest.raises(InputError, match=said):
            detect(source, tmp_path / "out")


@pytest.mark.parametrize("make", [labelled_images, nifti_head])
def test_names_that_outputs_cannot_hold_are_refused(tmp_path, make):
    make(tmp_path / "in" / "P1")
    (tmp_path / "in" / "P1").rename(tmp_path / "in" / os.fsdecode(b"P\xe9"))
    with refused(tmp_path, "rename it"):
        detect(tmp_path / "in", tmp_path / "out")
