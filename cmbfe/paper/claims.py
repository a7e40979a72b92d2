"""What the paper claims, sets, shows and leaves open (A1 to A20): paper.yaml, as objects for the map of the paper.

Each entry says where the replication keeps its own value: a key path of params.yaml, a constant of the code, or a cell
of a table in results/tables. Of an open point the first reading is the literal or likeliest, as in the profile `paper`.
"""

from typing import NamedTuple

from pydantic import BaseModel

from cmbfe.paper.facts import PAPER


class Setting(NamedTuple):
    """A value that the paper sets."""

    section: str
    what: str
    printed: int | float | str | tuple[float, ...]
    key: str  # of params.yaml, or of `cmbfe.paper.paper_map.known_values`
    notebook: str
    is_px: bool = False
    """Whether it is in px of an image `IMAGE_PX` wide: ours is then compared at the width of ours."""


class Cell(NamedTuple):
    """A cell of results/tables/<table>.csv, by the first column's value and the column's name."""

    table: str
    row: str
    column: str


class Claim(NamedTuple):
    """A difference that the paper claims between FE and no FE."""

    section: str
    what: str
    ours: Cell
    notebook: str
    printed: tuple[float, float] | None = None  # with FE and without
    better: int = 1  # 1 where more is better, -1 where less is


class Value(NamedTuple):
    """A number with its name, the paper's where it prints one."""

    name: str
    ours: Cell
    printed: float | None = None


class Exhibit(NamedTuple):
    """A table or figure of the paper."""

    name: str
    what: str
    notebook: str
    values: tuple[Value, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """In results/."""
        kind, number = self.name.split()
        if kind == "Table":
            return (f"tables/table{number}.csv",)
        return (f"figures/fig{number}.png",)


class OpenPoint(NamedTuple):
    """One thing that the paper does not say, or says in two ways."""

    name: str
    question: str
    readings: tuple[str, ...]  # ours first
    keys: tuple[str, ...] = ()
    """Of params.yaml or `cmbfe.paper.paper_map.known_values`; an arm of the study that changes one measures it."""
    code: str = ""  # where it is stated, if it is no setting
    measured: tuple[Value, ...] = ()  # values that say what a reading does, besides the study


class _Paper(BaseModel):
    settings: tuple[Setting, ...]
    claims: tuple[Claim, ...]
    costs: tuple[Value, ...]
    mimics: Value
    exhibits: tuple[Exhibit, ...]
    open_points: tuple[OpenPoint, ...]


_PAPER = _Paper.model_validate(PAPER)
IMAGE_PX = 512
SETTINGS, CLAIMS, COSTS, MIMICS = _PAPER.settings, _PAPER.claims, _PAPER.costs, _PAPER.mimics
EXHIBITS, OPEN_POINTS = _PAPER.exhibits, _PAPER.open_points
