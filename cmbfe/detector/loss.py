"""SSD's training objective: ground truth matched to default boxes, and two losses (Liu et al. 2016, section 2.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_iou

from cmbfe.detector.boxes import encode
from cmbfe.errors import InputError

Target = dict[str, Tensor]
MATCH_IOU = 0.5
NEGATIVES_PER_MATCH = 3


def usable_targets(
    targets: Sequence[Target] | None, sizes: Sequence[tuple[int, int]], input_size: int, num_classes: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The boxes (px of the input) and labels of every image, on the CPU; sizes: (H, W) of the original images in px.

    Raises `InputError` that names the first unusable target and its box.
    """
    if targets is None:
        raise InputError("targets: training needs them; call model.eval() for detections")
    if len(targets) != len(sizes):
        raise InputError(f"targets: {len(targets)} for {len(sizes)} images")
    for index, target in enumerate(targets):
        if problem := _malformed(target):
            raise InputError(f"target {index}: {problem}")
    given, labels = (_on_cpu([target[key] for target in targets]) for key in ("boxes", "labels"))
    boxes = []
    for index, (of_image, its_labels, (height, width)) in enumerate(zip(given, labels, sizes, strict=True)):
        if problem := _unusable(of_image, its_labels, (height, width), num_classes):
            raise InputError(f"target {index}: {problem}")
        boxes.append(of_image * torch.tensor([input_size / width, input_size / height] * 2))
    return boxes, [of_image.long() for of_image in labels]


def _on_cpu(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copy all tensors to the CPU together, so that checking their values does not wait for a GPU."""
    together = torch.cat([tensor.to(tensors[0].device) for tensor in tensors])
    return together.cpu().split([len(tensor) for tensor in tensors])


def _malformed(target: Target) -> str | None:
    """The problem with a target's keys, types or shapes; None if there is none."""
    if not isinstance(target, dict):
        return f'is {type(target).__name__}, expected a dict with "boxes" and "labels"'
    if not {"boxes", "labels"} <= target.keys():
        return f'has {sorted(target)}, expected "boxes" and "labels"'
    boxes, labels = target["boxes"], target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        return f"boxes of shape {list(boxes.shape)}, expected [K, 4] (x1, y1, x2, y2)"
    if labels.shape != boxes.shape[:1] or labels.is_floating_point():
        return f"labels {labels.dtype} of shape {list(labels.shape)}, expected {len(boxes)} integers"
    return None


def _unusable(boxes: Tensor, labels: Tensor, size: tuple[int, int], num_classes: int) -> str | None:
    """The problem with a target's values; None if there is none. size: the image's (H, W) in px."""
    if isinstance(boxes, FakeTensor):  # a dry run on shapes (FakeTensorMode) has no values to check
        return None
    bad = ~(boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))
    if bad.any():
        row = int(bad.nonzero()[0])
        return f"box {row} is {boxes[row].tolist()}, expected finite x1 < x2 and y1 < y2"
    height, width = size
    outside = (boxes[:, 2:] <= 0).any(1) | (boxes[:, 0] >= width) | (boxes[:, 1] >= height)
    if outside.any():
        row = int(outside.nonzero()[0])
        return f"box {row} is {boxes[row].tolist()}, wholly outside its image of {width} x {height} px"
    if ((labels < 1) | (labels >= num_classes)).any():
        return f"labels {labels.tolist()}, expected 1 to {num_classes - 1}"
    return None


def match(boxes: Tensor, real: Tensor, default: Tensor) -> Tensor:
    """Match default boxes to ground truth: for each, the index of its ground truth, Tensor[N, P]; -1 means no match.

    boxes: Tensor[N, K, 4] xyxy px; real: bool [N, K], False for padding; default: Tensor[P, 4] xyxy px. A default
    box takes the ground truth of largest IoU if that is at least 0.5. Then every ground truth also gets an overlapping
    default box for itself, greedily: the pair of largest IoU first, then the best remaining pair.
    """
    if not boxes.shape[1]:
        return torch.full((len(boxes), len(default)), -1, device=boxes.device)
    iou = box_iou(boxes.flatten(0, 1), default).view(*boxes.shape[:2], -1)
    iou = iou.masked_fill(~real[..., None], -1)
    best_iou, matches = iou.max(dim=1)
    matches = matches.masked_fill(best_iou < MATCH_IOU, -1)
    image = torch.arange(len(boxes), device=boxes.device)
    for _ in range(boxes.shape[1]):
        largest, pair = iou.flatten(1).max(dim=1)
        truth, chosen = pair // len(default), pair % len(default)
        matches[image, chosen] = truth.where(largest > 0, matches[image, chosen])
        iou[image, truth] = -1
        iou[image, :, chosen] = -1
    return matches


def ssd_loss(
    logits: Tensor,
    regression: Tensor,
    default: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    minimum_negatives: int = 0,
) -> dict[str, Tensor]:
    """The losses "classification" and "box_regression", scalars in float32.

    logits: Tensor[N, P, classes], class 0 is background; regression: Tensor[N, P, 4]; default: Tensor[P, 4] xyxy px;
    boxes, labels: per image, [K, 4] xyxy px and [K] from 1. "classification" is cross entropy over the matches and each
    image's hardest negatives, three per match but at least `minimum_negatives`. "box_regression" is smooth L1 over the
    matches. Both are divided by the number of matches in the batch, at least 1. Parallel processes count as one batch:
    the mean of their losses, and of their gradients, equals that of one process with all images.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, regression = logits.float(), regression.float()
        truth, truth_labels = _padded(boxes, labels, logits.device)
        matches = match(truth, truth_labels > 0, default)
        matched = matches >= 0
        index = matches.clamp(min=0)
        classes = truth_labels.gather(1, index).where(matched, 0)
        entropy = F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
        negatives = _hardest(entropy.masked_fill(matched, 0), matched, minimum_negatives)
        # Padding has no size and therefore no finite target, so it is removed before the loss.
        target = encode(truth.gather(1, index[..., None].expand(-1, -1, 4)), default)
        target = target.where(matched[..., None], 0)
        offsets = F.smooth_l1_loss(regression, target, reduction="none").sum(-1)
        matches_in_batch = _over_all_processes(matched.sum())
        return {
            "classification": ((entropy * matched).sum() + negatives) / matches_in_batch,
            "box_regression": (offsets * matched).sum() / matches_in_batch,
        }


def _over_all_processes(matches: Tensor) -> Tensor:
    """Mean number of matches per process; a total of 0 over all processes counts as 1."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return matches.clamp(min=1)
    torch.distributed.all_reduce(matches)
    return matches.clamp(min=1) / torch.distributed.get_world_size()


def _padded(boxes: Sequence[Tensor], labels: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes [N, K, 4] and labels [N, K] with at least one row per image; label 0 marks padding."""
    padded_boxes = pad_sequence([F.pad(b.float(), (0, 0, 0, 1)) for b in boxes], batch_first=True)
    padded_labels = pad_sequence([F.pad(x, (0, 1)) for x in labels], batch_first=True)
    return padded_boxes.to(device), padded_labels.to(device)


def _hardest(entropy: Tensor, matched: Tensor, minimum: int) -> Tensor:
    """Sum of each image's largest background losses; `entropy` Tensor[N, P] is 0 at matches."""
    wanted = (NEGATIVES_PER_MATCH * matched.sum(1, keepdim=True)).clamp(min=minimum)
    rank = torch.arange(entropy.shape[1], device=entropy.device)
    return (entropy.sort(dim=1, descending=True).values * (rank < wanted)).sum()
