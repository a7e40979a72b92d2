"""Review a patient in JupyterLab: a widget that works like the patient's page and saves the same file.

from cmbfe.findings.viewer import review
review("found", "P0001")     # as the last line of a cell; the file lies in the folder reviews
"""

from pathlib import Path
from secrets import token_hex

import anywidget
import traitlets

from cmbfe.errors import InputError
from cmbfe.figures.html import templates
from cmbfe.files import whole_file
from cmbfe.findings.analysis import IMAGES
from cmbfe.findings.page import slices_html
from cmbfe.findings.review import read_found

TEMPLATES = Path(__file__).with_name("templates")


class ReviewWidget(anywidget.AnyWidget):
    """A widget that runs review.js on the HTML of a patient."""

    _esm = TEMPLATES / "review.js"
    _css = TEMPLATES / "review.css"
    html = traitlets.Unicode().tag(sync=True)
    saved = traitlets.List().tag(sync=True)  # name and content of the file, once a review is saved


def review(found: Path | str, patient: str | None = None, out: Path | str = "reviews") -> ReviewWidget:
    """A widget to review the results of `cmbfe detect` in a folder.

    Args:
        patient: the patient's name in the results; None if there is only one patient.
        out: folder for the reviews.

    Raises:
        InputError: no such findings, or no such patient.
    """
    folder = Path(found)
    series = read_found(folder)
    patients = sorted({own.patient for own in series})
    if patient is None and len(patients) == 1:
        (patient,) = patients
    if patient not in patients:
        raise InputError(f"{folder}: whose lesions are reviewed? Give one of: {', '.join(patients)}")
    parts = [templates("cmbfe.findings").get_template("review.html.jinja").render(patient=patient)]
    for own in (each for each in series if each.patient == patient):
        parts.append(slices_html(token_hex(4), own.uid, own.images, own.place, own.lesions, folder / IMAGES))
    widget = ReviewWidget(html="\n".join(parts))
    widget.observe(lambda change: _write(Path(out), *change["new"]), "saved")
    return widget


def _write(folder: Path, name: str, text: str) -> None:
    with whole_file(folder / name) as temporary:
        temporary.write_text(text, encoding="utf-8")
