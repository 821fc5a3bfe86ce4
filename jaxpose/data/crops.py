"""From a source of persons to batches of crops, one per person: the walk of a sample.

    record -> augmentation, drawn from (seed, epoch, annotation id) -> one affine, image px -> input px
           -> decode the region of the JPEG that the crop shows -> one bilinear warp -> uint8

`plan` does the first line for many samples at once, without looking at a pixel. `sample` does everything for one sample
in plain Python and OpenCV, and defines what the batches hold. `train_batches` and `eval_batches` do the same through
tf.data, in parallel; their pixels are those of `sample`, bit for bit.

The global batch t is a function of (seed, t) only, and a process takes its slice of it (`jaxpose.data.feed`).

Only the region that the crop shows is decoded, with a margin within which the chroma upsampling of a partly decoded
JPEG equals that of the whole one. The integer inverse DCT is used, as in OpenCV.

``decode="scaled"`` is faster and makes different pixels: where a crop is shown at 1/2, 1/4 or 1/8 of the image's
resolution or less, the JPEG is decoded at that size (the largest ratio r of 1, 2, 4, 8 with r image px or more per
input px), so never below the resolution of the input. A small pixel stands for r x r image pixels, and its centre is
theirs: x_small = (x + 0.5) / r - 0.5. The affine, the joints and everything else in a batch stay the same. Such a crop
is smoother than the exact one, whose bilinear warp skips pixels. Here too the batches are those of `sample`, bit for
bit, because both use the arithmetic of the same libjpeg.

A batch is a dictionary of NumPy arrays, this process's B rows of the global batch:

    image (B, H, W, 3) uint8      RGB crop
    affine (B, 2, 3) float32      image px -> input px, any mirroring included
    joints (B, K, 2) float32      input px; left and right exchanged where mirrored; 0 where the visibility is 0.
                                  A labelled joint outside the crop keeps its place and its visibility.
    visibility (B, K) int8        0 unlabelled, 1 hidden, 2 visible
    box (B, 4) float32            xywh, image px, as annotated or detected
    score (B,) float32            score of the box; 1 for ground truth
    area (B,) float32             annotated area, square image px
    crop_area (B,) float32        area of the padded box of the crop's aspect, square image px, for OKS-NMS
    image_id, annotation_id (B,) int64      -1 in padding
    valid (B,) bool               False for padding
    colour (B, 3) float32         only of a setting that changes colours: the factors of red, green and blue by which the training
                                  step multiplies the image, which holds the colours of the file
    truncate_colour (B,) bool     only with `truncate_colour`: the products are cut down to whole numbers

A source with joints in space (`jaxpose.data.space`) gives joints (B, K, 3), whose z is the depth relative to the root in mm, 0
where it is unknown, and further entries:

    has_depth (B, K) bool         True where z is a label
    root (B, 3) float32           the root in camera coordinates, mm; NaN where it is unknown
    camera (B, 4) float32         fx, fy, cx, cy in image px; NaN where it is unknown

Neither rotation nor crop change z. A setting with `scale_depth` divides it by the drawn scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxpose.data.augment import NONE, Augmentation, Setting, colour_factors, draw, generator, move_joints, named
from jaxpose.data.feed import EvalBatches, Pipeline, TrainBatches, check_share, check_steps, sample_indices, tensorflow
from jaxpose.data.mixing import mixed_indices
from jaxpose.data.occlusion import cover, rectangles
from jaxpose.data.pixels import decoded, warped
from jaxpose.data.source import Source
from jaxpose.data.space import has_space
from jaxpose.geometry import apply_affine, box_to_affine, clip_box, fit_box, flip_affine, invert_affine

__all__ = ["crop_affines", "eval_batches", "plan", "sample", "train_batches"]

Decode = Literal["exact", "scaled"]
RATIOS = (1, 2, 4, 8)  # the ratios at which libjpeg decodes smaller by an inverse DCT of fewer coefficients alone
MARGIN = 2  # image px around the region of a crop; bilinear weights and chroma upsampling reach no farther


def train_batches(
    source: Source,
    *,
    size_wh: Sequence[int],
    batch_size: int,
    augment: str | Setting = "official",
    seed: int = 0,
    start_step: int = 0,
    stop_step: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    padding: float = 1.25,
    threads: int | None = None,
    prefetch: int = 2,
    decode: Decode = "exact",
) -> TrainBatches:
    """Returns the batches start_step, start_step + 1, ... of this process, endless or up to stop_step.

    Args:
        source: A source of persons.
        size_wh: The width and height of the crops.
        batch_size: The size of the global batch, a multiple of `process_count`.
        augment: "none", "official", "hrnet", "mmpose", or a `jaxpose.data.augment.Setting`.
        seed: Seeds the shuffling and the augmentation.
        start_step: The number of the first batch; a resumed run continues with the batches that it would have seen.
        stop_step: The number after the last batch; None for no end.
        process_index: The index of the process, which takes this slice of the global batch.
        process_count: The number of processes.
        padding: The factor by which boxes are enlarged.
        threads: The number of threads that decode and warp; None takes one per core that this process may use, at most
            16.
        prefetch: The number of batches made ahead.
        decode: "exact", or "scaled" to decode JPEGs at 1/2, 1/4 or 1/8 if the crop is no larger (see the module).

    Raises:
        ValueError: There are no persons, `decode` is unknown, or the processes cannot share the batch. While iterating:
            an image cannot be decoded; the message names its file and the annotation.
    """
    _check_source(source)
    _check_decode(decode)
    check_share(batch_size, process_index, process_count)
    check_steps(start_step, stop_step)
    setting, local = named(augment), batch_size // process_count

    def rows(step: int) -> tuple[np.ndarray, np.ndarray]:
        positions = step * batch_size + process_index * local + np.arange(local)
        if source.mix is not None:
            return mixed_indices(positions, batch_size=batch_size, num_samples=len(source), mix=source.mix, seed=seed)
        return sample_indices(positions, num_samples=len(source), seed=seed)

    def plan_batch(step: int) -> dict[str, np.ndarray]:
        indices, epochs = rows(step)
        options = {"size_wh": size_wh, "augment": setting, "seed": seed, "padding": padding, "decode": decode}
        return plan(source, indices, epochs=epochs, **options)

    pipeline = Pipeline(
        source, plan_batch, _crops(source, size_wh, decode), batch=local, threads=threads, prefetch=prefetch
    )
    return TrainBatches(pipeline, start_step, stop_step)


def eval_batches(
    source: Source,
    *,
    size_wh: Sequence[int],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    padding: float = 1.25,
    threads: int | None = None,
    prefetch: int = 2,
    decode: Decode = "exact",
) -> EvalBatches:
    """Returns all records once, in order, without augmentation; every process gets the same number of batches.

    The last global batch is filled up with rows whose `valid` is False: copies of the last record, with image_id and
    annotation_id -1. The result can be iterated again and has a length. Arguments and errors are those of
    `train_batches`.
    """
    _check_source(source)
    _check_decode(decode)
    check_share(batch_size, process_index, process_count)
    count, local = len(source), batch_size // process_count

    def plan_batch(step: int) -> dict[str, np.ndarray]:
        positions = step * batch_size + process_index * local + np.arange(local)
        batch = plan(source, np.minimum(positions, count - 1), size_wh=size_wh, padding=padding, decode=decode)
        batch["valid"] = positions < count
        for key in ("image_id", "annotation_id"):
            batch[key] = np.where(batch["valid"], batch[key], -1)
        return batch

    pipeline = Pipeline(
        source, plan_batch, _crops(source, size_wh, decode), batch=local, threads=threads, prefetch=prefetch
    )
    return EvalBatches(pipeline, -(-count // batch_size))


def sample(
    source: Source,
    index: int,
    *,
    size_wh: Sequence[int],
    augment: str | Setting = "none",
    seed: int = 0,
    epoch: int = 0,
    padding: float = 1.25,
    decode: Decode = "exact",
) -> dict[str, Any]:
    """Makes one row of a batch in plain Python, which defines the contents of the batches. Needs OpenCV, not TensorFlow.

    Args:
        source: A source of persons.
        index: The row of the person.
        size_wh, augment, seed, padding, decode: The same as in `train_batches`.
        epoch: The epoch for which the augmentation is drawn.

    Returns:
        The entries of a batch without their first dimension.
    """
    _check_decode(decode)
    options = {"size_wh": size_wh, "augment": named(augment), "seed": seed, "padding": padding, "decode": decode}
    row = {key: value[0] for key, value in plan(source, [index], epochs=[epoch], **options).items()}
    record, ratio, window, warp = (row.pop(key) for key in ("record", "ratio", "window", "warp"))
    noise = (row.pop("occlusion"), row.pop("noise")) if "occlusion" in row else None
    return {"image": _crop(source.jpeg(int(record)), window, warp, size_wh, int(ratio), noise)} | row


def plan(
    source: Source,
    indices: Sequence[int],
    *,
    size_wh: Sequence[int],
    augment: Setting = NONE,
    seed: int = 0,
    epochs: Sequence[int] | None = None,
    padding: float = 1.25,
    decode: Decode = "exact",
) -> dict[str, np.ndarray]:
    """Computes everything about some samples except their pixels.

    Args:
        source: A source of persons.
        indices: ``(B,)`` rows of the persons.
        size_wh, augment, seed, padding, decode: The same as in `train_batches`.
        epochs: ``(B,)`` epochs for which the augmentation is drawn; None stands for 0.

    Returns:
        The entries of a batch (see the module) except `image`, and how to make the image: record ``(B,)`` int64, its row
        in the table of images; ratio ``(B,)`` int32, by which its JPEG is decoded smaller; window ``(B, 4)`` int32, the
        y, x, height, width of the region to decode, in pixels of the smaller image; warp ``(B, 2, 3)`` float64, the
        affine from pixels of that region to input pixels. Of a setting with `occlusion` also occlusion ``(B, 4)`` int64, the
        rectangle of noise, and noise ``(B, 3)`` int64, the seed, epoch and annotation id that it is drawn from.
    """
    persons = source.persons[np.asarray(indices)]
    images = source.images[persons["image"]]
    image_wh = images["size_wh"].astype(np.float64)
    boxes = persons["box"].astype(np.float64)
    if source.clip_boxes:
        boxes = clip_box(boxes, image_wh)
    augmentations = _draws(source, persons, boxes, augment, seed, epochs, padding)
    affine, flip = crop_affines(augmentations, size_wh=size_wh, image_width=image_wh[:, 0])
    ratio = _ratios(affine) if decode == "scaled" else np.ones(len(persons), np.int32)
    # A size that the ratio does not divide is rounded up, so that the last pixel lies partly beyond the image.
    window, warp = _regions(_from_smaller(affine, ratio), size_wh, -(-images["size_wh"] // ratio[:, None]))
    visibility, joints = move_joints(persons["keypoints"], affine, flip, source.skeleton.flip_index)
    padded = fit_box(boxes, aspect=size_wh[0] / size_wh[1], padding=padding)
    of_pixels = _of_pixels(persons, boxes, image_wh, augment, seed, epochs)
    in_space = {}
    if has_space(source):
        in_space = _in_space(persons, flip, augmentations, source.skeleton.flip_index, scale_depth=augment.scale_depth)
        joints = np.concatenate([joints, in_space.pop("depth")[..., None]], -1)
    return {
        **of_pixels,
        **in_space,
        "affine": affine.astype(np.float32),
        "joints": joints.astype(np.float32),
        "visibility": visibility.astype(np.int8),
        "box": persons["box"],
        "score": persons["score"],
        "area": persons["area"],
        "crop_area": (padded[:, 2] * padded[:, 3]).astype(np.float32),
        "image_id": images["image_id"],
        "annotation_id": persons["annotation_id"],
        "valid": np.ones(len(persons), bool),
        "record": persons["image"].astype(np.int64),
        "ratio": ratio,
        "window": window,
        "warp": warp,
    }


# ------------------------------------------------------------------------------------------------------ the geometry


def _draws(source, persons, boxes, setting, seed, epochs, padding) -> list[Augmentation]:
    """Draws the augmentation of each person."""
    upper = np.zeros(source.skeleton.num_joints, bool)
    upper[list(source.skeleton.upper)] = True
    epochs = np.zeros(len(persons), np.int64) if epochs is None else np.asarray(epochs)
    augmentations = []
    for person, box, epoch in zip(persons, boxes, epochs, strict=True):
        rng = None if setting == NONE else generator(seed, int(epoch), int(person["annotation_id"]))
        augmentations.append(draw(setting, rng, box=box, keypoints=person["keypoints"], upper=upper, padding=padding))
    return augmentations


def _of_pixels(persons, boxes, image_wh, setting, seed, epochs) -> dict[str, np.ndarray]:
    """Draws the augmentation of colours and the occlusion, which leave geometry and labels alone; {} for neither."""
    entries = {}
    epochs = np.zeros(len(persons), np.int64) if epochs is None else np.asarray(epochs, np.int64)
    ids = persons["annotation_id"].astype(np.int64)
    if setting.colour:
        entries["colour"] = colour_factors(setting.colour, seed=seed, epochs=epochs, ids=ids)
        if setting.truncate_colour:
            entries["truncate_colour"] = np.ones(len(persons), bool)
    if setting.occlusion:
        options = {"boxes": boxes, "image_wh": image_wh, "seed": seed, "epochs": epochs, "ids": ids}
        entries["occlusion"] = rectangles(setting.occlusion, **options)
        entries["noise"] = np.stack([np.full_like(ids, np.uint64(seed % 2**64).astype(np.int64)), epochs, ids], -1)
    return entries


def _in_space(persons, flip, augmentations, flip_index, *, scale_depth: bool) -> dict[str, np.ndarray]:
    """Returns the depths of joints relative to the root, which ones are labels, the roots and the cameras."""
    is_known = persons["has_depth"]
    depth = np.where(is_known, persons["joints_3d"][..., 2] - persons["root"][:, None, 2], 0.0)
    if scale_depth:
        depth /= np.array([d.scale for d in augmentations])[:, None]
    return {
        "depth": np.where(flip[:, None], depth[:, flip_index], depth),
        "has_depth": np.where(flip[:, None], is_known[:, flip_index], is_known),
        "root": persons["root"].astype(np.float32),
        "camera": persons["camera"].astype(np.float32),
    }


def crop_affines(
    augmentations: Sequence[Augmentation], *, size_wh: Sequence[int], image_width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the affines of crops from their augmentations.

    The rotation is that of the mirrored image: the image is mirrored first, and the crop is about the mirrored box.

    Args:
        augmentations: B augmentations.
        size_wh: The width and height of the crops.
        image_width: ``(B,)`` widths of the images.

    Returns:
        ``(B, 2, 3)`` affines from image pixels to input pixels, and ``(B,)`` bool, True for those that mirror.

    >>> affine, flip = crop_affines([Augmentation(True, np.array([0, 0, 3, 4]), 1.0, 1.0, 0.0)], size_wh=(3, 4), image_width=[9])
    >>> print(affine[0] @ (1.5, 2, 1), flip)  # the centre of the box is W - 1 - 1.5 in the mirrored image, W / 2 in the crop
    [1.5 2. ] [ True]
    """
    flip = np.array([d.flip for d in augmentations])
    boxes = np.array([d.box for d in augmentations], np.float64)
    width = np.asarray(image_width, np.float64)
    boxes[:, 0] = np.where(flip, width - 1 - (boxes[:, 0] + boxes[:, 2]), boxes[:, 0])
    scale = np.array([d.padding * d.scale for d in augmentations])
    rotation = np.array([d.rotation for d in augmentations])
    affine = box_to_affine(boxes, size_wh, padding=1.0, scale=scale, rotation=rotation)
    return np.where(flip[:, None, None], flip_affine(affine, width=width), affine), flip


def _ratios(affine: np.ndarray) -> np.ndarray:
    """Returns the largest of 1, 2, 4, 8 that is at most the number of image px per input px, (B,) int32."""
    zoom = 1 / np.sqrt(np.abs(np.linalg.det(affine[:, :, :2])))  # the same in all directions
    return 2 ** np.clip(np.floor(np.log2(zoom) + 1e-9), 0, len(RATIOS) - 1).astype(np.int32)


def _from_smaller(affine: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Returns the affines from pixels of the image decoded smaller: x = ratio * x_small + (ratio - 1) / 2."""
    smaller = affine.copy()
    smaller[:, :, :2] *= ratio[:, None, None]
    smaller[:, :, 2] += affine[:, :, :2].sum(-1) * (ratio[:, None] - 1) / 2
    return smaller


def _regions(affine: np.ndarray, size_wh: Sequence[int], image_wh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of each image that its crop shows, (B, 4) int32 y, x, h, w, and the affine from its pixels."""
    width, height = size_wh
    corners = np.array([(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)], np.float64)
    corners = apply_affine(invert_affine(affine), np.broadcast_to(corners, (len(affine), 4, 2)))  # in the image
    first = np.floor(corners.min(axis=1)) - MARGIN
    last = np.ceil(corners.max(axis=1)) + MARGIN
    # The start is even, because the chroma of most JPEGs comes in pairs. A crop beside the image still gets one unseen
    # pixel.
    first = np.clip(first, 0, image_wh - 1).astype(np.int64) // 2 * 2
    last = np.clip(last, first, image_wh - 1).astype(np.int64)
    window = np.concatenate([first[:, ::-1], (last - first + 1)[:, ::-1]], axis=1).astype(np.int32)
    warp = affine.copy()
    warp[:, :, 2] += np.einsum("bij,bj->bi", affine[:, :, :2], first.astype(np.float64))
    return window, warp


# -------------------------------------------------------------------------------------------------------- the pixels


def _crop(jpeg, window, warp, size_wh: Sequence[int], ratio: int = 1, noise: tuple | None = None) -> np.ndarray:
    y, x, h, w = window
    region = decoded(jpeg, ratio)[y : y + h, x : x + w]
    return warped(region if noise is None else _covered(region, *noise, window, ratio), warp, size_wh)


def _covered(region, occlusion, key, window, ratio) -> np.ndarray:
    """Returns the region of a window with its rectangle of noise."""
    return cover(region, occlusion, key=key, origin=window[1::-1], ratio=int(ratio))


def _crops(source: Source, size_wh: Sequence[int], decode: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns the function that turns a row of `plan` into a row of a batch: `_crop` as a graph."""
    size_wh = tuple(int(v) for v in size_wh)

    def crop(row):
        tf = tensorflow()
        record, ratio, window, warp = (row.pop(key) for key in ("record", "ratio", "window", "warp"))
        jpeg = tf.numpy_function(lambda i: source.jpeg(int(i)), [record], tf.string, stateful=False)

        def region_at(ratio: int):  # a constant of the graph
            options = {"channels": 3, "dct_method": "INTEGER_ACCURATE", "ratio": ratio}
            return lambda: tf.io.decode_and_crop_jpeg(jpeg, window, **options)

        if decode == "exact":
            region = region_at(1)()
        else:
            region = tf.case([(ratio == r, region_at(r)) for r in RATIOS[:-1]], default=region_at(RATIOS[-1]))
        if "occlusion" in row:
            parts = [region, row.pop("occlusion"), row.pop("noise"), window, ratio]
            region = tf.numpy_function(_covered, parts, tf.uint8, stateful=False)
        image = tf.numpy_function(lambda r, a: warped(r, a, size_wh), [region, warp], tf.uint8, stateful=False)
        image.set_shape((size_wh[1], size_wh[0], 3))
        return {"image": image} | row

    return crop


def _check_source(source: Source) -> None:
    if source.level != "person":
        raise ValueError(f"crops are made from persons, but {source} counts images; take source.at_level('person')")
    if len(source) == 0:
        raise ValueError(
            f"{source} has no person with keypoints (for prediction without annotations, give detected boxes)"
        )


def _check_decode(decode: str) -> None:
    if decode not in ("exact", "scaled"):
        raise ValueError(f"decode must be 'exact' or 'scaled', got {decode!r}")
