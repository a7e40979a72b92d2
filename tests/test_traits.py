"""Traits of microbleeds: worked examples of contrast, one row a lesion."""

import numpy as np
import pytest

from cmbfe.phantom import traits
from cmbfe.phantom.traits import against_published, darkest_share, microbleed_traits


def test_the_darkest_pixel_is_compared_with_what_lies_around_the_box():
    image = np.full((30, 30), 200, np.uint16)
    image[10:14, 10:14] = 150
    image[11, 12] = 50
    assert darkest_share(image, [10.0, 10.0, 4.0, 4.0], pixel_mm=1.0) == pytest.approx(0.25)


def test_surroundings_stop_at_the_edge_of_the_image():
    image = np.full((20, 20), 100, np.uint16)
    image[0:3, 0:3] = 30
    assert darkest_share(image, [0.0, 0.0, 3.0, 3.0], pixel_mm=1.0) == pytest.approx(0.3)


class Series:
    """As much of a series as is needed here."""

    pixel_spacing_mm = (1.0, 1.0)


def test_a_lesion_on_two_slices_has_one_row_with_its_clearest_slice(monkeypatch):
    volume = np.full((2, 20, 20), 100, np.float32)
    volume[0, 8:11, 8:11], volume[1, 8:11, 8:11] = 60, 20
    monkeypatch.setattr(traits, "read_volume", lambda series: volume)
    images = [{"id": number, "patient_id": "P0001", "slice_index": number - 1} for number in (1, 2)]
    lesion = {"lesion_id": "P0001/cmb-001", "true_diameter_mm": 2.0, "visible_diameter_mm": 5.0}
    boxes = [{"id": n, "image_id": n, "bbox": [8.0, 8.0, 3.0, 3.0], **lesion} for n in (1, 2)]
    table = microbleed_traits({"images": images, "annotations": boxes}, {"P0001": Series()})
    (row,) = table.itertuples()
    assert (row.Index, row.true_mm, row.visible_mm, row.blooming) == ("P0001/cmb-001", 2.0, 5.0, 2.5)
    assert row.darkest == pytest.approx(0.2)
    published = against_published(table)
    assert list(published["ours, median"]) == [5.0, 2.5, 0.2]
    assert published["source"].str.len().min() > 0
