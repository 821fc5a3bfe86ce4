"""Images -> features -> raw outputs, as linen modules; channels last throughout."""

from jaxpose.nets.deconv import HeatmapNet
from jaxpose.nets.heads import PoseRegressor, RegressionHead
from jaxpose.nets.hrnet import HRNet
from jaxpose.nets.resnet import ResNet

__all__ = ["HRNet", "HeatmapNet", "PoseRegressor", "RegressionHead", "ResNet"]
