"""The rival of step_throughput.py: a ResNet with an RLE head, the official loss and Adam, in plain PyTorch.

Written from the published description, as a PyTorch user would write it today: torchvision's topology, the
feature-normalised coordinate layer, RealNVP with 6 couplings, the 2D loss of the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def conv_bn(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = features * (4 if bottleneck else 1)
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            layers = [*conv_bn(inputs, features, 1), relu, *conv_bn(features, features, 3, stride), relu]
            layers += conv_bn(features, outputs, 1)
        else:
            layers = [*conv_bn(inputs, features, 3, stride), relu, *conv_bn(features, outputs, 3)]
        self.body = nn.Sequential(*layers)
        self.downsample = (
            nn.Sequential(*conv_bn(inputs, outputs, 1, stride)) if inputs != outputs or stride > 1 else None
        )
        self.relu = relu

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(self.body(x) + identity)


class PoseNet(nn.Module):
    """Images (B, 3, H, W) -> mu, sigma (B, K, 2)."""

    def __init__(self, depth: int, joints: int):
        super().__init__()
        bottleneck = depth in BLOCKS
        layers = [*conv_bn(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, count in enumerate((BLOCKS if bottleneck else BASIC_BLOCKS)[depth]):
            for i in range(count):
                layers.append(Block(channels, 64 * 2**stage, 2 if stage and i == 0 else 1, bottleneck))
                channels = 64 * 2**stage * (4 if bottleneck else 1)
        self.backbone = nn.Sequential(*layers)
        self.coord = nn.Linear(channels, 2 * joints)
        self.sigma = nn.Linear(channels, 2 * joints)

    def forward(self, images):
        f = self.backbone(images).mean((2, 3))
        mu = f @ self.coord.weight.T / f.norm(dim=1, keepdim=True) + self.coord.bias
        return mu.unflatten(1, (-1, 2)), self.sigma(f).sigmoid().unflatten(1, (-1, 2))


class RealNVP(nn.Module):
    """log_prob of points (N, 2) under six affine couplings and a standard normal."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 3))

        def net(*last):
            return nn.Sequential(
                nn.Linear(2, 64), nn.LeakyReLU(), nn.Linear(64, 64), nn.LeakyReLU(), nn.Linear(64, 2), *last
            )

        self.s = nn.ModuleList(net(nn.Tanh()) for _ in range(6))
        self.t = nn.ModuleList(net() for _ in range(6))

    def forward(self, x):
        log_det = x.new_zeros(len(x))
        for i in reversed(range(6)):
            keep = self.mask[i]
            kept = keep * x
            s, t = self.s[i](kept) * (1 - keep), self.t[i](kept) * (1 - keep)
            x = (1 - keep) * (x - t) * torch.exp(-s) + kept
            log_det = log_det - s.sum(1)
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi) + log_det


def rle_loss(mu, sigma, target, flow, weight):
    """The authors' 2D loss: log sigma and log phi counted per coordinate, summed over joints, mean over the batch."""
    log_phi = flow(((mu - target) / sigma).flatten(0, 1)).view(*mu.shape[:2], 1)
    flow_term = torch.log(sigma) - log_phi
    base_term = torch.log(sigma * math.sqrt(2 * math.pi)) + (target - mu).abs() / (math.sqrt(2) * sigma + 1e-9)
    return ((flow_term + base_term) * weight).sum() / len(mu)


class Step:
    """`Step(...)()` makes one training step on fresh data and blocks until it is done."""

    def __init__(
        self, *, depth: int, batch: int, height: int, width: int, joints: int, channels_last: bool, seed: int = 0
    ):
        torch.manual_seed(seed)
        self.net, self.flow = PoseNet(depth, joints).train(), RealNVP()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.net.to(memory_format=self.format)
        self.optimizer = torch.optim.Adam([*self.net.parameters(), *self.flow.parameters()], lr=1e-3)
        self.shape = (batch, 3, height, width)
        self.joints = joints
        self.pool = [self._draw() for _ in range(4)]
        self.steps = 0

    def _draw(self):
        images = torch.randn(self.shape).contiguous(memory_format=self.format)
        return images, torch.rand(self.shape[0], self.joints, 2) - 0.5

    def __call__(self) -> float:
        images, target = self.pool[self.steps % len(self.pool)]
        self.steps += 1
        mu, sigma = self.net(images)
        loss = rle_loss(mu, sigma, target, self.flow, torch.ones_like(target))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()
