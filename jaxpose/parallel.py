"""One program on many devices: a mesh, shardings, and the exchange of data between one process and all of them.

The batch is split over all devices; parameters are replicated. `jax.jit` sees the global batch, so a mean over the batch,
BatchNorm included, is a mean over every device, and the compiler inserts the all-reduce. The mesh has two axes, `data`
and `fsdp`: each device of an `fsdp` group holds a part of the optimiser's state instead of all of it.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any
LONGEST_MESSAGE = 4096  # bytes of an error message that a process sends to the others
FSDP = "fsdp"  # the mesh axis over which the optimiser's state is split
SMALLEST_SPLIT = 4096  # elements; every convolution of a ResNet-50 is larger, and none of its normalisations
HEARTBEAT_S = 40  # a process without a heartbeat for this time ends the others


def start_multihost(
    *, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of this run; call it once, before any other JAX call.

    Without arguments JAX detects a TPU pod or a SLURM job itself; elsewhere pass all three. On CPUs the
    collectives between processes go through gloo.

    Raises:
        ValueError: Only some of the three arguments are given, or `process_id` is out of range.
    """
    given = [argument is not None for argument in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError(
            f"coordinator={coordinator!r}, num_processes={num_processes}, process_id={process_id}: "
            "give all three, or none of them on a TPU pod or under SLURM"
        )
    if num_processes is not None and not 0 <= process_id < num_processes:
        raise ValueError(f"process_id={process_id} is not in 0..{num_processes - 1}")
    jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_S)


def make_mesh(devices: list[jax.Device] | None = None, *, fsdp: int = 1) -> Mesh:
    """Makes a mesh with the axes `data` and `fsdp` over all devices (of all processes).

    Args:
        devices: The devices; None takes all.
        fsdp: The number of neighbouring devices that share one copy of the optimiser's state (`split_state`); with 1 each
            has its own.

    Raises:
        ValueError: The devices cannot be divided into such groups.

    >>> make_mesh().axis_names
    ('data', 'fsdp')
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        even = ", ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
        raise ValueError(f"fsdp={fsdp} does not divide {len(devices)} devices into groups: choose one of {even}")
    # Rows of the global batch lie in process order, so that host values of a row (ids, affines) can be concatenated by
    # process and still match. `jax.make_mesh` may reorder, and defaults to Explicit axes.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices).reshape(-1, fsdp), ("data", FSDP), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_state(tree: PyTree, mesh: Mesh) -> PyTree:
    """Splits arrays over the axis `fsdp`, inside `jax.jit`, each along the longest dimension that it divides.

    Small arrays, and those without such a dimension, stay whole on every device: each array that is split costs a
    gather in every step. For the optimiser's state this is the first stage of ZeRO (Rajbhandari et al. 2020, section
    5.1).

    >>> traced = jax.make_jaxpr(lambda x: split_state(x, make_mesh()))(np.ones((64, 128)))
    >>> tuple(traced.eqns[0].params["sharding"].spec)
    (None, 'fsdp')
    """
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, state_sharding(x, mesh)), tree)


def state_sharding(x: jax.Array | np.ndarray | jax.ShapeDtypeStruct, mesh: Mesh) -> NamedSharding:
    """Returns the sharding that `split_state` gives an array of this shape.

    >>> [tuple(state_sharding(np.ones(shape), make_mesh()).spec) for shape in ((64, 128), (8, 8))]
    [(None, 'fsdp'), (None, None)]
    """
    parts = mesh.shape.get(FSDP)
    dims = [d for d in range(x.ndim) if parts and x.size >= SMALLEST_SPLIT and x.shape[d] % parts == 0]
    longest = max(dims, key=lambda d: (x.shape[d], d), default=None)
    return NamedSharding(mesh, PartitionSpec(*(FSDP if d == longest else None for d in range(x.ndim))))


def make_whole(tree: PyTree, mesh: Mesh) -> PyTree:
    """Makes arrays whole on every device, inside `jax.jit`; keeps the sharding of later arrays from propagating into them."""
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def device_bytes(tree: PyTree) -> tuple[int, int]:
    """Returns (bytes that each device holds, bytes of the arrays).

    >>> device_bytes(replicate(np.ones(8, np.float32), make_mesh()))
    (32, 32)
    """
    leaves = jax.tree.leaves(tree)
    held = sum(x.addressable_shards[0].data.nbytes for x in leaves)
    return held, sum(x.nbytes for x in leaves)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises an error if a global batch cannot be split evenly over the mesh.

    >>> check_batch_size(8, make_mesh())
    """
    if batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"batch_size={batch_size} cannot be split evenly over {mesh.size} devices: choose a multiple of {mesh.size}"
        )


def global_batch(local: PyTree, mesh: Mesh) -> PyTree:
    """Makes global arrays, split over the devices, from this process's rows of a batch (NumPy)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), local)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Makes arrays that are replicated over the mesh from host values that are the same on every process."""
    sharding = replicated(mesh)

    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def gather(tree: PyTree) -> PyTree:
    """Returns global arrays as whole NumPy arrays on every process, rows in global order."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True)), tree)


def local_rows(tree: PyTree) -> PyTree:
    """Returns the rows of this process, as NumPy, of global arrays that are split over the devices.

    >>> local_rows(global_batch(np.arange(8.0), make_mesh())).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    def rows(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return np.asarray(x)
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(rows, tree)


def gather_host(tree: PyTree) -> PyTree:
    """Gathers every process's NumPy rows on every process, in process order, whatever their dtype."""
    if jax.process_count() == 1:
        return tree

    def gather_one(x: np.ndarray) -> np.ndarray:
        # As bytes, because JAX would cut 64-bit ids to 32 bits.
        rows = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)
        everywhere = np.ascontiguousarray(multihost_utils.process_allgather(rows, tiled=True))
        return everywhere.reshape(-1).view(x.dtype).reshape(-1, *x.shape[1:])

    return jax.tree.map(gather_one, tree)


class Preemption:
    """Tells whether this run is asked to stop, by SIGTERM, which clusters send before they take a machine.

    Use it as a context manager, in the main thread, where it replaces the signal's handler. With several processes JAX
    receives the signal (`jax.distributed`), whichever process gets it, and all stop after the same step.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Preemption:
        self._before = None
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind, value, traceback) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number, frame) -> None:
        self.asked = True

    def reached(self, step: int) -> bool:
        """Tells whether to stop after this step; every process has to call it at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked


def on_first(work: Callable[[], Any]) -> None:
    """Does `work` on process 0, while the others wait; if it fails there, it fails on every process.

    Raises:
        ValueError: Process 0 failed; raised on the other processes, with its message.

    >>> on_first(lambda: print("once"))
    once
    """
    error = None
    if jax.process_index() == 0:
        try:
            work()
        except Exception as caught:
            error = caught
    if jax.process_count() > 1:
        verdict = b"" if error is None else f"{type(error).__name__}: {error}".encode()[:LONGEST_MESSAGE]
        padded = np.frombuffer(verdict.ljust(LONGEST_MESSAGE, b"\0"), np.uint8)
        message = multihost_utils.broadcast_one_to_all(padded).astype(np.uint8).tobytes().rstrip(b"\0")
        if message and error is None:
            raise ValueError(f"process 0 stops: {message.decode(errors='replace')}")
    if error is not None:
        raise error


def from_first(value: Any) -> Any:
    """Sends a value of process 0 to every process.

    Args:
        value: A JSON-able value; those of the other processes are ignored.

    Returns:
        The value of process 0.

    >>> from_first([[10, {"AP": 0.5}]])
    [[10, {'AP': 0.5}]]
    """
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode() if jax.process_index() == 0 else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text.ljust(length, b"\0")[:length], np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(padded).astype(np.uint8).tobytes())


def barrier(name: str) -> None:
    """Waits until every process has reached this point."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
