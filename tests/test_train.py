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
from safetensors.torch import save_file
from tiny_world import BOX, labelled_images, tiny_params, tree
from torch import nn

from cmbfe.data.labelled.labels import LABELS_FILE, read_labels
from cmbfe.detector.backbones import COMPRESSED, vgg16
from cmbfe.detector.ssd import SSD
from cmbfe.detector.weights import load_model
from cmbfe.errors import InputError
from cmbfe.files import read_json, sha256_of, write_json
from cmbfe.params import load_params, profile_file
from cmbfe.training import batches, iteration
from cmbfe.training import loop as training
from cmbfe.training.batches import batch_indices
from cmbfe.training.iteration import Run
from cmbfe.training.loop import build_from_params, train

VGG_FILE = Path(__file__).parents[2] / "shared" / "weights" / "vgg16_features.safetensors"


class Stopped(Exception):
    """The training was started, or came to where it is interrupted."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    labelled_images(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    """An uninterrupted training of `tiny_params()`; not to be written to."""
    out = tmp_path_factory.mktemp("models") / "finished"
    run(data, out)
    return out


def run(
    data: Path,
    out: Path,
    variant: str = "ssd300-fe",
    seed: int = 7,
    validation: Path | None = None,
    fe: dict | None = None,
    **settings: object,
) -> pd.DataFrame:
    """Train with `tiny_params`; fe: changes of detector.fe, settings: of training."""
    params = tiny_params(seed, **settings)
    enhancement = params.detector.fe.model_copy(update=fe or {})
    params = params.model_copy(update={"detector": params.detector.model_copy(update={"fe": enhancement})})
    return train(variant, params, data, out, progress=False, validation=validation)


def is_interrupted(data: Path, out: Path, after: int, **settings: object) -> bool:
    """Run a training that is interrupted once `after` iterations are done; False where it came to its end."""
    step = Run.step

    def step_or_stop(state: Run, parts: list) -> dict:
        if state.iteration == after:
            raise Stopped
        return step(state, parts)

    with mock.patch.object(Run, "step", step_or_stop):
        try:
            run(data, out, **settings)
        except Stopped:
            return True
    return False


def is_started(data: Path, out: Path, **settings: object) -> bool:
    """Whether `train` begins a training, which is then stopped before its first iteration."""
    return is_interrupted(data, out, after=0, **settings)


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def test_the_result_is_a_model_with_its_settings_and_history(finished):
    files = {path.name for path in finished.iterdir() if path.is_file()}
    assert files == {"config.json", "finished.json", "history.csv", "model.safetensors", "params.yaml"}
    assert {path.name for path in finished.iterdir() if path.is_dir()} == {"live"}
    assert load_model(finished).config.variant == "ssd300-fe"
    history = pd.read_csv(finished / "history.csv")
    losses = ["classification", "box_regression", "gradient_norm"]
    assert list(history) == ["iteration", *losses, "learning_rate", "validation_ap"]
    assert history["iteration"].tolist() == [1, 2, 3, 4]
    assert np.isfinite(history[losses]).all(axis=None)
    assert history["validation_ap"].isna().all()
    np.testing.assert_allclose(history["learning_rate"], [1e-3, 1e-3, 1e-4, 1e-5], rtol=1e-12)


def test_a_training_has_the_threads_of_its_settings_whatever_the_machine_has(data, finished, tmp_path, monkeypatch):
    seen: list[int] = []
    step = Run.step

    def spy(state: Run, parts: list) -> dict:
        seen.append(torch.get_num_threads())
        return step(state, parts)

    monkeypatch.setattr(Run, "step", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(data, tmp_path / "out")
        run(data, tmp_path / "more", threads=4, iterations=1, milestones=())
        monkeypatch.setattr(training, "started_processes", lambda: (2, 1))  # which share them
        run(data, tmp_path / "shared", threads=4, iterations=1, milestones=())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1, 1, 1, 4, 2]
    assert weights(tmp_path / "out") == weights(finished)


def test_bf16_that_the_machine_emulates_runs_with_a_warning(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "multiplies_bf16", lambda device_type: False)
    for precision, warnings in (("bf16-mixed", 1), ("32-true", 0)):
        run(data, tmp_path / precision, precision=precision, iterations=1, milestones=())
        assert capsys.readouterr().out.count("warning: this cpu emulates bf16-mixed") == warnings
        assert training.trained_in(tmp_path / precision) == {"precision": precision, "threads": 1}


def test_the_same_seed_gives_the_same_files_and_an_unreached_limit_of_the_gradient_changes_nothing(
    finished, data, tmp_path
):
    run(data, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(finished)
    run(data, tmp_path / "unreached", clip_gradient_norm=1e12)
    assert weights(tmp_path / "unreached") == weights(finished)


@pytest.mark.parametrize(
    "settings", [{"seed": 8}, {"clip_gradient_norm": 1e-6}, {"fe": {"layer": "assisted_excitation"}}]
)
def test_other_settings_give_other_weights(finished, data, tmp_path, settings):
    run(data, tmp_path, **settings)
    assert weights(tmp_path) != weights(finished)
    assert load_model(tmp_path).config.layer == settings.get("fe", {}).get("layer", "enhancement")


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(finished, data, tmp_path, capsys):
    assert is_interrupted(data, tmp_path / "out", after=3, checkpoint_every=1)
    before, newest = sorted((tmp_path / "out" / "checkpoints").iterdir())
    assert (before.name, newest.name) == ("iteration000000002.pt", "iteration000000003.pt")
    newest.write_bytes(newest.read_bytes()[:100_000])
    left = newest.with_name(".iteration000000003.4711.partial.pt")  # by a killed writer
    left.write_bytes(b"half")
    run(data, tmp_path / "out", checkpoint_every=1)
    said = capsys.readouterr().out
    assert f"{newest}: unreadable" in said
    assert "after 2 iterations" in said
    assert tree(tmp_path / "out").keys() == tree(finished).keys()
    assert weights(tmp_path / "out") == weights(finished)


def test_a_checkpoint_of_other_settings_is_refused_and_left_and_the_difference_said(finished, data, tmp_path):
    out = tmp_path / "out"
    assert is_interrupted(data, out, after=3)
    before = tree(out)
    for settings, difference in (
        ({"learning_rate": 2e-3}, "training.learning_rate: 0.001 there, 0.002 here"),
        ({"seed": 8}, "seed: 7 there, 8 here"),
        ({"variant": "ssd300"}, "variant: ssd300-fe there, ssd300 here"),
        ({"precision": "bf16-mixed"}, "training.precision: 32-true there, bf16-mixed here"),
        ({"threads": 3}, "training.threads: 1 there, 3 here"),
    ):
        with pytest.raises(InputError, match=f"{out / 'checkpoints' / 'iteration000000002.pt'}: .*{difference}"):
            run(data, out, **settings)
        assert tree(out) == before
    run(data, out)
    assert tree(out) == tree(finished)


def test_a_checkpoint_of_other_code_is_resumed_with_a_warning_that_the_result_keeps(
    finished, data, tmp_path, monkeypatch, capsys
):
    assert is_interrupted(data, tmp_path / "out", after=3)
    monkeypatch.setattr(training, "code_hash", lambda measures: "edited")
    run(data, tmp_path / "out")
    said = capsys.readouterr().out
    assert "after 2 iterations" in said
    assert "warning" in said
    known, edited = (json.loads((out / "finished.json").read_text()) for out in (finished, tmp_path / "out"))
    assert (known["warnings"], len(edited["warnings"]), edited["code_sha256"]) == ([], 1, "edited")
    assert weights(tmp_path / "out") == weights(finished)


def test_where_and_how_often_a_training_saves_may_change_on_the_way(finished, data, tmp_path, capsys):
    assert is_interrupted(data, tmp_path / "out", after=3)
    run(data, tmp_path / "out", checkpoint_every=1, decoded_gib=0.0, devices=1, nodes=1)
    said = capsys.readouterr().out
    assert "after 2 iterations" in said
    assert "decoded anew for each batch" in said
    differing = {name for name, content in tree(tmp_path / "out").items() if content != tree(finished)[name]}
    assert differing == {"params.yaml"}


def test_a_finished_training_is_not_repeated_and_checkpoints_left_at_its_very_end_go(
    finished, data, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "checkpoints").mkdir()
    assert not is_started(data, out)
    history = run(data, out)
    assert f"{out}: trained already" in capsys.readouterr().out
    pd.testing.assert_frame_equal(history, pd.read_csv(finished / "history.csv"))
    assert tree(out) == tree(finished)


def test_a_finished_training_is_repeated_with_other_settings_or_code_and_that_is_said(
    finished, data, tmp_path, monkeypatch, capsys
):
    out = shutil.copytree(finished, tmp_path / "out")
    for settings, named in (({"seed": 8}, "seed: 7 there, 8 here"), ({"learning_rate": 2e-3}, "learning_rate")):
        assert is_started(data, out, **settings)
        assert f"replaces a finished training: {named}" in capsys.readouterr().out.replace("training.", "")
    monkeypatch.setattr(training, "code_hash", lambda measures: "edited")
    assert is_started(data, out)
    assert "other code" in capsys.readouterr().out


def test_the_folder_of_another_trained_detector_is_refused_and_left(finished, data, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    with pytest.raises(InputError, match="ssd300-fe, not ssd300"):
        run(data, out, variant="ssd300")
    assert tree(out) == tree(finished)


@pytest.mark.parametrize(("change", "message"), [
    (lambda labels: labels["images"][1].update(split="test"), "split 'test'"),
    (lambda labels: [labels["categories"].append({"id": 2, "name": "vein"}),
                     labels["annotations"][0].update(category_id=2)], "2 categories"),
    (lambda labels: labels.update(annotations=[]), "0 categories"),
])  # fmt: skip
def test_other_splits_and_other_kinds_of_boxes_are_not_trained_on(change, message, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    labels = read_json(folder / LABELS_FILE)
    change(labels)
    write_json(folder / LABELS_FILE, labels)
    with pytest.raises(InputError, match=message):
        run(folder, tmp_path / "out")


def test_the_hash_of_the_code_changes_with_what_a_training_runs_through_alone(tmp_path, monkeypatch):
    def hashes() -> list[str]:
        return [training.code_hash(measures) for measures in (False, True)]

    package, before = Path(training.__file__).parent.parent, hashes()
    shutil.copytree(package, tmp_path / "cmbfe", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(training, "__file__", str(tmp_path / "cmbfe" / "training" / "loop.py"))
    assert hashes() == before
    for file, changes in {
        "detector/fe.py": [True, True],
        "data/labelled/images.py": [True, True],
        "metrics/curves.py": [False, True],  # where the AP on validation patients is measured
        "data/sources/dicom.py": [False, False],
        "figures/style.py": [False, False],
    }.items():
        before = hashes()
        with (tmp_path / "cmbfe" / file).open("a") as code:
            code.write("# edited")
        assert [new != old for new, old in zip(hashes(), before, strict=True)] == changes


def test_twins_begin_with_the_same_weights_and_see_the_same_batches(data, tmp_path, monkeypatch):
    plain, enhanced = (build_from_params(name, tiny_params()).state_dict() for name in ("ssd300", "ssd300-fe"))
    assert {name: tensor.shape for name, tensor in plain.items()} == {n: t.shape for n, t in enhanced.items()}
    assert all(torch.equal(tensor, enhanced[name]) for name, tensor in plain.items())

    seen: list[bytes] = []
    to_input = iteration.to_input

    def spy(batch: np.ndarray, device: torch.device) -> torch.Tensor:
        seen.append(batch.tobytes())
        return to_input(batch, device)

    monkeypatch.setattr(iteration, "to_input", spy)
    histories = [run(data, tmp_path / name, name, iterations=3, milestones=()) for name in ("ssd300", "ssd300-fe")]
    assert seen[:3] == seen[3:]
    assert histories[0]["classification"][0] != histories[1]["classification"][0]  # FE is there


def test_a_loss_that_is_not_finite_stops_and_names_iteration_learning_rate_and_images(data, tmp_path):
    with pytest.raises(InputError) as caught:
        run(data, tmp_path / "out", learning_rate=1e30)
    names = [f"P{index + 1}/000.png" for index in batch_indices(5, 2, iteration=1, seed=7)]
    assert "iteration 2, learning rate 1e+30" in str(caught.value)
    assert ", ".join(names) in str(caught.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()


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


def test_a_result_stays_until_the_next_is_finished_and_half_replaced_is_taken_for_neither(
    finished, data, tmp_path, monkeypatch
):
    out = shutil.copytree(finished, tmp_path / "out")
    assert is_interrupted(data, out, after=2, learning_rate=2e-3, checkpoint_every=1)
    assert weights(out) == weights(finished)
    assert not is_started(data, out)
    monkeypatch.setattr(training, "save_model", mock.Mock(side_effect=Stopped))
    with pytest.raises(Stopped):
        run(data, out, learning_rate=2e-3)
    shutil.rmtree(out / "checkpoints")
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
    short = {"iterations": 1, "milestones": (), "accelerator": "cpu", "batch": 1}
    schedule = paper.training.model_copy(update=short)
    params = paper.model_copy(update={"detector": detector, "training": schedule})
    history = train("ssd512-fe", params, data, tmp_path / "out", progress=False)
    assert np.isfinite(history[["classification", "box_regression", "gradient_norm"]]).all(axis=None)
    assert "conv6, conv7, the extra layers and the heads start afresh" in caplog.text
    model = load_model(tmp_path / "out")
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert len(model.default_boxes) == 24564


def begun(variant: str, data: Path, folder: Path, trunk: Path | None) -> tuple[training.Task, Run]:
    """A training that is to begin, with that file for VGG-16 and two blocks frozen."""
    params = tiny_params(frozen_blocks=2)
    weights = params.detector.weights.model_copy(update={"vgg16": trunk and str(trunk)})
    params = params.model_copy(update={"detector": params.detector.model_copy(update={"weights": weights})})
    task = training._task(variant, params, data, None, None)
    return task, training._begun(task, folder)[0]


@pytest.fixture(scope="module")
def trunk(tmp_path_factory) -> Path:
    """Weights of the smoke profile's VGG-16 under torchvision's names, random."""
    stem, blocks, _ = vgg16(300, tiny_params().detector.width)
    file = tmp_path_factory.mktemp("trunk") / "vgg16.safetensors"
    layers = nn.Sequential(*stem, *list(blocks[0])[:-1])
    save_file({f"features.{name}": weight for name, weight in layers.state_dict().items()}, file)
    return file


def test_frozen_blocks_get_no_gradient_and_stay_and_fe_acts_behind_them(data, trunk, tmp_path):
    images = batches.load_labelled(read_labels(data / LABELS_FILE), data)
    frozen = {f"stem.{layer}.{kind}" for layer in (0, 2, 5, 7) for kind in ("weight", "bias")}
    rows = []
    for variant in ("ssd300", "ssd300-fe"):
        _, run = begun(variant, data, tmp_path, trunk)
        before = {name: weight.clone() for name, weight in run.bare_model.named_parameters()}
        rows.append(run.step(batches.parts_of_iteration(images, 1, 2, 1, (0, 1), 0)))
        after = dict(run.bare_model.named_parameters())
        assert {name for name, weight in after.items() if weight.grad is None} == frozen
        assert frozen < after.keys()
        assert all(torch.equal(after[name], before[name]) for name in frozen)
        assert not torch.equal(after["stem.10.weight"], before["stem.10.weight"])
    assert rows[0]["classification"] != rows[1]["classification"]


def test_fresh_weights_are_not_frozen_and_trunks_without_such_blocks_train_whole(data, tmp_path):
    with pytest.raises(InputError, match=r"training\.frozen_blocks: 2"):
        begun("ssd300", data, tmp_path, trunk=None)
    _, run = begun("mobilenet320", data, tmp_path, trunk=None)
    assert all(weight.requires_grad for weight in run.bare_model.parameters())


def test_a_training_is_known_by_the_content_of_the_file_that_its_trunk_starts_from(data, trunk, tmp_path):
    assert begun("ssd300", data, tmp_path, trunk)[0].key["weights_sha256"] == sha256_of([trunk])
    of_mobilenet = begun("mobilenet320", data, tmp_path, trunk)[0].key["weights_sha256"]
    assert of_mobilenet == sha256_of([COMPRESSED["mobilenet_v2"]])


def test_the_width_of_another_detector_changes_nothing_and_the_own_width_is_part_of_the_key(data):
    params = tiny_params()
    half = params.detector.model_copy(update={"wider": {"mobilenet320": 2.0}})
    changed = params.model_copy(update={"detector": half})
    keys = [
        [training._task(variant, settings, data, None, None).key for settings in (params, changed)]
        for variant in ("resnet34-300", "mobilenet320-fe")
    ]
    assert keys[0][0] == keys[0][1]
    assert [key["detector"]["width"] for key in keys[1]] == [1.0, 0.5]


@pytest.fixture(scope="module")
def validation(tmp_path_factory) -> Path:
    """Two images of the validation split with a microbleed, and two without."""
    folder = tmp_path_factory.mktemp("validation")
    labels = labelled_images(folder, 4)
    for image in labels["images"]:
        image["split"] = "validation"
    labels["annotations"] = labels["annotations"][:2]
    (folder / LABELS_FILE).write_text(json.dumps(labels))
    return folder


def test_the_validation_ap_is_measured_where_due_and_at_the_end_and_the_first_best_model_is_kept(
    data, validation, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "validation_ap", mock.Mock(side_effect=[0.5, 0.5]))
    settings = {"iterations": 3, "milestones": (), "validate_every": 2}
    history = run(data, tmp_path / "out", validation=validation, **settings)
    assert history["validation_ap"].tolist()[1:] == [0.5, 0.5]
    assert np.isnan(history["validation_ap"][0])
    best = tmp_path / "out" / "best"
    assert json.loads((best / "validation.json").read_text()) == {"ap": 0.5, "iteration": 2}
    run(data, tmp_path / "two", iterations=2, milestones=())
    assert weights(best) == weights(tmp_path / "two")
    assert weights(best) != weights(tmp_path / "out")
    assert load_params(best / "params.yaml") == tiny_params(**settings)


def test_measuring_changes_nothing_in_the_training_and_no_best_model_outlives_its_validation(
    finished, data, validation, tmp_path
):
    history = run(data, tmp_path / "out", validation=validation, validate_every=1)
    assert history["validation_ap"].between(0, 1).all()
    assert weights(tmp_path / "out") == weights(finished)
    assert (tmp_path / "out" / "best").is_dir()
    run(data, tmp_path / "out")
    assert not (tmp_path / "out" / "best").exists()


def test_a_checkpoint_whose_validation_ap_has_another_iou_is_refused(data, validation, tmp_path):
    assert is_interrupted(data, tmp_path / "out", after=3, validation=validation)
    params = tiny_params()
    params = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"iou": 0.9})})
    with pytest.raises(InputError, match=r"evaluation\.iou: 0\.5 there, 0\.9 here"):
        train("ssd300-fe", params, data, tmp_path / "out", progress=False, validation=validation)


def test_an_interrupted_training_ends_with_the_same_best_model_and_curves(data, validation, tmp_path, monkeypatch):
    settings = {"validation": validation, "validate_every": 1, "checkpoint_every": 2}
    # Iterations 1 to 4 have 0.1, 0.7, 0.3 and 0.2; one that is repeated has its value again.
    for after, values in ((4, [0.1, 0.7, 0.3, 0.2]), (1, [0.1, 0.1, 0.7, 0.3, 0.2]), (3, [0.1, 0.7, 0.3, 0.3, 0.2])):
        monkeypatch.setattr(training, "validation_ap", mock.Mock(side_effect=values))
        out = tmp_path / str(after)
        assert is_interrupted(data, out, after, **settings) is (after < 4)
        run(data, out, **settings)
        assert json.loads((out / "best" / "validation.json").read_text()) == {"ap": 0.7, "iteration": 2}
        assert tree(out) == tree(tmp_path / "4")


def test_accumulated_batches_and_one_batch_of_all_their_images_give_the_same_update(data, tmp_path):
    # Every image has one box, hence as many matches: the mean over batches is that over images.
    whole = run(data, tmp_path / "whole", batch=4, iterations=3, milestones=())
    parts = run(data, tmp_path / "parts", batch=2, accumulate=2, iterations=3, milestones=())
    np.testing.assert_allclose(parts["classification"], whole["classification"], rtol=1e-3)
    assert parts["classification"][2] != parts["classification"][0]


def test_the_learning_rate_rises_in_equal_steps_over_the_warm_up_and_falls_after_each_milestone():
    settings = tiny_params(warm_up_iterations=4, milestones=(5, 7)).training
    factors = [iteration.learning_rate_factor(settings, number) for number in range(8)]
    np.testing.assert_allclose(factors, [0.25, 0.5, 0.75, 1, 1, 0.1, 0.1, 0.01], rtol=1e-12)


def test_fe_that_fades_begins_at_full_strength_and_ends_near_none(data, tmp_path, monkeypatch):
    seen: list[float] = []
    step = Run.step

    def spy(self: Run, parts: list) -> dict:
        row = step(self, parts)
        seen.append(self.bare_model.fe.strength)
        return row

    monkeypatch.setattr(Run, "step", spy)
    run(data, tmp_path / "out", fe={"schedule": "cosine"})
    np.testing.assert_allclose(seen, [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2], rtol=1e-12)


@pytest.mark.parametrize("variant", ["ssd300-fe", "resnet34-300"])
def test_a_planted_nan_stops_the_training_and_its_image_is_named(data, tmp_path, monkeypatch, variant):
    """Also with batch normalisation, which mixes the images of a batch."""
    name = f"P{batch_indices(5, 2, iteration=1, seed=7)[1] + 1}/000.png"
    bad = np.array(Image.open(data / name))
    to_input = iteration.to_input

    def plant(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
        images = to_input(pixels, device).clone()
        for image, own in zip(images, pixels, strict=True):
            if np.array_equal(own, bad):
                image[:, 10, 10] = float("nan")
        return images

    monkeypatch.setattr(iteration, "to_input", plant)
    with pytest.raises(InputError, match=f"alone, only {name} does: look at its pixels") as caught:
        run(data, tmp_path / "out", variant)
    assert "at iteration 2, learning rate 0.001" in str(caught.value)


def test_the_last_checkpoint_is_intact_after_a_stop(finished, data, tmp_path, monkeypatch):
    backward = Run._backward

    def poisoned(self: Run, part: object, last: bool) -> dict:
        losses = backward(self, part, last)
        if self.iteration == 3:
            next(weights for weights in self.bare_model.parameters() if weights.requires_grad).grad[0] = float("inf")
        return losses

    with (
        mock.patch.object(Run, "_backward", poisoned),
        pytest.raises(InputError, match=r"gradient_norm inf at iteration 4.* none of them does so alone"),
    ):
        run(data, tmp_path / "out", checkpoint_every=1)
    run(data, tmp_path / "out", checkpoint_every=1)
    assert weights(tmp_path / "out") == weights(finished)


def test_a_box_that_cannot_be_trained_on_is_named_by_its_image(data, tmp_path, monkeypatch):
    to_targets = iteration.to_targets

    def flat(boxes: list, device: torch.device) -> list[dict]:
        targets = to_targets(boxes, device)
        targets[1]["boxes"][0, 2] = targets[1]["boxes"][0, 0]
        return targets

    monkeypatch.setattr(iteration, "to_targets", flat)
    with pytest.raises(InputError, match=r"iteration 1, images P\d/000\.png, P\d/000\.png: target 1: box 0 is"):
        run(data, tmp_path / "out")
