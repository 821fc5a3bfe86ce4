"""Run a few training steps of a tiny RLE model on this process's devices and print the losses to a JSON file.

Started by test_parallel.py in processes of its own, because the number of devices is fixed when JAX starts.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--use", type=int, help="build the mesh over the first so many devices only")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--x64", action="store_true")
parser.add_argument("--coordinator")
parser.add_argument("--num-processes", type=int, default=1)
parser.add_argument("--process-id", type=int, default=0)
args = parser.parse_args()

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

jax.config.update("jax_enable_x64", args.x64)

from jaxpose import parallel, tasks, train
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17

BATCH, SIZE_WH = 32, (48, 64)


def batch_of(step: int) -> dict[str, np.ndarray]:
    """The global batch t, a function of t only."""
    rng = np.random.default_rng(step)
    return {
        "image": rng.integers(0, 256, (BATCH, SIZE_WH[1], SIZE_WH[0], 3), dtype=np.uint8),
        "joints": rng.uniform(0, 48, (BATCH, 17, 2)).astype(np.float64 if args.x64 else np.float32),
        "visibility": rng.integers(0, 3, (BATCH, 17)).astype(np.int8),
    }


if args.coordinator:
    parallel.start_multihost(coordinator=args.coordinator, num_processes=args.num_processes, process_id=args.process_id)
mesh = parallel.make_mesh(jax.devices()[: args.use] if args.use else None)
net = PoseRegressor(ResNet(depth=18, width=4, dtype=np.float64 if args.x64 else np.float32), RegressionHead(17))
task = tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH)
tx = train.optimizer(train.multi_step(1e-4, boundaries=[]))
variables = task.init(jax.random.key(0))
if args.x64:
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
state = train.init_state(task, tx, jax.random.key(0), mesh=mesh, variables=jax.device_get(variables))
step_fn = train.make_train_step(task, tx, mesh=mesh)
share = BATCH // args.num_processes
rows = slice(args.process_id * share, (args.process_id + 1) * share)
losses = []
for step in range(args.steps):
    local = {key: value[rows] for key, value in batch_of(step).items()}
    state, metrics = step_fn(state, parallel.global_batch(local, mesh))
    losses.append(float(metrics["loss"]))
ids = parallel.gather_host(np.arange(rows.start, rows.stop, dtype=np.int64) + 2**40)
args.out.write_text(json.dumps({"losses": losses, "ids": ids.tolist(), "devices": mesh.size}))
