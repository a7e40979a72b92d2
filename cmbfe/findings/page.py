"""One page per patient: what was found, as tables and images, in a single HTML file that needs nothing else."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmbfe.data.labelled.images import magnitude_of
from cmbfe.evaluation.page import STYLE, html_table
from cmbfe.figures.gallery import Found
from cmbfe.figures.gallery_drawing import rectangles, scale_bar
from cmbfe.figures.style import COLOURS
from cmbfe.files import whole_file
from cmbfe.findings.lesions import Lesion
from cmbfe.findings.one_series import SHOWN_AT_MOST, Findings

ZOOM_SHARE = 1 / 8
"""Side of the enlarged part of a slice."""
JPEG_QUALITY = 85

CARDS = """
.cards { display: flex; flex-wrap: wrap; gap: 1em; } figure { margin: 0; } figure svg { width: 14em; background: #000; }
figcaption { font-size: 13px; max-width: 28.5em; } svg rect, svg path { fill: none; stroke-width: 1.5;
vector-effect: non-scaling-stroke; } svg text { font-family: sans-serif; } summary { cursor: pointer; }
details img { max-width: 100%; }
"""


def section(findings: Findings, threshold: float, feature_maps: Mapping[int, bytes]) -> str:
    """The part of a page that one series is, with its images inside.

    Args:
        feature_maps: image id -> PNG of `cmbfe.findings.feature_maps`.
    """
    images = {image["id"]: image for image in findings.images}
    prefix = f"s{findings.task.number}"
    parts = [f"<h2>{escape(findings.task.name or findings.task.folder)}</h2>", f"<p>{_described(findings)}</p>"]
    if not findings.shown:
        return "\n".join([*parts, f"<p>No detection has a score of at least {threshold:g}.</p>"])
    if findings.lesions is not None:
        parts.append(lesions_table(findings.lesions))
    if len(findings.shown) == SHOWN_AT_MOST:
        parts.append(f"<p>Only the {SHOWN_AT_MOST} images with the best scores are shown.</p>")
    drawn = _drawn(findings, threshold)
    if findings.lesions is None:
        cards = [(key, _image_card(prefix, images[key], drawn[key])) for key in findings.shown]
    else:
        cards = _lesion_cards(prefix, findings, drawn)
    used = dict.fromkeys(key for key, _ in cards)
    definitions = [_image(prefix, images[key], magnitude_of(findings.shown[key])) for key in used]
    parts.append(f'<svg width="0" height="0" style="position:absolute"><defs>{"".join(definitions)}</defs></svg>')
    parts.append(f'<div class="cards">{"".join(card for _, card in cards)}</div>')
    parts += [_details(images[key], png) for key, png in feature_maps.items()]
    return "\n".join(parts)


def write_page(path: Path, patient: str, sentence: str, notes: Iterable[str], sections: Iterable[str]) -> None:
    """Write a patient's page; `sections` are written one after another and never in memory together."""
    title = f"Cerebral microbleeds: {escape(patient or 'no PatientID')}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}{CARDS}</style>'
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"<!doctype html><html lang=en><head>{head}</head><body><h1>{title}</h1>\n<p>{sentence}</p>\n")
        file.writelines(f'<p class="note">{escape(note)}</p>\n' for note in notes)
        for one in sections:
            file.write(one + "\n")
        file.write("</body></html>\n")


def lesions_table(lesions: Sequence[Lesion]) -> str:
    """The lesions of a series; slices are counted from 1, as people count."""
    columns = ["", "score", "left, mm", "back, mm", "head, mm", "size, mm", "extent, mm", "slices"]
    rows = [
        [
            str(one.number),
            f"{one.score:.2f}",
            *(f"{place:z.1f}" for place in one.centre_mm),
            f"{one.size_mm:.1f}",
            " × ".join(f"{length:.1f}" for length in one.extent_mm),
            _slices(one),
        ]
        for one in lesions
    ]
    return html_table(columns, rows)


def _slices(lesion: Lesion) -> str:
    first, last = (index + 1 for index in lesion.slices)
    return str(first) if first == last else f"{first}–{last}"


def _described(findings: Findings) -> str:
    first = findings.images[0]
    count = len(findings.images)
    if findings.lesions is None:
        return (
            f"{count} images. Without pixel spacing and slice positions there are no sizes, places and 3-D lesions."
        )
    row_mm, column_mm = first["pixel_spacing_mm"]
    size = f"{count} slices of {first['width']} × {first['height']} px, {column_mm:.2f} × {row_mm:.2f} mm"
    return f"{size}: {len(findings.lesions)} lesions. Places are patient coordinates (DICOM, LPS)."


def _drawn(findings: Findings, threshold: float) -> dict[int, Found]:
    """Image id -> its detections of at least the threshold."""
    by_image: dict[int, list[dict[str, Any]]] = {key: [] for key in findings.shown}
    for one in findings.detections:
        if one["score"] >= threshold and one["image_id"] in by_image:
            by_image[one["image_id"]].append(one)
    return {
        key: Found(np.array([one["bbox"] for one in own]), np.array([one["score"] for one in own]))
        for key, own in by_image.items()
    }


def _image(prefix: str, image: Mapping[str, Any], pixels: np.ndarray) -> str:
    """The image, once in the page: cards refer to it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    size = f'width="{image["width"]}" height="{image["height"]}"'
    return f'<image id="{prefix}-{image["id"]}" {size} href="data:image/jpeg;base64,{data}"/>'


def _view(prefix: str, image: Mapping[str, Any], overlay: str, window: Sequence[float]) -> str:
    """A window x, y, w, h px of a slice, pixels as wide and high as they are in the patient."""
    row_mm, column_mm = image.get("pixel_spacing_mm", (1, 1))
    x, y, width, height = window
    shape = f"aspect-ratio:{width * column_mm:.4g}/{height * row_mm:.4g}"
    used = f'<use href="#{prefix}-{image["id"]}"/>'
    box = f'viewBox="{x:.4g} {y:.4g} {width:.4g} {height:.4g}"'
    return f'<svg {box} preserveAspectRatio="none" style="{shape}">{used}{overlay}</svg>'


def _whole(prefix: str, image: dict[str, Any], found: Found) -> str:
    overlay = rectangles(found, COLOURS["SSD-FE"], image["width"] / 30) + scale_bar(image)
    return _view(prefix, image, overlay, (0, 0, image["width"], image["height"]))


def _lesion_cards(prefix: str, findings: Findings, drawn: Mapping[int, Found]) -> list[tuple[int, str]]:
    """A card per lesion with the id of its best slice, the best lesion first."""
    by_slice = {image["slice_index"]: image for image in findings.images}
    pairs = [(one, by_slice[one.best_slice]) for one in findings.lesions or []]
    return [
        (image["id"], _lesion_card(prefix, one, image, drawn[image["id"]]))
        for one, image in pairs
        if image["id"] in findings.shown
    ]


def _lesion_card(prefix: str, lesion: Lesion, image: dict[str, Any], found: Found) -> str:
    x, y, width, height = lesion.boxes[lesion.best_slice][0]
    side_x, side_y = (max(ZOOM_SHARE * image[side], 3 * own) for side, own in (("width", width), ("height", height)))
    window = (x + width / 2 - side_x / 2, y + height / 2 - side_y / 2, side_x, side_y)
    alone = rectangles(Found(np.array([[x, y, width, height]]), np.zeros(0)), COLOURS["SSD-FE"], 1)
    place = ", ".join(f"{value:z.1f}" for value in lesion.centre_mm)
    caption = f"<b>{lesion.number}</b>: score {lesion.score:.2f}, {lesion.size_mm:.1f} mm, at {place} mm, "
    shown = f"slices {_slices(lesion)}, shown: {lesion.best_slice + 1}"
    return (
        f"<figure>{_view(prefix, image, alone, window)} {_whole(prefix, image, found)}"
        f"<figcaption>{caption}{shown}</figcaption></figure>"
    )


def _image_card(prefix: str, image: dict[str, Any], found: Found) -> str:
    caption = f"{escape(image['file_name'])}: {len(found.boxes)} detections, the best with {found.scores.max():.2f}"
    return f"<figure>{_whole(prefix, image, found)}<figcaption>{caption}</figcaption></figure>"


def _details(image: Mapping[str, Any], png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    name = f"Feature maps, slice {image['slice_index'] + 1}"
    return f'<details><summary>{name}</summary><img alt="{name}" src="data:image/png;base64,{data}"></details>'
