"""``python -m jaxpose.view``: the tools of `jaxpose view`, of which ``results`` and ``report`` then load no JAX."""

from __future__ import annotations

import sys

import tyro

from jaxpose.view.tools import view

if __name__ == "__main__":
    try:
        tyro.cli(view, prog="python -m jaxpose.view")
    except (ValueError, OSError, ImportError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
