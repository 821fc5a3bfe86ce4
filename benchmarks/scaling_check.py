"""Compares the predictions of the model of scaling with measurements on this machine.

    python -m benchmarks.scaling_check --batch 8         # the same as python -m benchmarks.scaling_model --check --batch 8

Compute: the peaks are those of a large matrix product and of a large elementwise sum, measured here; the model then predicts the
time of a step on one device, and the step is timed. Communication: all-reduces of a few sizes are timed, latency and bandwidth
fitted; the model predicts what they add to the step of a small net, and that step is timed. On a CPU the devices are processes on
loopback (gloo), each bound to one core, and with more processes than cores the compute is scaled by processes / cores; gloo sends
a message for every array of an all-reduce, and each has the latency. On GPU and TPU they are the devices of this process. All
times are the quickest of several, since other work can only add to them; the median of the step stands beside. Prints a JSON line
a part.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.common import cores, device, interleave, seconds, versions
from benchmarks.step_program import Collective, StepOptions, Work, short, traffic_of
from benchmarks.step_throughput import draw, task_of
from jaxpose import parallel, train

SIZES = (2**9, 2**13, 2**17, 2**20, 2**22)  # float32 numbers of an all-reduce
SMALL = {"net": "resnet", "depth": 18, "width": 16, "size_wh": (96, 128), "dtype": "float32", "batch": (8,)}
PROCESSES = (2, 4)


def main(options: StepOptions, *, repeats: int = 5) -> list[dict]:
    """Checks the compute and the communication; `options` may be those of the model, of which only the step's fields are used."""
    on_cpu = jax.default_backend() == "cpu"
    step = {each.name: getattr(options, each.name) for each in dataclasses.fields(StepOptions)}
    options = StepOptions(**step | {"local_statistics": False})
    if on_cpu:
        options = dataclasses.replace(options, dtype="float32")  # processors emulate bfloat16
    lines = [emit(check_compute(options, repeats=repeats))]
    small = dataclasses.replace(options, **SMALL) if on_cpu else options
    work = work_apart(small)
    counts = PROCESSES if on_cpu else [2**i for i in range(1, 11) if 2**i <= jax.device_count()]
    if counts:
        run = on_loopback if on_cpu else in_process
        runs = {n: run(n, small, repeats) for n in (1, *counts)}
        lines += [emit(line) for line in check_communication(work, runs, small, on_cpu=on_cpu)]
    return lines


def emit(line: dict) -> dict:
    print(json.dumps({"benchmark": "scaling_model", **line, "device": device(), "versions": versions()}), flush=True)
    return line


def check_compute(options: StepOptions, *, repeats: int) -> dict:
    """Returns the line of the step on one device: roofline with the measured peaks, at full share, over the measured time."""
    batch = options.batch[0]
    flops, moved = peaks(jnp.dtype(options.dtype), repeats=repeats)
    each, fixed = traffic_of(options)
    compiled, step = step_on(jax.devices()[:1], options)
    [times] = interleave(step, repeats=repeats, settle=1)
    measured = min(times)
    cost = compiled.cost_analysis()
    parts = {"FLOPs": cost["flops"] / flops, "memory": (each * batch + fixed) / moved}
    return {"part": "compute", "net": options.net, "dtype": options.dtype, "batch": batch,
            "gflop_per_s": short(flops / 1e9), "gb_per_s": short(moved / 1e9),
            "bound": max(parts, key=parts.get), "predicted_s": short(max(parts.values())),
            "with_bytes_of_xla_s": short(max(parts["FLOPs"], cost["bytes accessed"] / moved)),
            "measured_s": short(measured), "measured_median_s": short(float(np.median(times))),
            "predicted_over_measured": short(max(parts.values()) / measured)}  # fmt: skip


def peaks(dtype: jnp.dtype, *, repeats: int) -> tuple[float, float]:
    """Returns (FLOP/s of a large product, bytes/s of a large elementwise sum) of one device."""
    n, size = (2048, 2**25) if jax.default_backend() == "cpu" else (8192, 2**28)
    a, x = jnp.ones((n, n), dtype), jnp.ones(size, jnp.float32)
    # In place, because a CPU spends most of the time for a new array on allocating its memory.
    product, add = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1, donate_argnums=0)

    def add_one() -> None:
        nonlocal x
        x = add(x).block_until_ready()

    best = [
        min(times)
        for times in interleave(lambda: product(a).block_until_ready(), add_one, repeats=2 * repeats, warmup=2)
    ]
    return 2 * n**3 / best[0], 2 * x.nbytes / best[1]


def check_communication(work: Work, runs: dict[int, dict], options, *, on_cpu: bool) -> list[dict]:
    """Returns a line per number of devices."""
    lines = []
    for n, run in runs.items():
        if n == 1:
            continue
        sizes, times = 4.0 * np.array(SIZES), np.array(run["all_reduce_s"])
        slope, latency = np.polyfit(sizes, times, 1, w=1 / times)
        latency = max(latency, 0.0)
        compute = runs[1]["step_s"] * (max(1, n / cores()) if on_cpu else 1)
        parts = [c.times * ((c.buffers if on_cpu else 1) * latency + slope * c.size) for c in work.collectives]
        waited = sum(part for part, c in zip(parts, work.collectives, strict=True) if c.waited_for)
        predicted = compute + sum(parts)
        lines.append({"part": "communication", "devices": n, "of": "processes" if on_cpu else "devices",
            "batch_per_device": options.batch[0], "all_reduce_ms": [short(1e3 * t) for t in times],
            "sizes_bytes": [int(size) for size in sizes], "latency_us": short(1e6 * latency),
            "gb_per_s": short(2 * (n - 1) / n / slope / 1e9), "compute_ms": short(1e3 * compute),
            "collectives": sum(c.times for c in work.collectives),
            "buffers": sum(c.times * c.buffers for c in work.collectives), "statistics_ms": short(1e3 * waited),
            "gradients_ms": short(1e3 * (sum(parts) - waited)), "predicted_ms": short(1e3 * predicted),
            "measured_ms": short(1e3 * run["step_s"]), "measured_median_ms": short(1e3 * run["step_median_s"]),
            "predicted_over_measured": short(predicted / run["step_s"]),
            # The computation of n processes on fewer cores may take less than n / cores times as long.
            "added_predicted_over_measured": short(sum(parts) / (run["step_s"] - compute))
            if run["step_s"] > compute else None})  # fmt: skip
    return lines


def step_on(devices: list[jax.Device], options) -> tuple[Any, Any]:
    """Returns the compiled step, and a function that makes one step and blocks."""
    mesh = parallel.make_mesh(devices)
    _, task = task_of(options)
    tx = train.optimizer(train.multi_step(1e-3, boundaries=[]))
    state = train.init_state(task, tx, jax.random.key(0), mesh=mesh)
    share = options.batch[0] * mesh.size // jax.process_count()
    pool = [parallel.global_batch(draw(options, share, seed), mesh) for seed in range(4)]
    compiled = train.make_train_step(task, tx, mesh=mesh).lower(state, pool[0]).compile()
    steps = 0

    def step() -> None:
        nonlocal state, steps
        state, metrics = compiled(state, pool[steps % len(pool)])
        steps += 1
        jax.block_until_ready((state, metrics))

    return compiled, step


def measure(devices: list[jax.Device], options, repeats: int, *, ready: Callable[[], None] = lambda: None) -> dict:
    """Returns the shortest of several times in seconds: one all-reduce of every size, and a step; also the median of the step.

    `ready` is called when everything is compiled, before the first collective.
    """
    mesh = parallel.make_mesh(devices)
    _, step = step_on(devices, options)
    ready()
    for _ in range(3):
        step()
    times = [seconds(step) for _ in range(4 * repeats)]
    reduced = [all_reduce(mesh, size, repeats) for size in SIZES] if mesh.size > 1 else []
    return {"all_reduce_s": reduced, "step_s": min(times), "step_median_s": float(np.median(times))}


def all_reduce(mesh: Mesh, size: int, repeats: int, *, chain: int = 9) -> float:
    """Returns the seconds of one all-reduce among several of a program, without the cost of the call itself."""

    def program(times: int):
        def body(x):
            for _ in range(times):
                x = jax.lax.psum(x, "data") / mesh.size
            return x

        rows = PartitionSpec("data")
        return jax.jit(jax.shard_map(body, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False))

    x = jax.jit(lambda: jnp.ones((mesh.size, size)), out_shardings=NamedSharding(mesh, PartitionSpec("data")))()
    one, many = program(1), program(chain)
    calls = [lambda f=f: f(x).block_until_ready() for f in (one, many)]
    few, more = (min(times) for times in interleave(*calls, repeats=4 * repeats, warmup=2))
    return max((more - few) / (chain - 1), 1e-9)


def in_process(n: int, options, repeats: int) -> dict:
    return measure(jax.devices()[:n], options, repeats)


def on_loopback(n: int, options, repeats: int) -> dict:
    """Runs `measure` in n processes, each bound to a core; the slowest of them counts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys, json; from benchmarks import scaling_check; scaling_check.worker(**json.loads(sys.argv[1]))"
    given = {"n": n, "port": port, "repeats": repeats, "options": dataclasses.asdict(options)}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    started = [
        subprocess.Popen([sys.executable, "-c", code, json.dumps({**given, "index": i})], **pipes) for i in range(n)
    ]
    try:
        # gloo gives up on a process that is still compiling after half a minute, so they start together.
        if not all(any(line == "ready\n" for line in process.stdout) for process in started):
            raise RuntimeError(f"a process of {n} ended before it was ready; its message stands above")
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise RuntimeError(f"a process of {n} failed: {[process.returncode for process in started]}")
    results = [json.loads(next(line for line in o.splitlines() if line.startswith('{"all'))) for o in outputs]
    return {key: np.max([one[key] for one in results], 0).tolist() for key in results[0]}


def worker(*, n: int, index: int, port: int, repeats: int, options: dict) -> None:
    """Runs one of n processes; prints its measurements."""
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[index % len(usable)]})
    if n > 1:
        parallel.start_multihost(coordinator=f"127.0.0.1:{port}", num_processes=n, process_id=index)

    def ready() -> None:
        print("\nready", flush=True)
        sys.stdin.readline()

    try:
        results = measure(jax.devices(), StepOptions(**options), repeats, ready=ready)
    except Exception:
        traceback.print_exc()
        os._exit(1)  # an orderly exit would wait for the others, which wait for this one
    print("\n" + json.dumps(results), flush=True)


def work_apart(options) -> Work:
    """Runs `step_program.work_of` in a separate process, in which JAX has as many devices as the model compiles for."""
    code = (
        "import sys, json; from benchmarks import step_program as m; m.force_host_devices(); "
        "work = m.work_of(m.StepOptions(**json.loads(sys.argv[1]))); import dataclasses; "
        "print('\\n' + json.dumps({'work': dataclasses.asdict(work)}))"
    )
    given = json.dumps(dataclasses.asdict(dataclasses.replace(options, devices=(2,))))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, given], stdout=subprocess.PIPE, env=environment, text=True, check=True
    )
    work = json.loads(done.stdout.splitlines()[-1])["work"]
    collectives = [Collective(**c) for c in work.pop("collectives")]
    return Work(**work, collectives=collectives)


if __name__ == "__main__":
    main(tyro.cli(StepOptions))
