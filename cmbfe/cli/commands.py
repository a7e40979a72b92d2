"""The commands of the command line. Each command calls one function of the library."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from cmbfe.baselines import Baseline
from cmbfe.errors import InputError

# Libraries are imported inside the commands, so that `cmbfe --help` answers at once and does not load PyTorch.
app = typer.Typer(
    help="Detect cerebral microbleeds with SSD and feature enhancement (a replication of Li et al. 2021).",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ImportKind = Literal["dicom", "valdo", "momeni", "dou", "nifti", "bids", "coco", "voc"]
"""Formats that `cmbfe import` reads."""


def _given_jobs(jobs: int) -> int:
    if jobs == 0:
        raise InputError("--jobs 0: nothing would be done; give 1 or more, or -1 for one per core")
    return jobs


def jobs_option(what: str) -> Any:
    """The option --jobs of commands that run several tasks at a time."""
    return typer.Option(min=-1, callback=_given_jobs, help=f"{what} at a time; -1: one per core")


def _name(left_out: Iterable[Any]) -> None:
    """Print which files were not read, and why, one line per `Aside`."""
    for aside in left_out:
        what = "refused" if aside.refused else "passed over"
        print(f"cmbfe: {what}: {' '.join(aside.line.split())}", file=sys.stderr)


BEGIN = """\
Try it on a simulated patient   cmbfe phantom scans --patients 1
Find microbleeds in scans       cmbfe detect scans --model ssd512-fe --out found
Turn reviews of them to labels  cmbfe review found review-P1-AB.json --out data/mine
Bring in your labelled images   cmbfe import coco labelled data/mine
Train without and with FE       cmbfe train ssd512 --twins --data data/mine --out models/mine
Measure any detections          cmbfe evaluate labels.json detections.json --out report
All commands and their help     cmbfe --help, cmbfe train --help, ..."""


@app.callback()
def begin(context: typer.Context) -> None:
    """Show the first steps if no command is given."""
    if context.invoked_subcommand is None:
        print(BEGIN)


def _next(step: str) -> None:
    """Print the last line of a command: the suggested next step."""
    print(f"next: {step}")


Backend = Annotated[str, typer.Option(help="loky, threading, or the address of a dask scheduler (tcp://host:8786)")]
WriteReport = Annotated[
    bool, typer.Option("--sr", help="DICOM structured report per series; HOLDS THE PATIENT'S NAME, ID AND DATES")
]
WriteSegmentation = Annotated[
    bool, typer.Option("--segmentation", help="DICOM segmentation; HOLDS THE PATIENT'S NAME, ID AND DATES")
]
KeyFile = Annotated[Path | None, typer.Option(help="where to write which pseudonym belongs to whom; outside OUT")]
AsMagnitude = Annotated[
    bool,
    typer.Option("--as-magnitude", help="take series as magnitude although header or values do not say so"),
]
TrainingBackend = Annotated[str, typer.Option(help="loky, or the address of a dask scheduler (tcp://host:8786)")]
"""Threading is not possible, as a training sets the number of threads of its whole process."""


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
    patients: Annotated[int | None, typer.Option(help="number of patients (default: the profile's)")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="same seed, same bytes (default: the profile's)")] = None,
    profile: Annotated[str, typer.Option(help="smoke, laptop or paper: size of the series")] = "laptop",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and its costs, make nothing")] = False,
    jobs: Annotated[int, jobs_option("patients")] = -1,
    backend: Backend = "loky",
) -> None:
    """Simulate patients as DICOM magnitude and phase, with annotations.json and mimics.json (COCO).

    A killed run resumes when it is started again.

    Example: cmbfe phantom data/raw --patients 3 --seed 7

    Example: cmbfe phantom data/raw --profile paper --dry-run
    """
    from cmbfe.params import load_params, profile_file
    from cmbfe.phantom.cohort import missing_patients, write_cohort
    from cmbfe.phantom.plan import patient_plan, report, resized

    params = load_params(profile_file(profile))
    cohort = params.phantom if patients is None else resized(params.phantom, patients)
    drawn_by = params.seed if seed is None else seed
    if dry_run:
        plans = patient_plan(cohort, drawn_by)
        print(report(plans, len(missing_patients(out, plans)), None if jobs == -1 else jobs))
        return
    labels = write_cohort(out, cohort, drawn_by, jobs=jobs, backend=backend)
    margin = f"{labels['info']['box_margin_mm']:g} mm around what is dark"
    print(f"{out}: {len(labels['images'])} slices, {len(labels['annotations'])} microbleed boxes, {margin}")
    _next(f"cmbfe detect {out} --model ssd512-fe --out found, or cmbfe import dicom {out} IMAGES")


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
        int | None, typer.Option(help="side of all images, px (default: unchanged; training needs a single size)")
    ] = None,
    box_mm: Annotated[float | None, typer.Option(help="side of the box around a point, mm (default: 6)")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="for dicom: COCO file, or folder with VOC XML (default: annotations.json or VOC XML in SRC)"
        ),
    ] = None,
    as_magnitude: AsMagnitude = False,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="keep ids of patients and series instead of pseudonyms")
    ] = False,
    key_file: KeyFile = None,
    jobs: Annotated[int, jobs_option("patients")] = -1,
    backend: Backend = "loky",
) -> None:
    """Turn scanner data or a public data set into 8-bit images with COCO labels (docs/own_data.md).

    Ids of patients become salted hashes. A killed import resumes when it is started again.

    Example: cmbfe import dicom my_dicom my_images --labels my_labels --key-file my_key.json

    Example: cmbfe import valdo Task2 valdo --size 512
    """
    from cmbfe.data.sources.importer import BOX_MM, Options, import_source
    from cmbfe.data.sources.report import summary
    from cmbfe.params import load_params, profile_file

    settings = load_params(params or profile_file("laptop"))
    options = Options(size, BOX_MM if box_mm is None else box_mm, keep_ids, key_file, labels, as_magnitude)
    result = import_source(kind, src, out, settings.images, settings.seed, options, jobs, backend, name=_name)
    print(f"{summary(result)}\n{out}: {result['pictures']} images, {result['boxes']} microbleed boxes")
    step = (
        "train ssd512 --twins --out models/mine --data" if result["boxes"] else "detect --model ssd512-fe --out found"
    )
    _next(f"read {out / 'report.json'}, then: cmbfe {step} {out}")


@app.command()
def describe(
    data: Annotated[Path, typer.Argument(help="images with annotations.json: an import, or data/pictures")],
    out: Annotated[Path, typer.Option(help="the table, CSV; an earlier one is replaced")] = Path("patients.csv"),
    slice_mm: Annotated[
        float | None, typer.Option(help="distance between slices, mm (default: that in series.json of the import)")
    ] = None,
    jobs: Annotated[int, jobs_option("series")] = -1,
) -> None:
    """Compare patients with published values: size, shape, place and number of microbleeds, contrast, look-alikes.

    docs/phantom.md says how each row is measured.

    Example: cmbfe describe data/pictures --slice-mm 2 --out patients.csv
    """
    from cmbfe.files import write_table
    from cmbfe.patients.describe import as_markdown, compare_patients

    if out.is_dir():
        raise InputError(f"{out}: is a folder; --out is a file, such as patients.csv")
    table = compare_patients(data, slice_mm, jobs=jobs)
    write_table(table, out)
    print(f"{as_markdown(table)}\n{out}: {len(table)} rows, {(table['in_range'] == 'yes').sum()} in range")
    _next(f"{out} has each row's source; how it is measured is in docs/phantom.md")


@app.command()
def train(
    variant: Annotated[str, typer.Argument(help="ssd512, ssd512-fe, ssd300, ssd300-fe, …")],
    out: Annotated[Path, typer.Option(help="folder for the model; resumes from checkpoints in it")],
    params: Annotated[Path, typer.Option(help="settings")] = Path("params.yaml"),
    data: Annotated[
        Path, typer.Option(help="an import, which is augmented into DATA-augmented first; or an augmented set")
    ] = Path("data/augmented"),
    validation: Annotated[
        Path | None,
        typer.Option(help="images for the AP during training (default: the validation patients of an import)"),
    ] = None,
    live: Annotated[Path | None, typer.Option(help="folder for DVCLive's curves (default: live in OUT)")] = None,
    twins: Annotated[
        bool, typer.Option("--twins", help="train without and with FE, into OUT/VARIANT and OUT/VARIANT-fe")
    ] = False,
) -> None:
    """Train a detector, or twins without and with FE; a killed training resumes when it is started again.

    Example: cmbfe train ssd512 --twins --data data/mine --out models/mine

    Example: torchrun --nproc-per-node 4 -m cmbfe train ssd512-fe --out models/ssd512-fe
    """
    from cmbfe.cli.own_training import train_all
    from cmbfe.params import Variant, load_params

    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0  # set by torchrun or SLURM
    for name, folder, iterations in train_all(variant, load_params(params), data, out, validation, live, twins):
        if first:
            print(f"{folder}: {name} after {iterations} iterations")
    if first and variant in get_args(Variant):  # the commands load no detector of torchvision
        _next(f"cmbfe detect SCANS --model {folder} --out found")


@app.command()
def detect(
    src: Annotated[
        Path, typer.Argument(help="folder (any depth) or file: DICOM, NIfTI, or PNG, JPG, TIFF, BMP images")
    ],
    model: Annotated[
        Path, typer.Option(help="ssd512 or ssd512-fe, which are shipped, or a folder that `cmbfe train` left")
    ],
    out: Annotated[Path, typer.Option(help="folder for the results; new, empty or an earlier result")],
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="lowest score that is drawn and listed as a lesion (default: 0.5)"),
    ] = None,
    operating_point: Annotated[
        Path | None,
        typer.Option(help="threshold from validation: operating_point.csv, or metrics.json of cmbfe evaluate"),
    ] = None,
    sr: WriteReport = False,
    segmentation: WriteSegmentation = False,
    explain: Annotated[bool, typer.Option("--explain", help="draw the feature maps of slices with lesions")] = False,
    by_anatomy: Annotated[
        bool,
        typer.Option("--by-anatomy", help="strike lesions out that lie outside the brain or run along a vein"),
    ] = False,
    bids: Annotated[bool, typer.Option("--bids", help="the lesions as a BIDS derivative data set as well")] = False,
    as_magnitude: AsMagnitude = False,
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="keep ids of patients, series and DICOM images instead of pseudonyms")
    ] = False,
    key_file: KeyFile = None,
    jobs: Annotated[int, jobs_option("series")] = 1,
    backend: Backend = "loky",
) -> None:
    """Detect microbleeds, with results as COCO JSON, CSV, 3-D lesions, overlays, pages and DICOM SR (docs/detect.md).

    Example: cmbfe detect my_dicom --model ssd512-fe --out found

    Example: cmbfe detect my_dicom --model models/ssd512 --out found --operating-point operating_point.csv --sr
    """
    from functools import partial

    from cmbfe.findings.model import chosen_threshold, load_detector, model_folder, model_settings
    from cmbfe.findings.run import PAGES, Options, detect_files, in_a_line

    model = model_folder(model)
    settings, variant = model_settings(model)
    chosen, origin = chosen_threshold(threshold, operating_point, variant)
    options = Options(chosen, origin, sr, segmentation, explain, keep_ids, key_file, as_magnitude, by_anatomy, bids)
    inputs = [path for path in (model, operating_point) if path]
    result = detect_files(src, partial(load_detector, model.resolve()), out, settings, options, jobs, backend, inputs)
    _name(result.left_out)
    for series in result.done:
        for note in series.notes:
            print(f"cmbfe: note: {series.folder}: {' '.join(note.split())}", file=sys.stderr)
    print(f"{out}: {in_a_line(result, chosen)}")
    _next(f"open the pages in {out / PAGES} in a browser")


@app.command()
def review(
    found: Annotated[Path, typer.Argument(help="folder that `cmbfe detect` has written")],
    reviews: Annotated[list[Path], typer.Argument(help="JSON files that its pages save, one per reader and patient")],
    out: Annotated[Path, typer.Option(help="folder for labels and report; new, empty or an earlier review")],
    source: Annotated[Path | None, typer.Option(help="what was detected in, for --sr and --segmentation")] = None,
    sr: WriteReport = False,
    segmentation: WriteSegmentation = False,
    key_file: Annotated[
        Path | None, typer.Option(help="of the detection, where that kept no ids: finds its series in SOURCE")
    ] = None,
) -> None:
    """Turn reviews of detections into training labels (docs/review.md), and measure the agreement between readers.

    Example: cmbfe review found review-P1-AB.json review-P1-CD.json --out data/reviewed
    """
    from cmbfe.findings.reviewed import PAGE_FILE, in_a_line, review_files
    from cmbfe.findings.run import Options
    from cmbfe.params import load_params, profile_file

    options = Options(sr=sr, segmentation=segmentation, key_file=key_file)
    result = review_files(found, reviews, out, load_params(profile_file("laptop")).seed, source, options)
    for note in result["notes"]:
        print(f"cmbfe: note: {note}", file=sys.stderr)
    print(f"{out}: {in_a_line(result)}")
    _next(f"open {out / PAGE_FILE} in a browser, then: cmbfe train ssd512 --twins --out models/mine --data {out}")


@app.command()
def evaluate(
    truth: Annotated[Path, typer.Argument(help="COCO labels")],
    detections: Annotated[Path, typer.Argument(help="COCO results of the same images")],
    out: Annotated[Path, typer.Option(help="folder for the results; new, empty or an earlier evaluation")],
    against: Annotated[
        Path | None, typer.Option(help="COCO results of another detector, for paired differences")
    ] = None,
    split: Annotated[str | None, typer.Option(help="evaluate the images of this split only")] = None,
    mimics: Annotated[Path | None, typer.Option(help="COCO labels of mimics: which are detected")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="operating point (default: 90 % sensitivity on these images)")
    ] = None,
    iou: Annotated[float, typer.Option(min=0, max=1, help="smallest intersection over union of a hit")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="of the bootstrap over patients")] = 0,
) -> None:
    """Measure any detector against ground truth, and write metrics.json, pr.csv, froc.csv, report.html and more.

    Example: cmbfe evaluate truth.json detections.json --split test --out evaluation
    """
    from cmbfe.evaluation.evaluate import evaluate_files

    options = {"split": split, "mimics": mimics, "threshold": threshold, "iou": iou, "seed": seed}
    result = evaluate_files(truth, detections, out, against, **options)
    print(f"{out}: report.html, metrics.json and tables; AP {result['ap']:.3f}")
    if against:
        less = result["difference"]["pictures"]["ap"]
        print(f"less that of {against}: {less['value']:+.3f}, 95 % CI {less['low']:+.3f} to {less['high']:+.3f}")
    _next(f"open {out / 'report.html'} in a browser")


@app.command()
def export(
    model: Annotated[
        Path, typer.Option(help="ssd512 or ssd512-fe, which are shipped, or a folder that `cmbfe train` left")
    ],
    out: Annotated[Path, typer.Option(help="the ONNX file; its name ends in .onnx, an earlier one is replaced")],
    images: Annotated[
        Path | None,
        typer.Option("--images", "--pictures", help="PNG/JPG images to compare on, besides random ones"),
    ] = None,
) -> None:
    """Write a detector as ONNX, to run without PyTorch or cmbfe, and compare its detections with PyTorch's.

    Example: cmbfe export --model models/ssd300-fe --out ssd300-fe.onnx
    """
    import torch
    from tqdm import tqdm

    from cmbfe.data.inventory import take_inventory
    from cmbfe.data.labelled.images import read_image
    from cmbfe.detector.export import RANDOM_BATCHES, export_onnx
    from cmbfe.detector.weights import load_model
    from cmbfe.findings.model import model_folder
    from cmbfe.findings.search import image_files
    from cmbfe.training.batches import to_input

    files = [] if images is None else image_files(take_inventory(images, out))
    if images is not None and not files:
        raise InputError(f"{images}: no PNG or JPG image there; `cmbfe import` makes images from scanner data")
    detector = load_model(model_folder(model))
    batches = (to_input(read_image(file)[None], torch.device("cpu")) for file in files)
    steps = 1 + RANDOM_BATCHES + len(files)
    with tqdm(total=steps, desc=f"exporting {detector.config.variant}", unit="step", leave=False, delay=1) as bar:
        difference = export_onnx(detector, out, batches, bar.update)
    same = difference.images - difference.detected_otherwise
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB. onnxruntime against PyTorch on {difference.images} images: "
        f"scores differ by at most {difference.score:.1e}, box corners by {difference.box_px:.1e} px; "
        f"the same detections in {same}"
    )
    _next(f"docs/export.md, for a program that runs {out.name} without cmbfe")


@app.command()
def baseline(
    name: Annotated[Baseline, typer.Argument(help="the method")],
    out: Annotated[Path, typer.Option(help="folder for the results; new, empty or an earlier result")],
    params: Annotated[Path, typer.Option(help="settings; section baselines")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="images with annotations.json and mimics.json")] = Path("data/pictures"),
    train: Annotated[
        Path | None,
        typer.Option(help="images with annotations.json to learn from; then all of DATA is searched"),
    ] = None,
) -> None:
    """Train a baseline on the training patients, run it on the others, and write detections and metrics.

    With --train, lesions.csv has the sensitivity per microbleed at 10, 20 and 45 false positives per patient.

    Example: cmbfe baseline radial-symmetry --data data/pictures --out results/radial-symmetry

    Example: cmbfe baseline radial-symmetry --train heads/1 --data heads/2 --out found
    """
    from cmbfe.baselines.run import run_baseline, run_between
    from cmbfe.params import load_params

    if train:
        print(f"{out}:\n{run_between(name, load_params(params), train, data, out).to_string()}")
        return
    metrics = run_baseline(name, load_params(params), data, out)
    print(f"{out}: AP {metrics['ap']:.3f} on {metrics['pictures']} test images")
    _next(f"cmbfe evaluate {data / 'annotations.json'} {out / 'detections.json.gz'} --split test --out evaluation")


@app.command()
def study(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="patients, names of arms, phase, crossvalidation (default: all, in this order)"),
    ] = None,
    params: Annotated[Path, typer.Option(help="settings; sections study and crossvalidation")] = Path("params.yaml"),
    out: Annotated[
        Path, typer.Option(help="folder for data/study, models/study and results/study (default: this one)")
    ] = Path(),
    only: Annotated[Literal["train", "test"] | None, typer.Option(help="one step; default: both")] = None,
    jobs: Annotated[int, jobs_option("patients or trainings")] = -1,
    backend: TrainingBackend = "loky",
) -> None:
    """Run the study, or parts of it: arms, torchvision's detectors, phase and folds. A killed run resumes.

    The part crossvalidation takes its patients from data/pictures, which `make repro` creates.

    Example: cmbfe study patients ssd300 placement-source

    Example: cmbfe study crossvalidation --backend tcp://host:8786
    """
    from cmbfe.parallel import check_backend
    from cmbfe.params import load_params
    from cmbfe.studies.trials.arms import CROSSVALIDATION
    from cmbfe.studies.trials.patients import PATIENTS, make_patients
    from cmbfe.studies.trials.running import STEPS, run_arm

    check_backend(backend)
    settings = load_params(params)
    for part in parts or [PATIENTS, *settings.study.every_arm, CROSSVALIDATION]:
        if part == PATIENTS:
            make_patients(settings, out, jobs)
        else:
            run_arm(part, settings, out, jobs, backend, steps=(only,) if only else STEPS)
    _next("make readings, for tables and figures of the arms that are complete")
