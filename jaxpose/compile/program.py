"""Reads a compiled program, the text that XLA prints for it: operations, collectives, layouts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxpose.compile.report import Collective, Memory, Op, Report

DEPTH = 3
"""Parts of a module's name by which cycles are summed: net / backbone / layer1_0."""
ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8,
    "f64": 8,
}  # fmt: skip
"""Bytes of an element by the name of its type in HLO."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::T\((\d+)(?:,(\d+))?\))?[^}]*?(S\(\d+\))?\})?")
"""Type, sides, order of the dimensions, tile, and the memory space; S(1) is the memory within a TPU's core."""
LINE = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
KINDS = (
    ("convolution", "convolution"), ("dot", "product"), ("select-and-scatter", "window"), ("reduce-window", "window"),
    ("scatter", "scatter"), ("reduce", "reduction"),
)  # fmt: skip
LIBRARIES = (("conv", "convolution"), ("cublas", "product"), ("gemm", "product"))
"""Kinds by a part of the name of a library's function, such as __cudnn$convForward."""
CALLS = ("while", "conditional", "call", "async-start")
NO_WORK = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id",
           "opt-barrier")  # fmt: skip


def read_program(hlo: str, *, operations: int = 12) -> Report:
    """Reads an optimised program (HLO text of an executable); what the text does not say is left at 0 for `for_topology`.

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
    executed = [(line, times[name]) for name, lines in computations.items() if times[name] for line in lines]
    estimates = any(line.cycles is not None for line, _ in executed)
    results = {line.name: line.shapes for line, _ in executed}
    # A TPU's program has estimates at what computes, and copies; other lines move data on the side, or compute nothing.
    ops = [_op(line, computations, results, n) for line, n in executed
           if (line.cycles is not None or line.opcode in ("copy", "transpose") if estimates else _is_kernel(line))]  # fmt: skip
    by_kind, by_module, kernels = defaultdict(int), defaultdict(int), defaultdict(int)
    for op in ops:
        weight = op.cycles if estimates else op.accessed
        by_kind[op.kind] += weight
        by_module["/".join(op.module.split("/")[:DEPTH])] += weight
        kernels[op.kind] += op.times
    copies = [op for op in ops if op.kind == "copy"]
    logical = sum(op.bytes for op in ops)
    return Report(
        topology="", devices=0, batch_size=0, step="train", flops=0.0, bytes=float(sum(op.accessed for op in ops)),
        hbm=float(sum(n * _traffic(line, results) for line, n in executed)),
        cycles=sum(op.cycles for op in ops), clock_ghz=None, memory=Memory(0, 0, 0, 0, 0, None),
        collectives=_collectives(computations, times),
        largest=tuple(sorted(ops, key=lambda op: (-op.cycles, -op.accessed))[:operations]),
        by_kind=_falling(by_kind), by_module=_falling(by_module), kernels=_falling(kernels),
        copies=sum(op.times for op in copies), copied=sum(op.bytes for op in copies),
        padding=round(sum(op.padded for op in ops) / max(logical, 1) - 1, 4),
        float64=len(re.findall(r"\bf64\[", hlo)),
        host_calls=len(re.findall(r"custom_call_target=\"[^\"]*(?:callback|Callback)|\b(?:infeed|outfeed|send|recv)\(", hlo)),
        compile_s=0.0,
    )  # fmt: skip


def _collectives(computations: Mapping[str, list[_Line]], times: Mapping[str, int]) -> tuple[Collective, ...]:
    """Returns the collectives by kind; lines of a program that is scheduled stand in the order of their execution."""
    by_kind: dict[str, list[tuple[int, int, bool, bool, str]]] = defaultdict(list)
    for name, lines in computations.items():
        for at, line in enumerate(lines):
            kind = line.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                started = line.opcode.endswith("-start")
                size, largest = _results(line.shapes, started=started)
                end = next((i for i in range(at, len(lines)) if started and line.name in lines[i].operands), at)
                hidden = any(_is_kernel(other) and not other.opcode.endswith("-start") for other in lines[at + 1 : end])
                by_kind[kind].append((max(times[name], 1), size, started, hidden, largest))
    return tuple(
        Collective(
            kind,
            count=sum(n for n, *_ in each),
            bytes=sum(n * size for n, size, *_ in each),
            overlapped=sum(n for n, _, started, *_ in each if started),
            hidden=sum(n * size for n, size, _, hidden, _ in each if hidden),
            largest=max(each, key=lambda one: one[1])[-1],
        )
        for kind, each in sorted(by_kind.items())
    )


@dataclass(frozen=True)
class _Line:
    """One instruction of the text."""

    name: str
    shapes: list[tuple[str, ...]]
    opcode: str
    called: list[str]
    operands: list[str]
    target: str
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
    return computations, _executions(computations)


def _executions(computations: Mapping[str, list[_Line]]) -> dict[str, int]:
    """Returns how often each computation runs in one step; 0 for the bodies of fusions and reductions, which are no operations."""
    callers = {called: (name, line) for name, each in computations.items() for line in each for called in line.called}

    def executions(name: str) -> int:
        caller, line = callers.get(name, ("", None))
        if line is None or caller == name:
            return 1
        return line.trips * executions(caller) if line.opcode in CALLS else 0

    return {name: executions(name) for name in computations}


def _line(match: re.Match, limits: Mapping[str, int]) -> _Line:
    """Returns an instruction; `limits` has the iterations of loops by condition, which the text defines before the loop."""
    name, shapes, opcode, rest = match.groups()
    op_name, cycles = re.search(r'op_name="([^"]*)"', rest), re.search(r'"estimated_cycles":"(\d+)"', rest)
    target = re.search(r'custom_call_target="([^"]*)"', rest)
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    condition = re.search(r"condition=%?([\w.\-]+)", rest)
    return _Line(
        name,
        SHAPE.findall(shapes),
        opcode,
        re.findall(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", rest)
        + [
            name.strip(" %")
            for group in re.findall(r"branch_computations=\{([^}]*)\}", rest)
            for name in group.split(",")
        ],
        re.findall(r"%([\w.\-]+)", rest.partition(")")[0]),
        target[1] if target else "",
        op_name[1] if op_name else "",
        int(cycles[1]) if cycles else None,
        int(trips[1]) if trips else limits.get(condition[1], 1) if condition else 1,
    )


def _traffic(line: _Line, results: Mapping[str, list[tuple[str, ...]]]) -> int:
    """Returns the bytes that an instruction moves to and from the memory of the device, outside of its core, with padding."""
    if not _is_kernel(line):
        return 0
    if line.opcode.endswith("-start"):  # between the two memories, or within one
        arrays = [shape for shape in line.shapes if shape[1]]
        return min(map(_padded, arrays), default=0) * (1 if any(map(_is_inside, arrays)) else 2)
    operands = [shape for name in line.operands for shape in results.get(name, ())]
    return sum(_padded(shape) for shape in [*line.shapes, *operands] if not _is_inside(shape))


def _is_inside(shape: tuple[str, ...]) -> bool:
    return shape[5] == "S(1)"


def _is_kernel(line: _Line) -> bool:
    """Tells whether an instruction computes or moves something, so that it is no renaming and no wait."""
    return line.opcode not in NO_WORK and line.opcode not in CALLS and not line.opcode.endswith("-done")


def _op(
    line: _Line, computations: Mapping[str, list[_Line]], results: Mapping[str, list[tuple[str, ...]]], times: int
) -> Op:
    inside = {called.opcode for name in line.called for called in computations.get(name, ())} | {line.opcode}
    kind = next((kind for opcode, kind in KINDS if opcode in inside), "elementwise")
    if line.target:
        kind = next((kind for part, kind in LIBRARIES if part in line.target), kind)
    elif line.opcode.removesuffix("-start") in COLLECTIVES:
        kind = "collective"
    elif inside <= {"fusion", "copy", "transpose", "bitcast", "parameter", "reshape", "constant", "pad"}:
        kind = "copy"
    size, padded = sum(map(_size, line.shapes)), sum(map(_padded, line.shapes))
    accessed = size + sum(_size(shape) for name in line.operands for shape in results.get(name, ()))
    return Op(line.name, kind, module_of(line.op_name), "transpose(" in line.op_name, times * (line.cycles or 0), times * size,
              times * padded, times * accessed, times)  # fmt: skip


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
    dtype, dims, order, *tile = shape[:5]
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
