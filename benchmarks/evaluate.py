"""Time and memory of our evaluation and of pycocotools on one core.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [--detections 1000000] [--images 100000]

Times are CPU seconds, which on one thread equal the seconds of an idle machine. Wall-clock seconds are printed beside
them. Each part runs in a separate process, and its peak memory includes the interpreter and the input. pycocotools
runs at one IoU threshold and one area range, on the same lists in memory.
"""

import argparse
import contextlib
import io
import multiprocessing
import multiprocessing.connection
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

Result = dict[str, float]
GIB = 2**30


@contextmanager
def timed(result: Result, name: str = "") -> Iterator[None]:
    """Add the CPU and wall-clock seconds of the block to `result`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    result[f"{name} CPU s".strip()] = time.process_time() - cpu
    result[f"{name} wall s".strip()] = time.perf_counter() - wall


def draw_set(images: int, detections: int) -> tuple[dict, list[dict]]:
    """COCO labels with as many boxes as images, and detections, a fifth of them near a box."""
    rng = np.random.default_rng(0)
    truth_image = rng.integers(0, images, images)
    truths = np.column_stack([rng.uniform(0, 480, (images, 2)), rng.uniform(5, 30, (images, 2))])
    source = rng.integers(0, images, detections)
    near = rng.random(detections) < 0.2
    boxes = truths[source] + rng.normal(0, 2, (detections, 4))
    boxes[:, 2:] = np.abs(boxes[:, 2:])
    boxes[~near, :2] = rng.uniform(0, 480, ((~near).sum(), 2))
    pixels = np.where(near, truth_image[source], rng.integers(0, images, detections))
    score = rng.random(detections) * 0.7 + near * 0.3
    labels = {
        "images": [{"id": number} for number in range(images)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, (image, box) in enumerate(zip(truth_image.tolist(), truths.tolist(), strict=True), 1)
        ],
        "categories": [{"id": 1, "name": "cmb"}],
    }
    columns = zip(pixels.tolist(), boxes.tolist(), score.tolist(), strict=True)
    return labels, [{"image_id": k, "category_id": 1, "bbox": box, "score": value} for k, box, value in columns]


def ours(images: int, detections: int) -> Result:
    """Our matching, AP (three definitions, of which the 101-point AP is printed), both curves, and FROC area."""
    from cmbfe.metrics import curves

    labels, found = draw_set(images, detections)
    result: Result = {}
    with timed(result):
        with timed(result, "matching"):
            matches = curves.match(labels, found)
        for points in (None, 11, 101):
            result["AP"] = curves.average_precision(matches, points)
        curves.precision_sensitivity(matches)
        curves.froc(matches)
        curves.froc_auc(matches)
    return result


def pycocotools(images: int, detections: int) -> Result:
    """COCOeval at IoU 0.5 over all areas."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels, found = draw_set(images, detections)
    result: Result = {}
    with timed(result), contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = labels
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return {**result, "AP": float(evaluation.eval["precision"].mean())}


def paired_bootstrap(images: int, detections: int) -> Result:
    """10,000 paired resamples of a test set of the paper's size: 17 patients, 334 images, 100 detections each."""
    from cmbfe.metrics import curves, intervals

    labels, found = draw_set(334, 33_400)
    labels["images"] = [{"id": image["id"], "patient_id": image["id"] % 17} for image in labels["images"]]
    noise = np.random.default_rng(1).normal(0, 0.05, len(found)).tolist()
    other = [{**one, "score": one["score"] + shift} for one, shift in zip(found, noise, strict=True)]
    first, second = curves.match(labels, found), curves.match(labels, other)
    compared = {
        "AP": curves.average_precision,
        "AP, 101-point": lambda matches, weights: curves.average_precision(matches, 101, weights),
        "precision at 60 % sensitivity": lambda matches, weights: curves.precision_at_sensitivity(
            matches, 0.6, weights
        ),
        "FROC area": lambda matches, weights: curves.froc_auc(matches, weights=weights),
        "CPM": lambda matches, weights: curves.cpm(matches, weights=weights),
    }
    result: Result = {}
    with timed(result, "all of them"):
        for name, metric in compared.items():
            with timed(result, name):
                intervals.paired_difference(metric, first, second, resamples=10_000)
    return result


def in_own_process(part: Callable[[int, int], Result], images: int, detections: int) -> Result:
    """Run a part in a fresh process and add its peak memory."""
    context = multiprocessing.get_context("spawn")
    ours_end, its_end = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(its_end, part, images, detections))
    process.start()
    its_end.close()
    try:
        return ours_end.recv()
    finally:
        process.join()


def _send_result(
    connection: multiprocessing.connection.Connection,
    part: Callable[[int, int], Result],
    images: int,
    detections: int,
) -> None:
    result = part(images, detections)
    unit = 1 if sys.platform == "darwin" else 1024
    connection.send(result | {"peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB})


def main() -> None:
    """Print seconds and peak memory of each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detections", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=100_000)
    arguments = parser.parse_args()
    results = {}
    for part in (ours, pycocotools, paired_bootstrap):
        results[part.__name__] = in_own_process(part, arguments.images, arguments.detections)
        print(part.__name__, flush=True)
        for name, value in results[part.__name__].items():
            print(f"    {name:45} {value:8.3f}")
    ratio = results["pycocotools"]["CPU s"] / results["ours"]["CPU s"]
    print(f"ours is {ratio:.1f} times as fast as pycocotools")


if __name__ == "__main__":
    main()
