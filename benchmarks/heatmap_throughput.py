"""Time of targets and decoders, jitted for a batch, compared with NumPy, one image and one joint at a time.

    python -m benchmarks.heatmap_throughput                    # batch 256, 17 joints, maps of 64x48
    python -m benchmarks.heatmap_throughput --share            # and their share of a SimpleBaseline-50 step

The NumPy side does what data loaders and evaluation scripts of the published code do (`benchmarks/peers/numpy_targets.py`);
both are checked to be equal before anything is timed. Every call gets new data, compilation is not counted, and the
sides take turns. Prints a JSON line per part: ours, theirs, and the ratio (above 1: ours is faster).

Targets of 256 images take 53 MB, and a CPU spends most of "targets" on allocating memory for them. In a training step
they are never written: "targets in the loss" computes them within the squared error, compared with NumPy computing only them.

`--share`: the loss (targets, squared error and its gradient with respect to the maps) and the decoding without flip test, as
parts of the time of a training step at the same batch size; on a CPU with batch size 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import interleave, ratio, report
from benchmarks.peers import numpy_targets
from jaxpose import heatmap, losses

SIGMA, BETA, KERNEL = 2.0, 10.0, 11
PARTS = ("targets in the loss", "targets", "argmax", "dark", "soft_argmax")
OF_JOINTS = PARTS[:2]  # the input of these is joints, that of the others maps


@dataclass(frozen=True)
class Options:
    """What to measure."""

    batch: int = 256
    joints: int = 17
    size_hw: tuple[int, int] = (64, 48)
    repeats: int = 10
    rival: bool = True
    """Also time NumPy."""
    share: bool = False
    """Also time a training step of SimpleBaseline, and the share of these parts in it."""
    depth: int = 50
    width: int = 64
    share_batch: int = 8
    seed: int = 0


def ours(part: str, options: Options) -> Callable:
    """Returns the jitted function from xy or maps (channels last) to the result."""
    pred = jnp.full((options.batch, *options.size_hw, options.joints), 0.1)

    def in_the_loss(xy):
        return losses.heatmap_mse(pred, heatmap.gaussian(xy, options.size_hw, sigma=SIGMA)).mean()

    functions = {
        "targets in the loss": in_the_loss,
        "targets": lambda xy: heatmap.gaussian(xy, options.size_hw, sigma=SIGMA),
        "argmax": lambda maps: heatmap.argmax(maps),
        "dark": lambda maps: heatmap.dark(maps, kernel=KERNEL),
        "soft_argmax": lambda maps: heatmap.soft_argmax(maps, beta=BETA, compensate=True)[0],
    }
    return jax.jit(functions[part])


def theirs(part: str, options: Options) -> Callable:
    """Returns the NumPy function from xy or maps (channels first) to the result."""

    def targets(xy: np.ndarray) -> np.ndarray:
        return np.stack([numpy_targets.targets(one, options.size_hw, sigma=SIGMA) for one in xy])

    return {
        "targets in the loss": targets,
        "targets": targets,
        "argmax": numpy_targets.quarter_shift,
        "dark": lambda maps: numpy_targets.dark(maps, kernel=KERNEL),
        "soft_argmax": lambda maps: numpy_targets.soft_argmax(maps, beta=BETA),
    }[part]


def draw(part: str, options: Options, seed: int) -> np.ndarray:
    """Returns joints (B, K, 2), or maps (B, h, w, K): Gaussians at sub-pixel places with a little noise."""
    rng = np.random.default_rng((options.seed, seed))
    h, w = options.size_hw
    # Targets: some joints are outside. Maps: peaks inside, which every decoder locates.
    margin = -6 if part in OF_JOINTS else 8
    xy = rng.uniform((margin, margin), (w - 1 - margin, h - 1 - margin), (options.batch, options.joints, 2))
    xy = xy.astype(np.float32)
    if part in OF_JOINTS:
        return xy
    maps = np.array(heatmap.gaussian(xy, options.size_hw, sigma=SIGMA, method="unbiased"))
    return maps + rng.uniform(0, 0.02 if part != "soft_argmax" else 0, maps.shape).astype(np.float32)


class Side:
    """`Side(...)()` computes the next input and blocks until the result is complete."""

    def __init__(self, function: Callable, inputs: list):
        self.function, self.inputs = function, iter(inputs)

    def __call__(self):
        return jax.block_until_ready(self.function(next(self.inputs)))


def channels_first(part: str, x: np.ndarray) -> np.ndarray:
    return x if part in OF_JOINTS else np.ascontiguousarray(np.moveaxis(x, -1, 1))


def check_equal(part: str, options: Options) -> None:
    """Raises an error unless both sides return the same numbers."""
    x = draw(part, options, 10**6)
    result, expected = ours(part, options)(jnp.asarray(x)), theirs(part, options)(channels_first(part, x))
    if part == "targets":
        result = jnp.moveaxis(result, -1, 1)
    if part == "targets in the loss":
        expected = np.square(expected - 0.1).mean()
    for a, b in zip(*(y if isinstance(y, tuple) else (y,) for y in (result, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3, err_msg=part)


def measure(part: str, options: Options) -> dict:
    """Measures one part and returns its line."""
    calls = 2 * (options.repeats + 2)
    inputs = [draw(part, options, seed) for seed in range(calls)]
    sides = [Side(ours(part, options), jax.block_until_ready([jnp.asarray(x) for x in inputs]))]
    if options.rival:
        check_equal(part, options)
        sides.append(Side(theirs(part, options), [channels_first(part, x) for x in inputs]))
    times = interleave(*sides, repeats=options.repeats, warmup=2, settle=1)
    fields = {"part": part, "batch": options.batch, "joints": options.joints, "size_hw": options.size_hw,
              "us_per_image": round(1e6 * float(np.median(times[0])) / options.batch, 2)}  # fmt: skip
    if options.rival:
        fields["numpy_us_per_image"] = round(1e6 * float(np.median(times[1])) / options.batch, 1)
        fields["ratio"] = round(ratio(*times), 1)
    return report("heatmap_throughput", times[0], **fields)


def share(options: Options) -> dict:
    """Measures targets, loss and its gradient with respect to the maps, and the decoding, as a share of a training step."""
    from jaxpose import parallel, tasks, train
    from jaxpose.nets import HeatmapNet, ResNet
    from jaxpose.skeleton import COCO17
    from jaxpose.tasks.supervision import MapLoss, map_loss

    h, w = options.size_hw
    size_wh, batch = (4 * w, 4 * h), options.share_batch
    mesh = parallel.make_mesh()
    net = HeatmapNet(ResNet(depth=options.depth, width=options.width), 17)
    task = tasks.heatmaps(net, skeleton=COCO17, size_wh=size_wh)
    tx = train.optimizer(train.multi_step(1e-3, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    step_fn = train.make_train_step(task, tx, mesh=mesh)
    rng = np.random.default_rng(options.seed)
    batches = [
        {
            "image": rng.integers(0, 256, (batch, size_wh[1], size_wh[0], 3), dtype=np.uint8),
            "joints": rng.uniform(0, w, (batch, 17, 2)).astype(np.float32),
            "visibility": np.full((batch, 17), 2, np.int8),
        }
        for _ in range(2 * (options.repeats + 2))
    ]
    maps = [jnp.asarray(rng.normal(size=(batch, h, w, 17)), jnp.float32) for _ in batches]

    def step(b):
        nonlocal state
        state, metrics = step_fn(state, parallel.global_batch(b, mesh))
        return metrics

    @jax.jit
    def parts(both):
        m, joints = both
        where = jnp.ones(joints.shape[:2], bool)
        loss = lambda m: map_loss(MapLoss(), m, joints, size_wh=size_wh, where=where, key=jax.random.key(0))  # noqa: E731
        return jax.value_and_grad(loss)(m), heatmap.argmax(m)

    sides = [
        Side(step, batches),
        Side(parts, [(m, jnp.asarray(b["joints"])) for m, b in zip(maps, batches, strict=True)]),
    ]
    times = interleave(*sides, repeats=options.repeats, warmup=2, settle=1)
    fields = {"part": "share of a step", "batch": batch, "depth": options.depth, "size_wh": size_wh,
              "parts_s": float(f"{np.median(times[1]):.3g}"), "share": round(1 / ratio(times[1], times[0]), 4)}  # fmt: skip
    return report("heatmap_throughput", times[0], **fields)


def main(options: Options) -> list[dict]:
    lines = [measure(part, options) for part in PARTS]
    return lines + ([share(options)] if options.share else [])


if __name__ == "__main__":
    main(tyro.cli(Options))
