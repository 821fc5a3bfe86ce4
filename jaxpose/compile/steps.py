"""The steps that are compiled: a training or a prediction step of a task, and the largest batch that fits."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxpose import parallel, train
from jaxpose.compile import chips
from jaxpose.compile.program import read_program
from jaxpose.compile.report import Memory, Report
from jaxpose.tasks.base import Task

PyTree = Any

# No device, no trial of tiles: a product whose default tiles do not fit ends Triton's compilation. cuBLAS's products need no tiles.
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


class DoesNotFit(ValueError):
    """The compiler found that the step needs more memory than a device has."""


def for_topology(
    task: Task,
    tx: optax.GradientTransformation | None,
    *,
    topology: str = "v5e:4x4",
    batch_size: int,
    fsdp: int = 1,
    step: Literal["train", "predict"] = "train",
    batch: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    ema: bool = False,
    flip_test: bool = True,
    operations: int = 12,
) -> Report:
    """Compiles a step of a task for a TPU slice, or for GPUs, that need not be here.

    Args:
        task: The task whose loss or prediction is compiled.
        tx: The optimiser; a prediction needs none.
        topology: Generation and shape of the slice: "v5e:2x2", "v4:2x2x1", "v6e:1x1"; GPUs: "h100:8", or "h100:4x8" of 4 hosts.
        batch_size: The global batch size.
        fsdp: The number of devices that share one copy of the optimiser's state.
        step: The step to compile: "train" or "predict".
        batch: Shapes and dtypes of the global batch, without shardings; None: those of `example_batch`.
        ema: Keep a moving average of the weights.
        flip_test: A prediction averages with that of the mirrored image.
        operations: The number of operations in `Report.largest`.

    Returns:
        The numbers of the program.

    Raises:
        ImportError: The compiler is not installed.
        ValueError: The topology does not exist, the batch cannot be split over it, or a training has no optimiser.
            `DoesNotFit`: the step needs more memory than a device has.

    >>> for_topology(None, None, topology="v5e", batch_size=8)
    Traceback (most recent call last):
    ValueError: topology='v5e': expected a generation and a shape, such as v5e:2x2, v4:2x2x1 or v6e:1x1, or GPUs, h100:1 or h100:8
    """
    devices = chips.topology_devices(topology)
    mesh = parallel.make_mesh(devices, fsdp=fsdp)
    parallel.check_batch_size(batch_size, mesh)
    shapes = example_batch(task, batch_size) if batch is None else batch
    lowered = _lower(task, tx, mesh, shapes, step=step, ema=ema, flip_test=flip_test)
    program, seconds = _compile(lowered, step, GPU_OPTIONS if chips.is_gpu(topology) else {})
    chip, report = chips.chip_of(topology), read_program(program.as_text(), operations=operations)
    cost = program.cost_analysis()
    if cost is None:  # the compiler of GPUs counts nothing
        here = parallel.make_mesh(jax.devices("cpu")[:1])
        counted = _lower(task, tx, here, shapes, step=step, ema=ema, flip_test=flip_test).cost_analysis()
        cost = {"flops": counted["flops"] / len(devices)}
    return replace(
        report,
        topology=topology,
        devices=len(devices),
        batch_size=batch_size,
        step=step,
        flops=float(cost["flops"]),
        bytes=float(cost.get("bytes accessed", report.bytes)),
        clock_ghz=chip and chip.clock_ghz,
        memory=_memory(program, chip),
        compile_s=seconds,
    )


def _lower(
    task: Task,
    tx: optax.GradientTransformation | None,
    mesh: jax.sharding.Mesh,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    *,
    step: Literal["train", "predict"],
    ema: bool,
    flip_test: bool,
) -> jax.stages.Lowered:
    """Returns the step, traced for the devices of a mesh."""
    rows = parallel.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in shapes.items()}
    if step == "train":
        if tx is None:
            raise ValueError("a training step needs an optimiser: give tx, such as train.optimizer(schedule)")
        state = train.abstract_state(task, tx, mesh=mesh, ema=ema)
        jitted = train.make_train_step(task, tx, mesh=mesh, ema_decay=0.999 if ema else None)
        return jitted.lower(state, batch)
    if step == "predict":
        whole = parallel.replicated(mesh)
        variables = jax.eval_shape(task.init, jax.eval_shape(lambda: jax.random.key(0)))
        variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), variables)
        return train.make_predict_step(task, mesh=mesh, flip_test=flip_test).lower(variables, batch)
    raise ValueError(f"step={step!r}: expected train or predict")


def _compile(lowered: jax.stages.Lowered, step: str, options: Mapping[str, Any]) -> tuple[Any, float]:
    """Returns the compiled step and the seconds that this took."""
    start = time.perf_counter()
    try:
        with _uncached():
            program = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w)", str(error))
            what = f"needs {used[1]} of {used[2]}" if used else "needs more memory than a device has"
            raise DoesNotFit(f"the {step} step {what}: lower the batch size, or raise fsdp") from None
        raise
    return program, time.perf_counter() - start


@contextmanager
def _uncached() -> Iterator[None]:
    """Keeps programs out of JAX's cache on disk, from which one for devices that are not here cannot be loaded."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, before)


def _memory(program: Any, chip: chips.Chip | None) -> Memory:
    sizes = program.memory_analysis()
    return Memory(
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        donated=sizes.alias_size_in_bytes,
        program=sizes.generated_code_size_in_bytes,
        capacity=chip and chip.memory,
    )


def example_batch(task: Task, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a training batch of a task that reads images.

    Args:
        task: A task with an image size and a skeleton.
        batch_size: The global batch size.

    Raises:
        ValueError: The task reads something else.

    >>> from jaxpose import tasks
    >>> from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
    >>> from jaxpose.skeleton import COCO17
    >>> net = PoseRegressor(ResNet(depth=18), RegressionHead(17))
    >>> {k: v.shape for k, v in example_batch(tasks.regression(net, skeleton=COCO17, size_wh=(48, 64)), 8).items()}
    {'image': (8, 64, 48, 3), 'joints': (8, 17, 2), 'visibility': (8, 17)}
    """
    if not hasattr(task, "size_wh") or not hasattr(task, "skeleton"):
        raise ValueError(
            f"the shapes of a batch of the family {getattr(task, 'family', task)!r} are not known here: give them, "
            'for_topology(batch={"xy": jax.ShapeDtypeStruct(...)})'
        )
    (width, height), joints = task.size_wh, task.skeleton.num_joints
    shape = jax.ShapeDtypeStruct
    if task.level == "detection":
        return _boxed_batch(task, batch_size)
    batch = {"image": shape((batch_size, height, width, 3), jnp.uint8)}
    if task.level == "person":
        people = (batch_size,)
    else:
        people = (batch_size, PEOPLE)
        batch |= {name: shape(people, jnp.float32) for name in ("extent", "width", "released_extent")}
        batch |= {f"mask_{s}": shape((batch_size, height // s, width // s), jnp.bool_) for s in (4, 2)}
    return batch | {
        "joints": shape((*people, joints, 2), jnp.float32),
        "visibility": shape((*people, joints), jnp.int8),
    }


def _boxed_batch(task: Task, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of whole images with boxes, scaled to the task's largest size and padded as the net needs it."""
    width, height = (side + -side % task.size_multiple for side in task.size_wh)
    people, shape = (batch_size, PEOPLE), jax.ShapeDtypeStruct
    return {
        "image": shape((batch_size, height, width, 3), jnp.uint8),
        "size_hw": shape((batch_size, 2), jnp.int32),
        "boxes": shape((*people, 4), jnp.float32),
        "people": shape(people, jnp.bool_),
        "keypoints": shape((*people, task.skeleton.num_joints, 3), jnp.float32),
        "image_id": shape((batch_size,), jnp.int32),
    }


PEOPLE = 30
"""Persons in an example of a whole image, as the published recipes pad to."""


def largest_batch(
    compiled: Callable[[int], Report], *, devices: int, start: int = 32, precision: int = 8, limit: int = 4096
) -> tuple[Report, int | None]:
    """Finds the largest batch whose step fits into the memory, by doubling and then by bisection.

    Args:
        compiled: Function from a global batch size to its report, which may raise `DoesNotFit`.
        devices: The number of devices.
        start: Images per device to start from.
        precision: Images per device to which the answer is exact.
        limit: Images per device to stop at.

    Returns:
        The report of the largest batch that fits, and the smallest number of images per device that was seen not to fit (None: `limit`
        fits).

    Raises:
        ValueError: Not even `precision` images per device fit.
    """
    low, high, best, each = 0, None, None, start
    while high is None or high - low > precision:
        report = _try(compiled, each * devices)
        if report is None:
            high = each
        else:
            low, best = each, report
        if high is None and low >= limit:
            break
        if high is not None and high <= precision and not low:
            raise ValueError(f"not even {high} images a device fit into its memory: raise fsdp, or use a smaller net")
        each = min(2 * low, limit) if high is None else max((low + high) // 2 // precision * precision, low + precision)
        if high is not None and each >= high:
            each = precision if not low else high
            if low:
                break
    return best, high


def _try(compiled: Callable[[int], Report], batch_size: int) -> Report | None:
    try:
        report = compiled(batch_size)
    except DoesNotFit:
        return None
    return report if report.memory.fits else None
