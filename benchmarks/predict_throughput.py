"""Time of a prediction: uint8 crops -> normalisation, net, decoding -> pixels and confidences on the host.

    python -m benchmarks.predict_throughput                                # ResNet-50 with RLE, 256x192, and PyTorch
    python -m benchmarks.predict_throughput --batch 1 64 256 --dtype bfloat16                             # on a GPU

The net is `jaxpose.export.serving_function` (the weights are constants of the program, as in an exported file), and
once more with the weights as arguments, as an evaluation during the training has them. One view, no flip test.
Compilation is timed apart; the crops are random, and none is seen twice. Weights and BatchNorm's statistics are random
too, with none at 0. On a CPU with PyTorch installed the same net in eager PyTorch takes turns with ours, in both memory
layouts, on the same crops. Prints one JSON line a side and batch size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import interleave, ratio, report
from jaxpose import export, tasks
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17


@dataclass(frozen=True)
class Options:
    """What to measure."""

    batch: tuple[int, ...] = (1, 16)
    depth: Literal[18, 34, 50, 101, 152] = 50
    width: int = 64
    size_wh: tuple[int, int] = (192, 256)
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 20
    rival: bool = True
    """Also time PyTorch, if it is installed and JAX runs on the CPU."""
    seed: int = 0


class Predict:
    """`Predict(...)(images)` takes crops (B, H, W, 3) uint8 and blocks until (xy, confidence) are complete.

    `inside`: whether the weights are constants of the program.
    """

    def __init__(self, options: Options, batch: int, *, inside: bool):
        backbone = ResNet(depth=options.depth, width=options.width, dtype=jnp.dtype(options.dtype))
        net = PoseRegressor(backbone, RegressionHead(17, kind="normalized"))
        task = tasks.regression(net, skeleton=COCO17, size_wh=options.size_wh)
        variables = without_zeros(jax.device_get(jax.jit(task.init)(jax.random.key(options.seed))), options.seed)
        width, height = options.size_wh
        images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
        start = time.perf_counter()
        if inside:
            self.predict = jax.jit(export.serving_function(task, variables)).lower(images).compile()
        else:
            predict = jax.jit(lambda variables, images: export.serving_function(task, variables)(images))
            self.predict = partial(predict.lower(variables, images).compile(), jax.device_put(variables))
        self.compile_s = time.perf_counter() - start

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self.predict(images)
        return np.asarray(outputs["xy"]), np.asarray(outputs["confidence"])


def without_zeros(variables, seed: int):
    """Returns the same variables, with biases and running means, which start at 0, drawn from N(0, 0.1^2)."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x if np.any(x) else rng.normal(0, 0.1, x.shape).astype(x.dtype), variables)


def crops(options: Options, batch: int) -> Iterator[np.ndarray]:
    """Yields random crops endlessly; the same seed gives the same ones."""
    rng = np.random.default_rng(options.seed)
    width, height = options.size_wh
    while True:
        yield rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


class OnFresh:
    """Calls `f` on the next crops; they are drawn beforehand, so that the timer does not include it."""

    def __init__(self, f, images: Iterator[np.ndarray], calls: int):
        self.f, self.pool = f, [next(images) for _ in range(calls)]

    def __call__(self):
        return self.f(self.pool.pop())


def measure(options: Options, batch: int) -> list[dict]:
    """Measures one batch size and returns its lines."""
    sides = {
        "jaxpose": Predict(options, batch, inside=True),
        "jaxpose, weights as arguments": Predict(options, batch, inside=False),
    }
    if options.rival and jax.default_backend() == "cpu" and find_spec("torch") and options.width == 64:
        from benchmarks.peers import torch_predict

        for name, channels_last in (("torch, NCHW", False), ("torch, channels_last", True)):
            sides[name] = torch_predict.Predict(
                depth=options.depth, joints=17, size_wh=options.size_wh, channels_last=channels_last
            )
    calls = 2 * options.repeats + 1  # one to warm up, and one to settle before every timed one
    timed = [OnFresh(f, crops(options, batch), calls) for f in sides.values()]
    times = dict(zip(sides, interleave(*timed, repeats=options.repeats, settle=1), strict=True))
    lines = []
    for side, values in times.items():
        fields = {"side": side, "batch": batch, "depth": options.depth, "size_wh": options.size_wh,
                  "images_per_s": round(batch / float(np.median(values)), 2)}  # fmt: skip
        if side.startswith("jaxpose"):
            fields |= {"dtype": options.dtype, "compile_s": round(sides[side].compile_s, 1)}
            fields |= {f"ratio to {other}": round(ratio(values, times[other]), 3) for other in times if other != side}
        lines.append(report("predict_throughput", values, **fields))
    return lines


def main(options: Options) -> list[dict]:
    return [line for batch in options.batch for line in measure(options, batch)]


if __name__ == "__main__":
    main(tyro.cli(Options))
