"""The sections of params.yaml that compare: cross-validation, study, objects, phase, detectors of other kinds."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cmbfe.settings import Count, Positive, Section, Share, Variant


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
PlainVariant = Annotated[Variant, AfterValidator(_without_fe)]
"""A detector without FE."""
Polarity = Literal["dark", "bright", "both"]
"""Of small objects, against their background."""
ArmName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class CrossValidation(Section):
    """A detector and its FE twin, trained and tested on each fold of the patients (paper: 10 folds)."""

    variants: tuple[Variant, ...] = ("ssd512", "ssd512-fe")
    folds: FromOne = (1, 2, 3)

    @field_validator("variants")
    @classmethod
    def _are_twins(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        if len(variants) != 2 or variants[1] != f"{variants[0]}-fe":
            raise ValueError("name a detector and then its FE twin, such as ssd512, ssd512-fe")
        return variants


class Arm(Section):
    """One comparison of the study: a detector and its FE twin, and what differs from the settings above."""

    variant: PlainVariant = "ssd300"
    """The detector without FE."""
    seeds: Count | None = None
    """Only the first so many of the study's seeds."""
    patients: Count | None = None
    """Training patients, one of the study's sizes."""
    settings: dict[str, str | int | float] = Field(default={})
    """Key path -> value, such as detector.fe.placement -> source; of the sections detector and training."""

    @property
    def changes_fe_only(self) -> bool:
        """Whether the detector without FE is the same as without the changes."""
        return self.patients is None and all(key.startswith("detector.fe.") for key in self.settings)

    @property
    def changes_nothing(self) -> bool:
        return self.patients is None and not self.settings


class PhaseStudy(Section):
    """Phase as a second channel: detectors of the study, trained on with phase and without (`make phase`)."""

    arm: str = "ssd300"
    """The arm of the study whose detector and FE twin are trained on."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """The first so many of the study's seeds."""
    test_patients: Annotated[int, Field(ge=2)] = 50
    """The first so many of the study's test patients."""
    iterations: Annotated[int, Field(ge=3)] = 450
    """Of the training that goes on; the last third at `training.gamma` times the rate."""
    learning_rate: Positive = 5e-4
    sensitivity: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Where false positives are counted: one that every detector reaches."""


class Study(Section):
    """SSD against SSD-FE over several seeds, and the open readings one at a time (`make study`)."""

    seeds: FromOne = (1, 2, 3, 4, 5)
    """A seed fixes the training patients, their augmentation, initial weights and order."""
    training_patients: Annotated[tuple[Count, ...], Field(min_length=1)] = (18,)
    """Sizes of the training sets of each seed, rising; the last is that of arms that name none."""
    test_patients: Count = 100
    detections_per_picture: Count = 10
    """The best of each picture are kept: the results of many trainings lie in git."""
    arms: dict[ArmName, Arm] = Field(default={"ssd512": Arm(variant="ssd512")})

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


class ObjectsArm(Section):
    """One generated data set of small objects."""

    polarity: Polarity
    difficulty: Share
    """0 is the easiest (`cmbfe.objects`)."""


class Objects(Section):
    """SSD against SSD-FE on generated small objects (`make objects`)."""

    seeds: FromOne = (1, 2, 3)
    """A seed fixes the training pictures, initial weights and order."""
    variant: PlainVariant = "ssd300"
    training_pictures: Count = 300
    test_pictures: Annotated[int, Field(ge=2)] = 300
    """The same for all trainings of an arm."""
    width: Annotated[float, Field(gt=0, le=1)] = 0.25
    """In the place of detector.width."""
    iterations: Annotated[int, Field(ge=2)] = 300
    """In the place of training.iterations; milestones are scaled alike, training.longer is not applied."""
    detections_per_picture: Count = 10
    arms: Annotated[dict[ArmName, ObjectsArm], Field(min_length=1)] = Field(
        default={"dark": ObjectsArm(polarity="dark", difficulty=0.4)}
    )


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
    """So many standard deviations below the mean of its window is dark."""


class Cascade(Section):
    """Fully convolutional network for candidates, then a network for these (Dou et al. 2016)."""

    screening_iterations: Count = 600
    classifier_iterations: Count = 800


class Baselines(Section):
    """Detectors of other kinds to compare with (Table 4)."""

    slice_mm: Positive = 2.0
    """Between the slices of a series, which labels do not hold."""
    candidates_per_picture: Count = 50
    radial_symmetry: RadialSymmetry = RadialSymmetry()
    thresholding: Thresholding = Thresholding()
    cascade: Cascade = Cascade()


class Others(Section):
    """FE in detectors that are not ours, and FE's relatives (`make others`), on patients and seeds of the study."""

    seeds: FromOne = (1, 2, 3)
    """Of the study's; each has training patients, augmentation, initial weights and order of its own."""
    test_patients: Count = 20
    """The first so many of the study's."""
    layer: Annotated[str, Field(min_length=1)] = "backbone"
    """Behind which FE or its relative stands, as in `model.named_modules()`."""
    learning_rate: Positive = 1.0e-3
    warm_up_iterations: Annotated[int, Field(ge=0)] = 20
    clip_gradient_norm: Positive | None = 10.0
    detectors: dict[str, Count] = Field(default={"fcos-small": 90}, min_length=1)
    """Detector -> iterations, for it and its twin."""
    relatives_of: str = "fcos-small"
    """The detector on which FE is compared with its relatives."""
    relatives: tuple[str, ...] = ("fe", "fading-fe", "assisted-excitation", "segmentation")
    """All of them take as many iterations as the detector without."""

    @model_validator(mode="after")
    def _relatives_are_compared_on_a_detector_that_is_trained(self) -> "Others":
        if self.relatives_of not in self.detectors:
            raise ValueError(f"relatives_of: {self.relatives_of!r} is none of the detectors")
        if "fe" not in self.relatives or "plain" in self.relatives:
            raise ValueError("relatives: name fe among them, and not plain, which is the detector without any")
        return self

    def relatives_on(self, detector: str) -> tuple[str, ...]:
        """What stands behind the layer in the trainings of a detector, beside nothing."""
        return self.relatives if detector == self.relatives_of else ("fe",)
