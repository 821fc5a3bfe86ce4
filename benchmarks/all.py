"""Runs every benchmark, one after another, each in its own process: their JSON lines, and a table of ratios at the end.

    python -m benchmarks.all                   # with each script's defaults, a quarter of an hour or more
    python -m benchmarks.all --quick           # small repeats, three minutes on two cores

The docstring of a script says what it compares. The PyTorch sides need PyTorch (pip install torch), those of detectors torchvision
too. Figures of a quick run are rough.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

# Script -> arguments of a quick run. The soak and the model of scaling are not included, because they measure nothing.
SCRIPTS = {
    "loss_throughput": "--repeats 8",
    "heatmap_throughput": "--batch 64 --repeats 4",
    "grouping_throughput": "--batch 2 --repeats 3",
    "evaluation_time": "--images 1000 --repeats 2",
    "predict_throughput": "--repeats 4",
    "input_throughput": "--turns 3 --batches 3 --memory-samples 0",
    "step_throughput": "--batch 8 --repeats 3 --no-loss-share",
    "detector_throughput": "--depth 18 --short 320 --batch 1 --repeats 3",
}


@dataclass(frozen=True)
class Options:
    """Which benchmarks to run."""

    quick: bool = False
    only: tuple[str, ...] = ()
    """Names of scripts; none: all."""


def run(script: str, arguments: str) -> list[dict]:
    """Returns the JSON lines of one script, printed as they arrive; raises an error if it fails or measures nothing."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments.split()]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for text in process.stdout:
            print(text, end="", flush=True)
            if text.startswith("{"):
                lines.append(json.loads(text))
    if process.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} and {len(lines)} results")
    return lines


def table(results: dict[str, list[dict]], seconds: dict[str, float]) -> str:
    """Returns a Markdown table with a row per result."""
    rows = ["| script | what | median | ratios | time of the script |", "|---|---|---|---|---|"]
    for script, lines in results.items():
        for i, line in enumerate(lines):
            what = [
                f"{k} {line[k]}"
                for k in ("side", "part", "people", "batch", "detections", "boxes", "groups", "regions", "gradient")
                if k in line
            ]
            ratios = [f"{k} {v}" for k, v in line.items() if "ratio" in k or "_over_" in k]
            median = f"{1e3 * line['median_s']:.4g} ms" if "median_s" in line else ""
            took = f"{seconds[script]:.0f} s" if i == 0 else ""
            rows.append(f"| {script if i == 0 else ''} | {', '.join(what)} | {median} | {', '.join(ratios)} | {took} |")
    return "\n".join(rows)


def main(options: Options) -> dict[str, list[dict]]:
    if unknown := set(options.only) - set(SCRIPTS):
        raise ValueError(f"--only {' '.join(sorted(unknown))}: expected some of {', '.join(SCRIPTS)}")
    results, seconds = {}, {}
    for script in options.only or SCRIPTS:
        clock = time.monotonic()
        results[script] = run(script, SCRIPTS[script] if options.quick else "")
        seconds[script] = time.monotonic() - clock
    print("\n" + table(results, seconds) + f"\n\nIn all {sum(seconds.values()):.0f} s.")
    return results


if __name__ == "__main__":
    main(tyro.cli(Options))
