"""params.yaml as typed settings: unknown keys, wrong types and impossible values raise with the key's path."""

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
"""Of anything that is counted: beyond, nothing would ever end."""
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]
Name = Annotated[str, Field(min_length=1, max_length=60)]
"""Becomes a part of file names, of which systems take 255 bytes."""
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
    # Strict: the text "1e-4", which YAML reads from 1e-4, is an error and no number.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


PHANTOM = "cmbfe/phantom"


class Data(Section):
    """Whose images the pipeline takes: DVC reads both keys, which belong together."""

    notebook: Literal["01_data", "own_data"] = "01_data"
    """What makes the images: 01_data simulates patients, own_data takes an import."""
    source: Annotated[str, Field(min_length=1)] = PHANTOM
    """What the notebook depends on: the phantom's code, or the folder that `cmbfe import` has made, from the root."""

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
    """Numbers that the cohort must have exactly (paper section 2.2, Table 1)."""

    images: Count
    images_with_cmbs: Splits
    boxes: Splits


class Microbleeds(Section):
    """How many microbleeds are visible in a patient: none in some, else log-normal numbers, rounded, at least one."""

    free: Annotated[float, Field(ge=0, lt=1)]
    """Share of patients without any, rounded down in each split: a lone patient has some."""
    median: Positive
    """Of the others."""
    spread: NotNegative
    """Standard deviation of the logarithm."""


class Readers(Section):
    """Readers of the training images, whose majority makes the labels (`cmbfe.phantom.readers`)."""

    number: Annotated[int, Field(ge=1, le=99)]
    misses: Annotated[float, Field(ge=0, lt=1)]
    """Mean share of the microbleeds that a reader misses: rather the small and faint ones."""
    mimics: Annotated[float, Field(ge=0, lt=1)]
    """Mean share of the mimics that a reader takes for microbleeds: rather those that look like one."""


class Phantom(Section):
    """The simulated cohort."""

    patients: Splits
    """The paper's Table 1 has 33, 17 and 8."""
    slices: Annotated[int, Field(ge=3, le=512)]
    matrix_px: Annotated[int, Field(ge=64, le=1024)]
    cmbs_per_patient: Microbleeds
    """Does not apply to exact counts: as in the paper's cohort, each patient then has at least one."""
    box_margin_mm: Annotated[float, Field(ge=0, le=20)] = 1.5
    """On each side of a box, rounded to whole px: a reader draws around a dot, and leaves some of what is bright."""
    readers: Readers | None = None
    """None: the truth is known, and is what the training labels say."""
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
    """N4 in 3-D, per series (A18)."""

    shrink_factor: Annotated[int, Field(ge=1, le=16)]
    iterations: Annotated[
        tuple[Annotated[int, Field(ge=1, le=10_000)], ...], Field(min_length=1), AfterValidator(_few_levels)
    ]
    """The most at each level of resolution, coarse to fine."""


class Images(Section):
    """From DICOM to 8 bit (A17)."""

    format: Literal["jpg", "png"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    window_percentiles: PercentileRange
    bias_correction: BiasCorrection
    phase: bool = False
    """Whether images carry the filtered phase as a second channel (`cmbfe.data.conversion`)."""


class Augmentation(Section):
    """Paper section 2.2, A16; px are px of the image."""

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
    """The FE layer (A1-A6), and what it is compared with."""

    beta: Positive
    resize: Literal["bilinear", "area", "nearest", "max"]
    placement: Literal["trunk", "source", "both"]
    weighting: Literal["equation", "figure"]
    layer: Literal["enhancement", "assisted_excitation"] = "enhancement"
    behind: Annotated[str, Field(min_length=1)] = "backbone"
    """The layer of a torchvision detector behind which FE or an alternative stands, as in `model.named_modules()`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Strength over a training: 1 throughout, or along half a cosine from 1 to 0."""


class Weights(Section):
    """Initial weights of each trunk: null (fresh), "imagenet" (download), "compressed" (of the package, for a quarter
    of the channels), or the path of a file (A19)."""

    vgg16: str | None
    mobilenet_v2: str | None
    resnet34: str | None


class Detector(Section):
    """What is built (A10-A12)."""

    width: Annotated[float, Field(gt=0, le=1)]
    default_boxes: Literal["voc", "coco", "cmb"]
    l2_norm: bool = True
    """VGG-16's first map is scaled to unit length for the heads, as SSD does; False only to see what FE does then."""
    minimum_negatives: CountOrNone
    score_threshold: Share
    nms_threshold: Share
    detections_per_image: Count
    weights: Weights
    fe: FeatureEnhancement


MOST_FROZEN = 3
"""Blocks of VGG-16 that end before conv4_3, the first map of the heads."""


class Training(Section):
    """The schedule (A7-A9), and where it runs."""

    batch: Count
    """Images per forward pass, over all processes together."""
    accumulate: Count = 1
    """Batches whose mean gradient makes one update, which is one iteration."""
    iterations: Count
    learning_rate: Positive
    milestones: RisingCounts
    gamma: Annotated[float, Field(gt=0, le=1)]
    warm_up_iterations: CountOrNone = 0
    """Iterations over which the learning rate rises, in equal steps, to its value."""
    frozen_blocks: Annotated[int, Field(ge=0, le=MOST_FROZEN)] = 0
    """VGG-16's first so many blocks keep their weights: 2 are conv1 and conv2. The other trunks train whole."""
    clip_gradient_norm: Positive | None = None
    """Largest norm of the gradient over all weights; longer ones are scaled down to it."""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    """Of training; detections are float32 always. auto, which no profile has: bf16 where the hardware multiplies it."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """Of the CPU, for all processes on a machine together; another number gives other last bits, and other weights."""
    accelerator: Literal["auto", "cpu", "cuda"]
    devices: Count | Literal["auto"] = "auto"
    """Processes per machine."""
    nodes: Count | Literal["auto"] = "auto"
    """Machines."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Lightning Fabric's."""
    decoded_gib: NotNegative = 4.0
    """Images are decoded once to a memory-mapped file if they take no more than this, GiB; else for each batch."""
    checkpoint_every: Count
    validate_every: Count = 1000
    """Iterations between two measurements of the validation AP; the end is always measured."""
    longer: dict[PlainVariant, Annotated[float, Field(ge=1, le=100)]] = {}
    """Factor on iterations and milestones of a detector and its twin."""
    faster: dict[PlainVariant, Positive] = {}
    """Factor on the learning rate of a detector and its twin."""

    def of(self, variant: str) -> "Training":
        """The schedule of one variant: iterations, milestones and learning rate times its factors."""
        plain = variant.removesuffix("-fe")
        factor, times = (
            self.longer.get(plain, 1.0),
            {"learning_rate": self.learning_rate * self.faster.get(plain, 1.0)},
        )
        times["iterations"] = round(self.iterations * factor)
        times["milestones"] = tuple(round(milestone * factor) for milestone in self.milestones)
        return self.model_copy(update=times)

    def scaled_to(self, iterations: int) -> "Training":
        """The schedule with exactly so many iterations, milestones where they fall now; `longer` no longer applies."""
        scaled = {max(1, round(milestone * iterations / self.iterations)) for milestone in self.milestones}
        before_end = tuple(sorted(milestone for milestone in scaled if milestone < iterations))
        return self.model_copy(update={"iterations": iterations, "milestones": before_end, "longer": {}})

    @model_validator(mode="after")
    def _milestones_lie_before_the_end(self) -> "Training":
        if self.milestones and self.milestones[-1] >= self.iterations:
            raise ValueError(f"milestone {self.milestones[-1]} is not before the end at {self.iterations}")
        return self


class Evaluation(Section):
    """A13-A15."""

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
"""Parts of the study that are no arms."""
ArmName = Annotated[Name, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class CrossValidation(Section):
    """A detector, without FE and with it, trained and tested on each fold of the patients (paper: 10 folds)."""

    detector: PlainVariant = "ssd512"
    folds: FromOne = (1, 2, 3)


class Arm(Section):
    """A detector, plain and under each treatment, and what differs from the settings."""

    detector: Annotated[Name, Field(pattern=r"^[a-z0-9-]+$"), AfterValidator(_without_fe)] = "ssd300"
    """Without FE: one of ours, or of torchvision's (`cmbfe.detector.torchvision_detectors`)."""
    treatments: Annotated[tuple[Name, ...], Field(min_length=1)] = ("fe",)
    """fe, an alternative of FE (`cmbfe.detector.alternatives`), phase as a second channel, or fe-phase, both."""
    seeds: Annotated[int, Field(ge=2)] | None = None
    """Only the first so many of the study's seeds."""
    patients: Count | None = None
    """Training patients, one of the study's sizes."""
    test_patients: Count | None = None
    """Test only on the first of the study's test patients, this many."""
    iterations: Count | None = None
    """In the place of training.iterations; milestones are scaled alike, and training.longer does not apply."""
    start: str | None = None
    """Arm of the same detector whose weights of the same seed the training starts from."""
    settings: dict[str, bool | str | int | float | tuple[int, ...]] = Field(default={})
    """Key path -> value, such as detector.fe.placement -> source; of the sections detector and training."""

    @property
    def changes_nothing(self) -> bool:
        """Whether the arm is a detector and its FE twin as the settings have them."""
        return self.model_copy(update={"detector": Arm().detector, "seeds": None}) == Arm()

    @property
    def changes_fe_only(self) -> bool:
        """Whether the plain detector is that of the arm that changes nothing."""
        is_of_fe = all(key.startswith("detector.fe.") for key in self.settings)
        return is_of_fe and self.model_copy(update={"settings": {}}).changes_nothing


class PhaseArm(Arm):
    """Phase as a second channel (the paper's section 4 names it as future work)."""

    sensitivity: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Sensitivity at which false positives are counted; every detector reaches it."""


class Study(Section):
    """Arms times seeds: FE against none, the open readings one at a time, other detectors (`make study`)."""

    seeds: FromOne = (1, 2, 3, 4, 5)
    """A seed fixes the training patients, their augmentation, initial weights and order."""
    training_patients: Annotated[RisingCounts, Field(min_length=1)] = (18,)
    """Sizes of the training sets of each seed, rising; the last is that of arms that name none."""
    test_patients: Count = 100
    detections_per_image: Count = 10
    """Only the best detections of each image are kept, because the results of many trainings are in git."""
    arms: dict[ArmName, Arm] = Field(default={"ssd512": Arm(detector="ssd512")})
    phase: PhaseArm = PhaseArm(treatments=("phase",), start="ssd512", detector="ssd512")
    """An arm of its own, as it starts from the weights of another one."""

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
        """The arms of the same detector that have at least as many seeds."""
        detector, seeds = self.every_arm[name].detector, len(self.seeds_of(name))
        same = [other for other, arm in self.arms.items() if arm.detector == detector]
        return [other for other in same if len(self.seeds_of(other)) >= seeds]

    @property
    def every_arm(self) -> dict[str, Arm]:
        """The arms by name, `phase` among them."""
        return {**self.arms, PHASE: self.phase}

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds of an arm."""
        return self.seeds[: self.every_arm[name].seeds]

    def patients_of(self, name: str) -> int:
        """The training patients of an arm."""
        return self.every_arm[name].patients or self.training_patients[-1]

    def plain_arm(self, name: str) -> str:
        """The arm whose plain detector an arm is compared with: its own or, if it changes FE only, the unchanged one.

        Raises:
            ValueError: no arm of that detector without changes, over as many seeds.
        """
        arm = self.every_arm[name]
        if arm.changes_nothing or not arm.changes_fe_only:
            return name
        unchanged = [other for other in self._covering(name) if self.arms[other].changes_nothing]
        if not unchanged:
            needed = f"an arm of {arm.detector} without changes and as many seeds"
            raise ValueError(f"{name}: changes FE only, and needs {needed}")
        return unchanged[0]


class RadialSymmetry(Section):
    """Radial symmetry transform and random forest (Kuijf et al. 2012)."""

    radii_mm: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 3.0, 4.0)
    """Of the dark balls that are looked for."""
    trees: Count = 200


class Thresholding(Section):
    """Local statistical thresholding and support vector machine (Barnes et al. 2011)."""

    window_mm: Positive = 15.0
    """Side of the window whose mean and deviation set the threshold."""
    deviations: Positive = 2.0
    """A voxel this many standard deviations below the mean of its window is dark."""


class Cascade(Section):
    """Fully convolutional network for candidates, then a network for these (Dou et al. 2016)."""

    screening_iterations: Count = 600
    classifier_iterations: Count = 800


class Baselines(Section):
    """The baselines (Table 4)."""

    slice_mm: Positive = 2.0
    """Between slices, where series.json of an import does not say it."""
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
        """Each detector without and with FE."""
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


_shortened = reprlib.Repr()
_shortened.maxstring = 100


def _first(error: ValidationError) -> tuple[str, str]:
    """The key of the first thing that is wrong, an unknown key before a missing one, and what is wrong with it."""
    errors = error.errors(include_url=False)
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    key = ".".join(str(part) for part in first["loc"])
    silent = first["type"] in ("missing", "extra_forbidden") or not key  # the whole of the settings says nothing
    value = "" if silent else f", found {_shortened.repr(first['input'])}"
    meaning = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(first["type"], first["msg"])
    meaning = meaning.removeprefix("Value error, ")  # pydantic's word before those of our own checks
    return key, f"{meaning}{value}"


def by_key_path(content: Mapping[str, object], above: str = "") -> dict[str, object]:
    """The values of nested sections by their key paths, such as training.learning_rate."""
    flat: dict[str, object] = {}
    for key, value in content.items():
        path = f"{above}{key}"
        flat |= by_key_path(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat


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
        InputError: no such file, no YAML, an unknown or missing key, one that occurs twice, a wrong type, an
            impossible value, lists that lie too deep in each other, or aliases that stand for too much.
    """
    with within_python(path):
        content = _tuples(_read(path))
    return checked(content, model, path, expected)


def checked(content: object, model: type[Content], path: Path, expected: str) -> Content:
    """The content of a file of keys as `model` has it; raises `InputError`, which names the first key that is wrong."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: (whole file): {expected} expected, found {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        key, reason = _first(error)
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InputError(f"{path}: {key or '(whole file)'}: {reason}{more}".replace("\n", " ")) from None


class _Loader(yaml.SafeLoader):
    """YAML whose plain numbers are decimal ones, as DVC reads them: 1:30 is a text and not 90, 010 is not 8.

    What looks like a date is a text too: no setting is a date.
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
"""In a file of settings, aliases written out: a few lines of aliases of aliases can stand for billions."""


def _read(path: Path) -> object:
    """The content of a YAML file; `InputError` where there is none."""
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
    """How many values a node has, aliases written out; infinitely many if it is one of its own.

    Raises:
        YAMLError: a key that occurs twice, of which the first would be lost.
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
