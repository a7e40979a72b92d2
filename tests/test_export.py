"""ONNX files: onnxruntime finds with them what PyTorch finds, and a file with which it would not is not written."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.helper import make_model, make_opsetid
from tiny_world import labelled_images, tree

from cmbfe.detector import export
from cmbfe.detector.export import IR_VERSION, OPSET, TOLERANCE, export_onnx, resizing, suppression, to_onnx
from cmbfe.detector.ssd import SSD, Config, build
from cmbfe.detector.weights import load_model, save_model
from cmbfe.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def untrained(variant: str) -> SSD:
    """A narrow detector with scores around 0.5; as they are drawn, many would be 1, and any order of these is right."""
    torch.manual_seed(0)
    detector = build(variant, width=0.1, default_boxes="cmb").eval()
    with torch.no_grad():
        for parameter in [*detector.classification.parameters(), *detector.regression.parameters()]:
            parameter.mul_(0.05)
    return detector


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with two images, an untrained SSD-300 with FE and its ONNX file."""
    folder = tmp_path_factory.mktemp("world")
    labelled_images(folder / "pictures", 2)
    detector = untrained("ssd300-fe")
    save_model(detector, folder / "model")
    export_onnx(detector, folder / "ssd300-fe.onnx")
    return folder


@pytest.fixture
def made_otherwise(world, monkeypatch) -> Callable[..., None]:
    """Let an export take the file of `world` instead of tracing; `changes` alter some of its numbers."""

    def replaced(**changes: Callable[[np.ndarray], np.ndarray]) -> None:
        model = onnx.load(world / "ssd300-fe.onnx")
        tensors = {tensor.name.replace(".", "_"): tensor for tensor in model.graph.initializer}
        for name, change in changes.items():
            numbers = change(numpy_helper.to_array(tensors[name]))
            tensors[name].CopyFrom(numpy_helper.from_array(numbers, tensors[name].name))
        monkeypatch.setattr(export, "to_onnx", lambda detector: model)

    return replaced


def run(model: Path | bytes, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("shape", [(1, 3, 300, 300), (3, 3, 64, 90), (2, 3, 400, 310)])
def test_the_best_detections_are_those_of_pytorch_for_any_number_and_size_of_images(world, shape):
    """The ten best: an untrained detector has hundreds of scores to within rounding of each other."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    boxes, scores, numbers = run(world / "ssd300-fe.onnx", images=images.numpy())
    assert sorted(numbers) == list(numbers)
    with torch.inference_mode():
        expected = load_model(world / "model")(images)
    for number, one in enumerate(expected):
        of_image = numbers == number
        assert of_image.sum() == len(one["scores"]) > 10
        np.testing.assert_allclose(scores[of_image][:10], one["scores"][:10], atol=TOLERANCE)
        np.testing.assert_allclose(boxes[of_image][:10], one["boxes"][:10], atol=TOLERANCE * max(shape[2:]))


def test_a_detector_with_batch_normalisation_is_equal_in_onnxruntime(tmp_path):
    variant = "resnet34-300-fe"
    difference = export_onnx(untrained(variant), tmp_path / "detector.onnx")
    assert (difference.images, difference.suppressed_otherwise) == (4, 0)
    assert max(difference.score, difference.box_share) <= TOLERANCE
    model = onnx.load(tmp_path / "detector.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {one.key: one.value for one in model.metadata_props}["variant"] == variant


def test_a_file_says_what_it_is_and_whence_without_any_folder_of_its_maker(world):
    model = onnx.load(world / "ssd300-fe.onnx")
    said = {one.key: one.value for one in model.metadata_props}
    assert (said["variant"], said["input_size_px"], said["class"]) == ("ssd300-fe", "300", "cmb")
    assert re.fullmatch(r"cmbfe \d+\.\d+\.\d+", said["software"])
    assert "Not a medical device" in said["notice"]
    assert "float32 [images, 3, rows, columns] in [0, 1]" in model.doc_string
    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    places = {each.name: each.type.tensor_type.shape.dim for each in [*model.graph.input, *model.graph.output]}
    assert set(places) == {"images", "boxes", "scores", "pictures"}
    assert [dim.dim_param or dim.dim_value for dim in places["images"]] == ["images", 3, "rows", "columns"]
    content = (world / "ssd300-fe.onnx").read_bytes()
    assert not re.search(rb"\.py\b|site-packages", content)
    assert str(ROOT).encode() not in content


@pytest.mark.parametrize(("side", "wanted"), [(256, 320), (512, 300), (7, 7), (1, 5)])
def test_images_are_resized_as_in_pytorch(side, wanted):
    column = torch.rand(side, 1, generator=torch.Generator().manual_seed(2))
    expected = F.interpolate(column[None, None], (wanted, 1), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(resizing(side, wanted) @ column, expected, atol=1e-6, rtol=0)


def test_suppression_keeps_what_the_detector_keeps_in_each_image_of_a_batch():
    """One image has more candidates than are looked at, one fewer than are kept, one none."""
    detector = build("ssd300", width=0.1, score_threshold=0.2, nms_threshold=0.3, detections_per_image=30)
    draw = np.random.default_rng(3)
    corners = draw.uniform(0, 250, (3, 900, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(5, 50, (3, 900, 2))], axis=2).astype(np.float32)
    scores = (draw.permuted(np.tile(np.arange(900), (3, 1)), axis=1) / 900).astype(np.float32)  # no ties
    scores[1] *= 0.205
    scores[2] *= 0.2
    factor = np.array([2, 0.5, 2, 0.5], np.float32)
    model = make_model(suppression(detector), opset_imports=[make_opsetid("", OPSET)], ir_version=IR_VERSION)
    kept_by_onnx = run(model.SerializeToString(), every_box=boxes, every_score=scores, to_image=factor)
    counts = []
    for number in range(3):
        size = (150, 600)
        kept = detector._best(torch.from_numpy(boxes[number]), torch.from_numpy(scores[number : number + 1]), size)
        of_image = kept_by_onnx[2] == number
        np.testing.assert_array_equal(kept_by_onnx[0][of_image], kept["boxes"])
        np.testing.assert_array_equal(kept_by_onnx[1][of_image], kept["scores"])
        counts.append(of_image.sum())
    assert counts[0] == 30 > counts[1] > counts[2] == 0


def test_the_command_compares_on_the_images_given_and_says_how_close_it_came(
    world, run_cmbfe, made_otherwise, tmp_path
):
    made_otherwise()
    out = tmp_path / "deep" / "detector.onnx"
    status, said, _ = run_cmbfe("export", "--model", world / "model", "--out", out, "--pictures", world / "pictures")
    assert status == 0
    assert re.search(r"on 6 images: scores differ by at most \d\.\de-\d\d, .*; the same detections in \d\n", said)
    assert [file.name for file in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"detector_classification_0_weight": lambda w: w * 1.01}, r"differ by \S*e-0[34] in scores and \S*e-0[67] of"),
    ({"detector_regression_0_weight": lambda w: w * 1.2}, r"differ by \S*e-0[67] in scores and \S*e-0[34] of"),
    ({"detector_classification_0_weight": lambda w: w * np.float32(np.nan)}, "differ by nan in scores"),
    ({"iou": lambda limit: limit / 4}, "keeps other boxes than PyTorch of the same boxes and scores in 4 of 4"),
    ({"kept": lambda number: number - 1}, "keeps other boxes than PyTorch"),
])  # fmt: skip
def test_a_file_that_differs_is_not_written_and_the_earlier_one_stays(
    world, made_otherwise, tmp_path, changes, reason
):
    made_otherwise(**changes)
    (tmp_path / "detector.onnx").write_bytes(b"an earlier one")
    with pytest.raises(InputError, match=rf"detector\.onnx: not written, as onnxruntime .*{reason}"):
        export_onnx(load_model(world / "model"), tmp_path / "detector.onnx")
    assert tree(tmp_path) == {"detector.onnx": b"an earlier one"}


def test_what_cannot_be_exported_is_refused_in_one_line(world, run_cmbfe, made_otherwise, tmp_path):
    made_otherwise()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.png").write_bytes(b"no image")
    before = tree(tmp_path)
    model, out = ["--model", world / "model"], ["--out", tmp_path / "detector.onnx"]
    for arguments, reason in (
        ([*model, "--out", tmp_path / "detector.pt"], "detector.pt: the name of an ONNX file ends in .onnx"),
        (["--model", tmp_path, *out], "config.json: no such file"),
        ([*model, *out, "--pictures", world / "model"], "model: no PNG or JPG image there"),
        ([*model, *out, "--pictures", tmp_path / "absent"], "absent: no such file or folder"),
        ([*model, *out, "--pictures", tmp_path / "broken"], "one.png: not a readable image"),
    ):
        status, said, err = run_cmbfe("export", *arguments)
        assert (status, said) == (2, "")
        assert reason in err.splitlines()[-1]
        assert tree(tmp_path) == before
    with pytest.raises(InputError, match="knows 4 classes"):
        to_onnx(SSD(Config("ssd300", num_classes=5, width=0.1)))


def test_the_example_of_the_docs_runs(world, tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    for name, number in (("first.png", 1), ("second.png", 2)):
        (tmp_path / name).write_bytes((world / "pictures" / f"P{number}" / "000.png").read_bytes())
    (tmp_path / "ssd300-fe.onnx").write_bytes((world / "ssd300-fe.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/export.md", "exec"), {})
    said = capsys.readouterr().out
    assert "'variant': 'ssd300-fe'" in said
    assert re.search(r"image 1: x1, y1, x2, y2 = \[.*\] px, score", said)
