"""Own data in the pipeline: an import in the place of the phantom's images, and the test set without mimics."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from source_world import imported
from tiny_world import SIDE, labelled_images, tiny_params, tree

from cmbfe import paths
from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE
from cmbfe.data.labelled.splits import read_test_set
from cmbfe.data.sources.importer import take_import
from cmbfe.errors import InputError
from cmbfe.files import read_json, write_json
from cmbfe.params import PHANTOM, Data, load_params, profile_file


def an_import(folder: Path, **image_keys: object) -> Path:
    """An import of six images in three splits, a microbleed on every second."""
    labels = labelled_images(folder / "in", 6)
    for number, image in enumerate(labels["images"]):
        image |= {"split": ["train", "validation", "test"][number // 2], "pixel_spacing_mm": [1, 1], **image_keys}
    labels["annotations"] = labels["annotations"][::2]
    (folder / "in" / LABELS_FILE).write_text(json.dumps(labels))
    imported("coco", folder / "in", folder / "mine", keep_ids=False)
    return folder / "mine"


def test_an_import_becomes_the_images_of_the_pipeline(tmp_path):
    mine = an_import(tmp_path)
    (tmp_path / "pictures").mkdir()
    labels = take_import(mine, tmp_path / "pictures")
    assert tree(tmp_path / "pictures") == tree(mine)
    assert labels == read_json(mine / LABELS_FILE)


def test_the_test_set_has_images_without_microbleeds_where_nobody_has_named_mimics(tmp_path, monkeypatch):
    mine = an_import(tmp_path)
    monkeypatch.setattr(paths, "images", lambda: mine)
    test = read_test_set(tiny_params())
    assert {image["split"] for image in test["images"]} == {"test"}
    assert len(test["images"]) == 2
    assert len(test["annotations"]) == 1
    write_json(mine / MIMICS_FILE, {**read_json(mine / MIMICS_FILE), "categories": [{"id": 1, "name": "vein"}]})
    with pytest.raises(InputError, match="1 images with microbleeds but 0 with mimics only"):
        read_test_set(tiny_params())


def spoilt(change) -> Callable[[Path], None]:
    def spoil(mine: Path) -> None:
        labels = read_json(mine / LABELS_FILE)
        change(labels)
        write_json(mine / LABELS_FILE, labels)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda mine: (mine / "report.json").unlink(), r"report\.json"),
        (spoilt(lambda labels: labels["images"][0].update(width=SIDE + 1)), "2 sizes"),
        (spoilt(lambda labels: labels["images"][0].pop("pixel_spacing_mm")), "pixel_spacing_mm"),
        (spoilt(lambda labels: labels["annotations"].clear()), "split train"),
    ],
)
def test_what_the_pipeline_cannot_train_on_is_refused(tmp_path, spoil, named):
    mine = an_import(tmp_path)
    spoil(mine)
    with pytest.raises(InputError, match=f"^{mine}.*{named}"):
        take_import(mine, tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()


def test_every_profile_takes_the_phantom():
    assert all(load_params(profile_file(name)).data == Data() for name in ("smoke", "laptop", "paper"))
    assert Data().source == PHANTOM
    assert (Path(__file__).resolve().parent.parent / PHANTOM).is_dir()


@pytest.mark.parametrize("data", [{"source": "data/valdo"}, {"notebook": "own_data"}])
def test_notebook_and_source_that_do_not_belong_together_are_refused(data):
    with pytest.raises(ValueError, match=r"notebook \w+ does not take source"):
        Data(**data)
