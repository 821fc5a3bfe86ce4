"""What a run trains and is evaluated on: the splits of a data set, and what the runner asks of a kind of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.config import RunConfig
from jaxpose import parallel
from jaxpose.data import builder, synthetic
from jaxpose.data.formats import coco
from jaxpose.skeleton import Skeleton

LAST_PICTURE = "plots/predictions.png"  # drawn last: where it is, all are


@dataclass(frozen=True)
class Data:
    """What to train on (None where a run only evaluates), what to evaluate on, and its ground truth (None: there is none).

    `walk` is the module that makes batches, predictions, scores and pictures of it: `experiments.common.persons` for crops of
    persons, `experiments.common.whole_images` for whole images. `own_scores` gives the numbers of a data set's own evaluation, beside
    COCO's for persons and in their place for whole images: (predictions, config) -> {name: number}. `best` is the number by
    which the best checkpoint is kept.
    """

    train: Any
    val: Any
    ground_truth: Path | None
    walk: Any
    own_scores: Callable[[Mapping[str, np.ndarray], RunConfig], dict[str, float]] | None = None
    best: str = "AP"


def open_splits(config: RunConfig, *, skeleton: Skeleton | None = None, reader: Any = coco) -> tuple[Any, Any]:
    """(training source, None where a run only evaluates; evaluation source): drawn, found and prepared as the config says.

    Process 0 works, the others wait and then read. `skeleton` is that of a checkpoint: the data must have it, and data
    without annotations get it. `reader` knows the folder's format: `jaxpose.data.formats.coco` or `jaxpose.data.formats.mpii`.
    """
    parallel.on_first(lambda: _open_splits(config, skeleton, reader))
    return _open_splits(config, skeleton, reader)


def _open_splits(config: RunConfig, skeleton: Skeleton | None, reader: Any) -> tuple[Any, Any]:
    folder = config.data
    if folder is None:
        val = max(config.synthetic_images // 10, 1)
        name = f"synthetic_{config.synthetic_images}_{config.seed}"
        folder = synthetic.write_dataset(
            config.data_dir / name, train=config.synthetic_images - val, val=val, seed=config.seed
        )

    def open_split(split: str):
        return builder.prepare(folder, split=split, data_dir=config.data_dir, on_bad=config.on_bad,
                               verify=config.verify, skeleton=skeleton, reader=reader)  # fmt: skip

    val = open_split(config.val_split)
    return None if config.eval_only else open_split(config.train_split), val
