"""The step of an experiment, compiled for a TPU slice or for GPUs that are not here: cycles, bytes, memory, kernels, collectives.

    pip install "jaxpose[tpu-compile]"                                     # libtpu, Linux x86-64; no TPU is needed
    pip install "jaxpose[gpu-compile]"                                     # JAX's CUDA plugin; no GPU and no CUDA are needed
    python -m benchmarks.tpu_step                                          # ResNet-50 with RLE, 64 images a chip of a v5e:2x2
    python -m benchmarks.tpu_step --page coco_hrnet --preset w32 --topology v5e:4x4 v6e:2x2
    python -m benchmarks.tpu_step --topology h100:1 h100:8                 # GPUs
    python -m benchmarks.tpu_step --step predict --batch 128
    python -m benchmarks.tpu_step --largest                                # the largest batch that fits, by bisection
    python -m benchmarks.tpu_step --flags="--batch-groups 4 --width 32"    # further flags of the page

Nothing is run and no data are read. The net, the loss and the optimiser are those of the page's preset, in bfloat16 unless --dtype
says otherwise. Cycles are the compiler's estimate (`jaxpose.compile`), good for comparing two forms of one program; they are no
measurement. For GPUs there are none: bytes, kernels, layout copies and collectives can be compared, convolutions are cuDNN's, whose
workspace and choice of algorithm only a device decides. The whole step of a ResNet-50 compiles for 13 to 60 minutes on two cores, for
GPUs one; a small net takes seconds (--flags="--depth 18 --width 8"). Prints a JSON line and a table per slice and step.
"""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import jax
import tyro

import experiments
from benchmarks.common import versions
from experiments.common.page import Page
from experiments.common.training import make_optimizer
from jaxpose import compile, skeleton

IMAGES = 118_287
"""Images of an epoch, COCO's; the schedule of the learning rate is a part of the program, its length is not."""


@dataclass(frozen=True)
class Options:
    """What to compile."""

    page: str = "coco_rle"
    """The experiment, a module in experiments/ with the joints of its data set."""
    preset: str = "official"
    """The page's preset."""
    flags: str = ""
    """Further flags of the page, as one string, after an equals sign."""
    topology: tuple[str, ...] = ("v5e:2x2",)
    """Slices: generation and shape; one chip is v5e:1x1. Of GPUs their number, h100:8, or hosts and GPUs of each, h100:4x8."""
    batch: int = 64
    """Images per device; with --largest the first that is tried."""
    step: tuple[Literal["train", "predict"], ...] = ("train",)
    """The steps to compile; an evaluation is its predictions."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute dtype of the net."""
    fsdp: int = 1
    """Devices that share one copy of the optimiser's state."""
    largest: bool = False
    """Find the largest batch that fits into the memory, to --precision images per device: about ten compilations."""
    precision: int = 8
    operations: int = 12
    """Number of operations in the table, those with the most cycles."""
    out: Path | None = None
    """Also append the JSON lines to this file."""


def page_of(name: str) -> Page:
    """Returns the page of an experiment.

    Raises:
        ValueError: There is no such experiment, or it has no presets of one net.
    """
    folder = Path(experiments.__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if "PAGE = " in path.read_text(encoding="utf-8"))
    if name not in names:
        raise ValueError(f"--page {name}: expected one of {', '.join(names)}")
    return importlib.import_module(f"experiments.{name}").PAGE


def joints_of(name: str) -> skeleton.Skeleton:
    """Returns the skeleton of a page's data set, by the beginning of its name; COCO's if it says nothing else."""
    skeletons = {
        "crowdpose": skeleton.CROWDPOSE14,
        "mpii": skeleton.MPII16,
        "h36m": skeleton.H36M17,
        "rhd": skeleton.RHD21,
    }
    return skeletons.get(name.partition("_")[0], skeleton.COCO17)


def compiled_by(
    options: Options, *, topology: str, step: Literal["train", "predict"]
) -> Callable[[int], compile.Report]:
    """Returns the function from a global batch size to the report of the step."""
    page = page_of(options.page)
    words = [*(["--preset", options.preset] if options.preset else []), *shlex.split(options.flags)]
    try:
        config = page.settings([*words, "--dtype", options.dtype])
    except SystemExit as error:
        raise ValueError(
            f"--page {options.page} --preset {options.preset} --flags {options.flags!r}: {error}"
        ) from None
    task, _ = page.make(config, joints_of(options.page))
    tx = make_optimizer(config, IMAGES / config.batch_size)
    return lambda batch_size: compile.for_topology(
        task, tx, topology=topology, batch_size=batch_size, fsdp=options.fsdp, step=step, ema=config.ema is not None,
        flip_test=bool(config.flips()), operations=options.operations,
    )  # fmt: skip


def main(options: Options) -> list[dict]:
    if jax.config.jax_platforms is None:  # nothing is computed: the devices that are here, or their lack, do not matter
        jax.config.update("jax_platforms", "cpu")
    lines = []
    for topology in options.topology:
        devices = len(compile.topology_devices(topology))
        for step in options.step:
            compiled, too_large = compiled_by(options, topology=topology, step=step), None
            if options.largest:
                report, too_large = compile.largest_batch(
                    compiled, devices=devices, start=options.batch, precision=options.precision
                )
            else:
                report = compiled(options.batch * devices)
            settings = {k: v for k, v in asdict(options).items() if k in ("page", "preset", "flags", "dtype", "fsdp")}
            line = {"benchmark": "tpu_step", **settings, **report.to_dict(), "versions": versions()}
            if options.largest:
                line |= {"largest_batch": report.batch_size // devices, "too_large": too_large}
            lines.append(line)
            text = json.dumps(line)
            print(text, flush=True)
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")
            print(f"\n{report}\n", flush=True)
            if options.largest:
                least = "the limit of the search" if too_large is None else f"{too_large} do not fit"
                print(f"largest batch: {report.batch_size // devices} images a device ({least})", flush=True)
    return lines


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
