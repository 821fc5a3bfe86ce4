"""The chips that a program can be compiled for although they are not here: TPU slices by libtpu, GPUs by JAX's CUDA plugin."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
from jax.experimental import topologies

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published facts of a chip, per device of JAX.

    Attributes:
        memory: The bytes of memory that a program can have.
        clock_ghz: The clock by which estimated cycles become a time; None: not known, or no cycles are estimated.
        gpu: The description of a GPU for its compiler (XLA's GpuTargetConfigProto as text, without the CUDA version); "" for a TPU.
    """

    memory: int
    clock_ghz: float | None = None
    gpu: str = ""


H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""What CUDA says of the SXM module of 80 GB."""
JAX_SHARE = 0.75
"""The share of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""

CHIPS = {
    "v4": Chip(16 * GIB, 1.05),  # half a chip: the compiler shows the two cores of a chip as devices
    "v5e": Chip(16 * GIB, 1.5),
    "v5p": Chip(95 * GIB, 1.75),
    "v6e": Chip(32 * GIB),
    "h100": Chip(int(JAX_SHARE * 84_978_434_048), gpu=H100),
}
"""TPU: peaks and memory of Google Cloud's documentation, 275 TFLOP/s and 32 GiB a chip, 197 and 16, 459 and 95, 918 and 32; the clock
is the one that the peak implies (peak / (2 x 128 x 128 x matrix units))."""

EXAMPLES = "v5e:2x2, v4:2x2x1 or v6e:1x1, or GPUs, h100:1 or h100:8"


def is_gpu(topology: str) -> bool:
    """Tells whether a topology is of GPUs.

    >>> is_gpu("h100:8"), is_gpu("v5e:2x2")
    (True, False)
    """
    return bool((chip := chip_of(topology)) and chip.gpu)


def chip_of(topology: str) -> Chip | None:
    """Returns the facts of a topology's chips; None if they are not known."""
    return CHIPS.get(topology.partition(":")[0])


def topology_devices(topology: str) -> list[jax.Device]:
    """Returns the devices of a TPU slice, or GPUs, for which programs can be compiled, but not run.

    Args:
        topology: Generation and shape: "v5e:4x4"; one chip is "v5e:1x1". Of GPUs their number, "h100:8", or hosts and GPUs of each,
            "h100:4x8".

    Raises:
        ImportError: The compiler is not installed.
        ValueError: There is no such slice.
    """
    name, _, shape = topology.partition(":")
    if name in CHIPS and CHIPS[name].gpu and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", shape):
        return _gpus(topology)
    if not re.fullmatch(r"v\d+[a-z]*:\d+(x\d+){1,2}", topology):
        raise ValueError(f"topology={topology!r}: expected a generation and a shape, such as {EXAMPLES}")
    _require("libtpu", 'the compiler of TPUs, libtpu, is not installed: pip install "jaxpose[tpu-compile]"')
    sides = [int(n) for n in shape.split("x")]
    # Hosts of four chips, as most slices have; a slice of fewer is one host.
    host = [min(side, most) for side, most in zip([*sides, 1, 1], (2, 2, 1))]
    with _no_tpu_here():
        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=topology, chips_per_host_bounds=host
            )
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0].partition(": ")[2] or str(error)
            raise ValueError(
                f"topology={topology!r} is no slice that libtpu knows ({reason}): such as v5e:4x4, v4:2x2x1"
            ) from None
    return list(description.devices)


def _gpus(topology: str) -> list[jax.Device]:
    name, _, shape = topology.partition(":")
    cuda = next((version for version in (13, 12) if importlib.util.find_spec(f"jax_cuda{version}_plugin")), None)
    if cuda is None:
        _require(
            "jax_cuda13_plugin",
            'the compiler of GPUs, JAX\'s CUDA plugin, is not installed: pip install "jaxpose[gpu-compile]"',
        )
    sides = "x".join(["1", *(["1"] if "x" not in shape else []), shape])  # slices, hosts, GPUs of a host
    try:
        description = topologies.get_topology_desc(
            platform="cuda",
            topology_name=sides,
            topology=sides,
            target_config=f"{CHIPS[name].gpu} runtime_version {{ major: {cuda} }}",
        )
    except NotImplementedError:  # the plugin looked for CUDA's libraries, and did not load
        raise ValueError(
            f"topology={topology!r}: JAX's CUDA plugin did not load; where CUDA is not installed, start Python with JAX_PLATFORMS=cpu"
        ) from None
    return list(description.devices)


def _require(module: str, message: str) -> None:
    """Raises an ImportError that says what to install if a compiler is missing."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{message} (Linux x86-64; the chip itself is not needed)")


@contextmanager
def _no_tpu_here() -> Iterator[None]:
    """Lets libtpu load on a machine without a TPU: no metadata server is asked, and no lock file keeps a second process out.

    On a machine with a TPU nothing is changed, because its runtime needs both.
    """
    if os.path.exists("/dev/accel0") or os.path.exists("/dev/vfio/0"):
        yield
        return
    # The last two only keep libtpu from printing that it looked for them.
    settings = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
                "TPU_WORKER_HOSTNAMES": "localhost"}  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update({name: value for name, value in settings.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
