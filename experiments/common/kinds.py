"""What the runner asks of the data that it trains on: the protocol `Kind`, and what its implementations share.

`experiments.common.persons` has crops of persons, `experiments.common.whole_images` whole images. Another kind (pairs of 2D
and 3D poses, columns of a scan, images with boxes) is one more module with a class of these methods; the runner stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.common.config import RunConfig
from jaxpose import parallel, tasks
from jaxpose.data import builder, formats, synthetic
from jaxpose.data.source import Source
from jaxpose.skeleton import Skeleton

LAST_PICTURE = "plots/predictions.png"  # of a run, drawn last: where it is, all are

PyTree = Any
Batch = dict[str, jax.Array]  # of global arrays, split over the devices
Predictions = dict[str, np.ndarray]  # whole on every process, one row per sample
PredictStep = Callable[[PyTree, Batch], dict[str, jax.Array]]
OwnScores = Callable[[Mapping[str, Any]], dict[str, float]]


class Kind(Protocol):
    """The data of a run and what is done with them: batches, predictions, scores and pictures.

    An implementation holds its settings, its sources and the mesh of the run. Every process calls `train_batches`, `predict`
    and `score`; `report` and `draw` are called on one process alone and must wait for no other.
    """

    @property
    def samples(self) -> str:
        """What the samples are called, in the plural: "persons"."""

    @property
    def best(self) -> str:
        """Name of the score by which the best checkpoint is kept; larger is better."""

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the scores that are looked at first, in the order in which they are logged; there may be fewer."""

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the training data; of the evaluation's where a run only evaluates."""

    @property
    def mesh(self) -> Mesh:
        """The devices that the batches are split over."""

    def check(self) -> None:
        """Raises a ValueError where there is nothing to train on or to evaluate on."""

    def count(self) -> int:
        """Samples of an epoch."""

    def variant(self) -> str:
        """What the file names of an evaluation say about its settings: "_detections", or "" for the usual ones."""

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Batches `start_step` to `total` - 1. Batch t depends on the seed and t only, so a resumed run sees the same ones."""

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Predictions for every evaluation sample exactly once, in the coordinates of the labels."""

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes results/NAME.json (process 0) and returns the scores, {} where there are no labels.

        Args:
            predictions: what `predict` returned. Entries may be added for `draw`.
            task: the task that made them.
            variables: the weights that made them.
            name: name of the evaluation, for its files.
            last: whether this is the last evaluation, which may take longer.
        """

    def report(self, name: str) -> None:
        """Writes report.html, the page of the evaluation `name`, where it has labels and results."""

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run; `LAST_PICTURE` comes last.

        Args:
            predictions: what `predict` returned.
            task: the task that made them.
            variables: the weights that made them, on the host.
            events: the events of the run's log.
        """


class Load(Protocol):
    """Opens the data that a config names."""

    def __call__(self, config: Any, *, skeleton: Skeleton | None = None) -> Kind:
        """Returns the data.

        Args:
            config: the settings of the run.
            skeleton: that of a checkpoint, which the data must have; data without annotations get it.
        """


def make_mesh(config: RunConfig) -> Mesh:
    """The one mesh of a run; a run that only evaluates has no optimiser's state to split."""
    return parallel.make_mesh(fsdp=1 if config.eval_only else config.fsdp)


def open_splits(config: RunConfig, *, skeleton: Skeleton | None = None) -> tuple[Source | None, Source]:
    """Draws, finds and prepares the splits as the config says.

    Process 0 works, the others wait and then read.

    Args:
        config: names the folder, its format and the splits.
        skeleton: that of a checkpoint: the data must have it, and data without annotations get it.

    Returns:
        The training source, None where a run only evaluates, and the evaluation source.
    """
    parallel.on_first(lambda: _open_splits(config, skeleton))
    return _open_splits(config, skeleton)


def _open_splits(config: RunConfig, skeleton: Skeleton | None) -> tuple[Source | None, Source]:
    folder, format = config.data, config.format
    if folder is None:
        val = max(config.synthetic_images // 10, 1)
        name = f"synthetic_{config.synthetic_images}_{config.seed}"
        folder, format = synthetic.write_dataset(
            config.data_dir / name, train=config.synthetic_images - val, val=val, seed=config.seed
        ), "coco"  # fmt: skip

    def open_split(split: str) -> Source:
        reader = formats.choose(format, folder, split)
        return builder.prepare(folder, split=split, data_dir=config.data_dir, on_bad=config.on_bad,
                               verify=config.verify, skeleton=skeleton, reader=reader)  # fmt: skip

    val = open_split(config.val_split)
    return None if config.eval_only else open_split(config.train_split), val


def write_report(out: Path, name: str, *, source: Source, ground_truth: Path | None) -> None:
    """Writes out/report.html, the page of the evaluation `name`, where there are annotations and its result file.

    Args:
        out: folder of the run.
        name: name of the evaluation, which its files in out/results have.
        source: where the page's pictures come from.
        ground_truth: annotation JSON; None: there is none.
    """
    from jaxpose.view import report, tiles

    results = out / "results" / f"{name}.json"
    if ground_truth is not None and results.exists():
        report.of_run(out, results=results, ground_truth=ground_truth, images=tiles.of_source(source),
                      skeleton=source.skeleton, category_id=source.category_id)  # fmt: skip
