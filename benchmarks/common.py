"""Timing and reporting shared by the benchmarks: warm up, alternate the sides, one JSON line each."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

PAUSE_S = 0.2


def seconds(f: Callable[[], object]) -> float:
    """Returns the wall-clock seconds of one call. `f` must block until its result is complete."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def interleave(*functions: Callable[[], object], repeats: int, warmup: int = 1, settle: int = 0) -> list[list[float]]:
    """Times every function `repeats` times in turn, so that a busy machine slows all of them down equally.

    Every turn starts with a pause and `settle` untimed calls: in real use a step follows a step of the same kind, not one
    of another side whose threads keep a core busy for a while and whose data fills the caches.

    >>> a, b = interleave(lambda: None, lambda: None, repeats=3)
    >>> len(a), len(b)
    (3, 3)
    """
    for f in functions:
        for _ in range(warmup):
            f()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for f, record in zip(functions, times, strict=True):
            if settle:
                time.sleep(PAUSE_S)
            for _ in range(settle):
                f()
            record.append(seconds(f))
    return times


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Returns the median over the rounds of `interleave` of theirs / ours: above 1, ours is faster.

    >>> ratio([1.0, 2.0], [2.0, 4.0])
    2.0
    """
    return statistics.median(t / o for o, t in zip(ours, theirs, strict=True))


def report(name: str, times: list[float], **fields) -> dict:
    """Prints one JSON line: the name, the fields, median and spread of `times` in seconds, device and versions.

    `spread_s` is the range from the lower to the upper quartile; `median_s` is over `runs` values.
    """
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    line = {
        "benchmark": name,
        **fields,
        "median_s": _short(statistics.median(times)),
        "spread_s": [_short(quartiles[0]), _short(quartiles[2])],
        "min_s": _short(min(times)),
        "runs": len(times),
        "device": device(),
        "versions": versions(),
    }
    print(json.dumps(line), flush=True)
    return line


def device() -> str:
    """Returns the accelerator that JAX uses, or the CPU and the number of its cores that this process may use."""
    if "jax" in sys.modules:
        import jax

        first = jax.devices()[0]
        if first.platform != "cpu":
            return f"{jax.device_count()} x {first.device_kind}"
    return f"{cores()} cores of {processor()}"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Returns the versions of the numerical packages that this process has imported."""
    names = {"jax": "jax", "flax": "flax", "numpy": "numpy", "torch": "torch", "torchvision": "torchvision", "tensorflow": "tensorflow",
             "cv2": "opencv-python-headless"}  # fmt: skip
    imported = {"python": platform.python_version()}
    for module, distribution in names.items():
        if module in sys.modules:
            try:
                imported[module] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                imported[module] = getattr(sys.modules[module], "__version__", "unknown")
    return imported


def _short(x: float) -> float:
    return float(f"{x:.5g}")
