"""Images per second of grouping: `grouping.group` on the host, one image after another, and `grouping.group_batch`.

    python -m benchmarks.grouping_throughput                  # 5 and 25 people, maps of 256 x 256, 17 joints
    python -m benchmarks.grouping_throughput --no-refine

The maps are synthetic: people at random places, 15 % of the joints missing, noise in between. Both sides take turns on the
same images. Prints one JSON line per side and number of people; times are of one batch.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import jax
import numpy as np
import tyro

from benchmarks.common import interleave, report
from jaxpose import grouping

REACH = 7  # pixels to draw on each side of a joint
DISTANCE = 2.0  # between the tags of two people


@dataclass(frozen=True)
class Options:
    """What to measure."""

    people: tuple[int, ...] = (5, 25)
    batch: int = 8
    size: int = 256
    """Height and width of the maps."""
    joints: int = 17
    tags: int = 1
    """Tags per joint: 2 with a flipped image."""
    refine: bool = True
    repeats: int = 10
    seed: int = 0


def scene(rng: np.random.Generator, people: int, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Returns heatmaps (h, w, K) and tags (h, w, K, T) of one image."""
    shape = (options.size, options.size, options.joints)
    heatmaps = rng.normal(0, 0.01, shape).astype(np.float32)
    tags = rng.normal(0, 0.3, (*shape, options.tags)).astype(np.float32)
    for person in range(people):
        for joint in range(options.joints):
            if rng.random() < 0.15:
                continue
            x, y = rng.integers(REACH, options.size - REACH, 2)
            rows, columns = np.mgrid[y - REACH : y + REACH + 1, x - REACH : x + REACH + 1]
            bump = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) * rng.uniform(0.4, 1)
            higher = bump > heatmaps[rows, columns, joint]
            place = (rows[higher], columns[higher], joint)
            heatmaps[place] = bump[higher]
            tags[place] = person * DISTANCE + rng.normal(0, 0.1, options.tags)
    return heatmaps, tags


def main(options: Options) -> list[dict]:
    lines = []
    for people in options.people:
        rng = np.random.default_rng(options.seed)
        images = [scene(rng, people, options) for _ in range(options.batch)]
        heatmaps, tags = (jax.device_put(np.stack(maps)) for maps in zip(*images))

        def host(images=images):
            for image in images:
                grouping.group(*image, refine=options.refine)

        def batched(heatmaps=heatmaps, tags=tags):
            jax.block_until_ready(grouping.group_batch(heatmaps, tags, refine=options.refine))

        turns = interleave(host, batched, repeats=options.repeats, settle=1)
        for side, times in zip(("host", "batched"), turns, strict=True):
            rate = round(options.batch / statistics.median(times), 1)
            fields = {"side": side, "people": people, "images_per_s": rate, "batch": options.batch}
            fields |= {"size": options.size, "joints": options.joints, "tags": options.tags, "refine": options.refine}
            lines.append(report("grouping_throughput", times, **fields))
    return lines


if __name__ == "__main__":
    main(tyro.cli(Options))
