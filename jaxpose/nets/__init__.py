"""Images -> features -> raw outputs, as linen modules; channels last throughout."""

from jaxpose.nets.deconv import HeatmapNet
from jaxpose.nets.heads import PoseRegressor, RegressionHead
from jaxpose.nets.higher_hrnet import HigherHRNet
from jaxpose.nets.hrnet import HRNet
from jaxpose.nets.resnet import ResNet

__all__ = ["HRNet", "HeatmapNet", "HigherHRNet", "PoseRegressor", "RegressionHead", "ResNet"]
