"""From a source of persons to batches of crops: the walk of a sample, and the only importer of TensorFlow.

    record -> augmentation, drawn from (seed, epoch, annotation id) -> one affine, image px -> input px
           -> decode the region of the JPEG that the crop shows -> one bilinear warp -> uint8

`plan` does the first line for many samples at once, without looking at a pixel. `sample` does all of it for one
sample in plain Python and OpenCV: it is the definition. `train_batches` and `eval_batches` do the same through
tf.data, in parallel; their pixels are those of `sample`, bit for bit.

The global batch t is a function of (seed, t) only. The epochs are permutations of all records, one after the other
without a gap: batch t holds positions tB to (t + 1)B - 1 of that row, and process i takes its slice of them. So
nothing of the pipeline needs saving, and any number of processes sees the same batches.

Only the region that the crop shows is decoded, with a margin within which the chroma upsampling of a partly decoded
JPEG equals that of the whole one. The integer inverse DCT is used, which OpenCV uses too.

``decode="scaled"`` makes other pixels, sooner: where a crop is shown at 1/2, 1/4 or 1/8 of the image's resolution or
less, the JPEG is decoded at that (the largest ratio r of 1, 2, 4, 8 with r image px or more in an input px), so never
below the resolution of the input. A small pixel stands for r x r image pixels, and its centre is theirs: x_small =
(x + 0.5) / r - 0.5. The affine, the joints and all else in a batch stay. Such a crop is smoother than the exact one,
whose bilinear warp skips pixels. The batches are those of `sample` bit for bit here too: one libjpeg's arithmetic.

A batch is a dictionary of NumPy arrays, this process's B rows of the global batch:

    image (B, H, W, 3) uint8      RGB crop
    affine (B, 2, 3) float32      image px -> input px, any mirroring included
    joints (B, K, 2) float32      input px; left and right exchanged where mirrored; 0 where the visibility is 0.
                                  A labelled joint outside the crop keeps its place and its visibility.
    visibility (B, K) int8        0 unlabelled, 1 hidden, 2 visible
    box (B, 4) float32            xywh, image px, as annotated or detected
    score (B,) float32            of the box; 1 for ground truth
    area (B,) float32             annotated area, image px
    crop_area (B,) float32        of the padded box of the crop's aspect, image px: what OKS-NMS takes
    image_id, annotation_id (B,) int64      -1 in padding
    valid (B,) bool               False: padding, not a sample
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from jaxpose.data.augment import NONE, PERMUTATIONS, Augmentation, Setting, draw, generator, named, philox
from jaxpose.data.coco import DamagedData, Source, decode_picture
from jaxpose.geometry import apply_affine, box_to_affine, clip_box, fit_box, flip_affine, invert_affine

__all__ = [
    "EvalBatches",
    "TrainBatches",
    "crop_affines",
    "eval_batches",
    "plan",
    "sample",
    "sample_indices",
    "train_batches",
]

Decode = Literal["exact", "scaled"]
RATIOS = (1, 2, 4, 8)  # at which libjpeg decodes smaller without more than the inverse DCT of fewer coefficients
MARGIN = 2  # image px about the region of a crop: bilinear weights and chroma upsampling reach no farther


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
    """Batches start_step, start_step + 1, ... of this process, without end, or up to stop_step.

    Args:
        source: of persons.
        size_wh: width and height of the crops.
        batch_size: of the global batch, a multiple of `process_count`.
        augment: "none", "official", "hrnet", "mmpose", or a `jaxpose.data.augment.Setting`.
        seed: of the permutations and of the augmentation.
        start_step: number of the first batch: a resumed run continues with the batches that it would have seen.
        stop_step: number after the last batch.
        process_index, process_count: which slice of the global batch.
        padding: factor on the boxes.
        threads: for decoding and warping; None: one for every core that this process may use, 16 at most.
        prefetch: batches made ahead.
        decode: "exact", or "scaled": JPEGs decoded at 1/2, 1/4 or 1/8 where the crop is shown no larger (see the module).

    Raises:
        ValueError: no persons, no such `decode`, or a batch size that the processes cannot share. While iterating: an image that cannot
            be decoded, naming its file and the annotation.
    """
    _check_source(source)
    _check_decode(decode)
    check_share(batch_size, process_index, process_count)
    check_steps(start_step, stop_step)
    setting, local = named(augment), batch_size // process_count

    def rows(step: int) -> tuple[np.ndarray, np.ndarray]:
        positions = step * batch_size + process_index * local + np.arange(local)
        return sample_indices(positions, num_samples=len(source), seed=seed)

    def planned(step: int) -> dict[str, np.ndarray]:
        indices, epochs = rows(step)
        options = {"size_wh": size_wh, "augment": setting, "seed": seed, "padding": padding, "decode": decode}
        return plan(source, indices, epochs=epochs, **options)

    pipeline = Pipeline(
        source, planned, _crops(source, size_wh, decode), batch=local, threads=threads, prefetch=prefetch
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
    """All records once, in order, without augmentation; the same number of batches on every process.

    The last global batch is filled up with rows whose `valid` is False: copies of the last record, with image_id and
    annotation_id -1. The result can be iterated again and has a length. Arguments and errors as in `train_batches`.
    """
    _check_source(source)
    _check_decode(decode)
    check_share(batch_size, process_index, process_count)
    count, local = len(source), batch_size // process_count

    def planned(step: int) -> dict[str, np.ndarray]:
        positions = step * batch_size + process_index * local + np.arange(local)
        batch = plan(source, np.minimum(positions, count - 1), size_wh=size_wh, padding=padding, decode=decode)
        batch["valid"] = positions < count
        for key in ("image_id", "annotation_id"):
            batch[key] = np.where(batch["valid"], batch[key], -1)
        return batch

    pipeline = Pipeline(
        source, planned, _crops(source, size_wh, decode), batch=local, threads=threads, prefetch=prefetch
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
    """One row of a batch, made in plain Python: the definition of what the batches hold. Needs OpenCV, not TensorFlow.

    Args:
        source: of persons.
        index: of the person.
        size_wh, augment, seed, padding, decode: as in `train_batches`.
        epoch: in which the augmentation is drawn.

    Returns:
        The entries of a batch without their first dimension.
    """
    _check_decode(decode)
    options = {"size_wh": size_wh, "augment": named(augment), "seed": seed, "padding": padding, "decode": decode}
    row = {key: value[0] for key, value in plan(source, [index], epochs=[epoch], **options).items()}
    record, ratio, window, warp = (row.pop(key) for key in ("record", "ratio", "window", "warp"))
    return {"image": _crop(source.jpeg(int(record)), window, warp, size_wh, int(ratio))} | row


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
    """Everything about some samples but their pixels.

    Args:
        source: of persons.
        indices: ``(B,)`` of the persons.
        size_wh, augment, seed, padding, decode: as in `train_batches`.
        epochs: ``(B,)``, in which the augmentation is drawn; None: 0.

    Returns:
        The entries of a batch (see the module) but `image`, and how to make that: record ``(B,)`` int64, the image
        record; ratio ``(B,)`` int32, by which its JPEG is decoded smaller; window ``(B, 4)`` int32, the y, x, height,
        width of the region to decode, in pixels of the smaller image; warp ``(B, 2, 3)`` float64, the affine from
        pixels of that region to input pixels.
    """
    persons = source.persons[np.asarray(indices)]
    images = source.images[persons["image"]]
    image_wh = images["size_wh"].astype(np.float64)
    boxes = persons["box"].astype(np.float64)
    if source.clip_boxes:
        boxes = clip_box(boxes, image_wh)
    drawn = _draws(source, persons, boxes, augment, seed, epochs, padding)
    affine, flip = crop_affines(drawn, size_wh=size_wh, image_width=image_wh[:, 0])
    ratio = _ratios(affine) if decode == "scaled" else np.ones(len(persons), np.int32)
    # A size that the ratio does not divide is rounded up: the last pixel is partly beyond the image.
    window, warp = _regions(_from_smaller(affine, ratio), size_wh, -(-images["size_wh"] // ratio[:, None]))
    visibility, joints = move_joints(persons["keypoints"], affine, flip, source.skeleton.flip_index)
    padded = fit_box(boxes, aspect=size_wh[0] / size_wh[1], padding=padding)
    return {
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


def sample_indices(positions: Sequence[int], *, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What stands at some positions of the endless row of epochs.

    Args:
        positions: ``(B,)``, 0 or more.
        num_samples: in an epoch.
        seed: of the permutations.

    Returns:
        indices ``(B,)`` of the samples, epochs ``(B,)``.

    >>> indices, epochs = sample_indices(range(6), num_samples=3, seed=0)
    >>> print(np.sort(indices[:3]), np.sort(indices[3:]), epochs)
    [0 1 2] [0 1 2] [0 0 0 1 1 1]
    """
    epochs, offsets = np.divmod(np.asarray(positions, np.int64), num_samples)
    indices = [_permutation(num_samples, seed, int(e))[o] for e, o in zip(epochs, offsets, strict=True)]
    return np.array(indices, np.int64), epochs


@lru_cache(maxsize=4)  # two epochs meet in a batch; 4 bytes a sample each
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return philox(seed, PERMUTATIONS, epoch, 0).permutation(np.arange(num_samples, dtype=np.int32))


# ------------------------------------------------------------------------------------------------------ the geometry


def _draws(source, persons, boxes, setting, seed, epochs, padding) -> list[Augmentation]:
    """One draw for each person."""
    upper = np.zeros(source.skeleton.num_joints, bool)
    upper[list(source.skeleton.upper)] = True
    epochs = np.zeros(len(persons), np.int64) if epochs is None else np.asarray(epochs)
    drawn = []
    for person, box, epoch in zip(persons, boxes, epochs, strict=True):
        rng = None if setting == NONE else generator(seed, int(epoch), int(person["annotation_id"]))
        drawn.append(draw(setting, rng, box=box, keypoints=person["keypoints"], upper=upper, padding=padding))
    return drawn


def crop_affines(
    drawn: Sequence[Augmentation], *, size_wh: Sequence[int], image_width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws -> ``(B, 2, 3)`` affines from image px to input px, and ``(B,)`` which of them mirror.

    The rotation is that of the mirrored image: mirror first, then the crop about the mirrored box.

    >>> affine, flip = crop_affines([Augmentation(True, np.array([0, 0, 3, 4]), 1.0, 1.0, 0.0)], size_wh=(3, 4), image_width=[9])
    >>> print(affine[0] @ (1.5, 2, 1), flip)  # the centre of the box is W - 1 - 1.5 in the mirrored image, W / 2 in the crop
    [1.5 2. ] [ True]
    """
    flip = np.array([d.flip for d in drawn])
    boxes = np.array([d.box for d in drawn], np.float64)
    width = np.asarray(image_width, np.float64)
    boxes[:, 0] = np.where(flip, width - 1 - (boxes[:, 0] + boxes[:, 2]), boxes[:, 0])
    scale = np.array([d.padding * d.scale for d in drawn])
    rotation = np.array([d.rotation for d in drawn])
    affine = box_to_affine(boxes, size_wh, padding=1.0, scale=scale, rotation=rotation)
    return np.where(flip[:, None, None], flip_affine(affine, width=width), affine), flip


def move_joints(keypoints, affine, flip, flip_index):
    """(B, K) visibility and (B, K, 2) input px, left and right exchanged where the crop is mirrored."""
    visibility = keypoints[..., 2]
    joints = np.where(visibility[..., None] > 0, apply_affine(affine, keypoints[..., :2]), 0.0)
    visibility = np.where(flip[:, None], visibility[:, flip_index], visibility)
    return visibility, np.where(flip[:, None, None], joints[:, flip_index], joints)


def _ratios(affine: np.ndarray) -> np.ndarray:
    """(B,) int32: the largest of 1, 2, 4, 8 that is no more than the image px in an input px."""
    zoom = 1 / np.sqrt(np.abs(np.linalg.det(affine[:, :, :2])))  # the same in all directions
    return 2 ** np.clip(np.floor(np.log2(zoom) + 1e-9), 0, len(RATIOS) - 1).astype(np.int32)


def _from_smaller(affine: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The affines from pixels of the image decoded smaller: x = ratio * x_small + (ratio - 1) / 2."""
    smaller = affine.copy()
    smaller[:, :, :2] *= ratio[:, None, None]
    smaller[:, :, 2] += affine[:, :, :2].sum(-1) * (ratio[:, None] - 1) / 2
    return smaller


def _regions(affine: np.ndarray, size_wh: Sequence[int], image_wh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of each image that its crop shows: window (B, 4) int32 y, x, h, w, and the affine from its pixels."""
    width, height = size_wh
    corners = np.array([(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)], np.float64)
    shown = apply_affine(invert_affine(affine), np.broadcast_to(corners, (len(affine), 4, 2)))
    first = np.floor(shown.min(axis=1)) - MARGIN
    last = np.ceil(shown.max(axis=1)) + MARGIN
    # An even start: the chroma of most JPEGs comes in pairs. A crop beside the image still gets one pixel, unseen.
    first = np.clip(first, 0, image_wh - 1).astype(np.int64) // 2 * 2
    last = np.clip(last, first, image_wh - 1).astype(np.int64)
    window = np.concatenate([first[:, ::-1], (last - first + 1)[:, ::-1]], axis=1).astype(np.int32)
    warp = affine.copy()
    warp[:, :, 2] += np.einsum("bij,bj->bi", affine[:, :, :2], first.astype(np.float64))
    return window, warp


# -------------------------------------------------------------------------------------------------------- the pixels


def _crop(jpeg: bytes, window: np.ndarray, warp: np.ndarray, size_wh: Sequence[int], ratio: int = 1) -> np.ndarray:
    y, x, h, w = window
    return warped(decoded(jpeg, ratio)[y : y + h, x : x + w], warp, size_wh)


def decoded(jpeg: bytes, ratio: int = 1) -> np.ndarray:
    """``(h, w, 3)`` uint8 RGB, 1 / `ratio` (1, 2, 4, 8) of its size, rounded up; an orientation in the EXIF data is
    ignored."""
    cv2 = opencv()
    # The flags for a smaller image in grey, and that for RGB: those in colour are for BGR.
    smaller = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | smaller.get(ratio, 0)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
    if image is None:
        raise ValueError("the JPEG data cannot be decoded")
    return image


def warped(region: np.ndarray, warp: np.ndarray, size_wh: Sequence[int]) -> np.ndarray:
    """An image of `size_wh` under the affine `warp`, bilinear, black beyond `region`."""
    cv2 = opencv()
    return cv2.warpAffine(region, warp, tuple(size_wh), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _crops(source: Source, size_wh: Sequence[int], decode: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Rows of `plan` -> rows of a batch: the graph of what `_crop` does."""
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
        image = tf.numpy_function(lambda r, a: warped(r, a, size_wh), [region, warp], tf.uint8, stateful=False)
        image.set_shape((size_wh[1], size_wh[0], 3))
        return {"image": image} | row

    return crop


class Pipeline:
    """Batches by tf.data; the graph is built when an iteration starts (0.1 s).

    Args:
        source: that the rows come from.
        planned: number of a batch -> everything about it but its pixels, among it record, the image records ``(B,)``.
        finish: a row of that, as tensors -> a row of the batch; it becomes part of the graph.
        batch: rows of this process.
        threads, prefetch: as in `train_batches`.
        check: of an image record; raises ValueError for what `finish` cannot use besides a bad JPEG.
    """

    def __init__(
        self,
        source: Source,
        planned: Callable[[int], dict[str, np.ndarray]],
        finish: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        batch: int,
        threads: int | None,
        prefetch: int,
        check: Callable[[int], Any] | None = None,
    ):
        self.source, self.planned, self.finish, self.check = source, planned, finish, check
        self.batch, self.prefetch = batch, prefetch
        self.threads = threads or min(16, _cores())

    def batches(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        tf = tensorflow()
        steps = iter(self._dataset(start, stop).as_numpy_iterator())
        for step in range(start, stop):
            try:
                batch = next(steps)
            except tf.errors.OpError as error:
                raise self._explained(step) or error from None
            yield batch

    def _dataset(self, start: int, stop: int):
        tf = tensorflow()
        example = self.planned(start)
        keys = tuple(example)

        def arrays_of(step):
            made = self.planned(int(step))
            return [made[key] for key in keys]

        types = [tf.as_dtype(example[key].dtype) for key in keys]
        shapes = [example[key].shape for key in keys]

        def planned(step):
            # Called stateless, it would be run once for each of its outputs.
            arrays = tf.numpy_function(arrays_of, [step], types, stateful=True)
            for array, shape in zip(arrays, shapes, strict=True):
                array.set_shape(shape)
            return dict(zip(keys, arrays, strict=True))

        dataset = tf.data.Dataset.range(start, stop).map(planned, num_parallel_calls=1).unbatch()
        dataset = dataset.map(self.finish, num_parallel_calls=self.threads, deterministic=True)
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = self.threads
        options.threading.max_intra_op_parallelism = 1
        return dataset.batch(self.batch, drop_remainder=True).prefetch(self.prefetch).with_options(options)

    def _explained(self, step: int) -> Exception | None:
        """Which sample of a batch fails, found by making them one by one."""
        batch = self.planned(step)
        for row, record in enumerate(int(record) for record in batch["record"]):
            if "annotation_id" in batch:
                where = f"{self.source.name}, annotation {batch['annotation_id'][row]}"
            else:
                where = f"{self.source.name}, image {self.source.images['image_id'][record]}"
            try:
                decode_picture(self.source.jpeg(record), self.source.file_name(record))
            except DamagedData as error:
                return error
            except (ValueError, OSError) as error:
                return ValueError(
                    f"{where}: {error}; or leave such images out: "
                    "prepare the data with verify=True and on_bad='skip' (--verify --on-bad skip)"
                )
            try:
                if self.check is not None:
                    self.check(record)
            except ValueError as error:
                return ValueError(f"{where} ({self.source.file_name(record)}): {error}")
        return None


class TrainBatches:
    """Iterator over the batches of `train_batches`. `step` is the number of the batch that comes next."""

    def __init__(self, pipeline: Pipeline, start: int, stop: int | None):
        self.step, self._batches = start, pipeline.batches(start, 2**62 if stop is None else stop)

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self.step += 1
        return batch

    def close(self) -> None:
        """Stop the threads that make batches ahead."""
        self._batches.close()


class EvalBatches:
    """The batches of `eval_batches`, as often as they are iterated."""

    def __init__(self, pipeline: Pipeline, length: int):
        self._pipeline, self._length = pipeline, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._pipeline.batches(0, self._length)


def _check_source(source: Source) -> None:
    if source.level != "person":
        raise ValueError(f"crops are made from persons: {source} counts images; take source.at_level('person')")
    if len(source) == 0:
        raise ValueError(
            f"{source} has no person with keypoints (for prediction without annotations, give detected boxes)"
        )


def _check_decode(decode: str) -> None:
    if decode not in ("exact", "scaled"):
        raise ValueError(f"decode must be 'exact' or 'scaled', got {decode!r}")


def check_share(batch_size: int, process_index: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} must be a positive multiple of the number of processes, {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} must be in 0..{process_count - 1}")


def check_steps(start_step: int, stop_step: int | None) -> None:
    if start_step < 0 or (stop_step is not None and stop_step < start_step):
        raise ValueError(f"start_step {start_step} must be 0 or more, and no later than stop_step {stop_step}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def opencv():
    try:
        import cv2
    except ImportError:
        raise ImportError("the input pipeline needs OpenCV: pip install 'jaxpose[data]'") from None
    cv2.setNumThreads(1)  # the samples are what is parallel
    return cv2


@lru_cache(maxsize=1)
def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_chatter():
            import tensorflow as tf

            try:
                tf.config.set_visible_devices([], "GPU")  # TensorFlow would take all of its memory
            except RuntimeError:
                pass  # someone initialised TensorFlow before: the choice was theirs
            tf.constant(0)  # initialises it
    except ImportError:
        raise ImportError("the input pipeline needs TensorFlow: pip install 'jaxpose[data]'") from None
    return tf


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Without what TensorFlow's C++ writes to the error stream when it is imported, which no log level reaches."""
    try:
        stream = sys.__stderr__.fileno()
        kept = os.dup(stream)
    except (AttributeError, OSError, ValueError):  # no such stream
        yield
        return
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            os.dup2(kept, stream)
            os.close(kept)
