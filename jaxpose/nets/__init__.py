"""Linen modules from images to features and raw outputs; channels last throughout."""

from jaxpose.nets.deconv import HeatmapNet, MapHead, Upsampled
from jaxpose.nets.fpn import FPN
from jaxpose.nets.heads import IntegralRegressor, PeakRegressor, PoseRegressor, RegressionHead
from jaxpose.nets.higher_hrnet import HigherHRNet
from jaxpose.nets.hourglass import StackedHourglass
from jaxpose.nets.hrnet import HRNet
from jaxpose.nets.lifting import LinearLifter, SRNet, TemporalLifter
from jaxpose.nets.mobilenet import MobileNetV2
from jaxpose.nets.multistage import MultiStageNet
from jaxpose.nets.pointset import PointSetNet
from jaxpose.nets.rcnn import RCNN
from jaxpose.nets.resnet import ResNet
from jaxpose.nets.resunet import ColumnRegressor, ColumnSoftmax, ResUNet
from jaxpose.nets.volume import VolumeRegressor

__all__ = [
    "ColumnRegressor", "ColumnSoftmax", "FPN", "HRNet", "HeatmapNet", "HigherHRNet", "IntegralRegressor",
    "LinearLifter", "MapHead", "MobileNetV2", "MultiStageNet", "PeakRegressor", "PointSetNet", "PoseRegressor", "RCNN",
    "RegressionHead", "ResNet", "ResUNet", "SRNet", "StackedHourglass", "TemporalLifter", "Upsampled", "VolumeRegressor",
]  # fmt: skip
