"""The interface between the runner and the data that it trains on: the protocol `Kind`, and the shared part of its implementations.

`experiments.common.persons` has crops of persons, `experiments.common.whole_images` whole images. Another kind of data (pairs
of 2D and 3D poses, columns of a scan, images with boxes) is another module with a class of these methods; the runner stays the same.
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

from experiments.common import storage
from experiments.common.config import RunConfig
from jaxpose import parallel, tasks
from jaxpose.data import builder, formats, labels, synthetic
from jaxpose.data.source import Source, joined
from jaxpose.new import with_splits
from jaxpose.skeleton import Skeleton

HELD_OUT = 0.2  # part of the images held out from a labelling tool's project without a split
READ_ANEW = ("category", "visible_above", "exif", "follow_links")  # flags for reading the files of a data set
SYNTHETIC = {"mpii": "_mpii", "coco_3d": "_space"}  # formats of synthetic people, with the ends of their folders' names
LAST_PICTURE = "plots/predictions.png"  # the last picture that a run draws: if it exists, all do

log = logging.getLogger(__name__)

PyTree = Any
Batch = dict[str, jax.Array]  # global arrays, split over the devices
Predictions = dict[str, np.ndarray]  # complete on every process, one row per sample
PredictStep = Callable[[PyTree, Batch], dict[str, jax.Array]]
OwnScores = Callable[[Mapping[str, Any]], dict[str, float]]


class Kind(Protocol):
    """The data of a run and the operations on them: batches, predictions, scores and pictures.

    An implementation holds its settings, its sources and the mesh of the run. Every process calls `train_batches`, `predict`
    and `score`; `report` and `draw` are called on one process alone and must not wait for another.
    """

    @property
    def samples(self) -> str:
        """The name of the samples, in the plural: "persons"."""

    @property
    def best(self) -> str:
        """Name of the score that decides which checkpoint is the best; larger is better."""

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the most important scores, in the order in which they are logged; an evaluation may lack some of them."""

    @property
    def skeleton(self) -> Skeleton:
        """The joints of the training data, or of the evaluation data if a run only evaluates."""

    @property
    def mesh(self) -> Mesh:
        """The devices that the batches are split over."""

    def check(self) -> None:
        """Raises a ValueError if there are no samples to train on or to evaluate on."""

    def count(self) -> int:
        """Returns the number of samples in an epoch."""

    def variant(self) -> str:
        """Returns the settings of an evaluation for its file names: "_detections", or "" for the usual ones."""

    def train_batches(self, *, start_step: int, total: int) -> Iterator[Batch]:
        """Yields batches `start_step` to `total` - 1. Batch t depends on the seed and t only, so a resumed run sees the same ones."""

    def predict(self, step: PredictStep, task: tasks.Task, variables: PyTree) -> Predictions:
        """Returns predictions for every evaluation sample exactly once, in the coordinates of the labels."""

    def score(
        self, predictions: Predictions, task: tasks.Task, variables: PyTree, *, name: str, last: bool = True
    ) -> dict[str, float]:
        """Writes results/NAME.json (process 0) and returns the scores, {} if there are no labels.

        Args:
            predictions: the return value of `predict`. Entries may be added for `draw`.
            task: the task that made the predictions.
            variables: the weights that made them.
            name: name of the evaluation, for its files.
            last: True for the last evaluation, which may take longer.
        """

    def report(self, name: str) -> None:
        """Writes report.html, the page of the evaluation `name`, if it has labels and results."""

    def draw(self, predictions: Predictions, task: tasks.Task, variables: PyTree, events: list[dict[str, Any]]) -> None:
        """Draws the pictures at the end of a run; `LAST_PICTURE` comes last.

        Args:
            predictions: the return value of `predict`.
            task: the task that made the predictions.
            variables: the weights that made them, on the host.
            events: the events of the run's log.
        """


class Load(Protocol):
    """Opens the data that a config names."""

    def __call__(self, config: Any, *, skeleton: Skeleton | None = None) -> Kind:
        """Returns the data.

        Args:
            config: the settings of the run.
            skeleton: the skeleton of a checkpoint, which the data must have; data without annotations get it.
        """


def make_mesh(config: RunConfig) -> Mesh:
    """Returns the only mesh of a run; a run that only evaluates has no optimiser state to split."""
    return parallel.make_mesh(fsdp=1 if config.eval_only else config.fsdp)


def open_splits(config: RunConfig, *, skeleton: Skeleton | None = None) -> tuple[Source | None, Source]:
    """Draws or locates the splits and prepares them, as the config says.

    Process 0 works; the others wait and then read.

    Args:
        config: names the folder, its format and the splits.
        skeleton: the skeleton of a checkpoint, which the data must have; data without annotations get it.

    Returns:
        The training source (None if a run only evaluates) and the evaluation source.

    Raises:
        ValueError: the two splits have different joints, or the same joints in a different order.
    """
    _warn_of_overlap(config)
    with_data: list[RunConfig] = []

    def first() -> None:
        with_data.append(with_labels(config))
        _open_splits(with_data[0], skeleton)
        storage.share(config)

    parallel.on_first(first)
    if jax.process_index() != 0:
        storage.pull(config)
    return _open_splits(with_data[0] if with_data else with_labels(config), skeleton)


def with_labels(config: RunConfig) -> RunConfig:
    """Returns the config with the files of --labels, a labelling tool's project, which is converted into a folder of --data-dir.

    A project without a split is split by video if its names show at least three, else by picture; the same ones are held out in every
    run, whatever its seed.

    Args:
        config: the settings of the run; returned unchanged without --labels.

    Raises:
        FileNotFoundError, ValueError: as `jaxpose.data.labels.convert`.
    """
    if config.labels is None:
        return config
    options = labels.Options(config.names, category=config.category, on_bad=config.on_bad, box=config.box)
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
    train = None if config.eval_only else _open_training(config, skeleton)
    val = _open_split(config, "val", skeleton)
    if train is not None and train.skeleton.joints != val.skeleton.joints:
        if sorted(train.skeleton.joints) == sorted(val.skeleton.joints) and config.reorder_joints:
            val = _open_split(config, "val", train.skeleton)
        else:
            raise ValueError(_other_joints(config, train, val))
    return train, val


def _warn_of_overlap(config: RunConfig) -> None:
    """Warns on process 0 if persons are evaluated that are trained on as well."""
    splits = config.train_split.split("+")
    if config.eval_only is None and len(splits) > 1 and config.val_split in splits and jax.process_index() == 0:
        log.warning(
            "--train-split %s --val-split %s: it is evaluated on persons that it is trained on",
            config.train_split, config.val_split,
        )  # fmt: skip


def _open_training(config: RunConfig, skeleton: Skeleton | None) -> Source:
    """Opens the training split, or the splits that --train-split joins by "+"."""
    splits = config.train_split.split("+")
    if len(splits) > 1 and (config.annotations is not None or config.val_fraction or not all(splits)):
        raise ValueError(
            f"--train-split {config.train_split}: names of splits in --data joined by +, without --annotations and --val-fraction"
        )
    parts = [dataclasses.replace(config, train_split=split) for split in splits]
    return joined([_open_split(part, "train", skeleton) for part in parts])


def _open_split(config: RunConfig, part: Literal["train", "val"], skeleton: Skeleton | None) -> Source:
    """Opens one part of the data: synthetic, prepared earlier under a name, or prepared now from files."""
    folder = None if config.data is None else Path(config.data)
    format, (split, annotations, images) = config.format, _place(config, part)
    if folder is None and annotations is None:
        folder, format = _synthetic(config), config.format if config.format in SYNTHETIC else "coco"
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
    """Returns split, annotation file and image folder of a part; None: to be searched in the folder."""
    if part == "train" or config.val_fraction:
        return config.train_split, config.annotations, config.images
    if config.val_annotations is None and config.eval_only:
        return config.val_split, config.annotations, config.val_images or config.images
    images = config.val_images or (config.images if config.val_annotations is not None else None)
    return config.val_split, config.val_annotations, images


def synthetic_folder(config: RunConfig) -> Path:
    """Returns the folder of the synthetic people of a run without data, which may not be drawn yet."""
    layout = SYNTHETIC.get(config.format, "")
    return config.data_dir / f"synthetic_{config.synthetic_images}_{config.seed}{layout}"


def _synthetic(config: RunConfig) -> Path:
    """Draws the synthetic people and returns their folder; for --format mpii those of MPII's layout, for coco_3d those in space."""
    val = max(config.synthetic_images // 10, 1)
    in_space = config.format == "coco_3d"
    folder = synthetic_folder(config if in_space else dataclasses.replace(config, format="coco"))
    synthetic.write_dataset(folder, train=config.synthetic_images - val, val=val, seed=config.seed, space=in_space)
    return synthetic.write_mpii(folder, synthetic_folder(config)) if config.format == "mpii" else folder


def _prepared(config: RunConfig, split: str, skeleton: Skeleton | None) -> Source:
    """Opens a data set that was prepared under the name --data."""
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
    """Raises a ValueError if a flag would change how label files and images were read when the data were prepared."""
    default = RunConfig()
    given = [name for name in READ_ANEW if getattr(config, name) != getattr(default, name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')} {getattr(config, name)}" for name in given)
        raise ValueError(
            f"--data {config.data} is a prepared data set, whose files are not read again, so that {flags} would change nothing: "
            "give it to jaxpose prepare, or give the files here"
        )


def _other_joints(config: RunConfig, train: Source, val: Source) -> str:
    """Returns the message for two files with different joints."""
    ours, theirs = train.skeleton.joints, val.skeleton.joints
    if sorted(ours) == sorted(theirs):
        k = next(k for k, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        return (
            f"the training and the evaluation file list the same joints in a different order: joint {k + 1} is {ours[k]!r} in "
            f"{train.name} and {theirs[k]!r} in {val.name}. --reorder-joints puts those of the second into the order of the first"
        )
    only = [[joint for joint in a if joint not in b] for a, b in ((ours, theirs), (theirs, ours))]
    return (
        f"the training and the evaluation file have different joints: {train.name} has {len(ours)}, {val.name} has {len(theirs)}; "
        f"only in the first: {only[0][:8]}, only in the second: {only[1][:8]}. Both must label the same joints"
    )


def one_category(source: Source) -> int | None:
    """Returns the category of the persons; None if they belong to several, which are then scored one by one."""
    return source.category_id if len(source.category_ids) < 2 else None


def log_unscored(path: Path) -> None:
    """Logs where the predictions for a split without labels are, and what makes the file for a server of them."""
    log.info(
        "no annotations to score against: the predictions are in %s; jaxpose submit packs them for the server of COCO or MPII",
        path,
    )


def write_report(out: Path, name: str, *, source: Source, ground_truth: Path | None) -> None:
    """Writes out/report.html, the page of the evaluation `name`, if there are annotations and a result file.

    Args:
        out: folder of the run.
        name: name of the evaluation, as in its files in out/results.
        source: source of the page's images.
        ground_truth: annotation JSON; None: there is none.
    """
    from jaxpose.view import report, tiles

    results = out / "results" / f"{name}.json"
    if ground_truth is not None and results.exists():
        report.of_run(out, results=results, ground_truth=ground_truth, images=tiles.of_source(source),
                      skeleton=source.skeleton, category_id=one_category(source))  # fmt: skip
