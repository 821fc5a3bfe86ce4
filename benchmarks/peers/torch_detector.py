"""The other side of detector_throughput.py: torchvision's Keypoint R-CNN and its operators, called as its documentation does."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torchvision import ops
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

BRANCH = 0.2  # scale of a block's last BatchNorm: without it, activations of random weights double in every block
SCORES = 1e-3  # deviation of the weights of the scores: with torch's own, random weights find nobody


class Detector:
    """`Detector(...)(pictures)` takes uint8 RGB arrays (h, w, 3) and returns (boxes xyxy, joints) of each, in its pixels.

    Depth 50 is `keypointrcnn_resnet50_fpn` without its released weights, which are random here.
    """

    def __init__(self, *, depth: int, people: int, short: int, longest: int, channels_last: bool, seed: int = 0):
        torch.manual_seed(seed)
        backbone = resnet_fpn_backbone(backbone_name=f"resnet{depth}", weights=None, trainable_layers=5)
        options = {"min_size": short, "max_size": longest, "box_detections_per_img": people}
        self.net = KeypointRCNN(backbone, num_classes=2, num_keypoints=17, **options).eval()
        last = "bn3" if depth >= 50 else "bn2"
        for name, parameter in self.net.named_parameters():
            if name.endswith(f"{last}.weight"):
                torch.nn.init.constant_(parameter, BRANCH)
        torch.nn.init.normal_(self.net.roi_heads.box_predictor.cls_score.weight, std=SCORES)
        self.net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the weights as numbers by name."""
        return {name: values.numpy() for name, values in self.net.state_dict().items()}

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        images = [torch.from_numpy(picture).permute(2, 0, 1).to(torch.float32) / 255 for picture in pictures]
        return [(each["boxes"].numpy(), each["keypoints"].numpy()) for each in self.net(images)]


class Suppression:
    """`Suppression(boxes, scores, ...)()` returns the indices of the boxes that stay; of several groups at once if there are any."""

    def __init__(self, boxes: np.ndarray, scores: np.ndarray, *, threshold: float):
        groups = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
        self.boxes, self.scores = torch.from_numpy(boxes.reshape(-1, 4)), torch.from_numpy(scores.ravel())
        self.groups, self.threshold = groups if len(boxes) > 1 else None, threshold

    def __call__(self) -> torch.Tensor:
        if self.groups is None:
            return ops.nms(self.boxes, self.scores, self.threshold)
        return ops.batched_nms(self.boxes, self.scores, self.groups, self.threshold)


class Pooling:
    """`Pooling(...)()` returns the features of boxes, or the gradient of their product with `upstream`, NCHW.

    Args:
        maps: The levels (h, w, C), finest first.
        boxes: (R, 4) xyxy, px.
        size_hw: The size of the image, px.
        cells: Rows and columns of a region.
        upstream: (R, cells, cells, C) the gradient of the features; None: the features alone.
    """

    def __init__(self, maps, boxes, *, size_hw: tuple[int, int], cells: int, upstream: np.ndarray | None = None):
        self.maps = OrderedDict(
            (str(i), torch.from_numpy(x).permute(2, 0, 1)[None].contiguous()) for i, x in enumerate(maps)
        )
        self.boxes, self.size_hw = [torch.from_numpy(boxes)], [size_hw]
        self.pool = ops.MultiScaleRoIAlign(list(self.maps), cells, sampling_ratio=2)
        self.upstream = None if upstream is None else torch.from_numpy(upstream).permute(0, 3, 1, 2).contiguous()

    def __call__(self) -> list[torch.Tensor]:
        if self.upstream is None:
            return [self.pool(self.maps, self.boxes, self.size_hw)]
        maps = OrderedDict((name, values.requires_grad_()) for name, values in self.maps.items())
        return list(torch.autograd.grad(self.pool(maps, self.boxes, self.size_hw), list(maps.values()), self.upstream))
