"""Untrained torchvision detectors by name, adapted to microbleeds.

Each detector is assembled from torchvision's parts. Torchvision's defaults suit COCO, where the smallest anchor has
32 px. For objects of a few pixels, the anchors are smaller here, and the finest map of the heads has a stride of 4 px.
Each detector of published width has a `-small` variant of the same family that trains on a CPU in minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.resnet import BasicBlock, ResNet

from cmbfe.errors import InputError


@dataclass(frozen=True)
class TorchvisionConfig:
    """The settings that a detector is built from, as stored in its config.json."""

    detector: str
    size: int  # side of the images, px


CLASSES = 2  # background and microbleed, label 1
KEPT = 10
SCORE = 0.01
SMALLEST_ANCHOR = 6 / 256  # as a share of the image's side; the median microbleed of the phantom has 6 of 256 px
ROI_CELLS = 7
_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
"""MobileNet's batch norm as in torchvision's SSDlite. Its classifiers average 100 batches, too many for a short run."""


def build(detector: str, size: int) -> nn.Module:
    """Build an untrained detector for images of `size` x `size` px; it is called like torchvision's detectors.

    In evaluation mode it returns microbleeds only (label 1).

    Raises:
        InputError: an unknown detector.
    """
    if detector not in DETECTORS:
        raise InputError(f"no detector named {detector!r}; there are: {', '.join(DETECTORS)}")
    model: Any = DETECTORS[detector](size)
    model.register_forward_hook(_microbleeds_only)
    model.config = TorchvisionConfig(detector, size)
    return model


def _microbleeds_only(model: nn.Module, args: tuple[Any, ...], made: Any) -> Any:
    """Drop detections of the background, since RetinaNet and FCOS also score its label 0."""
    if model.training:
        return None
    return [{key: values[image["labels"] == 1] for key, values in image.items()} for image in made]


def _pyramid(trunk: str, is_small: bool) -> BackboneWithFPN:
    """A feature pyramid on a trunk's first four stages (two if small): maps of stride 4, 8, ... px and one coarser."""
    levels, channels = (2, 32) if is_small else (4, 256)
    if trunk == "mobilenet":
        body = mobilenet_v3_large(weights=None, norm_layer=_NORM).features
        stages = [str(block) for block in (2, 4, 7, 13)[:levels]]  # blocks that halve the map, from stride 4 on
        inputs = [body.get_submodule(stage).out_channels for stage in stages]
    else:
        body = ResNet(BasicBlock, [1, 1, 1, 1]) if is_small else resnet50(weights=None)
        stages = [f"layer{level + 1}" for level in range(levels)]
        inputs = [body.inplanes // 8 * 2**level for level in range(levels)]
    return BackboneWithFPN(body, {stage: str(level) for level, stage in enumerate(stages)}, inputs, channels)


def _squares(first: float, backbone: BackboneWithFPN) -> AnchorGenerator:
    """One square anchor per cell, doubling in size from map to map. The pyramid has a map per stage and one more."""
    maps = len(backbone.body.return_layers) + 1
    return AnchorGenerator(tuple((first * 2**level,) for level in range(maps)), ((1.0,),) * maps)


def _faster_rcnn(size: int, trunk: str, is_small: bool) -> FasterRCNN:
    backbone = _pyramid(trunk, is_small)
    channels = backbone.out_channels
    hidden = 4 * channels  # 1024 for the published 256 channels
    proposals = 8 * channels  # 2048 at full width (torchvision: 2000), fewer for narrow heads
    return FasterRCNN(
        backbone,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=_squares(SMALLEST_ANCHOR * size, backbone),
        rpn_pre_nms_top_n_train=proposals,
        rpn_post_nms_top_n_train=proposals // 2,
        rpn_pre_nms_top_n_test=proposals // 2,
        rpn_post_nms_top_n_test=proposals // 4,
        box_batch_size_per_image=2 * channels,
        box_head=TwoMLPHead(channels * ROI_CELLS**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, CLASSES),
        box_score_thresh=SCORE,
        box_detections_per_img=KEPT,
    )


def _retinanet(size: int, is_small: bool) -> RetinaNet:
    backbone = _pyramid("resnet", is_small)
    anchors = _squares(SMALLEST_ANCHOR * size, backbone)
    return RetinaNet(backbone, CLASSES, anchor_generator=anchors, **_of_one_stage(size))


def _fcos(size: int, is_small: bool) -> FCOS:
    backbone = _pyramid("resnet", is_small)
    head = FCOSHead(backbone.out_channels, 1, CLASSES, 2 if is_small else 4)
    # A ReLU gives a box's four sides, in strides of its map. With torchvision's bias of 0, all ReLUs died in 70 steps.
    nn.init.ones_(head.regression_head.bbox_reg.bias)
    anchors = _squares(4, backbone)  # as large as each map's stride; they mark the cell centres
    return FCOS(backbone, CLASSES, anchor_generator=anchors, head=head, **_of_one_stage(size))


def _of_one_stage(size: int) -> dict[str, Any]:
    kept = {"score_thresh": SCORE, "detections_per_img": KEPT, "topk_candidates": 10 * KEPT}
    return {"min_size": size, "max_size": size, **kept}


def _ssdlite(size: int, is_small: bool) -> SSD:
    """SSDlite on MobileNet-V3. Its first map comes from the expansion of block 4, its second from the last block."""
    body = mobilenet_v3_large(weights=None, norm_layer=_NORM, reduced_tail=True).features[: 8 if is_small else None]
    backbone = SSDLiteFeatureExtractorMobileNet(body, 4, _NORM)
    scales = [SMALLEST_ANCHOR * 2**level for level in range(6)]
    boxes = DefaultBoxGenerator([[] for _ in scales], scales=[*scales, 1.0])
    channels = retrieve_out_channels(backbone, (size, size))
    return SSD(
        backbone,
        boxes,
        (size, size),
        CLASSES,
        head=SSDLiteHead(channels, boxes.num_anchors_per_location(), CLASSES, _NORM),
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        score_thresh=SCORE,
        detections_per_img=KEPT,
    )


DETECTORS: dict[str, Callable[[int], nn.Module]] = {
    "faster-rcnn-resnet50": partial(_faster_rcnn, trunk="resnet", is_small=False),
    "faster-rcnn-resnet-small": partial(_faster_rcnn, trunk="resnet", is_small=True),
    "faster-rcnn-mobilenet": partial(_faster_rcnn, trunk="mobilenet", is_small=False),
    "faster-rcnn-mobilenet-small": partial(_faster_rcnn, trunk="mobilenet", is_small=True),
    "retinanet-resnet50": partial(_retinanet, is_small=False),
    "retinanet-small": partial(_retinanet, is_small=True),
    "fcos-resnet50": partial(_fcos, is_small=False),
    "fcos-small": partial(_fcos, is_small=True),
    "ssdlite-mobilenet": partial(_ssdlite, is_small=False),
    "ssdlite-small": partial(_ssdlite, is_small=True),
}
"""The full-width detectors have torchvision's trunk, pyramid and heads, with maps from a stride of 4 px on:

* Faster R-CNN (Ren et al. 2015) on the pyramid of Lin et al. 2017, as `fasterrcnn_resnet50_fpn`. On MobileNet it has
  four maps, while `fasterrcnn_mobilenet_v3_large_fpn` has two, from a stride of 32 px on.
* RetinaNet (Lin et al. 2017, focal loss), as `retinanet_resnet50_fpn`, whose finest map has a stride of 8 px.
* FCOS (Tian et al. 2019), as `fcos_resnet50_fpn`. With cells of 8 px, a smaller box may contain no cell centre.
* SSDlite, as `ssdlite320_mobilenet_v3_large`, whose first map has a stride of 16 px. The small variant omits the
  trunk's last blocks, with strides of 16 and 32 px.
"""
