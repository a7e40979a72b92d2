"""A model's folder as detection takes it: how images are made for it, and what it is called."""

from collections.abc import Sequence
from pathlib import Path

from cmbfe.data.folders import resolved
from cmbfe.detector.weights import CONFIG_FILE
from cmbfe.errors import InputError
from cmbfe.files import read_json, within_python
from cmbfe.params import Images, load_params


def of_model(folder: Path) -> tuple[Images, str]:
    """How the images were made that a model was trained on, and its variant; empty where config.json says none.

    Raises:
        InputError: params.yaml or config.json cannot be read.
    """
    with within_python(folder):
        settings = load_params(folder / "params.yaml").images
        config = read_json(folder / CONFIG_FILE)
    return settings, str(config.get("variant", "")) if isinstance(config, dict) else ""


def refuse_to_lose(inputs: Sequence[Path], out: Path) -> None:
    """Raise `InputError` where an output would replace what it is made with."""
    for one in inputs:
        if resolved(one).is_relative_to(resolved(out)):
            raise InputError(f"{out}: holds {one}, which would be lost; give another folder")
