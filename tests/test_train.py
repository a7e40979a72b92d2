"""Training: reproducible bit for bit, also when interrupted; never mixed with other settings, data or code."""

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_world import BOX, labelled_pictures, tiny_params, tree

from cmbfe import train as training
from cmbfe.data.dataset import batch_indices
from cmbfe.data.labels import LABELS_FILE
from cmbfe.detector.ssd import SSD
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.params import load_params, profile_file
from cmbfe.train import build_from_params, train

VGG_FILE = Path(__file__).parents[2] / "shared" / "weights" / "vgg16_features.safetensors"


class Stopped(Exception):
    """The training was started, or came to where it is interrupted."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # Of the module, so that it comes before `finished`: another number of threads adds up in another order.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    labelled_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    """An uninterrupted training of `tiny_params()`; not to be written to."""
    out = tmp_path_factory.mktemp("models") / "finished"
    run(data, out)
    return out


def run(data: Path, out: Path, variant: str = "ssd300-fe", seed: int = 7, **settings: object) -> pd.DataFrame:
    return train(variant, tiny_params(seed, **settings), data, out, progress=False)


def interrupt(data: Path, out: Path, after: int, **settings: object) -> None:
    """Run a training that is interrupted once `after` iterations are done."""
    step = training._step

    def interrupted(state: training.Run, *args: object) -> None:
        if state.iteration == after:
            raise Stopped
        step(state, *args)

    with mock.patch.object(training, "_step", interrupted), pytest.raises(Stopped):
        run(data, out, **settings)


def is_started(data: Path, out: Path, **settings: object) -> bool:
    """Whether `train` begins a training, which is then stopped before its first iteration."""
    try:
        interrupt(data, out, after=0, **settings)
    except pytest.fail.Exception:
        return False
    return True


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_the_result_is_a_model_with_its_settings_and_history(finished):
    assert set(tree(finished)) == {"config.json", "finished.json", "history.csv", "model.safetensors", "params.yaml"}
    assert load_model(finished).config.variant == "ssd300-fe"
    history = pd.read_csv(finished / "history.csv")
    assert list(history) == ["iteration", "classification", "box_regression", "learning_rate"]
    assert history["iteration"].tolist() == [1, 2, 3, 4]
    assert np.isfinite(history.to_numpy()).all()


def test_the_learning_rate_falls_after_each_milestone(finished):
    history = pd.read_csv(finished / "history.csv")
    np.testing.assert_allclose(history["learning_rate"], [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-12)


def test_the_same_seed_gives_the_same_files_and_another_seed_other_weights(finished, data, tmp_path):
    run(data, tmp_path / "again")
    run(data, tmp_path / "other", seed=8)
    assert tree(tmp_path / "again") == tree(finished)
    assert weights(tmp_path / "other") != weights(finished)


def test_an_interrupted_training_ends_with_the_same_files_bit_for_bit(finished, data, tmp_path, capsys):
    interrupt(data, tmp_path / "out", after=3)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    history = run(data, tmp_path / "out")
    assert "going on from" in (said := capsys.readouterr().out)
    assert "after 2 iterations" in said
    assert tree(tmp_path / "out") == tree(finished)
    assert len(history) == 4


def test_interrupted_while_it_writes_a_checkpoint_it_goes_on_from_the_one_before(
    finished, data, tmp_path, monkeypatch, capsys
):
    save = torch.save

    def half_of_the_third(state: dict, path: Path) -> None:
        save(state, path)
        if len(state["history"]) == 3:
            path.write_bytes(path.read_bytes()[:1000])
            raise Stopped

    monkeypatch.setattr(torch, "save", half_of_the_third)
    with pytest.raises(Stopped):
        run(data, tmp_path / "out", checkpoint_every=1)
    monkeypatch.undo()
    run(data, tmp_path / "out", checkpoint_every=1)
    assert "after 2 iterations" in capsys.readouterr().out
    assert weights(tmp_path / "out") == weights(finished)


@pytest.mark.parametrize("bytes_left", [0, 100_000])
def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(finished, data, tmp_path, capsys, bytes_left):
    interrupt(data, tmp_path / "out", after=3, checkpoint_every=1)
    (newest,) = (tmp_path / "out" / "checkpoints").glob("iteration0000003-*.pt")
    newest.write_bytes(newest.read_bytes()[:bytes_left])
    run(data, tmp_path / "out", checkpoint_every=1)
    said = capsys.readouterr().out
    assert f"{newest}: unreadable checkpoint passed over" in said
    assert "after 2 iterations" in said
    assert weights(tmp_path / "out") == weights(finished)


def test_only_the_two_newest_checkpoints_are_kept(data, tmp_path):
    interrupt(data, tmp_path / "out", after=3, checkpoint_every=1)
    names = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert [name.split("-")[0] for name in names] == ["iteration0000002", "iteration0000003"]


def test_a_checkpoint_of_other_settings_is_passed_over_and_the_difference_said(finished, data, tmp_path, capsys):
    interrupt(data, tmp_path / "out", after=2, learning_rate=2e-3)
    run(data, tmp_path / "out")
    assert "other settings passed over: training.learning_rate: 0.002 there, 0.001 here" in capsys.readouterr().out
    assert tree(tmp_path / "out") == tree(finished)


def test_later_checkpoints_of_other_settings_do_not_push_out_ours(finished, data, tmp_path, capsys):
    interrupt(data, tmp_path / "out", after=3, checkpoint_every=1, learning_rate=2e-3)
    interrupt(data, tmp_path / "out", after=1, checkpoint_every=1)
    run(data, tmp_path / "out", checkpoint_every=1)
    assert "after 1 iterations" in capsys.readouterr().out
    assert weights(tmp_path / "out") == weights(finished)


def test_a_checkpoint_of_other_code_is_passed_over(data, tmp_path, monkeypatch, capsys):
    interrupt(data, tmp_path / "out", after=2)
    monkeypatch.setattr(training, "code_hash", lambda: "edited")
    assert is_started(data, tmp_path / "out")
    assert "code_sha256" in capsys.readouterr().out


def test_a_finished_training_is_not_repeated(finished, data, capsys):
    before = tree(finished)
    assert not is_started(data, finished)
    history = run(data, finished)
    assert f"{finished}: trained already" in capsys.readouterr().out
    pd.testing.assert_frame_equal(history, pd.read_csv(finished / "history.csv"))
    assert tree(finished) == before


@pytest.mark.parametrize("settings", [{"seed": 8}, {"learning_rate": 2e-3}, {"iterations": 5}, {"variant": "ssd300"}])
def test_a_finished_training_is_repeated_with_other_settings(finished, data, settings):
    assert is_started(data, finished, **settings)


def test_a_finished_training_is_repeated_with_other_code(finished, data, monkeypatch):
    monkeypatch.setattr(training, "code_hash", lambda: "edited")
    assert is_started(data, finished)


def test_the_hash_of_the_code_changes_with_the_detector_and_not_with_the_figures(tmp_path, monkeypatch):
    package = Path(training.__file__).parent
    for file in (*package.glob("*.py"), *package.glob("*/*.py")):
        copy = tmp_path / file.relative_to(package)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    before = training.code_hash()
    monkeypatch.setattr(training, "__file__", str(tmp_path / "train.py"))
    assert training.code_hash() == before
    (tmp_path / "figures.py").write_text("# a new look")
    assert training.code_hash() == before
    (tmp_path / "detector" / "fe.py").write_text("# another layer")
    assert training.code_hash() != before


@pytest.mark.parametrize("changed", ["picture", "box", "box on another picture"])
def test_a_finished_training_is_repeated_with_other_data(finished, tmp_path, changed):
    labels = labelled_pictures(tmp_path)
    assert not is_started(tmp_path, finished)
    if changed == "picture":
        pixels = np.array(Image.open(tmp_path / "P3" / "000.png"))
        pixels[0, 0] += 1
        Image.fromarray(pixels).save(tmp_path / "P3" / "000.png")
    else:
        change = {"bbox": [BOX[0] + 0.5, *BOX[1:]]} if changed == "box" else {"image_id": 4}
        labels["annotations"][2].update(change)
        (tmp_path / LABELS_FILE).write_text(json.dumps(labels))
    assert is_started(tmp_path, finished)


def test_twins_begin_with_the_same_weights_and_see_the_same_batches(data, tmp_path, monkeypatch):
    plain, enhanced = (build_from_params(name, tiny_params()).state_dict() for name in ("ssd300", "ssd300-fe"))
    assert {name: tensor.shape for name, tensor in plain.items()} == {n: t.shape for n, t in enhanced.items()}
    assert all(torch.equal(tensor, enhanced[name]) for name, tensor in plain.items())

    seen: list[bytes] = []
    to_input = training.to_input

    def spy(batch: np.ndarray, device: torch.device) -> torch.Tensor:
        seen.append(batch.tobytes())
        return to_input(batch, device)

    monkeypatch.setattr(training, "to_input", spy)
    histories = [run(data, tmp_path / name, name, iterations=3, milestones=()) for name in ("ssd300", "ssd300-fe")]
    assert seen[:3] == seen[3:]
    assert histories[0]["classification"][0] != histories[1]["classification"][0]  # FE is there


def test_a_loss_that_is_not_finite_stops_and_names_iteration_learning_rate_and_pictures(data, tmp_path):
    with pytest.raises(InputError) as caught:
        run(data, tmp_path / "out", learning_rate=1e30)
    names = [f"P{index + 1}/000.png" for index in batch_indices(5, 2, iteration=1, seed=7)]
    assert "iteration 2, learning rate 1e+30" in str(caught.value)
    assert ", ".join(names) in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_boxes_reach_the_model_in_float32_while_convolutions_are_bf16(data, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []
    dtypes: list[torch.dtype] = []
    forward = SSD.forward

    def spy(model: SSD, images: torch.Tensor, targets: list[dict] | None = None) -> object:
        seen.extend([images, *(target["boxes"] for target in targets)])
        model.stem[0].register_forward_hook(lambda layer, given, result: dtypes.append(result.dtype))
        return forward(model, images, targets)

    monkeypatch.setattr(SSD, "forward", spy)
    run(data, tmp_path / "out", precision="bf16-mixed", iterations=1, milestones=())
    x, y, width, height = BOX
    assert dtypes == [torch.bfloat16]
    assert all(tensor.dtype == torch.float32 for tensor in seen)
    for boxes in seen[1:]:
        np.testing.assert_allclose(boxes.numpy(), [[x, y, x + width, y + height]], rtol=1e-6)


def test_an_unknown_variant_is_refused_and_an_earlier_result_stays(finished, data):
    before = tree(finished)
    with pytest.raises(InputError, match=r"'ssd1024'.*ssd300-fe"):
        run(data, finished, "ssd1024")
    assert tree(finished) == before


def test_a_result_stays_whole_until_the_next_is_finished(finished, data, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    interrupt(data, out, after=1, learning_rate=2e-3, checkpoint_every=1)
    assert weights(out) == weights(finished)
    assert not is_started(data, out)


def test_a_result_that_is_half_replaced_is_not_taken_for_the_old_one(finished, data, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "out")
    monkeypatch.setattr(training, "save_model", mock.Mock(side_effect=Stopped))
    with pytest.raises(Stopped):
        run(data, out, learning_rate=2e-3)
    assert is_started(data, out)


def test_a_folder_of_something_else_is_not_written_to(data, tmp_path):
    (tmp_path / "config.json").write_text("somebody else's model")
    before = tree(tmp_path)
    with pytest.raises(InputError, match="holds other things"):
        run(data, tmp_path)
    with pytest.raises(InputError, match="is a file"):
        run(data, tmp_path / "config.json")
    assert tree(tmp_path) == before


@pytest.mark.skipif(not VGG_FILE.is_file(), reason="the ImageNet weights of VGG-16 are not beside the project")
def test_the_paper_profiles_ssd512_begins_with_imagenet_weights_and_finite_losses(data, tmp_path, caplog):
    paper = load_params(profile_file("paper"))
    weights = paper.detector.weights.model_copy(update={"vgg16": str(VGG_FILE)})
    detector = paper.detector.model_copy(update={"weights": weights})
    schedule = paper.training.model_copy(update={"iterations": 1, "milestones": (), "accelerator": "cpu"})
    params = paper.model_copy(update={"detector": detector, "training": schedule})
    history = train("ssd512-fe", params, data, tmp_path / "out", progress=False)
    assert np.isfinite(history.to_numpy()).all()
    assert "conv6, conv7, the extra layers and the heads start afresh" in caplog.text
    model = load_model(tmp_path / "out")
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert len(model.default_boxes) == 24564
