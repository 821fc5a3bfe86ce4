"""Batches of prepared scans: crops of columns, mirrored and stretched, as a function of the seed and the step only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpose.data.scans.flatten import Prepared

MIRRORED, STRETCHED, STRETCH = 0.5, 0.5, 0.1
"""He's augmentation: the parts of the samples that are mirrored and stretched, and the largest change of the scale of depth."""


@dataclass(frozen=True)
class Feed:
    """The training batches of a run.

    Attributes:
        scans: the training scans, with labels, each at least as wide as a crop.
        width: width of the crops in columns.
        batch_size: number of crops of a global batch.
        seed: seed of the order and of the augmentation.
        augment: if False, crops are neither mirrored nor stretched.
        crops: number of crops of a scan in an epoch.
    """

    scans: Sequence[Prepared]
    width: int
    batch_size: int
    seed: int
    augment: bool = True
    crops: int = 1

    def __len__(self) -> int:
        """The number of crops of an epoch."""
        return len(self.scans) * self.crops

    def batches(
        self, *, start_step: int, stop_step: int, process_index: int = 0, process_count: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the rows of this process of the batches `start_step` to `stop_step` - 1.

        Yields:
            image (b, h, width) float32 and rows (b, width, K) float32, NaN where there is no label.
        """
        own = np.array_split(np.arange(self.batch_size), process_count)[process_index]
        epoch, order = -1, np.arange(0)
        for step in range(start_step, stop_step):
            samples = []
            for place in step * self.batch_size + own:
                if place // len(self) != epoch:
                    epoch = int(place // len(self))
                    order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self))
                index = int(order[place % len(self)])
                rng = np.random.default_rng((self.seed, 1, epoch, index))
                samples.append(crop(self.scans[index % len(self.scans)], rng, width=self.width, augment=self.augment))
            yield {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def crop(scan: Prepared, rng: np.random.Generator, *, width: int, augment: bool = True) -> dict[str, np.ndarray]:
    """Returns a random crop of the labelled columns of a scan, mirrored and stretched at random.

    Args:
        scan: the scan.
        rng: the source of randomness.
        width: width of the crop in columns.
        augment: if False, it is neither mirrored nor stretched.
    """
    columns = np.flatnonzero(np.isfinite(scan.rows).any(1))
    # A crop may reach beyond the labels, but holds as many labelled columns as it can.
    low = np.clip(columns[0], 0, scan.image.shape[1] - width)
    high = np.clip(columns[-1] + 1 - width, low, scan.image.shape[1] - width)
    left = int(rng.integers(low, high + 1))
    image, rows = scan.image[:, left : left + width], scan.rows[left : left + width]
    if augment:
        mirror, stretch = rng.random() < MIRRORED, rng.random() < STRETCHED
        factor = 1 + rng.uniform(-STRETCH, STRETCH)
        if mirror:
            image, rows = image[:, ::-1], rows[::-1]
        if stretch:
            image, rows = stretched(image, rows, factor)
    return {"image": np.ascontiguousarray(image, np.float32), "rows": np.ascontiguousarray(rows, np.float32)}


def stretched(image: np.ndarray, rows: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns a crop and its labels with depths multiplied by a factor about the last row; rows from outside are the first one.

    >>> image, rows = stretched(np.arange(5.0)[:, None], np.array([[3.0]]), 2.0)
    >>> image.ravel().tolist(), rows.tolist()
    ([2.0, 2.5, 3.0, 3.5, 4.0], [[2.0]])
    """
    last = len(image) - 1
    at = np.clip(last + (np.arange(len(image)) - last) / factor, 0, last)
    low = np.minimum(np.floor(at).astype(int), max(last - 1, 0))
    part = (at - low)[:, None]
    return (1 - part) * image[low] + part * image[np.minimum(low + 1, last)], last + (rows - last) * factor


def padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """Returns a scan (h, W) whose width is a multiple of a number, with copies of its last column.

    >>> padded(np.array([[1, 2, 3]]), 2).tolist()
    [[1, 2, 3, 3]]
    """
    return np.pad(image, ((0, 0), (0, -image.shape[1] % multiple)), mode="edge")
