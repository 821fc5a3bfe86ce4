"""Former name of `jaxpose.data.crops` and of what moved out of it, for scripts that import it."""

from __future__ import annotations

from jaxpose.data.augment import move_joints
from jaxpose.data.crops import Decode, crop_affines, eval_batches, plan, sample, train_batches
from jaxpose.data.feed import EvalBatches, Pipeline, TrainBatches, sample_indices, tensorflow
from jaxpose.data.pixels import decoded, opencv, warped

__all__ = [
    "Decode",
    "EvalBatches",
    "Pipeline",
    "TrainBatches",
    "crop_affines",
    "decoded",
    "eval_batches",
    "move_joints",
    "opencv",
    "plan",
    "sample",
    "sample_indices",
    "tensorflow",
    "train_batches",
    "warped",
]
