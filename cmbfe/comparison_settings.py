"""The sections of params.yaml that train a detector and its FE twin many times: cross-validation, study, phase."""

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from cmbfe.settings import Count, Positive, Section, Variant


def _numbered_from_1(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if len(numbers) < 2 or numbers != tuple(range(1, len(numbers) + 1)):
        raise ValueError("number two or more from 1, such as 1, 2, 3")
    return numbers


FromOne = Annotated[tuple[int, ...], AfterValidator(_numbered_from_1)]
"""Numbers of folds or seeds: 1, 2 and so on."""


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

    variant: Variant = "ssd300"
    """The detector without FE."""
    seeds: Count | None = None
    """Only the first so many of the study's seeds."""
    patients: Count | None = None
    """Training patients, one of the study's sizes."""
    settings: dict[str, str | int | float] = Field(default={})
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
    arms: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Arm] = Field(
        default={"ssd512": Arm(variant="ssd512")}
    )

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
