"""The sections of params.yaml as types: unknown keys, wrong types and impossible values are refused."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

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


NotNegativeRange = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_rising)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
DegreesRange = Annotated[tuple[Degrees, Degrees], AfterValidator(_rising)]
Percentile = Annotated[float, Field(ge=0, le=100)]
PercentileRange = Annotated[tuple[Percentile, Percentile], AfterValidator(_rising)]


class Section(BaseModel):
    # Strict: the text "1e-4", which YAML reads from 1e-4, is an error and no number.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


PHANTOM = "cmbfe/data/phantom.py"


class Data(Section):
    """Whose pictures the pipeline takes: DVC reads both keys, which belong together."""

    notebook: Literal["01_data", "01_own_data"] = "01_data"
    """What makes the pictures: 01_data simulates patients, 01_own_data takes an import."""
    source: Annotated[str, Field(min_length=1)] = PHANTOM
    """What the notebook depends on: the phantom's code, or the folder that `cmbfe import` has made, from the root."""

    @model_validator(mode="after")
    def _notebook_and_source_belong_together(self) -> "Data":
        if (self.notebook == "01_data") != (self.source == PHANTOM):
            raise ValueError(
                f"notebook {self.notebook} does not take source {self.source}: give 01_data and {PHANTOM}, or "
                "01_own_data and the folder of an import"
            )
        return self


class Splits(Section):
    """A number for each split."""

    train: Count
    test: Count
    validation: Count

    @property
    def total(self) -> int:
        return self.train + self.test + self.validation


class Patients(Splits):
    """Patients in each split (paper Table 1: 33, 17, 8)."""


class ExactCounts(Section):
    """Numbers that the cohort must have exactly (paper section 2.2, Table 1)."""

    pictures: Count
    pictures_with_cmbs: Splits
    boxes: Splits


class Phantom(Section):
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


class BiasCorrection(Section):
    """N4 in 3-D, per series (A18)."""

    shrink_factor: Annotated[int, Field(ge=1, le=16)]
    iterations: Annotated[tuple[Count, ...], Field(min_length=1)]


class Pictures(Section):
    """From DICOM to 8 bit (A17)."""

    format: Literal["jpg", "png"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    window_percentiles: PercentileRange
    bias_correction: BiasCorrection
    phase: bool = False
    """Whether pictures carry the filtered phase as a second channel (`cmbfe.data.phase`)."""


class Augmentation(Section):
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


class FeatureEnhancement(Section):
    """The FE layer (A1-A6), and what it is compared with."""

    beta: Positive
    resize: Literal["bilinear", "area", "nearest", "max"]
    placement: Literal["trunk", "source", "both"]
    weighting: Literal["equation", "figure"]
    layer: Literal["enhancement", "assisted_excitation"] = "enhancement"
    schedule: Literal["constant", "cosine"] = "constant"
    """Strength over a training: 1 throughout, or along half a cosine from 1 to 0."""


class Weights(Section):
    """Initial weights of each trunk: null (fresh), "imagenet" (download), or the path of a file (A19)."""

    vgg16: str | None
    mobilenet_v2: str | None
    resnet34: str | None


class Detector(Section):
    """What is built (A10-A12)."""

    width: Annotated[float, Field(gt=0, le=1)]
    default_boxes: Literal["voc", "coco", "cmb"]
    minimum_negatives: Annotated[int, Field(ge=0)]
    score_threshold: Share
    nms_threshold: Share
    detections_per_picture: Count
    weights: Weights
    fe: FeatureEnhancement


class Training(Section):
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


class Evaluation(Section):
    """A13-A15."""

    iou: Annotated[float, Field(gt=0, le=1)]
    sensitivity: Annotated[float, Field(gt=0, le=1)]
    froc_x_max: Positive
    bootstrap_samples: Count
