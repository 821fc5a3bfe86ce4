"""What the runner asks of the data that it trains on: the protocol `Kind`, and what its implementations share.

`experiments.common.persons` has crops of persons, `experiments.common.whole_images` whole images. Another kind (pairs of 2D
and 3D poses, columns of a scan, images with boxes) is one more module with a class of these methods; the runner stays as it is.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.common.config import RunConfig
from jaxpose import parallel, tasks
from jaxpose.data import builder, formats, labels, synthetic
from jaxpose.data.source import Source
from jaxpose.new import with_splits
from jaxpose.skeleton import Skeleton

HELD_OUT = 0.2  # of the pictures of a labelling tool's project that is not split
READ_ANEW = ("category", "visible_above", "exif", "follow_links")  # flags that say how the files of a data set are read
LAST_PICTURE = "plots/predictions.png"  # of a run, drawn last: where it is, all are

log = logging.getLogger(__name__)

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

    Raises:
        ValueError: the two splits have other joints, or the same in another order.
    """
    with_data: list[RunConfig] = []

    def first() -> None:
        with_data.append(with_labels(config))
        _open_splits(with_data[0], skeleton)

    parallel.on_first(first)
    return _open_splits(with_data[0] if with_data else with_labels(config), skeleton)


def with_labels(config: RunConfig) -> RunConfig:
    """Returns the config with the files of --labels, a labelling tool's project, which is converted into a folder of --data-dir.

    A project that its tool does not split is split by video where its names tell three or more apart, else by picture; which ones are
    held out is the same in every run, whatever its seed.

    Args:
        config: the settings of the run; returned as it is without --labels.

    Raises:
        FileNotFoundError, ValueError: as `jaxpose.data.labels.convert`.
    """
    if config.labels is None:
        return config
    options = labels.Options(config.names, category=config.category, on_bad=config.on_bad)
    choices = {"format": config.labels_format, "options": options, "corner": config.corner}
    folder = labels.folder_for(config.labels, config.data_dir, **choices)
    converted = labels.convert(config.labels, folder, **choices)
    log.info("%s", converted)
    if config.val_fraction:
        annotations, images = converted.of_split(config.train_split, divided=True)
        return dataclasses.replace(config, labels=None, annotations=annotations, images=images)
    if not converted.is_split:
        folder, how = with_splits(converted.to_split, folder / "split", share=HELD_OUT, seed=0)
        log.info("%s", how)
    return dataclasses.replace(config, labels=None, data=folder)


def _open_splits(config: RunConfig, skeleton: Skeleton | None) -> tuple[Source | None, Source]:
    train = None if config.eval_only else _open_split(config, "train", skeleton)
    val = _open_split(config, "val", skeleton)
    if train is not None and train.skeleton.joints != val.skeleton.joints:
        if sorted(train.skeleton.joints) == sorted(val.skeleton.joints) and config.reorder_joints:
            val = _open_split(config, "val", train.skeleton)
        else:
            raise ValueError(_other_joints(config, train, val))
    return train, val


def _open_split(config: RunConfig, part: Literal["train", "val"], skeleton: Skeleton | None) -> Source:
    """One part of the data: drawn, prepared before under a name, or found and prepared now."""
    folder = None if config.data is None else Path(config.data)
    format, (split, annotations, images) = config.format, _place(config, part)
    if folder is None and annotations is None:
        folder, format = _synthetic(config), "coco"
    elif folder is not None and not folder.exists() and annotations is None:
        return _prepared(config, split, skeleton)
    if annotations is not None and images is None and folder is None:
        folder = annotations.parent
        images = folder / "images" if (folder / "images").is_dir() else folder
    reader = formats.choose(format, folder, split, annotations=annotations)
    return builder.prepare(folder, split=split, data_dir=config.data_dir, annotations=annotations, images=images,
                           category=config.category, on_bad=config.on_bad, verify=config.verify, skeleton=skeleton,
                           reader=reader, reading=config.reading(part))  # fmt: skip


def _place(config: RunConfig, part: Literal["train", "val"]) -> tuple[str, Path | None, Path | None]:
    """Split, annotation file and image folder of a part; None: they are to be looked for in the folder."""
    if part == "train" or config.val_fraction:
        return config.train_split, config.annotations, config.images
    if config.val_annotations is None and config.eval_only:
        return config.val_split, config.annotations, config.val_images or config.images
    images = config.val_images or (config.images if config.val_annotations is not None else None)
    return config.val_split, config.val_annotations, images


def _synthetic(config: RunConfig) -> Path:
    """The folder of the drawn people."""
    val = max(config.synthetic_images // 10, 1)
    name = f"synthetic_{config.synthetic_images}_{config.seed}"
    return synthetic.write_dataset(
        config.data_dir / name, train=config.synthetic_images - val, val=val, seed=config.seed
    )


def _prepared(config: RunConfig, split: str, skeleton: Skeleton | None) -> Source:
    """A data set that was prepared under the name --data."""
    if config.val_fraction:
        raise ValueError(
            f"--data {config.data} is a prepared data set, which --val-fraction cannot divide: give its files"
        )
    _check_read_anew(config)
    try:
        source = builder.open(config.data_dir, split, name=str(config.data))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"--data {config.data} is not a folder: name the folder that holds annotations/ and the images; nor is a data set "
            f"of this name with a split {split!r} prepared in --data-dir {config.data_dir}"
        ) from None
    if skeleton is not None and source.skeleton.joints != skeleton.joints:
        same = config.reorder_joints and sorted(source.skeleton.joints) == sorted(skeleton.joints)
        raise ValueError(
            f"{source.name} has the joints {list(source.skeleton.joints)}, the checkpoint or the training data have "
            f"{list(skeleton.joints)}: "
            + (
                "--reorder-joints orders the joints while label files are read, and this data set is prepared: give its files"
                if same
                else "give data with the joints of the checkpoint"
            )
        )
    source.skeleton = config.reading("val").applied_to(source.skeleton)
    return source


def _check_read_anew(config: RunConfig) -> None:
    """Raises a ValueError where a flag says how label files and pictures are read, which was done when the data were prepared."""
    default = RunConfig()
    given = [name for name in READ_ANEW if getattr(config, name) != getattr(default, name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')} {getattr(config, name)}" for name in given)
        raise ValueError(
            f"--data {config.data} is a prepared data set, whose files are not read again, so that {flags} would change nothing: "
            "give it to jaxpose prepare, or give the files here"
        )


def _other_joints(config: RunConfig, train: Source, val: Source) -> str:
    """The message for two files whose joints differ."""
    ours, theirs = train.skeleton.joints, val.skeleton.joints
    if sorted(ours) == sorted(theirs):
        k = next(k for k, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        return (
            f"the training and the evaluation file list the same joints in another order: joint {k + 1} is {ours[k]!r} in "
            f"{train.name} and {theirs[k]!r} in {val.name}. --reorder-joints brings the second into the order of the first"
        )
    only = [[joint for joint in a if joint not in b] for a, b in ((ours, theirs), (theirs, ours))]
    return (
        f"the training and the evaluation file have other joints: {train.name} has {len(ours)}, {val.name} has {len(theirs)}; "
        f"only in the first: {only[0][:8]}, only in the second: {only[1][:8]}. Both must label the same joints"
    )


def one_category(source: Source) -> int | None:
    """The category of the persons; None where they are of several, which are then scored one by one."""
    return source.category_id if len(source.category_ids) < 2 else None


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
                      skeleton=source.skeleton, category_id=one_category(source))  # fmt: skip
