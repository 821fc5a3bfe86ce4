"""Time of a whole training step: normalisation, net, loss, gradient, Adam.

    python -m benchmarks.step_throughput                                   # ResNet-50, batch 16, 256x192, and PyTorch
    python -m benchmarks.step_throughput --net hrnet --batch 4             # HRNet-W32 with the squared error of heatmaps
    python -m benchmarks.step_throughput --batch 64 256 1024 --dtype bfloat16 --peak-tflops 989    # on a GPU

One device is used, because PyTorch's side uses one. Compilation is timed separately; the batches are new and random. If PyTorch
is installed, the same step written in PyTorch takes turns with ours: on a CPU in both memory layouts, and with torch.compile by
`--torch-compile`; on a GPU, if PyTorch has CUDA, channels last, eager and with torch.compile. With bfloat16 its net runs under
autocast. With `--peak-tflops` the line has MFU: the multiply-adds of three forward passes, twice, over the peak. `loss_share` is
the part of the step that is saved when the flow's loss is replaced by L1. Prints one JSON line per side and batch size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn

from benchmarks.common import interleave, ratio, report
from jaxpose import parallel, summary, tasks, train
from jaxpose.nets import HeatmapNet, HRNet, PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17

POOL = 4  # number of batches, used in turn, so that none is used twice in a row


@dataclass(frozen=True)
class Options:
    """What to measure."""

    batch: tuple[int, ...] = (16,)
    net: Literal["resnet", "hrnet"] = "resnet"
    """A ResNet with RLE, or an HRNet with the squared error of its heatmaps."""
    depth: Literal[18, 34, 50, 101, 152] = 50
    """Depth of the ResNet."""
    width: int | None = None
    """Channels of the first layer, or of HRNet's first branch; None: as published, 64 and 32."""
    size_wh: tuple[int, int] = (192, 256)
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 8
    peak_tflops: float | None = None
    """Peak TFLOP/s of the device for this dtype, for MFU."""
    loss_share: bool = True
    """Also time the step with L1 instead of RLE (ResNet)."""
    ours: bool = True
    """Time ours. If both sides do not fit into a GPU together: --no-rival, then --no-ours."""
    rival: bool = True
    """Also time PyTorch, if it is installed and supports the device of JAX."""
    torch_compile: bool = False
    """On a CPU: also time PyTorch with torch.compile. On a GPU this is always timed."""
    seed: int = 0


class Step:
    """`Step(...)()` makes one training step on the next batch and blocks until it is complete."""

    def __init__(self, options: Options, batch: int, loss: str):
        mesh = parallel.make_mesh(jax.devices()[:1])
        self.net, task = task_of(options, loss=loss)
        tx = train.optimizer(train.multi_step(1e-3, boundaries=[]))
        self.state = train.init_state(task, tx, jax.random.key(options.seed), mesh=mesh)
        self.pool = [parallel.global_batch(draw(options, batch, seed), mesh) for seed in range(POOL)]
        self.steps = 0
        start = time.perf_counter()
        self.step = train.make_train_step(task, tx, mesh=mesh).lower(self.state, self.pool[0]).compile()
        self.compile_s = time.perf_counter() - start

    def __call__(self) -> None:
        self.state, metrics = self.step(self.state, self.pool[self.steps % POOL])
        self.steps += 1
        jax.block_until_ready((self.state, metrics))


def task_of(options, *, loss: str = "rle", batch_groups: int = 1) -> tuple[nn.Module, tasks.Task]:
    """Returns the net that `options` names (net, depth, width, size_wh, dtype) and its task; `loss` is the ResNet's likelihood."""
    shared = {"dtype": jnp.dtype(options.dtype), "batch_groups": batch_groups}
    if options.net == "hrnet":
        net = HeatmapNet(HRNet(options.width or 32, **shared), 17, deconvs=(), **shared)
        return net, tasks.heatmaps(net, skeleton=COCO17, size_wh=options.size_wh)
    backbone = ResNet(depth=options.depth, width=options.width or 64, **shared)
    net = PoseRegressor(backbone, RegressionHead(17, kind="normalized"))
    likelihood = tasks.Likelihood(loss=loss)
    return net, tasks.regression(net, skeleton=COCO17, size_wh=options.size_wh, likelihood=likelihood)


def draw(options: Options, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Returns a random batch."""
    rng = np.random.default_rng(seed)
    width, height = options.size_wh
    return {
        "image": rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8),
        "joints": rng.uniform(0, width, (batch, 17, 2)).astype(np.float32),
        "visibility": rng.integers(0, 3, (batch, 17)).astype(np.int8),
    }


def rivals(options: Options, batch: int) -> dict[str, Callable[[], float]]:
    """Returns PyTorch's sides on the device that JAX uses; none if PyTorch is not installed or does not support it."""
    on = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    published = options.net == "hrnet" or options.width in (None, 64)
    if not (on and published and find_spec("torch")):
        return {}
    import torch

    from benchmarks.peers import torch_step

    if on == "cuda" and not torch.cuda.is_available():
        return {}
    width, height = options.size_wh
    shared = dict(net=options.net, depth=options.depth, branch=options.width or 32, batch=batch, height=height, width=width,
                  joints=17, amp=options.dtype == "bfloat16", device=on)  # fmt: skip
    sides = {} if on == "cuda" else {"torch, NCHW": torch_step.Step(**shared, channels_last=False)}
    sides["torch, channels_last"] = torch_step.Step(**shared, channels_last=True)
    if on == "cuda" or options.torch_compile:
        sides["torch, compiled"] = torch_step.Step(**shared, channels_last=True, compiled=True)
    return sides


def measure(options: Options, batch: int) -> list[dict]:
    """Measures one batch size and returns its lines."""
    share = options.loss_share and options.net == "resnet"
    sides = {"jaxpose": Step(options, batch, "rle")} if options.ours else {}
    if options.ours and share:
        sides["jaxpose, L1"] = Step(options, batch, "l1")
    if options.rival:
        sides |= rivals(options, batch)
    if not sides:
        raise ValueError("nothing to time: --no-ours is given, and PyTorch is missing for this device and net")
    times = dict(zip(sides, interleave(*sides.values(), repeats=options.repeats, settle=1), strict=True))
    lines = []
    for side, values in times.items():
        median = float(np.median(values))
        net = options.net if options.net == "hrnet" else f"resnet{options.depth}"
        fields = {"side": side, "batch": batch, "net": net, "size_wh": options.size_wh,
                  "images_per_s": round(batch / median, 2)}  # fmt: skip
        if side == "jaxpose":
            fields |= {"dtype": options.dtype, "compile_s": round(sides[side].compile_s, 1)}
            for other in times:
                if other.startswith("torch"):
                    fields[f"ratio to {other}"] = round(ratio(values, times[other]), 3)
            if share:
                fields["loss_share"] = round(1 - 1 / ratio(times["jaxpose, L1"], values), 4)
            if options.peak_tflops:
                flops = 2 * 3 * summary.count(sides[side].net, options.size_wh).multiply_adds * batch
                fields["mfu"] = round(flops / median / (options.peak_tflops * 1e12), 4)
        lines.append(report("step_throughput", values, **fields))
    for side in sides.values():
        if hasattr(side, "close"):
            side.close()
    return lines


def main(options: Options) -> list[dict]:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave the rival some of a GPU's memory
    return [line for batch in options.batch for line in measure(options, batch)]


if __name__ == "__main__":
    main(tyro.cli(Options))
