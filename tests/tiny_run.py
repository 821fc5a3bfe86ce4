"""A checkpoint of a small untrained net, for the tests of code that reads checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxpose import checkpoint, tasks
from jaxpose.inference import Settings
from jaxpose.nets import HeatmapNet, HigherHRNet, PoseRegressor, RegressionHead, ResNet, Upsampled
from jaxpose.skeleton import COCO17

SIZE_WH = (24, 32)


def regression_task() -> tasks.Task:
    net = PoseRegressor(ResNet(depth=18, width=4, stages=1), RegressionHead(17, sigma_bias=-1.0))
    return tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH)


def heatmap_task() -> tasks.Task:
    net = HeatmapNet(ResNet(depth=18, width=4, stages=1), 17, deconvs=())
    return tasks.heatmaps(net, skeleton=COCO17, size_wh=SIZE_WH)


def bottom_up_task(**options: Any) -> tasks.Task:
    net = HigherHRNet(Upsampled(ResNet(depth=18, width=4, stages=2), (4,)), 17)
    return tasks.bottom_up(net, skeleton=COCO17, size_wh=(64, 64), **options)


def write(
    folder: Path,
    task: tasks.Task,
    *,
    variables: Any = None,
    run: dict[str, Any] | None = None,
    inference: Settings | None = None,
) -> Path:
    """Writes the checkpoint of step 0 of a run with these settings into `folder`; without `inference` as older versions did."""
    variables = task.init(jax.random.key(0)) if variables is None else variables
    tested = {} if inference is None else {"inference": inference.to_dict()}
    checkpoint.write_model(folder, variables, {"task": task.config, "run": run or {}} | tested)
    return folder
