"""From a source to batches of whole images, for bottom-up nets (HigherHRNet, SWAHR). `jaxpose.data.crops` crops persons.

    record -> augmentation, drawn from (seed, epoch, image id) -> one affine, image px -> input px
           -> decode the JPEG -> one bilinear warp of the image, one of the mask for each stride -> mirror

`sample` and `eval_sample` do it for one image in plain Python and OpenCV, and define what the batches hold.
`train_batches` and `eval_batches` do the same through tf.data, in parallel, bit for bit. The global batch t is a
function of (seed, t) only, and a process takes its slice of it (`jaxpose.data.feed`).

A batch of `train_batches` is a dictionary of NumPy arrays, with P slots for the persons of an image (those that have a
labelled joint and are not crowds, in the order of the annotations; unused slots are 0):

    image (B, H, W, 3) uint8      RGB, black beyond the image
    affine (B, 2, 3) float32      image px -> input px, any mirroring included
    joints (B, P, K, 2) float32   input px; left and right exchanged where mirrored; 0 where the visibility is 0.
                                  A labelled joint outside the input keeps its place and its visibility.
    visibility (B, P, K) int8     0 unlabelled, 1 hidden, 2 visible
    extent (B, P) float32         larger side of the annotated box, input px
    width (B, P) float32          width of the annotated box, input px
    released_extent (B, P) float32  larger side of the annotated box in px of the image, over the scale that the augmentation drew:
                                  what the released code would size a person by (QUIRK S9)
    mask_4 (B, H/4, W/4) bool     a mask_s for each stride s, True where a loss may look. False in crowds, in persons
                                  without a labelled joint (`jaxpose.data.masks`), and beyond the image, as published
    image_id (B,) int64
    valid (B,) bool               True

A batch of `eval_batches` holds image, affine, image_id and valid as above, -1 and False in padding, and

    index (B,) int64              row of the image in the source, -1 in padding
    image_S (B, H', W', 3) uint8  one for each further scale S, named f"image_{S:g}"

Pixel i of a map of stride s is a cell of s x s input pixels, whose centre is input pixel s i + (s - 1) / 2; the mask is
sampled there. So mirroring the input mirrors image, joints and masks exactly.
The released code samples at s i and mirrors each map separately (QUIRK S13), so that a mirrored target is up to one pixel
of the map, (s - 1) / s, away from the target of the mirrored image.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxpose.data.augment import WholeImage, draw_whole, move_joints, named_whole, whole_generator
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
from jaxpose.data.masks import valid_mask
from jaxpose.data.pixels import decoded, warped
from jaxpose.data.source import Source, is_labelled
from jaxpose.geometry import center_to_affine

__all__ = ["eval_batches", "eval_sample", "fitted_sizes", "sample", "select_images", "train_batches", "views"]

GRID = 64  # the published code rounds the long side of an input up to a multiple of this
COARSEST = 32  # stride of the coarsest branch of the nets, which divides the sides of an input

logger = logging.getLogger(__name__)

Choice = Literal["labelled", "annotated", "all"]
Fit = Literal["short", "long"]


def train_batches(
    source: Source,
    *,
    size_wh: Sequence[int],
    batch_size: int,
    augment: str | WholeImage = "higher_hrnet",
    seed: int = 0,
    start_step: int = 0,
    stop_step: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
    choose: Choice = "annotated",
    strides: Sequence[int] = (4, 2),
    max_people: int | None = None,
) -> TrainBatches:
    """Returns the batches start_step, start_step + 1, ... of this process, endless or up to stop_step.

    P is the largest number of labelled persons in an image of the source, at least 1, so that nobody is left out.

    Args:
        source: A source at any level. Its annotations are read once (`Source.ground_truth`: seconds for all of COCO).
        size_wh: The width and height of the input, multiples of the strides. The augmentation draws a square of the image
            that spans the shorter of the two.
        batch_size: The size of the global batch, a multiple of `process_count`.
        augment: "none", "light", "higher_hrnet", "swahr_paper", or a `jaxpose.data.augment.WholeImage`.
        seed: Seeds the shuffling and the augmentation.
        start_step: The number of the first batch; a resumed run continues with the batches that it would have seen.
        stop_step: The number after the last batch; None for no end.
        process_index: The index of the process, which takes this slice of the global batch.
        process_count: The number of processes.
        threads: The number of threads that decode and warp; None takes one per core that this process may use, at most
            16.
        prefetch: The number of batches made ahead.
        choose: The images to take: "labelled", those with a person that has a labelled joint; "annotated", those with any
            person, including crowds and unlabelled ones (which the published code trains on); "all".
        strides: The strides of the masks.
        max_people: An upper bound of P. In an image with more persons the largest (by area) are kept and the boxes of the
            others are masked, so that detecting them is not punished. Their number is logged.

    Raises:
        ValueError: There are no such images; the source holds detected boxes; a stride does not divide the size; the
            processes cannot share the batch. While iterating: an image cannot be decoded or its mask cannot be drawn; the
            message names its file and its id.
    """
    check_share(batch_size, process_index, process_count)
    check_steps(start_step, stop_step)
    setting, local, size_wh = named_whole(augment), batch_size // process_count, _whole_numbers(size_wh, strides)
    people = _People.of(source, max_people)
    images, masked = _select_images(people, choose)
    if max_people is not None:
        _log_left_out(people, images, max_people)

    def plan_batch(step: int) -> dict[str, np.ndarray]:
        positions = step * batch_size + process_index * local + np.arange(local)
        indices, epochs = sample_indices(positions, num_samples=len(images), seed=seed)
        return _plan(people, images[indices], size_wh=size_wh, setting=setting, seed=seed, epochs=epochs)

    pipeline = Pipeline(
        people.source, plan_batch, _training_rows(people, masked, size_wh=size_wh, strides=strides),
        batch=local, threads=threads, prefetch=prefetch, check=people.pixels_and_mask,
    )  # fmt: skip
    return TrainBatches(pipeline, start_step, stop_step)


def _training_rows(
    people: _People, masked: np.ndarray | None, *, size_wh: tuple[int, int], strides: Sequence[int]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns the function that turns a row of `_plan` into a row of a training batch, both as tensors."""

    def pixels(record: int, straight: np.ndarray, mirror: bool) -> list[np.ndarray]:
        record = int(record)
        if masked is None or masked[record] or record in people.left_out:
            jpeg, inside = people.pixels_and_mask(record)
        else:  # reading the JPEG alone is faster
            width, height = people.source.images["size_wh"][record]
            jpeg, inside = people.source.jpeg(record), np.ones((height, width), bool)
        return _pixels(jpeg, inside, straight, mirror, size_wh=size_wh, strides=strides)

    def finish(row: dict[str, Any]) -> dict[str, Any]:
        tf = tensorflow()
        inputs = [row.pop(key) for key in ("record", "straight", "mirror")]
        # A stateless function would run once for each of its outputs.
        image, *masks = tf.numpy_function(pixels, inputs, [tf.uint8, *[tf.bool] * len(strides)], stateful=True)
        width, height = size_wh
        image.set_shape((height, width, 3))
        for mask, stride in zip(masks, strides, strict=True):
            mask.set_shape((height // stride, width // stride))
        return _named([image, *masks], strides) | row

    return finish


def sample(
    source: Source,
    index: int,
    *,
    size_wh: Sequence[int],
    augment: str | WholeImage = "none",
    seed: int = 0,
    epoch: int = 0,
    strides: Sequence[int] = (4, 2),
    max_people: int | None = None,
) -> dict[str, Any]:
    """Makes one row of a training batch in plain Python, which defines the contents of the batches.

    Needs OpenCV, not TensorFlow. It is slow, because it counts the persons of the source in every call.

    Args:
        source: A source at any level.
        index: The row of the image.
        size_wh, augment, seed, strides, max_people: The same as in `train_batches`.
        epoch: The epoch for which the augmentation is drawn.

    Returns:
        The entries of a batch without their first dimension.
    """
    setting, size_wh, people = named_whole(augment), _whole_numbers(size_wh, strides), _People.of(source, max_people)
    batch = _plan(people, np.array([index]), size_wh=size_wh, setting=setting, seed=seed, epochs=np.array([epoch]))
    row = {key: value[0] for key, value in batch.items()}
    jpeg, inside = people.pixels_and_mask(int(row.pop("record")))
    straight, mirror = row.pop("straight"), row.pop("mirror")
    return _named(_pixels(jpeg, inside, straight, mirror, size_wh=size_wh, strides=strides), strides) | row


def eval_batches(
    source: Source,
    *,
    size: int,
    batch_size: int,
    fit: Fit = "short",
    scales: Sequence[float] = (1.0,),
    process_index: int = 0,
    process_count: int = 1,
    threads: int | None = None,
    prefetch: int = 2,
) -> EvalBatches:
    """Returns every image of the source once, without augmentation; every process gets the same number and shapes of batches.

    Images with the same shape of the input (`fitted_sizes`) come together, the largest shape first, each in the order of
    the source. The last global batch of a shape is filled up with rows whose `valid` is False: copies of its last image
    with image_id and index -1. Every shape may need a compilation: COCO has about twenty with fit="short", one with
    fit="long". The result can be iterated repeatedly and has a length.

    Args:
        source: A source at any level; images without annotations count too.
        size: The short side of the input (fit="short") or its side (fit="long"), in pixels.
        batch_size: The size of the global batch, a multiple of `process_count`.
        fit, scales: The same as in `fitted_sizes`.
        process_index, process_count, threads, prefetch: The same as in `train_batches`; `prefetch` counts batches of all
            scales.

    Raises:
        ValueError: There are no images; the processes cannot share the batch; scales as in `fitted_sizes`. While
            iterating: an image cannot be decoded; the message names its file and its id.
    """
    check_share(batch_size, process_index, process_count)
    source, local = source.at_level("image"), batch_size // process_count
    if len(source) == 0:
        raise ValueError(f"{source} has no images")
    sizes = _all_sizes(source, size=size, fit=fit, scales=scales)
    table = batches_by_size(sizes[:, list(scales).index(1)], batch_size)

    def plan_batch(step: int) -> dict[str, np.ndarray]:
        rows, valid, records = rows_of_batch(table[step], process_index, process_count)
        batch = _plan_evaluation(source, records, sizes[records], fit=fit, scales=scales)
        return batch | {
            "index": rows,
            "image_id": np.where(valid, batch["image_id"], -1),
            "valid": valid,
        }

    def pixels(record: int, affines: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        return _all_warped(source.jpeg(int(record)), affines, sizes)

    def finish(row: dict[str, Any]) -> dict[str, Any]:
        tf = tensorflow()
        inputs = [row.pop(key) for key in ("record", "affines", "sizes")]
        images = tf.numpy_function(pixels, inputs, [tf.uint8] * len(scales), stateful=True)
        for image in images:
            image.set_shape((None, None, 3))
        return dict(zip(_image_keys(scales), images, strict=True)) | row

    pipeline = Pipeline(source, plan_batch, finish, batch=local, threads=threads, prefetch=prefetch)
    return EvalBatches(pipeline, len(table))


def eval_sample(
    source: Source, index: int, *, size: int, fit: Fit = "short", scales: Sequence[float] = (1.0,)
) -> dict[str, Any]:
    """Makes one row of a batch of `eval_batches` in plain Python, which defines it. Needs OpenCV, not TensorFlow.

    Args:
        source: A source at any level.
        index: The row of the image.
        size, fit, scales: The same as in `eval_batches`.

    Returns:
        The entries of a batch without their first dimension.
    """
    sizes = np.array([fitted_sizes(source.images["size_wh"][index], size=size, fit=fit, scales=scales)])
    row = {
        key: value[0]
        for key, value in _plan_evaluation(source, np.array([index]), sizes, fit=fit, scales=scales).items()
    }
    images = _all_warped(source.jpeg(int(row.pop("record"))), row.pop("affines"), row.pop("sizes"))
    return dict(zip(_image_keys(scales), images, strict=True)) | row


def views(
    image: np.ndarray, *, size: int, fit: Fit = "short", scales: Sequence[float] = (1.0,)
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Makes the input of the test pipeline for one image.

    Args:
        image: ``(h, w, 3)`` uint8 RGB.
        size, fit, scales: The same as in `eval_batches`.

    Returns:
        {"image": ``(H, W, 3)`` uint8, and for other scales "image_0.5", ...}; the affine ``(2, 3)`` from image pixels to
        pixels of "image".

    >>> inputs, affine = views(np.zeros((96, 128, 3), np.uint8), size=64)
    >>> inputs["image"].shape, round(float(affine[0, 0]), 3)
    ((64, 128, 3), 0.667)
    """
    image_wh = image.shape[1::-1]
    sizes = fitted_sizes(image_wh, size=size, fit=fit, scales=scales)
    affines = [_fitted(np.array(image_wh), np.array(size_wh), fit) for size_wh in sizes]
    inputs = [warped(image, affine, size_wh) for affine, size_wh in zip(affines, sizes, strict=True)]
    return dict(zip(_image_keys(scales), inputs, strict=True)), affines[list(scales).index(1)]


def select_images(source: Source, choose: Choice) -> np.ndarray:
    """Returns the rows of the images that `train_batches` takes, which are the samples of an epoch.

    Args:
        source: A source at any level.
        choose: The same as in `train_batches`.
    """
    return _select_images(_People.of(source, None), choose)[0]


def fitted_sizes(
    image_wh: Sequence[int], *, size: int, fit: Fit = "short", scales: Sequence[float] = (1.0,)
) -> list[tuple[int, int]]:
    """Returns the width and height of the input of an image, for each scale.

    Args:
        image_wh: The width and height of the image.
        size: The size of the input at scale 1, in pixels; times the smallest scale it is rounded up to a multiple of 64.
        fit: "short": the short side is `size`, and the long side what the image needs, rounded up to a multiple of 64, as
            published. "long": a square of side `size` that holds the whole image.
        scales: The scales. The sizes are those of the smallest scale, rounded up to multiples of 64, times the scale over
            the smallest, as published, so that all scales show the same part of the plane.

    Returns:
        A pair for each scale, in the order given.

    Raises:
        ValueError: The size is not positive; 1 is not among the scales, or one occurs twice; a side would not be a
            multiple of 32, which the nets need, because a scale is not a multiple of half the smallest.

    Source: the test pipeline of the HigherHRNet and SWAHR code.

    >>> fitted_sizes((640, 427), size=512), fitted_sizes((640, 427), size=512, fit="long")
    ([(768, 512)], [(512, 512)])
    >>> fitted_sizes((500, 480), size=512, scales=(0.5, 1, 1.5))
    [(320, 256), (640, 512), (960, 768)]
    """
    _check_fit(size, fit, scales)
    width, height = (int(v) for v in image_wh)
    smallest = min(scales)
    short = long = _rounded(smallest * size)
    if fit == "short":
        long = _rounded(short / min(width, height) * max(width, height))
    base = (short, long) if width < height else (long, short)
    return [(round(base[0] * s / smallest), round(base[1] * s / smallest)) for s in scales]


# --------------------------------------------------------------------------------------------------------- the persons


@dataclass(frozen=True)
class _People:
    """The persons in the slots of each image.

    Attributes:
        source: The source, at the level "image".
        rows: The rows of source.persons, sorted by image.
        first: ``(num_images + 1,)`` indices in `rows` where the rows of each image begin.
        slots: The number of slots P.
        left_out: The boxes ``(n, 4)`` of the persons beyond `max_people`, by image.
    """

    source: Source
    rows: np.ndarray
    first: np.ndarray
    slots: int
    left_out: dict[int, np.ndarray]

    @classmethod
    def of(cls, source: Source, max_people: int | None) -> _People:
        if max_people is not None and max_people < 1:
            raise ValueError(f"max_people must be 1 or more, or None for all, got {max_people}")
        persons, images = source.persons, len(source.images)
        if not (persons["keypoints"][..., 2] > 0).any(axis=-1).all():
            raise ValueError(f"{source} holds boxes without keypoints (detections?): give the annotated source")
        rows = np.argsort(persons["image"], kind="stable")
        left_out = {}
        if max_people is not None:
            # The rank of each person within its image, the largest first.
            largest = np.lexsort((np.arange(len(persons)), -persons["area"], persons["image"]))
            place = np.empty(len(persons), np.int64)
            place[largest] = np.arange(len(persons)) - np.searchsorted(
                persons["image"][largest], persons["image"][largest]
            )
            out = rows[place[rows] >= max_people]
            for image in np.unique(persons["image"][out]).tolist():
                left_out[image] = persons["box"][out[persons["image"][out] == image]]
            rows = rows[place[rows] < max_people]
        first = np.searchsorted(persons["image"][rows], np.arange(images + 1))
        slots = max(1, int(np.diff(first).max(initial=0)))
        return cls(source.at_level("image"), rows, first, slots, left_out)

    def pixels_and_mask(self, record: int) -> tuple[bytes, np.ndarray]:
        """Returns the JPEG file of an image, and ``(h, w)`` bool, True where a loss may look."""
        image = self.source.image(record)
        inside = valid_mask(image)
        for x, y, w, h in self.left_out.get(record, ()):
            rows, columns = (slice(max(0, math.floor(a)), max(0, math.ceil(a + n))) for a, n in ((y, h), (x, w)))
            inside[rows, columns] = False
        return image["jpeg"], inside


def _select_images(people: _People, choose: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the images to train on, and ``(num_images,)`` bool for images with something to mask, or None if unknown."""
    if choose not in ("labelled", "annotated", "all"):
        raise ValueError(f"choose must be 'labelled', 'annotated' or 'all', got {choose!r}")
    source, count = people.source, len(people.source.images)
    masked = None
    labelled = np.diff(people.first) > 0
    annotated = labelled.copy()
    if choose == "annotated" or source.ground_truth_json is not None:
        number = {int(image_id): i for i, image_id in enumerate(source.images["image_id"])}
        masked = np.zeros(count, bool)
        for person in source.ground_truth()["annotations"]:
            index = number.get(person["image_id"])
            if index is not None and person.get("category_id", source.category_id) == source.category_id:
                annotated[index] = True
                masked[index] |= not is_labelled(person)
    selected = {"labelled": labelled, "annotated": annotated, "all": np.ones(count, bool)}[choose]
    if not selected.any():
        what = {"labelled": "with a labelled person", "annotated": "with a person", "all": "at all"}[choose]
        raise ValueError(f"{source} has no image {what} (choose={choose!r}; 'all' also takes those without people)")
    return np.flatnonzero(selected), masked


def _log_left_out(people: _People, images: np.ndarray, max_people: int) -> None:
    crowded = set(images.tolist()) & set(people.left_out)
    if crowded:
        count = sum(len(people.left_out[image]) for image in crowded)
        message = "%s: %d images have more than max_people=%d labelled persons: %d persons are masked, not trained on"
        logger.warning(message, people.source.name, len(crowded), max_people, count)


# -------------------------------------------------------------------------------------------------------- the geometry


def _plan(
    people: _People,
    indices: np.ndarray,
    *,
    size_wh: tuple[int, int],
    setting: WholeImage,
    seed: int,
    epochs: np.ndarray,
) -> dict[str, np.ndarray]:
    """Computes everything about some images except their pixels and masks, and how to make these.

    The latter are record ``(B,)`` int64, the row of the image; straight ``(B, 2, 3)`` float64, the affine to the input
    before mirroring; mirror ``(B,)`` bool.
    """
    source, width = people.source, size_wh[0]
    images = source.images[indices]
    augmentations = [
        draw_whole(setting, whole_generator(seed, int(epoch), int(image["image_id"])), size_wh=image["size_wh"])
        for image, epoch in zip(images, epochs, strict=True)
    ]
    zoom = np.array([min(size_wh) / d.side for d in augmentations])
    centres, rotation = np.array([d.centre for d in augmentations]), np.array([d.rotation for d in augmentations])
    straight = center_to_affine(centres, width / zoom, size_wh, rotation=rotation)
    mirror = np.array([d.flip for d in augmentations])
    affine = np.where(mirror[:, None, None], _mirrored(straight, width), straight)

    counts = people.first[indices + 1] - people.first[indices]
    rows = [people.rows[people.first[i] : people.first[i + 1]] for i in indices]
    persons = source.persons[np.concatenate(rows)]
    row, slot = np.repeat(np.arange(len(indices)), counts), np.concatenate([np.arange(n) for n in counts])
    seen, xy = move_joints(persons["keypoints"], affine[row], mirror[row], source.skeleton.flip_index)
    shape = (len(indices), people.slots, source.skeleton.num_joints)
    joints, visibility = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.int8)
    extent, box_width, released_extent = np.zeros((3, *shape[:2]), np.float32)
    joints[row, slot], visibility[row, slot] = xy, seen
    longer = persons["box"][:, 2:].max(axis=1)
    drawn_scale = np.array([d.side for d in augmentations]) / images["size_wh"].min(axis=1)
    extent[row, slot] = longer * zoom[row]
    box_width[row, slot] = persons["box"][:, 2] * zoom[row]
    released_extent[row, slot] = longer / drawn_scale[row]
    return {
        "affine": affine.astype(np.float32),
        "joints": joints,
        "visibility": visibility,
        "extent": extent,
        "width": box_width,
        "released_extent": released_extent,
        "image_id": images["image_id"],
        "valid": np.ones(len(indices), bool),
        "record": indices.astype(np.int64),
        "straight": straight,
        "mirror": mirror,
    }


def _mirrored(affine: np.ndarray, width: int) -> np.ndarray:
    """Returns the affine followed by a mirror of its result: x' -> width - 1 - x'."""
    mirrored = affine.copy()
    mirrored[:, 0] *= -1
    mirrored[:, 0, 2] += width - 1
    return mirrored


def _plan_evaluation(
    source: Source, indices: np.ndarray, sizes: np.ndarray, *, fit: str, scales: Sequence[float]
) -> dict[str, np.ndarray]:
    """Does the same as `_plan`, with affines ``(B, S, 2, 3)`` float64 and sizes ``(B, S, 2)`` int32 of all scales."""
    images = source.images[indices]
    affines = np.array(
        [[_fitted(image["size_wh"], size, fit) for size in row] for image, row in zip(images, sizes, strict=True)]
    )
    return {
        "affine": affines[:, list(scales).index(1)].astype(np.float32),
        "index": indices.astype(np.int64),
        "image_id": images["image_id"],
        "valid": np.ones(len(indices), bool),
        "record": indices.astype(np.int64),
        "affines": affines,
        "sizes": sizes.astype(np.int32),
    }


def _fitted(image_wh: np.ndarray, size_wh: np.ndarray, fit: str) -> np.ndarray:
    """Returns the affine from an image to an input that maps its centre, in whole pixels, to the centre."""
    side = min if fit == "short" else max
    zoom = side(size_wh) / side(image_wh)
    return center_to_affine(np.floor(np.asarray(image_wh) / 2 + 0.5), size_wh[0] / zoom, size_wh)


def _all_sizes(source: Source, *, size: int, fit: str, scales: Sequence[float]) -> np.ndarray:
    """Returns the widths and heights of the inputs of all images, (num_images, S, 2)."""
    kinds, which = np.unique(np.asarray(source.images["size_wh"]), axis=0, return_inverse=True)
    return np.array([fitted_sizes(kind, size=size, fit=fit, scales=scales) for kind in kinds])[which.reshape(-1)]


def _rounded(value: float) -> int:
    return int((value + GRID - 1) // GRID * GRID)


# ---------------------------------------------------------------------------------------------------------- the pixels


def _pixels(
    jpeg: bytes,
    inside: np.ndarray,
    straight: np.ndarray,
    mirror: bool,
    *,
    size_wh: tuple[int, int],
    strides: Sequence[int],
) -> list[np.ndarray]:
    """Makes the image and, for each stride, the mask.

    They are mirrored as pixels, not by the warp, whose rounding has a direction.
    """
    arrays = [warped(decoded(jpeg), straight, size_wh), *(_mask(inside, straight, size_wh, s) for s in strides)]
    return [np.ascontiguousarray(array[:, ::-1]) if mirror else array for array in arrays]


def _mask(inside: np.ndarray, affine: np.ndarray, size_wh: tuple[int, int], stride: int) -> np.ndarray:
    """Samples the mask of an image at the centres of the cells: bilinear, then above one half.

    Returns:
        (H / stride, W / stride) bool.
    """
    cells = affine / stride
    cells[:, 2] -= (stride - 1) / (2 * stride)
    light = np.where(inside, np.uint8(255), np.uint8(0))
    return warped(light, cells, (size_wh[0] // stride, size_wh[1] // stride)) > 127


def _named(arrays: Sequence[Any], strides: Sequence[int]) -> dict[str, Any]:
    """Returns the image and the masks as entries of a batch."""
    image, *masks = arrays
    return {"image": image} | {f"mask_{stride}": mask for stride, mask in zip(strides, masks, strict=True)}


def _all_warped(jpeg: bytes, affines: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    image = decoded(jpeg)
    return [warped(image, affine, size.tolist()) for affine, size in zip(affines, sizes, strict=True)]


def _image_keys(scales: Sequence[float]) -> list[str]:
    return ["image" if scale == 1 else f"image_{scale:g}" for scale in scales]


# ---------------------------------------------------------------------------------------------------------- the checks


def _whole_numbers(size_wh: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    if len(set(strides)) != len(strides) or not all(int(s) == s and s >= 1 for s in strides):
        raise ValueError(f"strides must be different positive whole numbers, got {tuple(strides)}")
    if np.shape(size_wh) != (2,) or not all(v >= 1 and v % s == 0 for v in size_wh for s in (1, *strides)):
        raise ValueError(
            f"size_wh must be a width and a height that the strides {tuple(strides)} divide, got {tuple(size_wh)}"
        )
    return int(size_wh[0]), int(size_wh[1])


def _check_fit(size: int, fit: str, scales: Sequence[float]) -> None:
    if fit not in ("short", "long"):
        raise ValueError(f"fit must be 'short' or 'long', got {fit!r}")
    if not size > 0:
        raise ValueError(f"size must be a positive number of pixels, got {size}")
    if 1 not in scales or len(set(scales)) != len(scales) or not all(s > 0 for s in scales):
        raise ValueError(f"scales must be different positive numbers, 1 among them, got {tuple(scales)}")
    steps = [2 * s / min(scales) for s in scales]
    if not all(abs(step - round(step)) < 1e-9 for step in steps):
        raise ValueError(
            f"scales must be multiples of half the smallest, so that the sides are multiples of {COARSEST}: "
            f"got {tuple(scales)}; for example (0.5, 1, 1.5) or (0.5, 1, 2)"
        )
