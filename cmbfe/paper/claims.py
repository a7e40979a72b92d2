"""The paper's claims, settings, exhibits and open points (A1 to A20), read from paper.yaml for the map of the paper.

Each entry says where the replication keeps its own value: a key path of params.yaml, a constant of the code, or a cell
of a table in results/tables. The profile `paper` uses the first reading of an open point, the literal or likeliest.
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
    """Whether the value is in px of an image `IMAGE_PX` wide. If so, the comparison scales it to our image width."""


class Cell(NamedTuple):
    """A cell of results/tables/<table>.csv: the value of its row in the first column, and the name of its column."""

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
    better: int = 1  # 1 if higher is better, -1 if lower is better


class Value(NamedTuple):
    """One of our numbers with its name and, if the paper prints it, the paper's number."""

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
        """Files of the exhibit, relative to results/."""
        kind, number = self.name.split()
        if kind == "Table":
            return (f"tables/table{number}.csv",)
        return (f"figures/fig{number}.png",)


class OpenPoint(NamedTuple):
    """A point that the paper leaves open or states in two ways."""

    name: str
    question: str
    readings: tuple[str, ...]  # ours first
    keys: tuple[str, ...] = ()
    """Keys of params.yaml or `cmbfe.paper.paper_map.known_values`. Study arms that change a key measure its effect."""
    code: str = ""  # where the code states it, if no setting does
    measured: tuple[Value, ...] = ()  # values outside the study that show the effect of a reading


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
