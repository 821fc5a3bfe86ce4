"""One device, many devices and many processes are the same program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpose import parallel

SCRIPT = Path(__file__).with_name("some_devices.py")


def run(out: Path, *options: object, processes: int = 1) -> Callable[[], list[dict]]:
    """Start the processes; the result waits for them and reads what each wrote (Gloo prints to stdout at any time)."""
    # Without the cache, so that all compile: Gloo gives up on a process that comes 30 seconds after the others.
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    cluster = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", processes] if processes > 1 else []
    files = [out.with_suffix(f".{i}.json") for i in range(processes)]
    commands = [
        [sys.executable, SCRIPT, "--out", file, *options, *cluster, "--process-id", i] for i, file in enumerate(files)
    ]
    started = [
        subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]

    def wait() -> list[dict]:
        for process in started:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-3000:]
        return [json.loads(file.read_text()) for file in files]

    return wait


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> dict:
    return run(tmp_path_factory.mktemp("one") / "one")()[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "fsdp"), [(1, 8, 1), (2, 2, 1), (2, 4, 2), (4, 2, 1), (4, 4, 8)], ids=str
)
def test_any_processes_and_devices_give_the_losses_of_one(tmp_path, one_device, processes, devices, fsdp):
    """`devices` of each process; fsdp=8 groups reach over two processes."""
    everybody = run(tmp_path / "many", "--devices", devices, "--fsdp", fsdp, processes=processes)()
    for found in everybody:
        assert found["devices"] == processes * devices
        assert (min(found["split"]) > 0) == (fsdp > 1)
        for dtype, steps, tolerance in (("float32", 10, 1e-5), ("float64", 100, 1e-8)):
            assert len(set(one_device[dtype])) == steps
            np.testing.assert_allclose(found[dtype], one_device[dtype], rtol=tolerance)
        assert found["ids"] == [2**40 + i for i in range(16)], "in the order of the global batch"


def test_a_batch_that_cannot_be_split_is_refused_at_the_door():
    mesh = parallel.make_mesh()
    with pytest.raises(ValueError, match="batch_size=0 cannot be split"):
        parallel.check_batch_size(0, mesh)
    parallel.check_batch_size(mesh.size * 3, mesh)


def test_groups_that_do_not_come_out_even_are_refused():
    devices = jax.devices()[:1] * 6
    with pytest.raises(ValueError, match="fsdp=4 does not divide 6 devices into groups: choose one of 1, 2, 3, 6"):
        parallel.make_mesh(devices, fsdp=4)
    with pytest.raises(ValueError, match="fsdp=0 does not divide"):
        parallel.make_mesh(devices, fsdp=0)


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
