"""Time of the RLE loss with its gradient, compared with PyTorch in the same process.

    python -m benchmarks.loss_throughput                       # batch 256, 17 joints, the official form
    python -m benchmarks.loss_throughput --variant paper --log-s

The gradient is with respect to mu, the logits of sigma and the parameters of the flow. Every call gets new data. The two
sides take turns; a turn begins with a pause and a call that is not counted, because the threads of either library keep
a core busy for a while after their last call. On an accelerator, and without PyTorch, only ours is measured. Prints one
JSON line per side, and the ratio in ours (above 1: ours is faster).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from benchmarks.common import interleave, ratio, report
from jaxpose import losses
from jaxpose.flow import RealNVP, log_normalizer


@dataclass(frozen=True)
class Options:
    """What to measure."""

    batch: int = 256
    joints: int = 17
    repeats: int = 30
    variant: Literal["official", "mmpose", "paper"] = "official"
    log_s: bool = False
    """Include log s (paper variant)."""
    rival: bool = True
    """Also measure PyTorch, if it is installed and JAX runs on the CPU."""
    seed: int = 0


class Loss:
    """`Loss(...)()` computes the loss of new data and its gradient, and blocks until both are complete."""

    def __init__(self, options: Options):
        flow = RealNVP()
        key = jax.random.key(options.seed)
        self.variables = flow.init(key, jnp.zeros((1, 2)))
        shape = (options.batch, options.joints, 2)

        def objective(variables, mu, logits, target, visible):
            def log_g(e):
                return flow.apply(variables, e)

            log_s = log_normalizer(log_g, "laplace") if options.log_s else 0.0
            sigma = jax.nn.sigmoid(logits)
            each = losses.rle(mu, sigma, target, log_g, variant=options.variant, log_normalizer=log_s, where=visible)
            return each.sum() / len(mu)

        self.value_and_grad = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2)))
        inputs = [self._draw(k, shape) for k in jax.random.split(key, draws(options))]
        self.inputs = iter(jax.block_until_ready(inputs))

    @staticmethod
    def _draw(key, shape):
        keys = jax.random.split(key, 4)
        mu, logits, target = (jax.random.normal(k, shape) for k in keys[:3])
        return mu, logits, target, jax.random.uniform(keys[3], shape[:2]) > 0.3

    def __call__(self) -> float:
        value, _ = jax.block_until_ready(self.value_and_grad(self.variables, *next(self.inputs)))
        return float(value)


def draws(options: Options) -> int:
    """Returns the number of inputs of one side: two per turn, and two to warm up."""
    return 2 * (options.repeats + 1)


def main(options: Options) -> list[dict]:
    sides: dict[str, Callable[[], object]] = {"jaxpose": Loss(options)}
    if options.rival and jax.default_backend() == "cpu" and find_spec("torch"):
        from benchmarks.peers import torch_rle

        sides["torch"] = torch_rle.Loss(
            batch=options.batch, joints=options.joints, draws=draws(options), seed=options.seed
        )
    turns = interleave(*sides.values(), repeats=options.repeats, warmup=2, settle=1)
    times = dict(zip(sides, turns, strict=True))
    lines = []
    for side, values in times.items():
        fields = {"side": side, "batch": options.batch, "joints": options.joints}
        if side == "jaxpose":
            fields |= {"variant": options.variant, "log_s": options.log_s}
            if "torch" in times:
                fields["ratio"] = round(ratio(values, times["torch"]), 3)
        lines.append(report("loss_throughput", values, **fields))
    return lines


if __name__ == "__main__":
    main(tyro.cli(Options))
