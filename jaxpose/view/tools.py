"""The command `jaxpose view` and its five tools."""

from __future__ import annotations

from typing import Annotated, Any

import tyro

from jaxpose.view.compare import compare
from jaxpose.view.data import data
from jaxpose.view.maps import maps
from jaxpose.view.report import report
from jaxpose.view.results import results

__all__ = ["view"]

Tool = (
    Annotated[Any, tyro.conf.subcommand(name="data", constructor=data)]
    | Annotated[Any, tyro.conf.subcommand(name="results", constructor=results)]
    | Annotated[Any, tyro.conf.subcommand(name="maps", constructor=maps)]
    | Annotated[Any, tyro.conf.subcommand(name="report", constructor=report)]
    | Annotated[Any, tyro.conf.subcommand(name="compare", constructor=compare)]
)


def view(tool: Annotated[Tool, tyro.conf.arg(name="")]) -> None:
    """Draw data, predictions next to the truth, a net's maps, or several runs; write an evaluation as one HTML file."""
