"""Samples per second that one core turns from JPEG files into training batches, compared with OpenCV and a PyTorch DataLoader.

    python -m benchmarks.input_throughput                                # synthetic people, written for this run
    python -m benchmarks.input_throughput --data path/to/coco            # any COCO-format folder
    python -m benchmarks.input_throughput --whole --data path/to/coco    # whole images, for bottom-up nets
    python -m benchmarks.input_throughput --decode scaled                # with JPEGs decoded at a smaller size as another side
    python -m benchmarks.input_throughput --cores 1 2 --no-rival         # how the samples grow with the cores
    python -m benchmarks.input_throughput --parts --no-rival             # where the time of a sample goes

The sides are pinned to the same core and take turns there, with the same augmentation (that of the official RLE code; for
whole images HigherHRNet's). A turn begins with batches that are not counted, until the prefetched ones are used up. Then the
growth of our process's memory over the epochs is measured. Prints one JSON line per side, with the ratio in ours (above 1: ours
is faster; `ratio_cpu` by CPU time, which other programs on the machine disturb less). Without PyTorch, only ours is measured.

For whole images we deliver joints, and a net's loss draws the target maps on the device; the released code draws them in the
loader. The PyTorch side is therefore timed twice: as it is (`ratio`), and without target maps (`ratio_without_targets`). In all
cases the PyTorch side normalises its pixels to float32 and we deliver uint8.

`--decode scaled` adds our pipeline with JPEGs decoded at 1/2, 1/4 or 1/8 if a crop needs no more pixels, and prints the share of
these crops. The PyTorch side decodes completely, as in the official code.

`--cores` pins our pipeline to this number of cores, in turns: `efficiency` is the samples per second and core, relative to the
first number given; `efficiency_cpu` is the same for samples per second of CPU time, which other programs disturb less.

`--parts` splits the work of a batch on one core, in CPU time per sample: planning (augmentation, affine, region), reading the
record, decoding the region (minus the cost of a single call), the warp, and the rest, which is batching (below 0 for large
images, where single decoding allocates new memory each time and the pipeline does not). The alternative is measured too: regions
padded to the size of the largest (`pad_us` to copy them), transferred to the device and warped there under jit, to the same pixels
(`mean_difference`, grey levels). Both give the samples per second that the cores of this machine can produce, with the warp on the
host and without it.

These numbers (benchmarks/RESULTS.md) show that the warp belongs on the host. It takes an eighth of a sample's time there, and the
decoding seven tenths; without it the host's limit rises by that eighth, but the device receives eight times the bytes, because
the regions of a batch have to be padded to one shape.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import tyro

from benchmarks.common import processor, versions


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path | None = None
    """COCO-format folder; None: 120 images of synthetic people are written."""
    split: str = "train"
    whole: bool = False
    """Use whole images with masks for the strides 4 and 2 instead of crops of persons."""
    size_wh: tuple[int, int] | None = None
    """Width and height of the samples; None: 192 256, for whole images 512 512."""
    batch: int | None = None
    """Samples per batch; None: 64, for whole images 12."""
    turns: int = 7
    batches: int = 8
    """Timed batches per turn."""
    memory_samples: int = 4096
    """Number of samples over which the growth of memory is measured; 0: not measured."""
    core: int = -1
    """The core to use; -1: the last one that this process may use."""
    rival: bool = True
    """Also measure the PyTorch loader."""
    image_wh: tuple[int, int] = (640, 480)
    """Width and height of the synthetic images."""
    decode: Literal["exact", "scaled"] = "exact"
    """"scaled": also measure the pipeline that decodes at a smaller size."""
    cores: tuple[int, ...] = ()
    """Numbers of cores on which our pipeline is measured."""
    parts: bool = False
    """Measure the parts of a sample, and the warp on the device."""


OURS = "jaxpose"
SCALED = "jaxpose, decode=scaled"
PARTS = "jaxpose, parts"
THEIRS = "opencv + torch DataLoader"
THEIRS_BARE = "opencv + torch DataLoader, no targets"
RATIOS = {THEIRS: "", THEIRS_BARE: "_without_targets"}  # suffixes of the names of the ratios to them
PREFETCH = 2
DRAIN = PREFETCH + 2


def main(options: Options) -> list[dict]:
    if options.whole and (options.parts or options.decode == "scaled"):
        raise ValueError("--parts and --decode scaled are of crops: leave --whole out")
    size_wh, batch = ((512, 512), 12) if options.whole else ((192, 256), 64)
    options = replace(options, size_wh=options.size_wh or size_wh, batch=options.batch or batch)
    allowed = sorted(os.sched_getaffinity(0))
    if options.cores and not 1 <= min(options.cores) <= max(options.cores) <= len(allowed):
        raise ValueError(f"--cores {options.cores}: this process may use {len(allowed)}")
    core = options.core if options.core >= 0 else allowed[-1]
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or _synthetic(Path(folder) / "people", options.image_wh)
        work = Path(folder)
        sides = {OURS: (_ours, (data, work, options))}
        if options.decode == "scaled":
            sides[SCALED] = (_ours, (data, work, options, "scaled"))
        if options.rival and find_spec("torch"):
            sides[THEIRS] = (_theirs_whole if options.whole else _theirs, (data, options))
            if options.whole:
                sides[THEIRS_BARE] = (_theirs_whole, (data, options, False))
        with _Runners(sides, core) as runners:
            rates = runners.take_turns(options)
            memory = runners.ask(OURS, ("memory", options.memory_samples)) if options.memory_samples else None
            packages = {side: runners.ask(side, ("versions",)) for side in sides}
        lines = [_line(side, rates, packages[side], options, data) for side in sides]
        lines[0] |= {"memory": memory}
        if options.decode == "scaled":
            lines[1] |= {"ratio_to_exact": _ratio(*(_column(rates, side, 0) for side in (SCALED, OURS)))}
            lines[1] |= {"ratio_to_exact_cpu": _ratio(*(_column(rates, side, 1) for side in (SCALED, OURS)))}
            lines[1] |= {"decoded_at": _shares(data, work, options)}
        if options.cores:
            lines += _over_cores(data, work, options, allowed)
        if options.parts:
            with _Runners({PARTS: (_Parts, (data, work, options))}, core) as runners:
                lines.append(_common(PARTS, options, data) | runners.ask(PARTS, ("parts", len(allowed))))
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def _line(side: str, rates: dict[str, list[tuple[float, float]]], packages: dict, options: Options, data: Path) -> dict:
    wall, cpu = ({name: _column(rates, name, i) for name in rates} for i in (0, 1))
    line = _common(side, options, data) | {
        "samples_per_s_per_core": round(statistics.median(wall[side]), 1),
        "spread": [round(min(wall[side]), 1), round(max(wall[side]), 1)],
        "samples_per_cpu_s": round(statistics.median(cpu[side]), 1),
        "runs": len(wall[side]),
        "versions": packages,
    }
    if side in (OURS, SCALED):
        for rival in [other for other in rates if other in RATIOS]:
            line["ratio" + RATIOS[rival]] = _ratio(wall[side], wall[rival])
            line["ratio_cpu" + RATIOS[rival]] = _ratio(cpu[side], cpu[rival])
    return line


def _common(side: str, options: Options, data: Path) -> dict:
    return {
        "benchmark": "input_throughput",
        "side": side,
        "samples": "whole images" if options.whole else "persons",
        "data": Path(data).name if options.data else "synthetic {}x{}".format(*options.image_wh),
        "size_wh": options.size_wh,
        "batch": options.batch,
        "device": f"1 core of {processor()}",
    }


def _column(rates: dict[str, list[tuple[float, float]]], side: str, i: int) -> list[float]:
    return [turn[i] for turn in rates[side]]


def _over_cores(data: Path, work: Path, options: Options, allowed: list[int]) -> list[dict]:
    """Returns a line per number of cores; each is compared with the first of them in the same turn."""
    sides = {f"{OURS}, {n} core{'s' * (n > 1)}": (_ours, (data, work, options, options.decode)) for n in options.cores}
    pins = {side: set(allowed[-n:]) for side, n in zip(sides, options.cores, strict=True)}
    with _Runners(sides, pins) as runners:
        rates = runners.take_turns(options)
    lines, first = [], next(iter(sides))
    for side, n in zip(sides, options.cores, strict=True):
        # The CPU time per sample does not depend on the number of cores, so nothing has to be divided.
        share = options.cores[0] / n
        lines.append(_common(side, options, data) | {
            "decode": options.decode,
            "cores": n,
            "device": f"{n} core{'s' * (n > 1)} of {processor()}",
            "samples_per_s": round(statistics.median(_column(rates, side, 0)), 1),
            "samples_per_cpu_s": round(statistics.median(_column(rates, side, 1)), 1),
            "efficiency": round(_ratio(_column(rates, side, 0), _column(rates, first, 0)) * share, 3),
            "efficiency_cpu": _ratio(_column(rates, side, 1), _column(rates, first, 1)),
            "runs": options.turns,
        })  # fmt: skip
    return lines


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


class _Runners:
    """One process per side, pinned to one core, or each side to its own set of cores; only the process that is asked works."""

    def __init__(self, sides, cores: int | dict[str, set[int]]):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = {}, []
        for side, (start, arguments) in sides.items():
            ours, theirs = context.Pipe()
            pins = {cores} if isinstance(cores, int) else cores[side]
            process = context.Process(target=_serve, args=(theirs, pins, start, arguments), daemon=True)
            process.start()
            theirs.close()
            self.pipes[side] = ours
            self.processes.append(process)

    def __enter__(self) -> _Runners:
        return self

    def __exit__(self, *error) -> None:
        for pipe in self.pipes.values():
            pipe.close()  # the other end stops
        for process in self.processes:
            process.join(timeout=30)

    def ask(self, side: str, question: tuple):
        self.pipes[side].send(question)
        return self.pipes[side].recv()

    def take_turns(self, options: Options) -> dict[str, list[tuple[float, float]]]:
        rates: dict[str, list[tuple[float, float]]] = {side: [] for side in self.pipes}
        for turn in range(options.turns + 1):  # the first is warm-up
            for side in self.pipes:
                rate = self.ask(side, ("rate", options.batches, options.batch))
                if turn:
                    rates[side].append(rate)
        return rates


def _serve(pipe, cores: set[int], start, arguments) -> None:
    os.sched_setaffinity(0, cores)  # before anything starts threads
    stream = start(*arguments)
    while True:
        try:
            what, *rest = pipe.recv()
        except EOFError:
            return
        pipe.send(ANSWERS[what](stream, *rest))


def _rate(stream, batches: int, batch: int) -> tuple[float, float]:
    """Returns samples per second of wall-clock time, and per second of CPU time (the same on an idle machine)."""
    for _ in range(DRAIN):
        next(stream)
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    samples, before = batches * batch, 0.0
    while time.process_time() - before > 0.001:  # prefetching would continue into the turn of another side
        before = time.process_time()
        time.sleep(0.05)
    return samples / wall, samples / cpu


def _memory(stream, samples: int) -> dict:
    """Returns resident memory before and after some samples: it must not grow with their number."""
    before, seen = _resident_mb(), 0
    while seen < samples:
        seen += len(next(stream)["image"])
    return {"samples": seen, "resident_mb": round(before, 1), "growth_mb": round(_resident_mb() - before, 1)}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


ANSWERS = {
    "rate": _rate,
    "memory": _memory,
    "versions": lambda stream: versions(),
    "parts": lambda parts, cores: parts.measured(cores),
}


def _source(data: Path, work: Path, options: Options):
    from jaxpose.data import builder

    return builder.prepare(data, data_dir=work / "prepared", split=options.split, progress=False)


def _ours(data: Path, work: Path, options: Options, decode: str = "exact"):
    from jaxpose.data import crops, whole_images

    source, shape = _source(data, work, options), {"size_wh": options.size_wh, "batch_size": options.batch}
    if options.whole:
        return whole_images.train_batches(source, augment="higher_hrnet", prefetch=PREFETCH, **shape)
    return crops.train_batches(source, augment="official", prefetch=PREFETCH, decode=decode, **shape)


def _shares(data: Path, work: Path, options: Options) -> dict[str, float]:
    """Returns the share of the crops of some epochs that is decoded at each scale."""
    import numpy as np

    from jaxpose.data import augment, crops

    source = _source(data, work, options)
    epochs = np.repeat(np.arange(max(1, 2000 // len(source))), len(source))
    indices = np.arange(len(epochs)) % len(source)
    planned = crops.plan(
        source, indices, size_wh=options.size_wh, augment=augment.OFFICIAL, epochs=epochs, decode="scaled"
    )
    return {f"1/{r}": round(float((planned["ratio"] == r).mean()), 3) for r in crops.RATIOS}


class _Parts:
    """Our pipeline, and the measurement of its parts."""

    def __init__(self, data: Path, work: Path, options: Options):
        import io

        import jax  # before TensorFlow
        import numpy as np
        from PIL import Image

        Image.new("RGB", (1, 1)).save(smallest := io.BytesIO(), "JPEG")
        self.smallest = smallest.getvalue()

        self.memory = np.ones(0, np.uint8)
        self.jax, self.options, self.source = jax, options, _source(data, work, options)
        self.stream = _ours(data, work, options, options.decode)

    def measured(self, cores: int) -> dict:
        import numpy as np

        spent: dict[str, list[float]] = {}
        sizes: list[tuple[int, int]] = []
        for turn in range(self.options.turns + 1):  # the first is warm-up
            total = 1e6 / _rate(self.stream, self.options.batches, self.options.batch)[1]
            batches = [self._once(turn * self.options.batches + i) for i in range(self.options.batches)]
            if turn:
                for name in batches[0][0]:
                    spent.setdefault(name, []).append(statistics.mean(times[name] for times, _ in batches))
                spent.setdefault("total", []).append(total)
                sizes += [size for _, batch in batches for size in batch["sizes"].tolist()]
        self.stream.close()
        parts = {name: round(statistics.median(values), 1) for name, values in spent.items()}
        total, pad = parts.pop("total"), parts.pop("pad")
        parts["rest"] = round(total - sum(parts.values()), 1)
        bytes_of = 3 * np.prod(sizes, axis=1)
        w, h = self.options.size_wh
        return {
            "decode": self.options.decode,
            "us_a_sample": total,
            "parts_us": parts,
            "bytes_a_sample": {
                "crop": 3 * w * h,
                "region_mean": round(float(bytes_of.mean())),
                "region_p95": round(float(np.percentile(bytes_of, 95))),
                "region_padded": int(batches[-1][1]["padded"][0].nbytes),
            },
            "pad_us": pad,
            "device_warp": self._on_device(batches[-1][1]),
            "host_limit": {
                "cores": cores,
                "samples_per_s": round(cores * 1e6 / total),
                "samples_per_s_without_warp": round(cores * 1e6 / (total - parts["warp"] + pad)),
            },
            "runs": self.options.turns,
            "versions": versions(),
        }

    def _once(self, step: int) -> tuple[dict[str, float], dict]:
        """Returns CPU microseconds per sample of each part, in this thread, and the results."""
        import numpy as np

        from jaxpose.data import augment, crops, feed, pixels

        tf, size_wh, batch = feed.tensorflow(), self.options.size_wh, self.options.batch
        positions = step * batch + np.arange(batch)
        indices, epochs = feed.sample_indices(positions, num_samples=len(self.source), seed=0)
        times, clock = dict.fromkeys(("call", "plan", "read", "decode", "warp", "pad"), 0.0), time.thread_time
        start = clock()

        def lap(name: str):
            nonlocal start
            times[name] += (clock() - start) * 1e6 / batch
            start = clock()

        for _ in range(batch):
            _decoded(tf, self.smallest, (0, 0, 1, 1), 1)
        lap("call")
        options = {"size_wh": size_wh, "augment": augment.OFFICIAL, "decode": self.options.decode}
        planned = crops.plan(self.source, indices, epochs=epochs, **options)
        lap("plan")
        sizes = planned["window"][:, 2:]
        padded, images = (
            self._buffer((batch, *sizes.max(axis=0).tolist(), 3)),
            np.empty((batch, *size_wh[::-1], 3), np.uint8),
        )
        start = clock()
        rows = (planned[key] for key in ("record", "ratio", "window", "warp"))
        for i, (record, ratio, window, warp) in enumerate(zip(*rows, strict=True)):
            jpeg = self.source.jpeg(int(record))
            lap("read")
            region = _decoded(tf, jpeg, window, int(ratio))
            lap("decode")
            images[i] = pixels.warped(region, warp, size_wh)
            lap("warp")
            padded[i, : sizes[i, 0], : sizes[i, 1]] = region
            lap("pad")
        times["decode"] -= times.pop("call")
        return times, {"sizes": sizes, "padded": padded, "images": images, "warp": planned["warp"]}

    def _buffer(self, shape: tuple[int, ...]):
        """Returns an array of this shape in memory that was used before; the rest of a row has old content."""
        import numpy as np

        size = int(np.prod(shape))
        if len(self.memory) < size:
            self.memory = np.ones(size, np.uint8)
        return self.memory[:size].reshape(shape)

    def _on_device(self, batch: dict) -> dict:
        """Measures the time of the warp on the device, and the difference of its pixels from ours."""
        import numpy as np

        from jaxpose.geometry import invert_affine

        jax = self.jax
        arguments = (batch["padded"], batch["sizes"], invert_affine(batch["warp"]).astype(np.float32))
        arguments = jax.block_until_ready(jax.device_put(arguments))
        warp = jax.jit(_warp_on_device(self.options.size_wh))
        difference = np.abs(np.asarray(warp(*arguments)).astype(int) - batch["images"])
        times = []
        for _ in range(max(3, self.options.turns)):
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(warp(*arguments))
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        wall, cpu = (statistics.median(column) * 1e6 / len(batch["images"]) for column in zip(*times, strict=True))
        device = jax.devices()[0]
        own = device.platform == "cpu"  # there other programs do not disturb the CPU time
        return {
            "us_a_sample": round(cpu if own else wall, 1),
            "device": f"1 core of {processor()}" if own else device.device_kind,
            "mean_difference": round(float(difference.mean()), 4),
        }


def _decoded(tf, jpeg: bytes, window, ratio: int):
    return tf.io.decode_and_crop_jpeg(jpeg, window, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE").numpy()


def _warp_on_device(size_wh: tuple[int, int]):
    """Returns the function (regions (B, h, w, 3) uint8, sizes (B, 2) h w, affines (B, 2, 3) input px -> region px) -> crops uint8."""
    import jax.numpy as jnp

    width, height = size_wh

    def warp(regions, sizes, affines):
        b, h, w, _ = regions.shape
        grid = jnp.stack([*jnp.meshgrid(jnp.arange(width), jnp.arange(height)), jnp.ones((height, width), int)], -1)
        x, y = jnp.moveaxis(jnp.einsum("hwk,bjk->bjhw", grid.astype(jnp.float32), affines, precision="highest"), 1, 0)
        flat, total = regions.reshape(b, h * w, 3), 0.0
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = jnp.floor(x).astype(int) + dx, jnp.floor(y).astype(int) + dy
                inside = (
                    (column >= 0) & (column < sizes[:, 1, None, None]) & (row >= 0) & (row < sizes[:, 0, None, None])
                )
                weight = jnp.where(inside, (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row)), 0.0)
                place = jnp.where(inside, row * w + column, 0).reshape(b, -1, 1)
                seen = jnp.take_along_axis(flat, place, axis=1).reshape(b, height, width, 3)
                total += seen.astype(jnp.float32) * weight[..., None]
        return jnp.round(total).astype(jnp.uint8)

    return warp


def _theirs(data: Path, options: Options):
    from benchmarks.peers import torch_input
    from jaxpose.data.formats import coco

    annotations, images = coco.find(data, options.split)
    pairs = coco.read(annotations, images).skeleton.flip_pairs
    return torch_input.batches(annotations, images, size_wh=options.size_wh, flip_pairs=pairs, batch_size=options.batch)


def _theirs_whole(data: Path, options: Options, targets: bool = True):
    from benchmarks.peers import torch_whole
    from jaxpose.data.formats import coco

    annotations, images = coco.find(data, options.split)
    flip_index = coco.read(annotations, images).skeleton.flip_index
    return torch_whole.batches(
        annotations, images, batch_size=options.batch, size_wh=options.size_wh, flip_index=flip_index, targets=targets
    )


def _synthetic(folder: Path, size_wh: tuple[int, int]) -> Path:
    from jaxpose.data.synthetic import write_dataset

    write_dataset(folder, train=120, val=8, seed=0, size_wh=size_wh, progress=False)
    return folder


if __name__ == "__main__":
    main(tyro.cli(Options))
