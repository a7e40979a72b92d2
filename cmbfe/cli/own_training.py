"""The command `cmbfe train`: augments an import first, and trains a detector alone or together with its FE twin."""

from collections.abc import Iterator
from pathlib import Path

from cmbfe.data.augment import augment_training_set
from cmbfe.data.labelled.labels import LABELS_FILE, read_labels, refuse_other_channels
from cmbfe.data.sources.importer import SETTINGS_FILE
from cmbfe.errors import InputError
from cmbfe.metrics.matching import is_region
from cmbfe.params import Params
from cmbfe.training.devices import started_processes
from cmbfe.training.loop import detector_of, train

FE = "-fe"


def train_all(
    variant: str, params: Params, data: Path, out: Path, validation: Path | None, live: Path | None, twins: bool
) -> Iterator[tuple[str, Path, int]]:
    """Train a detector, or twins without and with FE in OUT/VARIANT and OUT/VARIANT-fe. An import is augmented first.

    Args:
        data: an import (`cmbfe import`) or an augmented set.
        validation: as in `cmbfe.training.loop.train`; None uses the validation patients of an import.

    Yields:
        Name and folder of each model, and its number of iterations.

    Raises:
        InputError: no such detector, several processes for an import or for twins, or as in `train` and
            `augment_training_set`.
    """
    detector_of(variant)
    for folder in filter(None, (data, validation)):
        refuse_other_channels(folder / LABELS_FILE, params.images.phase)
    imported = (data / SETTINGS_FILE).is_file()
    if (imported or twins) and started_processes() != (1, 1):
        why = f"{data} is an import" if imported else "--twins is given"
        raise InputError(f"{why}: run a single process once, or give several an augmented set and a single detector")
    if imported:
        validation = validation or _validation_of(data)
        data = _augmented(data, params)
    for name, folder in _models(variant, out) if twins else [(variant, out)]:
        curves = live / name if live and twins else live
        yield name, folder, len(train(name, params, data, folder, validation=validation, live=curves))


def _models(variant: str, out: Path) -> list[tuple[str, Path]]:
    """Name and folder of a detector without and with FE."""
    plain = variant.removesuffix(FE)
    return [(name, out / name) for name in (plain, plain + FE)]


def _validation_of(data: Path) -> Path | None:
    """The folder `data` if its validation patients have microbleeds, else None."""
    labels = read_labels(data / LABELS_FILE)
    validation = {image["id"] for image in labels["images"] if image["split"] == "validation"}
    boxes = (box for box in labels["annotations"] if not is_region(box))
    return data if any(box["image_id"] in validation for box in boxes) else None


def _augmented(data: Path, params: Params) -> Path:
    """Augment the training images of an import into the folder DATA-augmented; equal settings give equal files."""
    data = data.resolve()  # worker processes kept from an earlier call may have another working directory
    out = data.with_name(f"{data.name}-augmented")
    augment_training_set(read_labels(data / LABELS_FILE), data, out, params.augmentation, params.seed)
    return out
