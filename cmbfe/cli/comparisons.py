"""Commands that compare: detectors of other kinds, cross-validation, the study, generated objects, phase, others.

Libraries are imported inside the commands, as in `cmbfe.cli.commands`.
"""

from pathlib import Path
from typing import Annotated

import typer

from cmbfe.baselines.names import Baseline
from cmbfe.cli.options import TrainingBackend, jobs_option
from cmbfe.errors import InputError

comparisons = typer.Typer()


@comparisons.command()
def baseline(
    name: Annotated[Baseline, typer.Argument(help="the detector")],
    out: Annotated[Path, typer.Option(help="folder for the results; new, empty or an earlier result")],
    params: Annotated[Path, typer.Option(help="settings; section baselines")] = Path("params.yaml"),
    data: Annotated[Path, typer.Option(help="images with annotations.json and mimics.json")] = Path("data/pictures"),
) -> None:
    """Train a detector of another kind on the training patients and run it on the others: detections and metrics.

    Example: cmbfe baseline radial-symmetry --data data/pictures --out results/radial-symmetry
    """
    from cmbfe.baselines.run import run_baseline
    from cmbfe.params import load_params

    metrics = run_baseline(name, load_params(params), data, out)
    print(f"{out}: AP {metrics['ap']:.3f} on {metrics['pictures']} test images")


@comparisons.command()
def crossval(
    params: Annotated[Path, typer.Option(help="settings; section crossvalidation")] = Path("params.yaml"),
    images: Annotated[Path, typer.Option(help="images with annotations.json and mimics.json")] = Path(
        "data/pictures"
    ),
    out: Annotated[
        Path, typer.Option(help="folder for data/folds, models/folds and results (default: this one)")
    ] = Path(),
    jobs: Annotated[int, jobs_option("folds trained")] = 1,
    backend: TrainingBackend = "loky",
) -> None:
    """Cross-validate a detector and its FE twin by patient; a killed run goes on where it was: start it again.

    Example: cmbfe crossval --jobs 2

    Example: cmbfe crossval --backend tcp://host:8786
    """
    from cmbfe import paths
    from cmbfe.paper.tables import write_table
    from cmbfe.params import load_params
    from cmbfe.studies.crossvalidation import ALL, gather, run_folds

    settings = load_params(params)
    run_folds(settings, images, out, jobs, backend)
    table = gather(settings, images, out)
    write_table(table, paths.table("crossvalidation", out))
    row = table.loc[ALL]
    gain = f"{row['our_gain']:+.3f} ({row['our_gain_low']:+.3f} to {row['our_gain_high']:+.3f})"
    print(
        f"{paths.table('crossvalidation', out)}: AP {row['our_ap']:.3f}, with FE {row['our_ap_fe']:.3f}, gain {gain}"
    )


@comparisons.command()
def study(
    parts: Annotated[
        list[str] | None, typer.Argument(help="patients, or names of arms (default: the patients and every arm)")
    ] = None,
    params: Annotated[Path, typer.Option(help="settings; section study")] = Path("params.yaml"),
    out: Annotated[
        Path, typer.Option(help="folder for data/study, models/study and results/study (default: this one)")
    ] = Path(),
    jobs: Annotated[int, jobs_option("patients or trainings")] = -1,
    backend: TrainingBackend = "loky",
) -> None:
    """Run the ablation study, or parts of it; a killed run goes on where it was: start it again.

    Example: cmbfe study patients ssd300 placement-source
    """
    from cmbfe.params import load_params
    from cmbfe.studies.patients import PATIENTS, make_patients
    from cmbfe.studies.study import run_arm

    settings = load_params(params)
    for part in parts or [PATIENTS, *settings.study.arms]:
        if part == PATIENTS:
            make_patients(settings, out, jobs)
        else:
            run_arm(part, settings, out, jobs, backend)


@comparisons.command()
def phase(
    parts: Annotated[list[str] | None, typer.Argument(help="images, detectors (default: both)")] = None,
    params: Annotated[Path, typer.Option(help="settings; section phase")] = Path("params.yaml"),
    out: Annotated[
        Path,
        typer.Option(help="folder with data/study and models/study, for data/phase, models/phase, results/phase"),
    ] = Path(),
    jobs: Annotated[int, jobs_option("series or trainings")] = -1,
    backend: TrainingBackend = "loky",
) -> None:
    """Train the study's detectors on, with phase as a second channel and without; a killed run goes on where it was.

    Example: cmbfe phase images detectors --jobs 2
    """
    from cmbfe.params import load_params
    from cmbfe.studies.phase_images import make_images
    from cmbfe.studies.phase_study import run_detectors

    settings = load_params(params)
    for part in parts or ["pictures", "detectors"]:
        if part == "pictures":
            make_images(settings, out, jobs)
        elif part == "detectors":
            run_detectors(settings, out, jobs, backend)
        else:
            raise InputError(f"no part {part!r} of the comparison with phase; there are: images, detectors")


@comparisons.command()
def others(
    detectors: Annotated[list[str] | None, typer.Argument(help="names in others.detectors (default: all)")] = None,
    params: Annotated[Path, typer.Option(help="settings; section others")] = Path("params.yaml"),
    out: Annotated[
        Path, typer.Option(help="folder with data/study, for models/others and results/others (default: this one)")
    ] = Path(),
    jobs: Annotated[int, jobs_option("trainings")] = -1,
    backend: TrainingBackend = "loky",
) -> None:
    """Train torchvision's detectors with FE and without, and FE's relatives; a killed run goes on where it was.

    Example: cmbfe others fcos-small
    """
    from cmbfe.params import load_params
    from cmbfe.studies.other_running import run_detector

    settings = load_params(params)
    for detector in detectors or settings.others.detectors:
        run_detector(detector, settings, out, jobs, backend)
