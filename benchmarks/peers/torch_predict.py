"""The other side of predict_throughput.py: crops to pixels and confidences with the net of torch_step.py, in plain PyTorch."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.peers.torch_step import PoseNet

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Predict:
    """`Predict(...)(images)` takes crops (B, H, W, 3) uint8 and blocks until (xy, confidence) are complete."""

    def __init__(self, *, depth: int, joints: int, size_wh: tuple[int, int], channels_last: bool, seed: int = 0):
        torch.manual_seed(seed)
        self.net = PoseNet(depth, joints).eval()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.net.to(memory_format=self.format)
        self.mean, self.std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
        self.size = torch.tensor(size_wh)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32, memory_format=self.format)
        mu, sigma = self.net((x - self.mean) / self.std)
        return ((mu + 0.5) * self.size).numpy(), (1 - sigma.mean(-1)).numpy()
