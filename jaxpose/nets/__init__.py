"""Images -> features -> raw outputs, as linen modules; channels last throughout."""

from jaxpose.nets.heads import PoseRegressor, RegressionHead
from jaxpose.nets.resnet import ResNet

__all__ = ["PoseRegressor", "RegressionHead", "ResNet"]
