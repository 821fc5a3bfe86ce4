"""Reads MATLAB files of version 5 to 7.2 (`.mat`): the one place that does, and that limits what they inflate to.

MPII's annotations, the Duke scans and the servers' files come in this format. Nothing in such a file is run, but its parts are
compressed: a small file can name gigabytes of zeros. `load` inflates every part once without keeping it, and refuses a file whose
parts are out of proportion to its size, before scipy reads it.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

MOST_TIMES = 200  # all parts together may take this many times the file, ...
FEW_BYTES = 2**28  # ... or this many bytes if that is more
HEADER = 128  # bytes before the first part
COMPRESSED = 15  # the type of a part that zlib has compressed
BLOCK = 2**20


def load(path: str | Path, what: str) -> dict[str, Any]:
    """Reads the arrays of a MATLAB file by name.

    Args:
        path: The file.
        what: What the file should be, to end the sentence "expected ..." in messages.

    Returns:
        What `scipy.io.loadmat` returns.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is of version 7.3, damaged, no MATLAB file, or inflates out of proportion to its size.

    >>> load("absent.mat", "a file of scans such as Subject_01.mat")
    Traceback (most recent call last):
    FileNotFoundError: absent.mat does not exist: expected a file of scans such as Subject_01.mat
    """
    from scipy.io import loadmat  # scipy comes with jax; imported here so that what reads no such file does not need it

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected {what}")
    size = path.stat().st_size
    limit = max(MOST_TIMES * size, FEW_BYTES)
    if inflated_size(path, limit=limit) > limit:
        raise ValueError(f"{path} has {size} bytes and inflates to more than {limit}: expected {what}")
    try:
        return loadmat(path)
    except NotImplementedError:
        raise ValueError(
            f"{path} is a MATLAB file of version 7.3: save it as version 7 (save -v7); expected {what}"
        ) from None
    except Exception as error:  # loadmat raises different errors, depending on the bytes
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{path} is not a MATLAB file ({type(error).__name__}: {reason}): is it complete? Expected {what}"
        ) from None


def inflated_size(path: str | Path, *, limit: int) -> int:
    """Returns the number of bytes that the compressed parts of a MATLAB file inflate to, counted until it exceeds `limit`.

    A damaged part ends the count: reading it fails.

    Args:
        path: The file.
        limit: The number of bytes after which the rest is not counted.
    """
    total = 0
    with open(path, "rb") as file:
        order = ">" if file.read(HEADER)[-2:] == b"MI" else "<"
        while len(tag := file.read(8)) == 8 and total <= limit:
            kind, length = struct.unpack(f"{order}II", tag)
            if kind != COMPRESSED:
                file.seek(length, 1)
                continue
            inflate = zlib.decompressobj()
            left = length
            while left and total <= limit:
                block = file.read(min(BLOCK, left))
                if not block:
                    return total
                left -= len(block)
                while block and total <= limit:
                    try:
                        total += len(inflate.decompress(block, BLOCK))
                    except zlib.error:
                        return total
                    block = inflate.unconsumed_tail
    return total
