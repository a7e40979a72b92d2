"""Torchvision's detectors for microbleeds, untrained, by name.

Each is put together from torchvision's own parts. Two things are fitted to objects of a few pixels, since torchvision's
are made for COCO, where the smallest anchor has 32 px: the anchors, and the finest map of the heads, a step of 4 px.
Beside each detector of published width stands a `-small` one, of its family, that a CPU trains in minutes.
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
    """What a detector was built from, kept in its config.json."""

    detector: str
    size: int  # side of the images, px


CLASSES = 2  # background and microbleed, label 1
KEPT = 10
SCORE = 0.01
SMALLEST_ANCHOR = 6 / 256  # share of the image's side: the median microbleed of the phantom has 6 of 256 px
ROI_CELLS = 7
_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
"""Of MobileNet: torchvision's for SSDlite. That of its classifiers averages 100 batches, too slow for short runs."""


def build(detector: str, size: int) -> nn.Module:
    """An untrained detector that is called like torchvision's, for images of `size` x `size` px.

    In evaluation it gives microbleeds only (label 1).

    Raises:
        InputError: no detector of that name.
    """
    if detector not in DETECTORS:
        raise InputError(f"no detector named {detector!r}; there are: {', '.join(DETECTORS)}")
    model: Any = DETECTORS[detector](size)
    model.register_forward_hook(_microbleeds_only)
    model.config = TorchvisionConfig(detector, size)
    return model


def _microbleeds_only(model: nn.Module, args: tuple[Any, ...], made: Any) -> Any:
    """RetinaNet and FCOS have a score for every class, the background's label 0 among them."""
    if model.training:
        return None
    return [{key: values[image["labels"] == 1] for key, values in image.items()} for image in made]


def _pyramid(trunk: str, is_small: bool) -> BackboneWithFPN:
    """A feature pyramid on the first four stages of a trunk, or two: steps of 4, 8, ... px, and one coarser map."""
    levels, channels = (2, 32) if is_small else (4, 256)
    if trunk == "mobilenet":
        body = mobilenet_v3_large(weights=None, norm_layer=_NORM).features
        stages = [str(block) for block in (2, 4, 7, 13)[:levels]]  # those that halve the map, from a step of 4 px on
        inputs = [body.get_submodule(stage).out_channels for stage in stages]
    else:
        body = ResNet(BasicBlock, [1, 1, 1, 1]) if is_small else resnet50(weights=None)
        stages = [f"layer{level + 1}" for level in range(levels)]
        inputs = [body.inplanes // 8 * 2**level for level in range(levels)]
    return BackboneWithFPN(body, {stage: str(level) for level, stage in enumerate(stages)}, inputs, channels)


def _squares(first: float, backbone: BackboneWithFPN) -> AnchorGenerator:
    """One square anchor per cell, twice as large from map to map; the pyramid has one map more than stages."""
    maps = len(backbone.body.return_layers) + 1
    return AnchorGenerator(tuple((first * 2**level,) for level in range(maps)), ((1.0,),) * maps)


def _faster_rcnn(size: int, trunk: str, is_small: bool) -> FasterRCNN:
    backbone = _pyramid(trunk, is_small)
    channels = backbone.out_channels
    hidden = 4 * channels  # 1024 behind the published 256
    proposals = 8 * channels  # 2048, torchvision has 2000: narrow heads look at fewer
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
    # A box's four sides, in steps of its map, come out of a ReLU: from torchvision's 0 all of them died in 70 steps.
    nn.init.ones_(head.regression_head.bbox_reg.bias)
    anchors = _squares(4, backbone)  # of each map's step: they carry its centres
    return FCOS(backbone, CLASSES, anchor_generator=anchors, head=head, **_of_one_stage(size))


def _of_one_stage(size: int) -> dict[str, Any]:
    kept = {"score_thresh": SCORE, "detections_per_img": KEPT, "topk_candidates": 10 * KEPT}
    return {"min_size": size, "max_size": size, **kept}


def _ssdlite(size: int, is_small: bool) -> SSD:
    """SSDlite on MobileNet-V3: its first map is that of block 4's expansion, its second that of the last block."""
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
"""Trunk, pyramid and heads of the wide ones are torchvision's, with maps from a step of 4 px on:

* Faster R-CNN (Ren et al. 2015) on the pyramid of Lin et al. 2017, as `fasterrcnn_resnet50_fpn`; and
  `fasterrcnn_mobilenet_v3_large_fpn` with four maps, where that has two from 32 px on;
* RetinaNet (Lin et al. 2017, focal loss), as `retinanet_resnet50_fpn`, whose finest map has a step of 8 px;
* FCOS (Tian et al. 2019), as `fcos_resnet50_fpn`: a smaller box may hold no centre of 8 px cells;
* SSDlite, as `ssdlite320_mobilenet_v3_large`, whose first map has a step of 16 px. The small one leaves out the
  trunk's last blocks, of steps of 16 and 32 px.
"""
