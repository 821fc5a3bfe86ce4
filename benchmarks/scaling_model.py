"""What limits data parallelism: a model of the training step on 1 to 1,024 chips, read off the compiled program.

    python -m benchmarks.scaling_model --batch 32 128                          # ResNet-50, bfloat16, TPU v5e and H100
    python -m benchmarks.scaling_model --net hrnet --chip v4 v5p a100 --global-batch 4096            # strong scaling
    python -m benchmarks.scaling_model --local-statistics                      # BatchNorm sees each chip's own rows
    python -m benchmarks.scaling_model --check                                 # the model against what this machine does

Nothing is run: the step is compiled for 2, 4 and 8 forced host devices. From the program come the FLOPs and every collective,
with its bytes, how often it runs and what it carries: gradients, or BatchNorm's statistics and their gradients. Memory traffic is
counted from the trace (`traffic`): XLA's own count is that of the processor's fusions, several times what an accelerator moves.

The prediction is a roofline, max(FLOPs / peak, bytes / bandwidth) at an attainable share of the vendor's peaks, and for every
collective 2 (n-1)/n bytes / bandwidth (inside a node or slice, then between them) and a latency. Each BatchNorm layer waits for
two small all-reduces, one forward and one backward, that hold up what comes after them: a hundred latencies a step and more,
which no overlap hides. The all-reduce of the gradients can hide behind the backward pass. Both ends are printed, without any
overlap and with all of it. Not modelled: stragglers, a busy network, input that falls behind, memory that does not suffice;
and that another backend may merge what this one does not: HRNet-W32 has 478 all-reduces here, though its branches are
independent. `chain` is how many wait for one another. `flops_over_analytic` is a little below 1: nobody needs the gradient by
the image, and XLA leaves out the taps that fall on padding.

Prints a JSON line for the program, one a row, and a table. A model is no measurement: `--check` prints predicted / measured.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import versions
from benchmarks.step_throughput import task_of
from jaxpose import parallel, summary, train

HOST_DEVICES = 8


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
class Options:
    """What to predict."""

    net: Literal["resnet", "hrnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    """Of the ResNet."""
    width: int | None = None
    """Channels of the first layer, or of HRNet's first branch; as published: 64 and 32."""
    size_wh: tuple[int, int] = (192, 256)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch: tuple[int, ...] = (32,)
    """Images a chip."""
    global_batch: int | None = None
    """Strong scaling: images of all chips together, in place of --batch."""
    chip: tuple[Literal["v4", "v5e", "v5p", "v6e", "a100", "h100", "h200"], ...] = ("v5e", "h100")
    chips: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    attainable: float = 0.5
    """Share of the peak FLOP/s and of the memory bandwidth that a step reaches. Not measured: no accelerator was there."""
    attainable_link: float = 0.7
    """Share of the networks' bandwidth that an all-reduce reaches. Not measured."""
    latency: float = 1.0
    """Factor on the latencies of `Chip`, which are assumptions."""
    samples_per_core: float = 477.0
    """Of the input pipeline, for the cores a host needs: benchmarks/RESULTS.md, 2026-11-24, `input_throughput` with coco_mini."""
    local_statistics: bool = False
    """BatchNorm over the rows of each chip (`batch_groups` = chips), as the PyTorch references have it."""
    devices: tuple[int, ...] = (2, 4, 8)
    """Numbers of devices to compile for; the collectives have to be the same."""
    check: bool = False
    """Compare with what this machine does, instead."""


@dataclass(frozen=True)
class Collective:
    """One collective of the program: bytes of its result by what they are, and how often it runs in a step.

    Roles: "gradient", "statistics", "statistics' gradient" (which BatchNorm's own parameters get theirs from), "other".
    """

    kind: str
    bytes: dict[str, int]
    times: int = 1
    waited_for: bool = False
    """Whether the next layer needs it."""
    buffers: int = 1
    """Arrays that it carries: one message on a GPU or TPU, but on CPUs gloo sends one for each."""

    @property
    def size(self) -> int:
        return sum(self.bytes.values())


COLLECTIVE = re.compile(r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(")
ITEM_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}


def collectives(hlo: str, norms: set[str]) -> tuple[list[Collective], int]:
    """Collectives of an optimised program (HLO text), and how many of them wait for one another at the longest.

    A collective in the body of a loop runs as often as the loop's known trip count says.

    Args:
      norms: names of the BatchNorm layers, such as "bn1".

    >>> found, chain = collectives('''
    ... ENTRY %main (p: f32[4]) -> f32[4] {
    ...   %p = f32[4]{0} parameter(0)
    ...   %a = (f32[1,4]{1,0}, f32[1,4]{1,0}) all-reduce(%p, %p), metadata={op_name="jit(step)/jvp(Net)/bn1/reduce_sum"}
    ...   %g = f32[4]{0} get-tuple-element(%a), index=0
    ...   ROOT %b = f32[4]{0} all-reduce(%g), metadata={op_name="jit(step)/transpose(jvp(Net))/conv1/dot_general"}
    ... }''', {"bn1"})
    >>> [c.bytes for c in found], chain
    ([{'statistics': 32}, {'gradient': 16}], 2)
    """
    callers: dict[str, tuple[str, int]] = {}  # computation -> (who calls it, how often a call)
    chains: dict[str, int] = {}
    found: list[tuple[str, Collective]] = []
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
                raise RuntimeError(f"the loop {match[1]} has collectives and nobody knows how often it runs")
            callers[called] = (name, trips)
            own = max(own, trips * chains.get(called, 0))  # in HLO text the callee comes first
        if is_one := COLLECTIVE.search(text):
            shapes = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", text[: is_one.start()])
            if is_one[1] == "all-gather" and is_one[2]:
                shapes = shapes[len(shapes) // 2 :]  # operands, then results
            roles = by_role(shapes, metadata[1] if metadata else "", norms)
            waited_for = any("statistics" in role for role in roles)
            found.append((name, Collective(is_one[1], roles, waited_for=waited_for, buffers=len(shapes))))
            own += 1
        depth[match[1]] = own + max((depth.get(operand, 0) for operand in re.findall(r"%([\w.\-]+)", text)), default=0)
        chains[name] = max(chains[name], depth[match[1]])

    def times(computation: str) -> int:
        caller, trips = callers.get(computation, ("", 1))
        return trips * times(caller) if caller else 1

    return [replace(c, times=times(where)) for where, c in found], chains[name]


def by_role(shapes: list[tuple[str, str]], op_name: str, norms: set[str]) -> dict[str, int]:
    """Bytes of a collective's results by role. XLA names a merged one "prefix(a:b:c)", a name for every result."""
    merged = re.match(r"(.*?/)\((.*:.*)\)$", op_name)
    names = [merged[1] + part for part in merged[2].split(":")] if merged else [op_name]
    if len(names) != len(shapes):
        names = [names[0]] * len(shapes)
    sizes: dict[str, int] = {}
    for (kind, shape), path in zip(shapes, names, strict=True):
        backward = "transpose(" in path
        if path.count("/") > 1 and path.split("/")[-2] in norms:
            role = "statistics' gradient" if backward else "statistics"
        else:
            role = "gradient" if backward else "other"
        sizes[role] = sizes.get(role, 0) + ITEM_BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
    return sizes


@dataclass(frozen=True)
class Work:
    """One step of one chip, as functions of its batch: FLOPs a image, bytes a image and a step, collectives."""

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
    """(optimiser, state, batch) of a step, as shapes."""
    tx = train.optimizer(train.multi_step(1e-3, boundaries=[]))
    mesh = parallel.make_mesh(jax.devices("cpu")[:1])
    state = jax.eval_shape(lambda key: train.init_state(task, tx, key, mesh=mesh), jax.random.key(0))
    width, height = options.size_wh
    shape = jax.ShapeDtypeStruct
    rows = {"image": shape((batch, height, width, 3), jnp.uint8), "joints": shape((batch, 17, 2), jnp.float32),
            "visibility": shape((batch, 17), jnp.int8)}  # fmt: skip
    return tx, state, rows


def compiled(options, batch: int, devices: int):
    """The training step for `devices` host devices with `batch` images each."""
    _, task = task_of(options, batch_groups=devices if options.local_statistics else 1)
    mesh = parallel.make_mesh(jax.devices("cpu")[:devices])
    tx, state, rows = shapes_of(task, options, batch * devices)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return train.make_train_step(task, tx, mesh=mesh).lower(state, rows).compile()


def norm_layers(options) -> set[str]:
    """Names of the modules that keep running statistics."""
    _, task = task_of(options)
    stats = jax.eval_shape(task.init, jax.random.key(0))["batch_stats"]
    return {str(path[-2].key) for path, _ in jax.tree_util.tree_flatten_with_path(stats)[0]}


def traffic(options, batch: int) -> float:
    """Bytes that one device moves in a step, if every elementwise operation is fused into its neighbour.

    A convolution or matrix product, forward or in the gradient, reads its operands and writes its result once: that is read
    off the trace. BatchNorm cannot be fused away, because its sums need the whole map: forward it reads the map for the
    sums, reads it again and writes it normalised; backward it reads map and gradient for the sums, reads both again and
    writes the gradient: 8 passes. Adam reads gradient, parameter and two moments, and writes three: 28 bytes a
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
    """(bytes a image, bytes a step) of `traffic`."""
    two, four = traffic(options, 2), traffic(options, 4)
    return (four - two) / 2, 2 * two - four


def equations(jaxpr):
    """Equations of a trace and of the traces in it; a loop's body as often as it runs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                for _ in range(equation.params["length"] if equation.primitive.name == "scan" else 1):
                    yield from equations(getattr(inner, "jaxpr", inner))


def work_of(options) -> Work:
    """The work of a step, from programs for `options.devices`; raises where their collectives differ."""
    batch, norms = options.batch[0], norm_layers(options)
    programs = {n: compiled(options, batch, n) for n in options.devices}
    seen = {n: collectives(program.as_text(), norms) for n, program in programs.items()}
    kept, chain = seen[max(seen)]
    if others := {c.kind for c in kept} - {"all-reduce"}:
        raise RuntimeError(f"the program has {sorted(others)}, which the model does not know")
    if options.local_statistics:  # only the running ones, which no layer waits for, are of all chips
        kept = [replace(c, waited_for=False) for c in kept]
    sizes = {n: sum(c.size * c.times for c in found) for n, (found, _) in seen.items()}
    if len(set(sizes.values())) > 1:
        raise RuntimeError(f"bytes of the collectives depend on the number of devices: {sizes}")
    cost = programs[max(seen)].cost_analysis()
    net, task = task_of(options)
    params = train.count_parameters(jax.eval_shape(task.init, jax.random.key(0))["params"])
    each, fixed = traffic_of(options)
    analytic = 2 * 3 * summary.count(net, options.size_wh).multiply_adds * batch
    notes = {"compiled_for": list(seen), "compiled_batch": batch, "flops_over_analytic": short(cost["flops"] / analytic),
             "xla_bytes_over_ours": short(cost["bytes accessed"] / (each * batch + fixed))}  # fmt: skip
    return Work(params, cost["flops"] / batch, each, fixed, kept, chain, notes)


def axes(n: int, dimensions: int) -> list[int]:
    """Sides of the torus of n chips: as equal as powers of two let them be.

    >>> axes(256, 2), axes(32, 3)
    ([16, 16], [4, 4, 2])
    """
    doublings = round(math.log2(n))
    return [2 ** (doublings // dimensions + (i < doublings % dimensions)) for i in range(dimensions)]


def all_reduce_s(size: float, n: int, chip: Chip, *, share: float = 1.0, latency: float = 1.0) -> float:
    """Seconds of one all-reduce of `size` bytes over n chips, a power of two: rings inside the node or slice, then between them.

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


def predict(work: Work, chip: Chip, n: int, batch: float, options) -> dict:
    """Seconds of the parts of a step on n chips with `batch` images each."""
    share = options.attainable
    flops_s = work.step_flops(batch) / (getattr(chip, options.dtype) * share)
    bytes_s = work.step_bytes(batch) / (chip.memory * share)
    compute = max(flops_s, bytes_s)
    waited = hidden = 0.0
    for c in work.collectives:
        time = c.times * all_reduce_s(c.size, n, chip, share=options.attainable_link, latency=options.latency)
        waited, hidden = (waited + time, hidden) if c.waited_for else (waited, hidden + time)
    # The backward pass is two thirds of the work.
    return {"bound": "FLOPs" if flops_s > bytes_s else "memory", "compute_s": compute, "statistics_s": waited,
            "gradients_s": hidden, "step_s": compute + waited + hidden,
            "step_overlap_s": compute / 3 + waited + max(2 * compute / 3, hidden)}  # fmt: skip


def rows_of(work: Work, options) -> list[dict]:
    """A row for every chip, batch and number of chips."""
    rows = []
    for name in options.chip:
        chip = CHIPS[name]
        for batch in options.batch if options.global_batch is None else (None,):
            alone = None
            for n in options.chips:
                each = batch or options.global_batch / n
                if each < 1 or each != int(each):
                    continue
                parts = predict(work, chip, n, each, options)
                alone = alone or predict(work, chip, 1, batch or options.global_batch, options)["step_s"]
                ideal = alone if batch else alone / n
                fed = each / parts["step_overlap_s"] * min(n, chip.host_chips)
                rows.append({"chip": name, "chips": n, "batch_per_chip": int(each), "global_batch": int(each * n),
                    "bound": parts["bound"], **{k[:-2] + "_ms": short(1e3 * v) for k, v in parts.items() if k != "bound"},
                    "images_per_s": short(each * n / parts["step_s"]),
                    "images_per_s_overlap": short(each * n / parts["step_overlap_s"]),
                    "efficiency": short(ideal / parts["step_s"]), "efficiency_overlap": short(ideal / parts["step_overlap_s"]),
                    "samples_per_s_per_host": short(fed), "cores_per_host": math.ceil(fed / options.samples_per_core)})  # fmt: skip
    return rows


def totals(found: list[Collective]) -> dict:
    """How many collectives a step runs, and their bytes, by role."""
    sizes: dict[str, int] = {}
    for c in found:
        for role, size in c.bytes.items():
            sizes[role] = sizes.get(role, 0) + c.times * size
    waited = [c for c in found if c.waited_for]
    return {"collectives": sum(c.times for c in found), "waited_for": sum(c.times for c in waited),
            "kinds": sorted({c.kind for c in found}), "bytes": sizes}  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown; times in ms, efficiencies in %, "a / b": without overlap and with all of it."""
    heads = ("chip", "chips", "batch a chip", "compute", "statistics", "gradients", "step", "images/s", "efficiency",
             "samples/s a host", "cores")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in rows:
        lines.append(f"| {r['chip']} | {r['chips']} | {r['batch_per_chip']} | {r['compute_ms']:.3g} ({r['bound']}) | "
            f"{r['statistics_ms']:.3g} | {r['gradients_ms']:.3g} | {r['step_ms']:.3g} / {r['step_overlap_ms']:.3g} | "
            f"{r['images_per_s']:,.0f} / {r['images_per_s_overlap']:,.0f} | {100 * r['efficiency']:.0f} / "
            f"{100 * r['efficiency_overlap']:.0f} % | {r['samples_per_s_per_host']:,.0f} | {r['cores_per_host']} |")  # fmt: skip
    return "\n".join(lines)


def short(x: float) -> float:
    return float(f"{x:.4g}")


def check(options: Options) -> None:
    """Raise a ValueError for what cannot be predicted."""
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


def main(options: Options) -> list[dict]:
    if options.check:
        from benchmarks import scaling_check

        return scaling_check.main(options)
    check(options)
    force_host_devices()
    work = work_of(options)
    kept = {k: v for k, v in asdict(options).items() if k not in ("check", "chip", "chips", "batch", "devices")}
    program = {"benchmark": "scaling_model", "part": "program", **kept, "params": work.params, "chain": work.chain,
               "gflops_per_image": short(work.flops / 1e9), "mb_per_image": short(work.bytes / 1e6),
               "mb_per_step": short(work.bytes_of_step / 1e6), **totals(work.collectives), **work.notes,
               "versions": versions()}  # fmt: skip
    rows = [{"benchmark": "scaling_model", "part": "prediction", **row} for row in rows_of(work, options)]
    for line in (program, *rows):
        print(json.dumps(line))
    print("\n" + table(rows))
    return [program, *rows]


def force_host_devices() -> None:
    """Have JAX pretend to have several processors; without effect once it has looked for devices."""
    try:
        jax.config.update("jax_num_cpu_devices", HOST_DEVICES)
    except RuntimeError:
        if len(jax.devices("cpu")) < HOST_DEVICES:
            raise RuntimeError(
                "JAX has started with fewer devices than the model compiles for: use a fresh process"
            ) from None


if __name__ == "__main__":
    main(tyro.cli(Options))
