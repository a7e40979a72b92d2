"""Twins on a CUDA machine, here in miniature on a CPU: what is packed, trained, resumed and drawn."""

import subprocess
import sys
from itertools import count
from os import environ, pathsep

import pytest
import torch
from pipeline_world import ROOT
from safetensors.torch import load_file, save_file
from tiny_world import SIDE, labelled_images, refused, tiny_params
from torchvision.models import vgg16

from cmbfe.data.labelled.labels import LABELS_FILE, MIMICS_FILE, read_labels, write_labels
from cmbfe.files import read_json
from cmbfe.params import save_params
from tools import cuda_twins

SETTINGS = {"detector": "ssd300-fe", "seed": 1, "width": 0.125, "batch": 2, "minutes": 0.1, "data": ""}
TINY = "--minutes 0.01 --seeds 2 --at-once 1 --detectors ssd300 --width 0.125 --batch 2"
BLOCKER = """import sys
from importlib.machinery import ModuleSpec
class Blocked:  # torch looks for some of these, but does not import them
    def find_spec(self, name, path=None, target=None):
        extras = "cv2 imgaug jinja2 joblib lightning_fabric matplotlib pydantic pydicom seaborn skimage tqdm typer yaml"
        return ModuleSpec(name, self) if name.partition(".")[0] in extras.split() else None
    def create_module(self, spec):
        raise ModuleNotFoundError(spec.name)
    exec_module = create_module
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Patients 1 to 3 train, 3 without a box; 4 to 7 test, 6 and 7 without one; and weights of VGG-16, all zero."""
    folder = tmp_path_factory.mktemp("cuda")
    labels = labelled_images(folder / "images", 7)
    for image in labels["images"]:
        image |= {"patient_id": f"P{image['id']}", "split": "train" if image["id"] < 4 else "test"}
    labels["annotations"] = [box for box in labels["annotations"] if box["id"] not in (3, 6, 7)]
    write_labels(folder / "images" / LABELS_FILE, labels)
    write_labels(folder / "images" / MIMICS_FILE, {**labels, "annotations": [], "categories": []})
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in vgg16().features.state_dict().items()}
    save_file({f"features.{name}": torch.zeros(shape) for name, shape in shapes.items()}, folder / "vgg.safetensors")
    save_params(tiny_params(), folder / "params.yaml")
    pack(folder, "packed")
    return folder


def pack(folder, out, quality=None):
    cuda_twins.pack(folder / "images", folder / out, folder / "vgg.safetensors", folder / "params.yaml", quality)


def test_a_pack_holds_what_training_and_test_need_in_half_precision(world, monkeypatch):
    packed = world / "packed"
    images = read_labels(packed / LABELS_FILE)["images"]
    assert [image["id"] for image in images] == [1, 2, 4, 5, 6, 7]
    for name in (image["file_name"] for image in images):
        assert (packed / name).read_bytes() == (world / "images" / name).read_bytes()
    assert {weight.dtype for weight in load_file(packed / cuda_twins.WEIGHTS).values()} == {torch.float16}
    monkeypatch.setattr(cuda_twins, "LARGEST_PACK", 10**6)
    with refused(world, r"29\.\d MB.*--quality"):
        pack(world, "larger", quality=50)


def test_boxes_move_with_the_pixels():
    torch.manual_seed(0)
    ranges = {**tiny_params().augmentation.model_dump(), "translation_px": 3.0}
    images, grid = torch.zeros(20, 1, SIDE, SIDE), torch.arange(SIDE) + 0.5
    box = torch.tensor([[38.0, 24.0, 44.0, 28.0]])
    images[:, :, 24:28, 38:44] = 1
    for image, moved in zip(*cuda_twins.augmented(images, [box] * 20, ranges), strict=True):
        weight = image[0] / image.sum()
        middle = torch.stack([(weight.sum(0) * grid).sum(), (weight.sum(1) * grid).sum()])
        torch.testing.assert_close(middle, (moved[0, :2] + moved[0, 2:]) / 2, atol=0.1, rtol=0)
    far = cuda_twins.augmented(images, [box - 40] * 20, {**ranges, "translation_px": 0.0})[1]
    assert not any(map(len, far))
    quarter = {**ranges, "rotation_degrees": [90.0, 90.0], "scale": [0.5, 0.5]}
    (turned,) = cuda_twins.augmented(images[:1], [box], quarter)[1]
    torch.testing.assert_close(turned[:, 2:] - turned[:, :2], torch.tensor([[2.0, 3.0]]))


def test_a_killed_training_ends_as_an_unbroken_one(world, tmp_path, monkeypatch):
    def run(name, settings=SETTINGS):
        monkeypatch.setattr(cuda_twins.time, "monotonic", count().__next__)
        return cuda_twins.train_one(settings, world / "packed", tmp_path / name)

    monkeypatch.setattr(cuda_twins, "CHECKPOINT_SECONDS", 2)
    unbroken = run("unbroken")
    with monkeypatch.context() as patched:
        patched.setattr(cuda_twins, "print", lambda *what, **how: sys.exit("killed"), raising=False)
        with pytest.raises(SystemExit):
            run("killed")
    with refused(tmp_path, r"checkpoint\.pt: .*\(batch\)"):
        run("killed", {**SETTINGS, "batch": 1})
    assert run("killed") == unbroken
    found = [read_json(tmp_path / name / cuda_twins.DETECTIONS) for name in ("unbroken", "killed")]
    assert found[0] == found[1] != []
    assert unbroken["iterations"] > len(unbroken["history"]) > 1


def test_training_needs_the_core_alone_and_its_result_is_drawn(world, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    command = [sys.executable, "-m", "tools.cuda_twins", "train", world / "packed", "--out", tmp_path / "out"]
    own = {"PYTHONPATH": f"{tmp_path}{pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *TINY.split()], check=True, cwd=ROOT, env=environ | own)
    result = read_json(tmp_path / "out" / cuda_twins.RESULT)
    assert [row["name"] for row in result["gains"]] == ["ssd300, IoU 0.3", "ssd300, IoU 0.5"]
    for row in result["gains"]:
        mean = sum(row["of_seeds"].values()) / 2
        assert row["gain"] == pytest.approx(row["ap_treated"] - row["ap"]) == pytest.approx(mean)
    for run in result["runs"].values():
        assert (run["device"], run["peak_memory_gib"], run["metrics"]["0.5"]["cmbs"]) == ("cpu", None, 2)
        assert run["iterations"] / run["seconds"] == pytest.approx(run["images_per_second"] / 2)
    monkeypatch.setattr(sys, "argv", ["cuda_twins", "draw", str(tmp_path / "out" / cuda_twins.RESULT)])
    cuda_twins.main()
    assert (tmp_path / "out" / "result.png").stat().st_size > 5000
