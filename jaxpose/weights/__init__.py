"""Converts PyTorch state dicts to variables of the nets and of the flow.

A layout is the naming that a code base saves under. Every tensor is accounted for: a tensor that is missing, left over or of
another shape is an error. `weights.layouts` has one row per layout, `weights.state` reads files and removes what training scripts
wrap around a state dict, `weights.fill` converts names and axes, `weights.flow` reads the flow.

    layout          names                                          net
    "resnet"        torchvision's; its classifier fc is dropped    ResNet: features (B, H/32, W/32, C)
    "resnet_caffe2" Detectron2's ImageNet weights, MSRA/R-50.pkl   ResNet with the stride in the first 1x1 convolution
    "mobilenet_v2"  torchvision's; its classifier is dropped       MobileNetV2: features (B, H/32, W/32, C)
        "hrnet_backbone"  HRNet's ImageNet classifier, whose stem       HRNet: features (B, H/4, W/4, C)
                        and stages pose nets use
    "rle_official"  preact.*, fc_coord.*, fc_sigma.*, flow*.*      PoseRegressor: mu, sigma (B, K, D)
    "rle_mmpose"    backbone.*, head.fc.*, head.loss_module.*;     PoseRegressor: mu, sigma (B, K, 2)
                    0.x: keypoint_head.fc.*, keypoint_head.loss.*
    "simple_baseline", "hrnet"                  the authors'       HeatmapNet: heatmaps (B, H/4, W/4, K)
    "simple_baseline_mmpose", "hrnet_mmpose"    backbone.*, head.* (0.x: keypoint_head.*)
    "higher_hrnet", "swahr"                     the authors'       HigherHRNet: (maps at 1/4, maps at 1/2)
    "integral_3d"   backbone.*, head.features.*                    HeatmapNet: volumes (B, H/4, W/4, K D), channel
    "posenet_3d"    those of mmpose's SimpleBaseline, 512 or more  joint * D + depth, `nets.VolumeRegressor` reads
                    maps; 3DMPPE PoseNet's                         them with its `bins`
    "hourglass_bearpaw", "hourglass_princeton"  the authors'       StackedHourglass: maps (B, H/4, W/4, K) of every stack
    "martinez"      the PyTorch port of the 3d-pose-baseline       LinearLifter: (B, K, 2) or (B, T, K, 2) to plain numbers in 3D
    "videopose3d", "srnet"                      the authors'       TemporalLifter, SRNet: the same, over the frames T
    "keypoint_rcnn", "faster_rcnn",             torchvision's;     RCNN: boxes, scores, labels, valid,
        "faster_rcnn_v2"                        old names too      keypoints, keypoint_scores
    "detectron2_rcnn"                           Detectron2's       the same

The backbone of "rle_mmpose" and "simple_baseline_mmpose" is a ResNet or a MobileNetV2. "simple_baseline_mmpose" also reads
mmpose's integral models (IPR, DSNT and their debiased variant), which have the same net under head.simplebaseline_head.*; their
coordinate axes head.linspace_{x,y} are constants. The coordinates are a soft-argmax of the maps: `jaxpose.heatmap`.

Prediction does not use the flow of a pose model: `from_torch` ignores it, `flow_from_torch` reads it.
"""

from jaxpose.weights.fill import torch_tensors
from jaxpose.weights.flow import FLOW_TENSOR, flow_from_torch
from jaxpose.weights.layouts import Layout, from_torch, layout_of
from jaxpose.weights.state import TORCH_SUFFIXES, WRAPPERS, load_file

__all__ = [
    "FLOW_TENSOR", "TORCH_SUFFIXES", "WRAPPERS", "Layout", "flow_from_torch", "from_torch", "layout_of", "load_file",
    "torch_tensors",
]  # fmt: skip
