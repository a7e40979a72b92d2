"""params.yaml as typed settings: unknown keys, wrong types and impossible values raise with the key's path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cmbfe.errors import InputError
from cmbfe.files import whole_file

PROFILES = Path(__file__).resolve().parent.parent / "profiles"

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Degrees = Annotated[float, Field(ge=-180, le=180)]
TurnedBox = Literal["corners", "ellipse"]
Variant = Literal[
    "ssd300",
    "ssd300-fe",
    "ssd512",
    "ssd512-fe",
    "mobilenet320",
    "mobilenet320-fe",
    "resnet34-300",
    "resnet34-300-fe",
]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range rises: {pair[0]} is above {pair[1]}")
    return pair


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"a name occurs twice: {', '.join(names)}")
    return names


NotNegativeRange = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_rising)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
DegreesRange = Annotated[tuple[Degrees, Degrees], AfterValidator(_rising)]
Percentile = Annotated[float, Field(ge=0, le=100)]
PercentileRange = Annotated[tuple[Percentile, Percentile], AfterValidator(_rising)]


class _Section(BaseModel):
    # Strict: the text "1e-4", which YAML reads from 1e-4, is an error and no number.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Splits(_Section):
    """A number for each split."""

    train: Count
    test: Count
    validation: Count

    @property
    def total(self) -> int:
        return self.train + self.test + self.validation


class Patients(Splits):
    """Patients in each split (paper Table 1: 33, 17, 8)."""


class ExactCounts(_Section):
    """Numbers that the cohort must have exactly (paper section 2.2, Table 1)."""

    pictures: Count
    pictures_with_cmbs: Splits
    boxes: Splits


class Phantom(_Section):
    """The simulated cohort."""

    patients: Patients
    slices: Annotated[int, Field(ge=3, le=512)]
    matrix_px: Annotated[int, Field(ge=64, le=1024)]
    cmbs_per_patient: Positive
    exact: ExactCounts | None = None

    @model_validator(mode="after")
    def _exact_counts_fit_the_cohort(self) -> "Phantom":
        if self.exact is None:
            return self
        each = self.exact.pictures // self.patients.total
        if each != self.slices:
            raise ValueError(
                f"{self.exact.pictures} pictures of {self.patients.total} patients are {each} slices for each, "
                f"but slices is {self.slices}"
            )
        for split, patients in self.patients:
            shown, boxes = getattr(self.exact.pictures_with_cmbs, split), getattr(self.exact.boxes, split)
            if not patients <= shown <= min(boxes, patients * self.slices):
                raise ValueError(f"{boxes} boxes on {shown} pictures do not fit {patients} {split} patients")
        return self


class BiasCorrection(_Section):
    """N4 in 3-D, per series (A18)."""

    shrink_factor: Annotated[int, Field(ge=1, le=16)]
    iterations: Annotated[tuple[Count, ...], Field(min_length=1)]


class Pictures(_Section):
    """From DICOM to 8 bit (A17)."""

    format: Literal["jpg", "png"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    window_percentiles: PercentileRange
    bias_correction: BiasCorrection


class Augmentation(_Section):
    """Paper section 2.2, A16; px are px of the picture."""

    target_pictures: Count
    flip_probability: Share
    intensity_factor: PositiveRange
    blur_sigma_px: NotNegativeRange
    translation_px: NotNegative
    rotation_degrees: DegreesRange
    scale: PositiveRange
    minimum_visible_share: Share
    turned_box: TurnedBox = "corners"


class FeatureEnhancement(_Section):
    """The FE layer (A1-A6), and what it is compared with."""

    beta: Positive
    resize: Literal["bilinear", "area", "nearest", "max"]
    placement: Literal["trunk", "source", "both"]
    weighting: Literal["equation", "figure"]
    layer: Literal["enhancement", "assisted_excitation"] = "enhancement"
    schedule: Literal["constant", "cosine"] = "constant"
    """Strength over a training: 1 throughout, or along half a cosine from 1 to 0."""


class Weights(_Section):
    """Initial weights of each trunk: null (fresh), "imagenet" (download), or the path of a file (A19)."""

    vgg16: str | None
    mobilenet_v2: str | None
    resnet34: str | None


class Detector(_Section):
    """What is built (A10-A12)."""

    width: Annotated[float, Field(gt=0, le=1)]
    default_boxes: Literal["voc", "coco", "cmb"]
    minimum_negatives: Annotated[int, Field(ge=0)]
    score_threshold: Share
    nms_threshold: Share
    detections_per_picture: Count
    weights: Weights
    fe: FeatureEnhancement


class Training(_Section):
    """The schedule (A7-A9), and where it runs."""

    batch: Count
    """Pictures per forward pass, over all processes together."""
    accumulate: Count = 1
    """Batches whose mean gradient makes one update, which is one iteration."""
    iterations: Count
    learning_rate: Positive
    milestones: tuple[Count, ...]
    gamma: Annotated[float, Field(gt=0, le=1)]
    warm_up_iterations: Annotated[int, Field(ge=0)] = 0
    """Iterations over which the learning rate rises, in equal steps, to its value."""
    clip_gradient_norm: Positive | None = None
    """Largest norm of the gradient over all weights; longer ones are scaled down to it."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    accelerator: Literal["auto", "cpu", "cuda"]
    devices: Count | Literal["auto"] = "auto"
    """Processes per machine."""
    nodes: Count | Literal["auto"] = "auto"
    """Machines."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Lightning Fabric's."""
    decoded_gib: NotNegative = 4.0
    """Pictures are decoded once to a memory-mapped file if they take no more than this, GiB; else for each batch."""
    checkpoint_every: Count
    validate_every: Count = 1000
    """Iterations between two measurements of the validation AP; the end is always measured."""
    longer: dict[str, Annotated[float, Field(ge=1, le=100)]] = {}
    """Detector without FE -> factor on iterations and milestones, for it and its twin."""

    @field_validator("longer")
    @classmethod
    def _names_detectors(cls, factors: dict[str, float]) -> dict[str, float]:
        known = [name for name in get_args(Variant) if not name.endswith("-fe")]
        if unknown := set(factors) - set(known):
            raise ValueError(f"{sorted(unknown)[0]!r} is no detector without FE; there are: {', '.join(known)}")
        return factors

    def of(self, variant: str) -> "Training":
        """The schedule of one variant: iterations and milestones times its factor in `longer`."""
        factor = self.longer.get(variant.removesuffix("-fe"), 1.0)
        times = {"iterations": round(self.iterations * factor)}
        times["milestones"] = tuple(round(milestone * factor) for milestone in self.milestones)
        return self.model_copy(update=times)

    @model_validator(mode="after")
    def _milestones_rise_to_the_end(self) -> "Training":
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones rise: {list(self.milestones)}")
        if self.milestones and self.milestones[-1] >= self.iterations:
            raise ValueError(f"milestone {self.milestones[-1]} is not before the end at {self.iterations}")
        return self


class Evaluation(_Section):
    """A13-A15."""

    iou: Annotated[float, Field(gt=0, le=1)]
    sensitivity: Annotated[float, Field(gt=0, le=1)]
    froc_x_max: Positive
    bootstrap_samples: Count


class CrossValidation(_Section):
    """A detector and its FE twin, trained and tested on each fold of the patients (paper: 10 folds)."""

    variants: tuple[Variant, ...] = ("ssd512", "ssd512-fe")
    folds: tuple[int, ...] = (1, 2, 3)
    """Their numbers: 1, 2 and so on."""

    @field_validator("variants")
    @classmethod
    def _are_twins(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        if len(variants) != 2 or variants[1] != f"{variants[0]}-fe":
            raise ValueError("name a detector and then its FE twin, such as ssd512, ssd512-fe")
        return variants

    @field_validator("folds")
    @classmethod
    def _are_numbered_from_1(cls, folds: tuple[int, ...]) -> tuple[int, ...]:
        if len(folds) < 2 or folds != tuple(range(1, len(folds) + 1)):
            raise ValueError("number two folds or more from 1, such as 1, 2, 3")
        return folds


class Arm(_Section):
    """One comparison of the study: a detector and its FE twin, and what differs from the settings above."""

    variant: Variant = "ssd300"
    """The detector without FE."""
    seeds: Count | None = None
    """Only the first so many of the study's seeds."""
    patients: Count | None = None
    """Training patients, one of the study's sizes."""
    settings: dict[str, str | int | float] = {}
    """Key path -> value, such as detector.fe.placement -> source; of the sections detector and training."""

    @field_validator("variant")
    @classmethod
    def _is_plain(cls, variant: str) -> str:
        if variant.endswith("-fe"):
            raise ValueError(f"name the detector without FE ({variant.removesuffix('-fe')}); its twin belongs to it")
        return variant

    @property
    def changes_fe_only(self) -> bool:
        """Whether the detector without FE is the same as without the changes."""
        return self.patients is None and all(key.startswith("detector.fe.") for key in self.settings)

    @property
    def changes_nothing(self) -> bool:
        return self.patients is None and not self.settings


class Study(_Section):
    """SSD against SSD-FE over several seeds, and the open readings one at a time (`make study`)."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Numbered from 1. A seed fixes the training patients, their augmentation, initial weights and order."""
    training_patients: Annotated[tuple[Count, ...], Field(min_length=1)] = (18,)
    """Sizes of the training sets of each seed, rising; the last is that of arms that name none."""
    test_patients: Count = 100
    detections_per_picture: Count = 10
    """The best of each picture are kept: the results of many trainings lie in git."""
    arms: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Arm] = {"ssd512": Arm(variant="ssd512")}

    @field_validator("seeds")
    @classmethod
    def _are_numbered_from_1(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(seeds) < 2 or seeds != tuple(range(1, len(seeds) + 1)):
            raise ValueError("number two seeds or more from 1, such as 1, 2, 3")
        return seeds

    @field_validator("training_patients")
    @classmethod
    def _sizes_rise(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError(f"sizes rise: {list(sizes)}")
        return sizes

    @model_validator(mode="after")
    def _every_arm_can_be_run(self) -> "Study":
        for name, arm in self.arms.items():
            if name == "patients":
                raise ValueError("no arm can be named patients: that part of the study makes them")
            if (arm.seeds or 2) < 2 or self.seeds_of(name)[-1] != (arm.seeds or len(self.seeds)):
                raise ValueError(f"{name}: seeds is {arm.seeds}; give 2 to {len(self.seeds)}")
            if arm.patients not in (None, *self.training_patients):
                known = ", ".join(map(str, self.training_patients))
                raise ValueError(f"{name}: patients is {arm.patients}; training_patients has {known}")
            self.arm_without_fe(name)
        return self

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds of an arm."""
        return self.seeds[: self.arms[name].seeds]

    def patients_of(self, name: str) -> int:
        """The training patients of an arm."""
        return self.arms[name].patients or self.training_patients[-1]

    def arm_without_fe(self, name: str) -> str:
        """The arm whose detector without FE an arm is compared with: itself or, if it changes FE only, the plain one.

        Raises:
            ValueError: no arm of that detector without changes, over as many seeds.
        """
        arm = self.arms[name]
        if arm.changes_nothing or not arm.changes_fe_only:
            return name
        for other, plain in self.arms.items():
            enough = len(self.seeds_of(other)) >= len(self.seeds_of(name))
            if plain.changes_nothing and plain.variant == arm.variant and enough:
                return other
        raise ValueError(
            f"{name}: changes FE only, and needs an arm of {arm.variant} without changes and as many seeds"
        )

    def variants_of(self, name: str) -> tuple[str, ...]:
        """The detectors that an arm trains: both twins, or the one with FE where it changes FE only."""
        plain = self.arms[name].variant
        return (plain, f"{plain}-fe") if self.arm_without_fe(name) == name else (f"{plain}-fe",)


class Params(_Section):
    """All settings of a run."""

    profile: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1), AfterValidator(_distinct)]
    phantom: Phantom
    pictures: Pictures
    augmentation: Augmentation
    detector: Detector
    training: Training
    evaluation: Evaluation
    crossvalidation: CrossValidation = CrossValidation()
    study: Study = Study()

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
        InputError: no such file, no YAML, an unknown or missing key, a wrong type or an impossible value; the
            message names the key's path, such as `training.learning_rate`.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: (whole file): settings expected, found {type(content).__name__}")
    try:
        return Params.model_validate(_tuples(content))
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
