"""From a source to batches of whole images with the boxes and joints of all their people, for detectors and one-stage nets.

    record -> side and mirroring, drawn from (seed, epoch, image id) -> decode the JPEG -> scale to a short side
           -> mirror -> pad with zeros on the right and below

`sample` does it for one image in plain Python, and defines what the batches hold. `train_batches` and `eval_batches` do the
same through tf.data, in parallel. The global batch t is a function of (seed, t) only, and a process takes its slice of it
(`jaxpose.data.feed`).

Images of one batch have one padded shape, which `Scaling.padded_hw` chooses from a few, so that few programs are compiled. The
images of a shape are a sequence of epochs of their own; the shapes take turns such that after any number of batches each had its
share, up to one batch.

A batch of `train_batches` is a dictionary of NumPy arrays, with G slots for the people of an image (unused slots are 0):

    image (B, H, W, 3)            RGB in 0..255, zeros beyond the image; uint8 with the rule "detectron2", which scales bytes,
                                  float32 with "torchvision"
    size_hw (B, 2) int32          height and width of the scaled image, without padding
    boxes (B, G, 4) float32       xyxy in pixels of the scaled image, in continuous coordinates: the image spans 0..W
    people (B, G) bool            True in slots that hold a person
    keypoints (B, G, K, 3) float32  x, y and visibility: 0 unlabelled, 1 hidden, 2 visible. Left and right are exchanged where
                                  the image is mirrored. A joint outside the image has visibility 0, and x = y = 0.
    image_id (B,) int64
    valid (B,) bool               True

People are all persons with a box: those without a labelled joint too, whose boxes are trained on. Crowds are left out, so that
their pixels are background, as in the published detectors. Boxes are cut at the border of the image; people whose box has no area
then are left out, and logged.

A batch of `eval_batches` holds image, size_hw, image_id and valid as above, -1 and False in padding, and

    index (B,) int64              row of the image in the source, -1 in padding
    picture_hw (B, 2) int32       height and width of the image as it is stored
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpose.data.augment import whole_generator
from jaxpose.data.detection import DIVISOR, Rule, resized, resized_hw
from jaxpose.data.feed import (
    EvalBatches,
    Pipeline,
    TrainBatches,
    batches_by_size,
    check_share,
    check_steps,
    rows_of_batch,
    sample_indices,
    tensorflow,
)
from jaxpose.data.pixels import decoded
from jaxpose.data.source import Joined, Source, is_labelled, person_dtype
from jaxpose.data.whole_images import Choice

__all__ = ["People", "Scaling", "eval_batches", "sample", "train_batches", "turn"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scaling:
    """How images are scaled and padded.

    Attributes:
        short: The shorter side, px, unless the longer one would exceed `longest`.
        longest: The largest length of the longer side, px.
        rule: The code base whose interpolation and rounding are used (QUIRK E7).
        half_pixel: True if half a pixel of the stored image is added to labelled joints, which makes them continuous coordinates as
            the boxes are (Detectron2); torchvision takes them as they are (QUIRK E8).
        padded_long: The lengths that the longer side may be padded to, increasing; the shorter one is padded to `short`. Both are
            rounded up to multiples of 32. Images that are longer than the last are padded to `longest`.

    Raises:
        ValueError: A number is not positive, or the lengths do not increase.
    """

    short: int = 800
    longest: int = 1333
    rule: Rule = "detectron2"
    half_pixel: bool = True
    padded_long: tuple[int, ...] = (1088, 1216, 1344)

    def __post_init__(self) -> None:
        lengths = tuple(self.padded_long)
        if self.short < 1 or self.longest < self.short or any(b <= a for a, b in zip((0, *lengths), lengths)):
            raise ValueError(
                f"short={self.short}, longest={self.longest}, padded_long={lengths}: expected positive lengths, the longest not below "
                "the short one, and padded lengths that increase"
            )
        if self.rule not in ("torchvision", "detectron2"):
            raise ValueError(f"rule={self.rule!r}: expected 'torchvision' or 'detectron2'")

    def scaled_hw(self, size_hw: Sequence[int], *, short: int | None = None) -> tuple[int, int]:
        """Returns the height and width of an image after scaling; `short` replaces the shorter side."""
        height, width = (int(side) for side in size_hw)
        return resized_hw((height, width), short=short or self.short, longest=self.longest, rule=self.rule)

    def padded_hw(self, size_hw: Sequence[int]) -> tuple[int, int]:
        """Returns the height and width that a stored image of this size is padded to.

        >>> Scaling().padded_hw((480, 640)), Scaling().padded_hw((640, 427))
        ((800, 1088), (1216, 800))
        """
        height, width = self.scaled_hw(size_hw)
        lengths = [*self.padded_long, self.longest]
        longer = next((length for length in lengths if length >= max(height, width)), self.longest)
        short, longer = (-(-side // DIVISOR) * DIVISOR for side in (self.short, longer))
        return (short, longer) if width >= height else (longer, short)


@dataclass(frozen=True)
class People:
    """The people with boxes in the images of a source; made by `People.of`.

    Attributes:
        source: The source, at the level "image".
        table: The people, sorted by image; rows of `jaxpose.data.source.person_dtype`.
        first: ``(num_images + 1,)`` indices in `table` where the people of each image begin.
        slots: The number of slots G.
    """

    source: Source
    table: np.ndarray
    first: np.ndarray
    slots: int

    @classmethod
    def of(cls, source: Source, *, max_people: int | None = None) -> People:
        """Reads the annotations once, and logs who is left out.

        Args:
            source: A source at any level.
            max_people: An upper bound of G; in an image with more people those with the largest boxes stay. None: G is the largest
                number of people in an image, so that nobody is left out.

        Raises:
            ValueError: `max_people` is not positive.
        """
        if max_people is not None and max_people < 1:
            raise ValueError(f"max_people must be 1 or more, or None for all, got {max_people}")
        table = _clipped(source, everybody(source))
        table = table[np.argsort(table["image"], kind="stable")]
        if max_people is not None:
            table = _largest(source, table, max_people)
        first = np.searchsorted(table["image"], np.arange(len(source.images) + 1))
        return cls(source.at_level("image"), table, first, max(1, int(np.diff(first).max(initial=0))))

    def select(self, choose: Choice) -> np.ndarray:
        """Returns the rows of the images that are trained on.

        Args:
            choose: "labelled", images with a labelled joint, as published; "annotated", those with a box; "all".

        Raises:
            ValueError: There are none, or the choice is unknown.
        """
        count = len(self.source.images)
        labelled = np.zeros(count, bool)
        labelled[self.table["image"][(self.table["keypoints"][..., 2] > 0).any(-1)]] = True
        choices = {"labelled": labelled, "annotated": np.diff(self.first) > 0, "all": np.ones(count, bool)}
        if choose not in choices:
            raise ValueError(f"choose must be 'labelled', 'annotated' or 'all', got {choose!r}")
        if not choices[choose].any():
            what = {"labelled": "with a labelled joint", "annotated": "with a box", "all": "at all"}[choose]
            raise ValueError(f"{self.source} has no image {what} (choose={choose!r})")
        return np.flatnonzero(choices[choose])


def everybody(source: Source) -> np.ndarray:
    """Returns all persons with a box, those without a labelled joint last; crowds are left out.

    A source without an annotation file, such as that of several splits, lists persons with labelled joints alone; then the boxes of
    the others are unknown.

    Args:
        source: A source at any level.

    Returns:
        Rows of `jaxpose.data.source.person_dtype`.
    """
    if isinstance(source, Joined):
        parts = [everybody(part) for part in source.sources]
        for part, start in zip(parts, source.starts, strict=False):
            part["image"] += np.int32(start)
        return np.concatenate(parts)
    dtype = person_dtype(source.skeleton.num_joints)
    labelled = np.zeros(len(source.persons), dtype)
    for name in dtype.names:
        labelled[name] = source.persons[name]
    if source.ground_truth_json is None:
        return labelled
    number = {image_id: i for i, image_id in enumerate(source.images["image_id"].tolist())}
    categories = set(source.category_ids or (source.category_id,))
    others = [
        person
        for person in source.ground_truth()["annotations"]
        if person["image_id"] in number
        and person.get("category_id", source.category_id) in categories
        and not person.get("iscrowd", 0)
        and not is_labelled({"iscrowd": 0, "keypoints": (), **person})
        and np.shape(person.get("bbox")) == (4,)
        and np.isfinite(person["bbox"]).all()
    ]
    table = np.zeros(len(others), dtype)
    if others:
        table["image"] = [number[person["image_id"]] for person in others]
        table["annotation_id"] = [person["id"] for person in others]
        table["box"] = [person["bbox"] for person in others]
        table["area"] = table["box"][:, 2] * table["box"][:, 3]
        table["score"] = 1.0
    return np.concatenate([labelled, table])


def train_batches(
    source: Source | People,
    *,
    batch_size: int,
    scaling: Scaling = Scaling(),
    short_sides: Sequence[int] = (),
    flip: float = 0.5,
    seed: int = 0,
    start_step: int = 0,
    stop_step: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
    choose: Choice = "labelled",
    max_people: int | None = None,
) -> TrainBatches:
    """Returns the batches start_step, start_step + 1, ... of this process, endless or up to stop_step.

    Args:
        source: A source at any level, whose annotations are read once (seconds for all of COCO); or its people, where they have been
            read already.
        batch_size: The size of the global batch, a multiple of `process_count`.
        scaling: How images are scaled and padded.
        short_sides: The shorter sides of which one is drawn for each image, at most that of `scaling`; none: that one.
        flip: The probability of mirroring.
        seed: Seeds the order and the augmentation.
        start_step: The number of the first batch; a resumed run continues with the batches that it would have seen.
        stop_step: The number after the last batch; None for no end.
        process_index, process_count: This process and their number; it takes its slice of the global batch.
        threads: The number of threads that decode and scale; None takes one per core, at most 16.
        prefetch: The number of batches made ahead.
        choose: See `People.select`.
        max_people: See `People.of`; of people that have been read, None.

    Raises:
        ValueError: There are no such images; the processes cannot share the batch; a side is longer than that of `scaling`;
            `max_people` is given beside people. While
            iterating: an image cannot be decoded; the message names its file and its id.
    """
    check_share(batch_size, process_index, process_count)
    check_steps(start_step, stop_step)
    _check_draws(scaling, short_sides, flip)
    people, local = _people_of(source, max_people), batch_size // process_count
    groups = _by_shape(people, people.select(choose), scaling)
    draws = {"scaling": scaling, "short_sides": tuple(short_sides), "flip": flip, "seed": seed}

    def plan_batch(step: int) -> dict[str, np.ndarray]:
        group, number = turn(step, [len(images) for images in groups])
        positions = number * batch_size + process_index * local + np.arange(local)
        rows, epochs = sample_indices(positions, num_samples=len(groups[group]), seed=seed)
        return _plan(people, groups[group][rows], epochs=epochs, **draws)

    pipeline = Pipeline(
        people.source, plan_batch, _rows(people.source, scaling), batch=local, threads=threads, prefetch=prefetch
    )
    return TrainBatches(pipeline, start_step, stop_step)


def sample(
    source: Source | People,
    index: int,
    *,
    scaling: Scaling = Scaling(),
    short_sides: Sequence[int] = (),
    flip: float = 0.0,
    seed: int = 0,
    epoch: int = 0,
    max_people: int | None = None,
) -> dict[str, Any]:
    """Makes one row of a training batch in plain Python, which defines the contents of the batches.

    Of a source it is slow, because it reads the annotations in every call; of `People` it is not.

    Args:
        source: A source at any level, or its people.
        index: The row of the image.
        scaling, short_sides, flip, seed, max_people: The same as in `train_batches`.
        epoch: The epoch for which the augmentation is drawn.

    Returns:
        The entries of a batch without their first dimension.
    """
    _check_draws(scaling, short_sides, flip)
    people = _people_of(source, max_people)
    draws = {"scaling": scaling, "short_sides": tuple(short_sides), "flip": flip, "seed": seed}
    row = {key: value[0] for key, value in _plan(people, np.array([index]), epochs=np.array([epoch]), **draws).items()}
    jpeg = people.source.jpeg(int(row.pop("record")))
    padded_hw, mirror = row.pop("padded_hw"), bool(row.pop("mirror"))
    return {"image": _pixels(jpeg, row["size_hw"], padded_hw, mirror, scaling.rule)} | row


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    scaling: Scaling = Scaling(),
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
) -> EvalBatches:
    """Returns every image of the source once, without augmentation; every process gets the same number and shapes of batches.

    Images with the same padded shape come together, the largest first, each in the order of the source. The last global batch of
    a shape is filled up with rows whose `valid` is False: copies of its last image with image_id and index -1.

    Args:
        source: A source at any level; images without people count too.
        batch_size: The size of the global batch, a multiple of `process_count`.
        scaling: How images are scaled and padded.
        process_index, process_count, threads, prefetch: The same as in `train_batches`.

    Raises:
        ValueError: There are no images; the processes cannot share the batch. While iterating: an image cannot be decoded; the
            message names its file and its id.
    """
    check_share(batch_size, process_index, process_count)
    source, local = source.at_level("image"), batch_size // process_count
    if len(source) == 0:
        raise ValueError(f"{source} has no images")
    sizes_hw = np.asarray(source.images["size_wh"])[:, ::-1]
    padded = np.array([scaling.padded_hw(size) for size in sizes_hw])
    table = batches_by_size(padded[:, ::-1], batch_size)

    def plan_batch(step: int) -> dict[str, np.ndarray]:
        rows, valid, records = rows_of_batch(table[step], process_index, process_count)
        return {
            "size_hw": np.array([scaling.scaled_hw(size) for size in sizes_hw[records]], np.int32),
            "picture_hw": sizes_hw[records].astype(np.int32),
            "image_id": np.where(valid, source.images["image_id"][records], -1),
            "index": rows,
            "valid": valid,
            "record": records.astype(np.int64),
            "padded_hw": padded[records].astype(np.int32),
            "mirror": np.zeros(len(records), bool),
        }

    pipeline = Pipeline(source, plan_batch, _rows(source, scaling), batch=local, threads=threads, prefetch=prefetch)
    return EvalBatches(pipeline, len(table))


def turn(step: int, counts: Sequence[int]) -> tuple[int, int]:
    """Returns the group that batch `step` is made of, and the number of the group's batches before it.

    After any number of batches each group had its share of them, up to one batch. It depends on `step` and `counts` alone, so
    that nothing needs to be remembered.

    Args:
        step: The number of the batch.
        counts: The sizes of the groups, positive.

    >>> [turn(step, [2, 1]) for step in range(4)]
    [(1, 0), (0, 0), (0, 1), (1, 1)]
    """
    rest = sum(counts)
    for group, count in enumerate(counts[:-1]):
        before, after = step * count // rest, (step + 1) * count // rest
        if after > before:
            return group, before
        step, rest = step - before, rest - count
    return len(counts) - 1, step


def _people_of(source: Source | People, max_people: int | None) -> People:
    if not isinstance(source, People):
        return People.of(source, max_people=max_people)
    if max_people is not None:
        raise ValueError(f"max_people={max_people}: the people were read already; give it to People.of")
    return source


def _check_draws(scaling: Scaling, short_sides: Sequence[int], flip: float) -> None:
    if not all(1 <= side <= scaling.short for side in short_sides):
        raise ValueError(f"short_sides={tuple(short_sides)}: expected sides of 1 to {scaling.short} pixels")
    if not 0 <= flip <= 1:
        raise ValueError(f"flip={flip}: expected a probability")


def _by_shape(people: People, images: np.ndarray, scaling: Scaling) -> list[np.ndarray]:
    """Returns the images of each padded shape, the shapes in a fixed order."""
    shapes = np.array([scaling.padded_hw(size[::-1]) for size in people.source.images["size_wh"][images]])
    kinds, which = np.unique(shapes, axis=0, return_inverse=True)
    return [images[which.reshape(-1) == kind] for kind in range(len(kinds))]


def _plan(
    people: People,
    indices: np.ndarray,
    *,
    epochs: np.ndarray,
    scaling: Scaling,
    short_sides: tuple[int, ...],
    flip: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Computes everything about some images except their pixels, and how to make these: record, padded_hw, mirror."""
    images = people.source.images[indices]
    size_hw, mirror = np.zeros((len(images), 2), np.int32), np.zeros(len(images), bool)
    for i, (image, epoch) in enumerate(zip(images, epochs, strict=True)):
        rng = whole_generator(seed, int(epoch), int(image["image_id"]))
        mirror[i] = rng.random() < flip
        short = short_sides[int(rng.integers(len(short_sides)))] if short_sides else None
        size_hw[i] = scaling.scaled_hw(image["size_wh"][::-1], short=short)
    shape = (len(images), people.slots)
    boxes, exists = np.zeros((*shape, 4), np.float32), np.zeros(shape, bool)
    keypoints = np.zeros((*shape, people.source.skeleton.num_joints, 3), np.float32)
    for i, index in enumerate(indices):
        persons = people.table[people.first[index] : people.first[index + 1]]
        rows = slice(0, len(persons))
        exists[i, rows] = True
        boxes[i, rows], keypoints[i, rows] = _placed(
            persons, images["size_wh"][i], size_hw[i, ::-1], mirror[i], people.source.skeleton.flip_index,
            half_pixel=scaling.half_pixel,
        )  # fmt: skip
    return {
        "size_hw": size_hw,
        "boxes": boxes,
        "people": exists,
        "keypoints": keypoints,
        "image_id": images["image_id"],
        "valid": np.ones(len(images), bool),
        "record": indices.astype(np.int64),
        "padded_hw": np.array([scaling.padded_hw(image["size_wh"][::-1]) for image in images], np.int32),
        "mirror": mirror,
    }


def _placed(
    persons: np.ndarray,
    image_wh: np.ndarray,
    size_wh: np.ndarray,
    mirror: bool,
    flip_index: np.ndarray,
    *,
    half_pixel: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes (P, 4) xyxy and keypoints (P, K, 3) in pixels of the scaled image of size `size_wh`."""
    scale = size_wh / image_wh.astype(np.float64)
    low = persons["box"][:, :2].astype(np.float64)
    corners = np.stack([low, low + persons["box"][:, 2:]], 1) * scale  # (P, 2, 2)
    xy = (persons["keypoints"][..., :2].astype(np.float64) + (0.5 if half_pixel else 0.0)) * scale
    visibility = persons["keypoints"][..., 2]
    if mirror:
        corners[..., 0] = size_wh[0] - corners[:, ::-1, 0]
        xy[..., 0] = size_wh[0] - xy[..., 0]
        xy, visibility = xy[:, flip_index], visibility[:, flip_index]
    seen = (visibility > 0) & ((xy >= 0) & (xy <= size_wh)).all(-1)
    keypoints = np.concatenate([xy, visibility[..., None]], -1)
    return np.clip(corners, 0, size_wh).reshape(-1, 4), np.where(seen[..., None], keypoints, 0.0)


def _clipped(source: Source, table: np.ndarray) -> np.ndarray:
    """Returns the people with their boxes cut at the border of the image, without those whose box has no area then."""
    if not len(table):
        return table
    table, size = table.copy(), source.images["size_wh"][table["image"]].astype(np.float32)
    low = np.clip(table["box"][:, :2], 0, size)
    high = np.clip(table["box"][:, :2] + table["box"][:, 2:], 0, size)
    table["box"] = np.concatenate([low, high - low], 1)
    where = (table["box"][:, 2:] > 1e-5).all(-1)
    if not where.all():
        logger.warning("%s: %d boxes have no area inside their image: left out", source.name, int((~where).sum()))
    return table[where]


def _largest(source: Source, table: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` people of each image with the largest boxes, in the order of the table; the number of others is logged."""
    area = table["box"][:, 2] * table["box"][:, 3]
    order = np.lexsort((np.arange(len(table)), -area, table["image"]))
    rank = np.empty(len(table), np.int64)
    rank[order] = np.arange(len(table)) - np.searchsorted(table["image"][order], table["image"][order])
    if (rank >= count).any():
        images = len(np.unique(table["image"][rank >= count]))
        logger.warning(
            "%s: %d images have more people than max_people=%d: the %d with the smallest boxes are background, not trained on",
            source.name, images, count, int((rank >= count).sum()),
        )  # fmt: skip
    return table[rank < count]


def _rows(source: Source, scaling: Scaling) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns the function that turns a row of a plan into a row of a batch, both as tensors."""

    def pixels(record: int, size_hw: np.ndarray, padded_hw: np.ndarray, mirror: bool) -> np.ndarray:
        return _pixels(source.jpeg(int(record)), size_hw, padded_hw, bool(mirror), scaling.rule)

    def finish(row: dict[str, Any]) -> dict[str, Any]:
        tf = tensorflow()
        kind = tf.uint8 if scaling.rule == "detectron2" else tf.float32
        inputs = [row.pop("record"), row["size_hw"], row.pop("padded_hw"), row.pop("mirror")]
        image = tf.numpy_function(pixels, inputs, kind, stateful=True)
        image.set_shape((None, None, 3))
        return {"image": image} | row

    return finish


def _pixels(jpeg: bytes, size_hw: np.ndarray, padded_hw: np.ndarray, mirror: bool, rule: Rule) -> np.ndarray:
    height, width = (int(side) for side in size_hw)
    image = resized(decoded(jpeg), (height, width), rule=rule)
    kind = np.uint8 if rule == "detectron2" else np.float32  # PIL has rounded to bytes
    result = np.zeros((*(int(side) for side in padded_hw), 3), kind)
    result[:height, :width] = image[:, ::-1] if mirror else image
    return result
