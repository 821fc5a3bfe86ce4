"""Compiles a training or prediction step for a TPU slice that is not here, and reads the program: cycles, memory, collectives.

    report = compile.for_topology(task, tx, topology="v5e:4x4", batch_size=1024)
    print(report)

The TPU's own compiler is the package libtpu, which runs on any Linux x86-64 machine (``pip install "jaxpose[tpu-compile]"``). It
compiles the same step that `jaxpose.train` runs, from shapes alone: nothing is computed and no data are read.

What the numbers are. Bytes, memory, layouts and collectives are facts of the program. FLOPs are XLA's count. Cycles are the
compiler's own estimate, which stands at every fusion: a cost model and no measurement, made to choose between two forms of a
program, and to be used so. It leaves out collectives and asynchronous copies between memories, and the time that a core waits for its
memory where the model takes the two to overlap. All numbers are per device, which is a chip; a v4 chip counts as two.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies

from jaxpose import parallel, train
from jaxpose.tasks.base import Task

__all__ = [
    "Collective",
    "Memory",
    "Op",
    "Report",
    "example_batch",
    "for_topology",
    "largest_batch",
    "read_program",
    "topology_devices",
]

PyTree = Any
GIB = 2**30
DEPTH = 3
"""Parts of a module's name by which cycles are summed: net / backbone / layer1_0."""


@dataclass(frozen=True)
class Generation:
    """Published facts of a TPU generation, per device of JAX.

    Attributes:
        memory: The bytes of high-bandwidth memory.
        clock_ghz: The clock that the published peak implies (peak / (2 x 128 x 128 x matrix units)); None: not known.
    """

    memory: int
    clock_ghz: float | None


GENERATIONS = {
    "v4": Generation(16 * GIB, 1.05),  # half a chip: the compiler shows the two cores of a chip as devices
    "v5e": Generation(16 * GIB, 1.5),
    "v5p": Generation(95 * GIB, 1.75),
    "v6e": Generation(32 * GIB, None),
}
"""Peaks and memory of Google Cloud's TPU documentation: 275 TFLOP/s and 32 GiB a chip, 197 and 16, 459 and 95, 918 and 32."""


@dataclass(frozen=True)
class Op:
    """One operation of the program, usually a fusion.

    Attributes:
        name: Its name in the program.
        kind: "convolution", "reduction", "window" (max pooling and its gradient), "copy" (a change of layout), "scatter",
            "collective", or "elementwise".
        module: The module of the net, or the function, that it was made from.
        backward: Whether it belongs to the gradient.
        cycles: The compiler's estimate, of all its executions.
        bytes: The bytes of its results.
        padded: The bytes of its results with the padding of their tiles.
        times: The number of its executions in one step.
    """

    name: str
    kind: str
    module: str
    backward: bool
    cycles: int
    bytes: int
    padded: int
    times: int


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind that carry arrays of one origin.

    Attributes:
        kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
        count: The number of their executions in one step.
        bytes: The bytes of their results in one step, on one device.
        overlapped: The number of those that are started and waited for apart, so that other work can lie between.
        largest: The shape of the largest array, such as "f32[2048,512]".
    """

    kind: str
    count: int
    bytes: int
    overlapped: int
    largest: str


@dataclass(frozen=True)
class Memory:
    """Bytes of the program's memory on one device.

    Attributes:
        arguments: The state and the batch.
        temporaries: Activations and other intermediate arrays.
        outputs: The results that do not replace an argument.
        donated: The results that replace an argument.
        program: The code.
        capacity: The memory of the device; None: not known.
    """

    arguments: int
    temporaries: int
    outputs: int
    donated: int
    program: int
    capacity: int | None

    @property
    def total(self) -> int:
        """Bytes that the step needs."""
        return self.arguments + self.temporaries + self.outputs + self.program

    @property
    def fits(self) -> bool:
        """Whether the device has that memory."""
        return self.capacity is None or self.total <= self.capacity


@dataclass(frozen=True)
class Report:
    """A compiled step, in numbers per device.

    Attributes:
        topology: The slice, such as "v5e:4x4".
        devices: The number of its devices.
        batch_size: The global batch size.
        step: "train" or "predict".
        flops: FLOPs, as XLA counts them.
        bytes: Bytes that the operations read and write, as XLA counts them.
        cycles: Cycles, as the compiler estimates them.
        clock_ghz: The clock by which `milliseconds` divides; None: not known.
        memory: The memory.
        collectives: The collectives, by kind.
        largest: The operations with the most cycles.
        by_kind: Cycles by the kind of operation.
        by_module: Cycles by module, forward and backward together.
        copies: The number of operations that only change a layout.
        copied: The bytes that they write.
        padding: Bytes of padding of the tiles per byte of the results.
        float64: The number of arrays in float64, of which there should be none.
        host_calls: The number of calls to the host, of which there should be none.
        compile_s: Seconds of compilation.
    """

    topology: str
    devices: int
    batch_size: int
    step: Literal["train", "predict"]
    flops: float
    bytes: float
    cycles: int
    clock_ghz: float | None
    memory: Memory
    collectives: tuple[Collective, ...]
    largest: tuple[Op, ...]
    by_kind: dict[str, int]
    by_module: dict[str, int]
    copies: int
    copied: int
    padding: float
    float64: int
    host_calls: int
    compile_s: float = field(compare=False)

    @property
    def milliseconds(self) -> float | None:
        """The cycles at the clock of the chip, ms: the compiler's estimate, not a measurement."""
        return None if self.clock_ghz is None else self.cycles / self.clock_ghz / 1e6

    @property
    def images_per_s(self) -> float | None:
        """Images per second of one device by that estimate, without collectives."""
        return None if not self.milliseconds else self.batch_size / self.devices / self.milliseconds * 1e3

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as values that JSON can hold."""
        values = asdict(self) | {"milliseconds": self.milliseconds, "images_per_s": self.images_per_s}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return values | {"memory": values["memory"] | {"total": self.memory.total, "fits": self.memory.fits}}

    def __str__(self) -> str:
        memory, time = self.memory, self.milliseconds
        estimate = (
            "" if time is None else f" = {time:.1f} ms at {self.clock_ghz} GHz, {self.images_per_s:,.0f} images/s"
        )
        capacity = (
            ""
            if memory.capacity is None
            else f" of {memory.capacity / GIB:.0f} GiB: " + ("fits" if memory.fits else "too much")
        )
        lines = [
            f"{self.step} step, {self.batch_size} images on {self.devices} devices of {self.topology}; numbers of one device",
            f"cycles (estimated)  {self.cycles / 1e6:.2f} M{estimate}",
            f"arithmetic          {self.flops / 1e9:,.1f} GFLOP",
            f"bytes accessed      {self.bytes / 1e9:.2f} GB",
            f"memory              {memory.total / GIB:.2f} GiB (temporaries {memory.temporaries / GIB:.2f}){capacity}",
            f"layout copies       {self.copies} of {self.copied / 1e6:,.1f} MB",
            f"padding of tiles    {100 * self.padding:.0f} % of the results",
        ]
        lines += [
            f"{c.kind:<19} {c.count} of {c.bytes / 1e6:,.2f} MB, {c.overlapped} started ahead; largest {c.largest}"
            for c in self.collectives
        ]
        for title, cycles in (("kind", self.by_kind), ("module", self.by_module)):
            lines += ["", f"| {title} | M cycles | % |", "|---|---|---|"]
            lines += [
                f"| {k} | {v / 1e6:.3f} | {100 * v / max(self.cycles, 1):.1f} |" for k, v in list(cycles.items())[:12]
            ]
        lines += ["", "| operation | kind | module | M cycles | MB |", "|---|---|---|---|---|"]
        lines += [
            f"| {o.name} | {o.kind} | {o.module}{' (gradient)' if o.backward else ''} | {o.cycles / 1e6:.3f} | {o.bytes / 1e6:,.1f} |"
            for o in self.largest
        ]
        return "\n".join(lines)


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
    """Compiles a step of a task for a TPU slice that need not be here.

    Args:
        task: The task whose loss or prediction is compiled.
        tx: The optimiser; a prediction needs none.
        topology: Generation and shape of the slice: "v5e:2x2", "v4:2x2x1", "v6e:1x1".
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
        ImportError: libtpu is not installed.
        ValueError: The topology does not exist, the batch cannot be split over it, or a training has no optimiser.
            `DoesNotFit`: the step needs more memory than a device has.

    >>> for_topology(None, None, topology="v5e", batch_size=8)
    Traceback (most recent call last):
    ValueError: topology='v5e': expected a generation and a shape, such as v5e:2x2, v4:2x2x1 or v6e:1x1
    """
    devices = topology_devices(topology)
    mesh = parallel.make_mesh(devices, fsdp=fsdp)
    parallel.check_batch_size(batch_size, mesh)
    shapes = example_batch(task, batch_size) if batch is None else batch
    program, seconds = _compile(task, tx, mesh, shapes, step=step, ema=ema, flip_test=flip_test)
    generation = GENERATIONS.get(topology.partition(":")[0])
    return replace(
        read_program(program.as_text(), operations=operations),
        topology=topology,
        devices=len(devices),
        batch_size=batch_size,
        step=step,
        flops=float(program.cost_analysis()["flops"]),
        bytes=float(program.cost_analysis()["bytes accessed"]),
        clock_ghz=generation and generation.clock_ghz,
        memory=_memory(program, generation),
        compile_s=seconds,
    )


def _compile(
    task: Task,
    tx: optax.GradientTransformation | None,
    mesh: jax.sharding.Mesh,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    *,
    step: Literal["train", "predict"],
    ema: bool,
    flip_test: bool,
) -> tuple[Any, float]:
    """Returns the compiled step and the seconds that this took."""
    rows = parallel.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in shapes.items()}
    start = time.perf_counter()
    if step == "train":
        if tx is None:
            raise ValueError("a training step needs an optimiser: give tx, such as train.optimizer(schedule)")
        state = train.abstract_state(task, tx, mesh=mesh, ema=ema)
        jitted = train.make_train_step(task, tx, mesh=mesh, ema_decay=0.999 if ema else None)
        lowered = jitted.lower(state, batch)
    elif step == "predict":
        whole = parallel.replicated(mesh)
        variables = jax.eval_shape(task.init, jax.eval_shape(lambda: jax.random.key(0)))
        variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), variables)
        lowered = train.make_predict_step(task, mesh=mesh, flip_test=flip_test).lower(variables, batch)
    else:
        raise ValueError(f"step={step!r}: expected train or predict")
    try:
        with _uncached():
            program = lowered.compile()
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


def _memory(program: Any, generation: Generation | None) -> Memory:
    sizes = program.memory_analysis()
    return Memory(
        arguments=sizes.argument_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        donated=sizes.alias_size_in_bytes,
        program=sizes.generated_code_size_in_bytes,
        capacity=generation and generation.memory,
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


def topology_devices(topology: str) -> list[jax.Device]:
    """Returns the devices of a TPU slice for which programs can be compiled, but not run.

    Args:
        topology: Generation and shape: "v5e:4x4". One chip is "v5e:1x1".

    Raises:
        ImportError: libtpu is not installed.
        ValueError: There is no such slice.
    """
    if not re.fullmatch(r"v\d+[a-z]*:\d+(x\d+){1,2}", topology):
        raise ValueError(
            f"topology={topology!r}: expected a generation and a shape, such as v5e:2x2, v4:2x2x1 or v6e:1x1"
        )
    require()
    sides = [int(n) for n in topology.partition(":")[2].split("x")]
    # Hosts of four chips, as most slices have; a slice of fewer is one host.
    host = [min(side, most) for side, most in zip([*sides, 1, 1], (2, 2, 1))]
    with _no_tpu_here():
        try:
            topology_description = topologies.get_topology_desc(
                platform="tpu", topology_name=topology, chips_per_host_bounds=host
            )
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0].partition(": ")[2] or str(error)
            raise ValueError(
                f"topology={topology!r} is no slice that libtpu knows ({reason}): such as v5e:4x4, v4:2x2x1"
            ) from None
    return list(topology_description.devices)


def require() -> None:
    """Raises an ImportError that says what to install if libtpu is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError(
            'the compiler of TPUs, libtpu, is not installed: pip install "jaxpose[tpu-compile]" (Linux x86-64; no TPU is needed)'
        )


@contextmanager
def _no_tpu_here() -> Iterator[None]:
    """Lets libtpu load on a machine without a TPU: no metadata server is asked, and no lock file keeps a second process out.

    On a machine with a TPU nothing is changed, because its runtime needs both.
    """
    if os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0"):
        yield
        return
    # The last two only keep libtpu from printing that it looked for them.
    settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
                "TPU_WORKER_HOSTNAMES": "localhost"}  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: value for name, value in settings.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
    "f64": 8,
}  # fmt: skip
"""Bytes of an element by the name of its type in HLO."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::T\((\d+)(?:,(\d+))?\))?)?")
LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
KINDS = (
    ("convolution", "convolution"), ("select-and-scatter", "window"), ("reduce-window", "window"), ("scatter", "scatter"),
    ("reduce", "reduction"),
)  # fmt: skip


def read_program(hlo: str, *, operations: int = 12) -> Report:
    """Reads an optimised program (HLO text of a TPU executable); what the text does not say is left at 0 for `for_topology`.

    Operations in the body of a loop count once per iteration, if the number of iterations is known.

    Args:
        hlo: The text, `compiled.as_text()`.
        operations: The number of operations in `Report.largest`.

    >>> report = read_program('''
    ... %f (p: f32[8,128]) -> f32[8,128] {
    ...   ROOT %m = f32[8,128]{1,0:T(8,128)} multiply(%p, %p)
    ... }
    ... ENTRY %main (p: f32[8,128]) -> f32[8,128] {
    ...   %a = f32[8,100]{1,0:T(8,128)} fusion(%p), calls=%f, metadata={op_name="jit(s)/jvp(Net)/bn1/mul"}, {"estimated_cycles":"900"}
    ...   ROOT %r = f32[4]{0} all-reduce(%a)
    ... }''')
    >>> report.cycles, report.by_module, report.padding, [(c.kind, c.count, c.bytes) for c in report.collectives]
    (900, {'Net/bn1': 900}, 0.28, [('all-reduce', 1, 16)])
    """
    computations, times = _computations(hlo)
    ops: list[Op] = []
    collectives: dict[str, list[tuple[int, int, bool, str]]] = defaultdict(list)
    for name, lines in computations.items():
        for line in lines:
            if line.opcode.removesuffix("-start") in COLLECTIVES:
                kind = line.opcode.removesuffix("-start")
                size, largest = _results(line.shapes, started=line.opcode.endswith("-start"))
                collectives[kind].append((times[name], size, line.opcode.endswith("-start"), largest))
            if line.cycles is not None or line.opcode in ("copy", "transpose"):
                ops.append(_op(line, computations, times[name]))
    by_kind, by_module = defaultdict(int), defaultdict(int)
    for op in ops:
        by_kind[op.kind] += op.cycles
        by_module["/".join(op.module.split("/")[:DEPTH])] += op.cycles
    copies = [op for op in ops if op.kind == "copy"]
    logical = sum(op.bytes for op in ops)
    return Report(
        topology="", devices=0, batch_size=0, step="train", flops=0.0, bytes=0.0, cycles=sum(op.cycles for op in ops),
        clock_ghz=None, memory=Memory(0, 0, 0, 0, 0, None),
        collectives=tuple(
            Collective(kind, sum(n for n, *_ in each), sum(n * size for n, size, *_ in each),
                       sum(n for n, _, started, _ in each if started), max(each, key=lambda c: c[1])[3])
            for kind, each in sorted(collectives.items())
        ),
        largest=tuple(sorted(ops, key=lambda op: -op.cycles)[:operations]),
        by_kind=_falling(by_kind), by_module=_falling(by_module),
        copies=sum(op.times for op in copies), copied=sum(op.bytes for op in copies),
        padding=round(sum(op.padded for op in ops) / max(logical, 1) - 1, 4),
        float64=len(re.findall(r"\bf64\[", hlo)),
        host_calls=len(re.findall(r"custom_call_target=\"[^\"]*(?:callback|Callback)|\b(?:infeed|outfeed|send|recv)\(", hlo)),
        compile_s=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """One instruction of the text."""

    name: str
    shapes: list[tuple[str, str, str, str, str]]
    opcode: str
    called: list[str]
    op_name: str
    cycles: int | None
    trips: int


def _computations(hlo: str) -> tuple[dict[str, list[_Line]], dict[str, int]]:
    """Returns the instructions by computation, and the executions of each computation in one step."""
    computations: dict[str, list[_Line]] = {}
    lines: list[_Line] = []
    limits: dict[str, int] = {}  # iterations of the loops whose condition is this computation
    constants: dict[str, int] = {}
    name = ""
    for text in hlo.splitlines():
        if text.endswith("{") and (header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", text)):
            name = header[1]
            lines, constants = computations.setdefault(name, []), {}
        elif match := LINE.match(text):
            lines.append(_line(match, limits))
            if match[3] == "constant" and (number := re.match(r"(\d+)\)", match[4])):
                constants[match[1]] = int(number[1])
            # A loop of JAX counts from 0; the compiler's text does not always name the number of its iterations.
            if match[3] == "compare" and "direction=LT" in match[4]:
                limits[name] = next((constants[x] for x in re.findall(r"[\w.\-]+", match[4]) if x in constants), 1)
    callers = {
        called: (name, line.trips) for name, each in computations.items() for line in each for called in line.called
    }

    def executions(name: str) -> int:
        caller, trips = callers.get(name, ("", 1))
        return trips * executions(caller) if caller and caller != name else 1

    return computations, {name: executions(name) for name in computations}


def _line(match: re.Match, limits: Mapping[str, int]) -> _Line:
    """Returns an instruction; `limits` has the iterations of loops by condition, which the text defines before the loop."""
    name, shapes, opcode, rest = match.groups()
    op_name, cycles = re.search(r'op_name="([^"]*)"', rest), re.search(r'"estimated_cycles":"(\d+)"', rest)
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    condition = re.search(r"condition=%?([\w.\-]+)", rest)
    return _Line(
        name,
        SHAPE.findall(shapes),
        opcode,
        re.findall(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", rest),
        op_name[1] if op_name else "",
        int(cycles[1]) if cycles else None,
        int(trips[1]) if trips else limits.get(condition[1], 1) if condition else 1,
    )


def _op(line: _Line, computations: Mapping[str, list[_Line]], times: int) -> Op:
    inside = {called.opcode for name in line.called for called in computations.get(name, ())} | {line.opcode}
    kind = next((kind for opcode, kind in KINDS if opcode in inside), "elementwise")
    if inside <= {"fusion", "copy", "transpose", "bitcast", "parameter", "reshape", "constant", "pad"}:
        kind = "copy"
    size, padded = sum(map(_size, line.shapes)), sum(map(_padded, line.shapes))
    return Op(line.name, kind, module_of(line.op_name), "transpose(" in line.op_name, times * (line.cycles or 0), times * size,
              times * padded, times)  # fmt: skip


def module_of(op_name: str) -> str:
    """Returns the module from the name that JAX gives an operation, without transformations and the primitive.

    >>> module_of("jit(step)/transpose(jvp(PoseRegressor))/backbone/layer1_0/bn1/reduce_sum")
    'PoseRegressor/backbone/layer1_0/bn1'
    >>> module_of("jit(step)/add")
    'step'
    """
    parts = [re.sub(r"^(?:\w+\()*(.*?)\)*$", r"\1", part) for part in op_name.split("/")]
    parts = [
        part for part in parts[1:-1] if part and part not in ("while", "body", "closed_call", "checkpoint", "cond")
    ]
    return "/".join(parts) or "step"


def _size(shape: tuple[str, ...]) -> int:
    dtype, dims = shape[:2]
    return int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64)) * ITEM_BYTES.get(dtype, 4)


def _padded(shape: tuple[str, ...]) -> int:
    """Returns the bytes of an array whose two most minor dimensions are padded to its tile."""
    dtype, dims, order, *tile = shape
    sizes, minor = [int(d) for d in dims.split(",") if d], [int(d) for d in order.split(",") if d]
    tile = [int(t) for t in tile if t]
    for side, axis in zip(reversed(tile), minor):
        sizes[axis] = -(-sizes[axis] // side) * side
    return int(np.prod(sizes, dtype=np.int64)) * ITEM_BYTES.get(dtype, 4)


def _results(shapes: list[tuple[str, ...]], *, started: bool) -> tuple[int, str]:
    """Returns the bytes of a collective's results and its largest array; one that is started names its operands too."""
    results = shapes[len(shapes) // 2 :] if started and len(shapes) > 1 else shapes
    largest = max(results, key=_size)
    return sum(map(_size, results)), f"{largest[0]}[{largest[1]}]"


def _falling(values: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(((k, v) for k, v in values.items() if v), key=lambda item: -item[1]))
