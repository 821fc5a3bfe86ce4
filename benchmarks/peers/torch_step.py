"""The other side of step_throughput.py: a ResNet with an RLE head, the official loss and Adam, in plain PyTorch; or HRNet.

Written from the published descriptions, as a PyTorch user would write it today: torchvision's topology, the
feature-normalised coordinate layer, RealNVP with 6 couplings, the 2D loss of the authors' code; HRNet with a 1x1 layer to the maps,
whose targets are ready-made, as the published loader gives them.
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


def bring(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Returns a branch of HRNet with the stride and channels of another: up by 1x1 and nearest pixel, down by 3x3s with stride 2."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_bn(widths[source], widths[target], 1), up)
    layers: list[nn.Module] = []
    for _ in range(target - source - 1):
        layers += [*conv_bn(widths[source], widths[source], 3, 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *conv_bn(widths[source], widths[target], 3, 2))


class Exchange(nn.Module):
    def __init__(self, widths: tuple[int, ...], outputs: int):
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(Block(w, w, 1, False) for _ in range(4))) for w in widths)
        self.fuse = nn.ModuleList(
            nn.ModuleList(bring(widths, source, target) for source in range(len(widths))) for target in range(outputs)
        )

    def forward(self, branches):
        branches = [branch(x) for branch, x in zip(self.branches, branches, strict=True)]
        return [sum(f(x) for f, x in zip(row, branches, strict=True)).relu() for row in self.fuse]


class HRNet(nn.Module):
    """Images (B, 3, H, W) -> heatmaps (B, K, H / 4, W / 4)."""

    def __init__(self, width: int, joints: int):
        super().__init__()
        relu = nn.ReLU(inplace=True)
        stem = [*conv_bn(3, 64, 3, 2), relu, *conv_bn(64, 64, 3, 2), relu]
        self.stem = nn.Sequential(*stem, *(Block(256 if i else 64, 64, 1, True) for i in range(4)))
        self.first = nn.Sequential(*conv_bn(256, width, 3), relu)
        self.deeper, self.stages = nn.ModuleList(), nn.ModuleList()
        for b, modules in enumerate((1, 4, 3), start=1):
            widths = tuple(width * 2**i for i in range(b + 1))
            self.deeper.append(nn.Sequential(*conv_bn(256 if b == 1 else widths[b - 1], widths[b], 3, 2), relu))
            last = [1 if b == 3 and m == modules - 1 else b + 1 for m in range(modules)]
            self.stages.append(nn.Sequential(*(Exchange(widths, outputs) for outputs in last)))
        self.final = nn.Conv2d(width, joints, 1)

    def forward(self, images):
        x = self.stem(images)
        branches = [self.first(x)]
        for deeper, stage in zip(self.deeper, self.stages, strict=True):
            branches = stage([*branches, deeper(x if len(branches) == 1 else branches[-1])])
        return self.final(branches[0])


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
            fixed = keep * x
            s, t = self.s[i](fixed) * (1 - keep), self.t[i](fixed) * (1 - keep)
            x = (1 - keep) * (x - t) * torch.exp(-s) + fixed
            log_det = log_det - s.sum(1)
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi) + log_det


def rle_loss(mu, sigma, target, flow, weight):
    """The authors' 2D loss: log sigma and log phi counted per coordinate, summed over joints, mean over the batch."""
    log_phi = flow(((mu - target) / sigma).flatten(0, 1)).view(*mu.shape[:2], 1)
    flow_term = torch.log(sigma) - log_phi
    base_term = torch.log(sigma * math.sqrt(2 * math.pi)) + (target - mu).abs() / (math.sqrt(2) * sigma + 1e-9)
    return ((flow_term + base_term) * weight).sum() / len(mu)


class Step:
    """`Step(...)()` makes one training step on new data and blocks until it is complete.

    `amp`: the net under autocast to bfloat16, the loss in float32. `compiled`: both with torch.compile. `branch`: HRNet's width.
    """

    def __init__(self, *, batch: int, height: int, width: int, joints: int, channels_last: bool, net: str = "resnet", depth: int = 50,
                 branch: int = 32, amp: bool = False, compiled: bool = False, device: str = "cpu", seed: int = 0):  # fmt: skip
        torch.manual_seed(seed)
        torch.backends.cudnn.benchmark = device == "cuda"  # XLA also tries its convolutions
        self.device, self.amp, self.joints = device, amp, joints
        self.is_map, self.shape = net == "hrnet", (batch, 3, height, width)
        self.net, self.flow = (HRNet(branch, joints) if self.is_map else PoseNet(depth, joints)).train(), RealNVP()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.net.to(device, memory_format=self.format)
        self.flow.to(device)
        parameters = [*self.net.parameters(), *([] if self.is_map else self.flow.parameters())]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=device == "cuda")
        torch.compiler.reset()  # otherwise a second batch size would compile a program for any size
        self.loss = torch.compile(self._loss, dynamic=False) if compiled else self._loss
        self.pool = [self._draw() for _ in range(4)]
        self.steps = 0

    def _draw(self):
        batch, _, height, width = self.shape
        images = torch.randn(self.shape, device=self.device).contiguous(memory_format=self.format)
        if self.is_map:
            return images, torch.rand(batch, self.joints, height // 4, width // 4, device=self.device)
        return images, torch.rand(batch, self.joints, 2, device=self.device) - 0.5

    def _loss(self, images, target):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.amp):
            outputs = self.net(images)
        if self.is_map:
            return 0.5 * (outputs.float() - target).square().mean()
        mu, sigma = (x.float() for x in outputs)
        return rle_loss(mu, sigma, target, self.flow, torch.ones_like(target))

    def close(self) -> None:
        """Releases a GPU's memory, which PyTorch would otherwise keep."""
        del self.net, self.flow, self.optimizer, self.pool
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def __call__(self) -> float:
        images, target = self.pool[self.steps % len(self.pool)]
        self.steps += 1
        loss = self.loss(images, target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return loss.item()
