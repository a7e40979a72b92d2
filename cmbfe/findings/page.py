"""The page of a patient: its detections as tables and images, in a single self-contained HTML file. Feature maps show
what the detector sees, and what FE would add with the detections as ground truth."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from cmbfe.data.labelled.images import magnitude_of, read_image
from cmbfe.data.labelled.labels import Detections, xyxy
from cmbfe.detector.explain import enhancement_steps
from cmbfe.detector.ssd import SPECS, SSD
from cmbfe.figures.diagrams import LAYER_NAMES
from cmbfe.figures.html import templates
from cmbfe.figures.style import COLOURS, map_grid
from cmbfe.files import whole_file
from cmbfe.findings.analysis import SHOWN_AT_MOST, Findings
from cmbfe.findings.lesions import UNKNOWN, Lesion, fingerprint, pattern, region_counts
from cmbfe.findings.model import Detector
from cmbfe.training.batches import to_input

FEWEST_CELLS = 8
"""Maps with fewer cells per side are not drawn, as a microbleed is only a small part of such a cell."""
ZOOM_SHARE = 1 / 8
"""Side of the enlarged part, as a share of the slice."""


def section(findings: Findings, notes: Sequence[str], feature_maps: Mapping[int, bytes], folder: Path) -> str:
    """The section of one series on a page, as HTML with embedded images.

    Args:
        notes: assumptions about the series, one sentence each.
        feature_maps: image id -> PNG.
        folder: the slices of the series, which the page shows for a review. Unused if the source is images.
    """
    task, images = findings.task, {image["id"]: image for image in findings.images}
    if findings.lesions is None:
        cards = _image_cards(findings)
        shown = ((images[image_id], _jpeg(magnitude_of(pixels))) for image_id, (pixels, _) in findings.shown.items())
        slices = _slices_html(task.number, shown, None)
    else:
        cards = _lesion_cards(findings)
        lesions = findings.lesions
        slices = slices_html(task.number, task.name, findings.images, findings.place, lesions, folder)
    return (
        templates("cmbfe.findings")
        .get_template("series.html.jinja")
        .render(
            name=task.name or task.folder,
            number=task.number,
            notes=notes,
            images=findings.images,
            threshold=findings.threshold,
            rows=None if findings.lesions is None else [_row(lesion) for lesion in findings.lesions],
            scan=findings.scan,
            struck_out=len(findings.lesions or ()) - len(findings.counted),
            pattern=pattern(lesion.region for lesion in findings.counted),
            regions=_region_rows(findings.counted),
            shown={
                image_id: [(box["bbox"], f"{box['score']:.2f}") for box in detections]
                for image_id, (_, detections) in findings.shown.items()
            },
            shown_at_most=SHOWN_AT_MOST,
            slices=slices,
            cards=cards,
            colour=COLOURS["SSD-FE"],
            feature_maps=[(images[image_id]["slice_index"] + 1, png) for image_id, png in feature_maps.items()],
        )
    )


def slices_html(
    number: int | str,
    series_uid: str,
    images: Sequence[dict[str, Any]],
    place: Mapping[str, Any],
    lesions: Sequence[Lesion],
    folder: Path,
) -> str:
    """The slices of a series as HTML, with its lesions in the form that review.js reads. `number` identifies the series
    on its page, `place` is as in `Loaded`, and `folder` holds the slices as PNG."""
    first = images[0]
    findings = {
        "uid": series_uid,
        "name": series_uid,
        "findings": fingerprint(images, lesions),
        **{key: first[key] for key in ("width", "height")},
        "spacing_mm": first["pixel_spacing_mm"],
        "slice_mm": place["slice_spacing_mm"],
        "axes": place["axes"],
        "slices": [f"s{number}-{image['id']}" for image in images],
        "lesions": [
            {
                "number": lesion.number,
                "best": lesion.best_slice,
                "boxes": {index: box for index, (box, _) in lesion.boxes.items()},
                "text": _caption(lesion),
            }
            for lesion in lesions
        ],
    }
    files = ((image, (folder / image["file_name"]).with_suffix(".png")) for image in images)
    return _slices_html(number, ((image, _jpeg(read_image(file))) for image, file in files), findings)


def _slices_html(number: int | str, pixels: Iterable[tuple[dict, bytes]], findings: Mapping[str, Any] | None) -> str:
    template = templates("cmbfe.findings").get_template("slices.html.jinja")
    return template.render(number=number, pixels=pixels, findings=findings)


def write_page(path: Path, patient: str, sections: Iterable[str], notes: Sequence[str], **made: Any) -> None:
    """Write the page of a patient from the HTML of its `sections`, one after the other to save memory. `patient` is ""
    without PatientID. `made` holds `detector`, `threshold` and `threshold_from`."""
    template = templates("cmbfe.findings").get_template("patient.html.jinja")
    title = f"Cerebral microbleeds: {patient or 'no PatientID'}"
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(template.generate(title=title, patient=patient, sections=sections, notes=notes, **made))


def _row(lesion: Lesion) -> list[str]:
    """The row of a lesion in the table."""
    return [
        str(lesion.number),
        f"{lesion.score:.2f}",
        _where(lesion),
        *(f"{place:z.1f}" for place in lesion.centre_mm),
        f"{lesion.size_mm:.1f}",
        " × ".join(f"{length:.1f}" for length in lesion.extent_mm),
        _slices(lesion),
        lesion.struck_out and f"struck out: {lesion.struck_out}",
    ]


def _region_rows(lesions: Sequence[Lesion]) -> list[list[str]]:
    """A table row per brain region, with the number of lesions on the left, on the right and in total."""
    sides = {region: [*counts.values()] for region, counts in region_counts(lesions).items()}
    return [
        [region, *(map(str, counts) if len(counts) > 1 else ("", "")), str(sum(counts))]
        for region, counts in sides.items()
    ]


def _where(lesion: Lesion) -> str:
    """Region and side of a lesion."""
    return lesion.region if lesion.region == UNKNOWN else f"{lesion.region}, {lesion.side}"


def _slices(lesion: Lesion) -> str:
    """The slice range of a lesion, counted from 1."""
    first, last = (index + 1 for index in lesion.slices)
    return str(first) if first == last else f"{first}–{last}"


def _lesion_cards(findings: Findings) -> list[dict[str, Any]]:
    """A card for each lesion whose best slice is shown, best lesion first. It has the slice and an enlarged part."""
    by_slice = {image["slice_index"]: image for image in findings.images}
    cards = []
    for lesion in findings.lesions or []:
        image = by_slice[lesion.best_slice]
        if image["id"] in findings.shown:
            box = lesion.boxes[lesion.best_slice][0]
            card = {"image": image, "number": lesion.number, "box": box, "window": _window(image, box)}
            cards.append({**card, "caption": f"{_caption(lesion)}, shown: {lesion.best_slice + 1}"})
    return cards


def _caption(lesion: Lesion) -> str:
    place = ", ".join(f"{value:z.1f}" for value in lesion.centre_mm)
    known = "" if lesion.region == UNKNOWN else f"{_where(lesion)}, "
    caption = f"{known}score {lesion.score:.2f}, {lesion.size_mm:.1f} mm, at {place} mm, slices {_slices(lesion)}"
    return f"{caption}, struck out: {lesion.struck_out}" if lesion.struck_out else caption


def _window(image: Mapping[str, Any], box: Sequence[float]) -> tuple[float, float, float, float]:
    """The part (x, y, w, h px) of a slice to enlarge around a box, with the aspect ratio of the slice."""
    x, y, width, height = box
    share = max(ZOOM_SHARE, 3 * width / image["width"], 3 * height / image["height"])
    side_x, side_y = share * image["width"], share * image["height"]
    return x + width / 2 - side_x / 2, y + height / 2 - side_y / 2, side_x, side_y


def _image_cards(findings: Findings) -> list[dict[str, Any]]:
    cards = []
    for image in findings.images:
        if image["id"] in findings.shown:
            _, detections = findings.shown[image["id"]]
            count = f"{len(detections)} detection{'s' if len(detections) > 1 else ''}"
            caption = f"{image['file_name']}: {count}, the best with {detections[0]['score']:.2f}"
            cards.append({"image": image, "number": None, "window": None, "caption": caption})
    return cards


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=85)
    return file.getvalue()


def feature_maps_png(detector: Detector, pixels: np.ndarray, detections: Detections) -> bytes:
    """A PNG figure of one slice: the image with its detections, mask M, what FE would add, and the heads' feature maps.

    Args:
        pixels: uint8 [rows, columns], with phase [rows, columns, 2].
        detections: COCO results of this image, at least one.
    """
    model, device = detector.model, detector.compute.device
    image = model.resize(to_input(pixels[None], device))[0]
    scale = model.input_size / torch.tensor(pixels.shape[1::-1], device=device).repeat(2)
    boxes = torch.from_numpy(xyxy(detections)).float().to(device) * scale
    steps = {name: values.cpu().numpy() for name, values in enhancement_steps(model, image, boxes).items()}
    added = steps["difference"]
    maps = {
        "image P and what was found": (steps["image"], (0, 1)),
        "mask M of what was found": (steps["mask"], (0, 1)),
        "what FE would add\n(the channel with most)": (added, (0, max(added.max(), 1e-6))),
        **_telling_channels(model, image, boxes),
    }
    figure = map_grid(maps)
    for x_min, y_min, x_max, y_max in boxes.cpu().numpy():
        frame = plt.Rectangle((x_min, y_min), x_max - x_min, y_max - y_min, fill=False, edgecolor=COLOURS["SSD-FE"])
        figure.axes[0].add_patch(frame)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80, metadata={"Software": None})
    return file.getvalue()


@torch.no_grad()
def _telling_channels(
    model: SSD, image: torch.Tensor, boxes: torch.Tensor
) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
    """Title -> from each feature map, the channel whose mean inside boxes exceeds its mean outside by the most SD."""
    names: Sequence[str] = LAYER_NAMES[SPECS[model.config.variant].trunk]
    maps = {}
    for name, (features,) in zip(names, model.feature_maps(model.prepare(image[None])), strict=False):
        cells = features.shape[-1]
        if cells < FEWEST_CELLS:
            break
        inside = _cells_of(boxes * (cells / model.input_size), cells)
        contrast = features[:, inside].mean(dim=1) - features[:, ~inside].mean(dim=1)
        channel = int((contrast / (features.std((1, 2)) + 1e-6)).argmax())
        values = features[channel].float().cpu().numpy()
        maps[f"{name}, {cells}×{cells},\nchannel {channel} of {len(features)}"] = values, (values.min(), values.max())
    return maps


def _cells_of(boxes: torch.Tensor, cells: int) -> torch.Tensor:
    """bool [cells, cells]: the cells that the boxes touch. Boxes are xyxy in cells."""
    inside = torch.zeros(cells, cells, dtype=torch.bool, device=boxes.device)
    for x_min, y_min, x_max, y_max in boxes.clamp(0, cells - 1e-3).tolist():
        inside[int(y_min) : int(y_max) + 1, int(x_min) : int(x_max) + 1] = True
    return inside
