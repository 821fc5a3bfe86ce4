"""Trains a tiny RLE model for a few steps on this process's devices, in float32 and in float64; writes the losses to a JSON file.

test_parallel.py starts it in separate processes, because the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--fsdp", type=int, default=1)
parser.add_argument("--steps", type=int, nargs=2, default=(10, 100), help="in float32 and in float64")
parser.add_argument("--coordinator")
parser.add_argument("--num-processes", type=int, default=1)
parser.add_argument("--process-id", type=int, default=0)
args = parser.parse_args()

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={args.devices}".strip()
)
os.environ["JAX_PLATFORMS"] = "cpu"

import flax.linen as nn
import jax
import numpy as np

from jaxpose import parallel, tasks, train
from jaxpose.nets import PoseRegressor, RegressionHead, layers
from jaxpose.skeleton import COCO17

BATCH, SIZE_WH = 16, (16, 16)


def batch_of(step: int, dtype: type) -> dict[str, np.ndarray]:
    """Returns global batch t, a function of t only."""
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (BATCH, SIZE_WH[1], SIZE_WH[0], 3), dtype=np.uint8),
        "joints": rng.uniform(0, SIZE_WH[0], (BATCH, 17, 2)).astype(dtype),
        "visibility": rng.integers(0, 3, (BATCH, 17)).astype(np.int8),
    }


class Backbone(nn.Module):
    """All kinds of layers of a ResNet, but few of them: each array costs an all-reduce, and every process compiles all of them."""

    dtype: type

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = images
        for size, stride in ((5, 4), (1, 1)):
            x = layers.Conv(64, size, stride, dtype=self.dtype)(x)
            x = nn.relu(layers.BatchNorm(dtype=self.dtype)(x, train=train))
        return x


def task_of(dtype: type) -> tasks.Task:
    net = PoseRegressor(Backbone(dtype), RegressionHead(17))
    few = tasks.Likelihood(flow_layers=1, flow_hidden=(8,))
    return tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH, likelihood=few)


def losses(mesh, initial, steps: int, dtype: type) -> tuple[list[float], int]:
    """Returns the losses, and the number of arrays of the optimiser's state that are split over the devices."""
    jax.config.update("jax_enable_x64", dtype == np.float64)
    task = task_of(dtype)
    tx = train.optimizer(train.multi_step(1e-4, boundaries=[]))
    variables = jax.tree.map(lambda x: np.asarray(x, dtype), initial)
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh, variables=variables)
    step_fn = train.make_train_step(task, tx, mesh=mesh)
    values = []
    for step in range(steps):
        local = {key: value[rows] for key, value in batch_of(step, dtype).items()}
        state, metrics = step_fn(state, parallel.global_batch(local, mesh))
        values.append(float(metrics["loss"]))
    return values, sum(not x.is_fully_replicated for x in jax.tree.leaves(state.opt_state))


if args.coordinator:
    parallel.start_multihost(coordinator=args.coordinator, num_processes=args.num_processes, process_id=args.process_id)
mesh = parallel.make_mesh(fsdp=args.fsdp)
share = BATCH // args.num_processes
rows = slice(args.process_id * share, (args.process_id + 1) * share)
initial = jax.device_get(jax.jit(task_of(np.float32).init)(jax.random.key(0)))
result = {"devices": mesh.size, "split": []}
for dtype, steps in zip((np.float32, np.float64), args.steps, strict=True):
    result[dtype.__name__], split = losses(mesh, initial, steps, dtype)
    result["split"].append(split)
ids = parallel.gather_host(np.arange(rows.start, rows.stop, dtype=np.int64) + 2**40)
args.out.write_text(json.dumps({**result, "ids": ids.tolist()}))
