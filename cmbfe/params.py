"""The typed settings of params.yaml. Unknown keys, wrong types and impossible values raise errors that name the key."""

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cmbfe.errors import InputError
from cmbfe.files import whole_file, within_python

MOST = 10**9
"""Largest count that the settings accept. A run with a larger count would never end."""
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]
Name = Annotated[str, Field(min_length=1, max_length=60)]
"""A name that becomes part of file names, which may have 255 bytes."""
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Degrees = Annotated[float, Field(ge=-180, le=180)]
TurnedBox = Literal["corners", "ellipse"]
PlainVariant = Literal["ssd300", "ssd512", "mobilenet320", "resnet34-300"]
"""A detector without FE."""
Variant = Literal[PlainVariant, "ssd300-fe", "ssd512-fe", "mobilenet320-fe", "resnet34-300-fe"]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range rises: {pair[0]} is above {pair[1]}")
    return pair


def _each_larger(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if list(numbers) != sorted(set(numbers)):
        raise ValueError(f"numbers rise: {list(numbers)}")
    return numbers


MOST_LEVELS = 8


def _few_levels(iterations: tuple[int, ...]) -> tuple[int, ...]:
    if len(iterations) > MOST_LEVELS:
        reason = "each doubles the control points along a side, and beyond the field follows the anatomy"
        raise ValueError(f"{len(iterations)} levels of N4 are too many: give 1 to {MOST_LEVELS}; {reason}")
    return iterations


NotNegativeRange = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_rising)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
DegreesRange = Annotated[tuple[Degrees, Degrees], AfterValidator(_rising)]
Percentile = Annotated[float, Field(ge=0, le=100)]
PercentileRange = Annotated[tuple[Percentile, Percentile], AfterValidator(_rising)]
RisingCounts = Annotated[tuple[Count, ...], AfterValidator(_each_larger)]


class Section(BaseModel):
    # Strict: YAML reads 1e-4 as the text "1e-4", and text is not accepted as a number.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


PHANTOM = "cmbfe/phantom"


class Data(Section):
    """The source of the pipeline's images. DVC reads both keys: 01_data needs the phantom, own_data an import."""

    notebook: Literal["01_data", "own_data"] = "01_data"
    """The notebook that makes the images: 01_data simulates patients, own_data uses an import."""
    source: Annotated[str, Field(min_length=1)] = PHANTOM
    """The notebook's input: the phantom's code, or the folder of a `cmbfe import`, relative to the workspace."""

    @model_validator(mode="after")
    def _notebook_and_source_belong_together(self) -> "Data":
        if (self.notebook == "01_data") != (self.source == PHANTOM):
            hint = f"give 01_data and {PHANTOM}, or own_data and the folder of an import"
            raise ValueError(f"notebook {self.notebook} does not take source {self.source}: {hint}")
        return self


class Splits(Section):
    """A number for each split."""

    train: Count
    test: Count
    validation: Count

    @property
    def total(self) -> int:
        return self.train + self.test + self.validation


class ExactCounts(Section):
    """Counts that the simulated cohort must match exactly (paper section 2.2, Table 1)."""

    images: Count
    images_with_cmbs: Splits
    boxes: Splits


class Microbleeds(Section):
    """Number of visible microbleeds per patient: 0 in some; in the others log-normal, rounded, and at least 1."""

    free: Annotated[float, Field(ge=0, lt=1)]
    """Share of patients without microbleeds, rounded down in each split, so that a split's only patient has some."""
    median: Positive
    """Median number in patients with microbleeds."""
    spread: NotNegative
    """Standard deviation of the logarithm of the number in patients with microbleeds."""


class Readers(Section):
    """Simulated readers of the training images. What most of them mark is labelled (`cmbfe.phantom.readers`)."""

    number: Annotated[int, Field(ge=1, le=99)]
    misses: Annotated[float, Field(ge=0, lt=1)]
    """Mean share of the microbleeds that a reader misses, mostly small and faint microbleeds."""
    mimics: Annotated[float, Field(ge=0, lt=1)]
    """Mean share of the mimics that a reader takes for microbleeds, mostly mimics that look like a microbleed."""


class Phantom(Section):
    """The simulated cohort."""

    patients: Splits
    """The paper's Table 1 has 33, 17 and 8."""
    slices: Annotated[int, Field(ge=3, le=512)]
    matrix_px: Annotated[int, Field(ge=64, le=1024)]
    cmbs_per_patient: Microbleeds
    """Ignored with exact counts: each patient then has at least one microbleed, as in the paper's cohort."""
    box_margin_mm: Annotated[float, Field(ge=0, le=20)] = 1.5
    """Margin on each side of a box, rounded to whole px, because readers draw boxes larger than the dark dot."""
    readers: Readers | None = None
    """None: the training labels are the simulated ground truth."""
    exact: ExactCounts | None = None

    @model_validator(mode="after")
    def _exact_counts_fit_the_cohort(self) -> "Phantom":
        if self.exact is None:
            return self
        each = self.exact.images // self.patients.total
        if each != self.slices:
            counts = f"{self.exact.images} images of {self.patients.total} patients"
            raise ValueError(f"{counts} are {each} slices for each, but slices is {self.slices}")
        for split, patients in self.patients:
            shown, boxes = getattr(self.exact.images_with_cmbs, split), getattr(self.exact.boxes, split)
            if not patients <= shown <= min(boxes, patients * self.slices):
                raise ValueError(f"{boxes} boxes on {shown} images do not fit {patients} {split} patients")
        return self


class BiasCorrection(Section):
    """Settings of the 3-D N4 bias correction of each series (A18)."""

    shrink_factor: Annotated[int, Field(ge=1, le=16)]
    iterations: Annotated[
        tuple[Annotated[int, Field(ge=1, le=10_000)], ...], Field(min_length=1), AfterValidator(_few_levels)
    ]
    """Maximum number of iterations at each level of resolution, coarse to fine."""


class Images(Section):
    """Settings of the conversion from DICOM to 8-bit images (A17)."""

    format: Literal["jpg", "png"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    window_percentiles: PercentileRange
    bias_correction: BiasCorrection
    phase: bool = False
    """Whether images carry the filtered phase as a second channel (`cmbfe.data.conversion`)."""


class Augmentation(Section):
    """Augmentation of the training images (paper section 2.2, A16). Lengths in px are pixels of the image."""

    target_images: Count
    flip_probability: Share
    intensity_factor: PositiveRange
    blur_sigma_px: NotNegativeRange
    translation_px: NotNegative
    rotation_degrees: DegreesRange
    scale: PositiveRange
    minimum_visible_share: Share
    turned_box: TurnedBox = "corners"


class FeatureEnhancement(Section):
    """The FE layer (A1-A6) and its alternatives."""

    beta: Positive
    resize: Literal["bilinear", "area", "nearest", "max"]
    placement: Literal["trunk", "source", "both"]
    weighting: Literal["equation", "figure"]
    layer: Literal["enhancement", "assisted_excitation"] = "enhancement"
    behind: Annotated[str, Field(min_length=1)] = "backbone"
    """Name of the torchvision detector's layer that FE or its alternative follows, as in `model.named_modules()`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Strength of FE during training: constantly 1, or falling from 1 to 0 along half a cosine."""


class Weights(Section):
    """Initial weights of each trunk (A19): null (random), "imagenet" (download), "compressed" (in the package, for the
    widths in `cmbfe.detector.backbones.COMPRESSED_WIDTH`), or the path of a file."""

    vgg16: str | None
    mobilenet_v2: str | None
    resnet34: str | None


class Detector(Section):
    """Settings of the detectors (A10-A12)."""

    width: Annotated[float, Field(gt=0, le=1)]
    """Channels of the trunk, as a share of the paper's."""
    wider: dict[PlainVariant, Annotated[float, Field(ge=1)]] = {}
    """Factor on the width of a detector and its FE twin, up to a width of 1."""
    default_boxes: Literal["voc", "coco", "cmb"]
    l2_norm: bool = True
    """Whether VGG-16's first map is scaled to unit length for the heads, as in SSD. False only for tests of FE."""
    minimum_negatives: CountOrNone
    score_threshold: Share
    nms_threshold: Share
    detections_per_image: Count
    weights: Weights
    fe: FeatureEnhancement

    def width_of(self, variant: str) -> float:
        """The width of a variant, with its factor applied."""
        return min(1.0, self.width * self.wider.get(variant.removesuffix("-fe"), 1.0))


MOST_FROZEN = 3
"""Number of VGG-16's blocks before conv4_3, the first map of the heads."""


class Training(Section):
    """The training schedule (A7-A9) and its hardware."""

    batch: Count
    """Images per forward pass, over all processes together."""
    accumulate: Count = 1
    """Number of batches whose mean gradient makes one update. One update is one iteration."""
    iterations: Count
    learning_rate: Positive
    milestones: RisingCounts
    gamma: Annotated[float, Field(gt=0, le=1)]
    warm_up_iterations: CountOrNone = 0
    """Number of iterations over which the learning rate rises to its full value in equal steps."""
    frozen_blocks: Annotated[int, Field(ge=0, le=MOST_FROZEN)] = 0
    """Number of VGG-16's first blocks that are frozen: 2 freezes conv1 and conv2. Other trunks are never frozen."""
    clip_gradient_norm: Positive | None = None
    """Largest norm of the gradient over all weights. Larger gradients are scaled down to it."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """Precision of training; detection uses float32. auto (in no profile) is bf16 if the hardware multiplies bf16."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """CPU threads of all processes on a machine together. The trained weights depend on this number."""
    accelerator: Literal["auto", "cpu", "cuda"]
    devices: Count | Literal["auto"] = "auto"
    """Processes per machine."""
    nodes: Count | Literal["auto"] = "auto"
    """Number of machines."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Strategy of Lightning Fabric."""
    decoded_gib: NotNegative = 4.0
    """Image sets up to this size in GiB are decoded once, into a memory-mapped file; larger sets, for each batch."""
    checkpoint_every: Count
    validate_every: Count = 1000
    """Iterations between two measurements of the validation AP; the end is always measured."""
    longer: dict[PlainVariant, Annotated[float, Field(ge=1, le=100)]] = {}
    """Factor on iterations and milestones of a detector and its FE twin."""
    faster: dict[PlainVariant, Positive] = {}
    """Factor on the learning rate of a detector and its FE twin."""

    def of(self, variant: str) -> "Training":
        """The schedule of a variant, with its factors on iterations, milestones and learning rate applied."""
        plain = variant.removesuffix("-fe")
        rate = self.learning_rate * self.faster.get(plain, 1.0)
        return self.lengthened(self.longer.get(plain, 1.0)).model_copy(update={"learning_rate": rate})

    def lengthened(self, factor: float) -> "Training":
        """The schedule with iterations and milestones times `factor`."""
        milestones = tuple(round(milestone * factor) for milestone in self.milestones)
        return self.model_copy(update={"iterations": round(self.iterations * factor), "milestones": milestones})

    def scaled_to(self, iterations: int) -> "Training":
        """The schedule with exactly `iterations`, milestones scaled in proportion, and the factors `longer` removed."""
        scaled = {max(1, round(milestone * iterations / self.iterations)) for milestone in self.milestones}
        before_end = tuple(sorted(milestone for milestone in scaled if milestone < iterations))
        return self.model_copy(update={"iterations": iterations, "milestones": before_end, "longer": {}})

    @model_validator(mode="after")
    def _milestones_lie_before_the_end(self) -> "Training":
        if self.milestones and self.milestones[-1] >= self.iterations:
            raise ValueError(f"milestone {self.milestones[-1]} is not before the end at {self.iterations}")
        return self


class Evaluation(Section):
    """Settings of the metrics (A13-A15)."""

    iou: Annotated[float, Field(gt=0, le=1)]
    sensitivity: Annotated[float, Field(gt=0, le=1)]
    froc_x_max: Positive
    bootstrap_samples: Count


def _numbered_from_1(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if len(numbers) < 2 or numbers != tuple(range(1, len(numbers) + 1)):
        raise ValueError("number two or more from 1, such as 1, 2, 3")
    return numbers


def _without_fe(variant: str) -> str:
    if variant.endswith("-fe"):
        raise ValueError(f"name the detector without FE ({variant.removesuffix('-fe')}); its twin belongs to it")
    return variant


FromOne = Annotated[tuple[int, ...], AfterValidator(_numbered_from_1)]
"""Numbers of folds or seeds: 1, 2 and so on."""
PHASE = "phase"
"""Name of the arm with phase as a second channel."""
RESERVED = ("patients", "crossvalidation")
"""Parts of the study that are not arms, so that no arm can have these names."""
ArmName = Annotated[Name, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class CrossValidation(Section):
    """A detector trained and tested without and with FE on each fold of the patients (paper: 10 folds)."""

    detector: PlainVariant = "ssd512"
    folds: FromOne = (1, 2, 3)


class Arm(Section):
    """An arm of the study: a detector, its treatments, and its changes to the settings."""

    detector: Annotated[Name, Field(pattern=r"^[a-z0-9-]+$"), AfterValidator(_without_fe)] = "ssd300"
    """Name of a detector without FE, ours or torchvision's (`cmbfe.detector.torchvision_detectors`)."""
    treatments: Annotated[tuple[Name, ...], Field(min_length=1)] = ("fe",)
    """fe, an alternative to FE (`cmbfe.detector.alternatives`), phase (a second channel), or fe-phase (both)."""
    seeds: Annotated[int, Field(ge=2)] | None = None
    """The arm uses only the first `seeds` of the study's seeds; None for all."""
    patients: Count | None = None
    """Number of training patients, from the study's `training_patients`; None for the largest number."""
    test_patients: Count | None = None
    """The arm uses only the first `test_patients` of the study's test patients; None for all."""
    iterations: Count | None = None
    """Replaces training.iterations. Milestones are scaled by the same factor, and training.longer is ignored."""
    longer: Annotated[float, Field(ge=1, le=100)] = 1.0
    """Factor on iterations and milestones, beside training.longer: the study may train longer than `make repro`."""
    start: str | None = None
    """Arm of the same detector. Training starts from its weights for the same seed."""
    settings: dict[str, bool | str | int | float | tuple[int, ...]] = Field(default={})
    """Changed settings under detector and training: key path -> value, such as detector.fe.placement -> source."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the arm compares a detector with its FE twin under unchanged settings, but perhaps for longer."""
        return self.model_copy(update={"detector": Arm().detector, "seeds": None, "longer": 1.0}) == Arm()

    @property
    def changes_fe_only(self) -> bool:
        """Whether the arm changes only FE, so that it has the same plain detector as the unchanged arm."""
        is_of_fe = all(key.startswith("detector.fe.") for key in self.settings)
        return is_of_fe and self.model_copy(update={"settings": {}}).changes_nothing


class PhaseArm(Arm):
    """The arm with phase as a second channel, which the paper's section 4 names as future work."""

    sensitivity: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Sensitivity at which false positives are counted. Every detector reaches this sensitivity."""


class Study(Section):
    """The study (`make study`): arms for FE, single readings of the paper and other detectors, over several seeds."""

    seeds: FromOne = (1, 2, 3, 4, 5)
    """Each seed fixes the training patients, their augmentation, the initial weights and the order of the images."""
    training_patients: Annotated[RisingCounts, Field(min_length=1)] = (18,)
    """Sizes of each seed's training sets, in rising order. Arms that do not set `patients` use the last size."""
    test_patients: Count = 100
    detections_per_image: Count = 10
    """Number of best detections kept per image, small because git stores the results of many trainings."""
    arms: dict[ArmName, Arm] = Field(default={"ssd512": Arm(detector="ssd512")})
    phase: PhaseArm = PhaseArm(treatments=("phase",), start="ssd512", detector="ssd512")
    """The arm with phase, apart from the other arms because it starts from the weights of another arm."""

    @model_validator(mode="after")
    def _every_arm_can_be_run(self) -> "Study":
        for name, arm in self.every_arm.items():
            if name in RESERVED:
                raise ValueError(f"no arm can be named {name}: that part of the study is another one")
            if self.seeds_of(name)[-1] != (arm.seeds or len(self.seeds)):
                raise ValueError(f"{name}: seeds is {arm.seeds}; give 2 to {len(self.seeds)}")
            if arm.patients not in (None, *self.training_patients):
                known = ", ".join(map(str, self.training_patients))
                raise ValueError(f"{name}: patients is {arm.patients}; training_patients has {known}")
            if (arm.test_patients or 0) > self.test_patients:
                raise ValueError(f"{name}: test_patients is {arm.test_patients}; the study has {self.test_patients}")
            if arm.start is not None and arm.start not in self._covering(name):
                raise ValueError(f"{name}: start is {arm.start!r}; name an arm of {arm.detector} with as many seeds")
            self.plain_arm(name)
        return self

    def _covering(self, name: str) -> list[str]:
        """The arms with the same detector as arm `name` and at least as many seeds."""
        detector, seeds = self.every_arm[name].detector, len(self.seeds_of(name))
        same = [other for other, arm in self.arms.items() if arm.detector == detector]
        return [other for other in same if len(self.seeds_of(other)) >= seeds]

    @property
    def every_arm(self) -> dict[str, Arm]:
        """All arms by name, including `phase`."""
        return {**self.arms, PHASE: self.phase}

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds of an arm."""
        return self.seeds[: self.every_arm[name].seeds]

    def patients_of(self, name: str) -> int:
        """The number of training patients of an arm."""
        return self.every_arm[name].patients or self.training_patients[-1]

    def plain_arm(self, name: str) -> str:
        """The arm that trains the plain detector for `name`: the unchanged arm if `name` changes only FE, else `name`.

        Raises:
            ValueError: no unchanged arm has the same detector, as many seeds, and trains as long.
        """
        arm = self.every_arm[name]
        if arm.changes_nothing or not arm.changes_fe_only:
            return name
        as_long = [other for other in self._covering(name) if self.arms[other].longer == arm.longer]
        unchanged = [other for other in as_long if self.arms[other].changes_nothing]
        if not unchanged:
            needed = f"an arm of {arm.detector} without changes, as many seeds, and as long"
            raise ValueError(f"{name}: changes FE only, and needs {needed}")
        return unchanged[0]


class RadialSymmetry(Section):
    """Radial symmetry transform and random forest (Kuijf et al. 2012)."""

    radii_mm: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 3.0, 4.0)
    """Radii of the dark balls that the transform looks for."""
    trees: Count = 200


class Thresholding(Section):
    """Local statistical thresholding and support vector machine (Barnes et al. 2011)."""

    window_mm: Positive = 15.0
    """Side of the window whose mean and deviation set the threshold."""
    deviations: Positive = 2.0
    """A voxel this many standard deviations below the mean of its window is dark."""


class Cascade(Section):
    """Fully convolutional network for candidates, and a second network that classifies them (Dou et al. 2016)."""

    screening_iterations: Count = 600
    classifier_iterations: Count = 800


class Baselines(Section):
    """Settings of the baselines (Table 4)."""

    slice_mm: Positive = 2.0
    """Slice spacing for imports whose series.json does not give it."""
    candidates_per_image: Count = 50
    radial_symmetry: RadialSymmetry = RadialSymmetry()
    thresholding: Thresholding = Thresholding()
    cascade: Cascade = Cascade()


PROFILES = Path(__file__).resolve().parent / "profiles"
Content = TypeVar("Content", bound=BaseModel)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"a name occurs twice: {', '.join(names)}")
    return names


class Params(Section):
    """All settings of a run."""

    profile: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    detectors: Annotated[tuple[PlainVariant, ...], Field(min_length=1), AfterValidator(_distinct)]
    data: Data = Data()
    phantom: Phantom
    images: Images
    augmentation: Augmentation
    detector: Detector
    training: Training
    evaluation: Evaluation
    baselines: Baselines = Baselines()
    crossvalidation: CrossValidation = CrossValidation()
    study: Study = Study()

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of all variants: each detector without FE and with FE (suffix -fe)."""
        return tuple(f"{detector}{twin}" for detector in self.detectors for twin in ("", "-fe"))

    @model_validator(mode="after")
    def _arms_change_settings_that_exist(self) -> "Params":
        for name, arm in self.study.every_arm.items():
            if arm.settings:
                try:
                    self.changed(arm.settings)
                except ValidationError as error:
                    key, reason = _first(error)
                    raise ValueError(f"study.arms.{name}.settings: {key}: {reason}") from None
        return self

    def changed(self, settings: Mapping[str, str | int | float | tuple[int, ...]]) -> "Params":
        """These settings with values of the sections `detector` and `training` changed, by key path.

        Raises:
            ValueError: another section, an unknown key or an impossible value.
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


_shortened = reprlib.Repr()
_shortened.maxstring = 100


def _first(error: ValidationError) -> tuple[str, str]:
    """Key and description of the first unknown key or, if all keys are known, of the first error."""
    errors = error.errors(include_url=False)
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    key = ".".join(str(part) for part in first["loc"])
    silent = (
        first["type"] in ("missing", "extra_forbidden") or not key
    )  # the whole settings as a value would not help
    value = "" if silent else f", found {_shortened.repr(first['input'])}"
    meaning = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(first["type"], first["msg"])
    meaning = meaning.removeprefix("Value error, ")  # pydantic's prefix of messages from our own checks
    return key, f"{meaning}{value}"


def by_key_path(content: Mapping[str, object], above: str = "") -> dict[str, object]:
    """The values of nested sections by their key paths, such as training.learning_rate."""
    flat: dict[str, object] = {}
    for key, value in content.items():
        path = f"{above}{key}"
        flat |= by_key_path(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


def _tuples(value: object) -> object:
    """The value with tuples in place of lists: YAML has only lists, and strict settings accept only tuples."""
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
    """Read a YAML file and check it against `model`.

    Args:
        expected: what the file should contain, for the error message.

    Raises:
        InputError: the file is absent or not YAML; a key is unknown, missing or repeated; a value is impossible or has
            a wrong type; lists are nested too deep, or aliases expand to too many values.
    """
    with within_python(path):
        content = _tuples(_read(path))
    return checked(content, model, path, expected)


def checked(content: object, model: type[Content], path: Path, expected: str) -> Content:
    """The content of a file as a `model`. Raises `InputError` that names the first invalid key."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: (whole file): {expected} expected, found {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        key, reason = _first(error)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(f"{path}: {key or '(whole file)'}: {reason}{more}".replace("\n", " ")) from None


class _Loader(yaml.SafeLoader):
    """YAML loader that reads numbers as DVC does: 1:30 is text and not 90, and 010 is not 8.

    Dates are read as text too, because no setting is a date.
    """


_NUMBERS = {
    "float": r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)",
    "int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)",
}
_REPLACED = tuple(f"tag:yaml.org,2002:{kind}" for kind in (*_NUMBERS, "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in of_first if tag not in _REPLACED]
    for first, of_first in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list("-+.0123456789")
    )
MOST_VALUES = 100_000
"""Largest number of values in a settings file with its aliases expanded. Nested aliases can expand to billions."""


def _read(path: Path) -> object:
    """The content of a YAML file; raises `InputError` if the file is unreadable."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        if _values_in(node, {}) > MOST_VALUES:
            raise InputError(f"{path}: stands for more than {MOST_VALUES:,} values; give fewer, or fewer aliases (*)")
        return loader.construct_document(node)
    except OSError as error:
        hint = "; `cmbfe profile laptop` writes one" if path.name == "params.yaml" else ""
        raise InputError(f"{path}: cannot be read: {error.strerror}{hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise InputError(f"{path}: not YAML, correct it: {' '.join(str(error).split())}") from None


def _values_in(node: yaml.Node, counted: dict[yaml.Node, float]) -> float:
    """Number of values in a node with its aliases expanded; infinite for a node that contains itself.

    Raises:
        YAMLError: a key occurs twice, so that its first value would be lost.
    """
    if node not in counted:
        counted[node] = math.inf  # while it is being counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            _refuse_doubles([key for key, _ in node.value])
            parts = [part for pair in node.value for part in pair]
        counted[node] = 1 + sum(_values_in(part, counted) for part in parts)
    return counted[node]


def _refuse_doubles(keys: list[yaml.Node]) -> None:
    seen = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value[:60]!r} occurs twice", problem_mark=key.start_mark
                )
            seen.add(key.value)


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
    """Write settings as YAML that `load_params` reads back."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def write_profile(name: str, target: Path | str) -> Path:
    """Copy a profile to `target` (params.yaml) and return the path."""
    text = profile_file(name).read_text(encoding="utf-8")
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(target)
