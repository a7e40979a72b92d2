"""Run `cmbfe detect` on byte-flipped DICOM files: each must end with outputs or one line, never a traceback.

    python benchmarks/fuzz.py [--files 5000] [--seed 0]

A valid series of four slices, half of them RLE-compressed, is made once. For each file, one slice is drawn and 1 to 64
of its bytes are changed, in half of the files only before the pixel data. Then the whole of `cmbfe detect` runs in this
process: headers, pixels, N4 (few iterations), overlays, tables, page, DICOM SR and segmentation. Only the network is a
stub, because no byte of a file can change its behaviour. The benchmark prints how the runs ended. After a traceback,
printed in full with the number of its file, the exit status is 1. `--only NUMBER` runs that file alone.
"""

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RLELossless, generate_uid
from torch import nn

from cmbfe.errors import InputError
from cmbfe.findings.model import Detector
from cmbfe.findings.run import Options, detect_files
from cmbfe.params import Images, load_params, profile_file
from cmbfe.training.devices import make_compute

SIDE, SLICES = 48, 4
MOST_FLIPS = 64
PIXEL_DATA = b"\xe0\x7f\x10\x00"


class Stub(nn.Module):
    """Finds one box in every image."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        box = torch.tensor([[10.0, 12.0, 15.0, 18.0]])
        return [{"boxes": box, "scores": torch.tensor([0.75]), "labels": torch.ones(1, dtype=torch.int64)}] * len(
            images
        )


def good_series(folder: Path) -> list[Path]:
    """Write a bright disc with noise as a valid MR series."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = 800 * ((rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < (0.45 * SIDE) ** 2)
    shared = {name: generate_uid(entropy_srcs=["fuzz", name]) for name in ("study", "series", "frame")}
    paths = []
    for index in range(SLICES):
        image, image.file_meta = Dataset(), FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid(entropy_srcs=["fuzz", str(index)])
        image.StudyInstanceUID, image.SeriesInstanceUID = shared["study"], shared["series"]
        image.FrameOfReferenceUID = shared["frame"]
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "F1", "Fuzz^One", "", "O"
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20210101", "120000", "1", ""
        image.ReferringPhysicianName, image.Manufacturer = "", "fuzz"
        image.Modality, image.SeriesDescription, image.ImageType = "MR", "SWAN", ["ORIGINAL", "PRIMARY", "M"]
        image.SeriesNumber, image.InstanceNumber, image.BurnedInAnnotation = 1, index + 1, "NO"
        image.EchoTime, image.SliceThickness, image.SpacingBetweenSlices = 45, 2, 2
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-20, -20, 2 * index]
        image.PixelSpacing, image.Rows, image.Columns, image.SamplesPerPixel = [0.5, 0.5], SIDE, SIDE, 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = (disc + rng.integers(20, 80, disc.shape)).astype(np.uint16).tobytes()
        image["PixelData"].VR = "OW"
        if index % 2:
            image.compress(RLELossless, generate_instance_uid=False)
        paths.append(folder / f"{index}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """The same file with some bytes changed."""
    spoilt = np.frombuffer(content, np.uint8).copy()
    end = len(content) if rng.random() < 0.5 else content.index(PIXEL_DATA) + 12
    places = rng.integers(0, end, int(2 ** rng.uniform(0, np.log2(MOST_FLIPS))))
    spoilt[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
    return spoilt.tobytes()


def ending(source: Path, out: Path, detector: Detector, settings: Images) -> str:
    """How a run ends, in a word or two. Raises if the run ends with neither outputs nor a one-line error."""
    try:
        result = detect_files(source, lambda: detector, out, settings, Options(sr=True, segmentation=True))
    except InputError as error:
        if "\n" in str(error) or not str(error):
            raise AssertionError(f"not one line: {error!r}") from error
        if [path.name for path in out.parent.iterdir()] != [source.name]:
            raise AssertionError(f"left something behind: {list(out.parent.iterdir())}") from error
        return "one line"
    shutil.rmtree(out)
    return "outputs, something left out" if any(aside.refused for aside in result.left_out) else "outputs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000, help="how many byte-flipped files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one file to run")
    given = parser.parse_args()
    settings = load_params(profile_file("smoke")).images
    few = settings.bias_correction.model_copy(update={"iterations": (2, 2)})
    settings = settings.model_copy(update={"bias_correction": few})
    detector = Detector(Stub(), make_compute("cpu", "32-true"), "stub")
    endings: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "series"
        source.mkdir()
        paths = good_series(source)
        good = [path.read_bytes() for path in paths]
        if ending(source, Path(folder) / "out", detector, settings) != "outputs":
            raise RuntimeError("the good series does not give outputs")
        for number in range(given.files) if given.only is None else [given.only]:
            rng = np.random.default_rng([given.seed, number])
            index = int(rng.integers(len(paths)))
            paths[index].write_bytes(flipped(good[index], rng))
            try:
                endings[ending(source, Path(folder) / "out", detector, settings)] += 1
            except Exception:
                traceback.print_exc()
                print(f"^ file {number}", file=sys.stderr)
                endings["TRACEBACK"] += 1
                shutil.rmtree(Path(folder) / "out", ignore_errors=True)
            paths[index].write_bytes(good[index])
    print(f"{sum(endings.values())} byte-flipped files, seed {given.seed}: {dict(endings.most_common())}")
    return int("TRACEBACK" in endings)


if __name__ == "__main__":
    sys.exit(main())
