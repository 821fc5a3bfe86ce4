"""A model of data parallelism: the time of a training step on 1 to 1,024 chips, predicted from the compiled program.

    python -m benchmarks.scaling_model --batch 32 128                          # ResNet-50, bfloat16, TPU v5e and H100
    python -m benchmarks.scaling_model --net hrnet --chip v4 v5p a100 --global-batch 4096            # strong scaling
    python -m benchmarks.scaling_model --batch 64 --chip v5e --compiled FILE   # of benchmarks.tpu_step --out FILE
    python -m benchmarks.scaling_model --local-statistics                      # BatchNorm sees each chip's own rows
    python -m benchmarks.scaling_model --check                                 # predictions against this machine

Nothing is run: the step is compiled for 2, 4 and 8 forced host devices, and its FLOPs, collectives and memory traffic are counted
(`benchmarks.step_program`).

The prediction is a roofline, max(FLOPs / peak, bytes / bandwidth) at an attainable share of the vendor's peaks, and for every
collective 2 (n-1)/n bytes / bandwidth (inside a node or slice, then between them) and a latency. Each BatchNorm layer waits for
two small all-reduces, one forward and one backward, on which all later layers depend: at least a hundred latencies per step,
which no overlap hides. The all-reduce of the gradients can overlap with the backward pass. Both limits are printed, without
overlap and with full overlap. The model ignores stragglers, a busy network, a slow input pipeline and insufficient memory, and
that another backend may merge collectives that this one does not: HRNet-W32 has 478 all-reduces here, although its branches are
independent. `chain` is the number of collectives that depend on one another. `flops_over_analytic` is slightly below 1, because
the gradient with respect to the image is not needed, and XLA omits the taps that fall on padding.

Prints a JSON line for the program, one per row, and a table. A model is not a measurement: `--check` prints predicted / measured.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from benchmarks import scaling_check
from benchmarks.common import versions
from benchmarks.step_program import HOST_DEVICES, StepOptions, Work, force_host_devices, short, totals, work_of
from jaxpose import files


@dataclass(frozen=True)
class Chip:
    """Peaks of one chip: FLOP/s of products in bfloat16 and in float32, bytes/s, chips that the inner network joins.

    `float32` is what JAX's products of float32 run at by default: TF32 on a GPU, one pass of bfloat16 on a TPU. Bandwidths of
    networks are those of sending, all links of a chip together. `torus`: dimensions of a TPU slice, 0 for a switch; `wraps`: chips from
    which an axis of it is a ring, with two links a chip, and not a line, which is worth one.

    Latencies (s) are assumptions of the right order, not the vendors' figures: `start` of any collective, `hop` and
    `outer_hop` from chip to chip. `--latency` scales them all.
    """

    bfloat16: float
    float32: float
    memory: float
    inner: float
    outer: float
    inner_chips: int
    host_chips: int
    torus: int
    start: float
    hop: float
    outer_hop: float
    wraps: int = 0


TPU = {"start": 2e-6, "hop": 1e-6, "outer_hop": 25e-6}
GPU = {"start": 7e-6, "hop": 1e-6, "outer_hop": 5e-6, "inner_chips": 8, "host_chips": 8, "torus": 0}
# TPU: the specification tables of Google Cloud's TPU documentation (peak compute, HBM bandwidth, half of the bidirectional
# interconnect bandwidth, largest slice, data-centre network a chip). A slice of v4 holds more chips than we ask for.
# GPU, the SXM modules of 80 GB (A100, H100) and 141 GB: NVIDIA's data sheets, dense (half of the figure "with sparsity"); half of
# NVLink's bidirectional bandwidth; the network of a DGX A100 (200 Gbit/s a GPU) and DGX H100 / H200 (400 Gbit/s).
CHIPS = {
    "v4": Chip(275e12, 275e12, 1228e9, 300e9, math.nan, 4096, 4, 3, **TPU, wraps=4),
    "v5e": Chip(197e12, 197e12, 819e9, 200e9, 3.125e9, 256, 8, 2, **TPU, wraps=16),
    "v5p": Chip(459e12, 459e12, 2765e9, 600e9, 6.25e9, 6144, 4, 3, **TPU, wraps=4),
    "v6e": Chip(918e12, 918e12, 1638e9, 400e9, 12.5e9, 256, 8, 2, **TPU, wraps=16),
    "a100": Chip(312e12, 156e12, 2039e9, 300e9, 25e9, **GPU),
    "h100": Chip(989e12, 494e12, 3350e9, 450e9, 50e9, **GPU),
    "h200": Chip(989e12, 494e12, 4800e9, 450e9, 50e9, **GPU),
}


@dataclass(frozen=True)
class Options(StepOptions):
    """Settings of the prediction."""

    global_batch: int | None = None
    """Strong scaling: images of all chips together, instead of --batch."""
    chip: tuple[Literal["v4", "v5e", "v5p", "v6e", "a100", "h100", "h200"], ...] = ("v5e", "h100")
    chips: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    attainable: float = 0.5
    """Share of the peak FLOP/s and of the memory bandwidth that a step reaches. Not measured, for lack of an accelerator."""
    attainable_link: float = 0.7
    """Share of the networks' bandwidth that an all-reduce reaches. Not measured."""
    latency: float = 1.0
    """Factor on the latencies of `Chip`, which are assumptions."""
    samples_per_core: float = 477.0
    """Speed of the input pipeline, for the cores per host: benchmarks/RESULTS.md, 2026-11-24, `input_throughput` with coco_mini."""
    compiled: Path | None = None
    """JSON lines of `benchmarks.tpu_step --out FILE` for the same net: where they have a chip with as many images, its compute
    and the bytes and the number of its all-reduces are those of the TPU's compiler instead of the roofline's and the CPU's."""
    check: bool = False
    """Compare with measurements on this machine instead: `python -m benchmarks.scaling_check`."""


def axes(n: int, dimensions: int) -> list[int]:
    """Returns the sides of the torus of n chips: as equal as powers of two allow.

    >>> axes(256, 2), axes(32, 3)
    ([16, 16], [4, 4, 2])
    """
    doublings = round(math.log2(n))
    return [2 ** (doublings // dimensions + (i < doublings % dimensions)) for i in range(dimensions)]


def all_reduce_s(size: float, n: int, chip: Chip, *, share: float = 1.0, latency: float = 1.0) -> float:
    """Returns the seconds of an all-reduce of `size` bytes over n chips, a power of two: rings in a node or slice, then between.

    Bytes: 2 (k-1)/k of `size` over k chips inside, and 2 (m-1)/m of size / k between m nodes. Latency: once around
    every axis of a torus; up and down a tree behind a switch and between nodes.

    >>> chip = Chip(1, 1, 1, inner=1e9, outer=1e8, inner_chips=4, host_chips=4, torus=0, start=0, hop=0, outer_hop=0)
    >>> all_reduce_s(1e9, 1, chip), all_reduce_s(1e9, 4, chip), all_reduce_s(1e9, 8, chip)
    (0.0, 1.5, 4.0)
    """
    if n == 1:
        return 0.0
    inside = min(n, chip.inner_chips)
    between = n // inside
    links, steps = 1.0, 2 * round(math.log2(inside))
    if chip.torus:
        sides = axes(inside, chip.torus)
        links = sum((2 if a >= chip.wraps else 1) for a in sides if a > 1) / (2 * chip.torus)
        steps = sum(2 * (a // 2) for a in sides)
    time = 2 * (inside - 1) / inside * size / (chip.inner * links * share)
    wait = chip.start + steps * chip.hop
    if between > 1:
        time += 2 * (between - 1) / between * size / inside / (chip.outer * share)
        wait += 2 * round(math.log2(between)) * chip.outer_hop
    return time + latency * wait


def predict(work: Work, chip: Chip, n: int, batch: float, options, *, compiled: dict | None = None) -> dict:
    """Returns the seconds of the parts of a step on n chips with `batch` images each.

    Args:
        compiled: the line of `benchmarks.tpu_step` for this chip and batch, if there is one.
    """
    share = options.attainable
    flops_s = work.step_flops(batch) / (getattr(chip, options.dtype) * share)
    bytes_s = work.step_bytes(batch) / (chip.memory * share)
    compute, bound = max(flops_s, bytes_s), "FLOPs" if flops_s > bytes_s else "memory"
    if compiled is not None:
        compute, bound = compiled["milliseconds"] / 1e3, "compiler"
    waited = hidden = 0.0
    for c in work.collectives:
        time = c.times * all_reduce_s(c.size, n, chip, share=options.attainable_link, latency=options.latency)
        waited, hidden = (waited + time, hidden) if c.waited_for else (waited, hidden + time)
    if compiled is not None and n > 1:  # gradients in bfloat16, and small messages merged, where the compiler does so
        gradients = sum(c.size * c.times for c in work.collectives if not c.waited_for)
        statistics = sum(c.size * c.times for c in work.collectives if c.waited_for)
        sent = sum(c["bytes"] for c in compiled["collectives"]) - statistics
        hidden *= min(max(sent / max(gradients, 1), 0.0), 1.0)
        waited *= sum(c["count"] for c in compiled["collectives"]) / sum(c.times for c in work.collectives)
    # The backward pass is two thirds of the work.
    return {"bound": bound, "compute_s": compute, "statistics_s": waited,
            "gradients_s": hidden, "step_s": compute + waited + hidden,
            "step_overlap_s": compute / 3 + waited + max(2 * compute / 3, hidden)}  # fmt: skip


def compiled_lines(path: Path | None) -> dict[tuple[str, int], dict]:
    """Returns the training steps in a file of `benchmarks.tpu_step` by chip and images per chip; a later line replaces an earlier one.

    Raises:
        ValueError: The file has none with an estimate of its time.
    """
    lines = [] if path is None else list(files.read_json_lines(path))
    steps = {}
    for line in lines:
        if line.get("step") == "train" and line.get("milliseconds"):
            name, _, shape = line["topology"].partition(":")
            # Not its devices: the compiler shows the two cores of a v4 chip as two.
            chips = math.prod(map(int, shape.split("x")))
            steps[name, line["batch_size"] // chips] = line
    if path is not None and not steps:
        raise ValueError(
            f"--compiled {path} has no training step: write it with python -m benchmarks.tpu_step --out {path}"
        )
    return steps


def rows_of(work: Work, options) -> list[dict]:
    """Returns a row per chip, batch size and number of chips."""
    rows, steps = [], compiled_lines(options.compiled)
    for name in options.chip:
        chip = CHIPS[name]
        for batch in options.batch if options.global_batch is None else (None,):
            alone = None
            for n in options.chips:
                each = batch or options.global_batch / n
                if each < 1 or each != int(each):
                    continue
                parts = predict(work, chip, n, each, options, compiled=steps.get((name, int(each))))
                if alone is None:
                    one = batch or options.global_batch
                    alone = predict(work, chip, 1, one, options, compiled=steps.get((name, int(one))))["step_s"]
                ideal = alone if batch else alone / n
                fed = each / parts["step_overlap_s"] * min(n, chip.host_chips)
                rows.append({"chip": name, "chips": n, "batch_per_chip": int(each), "global_batch": int(each * n),
                    "bound": parts["bound"], **{k[:-2] + "_ms": short(1e3 * v) for k, v in parts.items() if k != "bound"},
                    "images_per_s": short(each * n / parts["step_s"]),
                    "images_per_s_overlap": short(each * n / parts["step_overlap_s"]),
                    "efficiency": short(ideal / parts["step_s"]), "efficiency_overlap": short(ideal / parts["step_overlap_s"]),
                    "samples_per_s_per_host": short(fed), "cores_per_host": math.ceil(fed / options.samples_per_core)})  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    """Returns a Markdown table; times in ms, efficiencies in %, "a / b": without overlap and with full overlap."""
    heads = ("chip", "chips", "batch a chip", "compute", "statistics", "gradients", "step", "images/s", "efficiency",
             "samples/s a host", "cores")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in rows:
        lines.append(f"| {r['chip']} | {r['chips']} | {r['batch_per_chip']} | {r['compute_ms']:.3g} ({r['bound']}) | "
            f"{r['statistics_ms']:.3g} | {r['gradients_ms']:.3g} | {r['step_ms']:.3g} / {r['step_overlap_ms']:.3g} | "
            f"{r['images_per_s']:,.0f} / {r['images_per_s_overlap']:,.0f} | {100 * r['efficiency']:.0f} / "
            f"{100 * r['efficiency_overlap']:.0f} % | {r['samples_per_s_per_host']:,.0f} | {r['cores_per_host']} |")  # fmt: skip
    return "\n".join(lines)


def check(options: Options) -> None:
    """Raises an error for options that cannot be predicted."""
    if min(options.devices) < 2 or max(options.devices) > HOST_DEVICES:
        raise ValueError(f"devices={options.devices}: expected 2 to {HOST_DEVICES}")
    if odd := [n for n in options.chips if n < 1 or n & (n - 1)]:
        raise ValueError(f"chips={odd}: expected powers of two")
    for name in options.chip:
        if max(options.chips) > (largest := CHIPS[name].inner_chips) and math.isnan(CHIPS[name].outer):
            raise ValueError(f"chips={max(options.chips)}: a slice of {name} has up to {largest}")
    for name in ("batch", "global_batch", "attainable", "attainable_link", "samples_per_core"):
        value = getattr(options, name)
        if value is not None and np.min(value) <= 0:
            raise ValueError(f"{name}={value}: expected more than 0")
    compiled_lines(options.compiled)  # an unreadable file is said now, not after a minute of compiling


def main(options: Options) -> list[dict]:
    if options.check:
        return scaling_check.main(options)
    check(options)
    force_host_devices()
    work = work_of(options)
    settings = {
        k: v for k, v in asdict(options).items() if k not in ("check", "chip", "chips", "batch", "devices", "compiled")
    }
    program = {"benchmark": "scaling_model", "part": "program", **settings, "params": work.params, "chain": work.chain,
               "gflops_per_image": short(work.flops / 1e9), "mb_per_image": short(work.bytes / 1e6),
               "mb_per_step": short(work.bytes_of_step / 1e6), **totals(work.collectives), **work.notes,
               "versions": versions()}  # fmt: skip
    rows = [{"benchmark": "scaling_model", "part": "prediction", **row} for row in rows_of(work, options)]
    for line in (program, *rows):
        print(json.dumps(line))
    print("\n" + table(rows))
    return [program, *rows]


if __name__ == "__main__":
    main(tyro.cli(Options))
