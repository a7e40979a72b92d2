"""params.yaml as typed settings: unknown keys, wrong types and impossible values raise with the key's path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from cmbfe.comparison_settings import (
    Arm,
    Baselines,
    CrossValidation,
    Objects,
    ObjectsArm,
    Others,
    PhaseStudy,
    Study,
)
from cmbfe.errors import InputError
from cmbfe.files import whole_file
from cmbfe.settings import (
    Augmentation,
    Data,
    Detector,
    Evaluation,
    ExactCounts,
    Patients,
    Phantom,
    Pictures,
    Section,
    Splits,
    Training,
    TurnedBox,
    Variant,
)

__all__ = [
    "Arm",
    "Augmentation",
    "Baselines",
    "CrossValidation",
    "Data",
    "Detector",
    "Evaluation",
    "ExactCounts",
    "Objects",
    "ObjectsArm",
    "Others",
    "Params",
    "Patients",
    "Phantom",
    "PhaseStudy",
    "Pictures",
    "Splits",
    "Study",
    "Training",
    "TurnedBox",
    "load_params",
    "profile_file",
    "read_yaml",
    "save_params",
    "write_profile",
]

PROFILES = Path(__file__).resolve().parent.parent / "profiles"

Content = TypeVar("Content", bound=BaseModel)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"a name occurs twice: {', '.join(names)}")
    return names


class Params(Section):
    """All settings of a run."""

    profile: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1), AfterValidator(_distinct)]
    data: Data = Data()
    phantom: Phantom
    pictures: Pictures
    augmentation: Augmentation
    detector: Detector
    training: Training
    evaluation: Evaluation
    baselines: Baselines = Baselines()
    crossvalidation: CrossValidation = CrossValidation()
    study: Study = Study()
    objects: Objects = Objects()
    phase: PhaseStudy = PhaseStudy()
    others: Others = Others()

    @model_validator(mode="after")
    def _arms_change_settings_that_exist(self) -> "Params":
        for name, arm in self.study.arms.items():
            if arm.settings:
                try:
                    self.changed(arm.settings)
                except ValidationError as error:
                    key, reason = _first(error)
                    raise ValueError(f"study.arms.{name}.settings: {key}: {reason}") from None
        return self

    def changed(self, settings: Mapping[str, str | int | float]) -> "Params":
        """These settings with some of the sections `detector` and `training` changed, by their key paths.

        Raises:
            ValueError: another section, no such key, or a value that cannot be.
        """
        content = self.model_dump(exclude={"study"})
        for path, value in settings.items():
            *sections, key = path.split(".")
            if not sections or sections[0] not in ("detector", "training"):
                raise ValueError(f"{path}: only settings under detector and training can be changed")
            part = content
            for section in sections:
                part = part.setdefault(section, {})
            part[key] = value
        return Params.model_validate(content).model_copy(update={"study": self.study})


def _first(error: ValidationError) -> tuple[str, str]:
    """The key of the first thing that is wrong, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    silent = first["type"] in ("missing", "extra_forbidden") or not key  # the whole of the settings says nothing
    value = "" if silent else f", found {first['input']!r}"
    meaning = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(first["type"], first["msg"])
    meaning = meaning.removeprefix("Value error, ")  # pydantic's word before those of our own checks
    return key, f"{meaning}{value}"


def _explain(file: Path, error: ValidationError) -> str:
    key, reason = _first(error)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{file}: {key or '(whole file)'}: {reason}{more}".replace("\n", " ")


def _tuples(value: object) -> object:
    """YAML has lists only; strict settings take tuples, which cannot be changed by accident."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def load_params(path: Path | str) -> Params:
    """Read and check a params.yaml.

    Raises:
        InputError: as `read_yaml`; the message names the key's path, such as `training.learning_rate`.
    """
    return read_yaml(Path(path), Params, "settings")


def read_yaml(path: Path, model: type[Content], expected: str) -> Content:
    """Read a YAML file of keys and check it.

    Args:
        expected: what the file holds, for the message where it holds something else.

    Raises:
        InputError: no such file, no YAML, an unknown or missing key, a wrong type or an impossible value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: (whole file): {expected} expected, found {type(content).__name__}")
    try:
        return model.model_validate(_tuples(content))
    except ValidationError as error:
        raise InputError(_explain(path, error)) from None


def profile_file(name: str) -> Path:
    """Return the file of a profile (smoke, laptop, paper).

    Raises:
        InputError: no profile of that name.
    """
    known = sorted(file.stem for file in PROFILES.glob("*.yaml"))
    if name not in known:
        raise InputError(f"no profile named {name!r}; there are: {', '.join(known)}")
    return PROFILES / f"{name}.yaml"


def save_params(params: Params, path: Path | str) -> None:
    """Write settings as YAML that `load_params` reads back as the same settings."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def write_profile(name: str, target: Path | str) -> Path:
    """Copy a profile to `target` (params.yaml) and return the path."""
    text = profile_file(name).read_text(encoding="utf-8")
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(target)
