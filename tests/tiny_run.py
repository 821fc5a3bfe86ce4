"""A checkpoint of a small untrained net, for the tests of code that reads checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxpose import checkpoint, tasks
from jaxpose.inference import Settings
from jaxpose.nets import HeatmapNet, HigherHRNet, PointSetNet, PoseRegressor, RegressionHead, ResNet, Upsampled
from jaxpose.skeleton import COCO17

SIZE_WH = (24, 32)


def regression_task(depth: int = 18) -> tasks.Task:
    net = PoseRegressor(ResNet(depth=depth, width=4, stages=1), RegressionHead(17, sigma_bias=-1.0))
    return tasks.regression(net, skeleton=COCO17, size_wh=SIZE_WH)


def heatmap_task() -> tasks.Task:
    net = HeatmapNet(ResNet(depth=18, width=4, stages=1), 17, deconvs=())
    return tasks.heatmaps(net, skeleton=COCO17, size_wh=SIZE_WH)


def bottom_up_task(**options: Any) -> tasks.Task:
    net = HigherHRNet(Upsampled(ResNet(depth=18, width=4, stages=2), (4,)), 17)
    return tasks.bottom_up(net, skeleton=COCO17, size_wh=(64, 64), **options)


def point_sets_task(loss: str = "rle", *, heatmaps: bool = False, backbone: Any = None, **people: Any) -> tasks.Task:
    template = [[[0.02 * (-1) ** k, k / 16 - 0.5] for k in range(17)]]
    likelihood = tasks.Likelihood(loss, flow_layers=2, flow_hidden=(4,))
    net = PointSetNet(
        backbone or ResNet(depth=18, width=4), 17, templates=template, taps=(0, 7, 15), scale=4.0, features=4, convs=1, groups=2,
        sigma=likelihood.learns_sigma, heatmaps=heatmaps, map_features=4,
    )  # fmt: skip
    search = tasks.ReadPoses(
        **{"refine": "heatmap" if heatmaps else "none", "max_people": 5, "candidates": 30} | people
    )
    return tasks.point_sets(
        net,
        skeleton=COCO17,
        size_wh=(64, 64),
        likelihood=likelihood,
        people=search,
        training=tasks.AnchorLoss(positives=16),
    )


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
