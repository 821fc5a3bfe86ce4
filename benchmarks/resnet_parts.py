"""Processor time of the parts of a small ResNet's training step: the stem in both forms, every stage, a deconvolution.

    python -m benchmarks.resnet_parts                     # a ResNet-18 of width 32, 32 images of 64x96: coco_rle's default
    python -m benchmarks.resnet_parts --width 16 --size-wh 96 128

Forward and backward, with the gradients of the weights and of the input, in training mode, float32. Processor time counts all
threads and hardly depends on other work on the machine; a process bound to one core (`taskset -c 0`) gives comparable numbers.
Prints a JSON line per part.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn

from benchmarks.common import versions
from benchmarks.tpu_forms import Part
from jaxpose.nets.deconv import Deconv


@dataclass(frozen=True)
class Options:
    """The net, and how often each part is timed."""

    width: int = 32
    size_wh: tuple[int, int] = (64, 96)
    stages: int = 3
    deconv: int = 32
    """Channels of the deconvolution, whose input has stride 8."""
    batch: int = 32
    repeats: int = 6


class StridedPart(Part):
    """A part of a ResNet whose stem has stride 4 without pooling."""

    stem: str = "strided"


def milliseconds(net: nn.Module, shape: tuple[int, ...], *, repeats: int, **options: Any) -> float:
    """Returns the mean processor time of a forward and backward pass over an input of this shape, compilation excluded."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    variables = net.init(jax.random.key(0), x, **options)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y, _ = net.apply({**variables, "params": params}, x, mutable=["batch_stats"], **options)
        return jnp.square(y).sum()

    step = jax.jit(jax.grad(loss, (0, 1)))
    jax.block_until_ready(step(variables["params"], x))
    started = time.process_time()
    for _ in range(repeats):
        jax.block_until_ready(step(variables["params"], x))
    return (time.process_time() - started) / repeats * 1e3


def main(options: Options) -> list[dict[str, Any]]:
    """Times the parts and prints a line for each."""
    width, (w, h), results = options.width, options.size_wh, []
    net = {"depth": 18, "width": width, "dtype": jnp.float32}

    def report(name: str, module: nn.Module, shape: tuple[int, ...], **call: Any) -> None:
        value = milliseconds(module, shape, repeats=options.repeats, **call)
        results.append(
            {"benchmark": "resnet_parts", "part": name, "width": width, "size_wh": [w, h], "ms": round(value, 1)}
        )
        print(json.dumps(results[-1]), flush=True)

    for name, part in (("stem, pooled", Part), ("stem, strided", StridedPart)):
        report(name, part(part="stem", **net), (options.batch, h, w, 3))
    for stage in range(1, options.stages + 1):
        stride, channels = 2 ** max(stage, 2), width * 2 ** max(stage - 2, 0)
        shape = (options.batch, h // stride, w // stride, channels)
        report(f"layer{stage}", Part(part=f"layer{stage}", **net), shape)
    report("deconvolution", Deconv(options.deconv), (options.batch, h // 8, w // 8, 2 * width))
    print(json.dumps(versions()))
    return results


if __name__ == "__main__":
    main(tyro.cli(Options))
