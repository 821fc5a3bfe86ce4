"""Kills a training repeatedly, restarts it each time, and compares its final state with that of an undisturbed run.

    python -m benchmarks.soak                 # 50 kills
    python -m benchmarks.soak --kills 3
    python -m benchmarks.soak --kills 20 --bucket     # into a bucket, beside an undisturbed run on disk; needs "jaxpose[test]"

A tiny run of the main job is started as a separate process. It is killed by SIGKILL or SIGTERM: at a random moment, as soon as
a checkpoint is being written, or while the data set is being prepared, which it then has to repeat. A run that completes is
compared, bit by bit, with one that was never killed, and the next one starts from nothing. Prints a line per kill and one JSON
line: the activity when the signal was sent ("save", "prepare", or anything else: "any") and how the process ended. The bucket is an
emulator in this process, which answers one request of 31 with 503, or cuts the connection within it or before its answer.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jax
import numpy as np
import tyro

from benchmarks.common import device, versions
from jaxpose import buckets, checkpoint

ROOT = Path(__file__).parents[1]
MOMENTS = ("any", "save", "any", "prepare")
TINY = ("--preset", "tiny", "--synthetic-images", "24", "--width", "4", "--resnet-stages", "1", "--likelihood.flow-layers", "2",
        "--size-wh", "24", "32", "--batch-size", "8", "--log-every", "2", "--eval-every", "1000", "--no-plots")  # fmt: skip
LONGEST_S = 900.0  # far above the duration of a run; a checkpoint into the failing bucket takes several seconds


@dataclass(frozen=True)
class Options:
    """How often to kill the run."""

    kills: int = 50
    epochs: int = 60
    """Epochs of the run, of two or three steps each."""
    checkpoint_every: int = 5
    seed: int = 0
    """Seed of the moments and signals."""
    folder: Path | None = None
    """Folder of the runs; None: a temporary folder, removed at the end."""
    bucket: bool = False
    """Kill the run while it trains into a bucket."""


class Bucket:
    """The bucket that the run is killed in, and when a part of a checkpoint was last sent to it."""

    run = "gs://pod/killed/run"

    def __init__(self, server: Any):
        from tests import bucket_server

        self.server, self.last_sent, self.fault = server, 0.0, bucket_server.some(31, "503", "lost", "cut")
        server.fault = self._answer

    def _answer(self, method: str, path: str) -> str | None:
        if method in ("POST", "PUT") and "checkpoints" in unquote(path):
            self.last_sent = time.monotonic()
        return self.fault(method, path)

    def saving(self) -> bool:
        return time.monotonic() - self.last_sent < 0.05

    def clear(self) -> None:
        self.server.storage.wipe(keep_buckets=True)


def start(folder: Path, options: Options, bucket: Bucket | None = None) -> subprocess.Popen:
    """Starts a run into folder/run, or into the bucket, with its data in folder/data."""
    out = bucket.run if bucket else folder / "run"
    command = [sys.executable, "-m", "experiments.coco_rle", "--out", out, "--data-dir", folder / "data", *TINY,
               "--epochs", options.epochs, "--checkpoint-every", options.checkpoint_every, "--cache", folder / "cache"]  # fmt: skip
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


def saving(folder: Path) -> bool:
    """Returns whether a checkpoint is being written."""
    return any("tmp" in path.name for path in (folder / "run" / "checkpoints").glob("*"))


def preparing(folder: Path) -> bool:
    """Returns whether a data set is being prepared: it gets its name when it is complete."""
    try:
        return any("partial" in path.name or "incomplete" in path.name for path in (folder / "data").rglob("*"))
    except FileNotFoundError:  # renamed meanwhile
        return True


def wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Waits until the condition holds, or the process has ended."""
    deadline = time.monotonic() + LONGEST_S
    while process.poll() is None and not condition() and time.monotonic() < deadline:
        time.sleep(0.002)


def end(process: subprocess.Popen) -> str:
    """Waits for the end of the process, and returns what it wrote to stderr; one that does not end is killed, and is an error."""
    try:
        return process.communicate(timeout=LONGEST_S)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"not ended after {LONGEST_S:.0f} s, and killed: {' '.join(process.args)}") from None


def kill(
    folder: Path, options: Options, rng: random.Random, *, moment: str, duration: float, bucket: Bucket | None = None
) -> tuple[str, str, int]:
    """Starts the run and kills it at that moment; returns the signal's name, the activity at that time, and the exit code."""
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    if moment == "prepare":
        shutil.rmtree(folder / "data", ignore_errors=True)
    process = start(folder, options, bucket)
    is_saving = bucket.saving if bucket else partial(saving, folder)
    if moment == "any":
        give_up = time.monotonic() + rng.uniform(0, 0.8 * duration)  # the first run also compiled
        wait_for(process, lambda: time.monotonic() > give_up)
    else:
        under_way, longest = {"save": (is_saving, 0.05), "prepare": (partial(preparing, folder), 1.0)}[moment]
        while process.poll() is None:
            wait_for(process, under_way)
            time.sleep(rng.uniform(0, longest))
            if under_way() or moment == "prepare":  # there is another save later, but no other preparation
                break
    alive = process.poll() is None
    activity = "save" if alive and is_saving() else "prepare" if alive and preparing(folder) else "any"
    process.send_signal(number)
    errors = end(process)
    if process.returncode not in (0, 75, -number):
        raise RuntimeError(
            f"killed by {number.name} at {moment!r}, the run ended with {process.returncode}:\n{errors[-3000:]}"
        )
    return number.name, activity, process.returncode


def finish(folder: Path, options: Options, bucket: Bucket | None = None) -> float:
    """Lets the run complete, and returns the seconds that it took."""
    clock = time.monotonic()
    process = start(folder, options, bucket)
    errors = end(process)
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}:\n{errors[-3000:]}")
    return time.monotonic() - clock


def compare(run: Path | str, whole: Path | str) -> int:
    """Returns the last step; raises an error unless parameters, statistics and flow have the same bits in both runs."""
    (ours, config), (theirs, stored) = (checkpoint.restore_model(path, step="latest") for path in (run, whole))
    if config["step"] != stored["step"]:
        raise ValueError(f"the killed run ends at step {config['step']}, the other at {stored['step']}")
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    return config["step"]


def main(options: Options) -> dict:
    folder = Path(tempfile.mkdtemp()) if options.folder is None else options.folder
    if options.bucket:
        from tests import bucket_server

        with bucket_server.running() as server:
            line = soak(folder, options, Bucket(server))
    else:
        line = soak(folder, options)
    print(json.dumps(line), flush=True)
    if options.folder is None:
        shutil.rmtree(folder)
    return line


def soak(folder: Path, options: Options, bucket: Bucket | None = None) -> dict:
    """Kills runs in a folder, or in a bucket, and returns the line."""
    rng = random.Random(options.seed)
    whole, killed = folder / "whole", folder / "killed"
    run = bucket.run if bucket else killed / "run"
    duration = finish(whole, options)
    ends, compared = Counter(), 0
    for i in range(options.kills):
        moment = MOMENTS[i % len(MOMENTS)]
        name, moment, code = kill(killed, options, rng, moment=moment, duration=duration, bucket=bucket)
        ends[f"{name}, {moment}, exit {code}"] += 1
        saved = buckets.place(run) / "checkpoints"
        steps = [int(p.name) for p in saved.iterdir() if p.name.isdigit()] if saved.exists() else []
        print(
            f"kill {i + 1}: {name} at {moment}, exit {code}, newest checkpoint {max(steps, default='none')}",
            file=sys.stderr,
        )
        if code == 0:  # it had completed already: start the next run
            compare(run, whole / "run")
            compared += 1
            shutil.rmtree(killed)
            if bucket:
                bucket.clear()
    finish(killed, options, bucket)
    step = compare(run, whole / "run")
    return {
        "benchmark": "soak",
        "kills": options.kills,
        "bucket": options.bucket,
        "runs_compared_bit_by_bit": compared + 1,
        "steps": step,
        "ends": dict(ends),
        "seconds_of_a_run": round(duration, 1),
        "device": device(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
