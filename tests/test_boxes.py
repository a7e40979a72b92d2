"""Default boxes against hand-typed values, and the way from a box to its regression target and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from cmbfe.detector.boxes import corners, coverage, coverage_of_presets, decode, default_boxes, encode
from cmbfe.errors import InputError


@pytest.mark.parametrize(("preset", "input_size", "index", "centre_px", "size_px"), [
    ("voc", 512, 2, (4, 4), (50.685, 25.343)),  # 35.84 * sqrt 2, 35.84 / sqrt 2
    ("voc", 512, 4, (12, 4), (35.84, 35.84)),  # next cell in the row
    ("voc", 512, -4, (256, 256), (460.8, 460.8)),  # the single cell of the last map
    ("coco", 300, 0, (4, 4), (21, 21)),
    ("coco", 512, 0, (4, 4), (20.48, 20.48)),
    ("cmb", 300, 0, (4, 4), (8, 8)),
    ("cmb", 512, 0, (4, 4), (12, 12)),
])  # fmt: skip
def test_boxes_lie_where_the_table_says(preset, input_size, index, centre_px, size_px):
    box = default_boxes(preset, input_size)[index] * input_size
    assert torch.allclose(box, torch.tensor([*centre_px, *size_px], dtype=torch.float32), atol=2e-3)


@pytest.mark.parametrize(("input_size", "maps"), [
    # Per map: index of its first box, centre of its first cell, sides of its two squares; all px, preset "voc".
    (512, [(0, 4, 35.84, 52.46), (16384, 8, 76.8, 108.61), (22528, 16, 153.6, 188.12), (24064, 32, 230.4, 266.04),
           (24448, 64, 307.2, 343.46), (24544, 128, 384, 420.65), (24560, 256, 460.8, 497.72)]),
    (300, [(0, 4, 30, 42.43), (5776, 8, 60, 81.61), (7942, 16, 111, 134.10), (8542, 32, 162, 185.76),
           (8692, 50, 213, 237.13), (8728, 150, 264, 288.37)]),
    (320, [(0, 8, 60, 79.37), (2400, 16, 105, 125.50), (3000, 32, 150, 171.03), (3150, 53.33, 195, 216.33),
           (3204, 80, 240, 261.53), (3228, 160, 285, 306.68)]),
])  # fmt: skip
def test_every_map_begins_as_the_table_says(input_size, maps):
    boxes = default_boxes("voc", input_size) * input_size
    for first, centre, small, large in maps:
        expected = [[centre, centre, small, small], [centre, centre, large, large]]
        torch.testing.assert_close(boxes[first : first + 2], torch.tensor(expected), atol=6e-3, rtol=0)


def test_a_box_longer_than_the_input_is_cut_to_it():
    assert default_boxes("voc", 300)[:, 2:].max() == 1
    assert default_boxes("voc", 300).max() <= 1.02  # centres of the 10x10 map lie up to 1.0133


def test_the_coco_boxes_at_300_are_torchvisions():
    generator = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    maps = [torch.zeros(1, 1, size, size) for size in (38, 19, 10, 5, 3, 1)]
    theirs = generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)[0]
    assert torch.allclose(corners(default_boxes("coco", 300), 300), theirs, atol=1e-3)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="voc"):
        default_boxes("imagenet", 300)


sides = st.tuples(st.floats(0, 250), st.floats(0, 250), st.floats(1, 60), st.floats(1, 60))


@given(sides, sides)
def test_decoding_inverts_encoding(box, default):
    box, default = (torch.tensor([[x, y, x + w, y + h]]) for x, y, w, h in (box, default))
    assert torch.allclose(decode(encode(box, default), default), box, atol=0.05)  # px; log and exp in float32


def test_no_microbleed_reaches_the_voc_boxes_and_most_reach_ours_at_512():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2000, 2, generator=generator) * 480
    size = 4.3 + (21.3 - 4.3) * torch.rand(2000, 1, generator=generator)  # 2-10 mm at 240 mm / 512 px
    squares = torch.cat([low, low + size], dim=1)
    share = {
        preset: coverage(squares, default_boxes(preset, 512), 512)["reachable"].mean() for preset in ("voc", "cmb")
    }
    assert share["voc"] == 0
    assert share["cmb"] > 0.5


def test_coverage_of_a_default_box_itself_is_complete():
    boxes = default_boxes("cmb", 300)
    table = coverage(corners(boxes, 300)[:5], boxes, 300)
    assert table["best_iou"].between(0.999, 1.001).all()
    assert table["reachable"].all()


def test_the_coverage_of_presets_is_that_of_each_at_every_input_size():
    fractions = torch.tensor([[0.496, 0.496, 0.5195, 0.5195], [0.2, 0.1, 0.9, 0.9]])
    table = coverage_of_presets(fractions)
    assert len(table) == 2 * 3 * 3
    for (input_size, preset), part in table.groupby(["input_px", "default_boxes"]):
        alone = coverage(fractions * input_size, default_boxes(preset, input_size), input_size)
        assert part["best_iou"].tolist() == alone["best_iou"].tolist()
        assert part["box"].tolist() == [0, 1]
    small = table[table["box"] == 0].set_index(["input_px", "default_boxes"])["reachable"]
    assert small[512, "cmb"]
    assert not small[512, "voc"]
