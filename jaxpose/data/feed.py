"""The feed of batches: the seeded order of the samples, and tf.data in parallel. The only importer of TensorFlow here.

The global batch t is a function of (seed, t) only. The epochs are permutations of all records, one after another without
a gap: batch t holds positions tB to (t + 1)B - 1 of that sequence, and process i takes its slice of them. So nothing of
the feed needs saving, and any number of processes sees the same batches.

`jaxpose.data.crops` and `jaxpose.data.whole_images` define the contents of a batch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from jaxpose.data.augment import PERMUTATIONS, philox
from jaxpose.data.pixels import decode_picture
from jaxpose.data.source import DamagedData, Source

__all__ = [
    "EvalBatches",
    "Pipeline",
    "TrainBatches",
    "batches_by_size",
    "check_share",
    "check_steps",
    "sample_indices",
    "tensorflow",
]


def sample_indices(positions: Sequence[int], *, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples at some positions of the endless sequence of epochs.

    Args:
        positions: ``(B,)`` positions, 0 or more.
        num_samples: The number of samples in an epoch.
        seed: Seeds the permutations.

    Returns:
        The indices of the samples ``(B,)`` and their epochs ``(B,)``.

    >>> indices, epochs = sample_indices(range(6), num_samples=3, seed=0)
    >>> print(np.sort(indices[:3]), np.sort(indices[3:]), epochs)
    [0 1 2] [0 1 2] [0 0 0 1 1 1]
    """
    epochs, offsets = np.divmod(np.asarray(positions, np.int64), num_samples)
    indices = [_permutation(num_samples, seed, int(e))[o] for e, o in zip(epochs, offsets, strict=True)]
    return np.array(indices, np.int64), epochs


@lru_cache(maxsize=4)  # a batch can span two epochs; each takes 4 bytes per sample
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return philox(seed, PERMUTATIONS, epoch, 0).permutation(np.arange(num_samples, dtype=np.int32))


def batches_by_size(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the samples of each evaluation batch: the same sizes together, the largest first, padded by -1.

    Args:
        sizes: ``(N, 2)`` whole numbers, the size of each sample.
        batch_size: The number of samples of a batch.

    Returns:
        ``(steps, batch_size)`` int64.

    >>> batches_by_size(np.array([[2, 2], [4, 4], [2, 2], [4, 4], [4, 4]]), 2).tolist()
    [[1, 3], [4, -1], [0, 2]]
    """
    kinds, which = np.unique(sizes, axis=0, return_inverse=True)
    batches = []
    for kind in sorted(range(len(kinds)), key=lambda k: (-int(kinds[k].prod()), *kinds[k])):
        members = np.flatnonzero(which.reshape(-1) == kind)
        padded = np.full(-(-len(members) // batch_size) * batch_size, -1, np.int64)
        padded[: len(members)] = members
        batches.append(padded.reshape(-1, batch_size))
    return np.concatenate(batches)


def rows_of_batch(
    batch: np.ndarray, process_index: int, process_count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a process's rows of an evaluation batch, which of them are samples, and the samples to read for them.

    Args:
        batch: ``(batch_size,)``, a row of `batches_by_size`.
        process_index, process_count: This process and their number, which divides the batch.

    Returns:
        ``(local,)`` each: the rows, -1 in padding; whether they are samples; the samples, in padding the last one of the batch.

    >>> rows, valid, samples = rows_of_batch(np.array([4, 6, 7, -1]), 1, 2)
    >>> rows.tolist(), valid.tolist(), samples.tolist()
    ([7, -1], [True, False], [7, 7])
    """
    rows = np.split(batch, process_count)[process_index]
    return rows, rows >= 0, np.where(rows >= 0, rows, batch.max())


class Pipeline:
    """Batches made by tf.data in parallel. The graph is built when an iteration starts (0.1 s).

    Args:
        source: The source of the images.
        planned: Computes everything about a batch except its pixels from the number of the batch; its entry ``record``
            ``(B,)`` holds the rows of the images.
        finish: Makes a row of the batch from a row of the plan, both as tensors; it becomes part of the graph.
        batch: The number of rows of this process.
        threads: The number of threads; None takes one per core that this process may use, at most 16.
        prefetch: The number of batches made ahead.
        check: Checks the row of an image; raises ValueError for anything but a bad JPEG that `finish` cannot use.
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
        """Yields the batches start to stop - 1.

        Raises:
            ValueError: An image cannot be decoded; the message names its file and its sample.
                `jaxpose.data.source.DamagedData`: prepared data are damaged.
        """
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
            plan = self.planned(int(step))
            return [plan[key] for key in keys]

        types = [tf.as_dtype(example[key].dtype) for key in keys]
        shapes = [example[key].shape for key in keys]

        def planned(step):
            # A stateless function would run once for each of its outputs.
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
        """Returns the error of the failing sample of a batch, by making the samples one by one."""
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
    """An iterator over training batches. `step` is the number of the next batch."""

    def __init__(self, pipeline: Pipeline, start: int, stop: int | None):
        self.step, self._batches = start, pipeline.batches(start, 2**62 if stop is None else stop)

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self.step += 1
        return batch

    def close(self) -> None:
        """Stops the threads that make batches ahead."""
        self._batches.close()


class EvalBatches:
    """Evaluation batches, which can be iterated repeatedly and have a length."""

    def __init__(self, pipeline: Pipeline, length: int):
        self._pipeline, self._length = pipeline, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._pipeline.batches(0, self._length)


def check_share(batch_size: int, process_index: int, process_count: int) -> None:
    """Raises a ValueError if the processes cannot share a batch."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} must be a positive multiple of the number of processes, {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} must be in 0..{process_count - 1}")


def check_steps(start_step: int, stop_step: int | None) -> None:
    """Raises a ValueError if the steps are not a valid range."""
    if start_step < 0 or (stop_step is not None and stop_step < start_step):
        raise ValueError(f"start_step {start_step} must be 0 or more, and no later than stop_step {stop_step}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def tensorflow():
    """Imports TensorFlow, without its messages and without the accelerator's memory, and returns it.

    Raises:
        ImportError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_chatter():
            import tensorflow as tf

            try:
                tf.config.set_visible_devices([], "GPU")  # TensorFlow would take all of its memory
            except RuntimeError:
                pass  # the program has already initialised TensorFlow, with devices of its own choice
            tf.constant(0)  # initialises TensorFlow
    except ImportError:
        raise ImportError("the input pipeline needs TensorFlow: pip install 'jaxpose[data]'") from None
    return tf


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hides messages that TensorFlow's C++ code writes to the error stream on import, which no log level controls."""
    try:
        stream = sys.__stderr__.fileno()
        error_stream = os.dup(stream)
    except (AttributeError, OSError, ValueError):  # there is no such stream
        yield
        return
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream)
        try:
            yield
        finally:
            os.dup2(error_stream, stream)
            os.close(error_stream)
