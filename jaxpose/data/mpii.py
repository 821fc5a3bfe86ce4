"""Former name of `jaxpose.data.formats.mpii`, for scripts that import it."""

from __future__ import annotations

from jaxpose.data.formats.mpii import PERSON_HEIGHT, find, own_skeleton, read

__all__ = ["PERSON_HEIGHT", "find", "own_skeleton", "read"]
