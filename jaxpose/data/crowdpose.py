"""Former name of `jaxpose.data.formats.crowdpose`, for scripts that import it."""

from __future__ import annotations

from jaxpose.data.formats.crowdpose import find, own_skeleton, read

__all__ = ["find", "own_skeleton", "read"]
