"""Samples per second that one core turns from JPEG files into training batches, beside OpenCV and a PyTorch DataLoader.

    python -m benchmarks.input_throughput                                # synthetic people, written for the occasion
    python -m benchmarks.input_throughput --data path/to/coco            # any COCO-format folder
    python -m benchmarks.input_throughput --whole --data path/to/coco    # whole images, for bottom-up nets

The sides are pinned to the same core and take turns there, with the same augmentation (the official RLE code's; for
whole images HigherHRNet's). A turn begins with batches that are not counted, until what was made ahead is used up. Then
how the memory of our process grows over the epochs. Prints one JSON line for each side, the ratio in ours (above 1: we
are faster; `ratio_cpu` by processor time, which other programs on the machine disturb less). Without PyTorch: ours only.

Of whole images we hand over joints, and a net's loss draws the target maps on the device; the released code draws them
in the loader. So there the rival runs twice: as it is (`ratio`: what the loader is relieved of), and without target maps
(`ratio_without_targets`). In all of them the rival normalises its pixels to float32 and we hand over uint8.
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

import tyro

from benchmarks.common import processor, versions


@dataclass(frozen=True)
class Options:
    """What to measure."""

    data: Path | None = None
    """COCO-format folder; None: 200 synthetic people of 640x480 pixels are written."""
    split: str = "train"
    whole: bool = False
    """Whole images with masks for the strides 4 and 2, not crops of persons."""
    size_wh: tuple[int, int] | None = None
    """None: 192 256, of whole images 512 512."""
    batch: int | None = None
    """None: 64, of whole images 12."""
    turns: int = 7
    batches: int = 8
    """Timed batches in a turn."""
    memory_samples: int = 4096
    """Samples over which the growth of memory is measured; 0: not at all."""
    core: int = -1
    """The core to use; -1: the last one that this process may use."""
    rival: bool = True
    """Measure the PyTorch loader too."""


OURS = "jaxpose"
THEIRS = "opencv + torch DataLoader"
THEIRS_BARE = "opencv + torch DataLoader, no targets"
RATIOS = {THEIRS: "", THEIRS_BARE: "_without_targets"}  # how the names of the ratios over them end
PREFETCH = 2
DRAIN = PREFETCH + 2


def main(options: Options) -> list[dict]:
    size_wh, batch = ((512, 512), 12) if options.whole else ((192, 256), 64)
    options = replace(options, size_wh=options.size_wh or size_wh, batch=options.batch or batch)
    core = options.core if options.core >= 0 else max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or _synthetic(Path(folder) / "people")
        sides = {OURS: (_ours, (data, Path(folder), options))}
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
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def _line(side: str, rates: dict[str, list[tuple[float, float]]], packages: dict, options: Options, data: Path) -> dict:
    wall, cpu = ({name: [turn[i] for turn in turns] for name, turns in rates.items()} for i in (0, 1))
    line = {
        "benchmark": "input_throughput",
        "side": side,
        "samples_per_s_per_core": round(statistics.median(wall[side]), 1),
        "spread": [round(min(wall[side]), 1), round(max(wall[side]), 1)],
        "samples_per_cpu_s": round(statistics.median(cpu[side]), 1),
        "runs": len(wall[side]),
        "samples": "whole images" if options.whole else "persons",
        "data": Path(data).name if options.data else "synthetic 640x480",
        "size_wh": options.size_wh,
        "batch": options.batch,
        "device": f"1 core of {processor()}",
        "versions": packages,
    }
    if side == OURS:
        for rival in [other for other in rates if other != OURS]:
            line["ratio" + RATIOS[rival]] = _ratio(wall[side], wall[rival])
            line["ratio_cpu" + RATIOS[rival]] = _ratio(cpu[side], cpu[rival])
    return line


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


class _Runners:
    """One process a side, pinned to one core; only the one that is asked works."""

    def __init__(self, sides, core: int):
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = {}, []
        for side, (start, arguments) in sides.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, core, start, arguments), daemon=True)
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


def _serve(pipe, core: int, start, arguments) -> None:
    os.sched_setaffinity(0, {core})  # before anything starts threads
    stream = start(*arguments)
    while True:
        try:
            what, *rest = pipe.recv()
        except EOFError:
            return
        pipe.send(ANSWERS[what](stream, *rest))


def _rate(stream, batches: int, batch: int) -> tuple[float, float]:
    """Samples per second by the clock, and per second of processor time (the same on an idle machine)."""
    for _ in range(DRAIN):
        next(stream)
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(stream)
    samples = batches * batch
    return samples / (time.perf_counter() - start), samples / (time.process_time() - start_cpu)


def _memory(stream, samples: int) -> dict:
    """Resident memory before and after some samples: it must not grow with their number."""
    before, seen = _resident_mb(), 0
    while seen < samples:
        seen += len(next(stream)["image"])
    return {"samples": seen, "resident_mb": round(before, 1), "growth_mb": round(_resident_mb() - before, 1)}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


ANSWERS = {"rate": _rate, "memory": _memory, "versions": lambda stream: versions()}


def _ours(data: Path, work: Path, options: Options):
    from jaxpose.data import builder, images, pipeline

    source = builder.prepare(data, data_dir=work / "prepared", split=options.split, progress=False)
    make, augment = (images, "higher_hrnet") if options.whole else (pipeline, "official")
    return make.train_batches(
        source, size_wh=options.size_wh, batch_size=options.batch, augment=augment, prefetch=PREFETCH
    )


def _theirs(data: Path, options: Options):
    from benchmarks.peers import torch_input
    from jaxpose.data import coco

    annotations, images = coco.find(data, options.split)
    pairs = coco.read(annotations, images).skeleton.flip_pairs
    return torch_input.batches(annotations, images, size_wh=options.size_wh, flip_pairs=pairs, batch_size=options.batch)


def _theirs_whole(data: Path, options: Options, targets: bool = True):
    from benchmarks.peers import torch_whole
    from jaxpose.data import coco

    annotations, images = coco.find(data, options.split)
    flip_index = coco.read(annotations, images).skeleton.flip_index
    return torch_whole.batches(
        annotations, images, batch_size=options.batch, size_wh=options.size_wh, flip_index=flip_index, targets=targets
    )


def _synthetic(folder: Path) -> Path:
    from jaxpose.data.synthetic import write_dataset

    write_dataset(folder, train=120, val=8, seed=0, size_wh=(640, 480), progress=False)
    return folder


if __name__ == "__main__":
    main(tyro.cli(Options))
