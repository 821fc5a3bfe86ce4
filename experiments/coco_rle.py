"""Residual log-likelihood estimation on COCO keypoints (Li 2021, arXiv 2107.11291).

  python -m experiments.coco_rle                                      embedded synthetic people, minutes on two cores
  python -m experiments.coco_rle --preset official --data DIR         ResNet-50, 256x192, 270 epochs
  python -m experiments.coco_rle --preset mmpose --data DIR           mmpose's recipe: 210 epochs, warm-up
  python -m experiments.coco_rle --preset resnet152_384 --data DIR    ResNet-152, 384x288
  python -m experiments.coco_rle --eval-only runs/coco_rle --data DIR

DIR is a folder in COCO 2017's layout, or any image folder with COCO-format annotations.

Published (COCO val2017, boxes of a 56.4 AP detector, flip test):
  official, from ImageNet weights              AP 70.5   (the authors' released configuration gives 69.6)
  official, backbone pretrained by heatmaps    AP 71.3
  mmpose                                       AP 70.6
  resnet152_384 (mmpose)                       AP 74.9
Expected of the default preset: see README.md, "What was run".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runner
from jaxpose import tasks
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet


@dataclass(frozen=True)
class Config(runner.RunConfig):
    """RLE on COCO keypoints."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    """Depth of the ResNet."""
    width: int = 64
    """Channels of the ResNet's stem; 64 is the published net."""
    head: Literal["normalized", "linear"] = "normalized"
    """Coordinate head: with the feature's norm divided out (official), or one plain linear layer (mmpose)."""
    sigma_bias: float = 0.0
    """Initial bias of sigma's logit."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the net; parameters and losses stay in float32."""
    batch_groups: int = 1
    """BatchNorm statistics over this many groups of the global batch; 1: all of it; number of devices: per device."""
    init: Path | None = None
    """torchvision ResNet file (.pth, .safetensors) to start the backbone from."""
    likelihood: tasks.Likelihood = tasks.Likelihood()
    """The loss."""
    preprocess: Literal["imagenet", "rle_official"] = "imagenet"
    """Image normalisation."""
    outside: Literal["keep", "mask"] = "keep"
    """Labelled joints outside the crop: keep (official) or mask (mmpose)."""


PRESETS = {
    # Embedded data, two CPU cores, minutes.
    "tiny": Config(
        depth=18, width=16, size_wh=(72, 96), batch_size=32, epochs=45, milestones=(33, 41), learning_rate=3e-3,
        warmup_steps=200, eval_every=15, sigma_bias=-1.0, clip_norm=10.0, ema=0.998, augment="light",
    ),
    "official": Config(),
    "mmpose": Config(
        head="linear", batch_size=512, epochs=210, warmup_steps=500, augment="mmpose", outside="mask",
        likelihood=tasks.Likelihood(variant="mmpose", flow_init="xavier"),
    ),
    "resnet152_384": Config(
        head="linear", depth=152, size_wh=(288, 384), batch_size=512, epochs=210, warmup_steps=500, learning_rate=5e-4,
        augment="mmpose", outside="mask", likelihood=tasks.Likelihood(variant="mmpose", flow_init="xavier"),
    ),
}  # fmt: skip


def make_task(config: Config, skeleton) -> tasks.Task:
    """net x head x loss x decoding."""
    backbone = ResNet(
        depth=config.depth, width=config.width, dtype=jnp.dtype(config.dtype), batch_groups=config.batch_groups
    )
    head = RegressionHead(skeleton.num_joints, kind=config.head, sigma_bias=config.sigma_bias)
    return tasks.regression(
        PoseRegressor(backbone, head), skeleton=skeleton, size_wh=config.size_wh,
        likelihood=config.likelihood, preprocess=config.preprocess, outside=config.outside,
    )  # fmt: skip


def from_pretrained(task: tasks.Task, config: Config):
    """Fresh variables whose backbone comes out of a torchvision file."""
    from jaxpose import weights

    _, backbone = weights.from_torch(weights.load_file(config.init), layout="resnet")
    variables = jax.device_get(task.init(jax.random.key(config.seed)))
    for collection, tree in (("params", variables["params"]["net"]), ("batch_stats", variables["batch_stats"])):
        here, there = (jax.tree.map(np.shape, t) for t in (tree["backbone"], backbone[collection]))
        if here != there:
            raise ValueError(
                f"{config.init} is not a ResNet-{config.depth} of width {config.width}: {collection} differ"
            )
        tree["backbone"] = backbone[collection]
    return variables


def main(argv: list[str] | None = None) -> dict[str, float]:
    config = runner.parse(PRESETS, name="coco_rle", default="tiny", description=__doc__, argv=argv)
    runner.start(config)
    if config.eval_only is not None:
        return runner.evaluate_only(config)
    data = runner.load_data(config)
    task = make_task(config, data.train.skeleton)
    variables = from_pretrained(task, config) if config.init else None
    return runner.run(task, config, data, variables=variables)


if __name__ == "__main__":
    runner.command(main)
