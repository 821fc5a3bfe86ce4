"""Time of a Keypoint R-CNN's prediction, picture in, boxes and joints out, and of its two operators, beside torchvision.

    python -m benchmarks.detector_throughput                       # ResNet-50, one picture of 640x480 and four
    python -m benchmarks.detector_throughput --parts nms roi_align --repeats 20
    python -m benchmarks.detector_throughput --people 100              # as many people as there are slots

The net is torchvision's `keypointrcnn_resnet50_fpn` with random weights, the same on both sides; it reads pictures that are
scaled to a shorter side of 800 px. The weights of its scores are so small that it finds people everywhere, so that `--people` is
the number of slots and with it that of the regions whose joints are predicted. The pictures are noise, and none is seen twice.
Suppression: crowded boxes of one group, and of the five levels of a pyramid. RoIAlign: four levels of a padded image of 1088x800
with 256 channels, 512 regions of 7x7 and 128 of 14x14 cells, which a training step reads per image; features alone, and their
gradient with the features. Sides take turns; compilation is timed apart. Without torchvision ours alone is timed, with weights of
its own. Prints a JSON line per side and part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import interleave, ratio, report
from benchmarks.predict_throughput import OnFresh
from jaxpose import importer, nets, tasks
from jaxpose.detection import boxes as boxes_of
from jaxpose.detection import roi_align
from jaxpose.predict.detector import Detector
from jaxpose.skeleton import COCO17

Part = Literal["whole", "nms", "roi_align"]
LEVELS = range(2, 6)
REGIONS = {7: 512, 14: 128}  # of an image in a training step, by their cells
THRESHOLD = 0.7  # that of proposals


@dataclass(frozen=True)
class Options:
    """What to measure."""

    parts: tuple[Part, ...] = ("whole", "nms", "roi_align")
    batch: tuple[int, ...] = (1, 4)
    """Pictures at a time."""
    picture_wh: tuple[int, int] = (640, 480)
    short: int = 800
    """Shorter side of a scaled picture, px; the longer one is at most 5/3 of it."""
    people: int = 4
    """Slots for people, all of which are filled."""
    depth: Literal[18, 50] = 50
    width: int = 64
    """Channels of the ResNet's first layer; torchvision's is 64, any other is timed alone."""
    boxes: tuple[int, ...] = (1000, 4000)
    """Numbers of boxes to suppress."""
    map_hw: tuple[int, int] = (800, 1088)
    """Height and width of the image whose pyramid RoIAlign reads, px."""
    channels: int = 256
    cells: tuple[Literal[7, 14], ...] = (7, 14)
    """Rows and columns of the regions that RoIAlign reads: boxes' and joints'."""
    repeats: int = 8
    rival: bool = True
    """Also time torchvision, if it is installed and JAX runs on the CPU."""
    seed: int = 0


def has_rival(options: Options) -> bool:
    return options.rival and jax.default_backend() == "cpu" and bool(find_spec("torchvision"))


def whole(options: Options) -> list[dict]:
    """Measures pictures to people, and returns its lines."""
    longest = 5 * options.short // 3
    rivals: dict[str, Any] = {}
    if has_rival(options) and options.width == 64:
        from benchmarks.peers import torch_detector

        sizes = {"depth": options.depth, "people": options.people, "short": options.short, "longest": longest}
        rivals = {
            "torchvision, NCHW": torch_detector.Detector(**sizes, channels_last=False, seed=options.seed),
            "torchvision, channels_last": torch_detector.Detector(**sizes, channels_last=True, seed=options.seed),
        }
    task, variables = detector_of(options, next(iter(rivals.values()), None), size_wh=(longest, options.short))
    lines = []
    for batch in options.batch:
        ours = Detector(task, variables, max_people=options.people, batch_size=batch)
        first, start = next(draws := pictures(options, batch)), time.perf_counter()
        people = ours(first)
        compile_s = time.perf_counter() - start
        sides = {"jaxpose": ours, **rivals}
        timed = [OnFresh(f, draws, 2 * options.repeats + 1) for f in sides.values()]
        times = dict(zip(sides, interleave(*timed, repeats=options.repeats, settle=1), strict=True))
        shared = {"part": "whole", "batch": batch, "depth": options.depth, "picture_wh": options.picture_wh,
                  "short": options.short, "people": sum(map(len, people)) / batch}  # fmt: skip
        own = {"first_call_s": round(compile_s, 1)}
        if rivals:
            own["difference_px"] = difference(people, next(iter(rivals.values()))(first))
        lines += lines_of(times, shared, own, pictures_each=batch)
    return lines


def detector_of(options: Options, rival: Any | None, *, size_wh: tuple[int, int]) -> tuple[tasks.Task, Any]:
    """Returns the task and its variables: the weights of torchvision's side, or fresh ones."""
    if rival is not None:
        task, variables, _ = importer.read(rival.state(), layout="keypoint_rcnn", size_wh=size_wh, bn_eps=1e-5)
        return task, variables
    width = options.width
    net = nets.RCNN(
        nets.ResNet(options.depth, width=width), num_joints=17, fpn_features=4 * width, box_features=(16 * width,) * 2,
        keypoint_convs=(8 * width,) * 8,
    )  # fmt: skip
    resize = tasks.Resize(min(size_wh), max(size_wh))
    task = tasks.detection(net, skeleton=COCO17, size_wh=size_wh, resize=resize)
    return task, jax.device_get(jax.jit(task.init)(jax.random.key(options.seed)))


def pictures(options: Options, batch: int) -> Iterator[list[np.ndarray]]:
    """Yields lists of random pictures (h, w, 3) endlessly; the same seed gives the same ones."""
    rng = np.random.default_rng(options.seed)
    width, height = options.picture_wh
    while True:
        yield list(rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8))


def difference(ours: Sequence, theirs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Returns the largest difference of a coordinate of the boxes, px; None if their numbers differ."""
    pairs = [
        (np.concatenate([each.box[:, :2], each.box[:, :2] + each.box[:, 2:]], -1), box)
        for each, (box, _) in zip(ours, theirs, strict=True)
    ]
    if any(a.shape != b.shape for a, b in pairs):
        return None
    return round(max(float(np.abs(a - b).max(initial=0)) for a, b in pairs), 4)


def lines_of(
    times: dict[str, list[float]], shared: dict[str, Any], own: dict[str, Any], *, pictures_each: int = 0
) -> list[dict]:
    """Reports the sides of one part; ours has the ratios of the others' times to its own."""
    lines = []
    for side, values in times.items():
        fields = {"side": side, **shared}
        if pictures_each:
            fields["pictures_per_s"] = round(pictures_each / float(np.median(values)), 3)
        if side == "jaxpose":
            fields |= own | {f"ratio to {name}": round(ratio(values, times[name]), 3) for name in times if name != side}
        lines.append(report("detector_throughput", values, **fields))
    return lines


def suppression(options: Options) -> list[dict]:
    """Measures non-maximum suppression, and returns its lines."""
    lines = []
    for groups, count in (*((1, n) for n in options.boxes), (5, options.boxes[0])):
        boxes, scores = crowd(options, groups, count)
        device = jnp.asarray(boxes), jnp.asarray(scores)
        sides: dict[str, Callable[[], Any]] = {
            "jaxpose": lambda device=device: jax.block_until_ready(boxes_of.nms(*device, threshold=THRESHOLD))
        }
        own = {}
        if has_rival(options):
            from benchmarks.peers import torch_detector

            sides["torchvision"] = torch_detector.Suppression(boxes, scores, threshold=THRESHOLD)
            stay = np.flatnonzero(np.asarray(sides["jaxpose"]()))
            own["equal"] = sorted(sides["torchvision"]().tolist()) == stay.tolist()
        shared = {"part": "nms", "boxes": count, "groups": groups}
        times = interleave(*sides.values(), repeats=options.repeats, settle=1)
        lines += lines_of(dict(zip(sides, times, strict=True)), shared, own)
    return lines


def crowd(options: Options, groups: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes (groups, count, 4) around a tenth as many people, and scores (groups, count), all different."""
    rng = np.random.default_rng(options.seed)
    person = rng.uniform(0, 1000, (groups, count // 10 + 1, 2))
    center = np.take_along_axis(person, rng.integers(0, person.shape[1], (groups, count, 1)), 1)
    center = center + rng.normal(0, 8, (groups, count, 2))
    half = rng.uniform(20, 60, (groups, count, 2))
    boxes = np.maximum(np.concatenate([center - half, center + half], -1), 0).astype(np.float32)
    scores = np.stack([rng.permutation(count) for _ in range(groups)]) / np.float32(count)
    return boxes, scores.astype(np.float32)


def pooling(options: Options) -> list[dict]:
    """Measures RoIAlign, and returns its lines."""
    lines, rng = [], np.random.default_rng(options.seed)
    height, width = options.map_hw
    maps = [rng.normal(size=(height >> n, width >> n, options.channels)).astype(np.float32) for n in LEVELS]
    for cells in options.cells:
        count = REGIONS[cells]
        side = np.exp(rng.uniform(np.log(0.04), np.log(0.6), (count, 1))) * min(height, width) * np.array([0.6, 1.4])
        center = rng.uniform(0, 1, (count, 2)) * (width, height)
        boxes = np.concatenate([center - side / 2, center + side / 2], -1)
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
        upstream = rng.normal(size=(count, cells, cells, options.channels)).astype(np.float32)
        for gradient in (False, True):
            sides = {"jaxpose": pooled(maps, boxes, cells=cells, upstream=upstream if gradient else None)}
            own = {}
            if has_rival(options):
                from benchmarks.peers import torch_detector

                sides["torchvision"] = torch_detector.Pooling(
                    maps, boxes, size_hw=options.map_hw, cells=cells, upstream=upstream if gradient else None
                )
                own["difference"] = max(
                    float(np.abs(np.moveaxis(np.asarray(a), -1, -3) - b.detach().numpy()).max())
                    for a, b in zip(sides["jaxpose"](), sides["torchvision"](), strict=True)
                )
            shared = {"part": "roi_align", "regions": count, "cells": cells, "gradient": gradient}
            times = interleave(*sides.values(), repeats=options.repeats, settle=1)
            lines += lines_of(dict(zip(sides, times, strict=True)), shared, own)
    return lines


def pooled(maps: list[np.ndarray], boxes: np.ndarray, *, cells: int, upstream: np.ndarray | None) -> Callable[[], Any]:
    """Returns the function that reads the features (R, cells, cells, C), or their gradient, as training on a CPU does."""
    level = roi_align.levels(jnp.asarray(boxes))
    scales = [2.0**-n for n in LEVELS]

    def features(maps: list[jax.Array]) -> jax.Array:
        options = {"size_hw": (cells, cells), "scales": scales, "samples": 2, "aligned": False}
        return roi_align.pyramid(maps, jnp.asarray(boxes), level, **options, form="scatter")

    on_device = [jnp.asarray(values) for values in maps]
    if upstream is None:
        program = jax.jit(lambda maps: [features(maps)])
        return lambda: jax.block_until_ready(program(on_device))
    of_features = jnp.asarray(upstream)
    program = jax.jit(lambda maps, upstream: jax.vjp(features, maps)[1](upstream)[0])
    return lambda: jax.block_until_ready(program(on_device, of_features))


MEASURES = {"whole": whole, "nms": suppression, "roi_align": pooling}


def main(options: Options) -> list[dict]:
    return [line for part in options.parts for line in MEASURES[part](options)]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
