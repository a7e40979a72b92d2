"""Train full-width SSD-512 without and with FE on a CUDA machine, some minutes each and several at once.

    python -m tools.cuda_twins pack data/pictures data/cuda --weights vgg16_features.safetensors --quality 85
    python -m tools.cuda_twins train data/cuda --out results/cuda
    python -m tools.cuda_twins draw results/cuda/result.json

`train` needs the package's core dependencies and the output of `pack`: training slices with boxes, the pipeline's test
images and VGG-16's ImageNet weights. A training has a fixed duration, and its learning rate falls to a tenth after two
thirds of it. The last weights are tested, as in the paper. Twins start from the same weights and draw the same images,
but a slower twin sees fewer. Runs on CUDA are not reproducible bit by bit, because the order of sums and the number of
iterations vary. A killed run resumes from its checkpoints.
"""

import argparse
import math
import multiprocessing
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor
from torchvision.ops import box_area, box_convert, clip_boxes_to_image
from torchvision.transforms.v2.functional import gaussian_blur

# Only modules of cmbfe.data that need just NumPy and Pillow, which torchvision brings; a test blocks other packages.
from cmbfe.data.labelled import images as files
from cmbfe.data.labelled.labels import LABELS_FILE, Labels, labels_of_split, read_labels, write_labels, xyxy
from cmbfe.detector.backbones import read_state
from cmbfe.detector.ssd import SSD, TRUNKS, build
from cmbfe.errors import InputError
from cmbfe.files import read_json, sha256_of, whole_file, whole_folder, write_json
from cmbfe.metrics.curves import average_precision, summary
from cmbfe.metrics.intervals import columns, difference_over_seeds
from cmbfe.metrics.matching import Detections, Matches, match

LARGEST_PACK = 50_000_000  # bytes
WEIGHTS, RANGES = "vgg16.safetensors", "augmentation.json"
CHECKPOINT, DETECTIONS, RUN, RESULT = "checkpoint.pt", "detections.json.gz", "run.json", "result.json"
LEARNING_RATE, FALLS_AFTER, GAMMA = 3e-4, 2 / 3, 0.1
DETECTOR = {"default_boxes": "cmb", "minimum_negatives": 100, "detections_per_image": 50}
CHECKPOINT_SECONDS = 30
TEST_BATCH = 16
IOUS = (0.3, 0.5)
Slices = tuple[Tensor, list[Tensor]]
"""Tensor[N, 1, rows, columns] on the device, and the boxes [K, 4] xyxy px of each slice on the CPU for the loss."""


def pack(images: Path, out: Path, weights: Path, params_file: Path, quality: int | None) -> None:
    """Write the input of `train`. Images keep their bytes, or become JPEG if `quality` is given.

    Raises:
        InputError: weights that do not fit, images of several sizes, no training slice with a box, fewer than two test
            patients, or a pack larger than `LARGEST_PACK`.
    """
    # Imported here, because a CUDA machine may lack their dependencies.
    from cmbfe.data.labelled.splits import read_test_set
    from cmbfe.params import load_params
    from cmbfe.training.batches import list_labelled, without_phase

    params = load_params(params_file)
    build("ssd512", weights=weights)  # raises if the weights do not fit
    train, test = labels_of_split(read_labels(images / LABELS_FILE), "train"), read_test_set(params, images)
    shown = {box["image_id"] for box in train["annotations"]}
    chosen = [image for image in train["images"] if image["id"] in shown]
    if not chosen or len({image.get("patient_id", image["id"]) for image in test["images"]}) < 2:
        raise InputError(f"{images / LABELS_FILE}: needs a training slice with a box and two test patients; add them")
    boxes = train["annotations"] + test["annotations"]
    labels = without_phase({**train, "images": chosen + test["images"], "annotations": boxes})
    list_labelled(labels, images)  # raises if sizes differ
    with whole_folder(out, LABELS_FILE, [images, weights]) as folder:
        named = [_pack_image(image, images, folder, quality) for image in labels["images"]]
        write_labels(folder / LABELS_FILE, {**labels, "images": named})
        write_json(folder / RANGES, params.augmentation.model_dump(mode="json"))
        state = read_state(weights).items()
        halves = {name: weight.half().contiguous() for name, weight in state if name.startswith("features.")}
        (folder / WEIGHTS).write_bytes(save(halves))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > LARGEST_PACK:
            over = f"{size / 1e6:.1f} MB, at most {LARGEST_PACK / 1e6:.0f} are packed"
            raise InputError(f"{out}: {over}; give a lower --quality, such as 85, or a folder of fewer patients")
    print(f"{out}: {len(chosen)} training slices, {len(test['images'])} test images, {size / 1e6:.1f} MB")


def _pack_image(image: dict[str, Any], source: Path, folder: Path, quality: int | None) -> dict[str, Any]:
    name = Path(image["file_name"])
    if quality is not None:
        name = name.with_suffix(".jpg")
        files.save_image(folder / name, files.read_image(source / image["file_name"]), quality)
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    return {**image, "file_name": name.as_posix()}


def load_split(packed: Path, split: str, device: torch.device) -> tuple[Slices, Labels]:
    """The slices of a split, decoded once, and their labels."""
    labels = labels_of_split(read_labels(packed / LABELS_FILE), split)
    pixels = np.stack([files.read_image(packed / image["file_name"]) for image in labels["images"]])
    boxes = [xyxy([x for x in labels["annotations"] if x["image_id"] == image["id"]]) for image in labels["images"]]
    return (torch.from_numpy(pixels)[:, None].to(device), [torch.from_numpy(x).float() for x in boxes]), labels


def augmented(images: Tensor, boxes: Sequence[Tensor], ranges: dict[str, Any]) -> Slices:
    """Augment a batch, float [N, 1, rows, columns] in [0, 1], on its device, with the steps of `cmbfe.data.augment`.

    Intensity and blur come first. A single affine map then does flips, rotation, scaling and shift.
    """
    count, half = len(images), torch.tensor([images.shape[3], images.shape[2]]) / 2
    images = (images * uniform(ranges["intensity_factor"], count, 1, 1, 1).to(images.device)).clamp(max=1)
    side = 2 * math.ceil(3 * ranges["blur_sigma_px"][1]) + 1
    sigmas = uniform(ranges["blur_sigma_px"], count).clamp(min=0.01).tolist()
    images = torch.stack([gaussian_blur(*both) for both in zip(images, [side] * count, sigmas, strict=True)])
    turn = uniform(ranges["rotation_degrees"], count).deg2rad()
    linear = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    flips = 1 - 2 * (torch.rand(count, 1, 2) < ranges["flip_probability"]).float()
    linear = linear * flips * uniform(ranges["scale"], count, 1, 1)
    shift = uniform((-ranges["translation_px"], ranges["translation_px"]), count, 2)
    back = torch.linalg.inv(linear)
    theta = torch.cat([back * half, -back @ shift[..., None]], 2) / half[:, None]
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    moved = [_moved(*of_image, half, ranges) for of_image in zip(boxes, linear, shift, strict=True)]
    return F.grid_sample(images, grid, align_corners=False), moved


def uniform(ends: Sequence[float], *shape: int) -> Tensor:
    """Uniform random numbers between two limits, drawn on the CPU."""
    return ends[0] + (ends[1] - ends[0]) * torch.rand(*shape)


def _moved(boxes: Tensor, linear: Tensor, shift: Tensor, half: Tensor, ranges: dict[str, Any]) -> Tensor:
    """Upright boxes around the mapped ellipses or corners, without boxes that lie too far outside the image."""
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2 - half) @ linear.T + shift + half
    sides = linear * (boxes[:, 2:] - boxes[:, :2])[:, None] / 2
    reach = sides.abs().sum(2) if ranges["turned_box"] == "corners" else sides.norm(dim=2)
    whole = torch.cat([middle - reach, middle + reach], 1)
    inside = clip_boxes_to_image(whole, (int(2 * half[1]), int(2 * half[0])))
    area = box_area(inside)
    return inside[(area >= ranges["minimum_visible_share"] * box_area(whole)) & (area > 0)]


def train_one(settings: dict[str, Any], packed: Path, folder: Path) -> dict[str, Any]:
    """Train, from a checkpoint if present, and detect in the test images. The record of the run is stored and returned.

    Raises:
        InputError: the folder holds a run with other settings, the loss is not finite, or device memory is too small.
    """
    if (folder / RUN).is_file():
        return _of_these(read_json(folder / RUN), settings, folder / RUN)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    if device.type == "cuda":  # this process may have trained another detector before
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(settings["seed"])
    weights = packed / WEIGHTS if settings["width"] == 1 else None
    try:
        model = build(settings["detector"], weights=weights, width=settings["width"], **DETECTOR)
        model = model.to(device, memory_format=torch.channels_last).train()
        done = learn(model, load_split(packed, "train", device)[0], read_json(packed / RANGES), settings, folder)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        write_json(folder / DETECTIONS, detect(model.eval(), *load_split(packed, "test", device)))
    except torch.OutOfMemoryError:
        raise InputError(f"{folder}: no device memory left; lower --at-once or --batch, and start again") from None
    speed = done["iterations"] * settings["batch"] / done["seconds"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    run = {"settings": settings, **done, "images_per_second": speed, "peak_memory_gib": peak, "device": name}
    write_json(folder / RUN, run)
    (folder / CHECKPOINT).unlink()
    return run


def _of_these(found: dict[str, Any], settings: dict[str, Any], file: Path) -> dict[str, Any]:
    if differing := sorted(key for key in settings if found["settings"].get(key) != settings[key]):
        raise InputError(f"{file}: has other settings ({', '.join(differing)}); restore them, or give another --out")
    return found


def learn(
    model: SSD, slices: Slices, ranges: dict[str, Any], settings: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Train until the time is over; returns iterations, seconds and the mean loss between checkpoints."""
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    done: dict[str, Any] = {"iterations": 0, "seconds": 0.0, "history": []}
    if (file := folder / CHECKPOINT).is_file():
        saved = _of_these(torch.load(file, map_location="cpu", weights_only=True), settings, file)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["random"])
        done = saved["done"]
    begin, limit, losses = time.monotonic() - done["seconds"], 60 * settings["minutes"], []
    checkpoint_at = done["seconds"] + CHECKPOINT_SECONDS
    while done["seconds"] < limit:
        rate = LEARNING_RATE * (1 if done["seconds"] < FALLS_AFTER * limit else GAMMA)
        losses.append(step(model, optimiser, rate, slices, ranges, settings["batch"]))
        done |= {"iterations": done["iterations"] + 1, "seconds": time.monotonic() - begin}
        if done["seconds"] >= min(checkpoint_at, limit):
            loss = float(torch.stack(losses).mean())  # waits for the device
            done["seconds"] = time.monotonic() - begin
            if not math.isfinite(loss):
                raise InputError(f"{folder}: loss {loss} in iteration {done['iterations']}; give another --seed")
            done["history"].append({"iteration": done["iterations"], "seconds": done["seconds"], "loss": loss})
            state = {"settings": settings, "done": done, "model": model.state_dict(), "random": torch.get_rng_state()}
            with whole_file(file) as temporary:
                torch.save({**state, "optimiser": optimiser.state_dict()}, temporary)
            print(folder.name, done["history"][-1], flush=True)
            losses, checkpoint_at = [], done["seconds"] + CHECKPOINT_SECONDS
    return done


def step(
    model: SSD, optimiser: torch.optim.Optimizer, rate: float, slices: Slices, ranges: dict[str, Any], batch: int
) -> Tensor:
    """One iteration on newly drawn and augmented slices; returns the loss, still on the device."""
    images, boxes = slices
    drawn = torch.randperm(len(images))[:batch].tolist()
    moved, kept = augmented(images[drawn] / 255, [boxes[index] for index in drawn], ranges)
    targets = [{"boxes": own, "labels": torch.ones(len(own), dtype=torch.int64)} for own in kept]
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        losses = model(moved.expand(-1, 3, -1, -1), targets)
    loss = sum(losses.values())
    loss.backward()
    optimiser.step()
    return loss.detach()


@torch.inference_mode()
def detect(model: SSD, slices: Slices, labels: Labels) -> Detections:
    """COCO results of a detector in float32, with FE off as always in evaluation."""
    outputs = [found for part in slices[0].split(TEST_BATCH) for found in model(part.expand(-1, 3, -1, -1) / 255)]
    found: Detections = []
    for image, output in zip(labels["images"], outputs, strict=True):
        boxes = box_convert(output["boxes"], "xyxy", "xywh").tolist()
        own = {"image_id": image["id"], "category_id": 1}
        found += [own | {"bbox": b, "score": s} for b, s in zip(boxes, output["scores"].tolist(), strict=True)]
    return found


def train(packed: Path, out: Path, at_once: int, runs: Sequence[dict[str, Any]]) -> None:
    """Run all trainings, `at_once` in parallel on one device, and write `RESULT` from the successful trainings.

    Raises:
        InputError: the error of the first training that failed.
    """
    names = [f"{run['detector']}-{run['seed']}" for run in runs]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, mp_context=context) as pool:
        futures = [pool.submit(train_one, run, packed, out / name) for run, name in zip(runs, names, strict=True)]
    done = {name: future.result() for name, future in zip(names, futures, strict=True) if not future.exception()}
    if done:
        labels = labels_of_split(read_labels(packed / LABELS_FILE), "test")
        write_json(out / RESULT, gathered(done, labels, out))
    for error in filter(None, (future.exception() for future in futures)):
        if isinstance(error, BrokenProcessPool):
            raise InputError(f"{out}: a training was killed; lower --at-once if memory was short, and start again")
        raise error


def gathered(runs: dict[str, dict[str, Any]], labels: Labels, out: Path) -> dict[str, Any]:
    """Records of the runs, their metrics by IoU, and the gains in AP of complete pairs of twins."""
    found = {name: read_json(out / name / DETECTIONS) for name in runs}
    rows, gains = {name: {**run, "metrics": {}} for name, run in runs.items()}, []
    for iou in IOUS:
        pairs: dict[str, dict[int, list[Matches]]] = defaultdict(dict)
        matches = {name: match(labels, found[name], iou) for name in runs}
        for name, row in rows.items():
            row["metrics"][f"{iou:g}"] = summary(matches[name])
            detector, seed = row["settings"]["detector"], row["settings"]["seed"]
            if (twin := f"{detector}-fe-{seed}") in runs:
                pairs[detector][seed] = [matches[name], matches[twin]]
        gains += [{"name": f"{detector}, IoU {iou:g}", **gain_of(pair)} for detector, pair in pairs.items()]
    return {"gains": gains, "runs": rows, "pytorch": torch.__version__}


def gain_of(pairs: dict[int, list[Matches]]) -> dict[str, Any]:
    """Means over seeds of AP without FE, AP with FE and gain. With several seeds, the gain has an interval."""
    aps = np.array([[average_precision(matches) for matches in pair] for pair in pairs.values()])
    plain, twins = zip(*pairs.values(), strict=True)
    interval = difference_over_seeds(average_precision, twins, plain) if len(pairs) > 1 else None
    (ap, ap_treated), each = aps.mean(axis=0).tolist(), (aps[:, 1] - aps[:, 0]).tolist()
    of_seeds = dict(zip(map(str, pairs), each, strict=True))
    ours = {"ap": ap, "ap_treated": ap_treated, "gain": ap_treated - ap, "of_seeds": of_seeds}
    return columns("gain", interval) | ours


def draw(result: Path) -> None:
    """Draw a figure beside the result file: gains with intervals and single seeds, and the AP without and with FE."""
    import pandas as pd  # imported here, because a CUDA machine may lack it

    from cmbfe.figures.studies import gains_figure
    from cmbfe.figures.style import save as save_figure

    rows = read_json(result)["gains"]
    if not rows:
        raise InputError(f"{result}: holds no pair of twins; let both of a seed end first")
    gains = pd.DataFrame(rows).set_index("name")
    of_seeds = pd.concat({name: pd.Series(each) for name, each in gains.pop("of_seeds").items()}).to_frame("gain")
    save_figure(gains_figure(gains.astype(float), of_seeds), result.with_suffix(".png"))


def runs_of(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Settings of each training, with the twins of a seed together; raises `InputError` for impossible arguments."""
    if not (given.minutes > 0 and min(given.at_once, given.seeds, given.batch) > 0):
        raise InputError("--minutes, --at-once, --seeds and --batch must be above 0; correct them")
    if unknown := set(given.detectors) - set(TRUNKS):
        raise InputError(f"--detectors {', '.join(sorted(unknown))}: expected some of {', '.join(TRUNKS)}")
    slices = len(labels_of_split(read_labels(given.packed / LABELS_FILE), "train")["images"])
    if slices < given.batch:
        raise InputError(f"{given.packed}: {slices} training slices are no batch of {given.batch}; lower --batch")
    data = sha256_of(file for file in given.packed.rglob("*") if file.is_file())
    shared = DETECTOR | {"learning_rate": LEARNING_RATE, "data": data}
    shared |= {"width": given.width, "batch": given.batch, "minutes": given.minutes}
    seeds = range(given.seed, given.seed + given.seeds)
    twins = [name + suffix for name in given.detectors for suffix in ("", "-fe")]
    return [shared | {"detector": name, "seed": seed} for seed, name in product(seeds, twins)]


def parsed() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    packing, training, drawing = (steps.add_parser(name) for name in ("pack", "train", "draw"))
    packing.add_argument("images", type=Path, help="folder of images with annotations.json, such as data/pictures")
    packing.add_argument("out", type=Path)
    packing.add_argument("--weights", type=Path, required=True, help="of VGG-16, by torchvision's names")
    packing.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="for ranges of augmentation, and seed"
    )
    packing.add_argument("--quality", type=int, help="of JPEG to write images anew in; else they keep their bytes")
    training.add_argument("packed", type=Path)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=8.0, help="of each training; start and test take one more")
    training.add_argument("--at-once", type=int, default=6, help="trainings side by side; further ones follow")
    training.add_argument("--seeds", type=int, default=3)
    training.add_argument("--seed", type=int, default=1, help="the first")
    training.add_argument("--detectors", nargs="+", default=["ssd512"], help="each with its FE twin")
    training.add_argument("--batch", type=int, default=16)
    training.add_argument("--width", type=float, default=1.0, help="below 1 without ImageNet weights")
    drawing.add_argument("result", type=Path)
    return parser.parse_args()


def main() -> None:
    """Run one step: pack, train or draw."""
    given = parsed()
    if given.step == "pack":
        pack(given.images, given.out, given.weights, given.params, given.quality)
    elif given.step == "train":
        train(given.packed, given.out, given.at_once, runs_of(given))
    else:
        draw(given.result)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
