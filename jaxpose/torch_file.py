"""Former name of `jaxpose.weights.torch_file`, for scripts that import it."""

from __future__ import annotations

from jaxpose.weights.torch_file import Inert, Tensor, load

__all__ = ["Inert", "Tensor", "load"]
