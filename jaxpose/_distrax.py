"""Imports distrax without loading TensorFlow. Only `jaxpose.flow` imports this module.

distrax is built on the JAX half ("substrate") of TensorFlow Probability. If TensorFlow is installed, that half imports
it to copy docstrings and signatures, which takes three seconds and prints messages. An ImportError there is expected,
and does no harm. So imports of TensorFlow by this thread fail while distrax is imported (`unimportable`).

The other half of TensorFlow Probability does not expect that: its modules that were loaded meanwhile are removed from
`sys.modules`, so that a later import gets the whole. If either package is loaded already there is nothing to save, and
nothing is done. `tests/test_layering.py` imports TensorFlow and the flow in both orders.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator


class _Refusal:
    """A module finder that refuses a package to one thread; other threads are not affected."""

    def __init__(self, package: str):
        self.package, self.thread = package, threading.get_ident()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"{name} is hidden while distrax is imported", name=name)


@contextlib.contextmanager
def unimportable(package: str) -> Iterator[None]:
    """Makes this thread's imports of a package that is not loaded yet raise ModuleNotFoundError, inside the context.

    >>> with unimportable("this"):
    ...     import this
    Traceback (most recent call last):
    ModuleNotFoundError: this is hidden while distrax is imported
    """
    refusal = _Refusal(package)
    sys.meta_path.insert(0, refusal)
    try:
        yield
    finally:
        sys.meta_path.remove(refusal)


def _loaded(*packages: str) -> set[str]:
    return {name for name in list(sys.modules) if name.partition(".")[0] in packages}


if _loaded("tensorflow", "tensorflow_probability"):
    import distrax
else:
    with unimportable("tensorflow"):
        import distrax
    for _name in _loaded("tensorflow_probability"):
        if ".substrates" not in _name:
            del sys.modules[_name]

__all__ = ["distrax"]
