"""Reads the work of one training step off its program: FLOPs, memory traffic, and every collective. Nothing is run.

The step is compiled for 2, 4 and 8 forced host devices. The program gives the FLOPs and every collective, with its bytes, the
number of its executions and its content: gradients, or BatchNorm's statistics and their gradients. Memory traffic is counted from
the trace (`traffic`), because XLA's own count is that of the CPU's fusions, several times what an accelerator moves.

`benchmarks.scaling_model` predicts with it, `benchmarks.scaling_check` compares the prediction with this machine.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp

from benchmarks.step_throughput import task_of
from jaxpose import parallel, summary, train
from jaxpose.compile import ITEM_BYTES

HOST_DEVICES = 8


@dataclass(frozen=True)
class StepOptions:
    """The step to analyse."""

    net: Literal["resnet", "hrnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    """Depth of the ResNet."""
    width: int | None = None
    """Channels of the first layer, or of HRNet's first branch; None: as published, 64 and 32."""
    size_wh: tuple[int, int] = (192, 256)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch: tuple[int, ...] = (32,)
    """Images per chip."""
    local_statistics: bool = False
    """BatchNorm over the rows of each chip (`batch_groups` = chips), as in the PyTorch references."""
    devices: tuple[int, ...] = (2, 4, 8)
    """Numbers of devices to compile for; their collectives must be the same."""


@dataclass(frozen=True)
class Collective:
    """One collective of the program: the bytes of its result by role, and the number of its executions per step.

    Roles: "gradient", "statistics", "statistics' gradient" (from which BatchNorm's own parameters get theirs), "other".
    """

    kind: str
    bytes: dict[str, int]
    times: int = 1
    waited_for: bool = False
    """Whether the next layer needs its result."""
    buffers: int = 1
    """Number of arrays in it: one message on a GPU or TPU, but on CPUs gloo sends one per array."""

    @property
    def size(self) -> int:
        return sum(self.bytes.values())


COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")


def collectives(hlo: str, norms: set[str]) -> tuple[list[Collective], int]:
    """Returns the collectives of an optimised program (HLO text), and the length of the longest chain of dependent ones.

    A collective in the body of a loop counts once per iteration, by the loop's known trip count.

    Args:
        norms: names of the BatchNorm layers, such as "bn1".

    >>> located, chain = collectives('''
    ... ENTRY %main (p: f32[4]) -> f32[4] {
    ...   %p = f32[4]{0} parameter(0)
    ...   %a = (f32[1,4]{1,0}, f32[1,4]{1,0}) all-reduce(%p, %p), metadata={op_name="jit(step)/jvp(Net)/bn1/reduce_sum"}
    ...   %g = f32[4]{0} get-tuple-element(%a), index=0
    ...   ROOT %b = f32[4]{0} all-reduce(%g), metadata={op_name="jit(step)/transpose(jvp(Net))/conv1/dot_general"}
    ... }''', {"bn1"})
    >>> [c.bytes for c in located], chain
    ([{'statistics': 32}, {'gradient': 16}], 2)
    """
    callers: dict[str, tuple[str, int]] = {}  # computation -> (who calls it, how often a call)
    chains: dict[str, int] = {}
    located: list[tuple[str, Collective]] = []
    name, depth = "", {}
    for line in hlo.splitlines():
        if line.endswith("{") and (header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", line)):
            name, depth = header[1], {}
            chains[name] = 0
            continue
        if not (match := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line)):
            continue
        text, metadata, own = match[2].partition(", metadata={")[0], re.search(r'op_name="([^"]*)"', line), 0
        trips = int(trip[1]) if (trip := re.search(r'"known_trip_count":\{"n":"(\d+)"', line)) else 1
        branches = re.findall(r"branch_computations=\{([^}]*)\}", text)  # as if each were taken
        called_by = re.findall(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", text)
        for called in called_by + re.findall(r"[\w.\-]+", " ".join(branches)):
            if " while(" in text and not trip and chains.get(called):
                raise RuntimeError(f"the loop {match[1]} has collectives and an unknown number of iterations")
            callers[called] = (name, trips)
            own = max(own, trips * chains.get(called, 0))  # in HLO text the callee comes first
        if is_one := COLLECTIVE.search(text):
            shapes = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", text[: is_one.start()])
            if is_one[1] == "all-gather" and is_one[2]:
                shapes = shapes[len(shapes) // 2 :]  # operands, then results
            roles = by_role(shapes, metadata[1] if metadata else "", norms)
            waited_for = any("statistics" in role for role in roles)
            located.append((name, Collective(is_one[1], roles, waited_for=waited_for, buffers=len(shapes))))
            own += 1
        depth[match[1]] = own + max((depth.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", text)), default=0)
        chains[name] = max(chains[name], depth[match[1]])

    def times(computation: str) -> int:
        caller, trips = callers.get(computation, ("", 1))
        return trips * times(caller) if caller else 1

    return [replace(c, times=times(where)) for where, c in located], chains[name]


def by_role(shapes: list[tuple[str, str]], op_name: str, norms: set[str]) -> dict[str, int]:
    """Returns the bytes of a collective's results by role. XLA names a merged one "prefix(a:b:c)", with a name per result."""
    merged = re.match(r"(.*?/)\((.*:.*)\)$", op_name)
    names = [merged[1] + part for part in merged[2].split(":")] if merged else [op_name]
    if len(names) != len(shapes):
        names = [names[0]] * len(shapes)
    sizes: dict[str, int] = {}
    for (kind, shape), path in zip(shapes, names, strict=True):
        backward = "transpose(" in path
        if norms & set(path.split("/")[:-1]):
            role = "statistics' gradient" if backward else "statistics"
        else:
            role = "gradient" if backward else "other"
        sizes[role] = sizes.get(role, 0) + ITEM_BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
    return sizes


@dataclass(frozen=True)
class Work:
    """One step of one chip, as functions of its batch size: FLOPs per image, bytes per image and per step, collectives."""

    params: int
    flops: float
    bytes: float
    bytes_of_step: float
    collectives: list[Collective]
    chain: int = 0
    notes: dict = field(default_factory=dict)

    def step_flops(self, batch: float) -> float:
        return self.flops * batch

    def step_bytes(self, batch: float) -> float:
        return self.bytes * batch + self.bytes_of_step


def shapes_of(task, options, batch: int):
    """Returns (optimiser, state, batch) of a step, as shapes."""
    tx = train.optimizer(train.multi_step(1e-3, boundaries=[]))
    mesh = parallel.make_mesh(jax.devices("cpu")[:1])
    state = jax.eval_shape(lambda key: train.init_state(task, tx, key, mesh=mesh), jax.random.key(0))
    width, height = options.size_wh
    shape = jax.ShapeDtypeStruct
    rows = {"image": shape((batch, height, width, 3), jnp.uint8), "joints": shape((batch, 17, 2), jnp.float32),
            "visibility": shape((batch, 17), jnp.int8)}  # fmt: skip
    return tx, state, rows


def compiled(options, batch: int, devices: int):
    """Returns the training step compiled for `devices` host devices with `batch` images each."""
    _, task = task_of(options, batch_groups=devices if options.local_statistics else 1)
    mesh = parallel.make_mesh(jax.devices("cpu")[:devices])
    tx, state, rows = shapes_of(task, options, batch * devices)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return train.make_train_step(task, tx, mesh=mesh).lower(state, rows).compile()


def norm_layers(options) -> set[str]:
    """Returns the names of the modules that hold running statistics."""
    _, task = task_of(options)
    stats = jax.eval_shape(task.init, jax.random.key(0))["batch_stats"]
    return {str(path[-2].key) for path, _ in jax.tree_util.tree_flatten_with_path(stats)[0]}


def traffic(options, batch: int) -> float:
    """Returns the bytes that one device moves in a step, if every elementwise operation is fused into its neighbour.

    A convolution or matrix product, forward or in the gradient, reads its operands and writes its result once: this is counted
    in the trace. BatchNorm cannot be fused away, because its sums need the whole map: forward it reads the map for the
    sums, reads it again and writes it normalised; backward it reads map and gradient for the sums, reads both again and
    writes the gradient: 8 passes. Adam reads gradient, parameter and two moments, and writes three: 28 bytes per
    parameter. Residual sums, pooling and the image are left out.
    """
    _, task = task_of(options)
    tx, state, rows = shapes_of(task, options, batch)
    step = train.make_train_step(task, tx, mesh=parallel.make_mesh(jax.devices("cpu")[:1]))
    products = sum(
        sum(v.aval.size * v.aval.dtype.itemsize for v in (*equation.invars, *equation.outvars))
        for equation in equations(jax.make_jaxpr(step)(state, rows).jaxpr)
        if equation.primitive.name in ("conv_general_dilated", "dot_general")
    )
    forward = jax.make_jaxpr(lambda v, b: task.loss(v, b, key=jax.random.key(0))[0])(state.variables, rows)
    # BatchNorm sums maps (groups, B / groups, h, w, C) twice, nothing else sums five axes.
    normed = sum(e.invars[0].aval.size for e in equations(forward.jaxpr)
                 if e.primitive.name == "reduce_sum" and e.invars[0].aval.ndim == 5) / 2  # fmt: skip
    passes = 8 * normed * jnp.dtype(options.dtype).itemsize
    return products + passes + 28 * train.count_parameters(state.variables["params"])


def traffic_of(options) -> tuple[float, float]:
    """Returns (bytes per image, bytes per step) of `traffic`."""
    two, four = traffic(options, 2), traffic(options, 4)
    return (four - two) / 2, 2 * two - four


def equations(jaxpr):
    """Yields the equations of a trace and of its inner traces; those of a loop's body once per iteration."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                for _ in range(equation.params["length"] if equation.primitive.name == "scan" else 1):
                    yield from equations(getattr(inner, "jaxpr", inner))


def work_of(options) -> Work:
    """Returns the work of a step, from programs for `options.devices`; raises an error if their collectives differ."""
    batch, norms = options.batch[0], norm_layers(options)
    programs = {n: compiled(options, batch, n) for n in options.devices}
    by_devices = {n: collectives(program.as_text(), norms) for n, program in programs.items()}
    located, chain = by_devices[max(by_devices)]
    if others := {c.kind for c in located} - {"all-reduce"}:
        raise RuntimeError(f"the program has {sorted(others)}, which the model does not know")
    if options.local_statistics:  # only the running ones, which no layer waits for, are of all chips
        located = [replace(c, waited_for=False) for c in located]
    sizes = {n: sum(c.size * c.times for c in parts) for n, (parts, _) in by_devices.items()}
    if len(set(sizes.values())) > 1:
        raise RuntimeError(f"bytes of the collectives depend on the number of devices: {sizes}")
    cost = programs[max(by_devices)].cost_analysis()
    net, task = task_of(options)
    params = train.count_parameters(jax.eval_shape(task.init, jax.random.key(0))["params"])
    each, fixed = traffic_of(options)
    analytic = 2 * 3 * summary.count(net, options.size_wh).multiply_adds * batch
    notes = {"compiled_for": list(by_devices), "compiled_batch": batch, "flops_over_analytic": short(cost["flops"] / analytic),
             "xla_bytes_over_ours": short(cost["bytes accessed"] / (each * batch + fixed))}  # fmt: skip
    return Work(params, cost["flops"] / batch, each, fixed, located, chain, notes)


def totals(located: list[Collective]) -> dict:
    """Returns the number of collectives per step, and their bytes, by role."""
    sizes: dict[str, int] = {}
    for c in located:
        for role, size in c.bytes.items():
            sizes[role] = sizes.get(role, 0) + c.times * size
    waited = [c for c in located if c.waited_for]
    return {"collectives": sum(c.times for c in located), "waited_for": sum(c.times for c in waited),
            "kinds": sorted({c.kind for c in located}), "bytes": sizes}  # fmt: skip


def short(x: float) -> float:
    return float(f"{x:.4g}")


def force_host_devices() -> None:
    """Makes JAX emulate several CPU devices; it has no effect once JAX has started."""
    try:
        jax.config.update("jax_num_cpu_devices", HOST_DEVICES)
    except RuntimeError:
        if len(jax.devices("cpu")) < HOST_DEVICES:
            raise RuntimeError(
                "JAX has started with fewer devices than the model compiles for: use a fresh process"
            ) from None
