"""One device, eight devices and two processes are the same program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpose import parallel

SCRIPT = Path(__file__).with_name("some_devices.py")


def start(*options: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), *map(str, options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    [line] = [line for line in out.splitlines() if line.startswith("{")]  # Gloo prints to stdout as well, at any time
    return json.loads(line)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_two_processes(*options: object) -> list[dict]:
    address = f"127.0.0.1:{free_port()}"
    processes = [start("--coordinator", address, "--num-processes", 2, "--process-id", i, *options) for i in range(2)]
    return [result(process) for process in processes]


@pytest.mark.slow
@pytest.mark.parametrize(("x64", "steps", "tolerance"), [(False, 10, 1e-5), (True, 100, 1e-8)])
def test_eight_devices_and_two_processes_give_the_losses_of_one_device(x64, steps, tolerance):
    options = ["--steps", steps, *(["--x64"] if x64 else [])]
    one = result(start("--devices", 1, *options))
    eight = result(start("--devices", 8, *options))
    two = run_two_processes("--devices", 2, *options)
    assert (one["devices"], eight["devices"], two[0]["devices"]) == (1, 8, 4)
    assert len(one["losses"]) == steps and len(set(one["losses"])) == steps
    for other in (eight, *two):
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=tolerance)
    assert two[0]["ids"] == two[1]["ids"] == [2**40 + i for i in range(32)]


def test_a_batch_that_cannot_be_split_is_refused_at_the_door():
    mesh = parallel.make_mesh()
    with pytest.raises(ValueError, match="batch_size=0 cannot be split"):
        parallel.check_batch_size(0, mesh)
    parallel.check_batch_size(mesh.size * 3, mesh)


def test_part_of_a_coordinator_is_refused():
    with pytest.raises(ValueError, match="give all three"):
        parallel.start_multihost(coordinator="localhost:1")
    with pytest.raises(ValueError, match=r"process_id=2 is not in 0\.\.1"):
        parallel.start_multihost(coordinator="localhost:1", num_processes=2, process_id=2)


def test_gather_gives_back_what_was_split():
    mesh = parallel.make_mesh()
    local = {"a": np.arange(mesh.size * 6, dtype=np.float32).reshape(-1, 3)}
    split = parallel.global_batch(local, mesh)
    assert split["a"].sharding.is_equivalent_to(parallel.batch_sharding(mesh), 2)
    np.testing.assert_array_equal(parallel.gather(split)["a"], local["a"])


def test_replicate_keeps_the_values():
    mesh = parallel.make_mesh()
    tree = parallel.replicate({"w": np.eye(3, dtype=np.float32)}, mesh)
    assert isinstance(tree["w"], jax.Array) and tree["w"].is_fully_replicated
    np.testing.assert_array_equal(tree["w"], np.eye(3))
