"""The other side of loss_throughput.py: the official 2D RLE loss and its gradient in plain PyTorch."""

from __future__ import annotations

import torch

from benchmarks.peers.torch_step import RealNVP, rle_loss


class Loss:
    """`Loss(...)()` computes the loss of new data and its gradient, and blocks until both are complete."""

    def __init__(self, *, batch: int, joints: int, draws: int, seed: int = 0):
        torch.manual_seed(seed)
        self.flow = RealNVP()
        shape = (batch, joints, 2)
        self.inputs = iter([self._draw(shape) for _ in range(draws)])

    @staticmethod
    def _draw(shape):
        mu, logits = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
        visible = (torch.rand(shape[:2]) > 0.3).float()[..., None].expand(shape)
        return mu, logits, torch.randn(shape), visible

    def __call__(self) -> float:
        mu, logits, target, weight = next(self.inputs)
        self.flow.zero_grad(set_to_none=True)
        loss = rle_loss(mu, logits.sigmoid(), target, self.flow, weight)
        loss.backward()
        return loss.item()
