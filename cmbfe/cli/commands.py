"""The command line: each command is a thin door to one function of the library."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cmbfe.cli.comparisons import comparisons
from cmbfe.cli.options import Backend, jobs_option
from cmbfe.errors import InputError

# Libraries are imported inside the commands: `cmbfe --help` answers at once and does not load PyTorch.
app = typer.Typer(
    help="Detect cerebral microbleeds with SSD and feature enhancement (a replication of Li et al. 2021).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class ImportKind(StrEnum):
    """What `cmbfe import` reads."""

    DICOM = "dicom"
    VALDO = "valdo"
    MOMENI = "momeni"
    DOU = "dou"
    NIFTI = "nifti"
    COCO = "coco"
    VOC = "voc"


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="smoke, laptop or paper")],
    out: Annotated[Path, typer.Option(help="where to write the settings")] = Path("params.yaml"),
) -> None:
    """Write params.yaml for a profile.

    Example: cmbfe profile laptop
    """
    from cmbfe.params import write_profile

    print(f"wrote {write_profile(name, out)}")


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="folder for the DICOM series; new or empty, or an earlier phantom")],
    patients: Annotated[
        int | None, typer.Option(help="number of patients, at least 3 (default: the profile's)")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="same seed, same bytes (default: the profile's)")] = None,
    profile: Annotated[str, typer.Option(help="smoke, laptop or paper: size of the series")] = "laptop",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and its costs, make nothing")] = False,
    jobs: Annotated[int, jobs_option("patients")] = -1,
    backend: Backend = "loky",
) -> None:
    """Simulate patients: DICOM magnitude and phase of each, annotations.json and mimics.json (COCO).

    A killed run goes on where it was: start it again.

    Example: cmbfe phantom data/raw --patients 3 --seed 7

    Example: cmbfe phantom data/raw --profile paper --dry-run
    """
    from cmbfe.params import load_params, profile_file
    from cmbfe.phantom.cohort import patient_plan, resized
    from cmbfe.phantom.dry_run import report
    from cmbfe.phantom.writing import missing_patients, write_cohort

    params = load_params(profile_file(profile))
    cohort = params.phantom if patients is None else resized(params.phantom, patients)
    drawn_by = params.seed if seed is None else seed
    if dry_run:
        plans = patient_plan(cohort, drawn_by)
        print(report(plans, len(missing_patients(out, plans)), None if jobs == -1 else jobs))
        return
    labels = write_cohort(out, cohort, drawn_by, jobs=jobs, backend=backend)
    print(f"{out}: {len(labels['images'])} slices, {len(labels['annotations'])} microbleed boxes")


@app.command(name="import")
def import_(
    kind: Annotated[ImportKind, typer.Argument(help="what SRC holds")],
    src: Annotated[
        Path, typer.Argument(help="folder of the data; for nifti also the YAML file, for coco also the JSON file")
    ],
    out: Annotated[
        Path, typer.Argument(help="folder for images and annotations.json; new, empty or an earlier import")
    ],
    params: Annotated[Path | None, typer.Option(help="settings; default: the laptop profile's")] = None,
    size: Annotated[
        int | None, typer.Option(help="side of all images, px (default: as they are; training takes one size only)")
    ] = None,
    box_mm: Annotated[float | None, typer.Option(help="side of the box around a point, mm (default: 6)")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="for dicom: COCO file, or folder with VOC XML (default: annotations.json or VOC XML in SRC)"
        ),
    ] = None,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="keep ids of patients and series, no pseudonyms")
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option(help="where to write whose pseudonym is which; outside OUT")
    ] = None,
    jobs: Annotated[int, jobs_option("patients")] = -1,
    backend: Backend = "loky",
) -> None:
    """Turn scanner data or a public data set into 8-bit images with COCO labels (docs/own_data.md).

    Ids of patients become salted hashes. A killed import goes on where it was: start it again.

    Example: cmbfe import dicom my_dicom my_images --labels my_labels --key-file my_key.json

    Example: cmbfe import valdo Task2 valdo --size 512
    """
    from cmbfe.data.sources.importer import BOX_MM, Options, import_source
    from cmbfe.data.sources.report import summary
    from cmbfe.params import load_params, profile_file

    settings = load_params(params or profile_file("laptop"))
    options = Options(size, BOX_MM if box_mm is None else box_mm, keep_ids, key_file, labels)
    result = import_source(kind, src, out, settings.images, settings.seed, options, jobs, backend)
    print(f"{summary(result)}\n{out}: {result['pictures']} images, {result['boxes']} microbleed boxes")


@app.command()
def train(
    variant: Annotated[str, typer.Argument(help="ssd512, ssd512-fe, ssd300, ssd300-fe, …")],
    out: Annotated[Path, typer.Option(help="folder for the model; checkpoints in it are gone on from")],
    params: Annotated[Path, typer.Option(help="settings")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="augmented set: images and annotations.json")] = Path("data/augmented"),
    validation: Annotated[
        Path | None,
        typer.Option(help="images and annotations.json: the AP on their validation split is measured on the way"),
    ] = None,
    live: Annotated[Path | None, typer.Option(help="folder for DVCLive's curves (default: live in OUT)")] = None,
) -> None:
    """Train one detector; a killed training goes on from its last checkpoint: start it again.

    Example: cmbfe train ssd300-fe --out models/ssd300-fe --validation data/pictures

    Example: torchrun --nproc-per-node 8 -m cmbfe train ssd512-fe --out models/ssd512-fe
    """
    from cmbfe.data.labelled.labels import LABELS_FILE, refuse_other_channels
    from cmbfe.params import load_params
    from cmbfe.training.loop import train as run

    settings = load_params(params)
    for folder in filter(None, (data, validation)):
        refuse_other_channels(folder / LABELS_FILE, settings.images.phase)
    history = run(variant, settings, data, out, validation=validation, live=live)
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0:  # of torchrun, of SLURM
        print(f"{out}: {variant} after {len(history)} iterations")


@app.command()
def detect(
    src: Annotated[Path, typer.Argument(help="DICOM or NIfTI (a folder, any depth, or a file), or PNG/JPG images")],
    model: Annotated[Path, typer.Option(help="folder with model.safetensors, config.json and params.yaml")],
    out: Annotated[Path, typer.Option(help="folder for the results; new, empty or an earlier result")],
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="lowest score drawn and made a lesion (default: 0.5)")
    ] = None,
    operating_point: Annotated[
        Path | None,
        typer.Option(help="threshold from validation: operating_point.csv, or metrics.json of cmbfe evaluate"),
    ] = None,
    sr: Annotated[
        bool, typer.Option("--sr", help="DICOM structured report per series; HOLDS THE PATIENT'S NAME, ID AND DATES")
    ] = False,
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="DICOM segmentation; HOLDS THE PATIENT'S NAME, ID AND DATES")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="draw the feature maps of slices with lesions")] = False,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="keep ids of patients, series and images (images do), no pseudonyms")
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option(help="where to write whose pseudonym is which; outside OUT")
    ] = None,
    jobs: Annotated[int, jobs_option("series")] = 1,
    backend: Backend = "loky",
) -> None:
    """Detect microbleeds: COCO JSON, CSV, 3-D lesions, overlays, a page per patient, DICOM SR (docs/detect.md).

    Example: cmbfe detect my_dicom --model models/ssd300-fe --out found

    Example: cmbfe detect my_dicom --model models/ssd512 --out found --operating-point operating_point.csv --sr
    """
    from functools import partial

    from cmbfe.findings.model_folder import of_model, refuse_to_lose
    from cmbfe.findings.one_series import trained
    from cmbfe.findings.operating_point import chosen_threshold
    from cmbfe.findings.run import Options, detect_files, in_a_line

    settings, variant = of_model(model)
    refuse_to_lose([one for one in (model, operating_point) if one], out)
    chosen, origin = chosen_threshold(threshold, operating_point, variant)
    options = Options(chosen, origin, sr, segmentation, explain, keep_ids, key_file)
    result = detect_files(src, partial(trained, model.resolve()), out, settings, options, jobs, backend)
    for one in result.left_out:
        print(f"cmbfe: left out: {' '.join(one.line.split())}", file=sys.stderr)
    print(f"{out}: {in_a_line(result, chosen)}")


@app.command()
def export(
    model: Annotated[Path, typer.Option(help="folder with model.safetensors and config.json")],
    out: Annotated[Path, typer.Option(help="the ONNX file; its name ends in .onnx, an earlier one is replaced")],
    images: Annotated[
        Path | None, typer.Option(help="PNG/JPG images to compare with PyTorch on, besides random ones")
    ] = None,
) -> None:
    """Write a detector as an ONNX file, which needs neither PyTorch nor cmbfe, if it finds what PyTorch finds.

    Example: cmbfe export --model models/ssd300-fe --out ssd300-fe.onnx
    """
    from cmbfe.detector.export import export_onnx
    from cmbfe.detector.weights import load_model
    from cmbfe.findings.series import image_files

    files = [] if images is None else image_files(images, out)
    if images is not None and not files:
        raise InputError(f"{images}: no PNG or JPG image there; `cmbfe import` makes images from scanner data")
    difference = export_onnx(load_model(model), out, files)
    same = difference.images - difference.found_otherwise
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB. onnxruntime against PyTorch on {difference.images} images: "
        f"scores differ by at most {difference.score:.1e}, box corners by {difference.box_px:.1e} px; "
        f"the same detections in {same}"
    )


@app.command()
def evaluate(
    truth: Annotated[Path, typer.Argument(help="COCO labels")],
    detections: Annotated[Path, typer.Argument(help="COCO results of the same images")],
    out: Annotated[Path, typer.Option(help="folder for the results; new, empty or an earlier evaluation")],
    against: Annotated[
        Path | None, typer.Option(help="COCO results of another detector, for paired differences")
    ] = None,
    split: Annotated[str | None, typer.Option(help="evaluate the images of this split only")] = None,
    mimics: Annotated[Path | None, typer.Option(help="COCO labels of mimics: which of them are mistaken")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="operating point (default: 90 % sensitivity on these images)")
    ] = None,
    iou: Annotated[float, typer.Option(min=0, max=1, help="smallest intersection over union of a hit")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="of the bootstrap over patients")] = 0,
) -> None:
    """Measure detections of any detector against ground truth: metrics.json, pr.csv, froc.csv, report.html and more.

    Example: cmbfe evaluate truth.json detections.json --split test --out evaluation
    """
    from cmbfe.evaluation.evaluate import evaluate_files

    options = {"split": split, "mimics": mimics, "threshold": threshold, "iou": iou, "seed": seed}
    result = evaluate_files(truth, detections, out, against, **options)
    print(f"{out}: report.html, metrics.json and tables; AP {result['ap']:.3f}")


app.add_typer(comparisons)


def main() -> None:
    """Run the command line; bad input ends with one line and exit status 2."""
    try:
        app()
    except InputError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        file = error.filename2 or error.filename or "input or output"  # of a renaming, the name that was wanted
        sys.exit(_fail(f"{file}: {error.strerror or error}"))


def _fail(reason: str) -> int:
    print(f"cmbfe: error: {' '.join(reason.split())}", file=sys.stderr)
    return 2
