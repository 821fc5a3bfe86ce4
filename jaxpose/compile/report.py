"""The numbers of a compiled step, and how they are printed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jaxpose.compile.chips import GIB


@dataclass(frozen=True)
class Op:
    """One operation of the program, usually a fusion.

    Attributes:
        name: Its name in the program.
        kind: "convolution", "product" (of matrices), "reduction", "window" (max pooling and its gradient), "copy" (a change of
            layout), "scatter", "collective", or "elementwise".
        module: The module of the net, or the function, that it was made from.
        backward: Whether it belongs to the gradient.
        cycles: The compiler's estimate, of all its executions; 0 where it makes none, as for GPUs.
        bytes: The bytes of its results.
        padded: The bytes of its results with the padding of their tiles.
        accessed: The bytes of its operands and results: what it reads and writes at most.
        times: The number of its executions in one step.
    """

    name: str
    kind: str
    module: str
    backward: bool
    cycles: int
    bytes: int
    padded: int
    accessed: int
    times: int


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind that carry arrays of one origin.

    Attributes:
        kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
        count: The number of their executions in one step.
        bytes: The bytes of their results in one step, on one device.
        overlapped: The number of those that are started and waited for apart, so that other work can lie between.
        hidden: The bytes of those with other work between their start and their end, in the order of the program.
        largest: The shape of the largest array, such as "f32[2048,512]".
    """

    kind: str
    count: int
    bytes: int
    overlapped: int
    hidden: int
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
        capacity: The memory of the device that a program can have, of a GPU the three quarters that JAX takes; None: not known.
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
        bytes: Bytes that the operations read and write, as XLA counts them; for GPUs, where it does not, the sum of `Op.accessed`.
        hbm: Bytes that cross to and from the memory of the device, with padding: operands and results that are not in the memory
            of a TPU's core, and copies between the two. `bytes` counts arrays within the core too, and copies twice.
        cycles: Cycles, as the compiler estimates them; 0 for GPUs.
        clock_ghz: The clock by which `milliseconds` divides; None: not known.
        memory: The memory.
        collectives: The collectives, by kind.
        largest: The operations with the most cycles; for GPUs, those with the most bytes.
        by_kind: Cycles by the kind of operation; for GPUs, bytes.
        by_module: Cycles by module, forward and backward together; for GPUs, bytes.
        kernels: The number of executions by the kind of operation: on a GPU, kernels that are launched.
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
    hbm: float
    cycles: int
    clock_ghz: float | None
    memory: Memory
    collectives: tuple[Collective, ...]
    largest: tuple[Op, ...]
    by_kind: dict[str, int]
    by_module: dict[str, int]
    kernels: dict[str, int]
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
        return "\n".join([*self._totals(), *self._tables()])

    def _totals(self) -> list[str]:
        memory, time = self.memory, self.milliseconds
        estimate = (
            "" if time is None else f" = {time:.1f} ms at {self.clock_ghz} GHz, {self.images_per_s:,.0f} images/s"
        )
        capacity = (
            ""
            if memory.capacity is None
            else f" of {memory.capacity / GIB:.0f} GiB: " + ("fits" if memory.fits else "too much")
        )
        cycles = [f"cycles (estimated)  {self.cycles / 1e6:.2f} M{estimate}"] if self.cycles else []
        kernels = ", ".join(f"{count:,} {kind}" for kind, count in self.kernels.items())
        return [
            f"{self.step} step, {self.batch_size} images on {self.devices} devices of {self.topology}; numbers of one device",
            *cycles,
            f"arithmetic          {self.flops / 1e9:,.1f} GFLOP",
            f"bytes accessed      {self.bytes / 1e9:.2f} GB, {self.hbm / 1e9:.2f} GB of them to and from the device's memory",
            f"memory              {memory.total / GIB:.2f} GiB (temporaries {memory.temporaries / GIB:.2f}){capacity}",
            f"operations          {sum(self.kernels.values()):,}: {kernels}",
            f"layout copies       {self.copies} of {self.copied / 1e6:,.1f} MB",
            f"padding of tiles    {100 * self.padding:.0f} % of the results",
            *(
                f"{c.kind:<19} {c.count} of {c.bytes / 1e6:,.2f} MB, {c.overlapped} started ahead, {c.hidden / 1e6:,.2f} MB with "
                f"work between start and end; largest {c.largest}"
                for c in self.collectives
            ),
        ]

    def _tables(self) -> list[str]:
        unit = "M cycles" if self.cycles else "MB"  # what by_kind and by_module sum
        lines = []
        for title, sums in (("kind", self.by_kind), ("module", self.by_module)):
            total = max(sum(sums.values()), 1)
            lines += ["", f"| {title} | {unit} | % |", "|---|---|---|"]
            lines += [f"| {k} | {v / 1e6:.3f} | {100 * v / total:.1f} |" for k, v in list(sums.items())[:12]]
        lines += ["", "| operation | kind | module | M cycles | MB |", "|---|---|---|---|---|"]
        lines += [
            f"| {o.name} | {o.kind} | {o.module}{' (gradient)' if o.backward else ''} | {o.cycles / 1e6:.3f} | "
            f"{o.bytes / 1e6:,.1f} |"
            for o in self.largest
        ]
        return lines
