"""The platform that a program is traced for: the one place that layers ask before they choose between two forms of an operation.

A processor and a TPU are quick with different forms of the same arithmetic: on a CPU a 1x1 convolution is quickest as a matrix
product of a flattened map, while a TPU would have to turn the layout of the map for it. A layer that has two forms asks
`platform()` when it is traced. The answer is the backend of JAX, unless a program is made for devices that are not those of
the backend: `jaxpose.train` says so for the mesh that it is given, and `jaxpose.compile` for a topology that is not here.

The choice is made in Python at tracing and not by `jax.lax.platform_dependent`: the program of the platform at hand is then exactly
that of its own form, to the last bit, and is traced once. (Depthwise convolutions also use the latter, for exported programs.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

__all__ = ["platform", "traced_for"]

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


def platform() -> str:
    """Returns the platform that is traced for: "cpu", "gpu" or "tpu".

    >>> with traced_for("tpu"):
    ...     platform()
    'tpu'
    """
    return _PLATFORM.get() or jax.default_backend()


@contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Makes layers that are traced inside choose the forms of a platform.

    Args:
        name: The platform of the devices, `device.platform`: "cpu", "gpu" or "tpu".
    """
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
