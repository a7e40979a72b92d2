"""Images of one size: training takes images of one width and height only, and data sets have several."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Frame:
    """How an image is scaled and centred on a square of black; `size` None leaves it as it is.

    The longer side in mm fills the square, so that pixels become as wide as high (to the rounding of the shorter side).
    """

    rows: int
    columns: int
    row_mm: float
    column_mm: float
    size: int | None

    @property
    def inner(self) -> tuple[int, int]:
        """Rows and columns that the image itself takes, px."""
        if self.size is None:
            return self.rows, self.columns
        sides_mm = self.rows * self.row_mm, self.columns * self.column_mm
        rows, columns = (max(1, round(self.size * side / max(sides_mm))) for side in sides_mm)
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the result, px."""
        return (self.rows, self.columns) if self.size is None else (self.size, self.size)

    @property
    def scale(self) -> tuple[float, float]:
        """New px per old px, along columns (x) and rows (y)."""
        return self.inner[1] / self.columns, self.inner[0] / self.rows

    @property
    def offset(self) -> tuple[int, int]:
        """Columns and rows of black before the image, px."""
        return (self.shape[1] - self.inner[1]) // 2, (self.shape[0] - self.inner[0]) // 2

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Of the result: between rows, between columns."""
        return self.row_mm / self.scale[1], self.column_mm / self.scale[0]

    def image(self, image: np.ndarray, around: int = 0) -> np.ndarray:
        """Scale a uint8 image [rows, columns] (linear; smoothed where it shrinks, against aliasing) and centre it."""
        if self.inner == self.shape == image.shape:
            return image
        framed = np.full(self.shape, around, np.uint8)
        (rows, columns), (left, top) = self.inner, self.offset
        scaled = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
        framed[top : top + rows, left : left + columns] = scaled
        return framed

    def box(self, box: list[float]) -> list[float]:
        """Move a box x, y, w, h px along."""
        (x_scale, y_scale), (left, top) = self.scale, self.offset
        x, y, width, height = box
        return [x * x_scale + left, y * y_scale + top, width * x_scale, height * y_scale]

    def affine(self, affine: np.ndarray) -> np.ndarray:
        """The affine of the result, from that of the image ([4, 4], whole numbers at pixel centres)."""
        back = np.eye(4)
        for axis in (0, 1):
            back[axis, axis] = 1 / self.scale[axis]
            back[axis, 3] = (0.5 - self.offset[axis]) / self.scale[axis] - 0.5
        return affine @ back
