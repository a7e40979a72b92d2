"""`cmbfe detect` with a detector that sees phase: the phase of each series is found, and what has none is left out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from findings_world import SameBoxes
from nifti_files import head, save
from phase_world import head_with_phase, image_with_phase, phase_series
from PIL import Image
from tiny_world import dicom_head, tiny_params

from cmbfe.data.labelled.images import save_image
from cmbfe.errors import InputError
from cmbfe.findings.model import Detector
from cmbfe.findings.run import Options, Result, detect_files
from cmbfe.training.devices import make_compute

SEES_PHASE = tiny_params().images.model_copy(update={"phase": True})


class Seen(SameBoxes):
    """Keeps the images that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        self.images += list(images)
        return super().forward(images)


def detect(source: Path, out: Path, phase: bool = True) -> tuple[Result, list[torch.Tensor]]:
    """`cmbfe detect`; also the images that the detector saw, float [3, rows, columns]."""
    settings = SEES_PHASE if phase else tiny_params().images
    model = Seen()
    detector = Detector(model, make_compute("cpu", "32-true"), "seen")
    return detect_files(source, lambda: detector, out, settings, Options(keep_ids=True)), model.images


def phase_seen(image: torch.Tensor) -> np.ndarray:
    """Phase in half turns times magnitude: half of what the first channel has over the last."""
    return ((image[0] - image[2]) / 2).numpy()


def test_the_detector_sees_the_phase_of_each_slice_and_the_overlays_show_the_magnitude(tmp_path):
    head_with_phase(tmp_path / "in")
    result, seen = detect(tmp_path / "in", tmp_path / "out")
    assert (len(result.done), result.left_out, len(seen)) == (1, [], 4)
    phase = phase_seen(seen[2]) / np.where(seen[2][1] > 0, seen[2][1], np.nan)
    assert phase[15, 35] == pytest.approx(1 / np.pi, abs=0.5 / 127)
    assert phase[45, 10] == pytest.approx(-2 / np.pi, abs=0.5 / 127)
    assert phase[32, 45] == pytest.approx(0, abs=1e-6)
    _, plain = detect(tmp_path / "in", tmp_path / "plain", phase=False)
    torch.testing.assert_close(seen[2].mean(dim=0), plain[2].mean(dim=0))
    overlays = [np.array(Image.open(tmp_path / name / "overlays" / "P1" / "002.png")) for name in ("out", "plain")]
    np.testing.assert_array_equal(*overlays)


def test_a_series_without_phase_is_left_out_and_named_and_alone_it_is_an_error(tmp_path):
    head_with_phase(tmp_path / "in")
    dicom_head(tmp_path / "in" / "P2", "P2")
    result, _ = detect(tmp_path / "in", tmp_path / "out")
    assert [one.patient for one in result.done] == ["P1"]
    (left_out,) = result.left_out
    assert (left_out.patient, left_out.what) == (
        "P2",
        "the detector sees the phase as well, and there is no phase series on its slices",
    )
    with pytest.raises(InputError, match="no phase series of the same study on the slices of this magnitude series"):
        detect(tmp_path / "in" / "P2", tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_phase_of_other_slices_is_none(tmp_path):
    dicom_head(tmp_path / "in" / "magnitude", slices=3)
    phase_series(tmp_path / "in" / "phase")
    with pytest.raises(InputError, match="no phase series of the same study"):
        detect(tmp_path / "in", tmp_path / "out")


def test_images_have_their_phase_beside_them_and_it_is_no_image_of_its_own(tmp_path):
    for name in ("a.png", "b.jpg"):
        save_image(tmp_path / "in" / name, image_with_phase())
    for phase in (True, False):
        result, seen = detect(tmp_path / "in", tmp_path / str(phase), phase)
        assert [one.images for one in result.done] == [2]
        assert (np.abs(phase_seen(seen[0])).max() > 0.2) == phase
    (tmp_path / "in" / "b.phase.png").unlink()
    with pytest.raises(InputError, match=r"b\.jpg: b\.phase\.png is not beside it; the detector sees the phase"):
        detect(tmp_path / "in", tmp_path / "out")


def test_nifti_has_no_phase(tmp_path):
    save(tmp_path / "in" / "a.nii.gz", head(), np.eye(4))
    with pytest.raises(InputError, match="the detector sees the phase as well, which is read from DICOM"):
        detect(tmp_path / "in", tmp_path / "out")
